"""The rounds: every process and every ring is looked at now and then, because nobody tells when one gets stuck.

A look at a process costs some 10 µs, so a round over many is cut into portions and spread over its time. Figures are
brought up to date less often, and only records whose figures have changed are put. Without ports nothing runs.

    every `look_interval`          states: STOPPED, SUSPECT, going on again; a zombie that no pidfd tells of
    every `statistics_interval`    figures of processes, and what hangs on them (alarms)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from layer8.vnet.session import Session

_PORTION = 32  # sessions looked at in one go


class Rounds:
    """`present`: the sessions to look at. `look` is called with each of them once a round, `measure` now and then."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        look_interval: float,
        statistics_interval: float,
        present: Callable[[], Sequence[Session]],
        look: Callable[[Session], None],
        measure: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._look_interval = look_interval
        self._statistics_interval = statistics_interval
        self._present = present
        self._look = look
        self._measure = measure
        self._timer: asyncio.TimerHandle | None = None
        self._todo: list[Session] = []
        self._pause = look_interval
        self._round_at = 0.0  # when the present round began
        self._measure_at = loop.time() + statistics_interval
        self._closed = False

    def wake(self) -> None:
        """Somebody is there."""
        if self._timer is None and not self._closed:
            self._round_at = self._loop.time()
            self._measure_at = max(self._measure_at, self._round_at)
            self._timer = self._loop.call_later(self._look_interval, self._step)

    def _step(self) -> None:
        self._timer = None
        now = self._loop.time()
        if not self._todo:
            self._todo = list(self._present())
            if not self._todo:
                return  # `wake` begins anew
            self._round_at = now
            self._pause = self._look_interval / -(-len(self._todo) // _PORTION)
        for session in self._todo[-_PORTION:]:
            self._look(session)
        del self._todo[-_PORTION:]
        if now >= self._measure_at:
            self._measure_at = now + self._statistics_interval
            self._measure()
        if not self._closed:
            wait = self._pause if self._todo else max(self._round_at + self._look_interval - now, 0.001)
            self._timer = self._loop.call_later(wait, self._step)

    def close(self) -> None:
        self._closed = True
        self._todo.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
