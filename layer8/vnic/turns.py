"""Whose turn it is, among the Vnics of one process that have lost the same Vnet, to shake hands with the next one.

A hundred threads that do so at once pass Python's lock around more than they do anything, and each is then so slow that
the Vnet gives it up. A few at a time are all back sooner.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from layer8.rendezvous import Place

AT_A_TIME = 4
"""Handshakes of one process with Vnets at one place."""

_LONGEST_WAIT = 5.0  # seconds; every change ends it sooner


class _Queue:
    """Those who want to a Vnet at one place."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.free = AT_A_TIME


_queues: dict[tuple[Place, ...], _Queue] = {}


@contextlib.contextmanager
def turn(places: Sequence[Place], stopped: Callable[[], bool]) -> Iterator[bool]:
    """Waits for a turn and keeps it for the block. False: `stopped()` came first, and there is none."""
    queue = _queues.setdefault(tuple(places), _Queue())
    with queue.changed:
        while queue.free == 0 and not stopped():
            queue.changed.wait(_LONGEST_WAIT)
        mine = queue.free > 0
        queue.free -= mine
    try:
        yield mine
    finally:
        if mine:
            with queue.changed:
                queue.free += 1
                queue.changed.notify()


def look_around() -> None:
    """Somebody who waits for a turn may have been stopped."""
    for queue in list(_queues.values()):
        with queue.changed:
            queue.changed.notify_all()


os.register_at_fork(after_in_child=_queues.clear)  # threads that had a turn do not exist there
