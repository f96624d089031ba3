"""When a Vnet that took over begins to move records: all whom it awaits are back, or have had their time.

    awaiting ──(the last one is back | RETURN_SECONDS after the latest return | LONGEST_SECONDS in all)──▶ over

Back is who has renewed everything it had. Sans-IO: the time comes in (monotonic seconds).
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

RETURN_SECONDS = 5.0
LONGEST_SECONDS = 30.0


class Returning:
    """`missing`: who is not back yet. `is_over`: records may move; stays true."""

    def __init__(self, awaited: Iterable[UUID], now: float) -> None:
        self.missing = set(awaited)
        self.is_over = not self.missing
        self._end = now + LONGEST_SECONDS
        self._patience = now + RETURN_SECONDS

    @property
    def deadline(self) -> float:
        """When to call `tick`."""
        return min(self._patience, self._end)

    def back(self, uuid: UUID, now: float) -> None:
        """One has renewed everything it had, or will not come: its process has died."""
        if uuid in self.missing:
            self.missing.discard(uuid)
            self._patience = now + RETURN_SECONDS
        self.tick(now)

    def tick(self, now: float) -> None:
        self.is_over = self.is_over or not self.missing or now >= self.deadline
