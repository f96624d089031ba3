"""The directory: the health records of the overlay by uuid and by alias, and who waits for one to come up.

Sans-IO. Calls take `now` (monotonic seconds) and return what happened as a list of events in order; whoever owns the
directory sends them on. Records are replaced, never changed. A record that goes DOWN is kept for a while, so that
people see what died and why, and is then forgotten.

    absent ── put ──▶ living (UP, SUSPECT, STOPPED) ◀── put, mark ──▶ lost (UNREACHABLE)
                        └──────────── mark DOWN, put DOWN ─────────▶ DOWN ── keep_down seconds ──▶ absent

`find` by uuid gives any living Vnic, whatever its state, for there is only that one. By alias it gives one that is UP,
else one that is SUSPECT: on this host before others, the emptiest receive ring first, then in turn. Never one that
is STOPPED, since there may be others.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

import msgspec

from layer8.health_record import HealthRecord, State

KEEP_DOWN_SECONDS = 60.0
MAX_DOWN = 1000
"""How many DOWN records are kept at most: a host where processes come and go must not fill the memory."""

PAGE_BYTES = 48 * 1024
RECORD_BYTES = 16 * 1024
"""Of an encoded page and record: a control message has 64 KiB."""

FILTERS: dict[str, type] = {
    "alias": str,
    "host": str,
    "service": str,
    "state": str,
    "topic": str,
    "kind": str,
    "uuid": UUID,
    "pid": int,
}
KINDS = ("vnic", "vnet")

_LIVING = frozenset((State.UP, State.SUSPECT, State.STOPPED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Appeared:
    """A uuid that was not known, or was DOWN."""

    record: HealthRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Something else than figures is different: state, reason, names, topics, alarms, links, place or principal."""

    record: HealthRecord
    before: HealthRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """A DOWN record is no longer kept."""

    record: HealthRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer to `wait`: one is there."""

    token: Hashable
    record: HealthRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """The answer to `wait`: none came in time."""

    token: Hashable
    to: UUID | str


Event = Appeared | Changed | Forgotten | Found | Expired


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wait:
    to: UUID | str
    deadline: float


class Directory:
    """See the head of this module. Belongs to one thread or loop."""

    def __init__(self, host: str, *, keep_down: float = KEEP_DOWN_SECONDS, max_down: int = MAX_DOWN) -> None:
        """`host`: the name of this host in records, to prefer what is near. `keep_down`: seconds."""
        self._host = host
        self._keep_down = keep_down
        self._max_down = max_down
        self._records: dict[UUID, HealthRecord] = {}
        self._order: list[bytes] = []  # of the uuids, for pages
        self._aliases: dict[str, dict[UUID, None]] = {}  # living ones
        self._turns: dict[str, int] = {}
        self._down: OrderedDict[UUID, float] = OrderedDict()  # when to forget, soonest first
        self._waits: dict[Hashable, _Wait] = {}
        self._waits_for: dict[UUID | str, dict[Hashable, None]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[HealthRecord]:
        """In order of uuid."""
        return (self._records[UUID(bytes=uuid)] for uuid in tuple(self._order))

    @property
    def deadline(self) -> float:
        """When `tick` has something to do next (monotonic seconds); infinity: never, as it stands."""
        waits = min((wait.deadline for wait in self._waits.values()), default=float("inf"))
        forget = next(iter(self._down.values()), float("inf"))
        return min(waits, forget)

    # ── what is known ─────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, record: HealthRecord, now: float) -> list[Event]:
        """A new record, or the next one of a known uuid. A change of figures alone is no event."""
        before = self._records.get(record.uuid)
        events: list[Event] = []
        if before is None:
            insort(self._order, record.uuid.bytes)
            events.append(Appeared(record=record))
        elif before.state is State.DOWN and record.state is not State.DOWN:
            events.append(Appeared(record=record))
        elif _watched(before) != _watched(record):
            events.append(Changed(record=record, before=before))
        self._records[record.uuid] = record
        self._index(record, before)
        if record.state is State.DOWN:
            self._down.setdefault(record.uuid, now + self._keep_down)
            while len(self._down) > self._max_down:
                events.append(self._forget(next(iter(self._down))))
        else:
            self._down.pop(record.uuid, None)
            events += self._answer(record)
        return events

    def mark(self, uuid: UUID, state: State, now: float, *, since: float, reason: str = "") -> list[Event]:
        """Another state for a known record; nothing for an unknown one. `since`: Unix seconds, kept if the state is
        what it was."""
        before = self._records.get(uuid)
        if before is None:
            return []
        if before.state is state:
            since = before.since
        return self.put(msgspec.structs.replace(before, state=state, reason=reason, since=since), now)

    def tick(self, now: float) -> list[Event]:
        """What time alone brings: waits that expire, DOWN records that are forgotten."""
        events: list[Event] = []
        for token in [token for token, wait in self._waits.items() if wait.deadline <= now]:
            events.append(Expired(token=token, to=self._waits[token].to))
            self.cancel(token)
        while self._down:
            uuid, forget_at = next(iter(self._down.items()))
            if forget_at > now:
                break
            events.append(self._forget(uuid))
        return events

    # ── questions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, uuid: UUID) -> HealthRecord | None:
        """The record, whatever its state."""
        return self._records.get(uuid)

    def members(self, alias: str) -> tuple[HealthRecord, ...]:
        """The living Vnics of an alias, in the order in which they took it."""
        return tuple(self._records[uuid] for uuid in self._aliases.get(alias, ()))

    def find(self, to: UUID | str) -> HealthRecord | None:
        """One that can be sent to; which one, says the head of this module. A str is an alias."""
        if isinstance(to, UUID):
            record = self._records.get(to)
            return record if record is not None and record.state in _LIVING else None
        members = [record for record in self.members(to) if record.state is not State.STOPPED]
        if not members:
            return None
        best = min(map(self._distance, members))
        members = [record for record in members if self._distance(record) == best]
        turn = self._turns.get(to, 0)
        self._turns[to] = turn + 1
        return members[turn % len(members)]

    def wait(self, token: Hashable, to: UUID | str, now: float, timeout: float) -> list[Event]:
        """Finds one, or waits until there is one: Found or Expired with this token, now or from a later call.

        `timeout`: seconds; 0 answers at once. A token waits for one thing at a time.
        """
        if token in self._waits:
            raise ValueError(f"{token!r} waits already")
        record = self.find(to)
        if record is not None:
            return [Found(token=token, record=record)]
        if timeout <= 0:
            return [Expired(token=token, to=to)]
        self._waits[token] = _Wait(to=to, deadline=now + timeout)
        self._waits_for.setdefault(to, {})[token] = None
        return []

    def cancel(self, token: Hashable) -> None:
        """This token waits no longer, if it did: no event will come for it."""
        wait = self._waits.pop(token, None)
        if wait is not None:
            waiting = self._waits_for[wait.to]
            del waiting[token]
            if not waiting:
                del self._waits_for[wait.to]

    def select(self, filters: Mapping[str, str] | None = None) -> tuple[HealthRecord, ...]:
        """All records that match every filter, in order of uuid. `filters`: as from `check_filters`."""
        return tuple(record for record in self if matches(record, filters or {}))

    def page(self, filters: Mapping[str, str], after: UUID | None, limit: int) -> tuple[tuple[HealthRecord, ...], bool]:
        """The first records after the uuid `after` that match, and whether there are more: what fits in a message.

        A record of more than 16 KiB loses the last of its topics.
        """
        found: list[HealthRecord] = []
        size = 0
        start = 0 if after is None else bisect_right(self._order, after.bytes)
        for position in range(start, len(self._order)):
            record = self._records[UUID(bytes=self._order[position])]
            if not matches(record, filters):
                continue
            record, record_size = _fitted(record)
            if found and (len(found) >= limit or size + record_size > PAGE_BYTES):
                return tuple(found), True
            found.append(record)
            size += record_size
        return tuple(found), False

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _distance(self, record: HealthRecord) -> tuple[bool, bool, float]:
        return record.state is not State.UP, record.host != self._host, record.fill

    def _index(self, record: HealthRecord, before: HealthRecord | None) -> None:
        old = before.alias if before is not None and before.state in _LIVING else None
        new = record.alias if record.state in _LIVING else None
        if old is not None and old != new:
            members = self._aliases[old]
            del members[record.uuid]
            if not members:
                del self._aliases[old]
                self._turns.pop(old, None)
        if new is not None and old != new:
            self._aliases.setdefault(new, {})[record.uuid] = None

    def _answer(self, record: HealthRecord) -> list[Event]:
        events: list[Event] = []
        for to in (record.uuid, record.alias):
            for token in tuple(self._waits_for.get(to, ())) if to is not None else ():
                found = self.find(self._waits[token].to)
                if found is None:
                    break
                self.cancel(token)
                events.append(Found(token=token, record=found))
        return events

    def _forget(self, uuid: UUID) -> Forgotten:
        del self._down[uuid]
        del self._order[bisect_right(self._order, uuid.bytes) - 1]
        return Forgotten(record=self._records.pop(uuid))


def check_filters(filters: Mapping[str, object]) -> dict[str, str]:
    """The filters of `health(**filters)` as they travel: alias, host, service, state, topic, kind, uuid and pid;
    None means any.

    Raises TypeError for an unknown filter or a value of another type, ValueError for an unknown state or kind.
    """
    checked: dict[str, str] = {}
    for name, value in filters.items():
        if name not in FILTERS:
            raise TypeError(f"health records have no filter {name!r}; there are {', '.join(FILTERS)}")
        if value is None:
            continue
        if not isinstance(value, FILTERS[name]):
            raise TypeError(f"the filter {name} is a {FILTERS[name].__name__}, not {type(value).__name__}")
        if name == "state" and value not in State.__members__:
            raise ValueError(f"no state {value!r}; there are {', '.join(State)}")
        if name == "kind" and value not in KINDS:
            raise ValueError(f"no kind {value!r}; there are {', '.join(KINDS)}")
        checked[name] = str(value)
    return checked


def matches(record: HealthRecord, filters: Mapping[str, str]) -> bool:
    """Whether the record passes every filter. A filter that this version does not know lets nothing pass."""
    for name, value in filters.items():
        match name:
            case "alias":
                passes = record.alias == value
            case "host":
                passes = record.host == value
            case "state":
                passes = record.state == value
            case "service":
                passes = value in record.services
            case "topic":
                passes = value in record.topics
            case "kind":
                passes = record.kind == value
            case "uuid":
                passes = str(record.uuid) == value
            case "pid":
                passes = str(record.pid) == value
            case _:
                passes = False
        if not passes:
            return False
    return True


def _watched(record: HealthRecord) -> tuple[object, ...]:
    return (
        record.state,
        record.reason,
        record.alias,
        record.services,
        record.topics,
        record.alarms,
        tuple((link.vnet, link.state) for link in record.links),
        record.host,
        record.vnet,
        record.principal,
        record.pid,
    )


def _fitted(record: HealthRecord) -> tuple[HealthRecord, int]:
    """The record, with as many of its topics as fit in RECORD_BYTES, and its size in bytes."""
    size = len(msgspec.msgpack.encode(record))
    while size > RECORD_BYTES and record.topics:
        record = msgspec.structs.replace(record, topics=record.topics[: len(record.topics) // 2])
        size = len(msgspec.msgpack.encode(record))
    return record, size
