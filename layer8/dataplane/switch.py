"""The Vnet's side: the switch, and a Vnic's segment as the switch sees it.

The thread that calls `Switch.run` stays in one C call until Command.STOP. Commands and events pass through rings of
their own; one thread gives the ones and takes the others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from layer8.dataplane._core import ffi, lib
from layer8.dataplane.codes import Event, Status, Target, error_of_status
from layer8.dataplane.link import Link, RemotePort

if TYPE_CHECKING:
    from layer8.dataplane._core import CData

_EVENTS = 256  # taken a call
_RECORD_BYTES = 64  # of a record's header


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchConfig:
    """Limits of one switch. `max_rights`: outstanding requests in all; `visit_*`: what a port may move in its turn."""

    max_ports: int = 1024
    max_aliases: int = 4096
    max_topics: int = 4096
    max_rights: int = 65536
    max_rights_per_port: int = 1024
    visit_records: int = 64
    visit_bytes: int = 65536
    spin_us: int = 0
    frozen: int = 0  # 1: no record moves until Command.START
    max_message_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchCounters:
    """Figures of one switch since it was made."""

    visits: int
    records: int
    wakeups: int
    sleeps: int
    violations: int
    held_records: int
    held_bytes: int
    outstanding: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PortCounters:
    """Figures of one port as the switch counts them: `in_`: taken from the Vnic, `out_`: delivered to it."""

    in_messages: int
    in_bytes: int
    out_messages: int
    out_bytes: int
    undeliverable: int
    missed: int
    refused: int
    notices_lost: int
    retries: int
    receive_fill: int
    hold_fill: int
    transmit_fill: int
    receive_capacity: int
    hold_capacity: int
    transmit_capacity: int
    handles: int
    outstanding: int
    xoff: int
    state: int


class Question(NamedTuple):
    """With RESOLVE: may `source`, over `link`, send that? What it sent waits for the answer.

    `slot` and `generation` are of the sender's own handle. `destination` is a Vnic here (of an alias: the member that
    the sender's Vnet chose), or the number of a topic here.
    """

    link: int
    source: UUID
    slot: int
    generation: int
    record_kind: int
    destination_kind: int
    destination: UUID | int


class SwitchEvent(NamedTuple):
    """`token` and `value` are of DONE (the command's token and its status); `value` of VIOLATION says what it was, of
    GONE why, of LINK_VIOLATION which link."""

    kind: int
    port: int
    token: int
    value: int
    question: Question | None = None


def _question(event: CData) -> Question:
    topic = event.destination_kind == Target.TOPIC
    return Question(
        event.link,
        UUID(bytes=bytes(event.source)),
        event.slot,
        event.generation,
        event.record_kind,
        event.destination_kind,
        event.topic if topic else UUID(bytes=bytes(event.destination)),
    )


class SwitchPort:
    """A Vnic's segment, checked and mapped. Raises ValueError for a segment that is none, OSError when it cannot be
    mapped. Any thread may make one.

    Once given to a switch (Command.ADD_PORT) it must live until Event.GONE; then, or when it was never given, whoever
    made it calls `free()`.
    """

    def __init__(
        self,
        segment_fd: int,
        uuid: UUID,
        epoch: int,
        adopt: bool = False,
        chime: bool = False,
        own_file: bool = False,
    ) -> None:
        """`adopt`: the segment served an earlier Vnet, and its rings are taken over; else they must be empty.
        `chime`: its Vnic sleeps on a descriptor, and not on its semaphores. `own_file`: it is a mirror, in a file that
        nobody else can shorten."""
        status = ffi.new("int *")
        how = int(adopt) | (lib.LAYER8_OWN_FILE if own_file else 0)
        made = lib.layer8_switch_port_new(segment_fd, uuid.bytes, epoch, how, status)
        if not made:
            raise error_of_status(status[0], "a segment cannot be used")
        self._pointer: CData | None = made
        self._figures = ffi.new("layer8_port_counters *")
        self._raw = ffi.buffer(self._figures)
        self.chime_fd = lib.layer8_switch_port_chime(made) if chime else -1
        """Readable once for each time the Vnic is woken, -1 without. It belongs to the port; the Vnic gets a copy."""
        if chime and self.chime_fd < 0:
            error = error_of_status(self.chime_fd, "a chime cannot be made")
            self.free()
            raise error

    @property
    def pointer(self) -> CData:
        if self._pointer is None:
            raise ValueError("this port was freed")
        return self._pointer

    @property
    def doorbell_fd(self) -> int:
        """The eventfd that the Vnic rings; it belongs to the port."""
        return lib.layer8_switch_port_doorbell(self.pointer)

    @property
    def bytes(self) -> int:
        """Size of the segment."""
        return lib.layer8_switch_port_bytes(self.pointer)

    def counters(self) -> PortCounters:
        """Any thread, while it is not freed."""
        figures = ffi.new("layer8_port_counters *")
        lib.layer8_switch_port_read(self.pointer, figures)
        return PortCounters(**{name: getattr(figures, name) for name in PortCounters.__slots__})

    def glance(self) -> object:
        """All that there is to count, as it stands in memory: the same bytes mean that nothing has happened. For who
        looks most often: half of `levels`."""
        lib.layer8_switch_port_read(self.pointer, self._figures)
        return self._raw[:]

    def levels(self) -> tuple[int, int, int, int, bool, int]:
        """Messages taken from the Vnic, bytes of records delivered to it, at least (payloads and headers); fill and
        capacity of its receive ring; whether its senders are held; undeliverable and missed together.
        For who looks often: a tenth of `counters`."""
        figures = self._figures
        lib.layer8_switch_port_read(self.pointer, figures)
        given = figures.out_bytes + _RECORD_BYTES * figures.out_messages
        lost = figures.undeliverable + figures.missed
        return figures.in_messages, given, figures.receive_fill, figures.receive_capacity, bool(figures.xoff), lost

    def free(self) -> None:
        """Unmaps it and closes its doorbell. Safe twice."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.layer8_switch_port_free(pointer)


class Switch:
    """One switch. Raises OSError when memory or descriptors are missing."""

    def __init__(self, config: SwitchConfig | None = None) -> None:
        made = lib.layer8_switch_new(ffi.new("layer8_switch_config *", asdict(config or SwitchConfig())))
        if not made:
            raise error_of_status(Status.SYSTEM, "a switch cannot be made")
        self._pointer: CData | None = made
        self._events = ffi.new("layer8_event[]", _EVENTS)
        self._running = False

    @property
    def pointer(self) -> CData:
        if self._pointer is None:
            raise ValueError("this switch was closed")
        return self._pointer

    def run(self) -> int:
        """The switch itself: returns its status after Command.STOP. Call it in a thread of its own, once."""
        pointer = self.pointer
        self._running = True
        try:
            return lib.layer8_switch_run(pointer)
        finally:
            self._running = False

    @property
    def event_fd(self) -> int:
        """Readable while events wait."""
        return lib.layer8_switch_event_fd(self.pointer)

    def command(
        self,
        kind: int,
        token: int,
        port: int = 0,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        pointer: SwitchPort | RemotePort | Link | UUID | bytes | None = None,
    ) -> int:
        """Gives a command: OK, or FULL when it must be given again later. Its event DONE carries `token`. Bytes are
        copied."""
        given: CData
        if pointer is None:
            given = ffi.NULL
        elif isinstance(pointer, UUID):
            given = ffi.from_buffer("uint8_t[]", pointer.bytes)
        elif isinstance(pointer, bytes):
            given = ffi.from_buffer("uint8_t[]", pointer)
        else:
            given = pointer.pointer
        return lib.layer8_switch_command(self.pointer, kind, token, port, a, b, c, d, given)

    def events(self) -> list[SwitchEvent]:
        """All that has happened since the last call."""
        found: list[SwitchEvent] = []
        while True:
            count = lib.layer8_switch_events(self.pointer, self._events, _EVENTS)
            for index in range(count):
                event = self._events[index]
                if event.kind == Event.RESOLVE:
                    found.append(SwitchEvent(event.kind, event.port, 0, 0, _question(event)))
                elif event.kind == Event.LINK_VIOLATION:
                    found.append(SwitchEvent(event.kind, 0, 0, event.link))
                else:
                    found.append(SwitchEvent(event.kind, event.port, event.token, event.value))
            if count < _EVENTS:
                return found

    def counters(self) -> SwitchCounters:
        """Any thread, while it is not closed."""
        figures = ffi.new("layer8_switch_counters *")
        lib.layer8_switch_read(self.pointer, figures)
        return SwitchCounters(**{name: getattr(figures, name) for name in SwitchCounters.__slots__})

    def close(self) -> None:
        """Frees it, after `run` has returned. Safe twice."""
        if self._running:
            raise ValueError("the switch runs: stop it first")
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.layer8_switch_free(pointer)
