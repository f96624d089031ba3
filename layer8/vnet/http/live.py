"""The overlay as JSON for the page: whole at first, then what has changed, by server-sent events.

All who look share one comparison a second; figures are brought up to date while somebody looks, and not otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from uuid import UUID

import msgspec

from layer8.health.directory import Directory
from layer8.health_record import HealthRecord

WATCHERS = 16
PERIOD_SECONDS = 1.0
_FIGURES_EVERY = 2  # periods
_QUIET_PERIODS = 10
_BEHIND = 8  # periods that somebody may leave unread

_encoder = msgspec.json.Encoder()


class Live:
    """In the loop's thread. `refresh` brings figures up to date. `about`: what does not change."""

    def __init__(
        self,
        directory: Directory,
        refresh: Callable[[], Coroutine[object, object, None]],
        about: dict[str, object],
    ) -> None:
        self._directory = directory
        self._refresh = refresh
        self._about = about
        self._told: dict[UUID, HealthRecord] = {}
        self._queues: set[asyncio.Queue[bytes | None]] = set()
        self._turning: asyncio.Task[None] | None = None

    @property
    def has_room(self) -> bool:
        return len(self._queues) < WATCHERS

    async def events(self) -> AsyncIterator[bytes]:
        """For one who looks, as text/event-stream."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_BEHIND)
        if self._turning is None or self._turning.done():
            await self._refresh()
            self._told = {record.uuid: record for record in self._directory}
            self._turning = asyncio.get_running_loop().create_task(self._turn())
        state = {**self._about, "time": time.time(), "records": list(self._told.values())}
        self._queues.add(queue)
        try:
            yield _event("state", state)
            while (data := await queue.get()) is not None:
                yield data
        finally:
            self._queues.discard(queue)

    async def _turn(self) -> None:
        periods = quiet = 0
        while self._queues:
            await asyncio.sleep(PERIOD_SECONDS)
            periods += 1
            if periods % _FIGURES_EVERY == 0:
                await self._refresh()
            now = {record.uuid: record for record in self._directory}
            changed = [record for uuid, record in now.items() if self._told.get(uuid) != record]
            gone = [uuid for uuid in self._told if uuid not in now]
            self._told = now
            quiet = 0 if changed or gone else quiet + 1
            if changed or gone or quiet >= _QUIET_PERIODS:
                quiet = 0
                self._tell(_event("change", {"time": time.time(), "records": changed, "gone": gone}))

    def _tell(self, data: bytes) -> None:
        for queue in tuple(self._queues):
            if queue.full():  # it does not read: the page connects again and gets the whole state
                queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(data)

    async def close(self) -> None:
        for queue in self._queues:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(None)
        if self._turning is not None:
            self._turning.cancel()


def _event(name: str, content: dict[str, object]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _encoder.encode(content) + b"\n\n"
