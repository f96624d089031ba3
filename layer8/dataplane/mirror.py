"""One end of a segment that exists twice: at a Vnic that has no Vnet on its host, and at the Vnet it is attached to.

The C core makes and takes the frames that carry rings, positions and pages; `cffi_build/src/port/mirror.c` says how.
Frames of other types are left to whoever has the connection.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from layer8.dataplane._core import ffi, lib
from layer8.dataplane.codes import Status, error_of_status
from layer8.dataplane.segment import segment_bytes

if TYPE_CHECKING:
    from layer8.dataplane._core import CData

FRAME_MAX: int = lib.LAYER8_MIRROR_FRAME_MAX
"""Bytes of a frame behind its length, at most; for frames of all types."""

FIRST_TYPE: int = lib.LAYER8_MIRROR_RING
"""Types from here on are for the C core."""

WORK: int = lib.LAYER8_MIRROR_WORK
SOON: int = lib.LAYER8_MIRROR_SOON

COLLECT_MIN: int = lib.LAYER8_MIRROR_COLLECT_MIN
"""Bytes of a buffer that `collect` can say all in."""


class MirrorCorrupt(Exception):
    """The other end, or whoever has the segment, said what cannot be."""


class MirrorPlace(NamedTuple):
    """Where one end stands. `received`: up to where it has what the other sends. `sent`, `head`, `tail`: of the ring
    that it sends from. `used`: the segment has had a port."""

    uuid: UUID
    ring_bytes: int
    received: int
    sent: int
    head: int
    tail: int
    used: bool


def make_mirror(fd: int, ring_bytes: int, uuid: UUID) -> None:
    """Makes an empty segment of an own file. Raises OSError, ValueError for a size that is none."""
    status = lib.layer8_mirror_make(fd, ring_bytes, uuid.bytes)
    if status < 0:
        raise OSError(-status, f"a segment of {segment_bytes(ring_bytes)} bytes: {os.strerror(-status)}")


class Buffer:
    """Memory that frames are put in and taken from. `view`: all of it."""

    def __init__(self, size: int) -> None:
        self._bytes = bytearray(size)
        self.view = memoryview(self._bytes)
        self.pointer = ffi.from_buffer("uint8_t[]", self._bytes)

    def __len__(self) -> int:
        return len(self._bytes)


class Mirror:
    """Maps a segment; the descriptor stays the caller's. One thread at a time. `close()` unmaps, safe twice.

    `at_vnet`: plays the Vnic towards a port of the switch; else plays the Vnet towards a Vnic's segment. Raises
    ValueError for what is no segment, OSError when it cannot be mapped.
    """

    def __init__(self, segment_fd: int, *, at_vnet: bool) -> None:
        status = ffi.new("int *")
        opened = lib.layer8_mirror_open(segment_fd, at_vnet, status)
        if not opened:
            raise error_of_status(status[0], "a segment cannot be mirrored")
        self._opened: CData | None = opened
        self._consumed = ffi.new("uint64_t *")

    @property
    def _pointer(self) -> CData:
        if self._opened is None:
            raise ValueError("this mirror was closed")
        return self._opened

    def set_bell(self, descriptor: int) -> None:
        """What is written to wake whoever has this segment: doorbell or chime, -1 for its semaphores. It stays the
        caller's."""
        lib.layer8_mirror_set_bell(self._pointer, descriptor)

    def place(self) -> MirrorPlace:
        place = ffi.new("layer8_mirror_place *")
        lib.layer8_mirror_about(self._pointer, place)
        return MirrorPlace(
            UUID(bytes=bytes(ffi.buffer(place.uuid))),
            place.ring_bytes,
            place.received,
            place.sent,
            place.head,
            place.tail,
            bool(place.used),
        )

    def resume(self, received: int, *, fresh: bool) -> None:
        """A connection begins. `received`: up to where the other end has what is sent here. `fresh`: the pages are
        empty there. Raises MirrorCorrupt when that cannot be."""
        if not 0 <= received < 1 << 64 or lib.layer8_mirror_resume(self._pointer, received, fresh) != Status.OK:
            raise MirrorCorrupt(f"it cannot have {received} bytes of what was sent here")

    def collect(self, buffer: Buffer, offset: int, *, idle: bool = False) -> int:
        """Puts frames into the buffer: how many bytes. 0: there is nothing to say. `idle`: also what nobody waits for,
        as `arm` said that there is with SOON."""
        size = lib.layer8_mirror_collect(self._pointer, buffer.pointer + offset, len(buffer) - offset, idle)
        if size < 0:
            raise MirrorCorrupt("what stands in the segment cannot be")
        return size

    def feed(self, buffer: Buffer, begin: int, end: int) -> tuple[int, bool]:
        """Takes frames from the buffer: where the rest begins, and whether that is a whole frame of another type."""
        status = lib.layer8_mirror_feed(self._pointer, buffer.pointer + begin, end - begin, self._consumed)
        if status < 0:
            raise MirrorCorrupt("a frame that cannot be")
        return begin + self._consumed[0], status == lib.LAYER8_MIRROR_OTHER

    def arm(self) -> int:
        """Asks to be woken. WORK: do not sleep. SOON: not for long. Else 0."""
        return lib.layer8_mirror_arm(self._pointer)

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            lib.layer8_mirror_close(opened)
