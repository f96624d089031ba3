"""How a thread waits here: deadlines, slices of them, and the gate that another thread opens.

What waits is written once, as a coroutine. Here its waits block the thread, so it runs from beginning to end in one
go (`run_now`); for an AsyncVnic the same waits are made of futures (`layer8.vnic.loop`).

No wait is longer than a slice, because a signal that arrives between Python's last look and the system call would
otherwise be seen only at its end. Whoever wakes looks again at what it waits for; a gate opened twice is open once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Coroutine
from types import EllipsisType, TracebackType
from typing import Any, TypeVar

from layer8.names import check_timeout

SLICE = 0.2
"""Longest wait in seconds without looking at signals and at the state of the Vnic."""

_LONGEST_NAP = 60.0

NOW = -math.inf
"""The deadline of whoever does not wait."""

FOREVER = math.inf

T = TypeVar("T")

Timeout = float | None | EllipsisType
"""As users pass it: seconds, None for ever, `...` for the time-out of the Vnic."""


def deadline_after(timeout: float | None) -> float:
    """When (monotonic seconds) a checked time-out is over."""
    if timeout is None:
        return FOREVER
    return time.monotonic() + timeout if timeout > 0 else NOW


def resolve(timeout: Timeout, default: float | None) -> float | None:
    """What a user's `timeout=` means. Raises TypeError or ValueError."""
    return default if timeout is ... else check_timeout(timeout)


def remaining(deadline: float) -> float:
    """Seconds until then, not below 0."""
    if deadline == FOREVER:
        return FOREVER
    return max(0.0, deadline - time.monotonic()) if deadline != NOW else 0.0


def slice_of(deadline: float) -> float:
    """How long to wait now before looking around, in seconds; 0.0 when the time has passed."""
    return min(SLICE, remaining(deadline))


def nap_of(deadline: float) -> float:
    """As `slice_of`, for who is woken by every change: only the main thread has signals to look at besides."""
    if threading.get_ident() == threading.main_thread().ident:
        return slice_of(deadline)
    return min(_LONGEST_NAP, remaining(deadline))


class Gate:
    """One thread waits at it, any other opens it, once."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it is open

    def wait(self, seconds: float) -> bool:
        """Whether it was opened within so many seconds; it is closed again then."""
        return self._lock.acquire(timeout=seconds)


class Turn:
    """A lock that is waited for with a deadline. `with` takes it without one, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def take(self, deadline: float) -> bool:
        """Takes it, looking at signals meanwhile. False: the deadline came first."""
        while not self._lock.acquire(timeout=slice_of(deadline)):
            if remaining(deadline) == 0:
                return False
        return True

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine whose waits block."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("a wait of this Vnic belongs to an event loop")
