"""What the switch needs of other hosts: the queues of a connection, and proxies for the Vnics that live there.

A `Link` belongs to one connection. Its thread alone calls `collect` and `feed`, with a TLS socket between them; the
switch has the other ends from Command.LINK_UP to the answer to Command.LINK_DOWN. cffi_build/include/layer8/wire.h has
the frames.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from layer8.dataplane._core import ffi, lib
from layer8.dataplane.codes import Status, error_of_status

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from 3.12 on

    from layer8.dataplane._core import CData

FRAME_MAX: Final[int] = 131072 + 256 + 4
"""Bytes of the largest frame, with its length: a buffer for `Link.collect` must not be smaller."""

CONTROL_MAX: Final[int] = 65536
"""Bytes of a control message, at most."""

_HEAD = struct.Struct("<IB")
_CONTROL = 0  # the frame's type
_CONTROLS = 64  # control frames taken a call


def control_frame(message: bytes) -> bytes:
    """A control message as it stands in the stream. Raises ValueError when it is too large."""
    if len(message) > CONTROL_MAX:
        raise ValueError(f"a control message of {len(message)} bytes: at most {CONTROL_MAX}")
    return _HEAD.pack(len(message) + 1, _CONTROL) + message


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCounters:
    """Figures of one connection: `batches_` are calls of `collect` and `feed`, fills are bytes in the queues."""

    records_out: int
    bytes_out: int
    batches_out: int
    records_in: int
    bytes_in: int
    batches_in: int
    out_fill: int
    in_fill: int
    capacity: int


class Link:
    """The queues of one connection, each `queue_bytes` large. Raises OSError when memory or descriptors are missing.

    `collect` and `feed` belong to one thread. `free()` when that thread has ended and the switch has given it back.
    """

    def __init__(self, queue_bytes: int = 1 << 20) -> None:
        made = lib.layer8_link_new(queue_bytes)
        if not made:
            raise error_of_status(Status.SYSTEM, "a link cannot be made")
        self._pointer: CData | None = made
        self._controls = ffi.new("layer8_control_frame[]", _CONTROLS)
        self._consumed = ffi.new("uint64_t *")

    @property
    def pointer(self) -> CData:
        if self._pointer is None:
            raise ValueError("this link was freed")
        return self._pointer

    @property
    def event_fd(self) -> int:
        """Readable when, after a `collect` that found nothing, there is something to send, or, after a `feed` that left
        a whole frame, room for it."""
        return lib.layer8_link_event_fd(self.pointer)

    def collect(self, buffer: Buffer) -> int:
        """Fills `buffer` (at least FRAME_MAX bytes) with whole frames to be sent; how many bytes, 0 for none now."""
        into = ffi.from_buffer("uint8_t[]", buffer, True)
        return lib.layer8_link_collect(self.pointer, into, len(into))

    def feed(self, received: Buffer) -> tuple[int, list[bytes]]:
        """Takes what was received: how many bytes were consumed, and the control messages among them.

        What is left is an unfinished frame, or has no room yet, and is given again with what follows. Raises ValueError
        for what no Vnet sends: close the connection.
        """
        given = ffi.from_buffer("uint8_t[]", received)
        count = lib.layer8_link_feed(self.pointer, given, len(given), self._controls, _CONTROLS, self._consumed)
        if count < 0:
            raise ValueError("a frame that cannot be")
        if count == 0:
            return self._consumed[0], []
        view = memoryview(received)
        frames = [self._controls[n] for n in range(count)]
        return self._consumed[0], [bytes(view[at.offset : at.offset + at.length]) for at in frames]

    def counters(self) -> LinkCounters:
        """Any thread, while it is not freed."""
        figures = ffi.new("layer8_link_counters *")
        lib.layer8_link_read(self.pointer, figures)
        return LinkCounters(**{name: getattr(figures, name) for name in LinkCounters.__slots__})

    def free(self) -> None:
        """Safe twice."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.layer8_link_free(pointer)


class RemotePort:
    """A Vnic of another host, or an adjacent Vnet itself, for the switch (Command.ADD_REMOTE).

    Once given to a switch it must live until Event.GONE; then, or when it was never given, `free()`.
    """

    def __init__(self, uuid: UUID) -> None:
        made = lib.layer8_switch_remote_new(uuid.bytes)
        if not made:
            raise error_of_status(Status.SYSTEM, "a proxy cannot be made")
        self._pointer: CData | None = made

    @property
    def pointer(self) -> CData:
        if self._pointer is None:
            raise ValueError("this proxy was freed")
        return self._pointer

    def free(self) -> None:
        """Safe twice."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.layer8_switch_port_free(pointer)
