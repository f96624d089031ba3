"""Sessions between Vnets: what outlives connections, which connection of two stays, and when a session is given up.

    (none) ──begin──▶ LIVE ──(lost, or nothing heard for a while)──▶ SILENT ──(nothing heard for `give_up`)──▶ (none)
                       ▲───────────────(heard, or begin)───────────────┘         or the other says so

A session belongs to two Vnet uuids and has an id. A new connection resumes it if both sides still have it, or if one of
them has started anew since: then the other still holds what is unanswered, and it is sent again. If the same Vnet
without a new start does not know the session, it has given it up, and the other gives it up too.

**Which connection stays.** Both Vnets may dial at the same time, and a connection may be dead at one end only. So one
of the two decides, the *arbiter*: the Vnet of the lower uuid. It numbers the connections it accepts (`serial`); the
other follows, and never goes back to a lower number. A new connection replaces the one that stands, unless both sides
have that one (the dialler simply did not know whom it would reach) or it came about while the new one was greeting.

Sans-IO: times come in (monotonic seconds), what is to be done goes out as actions, in order.
"""

from __future__ import annotations

import enum
import math
import random
import secrets
from collections.abc import Hashable
from dataclasses import dataclass
from uuid import UUID

KEEP_ALIVE_SECONDS = 2.0
GIVE_UP_SECONDS = 5.0
SILENT_AFTER = 1.45
"""Of `keep_alive`: a host that is cut off right after it was heard is shown as SUSPECT in under 3 s."""


class Condition(enum.Enum):
    LIVE = enum.auto()
    SILENT = enum.auto()


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was not there. What is known of this Vnet begins anew."""

    peer: UUID


@dataclass(frozen=True, slots=True)
class Resumed:
    """The session goes on with another connection. `restarted`: the other Vnet has started anew since."""

    peer: UUID
    restarted: bool


@dataclass(frozen=True, slots=True)
class Replaced:
    """This connection is no longer the session's: close it, before the next action."""

    connection: Hashable


@dataclass(frozen=True, slots=True)
class Silent:
    """Nothing is heard of it: its Vnics are SUSPECT."""

    peer: UUID


@dataclass(frozen=True, slots=True)
class Heard:
    """It is heard again on the same connection."""

    peer: UUID


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The session is over. `connection`: to be closed, None without."""

    peer: UUID
    connection: Hashable | None
    reason: str


Action = Opened | Resumed | Replaced | Silent | Heard | GivenUp


@dataclass(slots=True, eq=False)
class Session:
    peer: UUID
    epoch: int
    id: int
    serial: int
    connection: Hashable | None
    since: float  # of this connection
    heard: float
    condition: Condition = Condition.LIVE


class Duplicate(Exception):
    """There is a connection to this Vnet already, and it stays."""


class Sessions:
    """All sessions of one Vnet, by the other's uuid. One thread."""

    def __init__(self, own: UUID, *, keep_alive: float = KEEP_ALIVE_SECONDS, give_up: float = GIVE_UP_SECONDS) -> None:
        self._own = own
        self._silent_after = min(SILENT_AFTER * keep_alive, give_up)
        self._give_up = give_up
        self._sessions: dict[UUID, Session] = {}
        self._of: dict[Hashable, Session] = {}  # by connection
        self._serial = 0
        self._promised: dict[UUID, tuple[int, int]] = {}  # epoch and id that the arbiter gave and that has not begun

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, peer: UUID) -> bool:
        return peer in self._sessions

    def get(self, peer: UUID) -> Session | None:
        return self._sessions.get(peer)

    def is_live(self, peer: UUID) -> bool:
        session = self._sessions.get(peer)
        return session is not None and session.condition is Condition.LIVE

    def knows(self, peer: UUID) -> tuple[int, int]:
        """Session and serial to tell the other: serial 0 when there is no connection that is heard."""
        session = self._sessions.get(peer)
        if session is None:
            return 0, 0
        return session.id, session.serial if session.condition is Condition.LIVE else 0

    def decide(self, peer: UUID, epoch: int, theirs: tuple[int, int], greeted: float) -> tuple[int, int]:
        """Session and serial for a new connection, the arbiter's to say; (0, 0) from the other side.

        `theirs`: what the other knows. `greeted`: when this connection's handshake began. Raises Duplicate.
        """
        session = self._sessions.get(peer)
        is_arbiter = self._own < peer
        if session is not None and session.epoch == epoch and session.condition is Condition.LIVE:
            both_have_it = theirs == (session.id, session.serial)
            if is_arbiter and (both_have_it or session.since >= greeted):
                raise Duplicate
        if not is_arbiter:
            return 0, 0
        self._serial += 1
        if session is not None and (session.epoch != epoch or theirs[0] == session.id):
            return session.id, self._serial
        promised = self._promised.get(peer)
        if session is not None or promised is None or promised[0] != epoch:
            promised = self._promised[peer] = epoch, secrets.randbits(62) + 1
        return promised[1], self._serial

    def begin(
        self,
        peer: UUID,
        epoch: int,
        id: int,  # noqa: A002
        serial: int,
        connection: Hashable,
        now: float,
    ) -> list[Action]:
        """A connection whose handshake is done. Raises Duplicate when a later one stands."""
        self._promised.pop(peer, None)
        session = self._sessions.get(peer)
        restarted = session is not None and session.epoch != epoch
        if session is not None and not restarted and session.connection is not None and serial <= session.serial:
            raise Duplicate
        actions: list[Action] = []
        if session is not None and session.connection is not None:
            del self._of[session.connection]
            actions.append(Replaced(session.connection))
            session.connection = None
        if session is not None and not restarted and session.id != id:
            actions += self._end(session, "the other Vnet had given the session up")
            session = None
        if session is None:
            session = Session(peer, epoch, id, serial, connection, now, now)
            self._sessions[peer] = session
            actions.append(Opened(peer))
        else:
            session.epoch, session.id, session.serial = epoch, id, serial
            session.connection, session.since, session.heard = connection, now, now
            session.condition = Condition.LIVE
            actions.append(Resumed(peer, restarted))
        self._of[connection] = session
        return actions

    def heard(self, connection: Hashable, when: float) -> None:
        """Something came over this connection; `tick` draws the conclusions."""
        session = self._of.get(connection)
        if session is not None and when > session.heard:
            session.heard = when

    def lost(self, connection: Hashable) -> list[Action]:
        """A connection has ended. The session goes on for a while."""
        session = self._of.pop(connection, None)
        if session is None:
            return []
        session.connection = None
        return self._silence(session)

    def give_up(self, peer: UUID, reason: str) -> list[Action]:
        """At once: the other says that it did, or it may not be here any more."""
        session = self._sessions.get(peer)
        return self._end(session, reason) if session is not None else []

    @property
    def has_silent(self) -> bool:
        return any(session.condition is Condition.SILENT for session in self._sessions.values())

    @property
    def deadline(self) -> float:
        """When `tick` has something to do if nothing is heard until then; infinity without sessions."""
        return min(
            (
                session.heard + (self._silent_after if session.condition is Condition.LIVE else self._give_up)
                for session in self._sessions.values()
            ),
            default=math.inf,
        )

    def tick(self, now: float) -> list[Action]:
        """What time brings, of what was heard. Call it at `deadline`, and often while one is silent that may go on."""
        actions: list[Action] = []
        for session in tuple(self._sessions.values()):
            silent = now - session.heard
            if silent >= self._give_up:
                actions += self._end(session, f"nothing was heard of it for {self._give_up:g} s")
            elif session.connection is None or silent >= self._silent_after:
                actions += self._silence(session)
            elif session.condition is Condition.SILENT:
                session.condition = Condition.LIVE
                actions.append(Heard(session.peer))
        return actions

    def _silence(self, session: Session) -> list[Action]:
        if session.condition is Condition.SILENT:
            return []
        session.condition = Condition.SILENT
        return [Silent(session.peer)]

    def _end(self, session: Session, reason: str) -> list[Action]:
        del self._sessions[session.peer]
        if session.connection is not None:
            del self._of[session.connection]
        return [GivenUp(session.peer, session.connection, reason)]


class Backoff:
    """When to dial again: at once after a link that stood, then ever later, each time with chance in it."""

    def __init__(self, *, first: float = 0.1, longest: float = 5.0, chance: random.Random | None = None) -> None:
        """Seconds."""
        self._first = first
        self._longest = longest
        self._chance = chance if chance is not None else random.Random()
        self._failures = 0

    def success(self) -> None:
        self._failures = 0

    def next(self) -> float:
        """How long to wait before the next try, which is taken to fail until `success`."""
        ceiling = min(self._longest, self._first * 2.0**self._failures)
        self._failures = min(self._failures + 1, 32)
        return ceiling * self._chance.uniform(0.5, 1.0)
