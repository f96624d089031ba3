"""Far Vnics on this host's switch: what the directory and the switch's questions mean for each other.

The switch knows a far Vnic by a *proxy*, a port without a segment, and an adjacent Vnet by one more, which is what
subscribes here to the topics of that Vnet. Proxies are made when they are needed:

    somebody here wants a handle to a far uuid, or to an alias with far members     `proxy`, `follow`
    a record comes from a far Vnic (RESOLVE)                                        `_resolve`
    a far Vnet says that it has a subscriber (Interest)                             its own proxy, with the session

and end when the far Vnic does (GONE, from its switch), when the directory has long known that it did, or with the
session.

**The far side authorizes too.** The first record of a handle that was not seen before becomes a question here: does its
sender live where it comes from, and may it? The answer is a GRANT on the proxy; it stays until the policy changes.

Which topics cross a link, says `layer8.vnet.interests`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Protocol
from uuid import UUID

from layer8.dataplane import Command, Kind, Link, Question, Reason, RemotePort, Status, Target
from layer8.health.directory import Directory
from layer8.health_record import HealthRecord, State
from layer8.protocol.link_messages import Disinterest, Entry, Forgot, Interest, Interests
from layer8.protocol.statement import Principal, Role
from layer8.security.provider import Action, Resource, ResourceKind
from layer8.vnet.adjacent import Adjacent
from layer8.vnet.interests import InterestDesk, Neighbour
from layer8.vnet.link_thread import Queues
from layer8.vnet.shared_directory import SharedDirectory
from layer8.vnet.switch_thread import SwitchStopped
from layer8.vnet.switchboard import ALLOW, Switchboard

QUEUE_BYTES = 2 << 20
LATE_SECONDS = 2.0
"""How long a record may be here before the directory says where its sender lives."""

GONE_SECONDS = 5.0
"""How long a proxy stays whose Vnic is gone by the directory: its last records are on their way before its end."""

_NOBODY = 0xFFFFFFFF  # no port, alias or topic has this number: the switch answers that it is gone
_ACTIONS = {Kind.UNICAST: Action.SEND, Kind.REQUEST: Action.REQUEST, Kind.PUBLISH: Action.PUBLISH}

_log = logging.getLogger("layer8.vnet")


@dataclasses.dataclass(slots=True, eq=False)
class _Grant:
    """What a far Vnic's handle may reach here. `name`: the alias or topic whose number it holds. `allows`: what it may
    do there; nothing with Target.REFUSED."""

    generation: int
    target: Target
    number: int
    resource: Resource
    name: str | None
    allows: tuple[Action, ...]


@dataclasses.dataclass(slots=True, eq=False)
class _Proxy:
    number: int
    uuid: UUID
    session: _Session
    remote: RemotePort
    grants: dict[int, _Grant] = dataclasses.field(default_factory=dict)  # by the far handle's slot
    aliases: dict[str, int] = dataclasses.field(default_factory=dict)  # joined, with their numbers
    ending: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclasses.dataclass(slots=True, eq=False)
class _Session:
    """`number`: the switch's of the link. `itself`: the Vnet's own proxy."""

    adjacent: Adjacent
    number: int
    topics: Neighbour
    itself: _Proxy | None = None
    late: dict[UUID, list[tuple[int, Question, asyncio.TimerHandle]]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True, eq=False)
class _Followed:
    """An alias that somebody here sends to. `handles`: how many."""

    number: int
    handles: int = 1


class Vnet(Protocol):
    """What this needs of its Vnet."""

    uuid: UUID
    board: Switchboard
    directory: Directory

    def allowed(self, who: Principal, action: Action, what: Resource) -> bool: ...


class Far:
    """The plane of layer8.vnet.links, and the far side of the switchboard. One thread: the loop's.

    `violated(vnet, reason)`: an adjacent Vnet broke the protocol.
    """

    def __init__(self, vnet: Vnet, max_far: int, loop: asyncio.AbstractEventLoop) -> None:
        self._vnet = vnet
        self._board = vnet.board
        self._loop = loop
        self._max = max_far
        self._sessions: dict[UUID, _Session] = {}
        self._by_link: dict[int, _Session] = {}
        self._proxies: dict[UUID, _Proxy] = {}  # of Vnics, present
        self._by_number: dict[int, _Proxy] = {}  # until GONE, Vnets' too
        self._followed: dict[str, _Followed] = {}
        self._interests = InterestDesk(vnet.board)
        self.on_interest = self._interests.on_interest  # the switchboard's
        self.complete = self._interests.complete
        self.directory: SharedDirectory
        self.violated: Callable[[UUID, str], None] = lambda vnet, reason: None
        board = vnet.board
        board.far = self

    # ── the plane of links ────────────────────────────────────────────────────────────────────────────────────────

    def make_queues(self) -> Queues:
        return Link(QUEUE_BYTES)

    async def opened(self, adjacent: Adjacent) -> None:
        number = await self._carried_out(self._board.command(Command.ADD_LINK))
        if number < 0:
            raise OSError(f"the switch takes no further link ({Status(number).name})")
        session = _Session(adjacent, number, Neighbour(adjacent))
        self._sessions[adjacent.vnet] = self._by_link[number] = session
        uri = adjacent.principal.uri if adjacent.principal is not None else ""
        session.itself = self._make(adjacent.vnet, session, uri)
        session.topics.subscriber = session.itself.number if session.itself is not None else None
        self._interests.came(session.topics)
        for entry in self.directory.living(adjacent.vnet):
            self.came(entry.record)

    async def up(self, adjacent: Adjacent, queues: Queues, restarted: bool) -> None:
        assert isinstance(queues, Link)
        session = self._sessions.get(adjacent.vnet)
        if session is not None and session.adjacent is adjacent:
            command = self._board.command(Command.LINK_UP, 0, session.number, int(restarted), pointer=queues)
            await self._carried_out(command)

    def ready(self, adjacent: Adjacent) -> None:
        session = self._sessions.get(adjacent.vnet)
        if session is None or session.adjacent is not adjacent:
            return
        self._interests.ready(session.topics)

    def said(self, adjacent: Adjacent, message: Interest | Interests | Disinterest | Forgot) -> None:
        """Raises ProtocolViolation."""
        session = self._sessions.get(adjacent.vnet)
        if session is not None and session.adjacent is adjacent:
            self._interests.said(session.topics, message)

    def on_stated(self, heard: Callable[[UUID], None]) -> None:
        """`heard(vnet)` is called when all interests of an adjacent Vnet are known."""
        self._interests.on_stated = heard

    def has_stated(self, vnet: UUID) -> bool:
        session = self._sessions.get(vnet)
        return session is not None and session.topics.has_stated

    async def down(self, adjacent: Adjacent, queues: Queues, was_up: bool) -> None:
        assert isinstance(queues, Link)
        session = self._sessions.get(adjacent.vnet)
        if was_up and session is not None and session.adjacent is adjacent:
            await self._carried_out(self._board.command(Command.LINK_DOWN, 0, session.number))
        queues.free()

    async def over(self, adjacent: Adjacent, reason: str) -> None:
        session = self._sessions.get(adjacent.vnet)
        if session is None or session.adjacent is not adjacent:
            return
        del self._sessions[adjacent.vnet]
        for questions in session.late.values():
            for _, _, timer in questions:
                timer.cancel()
        session.late.clear()
        for proxy in [*self._proxies.values(), session.itself]:
            if proxy is not None and proxy.session is session:
                self._end(proxy)
        self._interests.went(session.topics)
        await self._carried_out(self._board.command(Command.REMOVE_LINK, 0, session.number, int(Reason.UNREACHABLE)))
        self._by_link.pop(session.number, None)

    async def _carried_out(self, command: asyncio.Future[int]) -> int:
        try:
            return await asyncio.shield(command)
        except SwitchStopped:
            return int(Status.GONE)

    # ── proxies ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _make(self, uuid: UUID, session: _Session, principal: str) -> _Proxy | None:
        """None: there is no room."""
        number = self._board.take_number() if len(self._by_number) < self._max else None
        if number is None:
            _log.warning("there is no room for a far Vnic (setting max_far)")
            return None
        remote = RemotePort(uuid)
        proxy = _Proxy(number, uuid, session, remote)
        self._by_number[number] = proxy
        if uuid != session.adjacent.vnet:
            self._proxies[uuid] = proxy
        added = self._board.command(
            Command.ADD_REMOTE, number, self._board.principal_number(principal), session.number, pointer=remote
        )

        def is_there(added: asyncio.Future[int]) -> None:
            if not added.cancelled() and added.exception() is None and added.result() != Status.OK:
                self._end(proxy)
                self._forget(proxy)

        added.add_done_callback(is_there)
        return proxy

    def _proxy_of(self, uuid: UUID) -> _Proxy | None:
        """Of a far Vnic that is there, made if need be."""
        proxy = self._proxies.get(uuid)
        if proxy is not None:
            return proxy
        home = self.directory.home_of(uuid)
        session = self._sessions.get(home) if home is not None else None
        entry = self.directory.entry(home, uuid) if home is not None else None
        if session is None or entry is None or entry.record.state is State.DOWN or entry.record.kind != "vnic":
            return None
        return self._make(uuid, session, entry.record.principal)

    def _end(self, proxy: _Proxy) -> None:
        """It is no longer found. The switch's GONE follows, or has come."""
        proxy.ending = True
        if proxy.timer is not None:
            proxy.timer.cancel()
            proxy.timer = None
        if self._proxies.get(proxy.uuid) is proxy:
            del self._proxies[proxy.uuid]

    def _forget(self, proxy: _Proxy) -> None:
        del self._by_number[proxy.number]
        for grant in proxy.grants.values():
            self._let_go(grant)
        proxy.grants.clear()
        proxy.aliases.clear()
        proxy.remote.free()
        self._board.give_number(proxy.number)

    def on_link_violation(self, link: int) -> None:
        """The switch takes nothing more from this connection."""
        session = self._by_link.get(link)
        if session is not None:
            self.violated(session.adjacent.vnet, "its frames hold what cannot be")

    def on_gone(self, number: int) -> None:
        """The switch has nothing left of a port that is none of this host."""
        proxy = self._by_number.get(number)
        if proxy is not None:
            self._end(proxy)
            self._forget(proxy)

    def disconnect(self) -> None:
        """The switch has stopped, and takes its proxies with it."""
        for proxy in self._by_number.values():
            if proxy.timer is not None:
                proxy.timer.cancel()
        for session in self._sessions.values():
            for questions in session.late.values():
                for _, _, timer in questions:
                    timer.cancel()
        self._by_number.clear()
        self._proxies.clear()
        self._sessions.clear()
        self._interests.clear()

    def came(self, record: HealthRecord) -> None:
        """A far Vnic is there, or says something else of itself."""
        home = self.directory.home_of(record.uuid)
        session = self._sessions.get(home) if home is not None else None
        if session is not None:
            for port, question, timer in session.late.pop(record.uuid, ()):
                timer.cancel()
                self._answer(session, port, question)
        proxy = self._proxies.get(record.uuid)
        alias = record.alias
        if proxy is not None:
            for joined in tuple(proxy.aliases):
                if joined != alias:
                    self._leave(proxy, joined)
        if alias is not None and alias in self._followed and session is not None:
            self._join(self._proxy_of(record.uuid), alias, self._followed[alias].number)

    def went(self, uuid: UUID) -> None:
        """A far Vnic is no more, as far as its Vnet says, or lives elsewhere now."""
        proxy = self._proxies.get(uuid)
        if proxy is not None:
            for alias in tuple(proxy.aliases):
                self._leave(proxy, alias)
            if proxy.timer is None:
                proxy.timer = self._loop.call_later(GONE_SECONDS, self._remove, proxy)

    def _remove(self, proxy: _Proxy) -> None:
        """Its Vnic is gone by the directory, and no GONE has come."""
        proxy.timer = None
        home = self.directory.home_of(proxy.uuid)
        entry = self.directory.entry(home, proxy.uuid) if home is not None else None
        if not proxy.ending and (
            entry is None or entry.record.state is State.DOWN or home != proxy.session.adjacent.vnet
        ):
            self._end(proxy)
            self._board.command(Command.REMOVE_PORT, proxy.number, int(Reason.GONE), 0)

    # ── what the switchboard asks ─────────────────────────────────────────────────────────────────────────────────

    def find(self, uuid: UUID) -> tuple[int, str] | None:
        """Number and principal of a far Vnic that takes something new."""
        home = self.directory.home_of(uuid)
        entry = self.directory.entry(home, uuid) if home is not None else None
        if entry is None or entry.record.reason == "draining":
            return None
        proxy = self._proxy_of(uuid)
        return (proxy.number, entry.record.principal) if proxy is not None else None

    def has_alias(self, alias: str) -> bool:
        """Whether a far Vnic has it."""
        return any(True for _ in self._members(alias))

    def _members(self, alias: str) -> Iterator[HealthRecord]:
        for record in self._vnet.directory.members(alias):
            if self.directory.home_of(record.uuid) in self._sessions:
                yield record

    def follow(self, alias: str, number: int) -> None:
        """A handle to this alias is given: its far members are members here, until `unfollow`."""
        followed = self._followed.get(alias)
        if followed is not None:
            followed.handles += 1
            return
        self._followed[alias] = _Followed(number)
        self._board.hold_alias(alias)
        for record in tuple(self._members(alias)):
            self._join(self._proxy_of(record.uuid), alias, number)

    def unfollow(self, alias: str) -> None:
        """A handle to it is no more."""
        followed = self._followed.get(alias)
        if followed is None:
            return
        followed.handles -= 1
        if not followed.handles:
            del self._followed[alias]
            left = [self._leave(proxy, alias) for proxy in tuple(self._proxies.values()) if alias in proxy.aliases]
            if left:  # in order: when the last one has left, all have
                left[-1].add_done_callback(lambda _: self._board.drop_alias(alias))
            else:
                self._board.drop_alias(alias)

    def _join(self, proxy: _Proxy | None, alias: str, number: int) -> None:
        if proxy is not None and alias not in proxy.aliases:
            proxy.aliases[alias] = number
            self._board.command(Command.JOIN_ALIAS, proxy.number, number)

    def _leave(self, proxy: _Proxy, alias: str) -> asyncio.Future[int]:
        return self._board.command(Command.LEAVE_ALIAS, proxy.number, proxy.aliases.pop(alias))

    # ── what comes from far Vnics ─────────────────────────────────────────────────────────────────────────────────

    def on_question(self, port: int, question: Question) -> None:
        """RESOLVE: may it? Everything of its source waits for the answer."""
        session = self._by_link.get(question.link)
        if session is None or self._sessions.get(session.adjacent.vnet) is not session:
            return  # the session is over, and what came over it with it
        if self.directory.entry(session.adjacent.vnet, question.source) is None:
            timer = self._loop.call_later(LATE_SECONDS, self._nobody, session, question.source)
            session.late.setdefault(question.source, []).append((port, question, timer))
        else:
            self._answer(session, port, question)

    def _nobody(self, session: _Session, source: UUID) -> None:
        session.late.pop(source, None)
        self.violated(session.adjacent.vnet, f"a record from {source}, who does not live there")

    def _answer(self, session: _Session, port: int, question: Question) -> None:
        vnet, source = session.adjacent.vnet, question.source
        entry = self.directory.entry(vnet, source)
        if entry is None:
            return
        if self.directory.home_of(source) != vnet:  # it lives here, or elsewhere, and this is an old claim
            self._refuse(session, source)
            return
        proxy = self._proxies.get(source)
        if proxy is not None and proxy.session is not session:
            self._refuse(session, source)
            return
        if proxy is None:
            proxy = self._make(source, session, entry.record.principal)
        if proxy is None or (port and proxy.number != port):
            self._refuse(session, source)
            return
        who = Principal(uri=entry.record.principal, role=Role.VNIC, expires=entry.expires, credential=entry.credential)
        grant = self._decide(who, question)
        before = proxy.grants.pop(question.slot, None)
        proxy.grants[question.slot] = grant
        self._give(proxy, question.slot, grant)
        if before is not None:
            self._let_go(before)

    def _refuse(self, session: _Session, source: UUID) -> None:
        self._board.command(Command.REFUSE_SOURCE, 0, session.number, pointer=source)

    def _give(self, proxy: _Proxy, slot: int, grant: _Grant) -> None:
        handle = slot | grant.generation << 16
        allows = sum(ALLOW.get(action, 0) for action in grant.allows)
        self._board.command(Command.GRANT, proxy.number, handle, int(grant.target), grant.number, allows)

    def _decide(self, who: Principal, question: Question) -> _Grant:
        target, number, name = Target(question.destination_kind), None, None
        match target:
            case Target.TOPIC:
                name = self._interests.topic_of(int(question.destination))
                resource = Resource(kind=ResourceKind.TOPIC, name=name or "")
                number = self._board.hold_topic(name) if name is not None else None
            case Target.ALIAS:
                port = self._board.find_uuid(question.destination)  # type: ignore[arg-type]
                name = port.alias if port is not None else None
                resource = Resource(kind=ResourceKind.ALIAS, name=name or "")
                number = self._board.hold_alias(name) if name is not None else None
            case _:
                port = self._board.find_uuid(question.destination)  # type: ignore[arg-type]
                resource = Resource(kind=ResourceKind.VNIC, name=port.principal.uri if port is not None else "")
                number = port.number if port is not None else None
        held = name if number is not None else None
        if number is None:  # the switch answers that it is gone
            return _Grant(question.generation, target, _NOBODY, resource, None, ())
        action = _ACTIONS.get(Kind(question.record_kind), Action.SEND)
        allows = self._allows(who, action, resource)
        if not allows:
            if held is not None:
                self._drop(target, held)
            return _Grant(question.generation, Target.REFUSED, 0, resource, None, ())
        return _Grant(question.generation, target, number, resource, held, allows)

    def _allows(self, who: Principal, action: Action, resource: Resource) -> tuple[Action, ...]:
        """What it may do there, of what a handle of this kind can be used for. A no to `action` is on record."""
        may = self._vnet.allowed(who, action, resource)
        if resource.kind is ResourceKind.TOPIC:
            return (Action.PUBLISH,) if may else ()
        other = Action.REQUEST if action is Action.SEND else Action.SEND
        might = self._board.would_allow(who, other, resource)
        return tuple(one for one, yes in ((action, may), (other, might)) if yes)

    def _let_go(self, grant: _Grant) -> None:
        if grant.name is not None:
            self._drop(grant.target, grant.name)
            grant.name = None

    def _drop(self, target: Target, name: str) -> None:
        if target is Target.TOPIC:
            self._board.drop_topic(name)
        else:
            self._board.drop_alias(name)

    def policy_changed(self) -> None:
        """Asks anew about everything that far Vnics were allowed or refused."""
        for proxy in tuple(self._proxies.values()):
            entry = self.directory.entry(proxy.session.adjacent.vnet, proxy.uuid)
            if entry is None:
                continue
            who = _principal(entry)
            for slot, grant in tuple(proxy.grants.items()):
                if not grant.resource.name:
                    continue
                first = Action.PUBLISH if grant.resource.kind is ResourceKind.TOPIC else Action.SEND
                if grant.target is Target.REFUSED:
                    del proxy.grants[slot]  # asked again with the next record
                    self._revoke(proxy, slot, grant)
                elif (allows := self._allows(who, grant.allows[0] if grant.allows else first, grant.resource)) == ():
                    refused = _Grant(grant.generation, Target.REFUSED, 0, grant.resource, None, ())
                    proxy.grants[slot] = refused
                    self._give(proxy, slot, refused)
                    self._let_go(grant)
                elif set(allows) != set(grant.allows):
                    grant.allows = allows
                    self._give(proxy, slot, grant)

    def _revoke(self, proxy: _Proxy, slot: int, grant: _Grant) -> None:
        self._board.command(Command.REVOKE, proxy.number, slot | grant.generation << 16, 0)


def _principal(entry: Entry) -> Principal:
    """Who a far Vnic is, as its Vnet says."""
    return Principal(uri=entry.record.principal, role=Role.VNIC, expires=entry.expires, credential=entry.credential)
