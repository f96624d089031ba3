"""When a Vnet that took over begins to move records: all whom it awaits are back, or have had their time.

    awaiting ──(the last one is back | `patience` after the latest return | LONGEST_SECONDS in all)──▶ over

Back is who has renewed everything it had. Sans-IO: the time comes in (monotonic seconds).
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

LONGEST_SECONDS = 30.0


class Returning:
    """`patience`: seconds that the next one may take. `missing`: who is not back yet. `is_over`: records may move;
    stays true."""

    def __init__(self, awaited: Iterable[UUID], now: float, patience: float) -> None:
        self.missing = set(awaited)
        self.is_over = not self.missing
        self._end = now + LONGEST_SECONDS
        self._patience = patience
        self._next = now + patience

    @property
    def deadline(self) -> float:
        """When to call `tick`."""
        return min(self._next, self._end)

    def back(self, uuid: UUID, now: float) -> None:
        """One has renewed everything it had, or will not come: its process has died."""
        if uuid in self.missing:
            self.missing.discard(uuid)
            self._next = now + self._patience
        self.tick(now)

    def tick(self, now: float) -> None:
        self.is_over = self.is_over or not self.missing or now >= self.deadline
