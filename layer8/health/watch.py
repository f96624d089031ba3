"""What a watch makes of the records that it is sent: who joined, changed, left.

Sans-IO. The Vnet sends, in order, the present state in pages (`first` begins one, `complete` ends it), then every
record that changed. Whoever watches keeps a view of those that pass its filters and compares. So it does not matter
how often a present state is sent: after the Vnet was lost and found again the difference to before is told.

A record that is DOWN is not there, unless DOWN is what is watched for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

import msgspec

from layer8.health.directory import matches
from layer8.health_record import HealthEvent, HealthRecord, State

NOT_BACK = "not known to the Vnet any more"


class WatchView:
    """`filters`: as from `check_filters`. `is_current`: the whole present state was told."""

    def __init__(self, filters: Mapping[str, str]) -> None:
        self.records: dict[UUID, HealthRecord] = {}
        self.is_current = False
        self._filters = dict(filters)
        self._fresh: set[UUID] | None = None  # told since a present state began, until it is whole
        self._known = False  # whether there ever was one

    def take(
        self,
        records: Iterable[HealthRecord],
        forgotten: Iterable[UUID] = (),
        *,
        first: bool = False,
        complete: bool = False,
    ) -> list[HealthEvent]:
        """What one message of the Vnet says."""
        if first:
            self._fresh = set()
            self.is_current = False
        events = [event for record in records if (event := self._take(record)) is not None]
        for uuid in forgotten:
            last = self.records.pop(uuid, None)
            if last is not None:
                events.append(HealthEvent(kind="left", record=last, before=last))
        if complete and self._fresh is not None:
            for uuid in [uuid for uuid in self.records if uuid not in self._fresh]:
                before = self.records.pop(uuid)
                record = msgspec.structs.replace(before, state=State.DOWN, reason=NOT_BACK)
                events.append(HealthEvent(kind="left", record=record, before=before))
            self._fresh = None
            self._known = self.is_current = True
        return events

    def _take(self, record: HealthRecord) -> HealthEvent | None:
        before = self.records.get(record.uuid)
        if self._fresh is not None:
            self._fresh.add(record.uuid)
        if not self._is_in(record):
            if before is None:
                return None
            del self.records[record.uuid]
            return HealthEvent(kind="left", record=record, before=before)
        self.records[record.uuid] = record
        if before is None:
            return HealthEvent(kind="joined", record=record, present=not self._known)
        if self._fresh is not None and before == msgspec.structs.replace(record, **_figures(before)):
            return None  # told again, and only figures are others
        return HealthEvent(kind="changed", record=record, before=before)

    def _is_in(self, record: HealthRecord) -> bool:
        if record.state is State.DOWN and self._filters.get("state") != State.DOWN:
            return False
        return matches(record, self._filters)


_FIGURES = (
    "heard",
    "cpu",
    "memory",
    "threads",
    "open_files",
    "messages_in",
    "bytes_in",
    "messages_out",
    "bytes_out",
    "undeliverable",
    "missed",
    "fill",
    "links",
)


def _figures(record: HealthRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in _FIGURES}
