"""A small ElectionEngine for several hosts, as an example and for tests: what its engines agree by is one store.

    put in an entry of each group:   term, member, until, whether it leads
    whoever finds it over            writes the next term with a member of its own: that one is appointed

The store compares and writes in one step, and its clock is everybody's: that of one machine. An engine for real hosts
has both from elsewhere, etcd say, counts leases there and asks it in a thread of its own.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol
from uuid import UUID

from layer8.health.election import Action, Appoint, Later, Persist, Proclaim

LOOK_SECONDS = 0.1
CONFIRM = 0.3  # of a lease: that who is appointed has to answer


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    term: int
    member: UUID | None = None
    until: float = -math.inf
    leads: bool = False

    @property
    def leader(self) -> UUID | None:
        return self.member if self.leads else None


class Store(Protocol):
    def change(self, group: str, change: Callable[[Entry | None], Entry]) -> Entry:
        """The entry as it is after the change; nobody else's comes between."""


class Memory:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def change(self, group: str, change: Callable[[Entry | None], Entry]) -> Entry:
        self.entries[group] = change(self.entries.get(group))
        return self.entries[group]


class File:
    """For processes of one machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def change(self, group: str, change: Callable[[Entry | None], Entry]) -> Entry:
        with open(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            entries = json.loads(file.read() or "{}")
            known = entries.get(group)
            before = Entry(known[0], UUID(known[1]), *known[2:]) if known else None
            after = change(before)
            if after != before:
                entries[group] = (after.term, str(after.member), after.until, after.leads)
                file.seek(0)
                file.truncate()
                file.write(json.dumps(entries))
        return after


def make(*, lease: float, first_term: int) -> SharedEngine:
    """For the setting election_engine; the store is the file that $SHARED_ENGINE names."""
    return SharedEngine(File(Path(os.environ["SHARED_ENGINE"])), lease=lease, first_term=first_term)


class SharedEngine:
    serves_hosts = True

    def __init__(self, store: Store, *, lease: float, first_term: int) -> None:
        self.lease = lease
        self._store = store
        self._first_term = first_term
        self._members: dict[str, dict[UUID, None]] = {}  # of this Vnet, in the order in which they will be chosen
        self._unfit: set[UUID] = set()
        self._told: dict[str, tuple[int, UUID | None]] = {}
        self._look_at = math.inf
        self._not_before: dict[str, float] = {}  # its member was silent: the other hosts first

    @property
    def deadline(self) -> float:
        return self._look_at if any(self._members.values()) else math.inf

    def start(self, stored: Iterable[Persist], later: Later, now: float) -> None:
        pass  # the store has it all, and `tick` sees what others have changed

    def close(self) -> None:
        pass

    def has_room(self, group: str) -> bool:
        return True

    def stand(self, group: str, member: UUID, now: float) -> list[Action]:
        self._members.setdefault(group, {}).setdefault(member, None)
        self._told.pop(group, None)  # the newcomer has to be told, whatever the others know
        actions, entry = self._look(group, now)
        if entry.member == member and not entry.leads and not any(isinstance(action, Appoint) for action in actions):
            actions.append(Appoint(group=group, term=entry.term, member=member))
        return actions

    def leave(self, group: str, member: UUID, now: float, *, surely: bool) -> list[Action]:
        if self._members.get(group, {}).pop(member, self) is self:
            return []

        def end(entry: Entry | None) -> Entry:
            entry = entry or Entry(self._first_term)
            return Entry(entry.term) if surely and entry.member == member else entry

        if surely:
            self._not_before.pop(group, None)
        self._store.change(group, end)
        return self._look(group, now)[0]

    def renew(self, group: str, member: UUID, term: int, now: float) -> tuple[bool, list[Action]]:
        agreed = False

        def go_on(entry: Entry | None) -> Entry:
            nonlocal agreed
            entry = entry or Entry(self._first_term)
            agreed = (entry.term, entry.member) == (term, member) and now < entry.until
            return Entry(term, member, now + self.lease, True) if agreed else entry

        if member in self._members.get(group, {}):
            self._store.change(group, go_on)
        if agreed:
            self._not_before.pop(group, None)
        return agreed, self._look(group, now)[0]

    def set_fit(self, member: UUID, is_fit: bool, now: float) -> list[Action]:
        (self._unfit.discard if is_fit else self._unfit.add)(member)
        return self.tick(now)

    def forget(self, member: UUID) -> None:
        self._unfit.discard(member)

    def persisted(self, group: str, term: int, stored: bool, now: float) -> list[Action]:
        raise NotImplementedError("nothing was to be stored")

    def tick(self, now: float) -> list[Action]:
        return [action for group in self._members for action in self._look(group, now)[0]]

    def _look(self, group: str, now: float) -> tuple[list[Action], Entry]:
        """Takes the group if it is free, and tells the members of this Vnet what they do not know."""
        members = self._members[group]
        mine: UUID | None = None

        def take(entry: Entry | None) -> Entry:
            nonlocal mine
            entry = entry or Entry(self._first_term)
            if now < entry.until:
                return entry
            if entry.member is not None and entry.member in members:
                members[entry.member] = members.pop(entry.member)  # others first
            if now >= self._not_before.get(group, now):
                mine = next((member for member in members if member not in self._unfit), None)
            return Entry(entry.term) if mine is None else Entry(entry.term + 1, mine, now + self.lease * CONFIRM)

        entry = self._store.change(group, take)
        self._look_at = now + LOOK_SECONDS
        actions: list[Action] = []
        if members and self._told.get(group) != (entry.term, entry.leader):
            self._told[group] = entry.term, entry.leader
            actions.append(Proclaim(group=group, term=entry.term, leader=entry.leader, members=tuple(members)))
        if mine is not None:
            self._not_before[group] = entry.until + 2 * LOOK_SECONDS
            actions.append(Appoint(group=group, term=entry.term, member=mine))
        return actions, entry
