"""A Vnic's side of its segment.

What is called for every message is the C function itself with the port bound to it, so no Python frame is made: see
the attributes of `Port`. Their results are a sequence or count from 0 on, or a negative Status; nothing here waits but
`wait_arrived` and `wait_room`.
"""

from __future__ import annotations

import functools
import operator
import os
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from layer8.dataplane._core import ffi, lib
from layer8.dataplane.codes import GOING_MAX, HALF_BYTES, HALVES_MAX, HEADERS_MAX, Flag, Status, error_of_status

if TYPE_CHECKING:
    from uuid import UUID

    from typing_extensions import Buffer  # collections.abc has it from 3.12 on

    from layer8.dataplane._core import CBuffer, CData


class Batch(Protocol):
    """Memory of the C core as bytes: slicing copies."""

    def __len__(self) -> int: ...
    def __getitem__(self, at: slice, /) -> bytes: ...


Entry = tuple[int, int, int, int, int, int, int]
"""One message of a batch: offset and length of its payload, kind, flags, topic, source, sequence."""

_ENTRY = struct.Struct("<IIBBHIQ")
_RECORD = struct.Struct("<IBBHHHHH16sQQHHIII")
_BATCH_RECORDS = 256
_LARGE = int(Flag.ENTRY_LARGE)
_LONGEST_WAIT = 1.0  # seconds; the C core waits in shorter slices anyway
_STRANDED = 256  # headers a call


class Record(NamedTuple):
    """The header of a record; layout.h says what each field means for which kind."""

    length: int
    kind: int
    flags: int
    headers: int
    slot: int
    generation: int
    topic: int
    reason: int
    source: bytes
    sequence: int
    correlation: int
    fragment: int
    fragments: int
    principal: int
    missed: int
    ttl: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PortStats:
    """Figures of one port since it was opened; fills and capacities are bytes now."""

    sent_messages: int
    sent_bytes: int
    received_messages: int
    received_bytes: int
    sent_records: int
    received_records: int
    late_wakeups: int  # waits that expired and found work: must stay 0
    waits: int
    doorbells: int
    duplicates_dropped: int
    fragments_discarded: int
    messages_aborted: int
    transmit_fill: int
    receive_fill: int
    hold_fill: int
    transmit_capacity: int
    receive_capacity: int
    hold_capacity: int
    assembling_bytes: int


class Outgoing:
    """A message of any size on its way out; belongs to one thread. Keeps its buffers alive.

    `push()` writes what fits: 0 when all of it stands in the ring, FULL or XOFF when the caller should wait and push
    again, another status when it is over. `abort()` takes back what was begun; safe at any time.
    """

    __slots__ = ("_keep", "_message", "abort", "push")

    def __init__(self, port: CData, message: CData, keep: tuple[object, ...]) -> None:
        self._message = message
        self._keep = keep
        self.push: Callable[[], int] = functools.partial(lib.layer8_push, port, message)
        self.abort: Callable[[], None] = functools.partial(lib.layer8_push_abort, port, message)

    @property
    def sequence(self) -> int:
        """Of the first record; 0 before anything was written."""
        return int(self._message.sequence)

    @property
    def begun(self) -> bool:
        """Whether a part of it was written."""
        return bool(self._message.fragment)


class Port:
    """Opens the segment. Raises ValueError for one that makes no sense, OSError when it cannot be mapped.

    `max_message_bytes`: header map and payload of one message, at most. `assembly_bytes`: of all messages in fragments
    that are being received, together. `spin_ns`: how long a wait looks before it sleeps.

    Sending is thread-safe. Receiving and waiting are for one thread at a time; `set_unread`, `wake` and `shut` may be
    called by any. The memory is given back when the last reference to the port is gone, so a call under way, or a batch
    that is being read, outlives `close()`. In a child made by fork the port is closed.
    """

    send: Callable[[int, bytes | CData, int], int]
    """send(handle, payload, length): the sequence, or a Status. Like the following for at most FRAGMENT_BYTES."""
    publish: Callable[[int, bytes | CData, int, bool], int]
    """publish(handle, payload, length, reliable)"""
    request: Callable[[int, bytes | CData, int, int, int], int]
    """request(handle, payload, length, correlation, ttl_ms)"""
    reply: Callable[[int, int, int, bytes | CData, int], int]
    """reply(right, right_generation, correlation, payload, length)"""
    receive: Callable[[int, int], int]
    """receive(max_messages, unread): how many messages the batch now has. `unread`: bytes of earlier batches that the
    application has not read yet; they count as fill of the ring, as does this batch until the next call."""
    set_unread: Callable[[int], None]
    slot_state: Callable[[int], int]
    missed: Callable[[int], int]
    """missed(topic): publications dropped for this topic number, since it was subscribed."""
    arm_arrived: Callable[[], int]
    """For who sleeps on the chime: asks to be woken when something arrives, and looks: 1, 0 for not yet, a Status."""
    arm_room: Callable[[], int]
    """The same for room: OK or a Status; look with `room` afterwards."""
    room: Callable[[int, int], int]
    """room(slot, size): what `wait_room` would return now."""
    wake: Callable[[], None]
    """Wakes the threads that wait here: their wait returns INTERRUPTED."""
    batch: Batch
    """The memory of the batch: slicing gives bytes. The next `receive` writes it anew."""
    ring_bytes: int
    """Capacity of the receive ring."""

    def __init__(self, segment_fd: int, *, max_message_bytes: int, assembly_bytes: int, spin_ns: int = 0) -> None:
        status = ffi.new("int *")
        opened = lib.layer8_port_open(segment_fd, max_message_bytes, assembly_bytes, status)
        if not opened:
            raise error_of_status(status[0], "a segment cannot be used")
        pointer = ffi.gc(opened, lib.layer8_port_close)
        self._pointer = pointer
        self.spin_ns = spin_ns
        self.send = functools.partial(lib.layer8_send, pointer)
        self.publish = functools.partial(lib.layer8_publish, pointer)
        self.request = functools.partial(lib.layer8_request, pointer)
        self.reply = functools.partial(lib.layer8_reply, pointer)
        self.receive = functools.partial(lib.layer8_receive, pointer)
        self.set_unread = functools.partial(lib.layer8_set_unread, pointer)
        self.slot_state = functools.partial(lib.layer8_slot_state, pointer)
        self.missed = functools.partial(lib.layer8_missed, pointer)
        self.arm_arrived = functools.partial(lib.layer8_arm_arrived, pointer)
        self.arm_room = functools.partial(lib.layer8_arm_room, pointer)
        self.room = functools.partial(lib.layer8_room, pointer)
        self.wake = functools.partial(lib.layer8_port_wake, pointer)
        size = ffi.new("uint64_t *")
        self.batch = _view(pointer, lib.layer8_port_batch(pointer, size), int(size[0]))
        self._table = memoryview(_view(pointer, lib.layer8_port_table(pointer), _BATCH_RECORDS * _ENTRY.size))
        self.ring_bytes = self.stats().receive_capacity
        with _opening:
            _open_ports[:] = [*(port for port in _open_ports if port() is not None), weakref.ref(self)]

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def buffer(payload: Buffer) -> CData:
        """What the calls take in place of bytes: any C-contiguous buffer, which it keeps alive."""
        return ffi.from_buffer("uint8_t[]", payload)

    def outgoing(
        self,
        *,
        kind: int,
        handle: int = 0,
        headers: bytes = b"",
        payload: Buffer = b"",
        correlation: int = 0,
        ttl: int = 0,
        right: int = 0,
        right_generation: int = 0,
        flags: int = 0,
        reason: int = 0,
    ) -> Outgoing:
        """A message of any size, with headers or without. `ttl`: milliseconds, 0 for no limit."""
        if len(headers) > HEADERS_MAX:
            raise ValueError(f"headers of {len(headers)} bytes are over the limit of {HEADERS_MAX}")
        header_view = ffi.from_buffer("uint8_t[]", headers)
        payload_view = ffi.from_buffer("uint8_t[]", payload)
        message = ffi.new("layer8_outgoing *")
        message.handle = handle
        message.kind = kind
        message.flags = flags
        message.headers_length = len(headers)
        message.headers = header_view
        message.payload = payload_view
        message.length = len(payload_view)
        message.correlation = correlation
        message.ttl = ttl
        message.right = right
        message.right_generation = right_generation
        message.reason = reason
        return Outgoing(self._pointer, message, (header_view, payload_view))

    def wait_room(self, slot: int, size: int, timeout: float) -> int:
        """Until the next record of a message with `size` bytes left finds room and the slot (-1: none) is not marked:
        1, or 0 when the time (seconds) has passed, or a Status. One thread at a time. Waits 200 ms at most."""
        return lib.layer8_wait_room(self._pointer, slot, size, _nanoseconds(timeout), self.spin_ns)

    # ── receiving ─────────────────────────────────────────────────────────────────────────────────────────────────

    def entries(self, count: int, begin: int = 0) -> Iterator[Entry]:
        """The first `count` messages of the batch, as `receive` returned, without those before `begin`. Use it up
        before the next `receive`."""
        return _ENTRY.iter_unpack(self._table[begin * _ENTRY.size : count * _ENTRY.size])

    def record(self, entry: Entry) -> Record:
        """The record header of a message of this batch."""
        if entry[3] & _LARGE:
            return self.large(entry[0])[2]
        return self.header(entry[0])

    def header(self, offset: int) -> Record:
        """The record header in front of the payload at `offset` in the batch."""
        return Record._make(_RECORD.unpack(self.batch[offset - _RECORD.size : offset]))

    def headers(self, entry: Entry) -> bytes:
        """The encoded header map of a message of this batch, empty when it has none."""
        if entry[3] & _LARGE:
            return self.large(entry[0])[0]
        end = entry[0] - _RECORD.size
        return self.batch[end - self.header(entry[0]).headers : end]

    def large(self, number: int) -> tuple[bytes, bytes, Record]:
        """Header map, payload and record header of a message that came in fragments (Flag.ENTRY_LARGE: `offset` is
        its number). Its header has the length of the whole message."""
        length = ffi.new("uint64_t *")
        header = ffi.new("uint8_t const **")
        found = lib.layer8_port_large(self._pointer, number, length, header)
        if not found:
            raise IndexError(f"this batch has no large message {number}")
        record = Record._make(_RECORD.unpack(ffi.buffer(header[0], _RECORD.size)[:]))
        whole = ffi.buffer(found, int(length[0]))
        return whole[: record.headers], whole[record.headers :], record

    def source(self, number: int) -> tuple[bytes, int]:
        """The uuid and the number of the principal behind the small number of a source."""
        uuid = ffi.new("uint8_t[16]")
        principal = lib.layer8_port_source(self._pointer, number, uuid)
        return ffi.buffer(uuid)[:], principal

    def wait_arrived(self, timeout: float) -> int:
        """Until something has arrived: 1, or 0 when the time (seconds) has passed, or a Status. One thread at a time,
        the one that receives. Waits 200 ms at most. What was received before counts as fill no more."""
        return lib.layer8_wait_arrived(self._pointer, _nanoseconds(timeout), self.spin_ns)

    # ── the port as a whole ───────────────────────────────────────────────────────────────────────────────────────

    def set_doorbell(self, fd: int) -> None:
        """The eventfd by which the switch is told of work. It stays the caller's."""
        if lib.layer8_port_set_doorbell(self._pointer, fd) != Status.OK:
            raise OSError(ffi.errno, f"a doorbell cannot be used: {os.strerror(ffi.errno)}")

    def stats(self) -> PortStats:
        figures = ffi.new("layer8_port_stats *")
        lib.layer8_port_read_stats(self._pointer, figures)
        return PortStats(**{name: getattr(figures, name) for name in PortStats.__slots__})

    def stranded(self) -> list[Record]:
        """After the Vnet died: what it may or may not have moved of hold and transmit ring, oldest first."""
        found: list[Record] = []
        table = ffi.new("uint8_t[]", _STRANDED * _RECORD.size)
        view = memoryview(ffi.buffer(table))
        while True:
            count = lib.layer8_port_stranded(self._pointer, len(found), table, _STRANDED)
            found.extend(map(Record._make, _RECORD.iter_unpack(view[: max(count, 0) * _RECORD.size])))
            if count < _STRANDED:
                return found

    def inherit(self, earlier: Port) -> None:
        """Drops the doubles of what the same Vnic took through an earlier port, which nobody reads any more. Before
        the first `receive`."""
        lib.layer8_port_inherit(self._pointer, earlier._pointer)

    def shut(self, status: int = Status.CLOSED) -> None:
        """From now on every send and wait returns `status`, also those under way. What has arrived can be received."""
        lib.layer8_port_shut(self._pointer, status)

    def reopen(self) -> None:
        """Ends `shut(Status.AWAY)`: a Vnet is there again, and has adopted the segment."""
        lib.layer8_port_reopen(self._pointer)

    def forget_begun(self, source: UUID | None = None) -> int:
        """Drops messages in fragments that have begun and will not go on, because a Vnet has died: the old ones of a
        source (see `halves`) or, without one, all requests and replies. For the thread that receives. Returns how many.
        """
        return lib.layer8_port_forget_begun(self._pointer, ffi.NULL if source is None else source.bytes)

    def going(self) -> bytes:
        """Of messages in fragments of this port that have begun and go on, after `shut`: what Command.RESUME takes."""
        return self._told(lib.layer8_port_going, GOING_MAX)

    def halves(self) -> bytes:
        """The same of others' messages that stand half here, which are *old* from now on. Each entry begins with the
        uuid of its source. For the thread that receives."""
        return self._told(lib.layer8_port_halves, HALVES_MAX)

    def _told(self, tell: Callable[[CData, CData, int], int], most: int) -> bytes:
        table = ffi.new("uint8_t[]", most * HALF_BYTES)
        return ffi.buffer(table)[: tell(self._pointer, table, most) * HALF_BYTES]

    def close(self) -> None:
        """Shuts the port. Safe twice. The last reference to it gives the memory back."""
        self.shut(Status.CLOSED)


def _view(port: CData, memory: CData, size: int) -> CBuffer:
    """A buffer on memory of the port. What would be called at its end keeps the port alive until then; it is no Python
    function, since a signal handler that raised in there would be lost."""
    return ffi.buffer(ffi.gc(memory, functools.partial(operator.is_, port)), size)


def _nanoseconds(seconds: float) -> int:
    return int(min(seconds, _LONGEST_WAIT) * 1e9) if seconds > 0 else 0


_opening = threading.Lock()
_open_ports: list[weakref.ref[Port]] = []  # without callbacks, for the same reason


def _shut_in_child() -> None:
    for reference in _open_ports:
        port = reference()
        if port is not None:
            port.close()


os.register_at_fork(after_in_child=_shut_in_child)
