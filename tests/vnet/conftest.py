"""A Vnic's side spoken by hand: what the daemon must stand, a correct library would never send."""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from layer8.dataplane import Port, Segment
from layer8.errors import Layer8Error
from layer8.protocol.attach import VnicAttach
from layer8.protocol.codec import Decoder, Frame, Unknown, encode
from layer8.protocol.control import Attach, Attached, Done, Failed, FromVnet, Refused, Wire
from layer8.protocol.statement import Channel
from layer8.security import LocalProvider
from layer8.testing import RunningVnet, running_vnet

PATIENCE = 30.0  # seconds, before something that must come is missed
RING_BYTES = 512 << 10


class Raw:
    """A control connection without a library around it. `port`: the data plane, once attached."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.decoder = Decoder(FromVnet)
        self.waiting: list[tuple[Wire | Unknown, Frame]] = []
        self.answers: dict[int, Done | Failed] = {}
        self.doorbells: list[int] = []
        self.ids = 0
        self.uuid = uuid4()
        self.port: Port | None = None
        self.refused: tuple[Wire | Unknown, Frame] | None = None

    def send(self, message: Wire, descriptors: list[int] | None = None) -> None:
        self.send_bytes(encode(message), descriptors)

    def send_bytes(self, data: bytes, descriptors: list[int] | None = None) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        sent = self.socket.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        if sent < len(data):
            self.socket.sendall(data[sent:])

    def receive(self) -> tuple[Wire | Unknown, Frame]:
        """The next message; EOFError at the end."""
        while not self.waiting:
            data, ancillary, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(16))
            for _, _, content in ancillary:
                came = array.array("i")
                came.frombytes(content)
                self.doorbells.extend(came)
            if not data:
                raise EOFError
            self.waiting += self.decoder.feed_frames(data)
        return self.waiting.pop(0)

    def expect(self, kind: type[Any]) -> Any:
        message, _ = self.receive()
        assert isinstance(message, kind), message
        return message

    def ends(self) -> bool:
        """Reads up to the end of the connection."""
        try:
            while True:
                self.receive()
        except (EOFError, ConnectionError):
            return True

    def machine(self, **arguments: Any) -> VnicAttach:
        seen = Channel(uid=os.getuid(), gid=os.getgid(), pid=1, text="the Vnet")
        return VnicAttach(LocalProvider(), uuid=self.uuid, pid=os.getpid(), program="raw", seen=seen, **arguments)

    def proof(self, **arguments: Any) -> Attach:
        """Hello and Challenge; what would be sent next."""
        machine = self.machine(**arguments)
        self.send(machine.start())
        came = self.receive()
        self.refused = came if isinstance(came[0], Refused) else None
        attach = machine.receive(*came)
        assert isinstance(attach, Attach)
        return attach

    def attach(
        self, *, ring_bytes: int = RING_BYTES, uuid: UUID | None = None, segment: int = -1, **arguments: Any
    ) -> Attached | Refused:
        """The whole attach, with a segment (a new one, or this descriptor) and a port unless `observer`."""
        self.uuid = uuid or self.uuid
        attach = self.proof(**arguments)
        if arguments.get("observer"):
            self.send(attach)
        else:
            with Segment.create(ring_bytes, self.uuid) if segment < 0 else Segment(os.dup(segment)) as used:
                self.send(attach, [used.fd])
                with suppress(ValueError):  # an altered one
                    self.port = Port(used.fd, max_message_bytes=1 << 20, assembly_bytes=2 << 20)
        answer, _ = self.receive()
        assert isinstance(answer, Attached | Refused), answer
        if isinstance(answer, Attached) and self.port is not None:
            (doorbell,) = self.doorbells
            self.port.set_doorbell(doorbell)
        return answer

    def try_attach(self) -> Attached | Refused:
        """As `attach`, also when the first word is a refusal."""
        try:
            return self.attach()
        except (Layer8Error, OSError):
            message, _ = self.refused or self.receive()
            assert isinstance(message, Refused), message
            return message

    def ask(self, request: type[Wire], /, **fields: Any) -> Done | Failed:
        """A request and its answer."""
        self.ids += 1
        self.send(request(id=self.ids, **fields))
        return self.answer(self.ids)

    def answer(self, number: int) -> Done | Failed:
        """Of this request; answers to others are kept."""
        while number not in self.answers:
            message, _ = self.receive()
            assert isinstance(message, Done | Failed), message
            self.answers[message.id] = message
        return self.answers.pop(number)

    def close(self) -> None:
        self.socket.close()
        if self.port is not None:
            self.port.close()
            self.port = None
        while self.doorbells:
            os.close(self.doorbells.pop())


Connect = Callable[..., Raw]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Raw connections, closed at the end."""
    with ExitStack() as stack:

        def connect(vnet: RunningVnet | Path) -> Raw:
            raw = Raw(vnet if isinstance(vnet, Path) else vnet.socket)
            stack.callback(raw.close)
            return raw

        yield connect


@pytest.fixture
def vnet() -> Iterator[RunningVnet]:
    with running_vnet() as vnet:
        yield vnet


@pytest.fixture
def make_vnet() -> Iterator[Callable[..., RunningVnet]]:
    with ExitStack() as stack:
        yield lambda **config: stack.enter_context(running_vnet(config=config))


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for something that has no descriptor to wait for."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


@pytest.fixture(name="until")
def until_fixture() -> Callable[[Callable[[], object], str], None]:
    return until


@pytest.fixture
def descriptors() -> Callable[[RunningVnet], set[tuple[str, str]]]:
    """What the daemon has open: numbers, and what each is. To be compared as sets, for what an earlier test left may
    still be closing; a count would take it for what is there to stay. Without the files in /proc through which its
    health rounds look at the processes that are attached: those are opened some time after the attach."""

    def opened(vnet: RunningVnet) -> set[tuple[str, str]]:
        found = set()
        for entry in Path(f"/proc/{vnet.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed while we look
                target = os.readlink(entry)
                if not target.startswith("/proc/"):
                    found.add((entry.name, target))
        return found

    return opened


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Python children that speak by lines; killed at the end."""
    children: list[subprocess.Popen[str]] = []

    def spawn(script: str, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        children.append(child)
        return child

    yield spawn
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # and what it has forked
        child.communicate()


def readable(descriptor: int, seconds: float = PATIENCE) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def raw_frame(fields: dict[str, object]) -> bytes:
    """A frame that no struct would make."""
    body = msgspec.msgpack.encode(fields)
    return len(body).to_bytes(4, "little") + body
