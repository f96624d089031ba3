"""An adjacent Vnet with a good certificate and bad intentions, by hand: it can lose its link, and nothing else."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from layer8.dataplane import Flag, Kind, Reason, Target
from layer8.health_record import HealthRecord, State
from layer8.protocol import link_messages
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.link import LinkHandshake, LinkRefusal, Self
from layer8.protocol.link_messages import Bye, Entry, Linked, Open, Part, body, frame, linked
from layer8.protocol.statement import Channel
from layer8.security import certificates
from layer8.security.binding import tls_binding
from layer8.security.provider import TlsRole
from layer8.security.x509 import X509Provider
from layer8.vnet.tls_port import ALPN_LINK, ALPN_VNIC

Until = Callable[[Callable[[], object], str], None]
PATIENCE = 60.0
RECORD, OUTCOMES = 1, 2


class Evil:
    """A link spoken by hand. `uuid`: of the Vnet that it plays."""

    def __init__(self, address: str, identity: str, alpn: str = ALPN_LINK) -> None:
        self.provider = X509Provider(Path(identity))
        host, _, port = address.rpartition(":")
        context = self.provider.tls(TlsRole.DIAL)
        context.set_alpn_protocols([alpn])
        self.tls = context.wrap_socket(socket.create_connection((host, int(port)), PATIENCE))
        self.uuid = uuid4()
        self.frames: list[tuple[int, bytes]] = []

    def close(self) -> None:
        self.tls.close()

    def handshake(self) -> LinkHandshake:
        own = Self(overlay="shop", vnet=self.uuid, epoch=time.time_ns(), name="evil", host="evil")
        seen = Channel(certificate=self.tls.getpeercert(binary_form=True), text="the victim")
        machine = LinkHandshake(self.provider, own, dials=True, binding=tls_binding(self.tls), seen=seen)
        messages = machine.start()
        while True:
            for message in messages:
                self.tls.sendall(frame(body(message)))
            if machine.state.name == "DONE":
                return machine
            kind, data = self.read()
            assert kind == 0
            messages = machine.receive(link_messages.handshake(data), data)
            if machine.state.name == "PROVED":
                messages = [machine.proceed(1, 1)]

    def read(self) -> tuple[int, bytes]:
        """Type and content of the next frame. EOFError at the end."""
        length = int.from_bytes(self._exactly(4), "little")
        data = self._exactly(length)
        return data[0], data[1:]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.tls.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def say(self, message: Linked) -> None:
        self.tls.sendall(frame(body(message)))

    def claim(self, *records: HealthRecord, identity: str = "") -> None:
        """Says that these are all who live here, believed for the certificate of `identity`."""
        credential = ""
        if identity:
            leaf = certificates.certificate_from_pem((Path(identity) / "identity.pem").read_bytes())
            credential = f"{leaf.issuer.public_bytes().hex()} {leaf.serial_number:x}"
        entries = tuple(msgspec.Raw(msgspec.msgpack.encode(Entry(record, credential))) for record in records)
        self.say(Part(sequence=1, number=0, last=True, entries=entries))
        self.say(Open())

    def record(self, source: UUID, destination: UUID, payload: bytes, tag: int = 1) -> None:
        header = struct.pack(
            "<IBBHHHHH16sQQHHIII",
            len(payload), Kind.UNICAST, Flag.FIRST | Flag.LAST, 0, 1, 1, 0, 0, source.bytes, tag, 0, 0, 1, 0, 0, 0,
        )  # fmt: skip
        content = struct.pack("<BH", Target.PORT, 0) + struct.pack("<Q16s", tag, destination.bytes) + header + payload
        self.tls.sendall((len(content) + 1).to_bytes(4, "little") + bytes([RECORD]) + content)

    def until_outcome(self) -> int:
        """The reason of the first outcome."""
        while True:
            kind, data = self.read()
            if kind == OUTCOMES:
                reason: int = struct.unpack_from("<QIH", data, 3)[2]
                return reason

    def farewell(self) -> Bye | None:
        """What it says before it closes."""
        last = None
        with suppress(EOFError, ConnectionError, ssl.SSLError):
            while True:
                kind, data = self.read()
                if kind == 0 and data and isinstance(message := linked(data), Bye):
                    last = message
        return last


def vnic_record(uuid: UUID, principal: str = "layer8://shop/vnic/app") -> HealthRecord:
    return HealthRecord(uuid=uuid, alias="spy", host="evil", vnet="evil", principal=principal, started=time.time())


@pytest.fixture
def victim(near_hosts: Any) -> Any:
    """A Vnet "a" linked with "b"."""
    near_hosts.mesh("a", "b")
    return near_hosts


@pytest.fixture
def evil(victim: Any) -> Iterator[Evil]:
    with closing(Evil(victim.address("a"), victim.overlay.vnet("evil"))) as evil:
        yield evil


def is_well(hosts: Any) -> None:
    """The link between the others stands, and records cross it."""
    near, far = hosts.vnic("a"), hosts.vnic("b", "store")
    near.find("store", timeout=PATIENCE)
    near.send("store", b"well")
    assert far.receive(timeout=PATIENCE).payload == b"well"


def test_a_record_for_a_vnic_here_arrives_and_one_for_another_host_is_not_forwarded(victim: Any, evil: Evil) -> None:
    here, there = victim.vnic("a"), victim.vnic("b")
    here.find(there.uuid, timeout=PATIENCE)
    evil.handshake()
    spy = uuid4()
    evil.claim(vnic_record(spy), identity=victim.overlay.vnic())
    evil.record(spy, here.uuid, b"hello", tag=1)
    assert here.receive(timeout=PATIENCE).payload == b"hello"
    assert evil.until_outcome() == 0
    evil.record(spy, there.uuid, b"pass it on", tag=2)
    assert evil.until_outcome() != 0
    here.send(there.uuid, b"after")
    assert there.receive(timeout=PATIENCE).payload == b"after"
    assert there.try_receive() is None
    is_well(victim)


def test_a_record_of_one_whose_certificate_is_not_shown_is_refused(victim: Any, evil: Evil) -> None:
    here = victim.vnic("a")
    evil.handshake()
    spy = uuid4()
    evil.claim(vnic_record(spy))
    evil.record(spy, here.uuid, b"believe me")
    assert evil.until_outcome() == Reason.REVOKED
    assert here.try_receive() is None


def test_a_record_whose_sender_does_not_live_there_closes_the_link(victim: Any, evil: Evil) -> None:
    here, there = victim.vnic("a"), victim.vnic("b")
    here.find(there.uuid, timeout=PATIENCE)
    evil.handshake()
    evil.claim()
    evil.record(there.uuid, here.uuid, b"in the name of another")
    farewell = evil.farewell()
    assert farewell is not None
    assert "does not live there" in farewell.text
    assert here.try_receive() is None
    is_well(victim)


def test_a_vnet_may_not_claim_whom_it_may_not_host(victim: Any, evil: Evil, until: Until) -> None:
    here = victim.vnic("a")
    evil.handshake()
    evil.claim(
        HealthRecord(uuid=uuid4(), kind="vnet", host="b", vnet="b"),  # another Vnet's place
    )
    farewell = evil.farewell()
    assert farewell is not None
    assert farewell.code == "violation"
    assert {record.host for record in here.health(kind="vnet")} == {"a", "b"}
    is_well(victim)


def test_a_vnic_that_lives_here_stays_as_it_is_whatever_others_claim(victim: Any, evil: Evil, until: Until) -> None:
    here = victim.vnic("a", "store")
    evil.handshake()
    mark = uuid4()
    evil.claim(vnic_record(here.uuid), vnic_record(mark))
    until(lambda: here.health(uuid=mark), "the claim was read")
    (own,) = here.health(uuid=here.uuid)
    assert (own.host, own.alias, own.state) == ("a", "store", State.UP)


@pytest.mark.parametrize(
    "said",
    [
        b"\0" * 64,
        b"\xff" * 64,
        (0).to_bytes(4, "little") + b"\0",
        (1 << 20).to_bytes(4, "little") + b"\1" + bytes(100),
        (200).to_bytes(4, "little") + b"\7" + bytes(199),
        (60).to_bytes(4, "little") + b"\1" + bytes(59),
        frame(b"\x81\xa1t\xa5delta"),
        frame(b"not msgpack at all"),
        (20).to_bytes(4, "little") + b"\2" + bytes(19),
    ],
)
def test_garbage_on_a_link_closes_that_link_alone(victim: Any, evil: Evil, said: bytes) -> None:
    evil.handshake()
    evil.tls.sendall(said)
    evil.farewell()  # it ends
    is_well(victim)


def test_a_link_that_is_cut_in_the_middle_of_a_frame_harms_nobody(victim: Any, evil: Evil) -> None:
    evil.handshake()
    evil.tls.sendall((100).to_bytes(4, "little") + b"\1" + bytes(10))
    evil.close()
    is_well(victim)


def test_another_version_and_garbage_in_the_handshake_are_refused(victim: Any) -> None:
    for said in (b"GET / HTTP/1.1\r\n\r\n", frame(b"nonsense"), (9999).to_bytes(4, "little") + b"\0" + bytes(9998)):
        with closing(Evil(victim.address("a"), victim.overlay.vnet("evil"))) as evil:
            evil.tls.sendall(said)
            with pytest.raises((LinkRefusal, ProtocolViolation, EOFError, ConnectionError, ssl.SSLError)):
                evil.handshake()
    is_well(victim)


def test_a_vnics_certificate_opens_no_link_and_a_vnets_no_port_for_vnics(victim: Any) -> None:
    with (
        closing(Evil(victim.address("a"), victim.overlay.vnic())) as evil,
        pytest.raises((LinkRefusal, EOFError)),
    ):
        evil.handshake()
    with closing(Evil(victim.address("a"), victim.overlay.vnet("evil"), ALPN_VNIC)) as evil:
        evil.tls.sendall(bytes(64))
        evil.farewell()
    is_well(victim)


def test_one_who_says_nothing_after_tls_is_dropped(near_hosts: Any) -> None:
    near_hosts.vnet("a", attach_timeout=0.5)
    with closing(Evil(near_hosts.address("a"), near_hosts.overlay.vnet("evil"))) as evil:
        evil.farewell()  # which comes by itself
