"""Elections of this Vnet's Vnics: carries out what the engine decides (layer8.health.election says how it decides).

Elect, Lead, Unelect, the end of a session, STOPPED, time ──▶ engine ──▶ terms on disk, Elected to members
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import ParamSpec
from uuid import UUID

from layer8.health.directory import Appeared, Changed, Event
from layer8.health.election import Action, Appoint, ElectionEngine, Persist, Proclaim
from layer8.health_record import State
from layer8.names import check_alias
from layer8.protocol.control import Done, Elect, Elected, Failed, Lead, Unelect
from layer8.security.provider import Action as Right
from layer8.security.provider import Resource, ResourceKind
from layer8.vnet.refusal import Refusal
from layer8.vnet.session import Session
from layer8.vnet.switchboard import Switchboard
from layer8.vnet.terms import Term, Terms
from layer8.vnet.workers import Busy, Workers

SEVERAL_HOSTS = (
    "this overlay has several hosts, and its Vnet has no ElectionEngine that decides for more than one: "
    "name one in the setting election_engine of each Vnet, or hold elections in an overlay of one host"
)
_GROUPS = 64  # that one Vnic may stand in

P = ParamSpec("P")

_log = logging.getLogger("layer8.vnet")


class Elections:
    """In the loop's thread. `several_hosts`: whether the overlay has, or may have, more hosts than this one."""

    def __init__(
        self,
        board: Switchboard,
        workers: Workers,
        terms: Terms,
        loop: asyncio.AbstractEventLoop,
        engine: ElectionEngine,
        *,
        several_hosts: Callable[[], bool],
    ) -> None:
        self._board = board
        self._workers = workers
        self._terms = terms
        self._loop = loop
        self._several_hosts = several_hosts
        self._engine = engine
        self._standing: dict[UUID, tuple[Session, set[str]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Goes on where an earlier Vnet was."""
        stored = [Persist(group=term.group, term=term.term, member=term.member) for term in self._terms.load()]
        self._engine.start(stored, self._later, self._loop.time())
        self._set_timer()

    def _later(self, actions: list[Action]) -> None:
        """For the engine, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._carry_out, actions)

    def close(self) -> None:
        self._closed = True
        self._engine.close()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    # ── what members say ──────────────────────────────────────────────────────────────────────────────────────────

    def handle(self, session: Session, message: Elect | Lead | Unelect) -> None:
        """Raises Refusal, which is the answer then."""
        port = session.own_port()
        now = self._loop.time()
        match message:
            case Elect(id=id, group=group):
                self._check(session, group)
                known = self._standing.get(port.uuid)
                groups = known[1] if known is not None and known[0] is session else set()
                if group not in groups and len(groups) >= _GROUPS:
                    raise Refusal("limit", f"a Vnic stands in {_GROUPS} groups at most")
                if not self._engine.has_room(group):
                    raise Refusal("limit", "this Vnet has too many groups")
                self._standing[port.uuid] = session, groups | {group}
                session.tell(Done(id=id))
                self._carry_out(self._asked(self._engine.stand, group, port.uuid, now))
            case Lead(id=id, group=group, term=term):
                agreed, actions = self._renewed(group, port.uuid, term, now)
                if agreed:
                    session.tell(Done(id=id, seconds=self._engine.lease))
                else:
                    session.tell(Failed(id=id, code="stale", text=f"term {term} of {group!r} is over"))
                self._carry_out(actions)
            case Unelect(id=id, group=group):
                known = self._standing.get(port.uuid)
                if known is not None:
                    known[1].discard(group)
                session.tell(Done(id=id))
                self._carry_out(self._asked(self._engine.leave, group, port.uuid, now, surely=True))

    def _check(self, session: Session, group: str) -> None:
        try:
            check_alias(group)
        except ValueError as error:
            raise Refusal("invalid", str(error)) from error
        if self._several_hosts() and not self._engine.serves_hosts:
            raise Refusal("no-engine", SEVERAL_HOSTS)
        self._board.require(session.own_port(), Right.SERVE, Resource(kind=ResourceKind.ALIAS, name=group))

    def over(self, session: Session, *, surely: bool) -> None:
        """The session ends. `surely`: its process has died, or it said goodbye."""
        for uuid, (standing, groups) in list(self._standing.items()):
            if standing is session:
                del self._standing[uuid]
                for group in groups:
                    self._carry_out(self._asked(self._engine.leave, group, uuid, self._loop.time(), surely=surely))
                if surely:
                    self._engine.forget(uuid)

    def happened(self, events: list[Event]) -> None:
        """A listener of the desk: who stands still is not chosen."""
        for event in events:
            if isinstance(event, Appeared | Changed) and event.record.uuid in self._standing:
                is_fit = event.record.state is State.UP
                self._carry_out(self._asked(self._engine.set_fit, event.record.uuid, is_fit, self._loop.time()))

    def _renewed(self, group: str, member: UUID, term: int, now: float) -> tuple[bool, list[Action]]:
        try:
            return self._engine.renew(group, member, term, now)
        except Exception:
            _log.exception("the ElectionEngine failed; %s leads %r no more", member, group)
            return False, []

    def _asked(self, operation: Callable[P, list[Action]], *arguments: P.args, **named: P.kwargs) -> list[Action]:
        try:
            return operation(*arguments, **named)
        except Exception:
            _log.exception("the ElectionEngine failed")
            return []

    # ── what the engine says ──────────────────────────────────────────────────────────────────────────────────────

    def _carry_out(self, actions: list[Action]) -> None:
        if self._closed:
            return
        for action in actions:
            match action:
                case Persist():
                    task = self._loop.create_task(self._persist(action))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                case Appoint(group=group, term=term, member=member):
                    self._tell(member, Elected(group=group, term=term, leader=None, appointed=True))
                case Proclaim(group=group, term=term, leader=leader, members=members):
                    if len(members) > 1 or leader is None:
                        _log.debug("%r is led by %s in term %d", group, leader, term)
                    for member in members:
                        self._tell(member, Elected(group=group, term=term, leader=leader))
        self._set_timer()

    def _tell(self, member: UUID, message: Elected) -> None:
        known = self._standing.get(member)
        if known is not None:
            known[0].tell(message)

    async def _persist(self, action: Persist) -> None:
        term = Term(group=action.group, term=action.term, member=action.member)
        try:
            await self._workers.call(self._terms.write, term)
            stored = True
        except (OSError, Busy) as error:
            _log.warning("term %d of %r cannot be stored, so nobody leads: %s", action.term, action.group, error)
            stored = False
        now = self._loop.time()
        self._carry_out(self._asked(self._engine.persisted, action.group, action.term, stored, now))

    def _set_timer(self) -> None:
        deadline = self._engine.deadline
        if self._timer is not None:
            if self._timer.when() == deadline and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if deadline != float("inf"):
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._carry_out(self._asked(self._engine.tick, self._loop.time()))
