"""A Vnic's segment: one sealed memfd with three rings."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self
from uuid import UUID

from layer8.dataplane._core import lib

LAYOUT_VERSION = lib.layer8_layout_version()
"""Of the segments that are made and mapped here."""

_HEAD_BYTES = lib.layer8_segment_bytes(0)


def check_ring_bytes(ring_bytes: int) -> int:
    """A size that a receive ring can have. Raises ValueError."""
    if not 512 << 10 <= ring_bytes <= 1 << 30 or ring_bytes & (ring_bytes - 1):
        raise ValueError(f"ring_bytes is a power of two from {512 << 10} to {1 << 30}, not {ring_bytes}")
    return ring_bytes


def segment_bytes(ring_bytes: int) -> int:
    """How large a segment is whose receive ring has so many bytes, if there can be one."""
    return _HEAD_BYTES + ring_bytes // 2 * 5


def layout_of(fd: int) -> int:
    """The version of the layout that a Vnic's segment has, also when it is not ours; 0: this is no segment."""
    return lib.layer8_segment_layout(fd)


class Segment:
    """Owns the descriptor. Mappings made of it outlive `close()`, so it is closed as soon as the Vnet has it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def create(cls, ring_bytes: int, uuid: UUID) -> Segment:
        """A new segment. `ring_bytes`: of the receive ring, a power of two from 512 KiB to 1 GiB; the hold ring
        has as much, the transmit ring half of it, and all of it is allocated at once.

        Raises ValueError for a size that is none, OSError when memory or descriptors are missing.
        """
        fd = lib.layer8_segment_create(check_ring_bytes(ring_bytes), uuid.bytes)
        if fd < 0:
            raise OSError(-fd, f"a segment of {segment_bytes(ring_bytes)} bytes: {os.strerror(-fd)}")
        return cls(fd)

    @property
    def fd(self) -> int:
        """The descriptor; -1 after close."""
        return self._fd

    def close(self) -> None:
        """Closes the descriptor. Safe twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
