"""A switch in a thread, and Vnics without a control plane: the test grants and subscribes by hand."""

from __future__ import annotations

import contextlib
import select
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest

from layer8.dataplane import (
    FRAGMENT_BYTES,
    Command,
    Entry,
    Event,
    Flag,
    Link,
    Outgoing,
    Port,
    Question,
    Record,
    RemotePort,
    Segment,
    Status,
    Switch,
    SwitchPort,
    Target,
)

Pointer: TypeAlias = SwitchPort | RemotePort | Link | uuid.UUID | None
PRINCIPAL = 7
MAX_MESSAGE_BYTES = 8 << 20
PATIENCE = 60.0  # a watchdog, not an expectation


class Overlay:
    """Owns the switch and its thread."""

    def __init__(self) -> None:
        self.switch = Switch()
        self._tokens = 0
        self._gone: set[int] = set()
        self.questions: list[tuple[int, Question]] = []
        self._thread = threading.Thread(target=self.switch.run, daemon=True)
        self._thread.start()

    def _wait(self, done: Callable[[Event, int, int, int], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = False
            for kind, port, token, value, question in self.switch.events():
                if question is not None:
                    self.questions.append((port, question))
                if kind == Event.GONE:
                    self._gone.add(port)
                found |= done(Event(kind), port, token, value)
            if found:
                return
            select.select([self.switch.event_fd], [], [], 1.0)
        raise AssertionError("the switch did not answer")

    def command(self, kind: Command, port: int = 0, *arguments: int, pointer: Pointer = None) -> int:
        """The status that the switch answers."""
        self._tokens += 1
        token = self._tokens
        a, b, c, d = (*arguments, 0, 0, 0, 0)[:4]
        assert self.switch.command(kind, token, port, a, b, c, d, pointer) == Status.OK
        values: list[int] = []

        def done(kind: Event, port: int, answered: int, value: int) -> bool:
            if kind is Event.DONE and answered == token:
                values.append(value)
            return bool(values)

        self._wait(done)
        return values[0]

    def remove(self, number: int) -> None:
        """Returns when the port is reaped."""
        if number not in self._gone:
            assert self.command(Command.REMOVE_PORT, number, 1, 0) == Status.OK
        if number not in self._gone:
            self._wait(lambda *_: number in self._gone)

    def close(self) -> None:
        self.command(Command.STOP)
        self._thread.join(PATIENCE)
        self.switch.close()


@dataclass
class Vnic:
    """One port on the overlay."""

    overlay: Overlay
    number: int
    uuid: uuid.UUID
    port: Port
    switch_port: SwitchPort
    slots: int = 0
    taken: list[tuple[Entry, Record, bytes, bytes]] = field(default_factory=list)

    def grant(self, target: int, kind: Target = Target.PORT) -> int:
        """A handle for another port, an alias or a topic."""
        self.slots += 1
        handle = self.slots | 1 << 16
        assert self.overlay.command(Command.GRANT, self.number, handle, kind, target) == Status.OK
        return handle

    def push(self, outgoing: Outgoing, handle: int = -1) -> None:
        """Until it is accepted."""
        while (status := outgoing.push()) != Status.OK:
            assert status in (Status.FULL, Status.XOFF)
            self.port.wait_room(-1 if handle < 0 else handle & 0xFFFF, FRAGMENT_BYTES, 1.0)

    def receive(self, count: int = 1) -> list[tuple[Entry, Record, bytes, bytes]]:
        """The next messages: entry, record, header map, payload."""
        deadline = time.monotonic() + PATIENCE
        while len(self.taken) < count:
            assert time.monotonic() < deadline, "nothing came"
            got = self.port.receive(256, 0)
            assert got >= 0, Status(got)
            for entry in self.port.entries(got):
                if entry[3] & Flag.ENTRY_LARGE:
                    headers, payload, record = self.port.large(entry[0])
                else:
                    payload = self.port.batch[entry[0] : entry[0] + entry[1]]
                    headers, record = self.port.headers(entry), self.port.record(entry)
                self.taken.append((entry, record, headers, payload))
            if got == 0:
                self.port.wait_arrived(0.2)
        found, self.taken = self.taken[:count], self.taken[count:]
        return found


@pytest.fixture
def overlay() -> Iterator[Overlay]:
    with contextlib.closing(Overlay()) as overlay:
        yield overlay


def attaching(overlay: Overlay) -> Iterator[Callable[..., Vnic]]:
    """Makes Vnics and takes them off again."""
    vnics: list[Vnic] = []

    def attach(chime: bool = False) -> Vnic:
        name = uuid.uuid4()
        with Segment.create(512 << 10, name) as segment:
            port = Port(segment.fd, max_message_bytes=MAX_MESSAGE_BYTES, assembly_bytes=4 * MAX_MESSAGE_BYTES)
            switch_port = SwitchPort(segment.fd, name, 1, chime=chime)
        port.set_doorbell(switch_port.doorbell_fd)
        vnic = Vnic(overlay, len(vnics) | 1 << 16, name, port, switch_port)
        assert overlay.command(Command.ADD_PORT, vnic.number, PRINCIPAL, pointer=switch_port) == Status.OK
        vnics.append(vnic)
        return vnic

    yield attach
    for vnic in vnics:
        overlay.remove(vnic.number)
        vnic.switch_port.free()
        vnic.port.close()
    vnics.clear()


attach = pytest.fixture(attaching)
