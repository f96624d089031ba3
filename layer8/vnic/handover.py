"""What blocks, done for a task of an event loop by a thread of its own, and who owns what comes of it.

    working ──(done)──▶ offered ──(the task takes it)──▶ taken
       └───────────────────┴──(the task has left)──▶ undone

The thread owns the result until the task has taken it, and the task takes it in the step in which it goes on. So it
does not matter how the wait ends: cancelled before, after or together with the result, or with the loop itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


async def in_thread(loop: asyncio.AbstractEventLoop, work: Callable[[], T], undo: Callable[[T], object]) -> T:
    """What `work` returns or raises. `undo`: called, in a thread, with a result that nobody takes.

    A thread of its own, because the loop's executor may be full of what the program does.
    """
    handover = _Handover(work, undo)
    offered: asyncio.Future[None] = loop.create_future()
    threading.Thread(target=handover.run, args=(loop, offered), name="layer8-attach", daemon=True).start()
    try:
        await offered
        return handover.take()
    except BaseException:
        handover.leave()
        raise


class _Handover(Generic[T]):
    def __init__(self, work: Callable[[], T], undo: Callable[[T], object]) -> None:
        self._work = work
        self._undo = undo
        self._lock = threading.Lock()
        self._result: list[T] = []  # offered, and not taken
        self._error: BaseException | None = None
        self._left = False

    def run(self, loop: asyncio.AbstractEventLoop, offered: asyncio.Future[None]) -> None:
        try:
            result = self._work()
        except BaseException as error:
            self._error = error
        else:
            with self._lock:
                left = self._left
                if not left:
                    self._result.append(result)
            if left:
                self._undo(result)
                return
        try:
            loop.call_soon_threadsafe(_wake, offered)
        except RuntimeError:  # the loop is closed: no task of it goes on
            self._withdraw()

    def take(self) -> T:
        error, self._error = self._error, None  # its traceback holds us
        try:
            if error is not None:
                raise error
            return self._result.pop()
        finally:
            del error

    def leave(self) -> None:
        """The task does not wait any more. Does nothing once it was taken."""
        with self._lock:
            self._left = True
            offered = bool(self._result)
        if offered:
            threading.Thread(target=self._withdraw, name="layer8-attach", daemon=True).start()

    def _withdraw(self) -> None:
        with self._lock:
            self._left = True
            result, self._result = self._result, []
        for item in result:
            self._undo(item)


def _wake(offered: asyncio.Future[None]) -> None:
    if not offered.done():
        offered.set_result(None)
