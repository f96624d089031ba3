"""Waiting until a destination takes more, or the transmit ring has room again.

The wake-up in the segment is for one waiter. One thread sleeps on it; while there are several, each sleeps a little in
turn and looks again, since a wake-up may be meant for any of them.
"""

from __future__ import annotations

import threading

from layer8.dataplane import Port
from layer8.vnic.waiting import SLICE, slice_of

_CROWDED_SLICE = 0.005  # seconds, times the number of waiters


class Room:
    """The senders of one Vnic that wait."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._waiters: list[object] = []

    async def wait(self, port: Port, slot: int, size: int, deadline: float) -> None:
        """Until `size` bytes may fit and the slot (-1: none) may be open, or a slice of the time has passed."""
        me = object()
        self._waiters.append(me)
        try:
            count = len(self._waiters)
            seconds = min(slice_of(deadline), SLICE if count == 1 else _CROWDED_SLICE * count)
            if count == 2:
                port.wake()  # who sleeps for a whole slice shall count us
            if self._turn.acquire(timeout=seconds):
                try:
                    port.wait_room(slot, size, seconds)
                finally:
                    self._turn.release()
        finally:
            self._waiters.remove(me)
