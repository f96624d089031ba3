"""Threshold-crossing alarms: when a figure of a record is too high, for how long, and when it is well again.

Sans-IO: records go in with the time, what was raised and cleared comes out.

    figure at or above `raise_at` for `hold` seconds ──▶ raised ──▶ at or below `clear_at`, or gone ──▶ cleared

Between the two thresholds nothing changes (hysteresis), so a figure that hovers at one of them says so once.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args
from uuid import UUID

import msgspec

from layer8.health.directory import matches
from layer8.health_record import HealthRecord, State

Figure = Literal["cpu", "memory", "memory_growth", "open_files", "fill", "undeliverable", "missed", "silence"]
FIGURES: tuple[str, ...] = get_args(Figure)
"""Percent of one core; resident bytes; bytes a second over `window`; number; 0 to 1; messages a second over `window`
(two of these); seconds since it was heard of."""

_RATES = {"memory_growth": "memory", "undeliverable": "undeliverable", "missed": "missed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One alarm. `filters`: whom it is about, as of `health(**filters)`. Times are seconds."""

    name: str
    figure: str
    raise_at: float
    clear_at: float
    hold: float = 0.0
    window: float = 60.0
    filters: Mapping[str, str] = field(default_factory=dict)


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One alarm about one record, as it is told. `state`: raised | cleared. `time`: Unix seconds."""

    alarm: str
    state: str
    figure: str
    value: float
    threshold: float
    uuid: UUID
    kind: str
    alias: str | None
    host: str
    vnet: str
    pid: int
    time: float
    reason: str = ""

    @property
    def text(self) -> str:
        """In words."""
        whom = f"{self.kind} {self.alias or self.uuid}"
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.alarm} {self.state}: {self.figure} of {whom} is {self.value:g}, limit {self.threshold:g}{why}"


@dataclass(slots=True)
class _Watch:
    """One rule, one record."""

    raised: Alarm | None = None
    above_since: float | None = None
    history: collections.deque[tuple[float, float]] = field(default_factory=collections.deque)


class Alarms:
    """All rules of one Vnet. One thread."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._watches: dict[UUID, dict[str, _Watch]] = {}

    def observe(self, record: HealthRecord, now: float, time: float) -> list[Alarm]:
        """A record with new figures. `now`: monotonic, `time`: Unix seconds."""
        if record.state is State.DOWN:
            return self.forget(record.uuid, time, "gone")
        found: list[Alarm] = []
        for rule in self.rules:
            if not matches(record, rule.filters):
                continue
            watch = self._watches.setdefault(record.uuid, {}).setdefault(rule.name, _Watch())
            value = _value(rule, record, watch, now, time)
            if value is None:
                continue
            if value < rule.raise_at:
                watch.above_since = None
            elif watch.above_since is None:
                watch.above_since = now
            if watch.raised is not None:
                if value <= rule.clear_at:
                    found.append(_alarm(rule, record, "cleared", value, rule.clear_at, time))
                    watch.raised = None
            elif watch.above_since is not None and now - watch.above_since >= rule.hold:
                watch.raised = _alarm(rule, record, "raised", value, rule.raise_at, time)
                found.append(watch.raised)
        return found

    def forget(self, uuid: UUID, time: float, reason: str) -> list[Alarm]:
        """Nothing more is heard of it: what was raised is cleared."""
        return [
            msgspec.structs.replace(watch.raised, state="cleared", time=time, reason=reason)
            for watch in self._watches.pop(uuid, {}).values()
            if watch.raised is not None
        ]

    def raised_about(self, uuid: UUID) -> tuple[str, ...]:
        """Names of the alarms that are raised about one, in the order of the rules."""
        watches = self._watches.get(uuid, {})
        return tuple(rule.name for rule in self.rules if (watch := watches.get(rule.name)) and watch.raised)

    def raised(self) -> list[Alarm]:
        """All that are raised, the oldest first."""
        found = [watch.raised for watches in self._watches.values() for watch in watches.values() if watch.raised]
        return sorted(found, key=lambda alarm: alarm.time)


def _value(rule: Rule, record: HealthRecord, watch: _Watch, now: float, time: float) -> float | None:
    """The figure; None as long as nothing can be said."""
    if rule.figure == "silence":
        return max(0.0, time - record.heard) if record.heard else None
    source = _RATES.get(rule.figure)
    if source is None:
        return float(getattr(record, rule.figure))
    history = watch.history
    history.append((now, float(getattr(record, source))))
    while len(history) > 2 and history[1][0] <= now - rule.window:
        history.popleft()
    before, value = history[0]
    if now - before < rule.window:
        return None
    return (history[-1][1] - value) / (now - before)


def _alarm(rule: Rule, record: HealthRecord, state: str, value: float, threshold: float, time: float) -> Alarm:
    return Alarm(
        alarm=rule.name,
        state=state,
        figure=rule.figure,
        value=value,
        threshold=threshold,
        uuid=record.uuid,
        kind=record.kind,
        alias=record.alias,
        host=record.host,
        vnet=record.vnet,
        pid=record.pid,
        time=time,
    )
