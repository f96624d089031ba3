"""Signals that wait for the end of a step, where whoever is interrupted in it would lose what he has just made."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Holds the program's own handlers of SIGINT and SIGTERM back until the end of the block.

    Around the start of a process: an exception between its fork and the moment in which somebody knows it would leave
    it behind. Only the main thread hears signals; in others this does nothing.
    """
    heard: list[int] = []
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if callable(signal.getsignal(number)):
                    before[number] = signal.signal(number, lambda caught, frame: heard.append(caught))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])
