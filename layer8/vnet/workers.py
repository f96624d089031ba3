"""A few threads for calls that may wait, so that the loop never does.

Not `concurrent.futures`: its threads are waited for when the interpreter ends, and a Security Provider that hangs must
not keep a Vnet from ending. A call that takes too long is given up, but its thread stays busy until it returns; when
all are busy and the queue is full, calls are refused at once.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_WAITING_PER_THREAD = 64


class Busy(Exception):
    """All threads are busy and enough calls wait already."""


class Workers:
    """`call` belongs to the loop's thread. Threads start when they are first needed."""

    def __init__(self, name: str, threads: int, loop: asyncio.AbstractEventLoop) -> None:
        self._name = name
        self._limit = threads
        self._loop = loop
        self._threads = 0
        self._idle = 0
        self._queue: collections.deque[Callable[[], None]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False

    async def call(self, function: Callable[..., _T], *arguments: object, timeout: float | None = None) -> _T:
        """Runs `function` in a thread. `timeout`: seconds. Raises TimeoutError, Busy, or what the function does."""
        answer: asyncio.Future[_T] = self._loop.create_future()

        def settle(result: _T | None, error: BaseException | None) -> None:
            if answer.done():
                return  # given up
            if error is None:
                answer.set_result(result)  # type: ignore[arg-type]
            else:
                answer.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                if not answer.done():
                    result = function(*arguments)
            except BaseException as raised:  # it belongs to whoever called
                error = raised if not isinstance(raised, StopIteration) else RuntimeError(repr(raised))
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(settle, result, error)

        self._submit(work)
        async with asyncio.timeout(timeout):
            return await answer

    def _submit(self, work: Callable[[], None]) -> None:
        with self._changed:
            if self._closed or len(self._queue) >= self._limit * _WAITING_PER_THREAD:
                raise Busy(self._name)
            self._queue.append(work)
            if self._idle < len(self._queue) and self._threads < self._limit:
                self._threads += 1
                threading.Thread(target=self._serve, name=f"layer8-{self._name}-{self._threads}", daemon=True).start()
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._queue and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if not self._queue:
                    return
                work = self._queue.popleft()
            work()

    def close(self) -> None:
        """No further calls; threads end after what they do now. Does not wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
