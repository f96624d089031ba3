"""What comes to the port for far Vnics and is not what a library says: it costs a bounded amount, and itself alone."""

from __future__ import annotations

import random
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from layer8.dataplane import LAYOUT_VERSION, SwitchPort, segment_bytes
from layer8.protocol import mirror
from layer8.protocol.mirror import (
    FRAME,
    MIRROR_VERSION,
    Alive,
    AnyMessage,
    Begin,
    Begun,
    Bound,
    Continue,
    End,
    Segment,
    encode,
)
from layer8.security.provider import TlsRole
from layer8.security.x509 import X509Provider
from layer8.testing import Overlay, RunningVnet, make_overlay, running_vnet
from layer8.vnet.far_vnics import account_of

from .conftest import PATIENCE

RING = 512 << 10


class Stranger:
    """A connection of its own to the port, with or without a certificate that is good."""

    def __init__(self, place: str, identity: str) -> None:
        host, _, port = place.rpartition(":")
        context = X509Provider(Path(identity)).tls(TlsRole.DIAL)
        context.set_alpn_protocols([mirror.ALPN_VNIC])
        plain = socket.create_connection((host, int(port)), PATIENCE)
        self.tls = context.wrap_socket(plain)
        self._came = b""

    def send(self, data: bytes) -> None:
        self.tls.sendall(data)

    def say(self, message: AnyMessage) -> None:
        self.send(encode(message))

    def hear(self) -> AnyMessage:
        """The next message; other frames are passed over. EOFError at the end."""
        while True:
            while len(self._came) >= FRAME.size:
                length, kind = FRAME.unpack_from(self._came)
                if len(self._came) < 4 + length:
                    break
                body, self._came = self._came[FRAME.size : 4 + length], self._came[4 + length :]
                if kind == mirror.MESSAGE:
                    return mirror.decode(body)
            try:
                data = self.tls.recv(65536)
            except (ConnectionError, ssl.SSLError):
                data = b""
            if not data:
                raise EOFError
            self._came += data

    def begin(self) -> Begun:
        self.say(Begin())
        answer = self.hear()
        assert isinstance(answer, Begun)
        return answer

    def is_ended(self) -> bool:
        """Waits for the end."""
        try:
            while True:
                self.hear()
        except EOFError:
            return True

    def close(self) -> None:
        self.tls.close()


class Port:
    def __init__(self, overlay: Overlay, stack: ExitStack, config: dict[str, object]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.place = f"127.0.0.1:{probe.getsockname()[1]}"
        self.overlay = overlay
        self._stack = stack
        settings = {"security": "x509", "identity": overlay.vnet(), "listen": self.place, "far_alive": 0.2, **config}
        self.vnet: RunningVnet = stack.enter_context(running_vnet(config=settings))

    def stranger(self, name: str = "stranger") -> Stranger:
        stranger = Stranger(self.place, self.overlay.vnic(name))
        self._stack.callback(stranger.close)
        return stranger

    def works(self) -> bool:
        """A well-behaved one is let in still."""
        stranger = self.stranger("other")
        stranger.begin()
        stranger.close()
        return True


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    return make_overlay(tmp_path_factory.mktemp("overlay"))


@pytest.fixture
def make_port(overlay: Overlay) -> Iterator[Callable[..., Port]]:
    with ExitStack() as stack:
        yield lambda **config: Port(overlay, stack, config)


def segment(**changes: object) -> Segment:
    values: dict[str, object] = {"uuid": uuid4(), "ring_bytes": RING, "used": False}
    return Segment(**{**values, "received": 0, "head": 0, "tail": 0, **changes})  # type: ignore[arg-type]


def frame(kind: int, body: bytes, length: int | None = None) -> bytes:
    return FRAME.pack(len(body) + 1 if length is None else length, kind) + body


def test_what_is_not_said_in_order_ends_that_connection_alone(make_port: Callable[..., Port]) -> None:
    port = make_port()
    first = [
        b"\x00" * 64,
        b"GET / HTTP/1.1\r\n\r\n" * 10,
        frame(0, b"", length=0),
        frame(0, b"", length=1 << 31),
        frame(mirror.SOCKET, bytes(9)),
        frame(16, bytes(8 + 64)),
        frame(0, bytes(mirror.MESSAGE_BYTES + 1)),
        frame(0, b"\xc1"),
        encode(Alive(received=0)),
        encode(segment()),
        encode(Begin(version=2)),
        encode(Continue(session=b"x" * 16, secret=b"y" * 32, received=0)),
    ]
    for data in first:
        stranger = port.stranger()
        stranger.send(data)
        assert stranger.is_ended(), data
    assert port.works()


def test_what_is_not_said_in_order_later_ends_that_session_alone(make_port: Callable[..., Port]) -> None:
    port = make_port()
    later = [
        encode(Begin()),
        encode(Bound(received=0, fresh=True)),
        encode(Alive(received=1)),
        frame(16, bytes(8 + 64)),  # rings, without having been attached
        frame(17, bytes(16)),
        frame(18, bytes(4 + 64)),
        frame(mirror.SOCKET, bytes(8)),
        frame(mirror.SOCKET, b"\x01" + bytes(8)),
        frame(mirror.SOCKET, bytes(8 + mirror.SOCKET_BYTES + 1)),
        frame(mirror.SOCKET_DESCRIPTORS, bytes(9)),
        frame(9, b"x"),
        encode(segment()) * 2,
        encode(segment()) + frame(16, bytes(8 + 64)),
    ]
    for data in later:
        stranger = port.stranger()
        stranger.begin()
        stranger.send(data)
        assert stranger.is_ended(), data
    assert port.works()


def test_impossible_segments_are_refused_with_a_reason(make_port: Callable[..., Port]) -> None:
    port = make_port(max_ring_bytes=1 << 20)
    for wrong in (2 << 20, 1 << 62, 12345, 0, -1):
        stranger = port.stranger()
        stranger.begin()
        stranger.say(segment(ring_bytes=wrong))
        answer = stranger.hear()
        assert isinstance(answer, End)
        assert answer.code in ("limit", "invalid")
        assert stranger.is_ended()
    assert port.works()


def test_who_speaks_of_another_layout_or_protocol_is_told_what_to_do(make_port: Callable[..., Port]) -> None:
    port = make_port()
    stranger = port.stranger()
    stranger.begin()
    stranger.say(segment(layout=LAYOUT_VERSION + 1))
    answer = stranger.hear()
    assert isinstance(answer, End)
    assert answer.code == "layout"
    assert "restart the Vnet with the newer layer8" in answer.text
    stranger = port.stranger()
    stranger.say(Begin(version=MIRROR_VERSION - 1))
    answer = stranger.hear()
    assert isinstance(answer, End)
    assert answer.code == "version"
    assert "restart this program with the newer library" in answer.text
    assert port.works()


def test_random_bytes_end_that_connection_alone(make_port: Callable[..., Port]) -> None:
    port = make_port(attach_timeout=1.0)
    chance = random.Random(7)
    for number in range(20):
        stranger = port.stranger()
        if number % 2:
            stranger.begin()
        stranger.send(chance.randbytes(chance.randrange(1, 5000)))
        assert stranger.is_ended()
    assert port.works()


def test_who_says_nothing_is_dropped(make_port: Callable[..., Port]) -> None:
    port = make_port(attach_timeout=0.5)
    silent, begun = port.stranger(), port.stranger()
    begun.begin()
    assert silent.is_ended()
    assert begun.is_ended()
    assert port.works()


def test_those_who_are_not_attached_are_bounded(make_port: Callable[..., Port], until: Callable[..., None]) -> None:
    port = make_port(pending_per_uid=4, attach_timeout=20.0)
    strangers = []
    for _ in range(4):
        strangers.append(port.stranger())
        strangers[-1].begin()
    one_more = port.stranger()
    one_more.say(Begin())
    assert one_more.is_ended()
    assert port.works()  # another principal has its own
    strangers[0].close()

    def is_let_in() -> bool:
        stranger = port.stranger()
        try:
            stranger.begin()
        except (EOFError, ConnectionError, ssl.SSLError):
            return False
        finally:
            stranger.close()
        return True

    until(is_let_in, "a place is free again")


def test_memory_for_segments_is_bounded_before_anybody_is_attached(
    make_port: Callable[..., Port], until: Callable[..., None]
) -> None:
    port = make_port(bytes_per_uid=3 * segment_bytes(RING), attach_timeout=30.0)
    state = port.vnet.socket.with_name("default.state")
    for number in range(1, 4):
        stranger = port.stranger()
        stranger.begin()
        stranger.say(segment())
        until(lambda: len(list(state.glob("*.new"))) == number, "its mirror was made")  # noqa: B023
    one_more = port.stranger()
    one_more.begin()
    one_more.say(segment())
    while isinstance(answer := one_more.hear(), Alive):
        pass
    assert isinstance(answer, End)
    assert "bytes_per_uid" in answer.text


def test_nothing_is_left_of_who_was_not_let_in(make_port: Callable[..., Port], until: Callable[..., None]) -> None:
    port = make_port()
    state = port.vnet.socket.with_name("default.state")
    stranger = port.stranger()
    stranger.begin()
    stranger.say(segment())
    until(lambda: list(state.glob("*.new")), "a mirror was made")
    stranger.close()
    until(lambda: not list(state.iterdir()), "and is gone")


def test_a_stranger_cannot_go_on_with_anothers_session(make_port: Callable[..., Port]) -> None:
    port = make_port()
    first = port.stranger()
    begun = first.begin()
    for secret, name in ((b"x" * 32, "stranger"), (begun.secret, "other")):
        second = port.stranger(name)
        second.say(Continue(session=begun.session, secret=secret, received=0))
        answer = second.hear()
        assert isinstance(answer, End)
        assert answer.code == "stale"
    assert select.select([first.tls], [], [], 0)[0] == [] or isinstance(first.hear(), Alive)


def test_the_account_is_the_name_in_the_certificate(overlay: Overlay) -> None:
    provider = X509Provider(Path(overlay.vnic("named")))
    der = ssl.PEM_cert_to_DER_cert(_pem(Path(overlay.vnic("named"))))
    assert account_of(der) == str(provider.identity.uri)
    assert account_of(b"nonsense").startswith("certificate ")
    assert account_of(None) == "nobody"


def _pem(directory: Path) -> str:
    text = (directory / "identity.pem").read_text()
    return text[text.index("-----BEGIN CERTIFICATE") :]


def test_a_mirror_that_is_no_segment_is_not_adopted(tmp_path: Path) -> None:
    path = tmp_path / "a.mirror"
    path.write_bytes(bytes(2 << 20))
    with path.open("r+b") as file, pytest.raises(ValueError):
        SwitchPort(file.fileno(), UUID(int=1), 1, adopt=True, own_file=True)


def test_time_is_not_wasted_on_who_begins_and_goes(make_port: Callable[..., Port], until: Callable[..., None]) -> None:
    port = make_port()
    assert port.vnet.pid is not None
    tasks = Path(f"/proc/{port.vnet.pid}/task")
    before = len(list(tasks.iterdir()))
    for _ in range(20):
        stranger = port.stranger()
        stranger.begin()
        stranger.close()
    until(lambda: len(list(tasks.iterdir())) <= before + 4, "their threads have ended")
