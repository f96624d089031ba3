"""Choosing a leader in a group of Vnics: whose turn it is, in which term, and until when.

Sans-IO: calls take `now` (monotonic seconds of whoever calls) and return actions in order. Two halves that never share
a clock: the engine (Vnet) and the Candidacy (one for each member, in its own process).

    VACANT ──(a fit member)──▶ PERSISTING ──(persisted)──▶ APPOINTED ──(renew)──▶ LED ──┐
      ▲                            │ failed                    │ not in time            │ lease over, or the leader
      └────────────────────────────┴───────────────────────────┴────────────────────────┘ died, left, was closed

**A term** is a number that only grows and belongs to one member. It is on disk before the member hears of it, so no
Vnet ever gives one twice; a new store begins with the time of day, so it grows over the loss of the store too.

**A lease** is what makes it safe. The member counts it from the moment *before* it asked, the engine from when it
answered, and only after its own end the engine goes on. So whoever leads denies it before anybody else can lead, and
needs no message for that. A lease that has ended is never extended: it takes a new term. A member that has surely
died, or said that it leaves, is not waited for; of one whose connection merely ended, nobody knows.

After a restart the engine takes the member of each persisted term as the leader, with a whole lease from now: if it
led, it goes on in the same term, and if not, that time passes.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

LEASE_SECONDS = 2.0
CONFIRM_SECONDS = 0.6
"""Of LEASE_SECONDS 2.0: a leader that stands still and a successor that does too cost 2.6 s."""

RETRY_SECONDS = 1.0  # after a term could not be stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Persist:
    """Store this; then call `persisted`."""

    group: str
    term: int
    member: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Appoint:
    """Tell the member that it is to lead; it does when it has renewed."""

    group: str
    term: int
    member: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Proclaim:
    """Tell these members who leads. None: nobody at the moment."""

    group: str
    term: int
    leader: UUID | None
    members: tuple[UUID, ...]


Action = Persist | Appoint | Proclaim


Later = Callable[[list[Action]], None]
"""Carries out what no call asked for, as what another host has decided; from any thread."""


class ElectionEngine(Protocol):
    """Who decides. The setting election_engine = "module:factory" names one of your own; the factory is called once
    a Vnet, as `factory(lease=SECONDS, first_term=NUMBER)`, when that starts. OneHost is what there is without it.

    | operation   | called when                                     | answers with                                    |
    |-------------|-------------------------------------------------|-------------------------------------------------|
    | `start`     | once, before the others, with what was stored   |                                                 |
    | `stand`     | a Vnic stands, or stands again (new connection) | Proclaim to it at least: who leads; who is to   |
    |             |                                                 | lead and stands again is appointed again        |
    | `leave`     | it stands no more                               | who follows, if it led and surely leads no more |
    | `renew`     | it has been appointed; then five times a lease  | whether it leads, a whole lease from now on     |
    | `set_fit`   | its health has changed                          | who is chosen now, if nobody leads              |
    | `forget`    | it is gone for good                             |                                                 |
    | `persisted` | what Persist named is stored, or could not be   | Appoint, or whom else it tries                  |
    | `tick`      | `deadline` has come                             | whatever time brings                            |
    | `has_room`  | before a group's first member stands            | whether it takes this group                     |
    | `close`     | the Vnet stops                                  |                                                 |

    What is promised, and what tests/health/test_engines.py asks of every engine: a term only grows in a group and
    belongs to one member for ever, also over the death of the Vnet; nobody leads before it has renewed; nobody is
    appointed while somebody else may still believe in a lease, which ends `lease` seconds after the last `renew` that
    was agreed to, or when its member has surely left; and who is appointed and silent is passed by.

    An engine knows the Vnics of its own Vnet and tells those alone; where there are several hosts it is one of many,
    which agree by something outside (`serves_hosts`). All calls are made in one thread, the Vnet's loop, and must not
    wait: what takes time is done elsewhere and comes back by `later`. A call that raises is logged and counts as one
    that answered nothing, of `renew` as a no. An engine that cannot be made keeps its Vnet from starting.

    `lease`: seconds, what members are told. `deadline`: when `tick` has something to do next, infinity for never. All
    times are monotonic seconds. Persist stores a term in the Vnet's own directory; an engine that keeps its terms
    elsewhere gives none.
    """

    serves_hosts: bool
    lease: float

    @property
    def deadline(self) -> float: ...
    def start(self, stored: Iterable[Persist], later: Later, now: float) -> None:
        """`stored`: the highest term of each group that an engine of this Vnet has had stored."""

    def close(self) -> None: ...
    def has_room(self, group: str) -> bool: ...
    def stand(self, group: str, member: UUID, now: float) -> list[Action]: ...
    def leave(self, group: str, member: UUID, now: float, *, surely: bool) -> list[Action]:
        """`surely`: it cannot believe any more that it leads."""

    def renew(self, group: str, member: UUID, term: int, now: float) -> tuple[bool, list[Action]]: ...
    def set_fit(self, member: UUID, is_fit: bool, now: float) -> list[Action]: ...
    def forget(self, member: UUID) -> None: ...
    def persisted(self, group: str, term: int, stored: bool, now: float) -> list[Action]: ...
    def tick(self, now: float) -> list[Action]: ...


class _Phase(enum.Enum):
    VACANT = enum.auto()
    PERSISTING = enum.auto()
    APPOINTED = enum.auto()
    LED = enum.auto()


@dataclass(slots=True)
class _Group:
    name: str
    term: int
    phase: _Phase = _Phase.VACANT
    chosen: UUID | None = None  # who is to lead, or leads
    until: float = math.inf  # of the phase
    members: dict[UUID, None] = field(default_factory=dict)  # in the order in which they will be chosen


class OneHost:
    """The engine of a Vnet that is alone: it decides by itself. See the head of this module."""

    serves_hosts = False

    def __init__(
        self, *, first_term: int, lease: float = LEASE_SECONDS, confirm: float | None = None, max_groups: int = 4096
    ) -> None:
        """`first_term`: what the terms of a new group begin after. `lease`, `confirm`: seconds."""
        self.lease = lease
        self._confirm = lease * CONFIRM_SECONDS / LEASE_SECONDS if confirm is None else confirm
        self._first_term = first_term
        self._max_groups = max_groups
        self._groups: dict[str, _Group] = {}
        self._unfit: set[UUID] = set()

    @property
    def deadline(self) -> float:
        return min((group.until for group in self._groups.values()), default=math.inf)

    def start(self, stored: Iterable[Persist], later: Later, now: float) -> None:
        for term in stored:
            restored = _Group(term.group, term.term, _Phase.LED, term.member, now + self.lease)
            self._groups[term.group] = restored

    def close(self) -> None:
        pass

    def has_room(self, group: str) -> bool:
        return group in self._groups or len(self._groups) < self._max_groups

    # ── members ───────────────────────────────────────────────────────────────────────────────────────────────────

    def stand(self, group: str, member: UUID, now: float) -> list[Action]:
        actions = self.tick(now)
        known = self._groups.setdefault(group, _Group(group, self._first_term))
        known.members.setdefault(member, None)
        leader = known.chosen if known.phase is _Phase.LED else None
        actions.append(Proclaim(group=group, term=known.term, leader=leader, members=(member,)))
        if known.phase is _Phase.APPOINTED and known.chosen == member:
            actions.append(Appoint(group=group, term=known.term, member=member))
        return actions + self._choose(known)

    def leave(self, group: str, member: UUID, now: float, *, surely: bool) -> list[Action]:
        actions = self.tick(now)
        known = self._groups.get(group)
        if known is None or member not in known.members:
            return actions
        del known.members[member]
        if known.chosen == member and known.phase in (_Phase.APPOINTED, _Phase.LED) and surely:
            actions += self._vacate(known)
        return actions

    def renew(self, group: str, member: UUID, term: int, now: float) -> tuple[bool, list[Action]]:
        actions = self.tick(now)
        known = self._groups.get(group)
        if known is None or known.chosen != member or known.term != term or member not in known.members:
            return False, actions
        if known.phase is _Phase.APPOINTED:
            known.phase = _Phase.LED
            actions.append(Proclaim(group=group, term=term, leader=member, members=tuple(known.members)))
        elif known.phase is not _Phase.LED:
            return False, actions
        known.until = now + self.lease
        return True, actions

    def set_fit(self, member: UUID, is_fit: bool, now: float) -> list[Action]:
        actions = self.tick(now)
        if not is_fit:
            self._unfit.add(member)
        elif member in self._unfit:
            self._unfit.discard(member)
            for known in self._groups.values():
                if member in known.members:
                    actions += self._choose(known)
        return actions

    def forget(self, member: UUID) -> None:
        """It will never be heard of again."""
        self._unfit.discard(member)

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────

    def persisted(self, group: str, term: int, stored: bool, now: float) -> list[Action]:
        actions = self.tick(now)
        known = self._groups.get(group)
        if known is None or known.phase is not _Phase.PERSISTING or known.term != term:
            return actions
        if not stored:
            known.phase, known.chosen, known.until = _Phase.VACANT, None, now + RETRY_SECONDS
            return actions
        if known.chosen not in known.members or known.chosen in self._unfit:
            return actions + self._vacate(known)
        known.phase, known.until = _Phase.APPOINTED, now + self._confirm
        actions.append(Appoint(group=group, term=term, member=known.chosen))
        return actions

    def tick(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for known in self._groups.values():
            if known.until <= now:
                if known.chosen is not None and known.chosen in known.members:
                    known.members[known.chosen] = known.members.pop(known.chosen)  # others first
                actions += self._vacate(known)
        return actions

    def _vacate(self, group: _Group) -> list[Action]:
        was_led = group.phase is _Phase.LED
        group.phase, group.chosen, group.until = _Phase.VACANT, None, math.inf
        actions: list[Action] = []
        if was_led and group.members:
            actions.append(Proclaim(group=group.name, term=group.term, leader=None, members=tuple(group.members)))
        return actions + self._choose(group)

    def _choose(self, group: _Group) -> list[Action]:
        if group.phase is not _Phase.VACANT or group.until != math.inf:  # else it waits to try again
            return []
        member = next((member for member in group.members if member not in self._unfit), None)
        if member is None:
            return []
        group.term += 1
        group.phase, group.chosen = _Phase.PERSISTING, member
        return [Persist(group=group.name, term=group.term, member=member)]


class Candidacy:
    """What one member knows: whether it leads, by its own clock. See the head of this module for why that is safe.

    `renew_at`: when to ask next (monotonic seconds), infinity when there is nothing to ask for.
    """

    def __init__(self) -> None:
        self.term = 0  # the highest heard of
        self.leader: UUID | None = None  # as last proclaimed
        self.renew_at = math.inf
        self._own_term = 0  # that it is appointed for, or leads in
        self._lease_end = -math.inf
        self._over = 0  # own terms up to this one have ended

    @property
    def own_term(self) -> int:
        """What to renew."""
        return self._own_term

    @property
    def lease_end(self) -> float:
        return self._lease_end

    def is_leader(self, now: float) -> bool:
        return now < self._lease_end

    def proclaimed(self, term: int, leader: UUID | None) -> None:
        if term >= self.term:
            self.term, self.leader = term, leader

    def appointed(self, term: int, now: float) -> None:
        """It is to lead: it has to renew at once."""
        if term > self._own_term and term > self._over:
            self._own_term, self._lease_end, self.renew_at = term, -math.inf, now

    def renewed(self, term: int, asked_at: float, lease: float, now: float) -> None:
        """The engine has agreed to what was asked at `asked_at`."""
        self.lapse(now)
        if term == self._own_term and term > self._over:
            self._lease_end = asked_at + lease
            self.renew_at = asked_at + lease / 5
            self.term = max(self.term, term)
            self.lapse(now)

    def refused(self, term: int) -> None:
        """The engine says that this term is not, or no longer, its own."""
        if term == self._own_term:
            self.resign()

    def again(self, now: float) -> None:
        """It stands before another engine."""
        if now < self._lease_end:
            self.renew_at = now

    def resign(self) -> None:
        """It leads no more, whatever the engine thinks."""
        self._over = max(self._over, self._own_term)
        self._lease_end = -math.inf
        self.renew_at = math.inf

    def lapse(self, now: float) -> bool:
        """Whether the lease has ended just now, or the term has."""
        if self._lease_end != -math.inf and now >= self._lease_end:
            self.resign()
            return True
        return False
