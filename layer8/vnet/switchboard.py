"""Who is who on the switch: ports, aliases and topics as numbers, and the handles that say who may reach whom.

The switch forwards by its own tables; this keeps their meaning and changes them by commands. Commands are carried out
in the order given, so the state here is changed when a command is given and taken back should the switch refuse it.

    a port's number    taken at `add`, given back when the switch says GONE
    an alias's number  held by each member until it has left, and by each handle on it until that is revoked
    a topic's number   held by each subscription and each handle likewise

What a port holds when it goes is given up at GONE, when the switch has nothing left of it. An alias whose last member
left keeps its handles: the switch marks them gone and opens them when somebody joins.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from typing import Protocol
from uuid import UUID

from layer8.dataplane import (
    GOING_MAX,
    HALF_BYTES,
    HALVES_MAX,
    SLOTS,
    TOPICS,
    Allow,
    Command,
    Reason,
    SlotState,
    Status,
    SwitchPort,
    Target,
)
from layer8.names import check_alias, check_topic
from layer8.security.provider import Action, Principal, Resource, ResourceKind
from layer8.vnet.board_port import BoardPort, Handle, PortState
from layer8.vnet.config import VnetConfig
from layer8.vnet.numbers import Names, Numbers
from layer8.vnet.refusal import Refusal, Violation
from layer8.vnet.switch_thread import Pointer, SwitchThread

Authorize = Callable[[Principal, Action, Resource], bool]

_GENERATIONS = 1 << 16
_MAX_PRINCIPALS = 1 << 20
ALLOW = {Action.SEND: Allow.SEND, Action.REQUEST: Allow.REQUEST}


class FarSide(Protocol):
    """Who lives on other hosts, as the switchboard asks about it; see layer8.vnet.far."""

    def find(self, uuid: UUID) -> tuple[int, str] | None:
        """Number of a port and principal of a Vnic that takes something new."""

    def has_alias(self, alias: str) -> bool: ...
    def follow(self, alias: str, number: int) -> None:
        """Somebody here has one more handle to this alias."""

    def unfollow(self, alias: str) -> None: ...
    def on_interest(self, topic: str, there: bool) -> None:
        """The first subscriber of a topic is here, or the last one has gone."""

    def on_gone(self, number: int) -> None:
        """A port is reaped that is none of this host."""

    def disconnect(self) -> None: ...


class Switchboard:
    """`violated` is called when the switch closes a port for what its Vnic wrote, `ended` when it has nothing left of
    one, whose counters can be read for the last time, `granted` when a port may do something from now on. One thread.
    """

    def __init__(self, config: VnetConfig, overlay: str, authorize: Authorize, would_allow: Authorize) -> None:
        """`authorize`: asks, and a no is on record. `would_allow`: asks only."""
        self._overlay = overlay
        self._authorize = authorize
        self._would_allow = would_allow
        self._thread: SwitchThread | None = None
        self._numbers = Numbers(min(config.max_ports + config.max_far, 65535))
        self._max_ports = config.max_ports
        self.far: FarSide | None = None
        self._ports: dict[int, BoardPort] = {}  # by number, until reaped
        self._by_uuid: dict[UUID, BoardPort] = {}  # up
        self._aliases = Names(config.max_aliases)
        self._members: dict[str, dict[int, BoardPort]] = {}  # by alias, then number; up and not draining
        self._topics = Names(config.max_topics)
        self._subscribers: dict[str, int] = {}
        self._principals: dict[str, int] = {}
        self._principal_uris: list[str] = [""]
        self.violated: Callable[[BoardPort, int], None] = lambda port, what: None
        self.ended: Callable[[BoardPort], None] = lambda port: None
        self.granted: Callable[[BoardPort, Action, Resource], None] = lambda port, action, resource: None

    def connect(self, thread: SwitchThread) -> None:
        """Gives the switch; before anything else."""
        self._thread = thread

    def disconnect(self) -> None:
        """The switch has stopped and takes its ports with it: nothing here may be used any more."""
        self._thread = None
        if self.far is not None:
            self.far.disconnect()
        for port in self._ports.values():
            port.state = PortState.GONE
        self._ports.clear()
        self._by_uuid.clear()
        self._members.clear()

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def ports(self) -> Iterator[BoardPort]:
        """All that are not reaped, closing ones too."""
        return iter(tuple(self._ports.values()))

    def find_uuid(self, uuid: UUID) -> BoardPort | None:
        return self._by_uuid.get(uuid)

    def principal_of(self, number: int) -> str | None:
        """The principal behind a number in a record."""
        return self._principal_uris[number] if 0 < number < len(self._principal_uris) else None

    def topics_after(self, after: str, limit: int) -> list[tuple[str, int]]:
        """Topics with subscribers and how many, in order of name."""
        return sorted((name, count) for name, count in self._subscribers.items() if name > after)[:limit]

    # ── ports ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def add(
        self, uuid: UUID, alias: str | None, principal: Principal, switch_port: SwitchPort, adopted: bool = False
    ) -> BoardPort:
        """Puts a port on the switch, in its alias. Owns `switch_port` from here on, also when it raises Refusal.

        `adopted`: its records stand still until `resume`."""
        number = None
        try:
            if uuid in self._by_uuid:
                raise Refusal("taken", f"a living Vnic has the uuid {uuid}")
            principal_number = self._principal(principal)
            number = self._numbers.take() if len(self._ports) < self._max_ports else None
            if number is None:
                raise Refusal("limit", "this Vnet has no port left (setting max_ports)")
            alias_number = None if alias is None else self._aliases.hold(alias)
            if alias is not None and alias_number is None:
                raise Refusal("limit", "this Vnet has too many aliases (setting max_aliases)")
        except BaseException:
            if number is not None:
                self._numbers.give(number)
            switch_port.free()
            raise
        port = BoardPort(number, uuid, alias, principal, switch_port)
        self._ports[number] = self._by_uuid[uuid] = port
        added = self._command(Command.ADD_PORT, number, a=principal_number, b=int(adopted), pointer=switch_port)
        joined = None if alias_number is None else self._command(Command.JOIN_ALIAS, number, a=alias_number)
        status = await asyncio.shield(added)
        if status != Status.OK:  # the switch never had it
            self._forget(port)
            raise Refusal("limit", f"the switch takes no further port ({Status(status).name})")
        if joined is not None and await asyncio.shield(joined) != Status.OK:
            self.remove(port, Reason.GONE, 0)
            raise Refusal("limit", f"alias {alias!r} takes no further member")
        if port.state is not PortState.UP:  # its ring held nonsense from the beginning
            raise Refusal("invalid", "the segment holds what cannot be")
        if alias is not None:
            self._members.setdefault(alias, {})[number] = port
        return port

    def hide(self, port: BoardPort) -> None:
        """Nobody can name this one any more."""
        if self._by_uuid.get(port.uuid) is port:
            del self._by_uuid[port.uuid]

    async def grant_own(self, port: BoardPort, slot: int, topic: str) -> None:
        """A handle for the Vnet's own port, on a topic of layer8's that nobody else may publish on. Raises Refusal."""
        number = _held(self._topics, topic, "topics (setting max_topics)")
        resource = Resource(kind=ResourceKind.TOPIC, name=topic)
        port.handles[slot] = Handle(1, Target.TOPIC, topic, resource, frozenset())  # no policy can take it away
        status = await self._command(Command.GRANT, port.number, slot | 1 << 16, int(Target.TOPIC), number)
        if status != Status.OK:
            raise Refusal("limit", f"the switch grants no handle ({Status(status).name})")

    def resume(self, port: BoardPort, going: bytes | None = None, halves: bytes = b"") -> asyncio.Future[int]:
        """An adopted port has renewed what it had: its records may move. The rest is as in Resume. Raises Refusal."""
        if going is None:
            return self._command(Command.RESUME, port.number)
        counts = [len(told) // HALF_BYTES for told in (going, halves)]
        if (len(going) | len(halves)) % HALF_BYTES or counts[0] > GOING_MAX or counts[1] > HALVES_MAX:
            raise Refusal("invalid", "that is no list of messages")
        return self._command(Command.RESUME, port.number, a=counts[0], b=counts[1], pointer=going + halves)

    def drain(self, port: BoardPort) -> asyncio.Future[int] | None:
        """Takes a port out of its alias; None when it is in none."""
        if port.state is not PortState.UP:
            return None
        port.state = PortState.DRAINING
        if port.alias is None:
            return None
        self._leave_members(port)
        number = self._aliases.hold(port.alias)
        self._aliases.drop(port.alias)  # the membership's own hold ends when the port is reaped
        assert number is not None
        return self._command(Command.LEAVE_ALIAS, port.number, a=number)

    def remove(self, port: BoardPort, reason: Reason, wait_ms: int) -> asyncio.Future[None]:
        """Begins the end of a port: it is no longer found, what it had sent is moved. Done when it is reaped."""
        if port.reaped is None:
            port.reaped = asyncio.get_running_loop().create_future()
            if port.state is not PortState.GONE:
                self._unlist(port, PortState.CLOSING)
                port.removed = self._command(Command.REMOVE_PORT, port.number, a=int(reason), b=wait_ms)
            else:
                port.reaped.set_result(None)
        return port.reaped

    def on_violation(self, number: int, what: int) -> None:
        """The switch closes a port; GONE follows."""
        port = self._ports.get(number)
        if port is not None:
            if port.reaped is None:
                port.reaped = asyncio.get_running_loop().create_future()
            self._unlist(port, PortState.CLOSING)
            self.violated(port, what)

    def on_gone(self, number: int) -> None:
        """The switch has nothing left of a port."""
        port = self._ports.get(number)
        if port is not None:
            self._forget(port)
        elif self.far is not None:
            self.far.on_gone(number)

    def _forget(self, port: BoardPort) -> None:
        self._unlist(port, PortState.GONE)
        del self._ports[port.number]
        self._numbers.give(port.number)
        if port.alias is not None:
            self._aliases.drop(port.alias)
        for handle in port.handles.values():
            self._drop(handle)
        for topic in port.topics.values():
            self._drop_subscriber(topic)
        port.handles.clear()
        port.topics.clear()
        self.ended(port)
        port.switch_port.free()
        if port.reaped is not None and not port.reaped.done():
            port.reaped.set_result(None)

    def _unlist(self, port: BoardPort, state: PortState) -> None:
        port.state = state
        self._leave_members(port)
        if self._by_uuid.get(port.uuid) is port:
            del self._by_uuid[port.uuid]

    def _leave_members(self, port: BoardPort) -> None:
        members = self._members.get(port.alias or "")
        if members is not None and members.pop(port.number, None) is not None and not members:
            del self._members[port.alias or ""]

    def _principal(self, principal: Principal) -> int:
        number = self.principal_number(principal.uri)
        if not number:
            raise Refusal("limit", "this Vnet has seen too many principals")
        return number

    def principal_number(self, uri: str) -> int:
        """Of a principal, for records; 0 when there are too many."""
        number = self._principals.get(uri, 0)
        if not number and len(self._principal_uris) <= _MAX_PRINCIPALS:
            number = self._principals[uri] = len(self._principal_uris)
            self._principal_uris.append(uri)
        return number

    # ── for the far side ──────────────────────────────────────────────────────────────────────────────────────────

    def command(
        self, kind: Command, port: int = 0, a: int = 0, b: int = 0, c: int = 0, d: int = 0, pointer: Pointer = None
    ) -> asyncio.Future[int]:
        """Gives a command to the switch: its status."""
        return self._command(kind, port, a, b, c, d, pointer)

    def would_allow(self, who: Principal, action: Action, resource: Resource) -> bool:
        """Asks only: a no is not on record."""
        return self._would_allow(who, action, resource)

    def take_number(self) -> int | None:
        """For a port that is none of this host; `give_number` when it is reaped."""
        return self._numbers.take()

    def give_number(self, number: int) -> None:
        self._numbers.give(number)

    def hold_topic(self, topic: str) -> int | None:
        """The topic's number, for as long as it is not dropped; None: there are too many."""
        return self._topics.hold(topic)

    def drop_topic(self, topic: str) -> None:
        self._topics.drop(topic)

    def hold_alias(self, alias: str) -> int | None:
        """The alias's number, for as long as it is not dropped; None: there are too many."""
        return self._aliases.hold(alias)

    def drop_alias(self, alias: str) -> None:
        self._aliases.drop(alias)

    # ── handles ───────────────────────────────────────────────────────────────────────────────────────────────────

    def grant(
        self, port: BoardPort, slot: int, generation: int, kind: str, name: str, action: str
    ) -> asyncio.Future[int]:
        """Gives a handle; the future is the switch's status. Raises Refusal, or Violation."""
        _check_slot(slot, generation)
        if slot in port.handles:
            raise Refusal("stale", f"slot {slot} is in use; release it first")
        last = port.generations.get(slot)
        if last is not None and not 0 < (generation - last) % _GENERATIONS < _GENERATIONS // 2:
            raise Refusal("stale", f"slot {slot} was granted with generation {last} already")
        target, number, held, resource = self._target(port, kind, name, action)
        handle = Handle(generation, target, held, resource, self._allows(port, Action(action), resource))
        if target is Target.ALIAS and held is not None and self.far is not None:
            self.far.follow(held, number)
        port.handles[slot] = handle
        port.generations[slot] = generation
        allows = sum(ALLOW.get(allowed, 0) for allowed in handle.allows)
        answer = self._command(Command.GRANT, port.number, slot | generation << 16, int(target), number, allows)

        def granted(answer: asyncio.Future[int]) -> None:
            refused = answer.cancelled() or answer.exception() is not None or answer.result() != Status.OK
            if refused and port.handles.get(slot) is handle:
                del port.handles[slot]
                self._drop(handle)

        answer.add_done_callback(granted)
        return answer

    def release(self, port: BoardPort, slot: int, generation: int) -> asyncio.Future[int]:
        """Takes a handle back. Raises Refusal for one that is not there, or Violation."""
        _check_slot(slot, generation)
        handle = port.handles.get(slot)
        if handle is None or handle.generation != generation:
            raise Refusal("stale", f"slot {slot} has no handle of generation {generation}")
        del port.handles[slot]
        answer = self._command(Command.REVOKE, port.number, slot | generation << 16, int(SlotState.OPEN))
        answer.add_done_callback(lambda answer: self._drop(handle))
        return answer

    def revoke(self, port: BoardPort, slot: int) -> None:
        """Takes a handle away: what is under way is refused, requests fail, and its next use says so."""
        handle = port.handles.pop(slot)
        number = slot | handle.generation << 16
        answer = self._command(Command.REVOKE, port.number, number, int(SlotState.REVOKED))
        answer.add_done_callback(lambda answer: self._drop(handle))

    def _allows(self, port: BoardPort, action: Action, resource: Resource) -> frozenset[Action]:
        """`action` is allowed; a handle that is for one of send and request is for the other too, if that is."""
        if action not in ALLOW:
            return frozenset((action,))
        others = (other for other in ALLOW if other is not action)
        return frozenset((action, *(other for other in others if self._would_allow(port.principal, other, resource))))

    def _target(self, port: BoardPort, kind: str, name: str, action: str) -> tuple[Target, int, str | None, Resource]:
        """Kind and number of a destination, the name that is now held, and what the policy was asked about."""
        match kind, action:
            case "topic", "publish":
                _checked(check_topic, name)
                resource = Resource(kind=ResourceKind.TOPIC, name=name)
                self.require(port, Action.PUBLISH, resource)
                return Target.TOPIC, _held(self._topics, name, "topics (setting max_topics)"), name, resource
            case "alias", "send" | "request":
                _checked(check_alias, name)
                resource = Resource(kind=ResourceKind.ALIAS, name=name)
                self.require(port, Action(action), resource)
                if name not in self._members and (self.far is None or not self.far.has_alias(name)):
                    raise Refusal("not-found", f"nobody has the alias {name!r}")
                return Target.ALIAS, _held(self._aliases, name, "aliases (setting max_aliases)"), name, resource
            case "uuid", "send" | "request":
                to = self._by_uuid.get(uuid := _uuid(name))
                far = self.far.find(uuid) if to is None and self.far is not None else None
                if far is not None:
                    number, principal = far
                elif to is None or (to.state is PortState.DRAINING and to is not port):  # that one takes nothing new
                    raise Refusal("not-found", f"nobody has the uuid {name}")
                else:
                    number, principal = to.number, to.principal.uri
                resource = Resource(kind=ResourceKind.VNIC, name=principal)
                try:
                    self.require(port, Action(action), resource)
                except Refusal:
                    if self._may_know(port):
                        raise
                    raise Refusal("not-found", f"nobody has the uuid {name}") from None
                return Target.PORT, number, None, resource
            case _:
                raise Refusal("invalid", f"no handle is for {action!r} on {kind!r}")

    def require(self, port: BoardPort, action: Action, resource: Resource) -> None:
        """Raises Refusal unless the provider allows it."""
        if not self._authorize(port.principal, action, resource):
            raise Refusal("not-authorized", "", (port.principal.uri, action.value, str(resource)))
        self.granted(port, action, resource)

    def _may_know(self, port: BoardPort) -> bool:
        """Whether it may know who is there; to who may not, forbidden and absent look alike."""
        overlay = Resource(kind=ResourceKind.OVERLAY, name=self._overlay)
        return self._would_allow(port.principal, Action.READ_HEALTH, overlay)

    def _drop(self, handle: Handle) -> None:
        if handle.name is not None:
            (self._topics if handle.target is Target.TOPIC else self._aliases).drop(handle.name)
            if handle.target is Target.ALIAS and self.far is not None:
                self.far.unfollow(handle.name)
            handle.name = None

    # ── topics ────────────────────────────────────────────────────────────────────────────────────────────────────

    def subscribe(self, port: BoardPort, topic: str, number: int, renew: bool = False) -> asyncio.Future[int]:
        """`renew`: the count of missed publications goes on. Raises Refusal, or Violation."""
        if not 0 <= number < TOPICS:
            raise Violation(f"topic number {number}")
        _checked(functools.partial(check_topic, to_subscribe=True), topic)
        if number in port.topics:
            raise Refusal("stale", f"topic number {number} is in use")
        self.require(port, Action.SUBSCRIBE, Resource(kind=ResourceKind.TOPIC, name=topic))
        index = _held(self._topics, topic, "topics (setting max_topics)")
        port.topics[number] = topic
        self._subscribers[topic] = self._subscribers.get(topic, 0) + 1
        if self._subscribers[topic] == 1 and self.far is not None:
            self.far.on_interest(topic, True)
        answer = self._command(Command.SUBSCRIBE, port.number, index, number, int(renew))

        def subscribed(answer: asyncio.Future[int]) -> None:
            refused = answer.cancelled() or answer.exception() is not None or answer.result() != Status.OK
            if refused and port.topics.pop(number, None) is not None:
                self._drop_subscriber(topic)

        answer.add_done_callback(subscribed)
        return answer

    def unsubscribe(self, port: BoardPort, number: int) -> asyncio.Future[int]:
        """Raises Refusal for a number without a subscription, or Violation."""
        if not 0 <= number < TOPICS:
            raise Violation(f"topic number {number}")
        topic = port.topics.pop(number, None)
        if topic is None:
            raise Refusal("stale", f"topic number {number} has no subscription")
        index = _held(self._topics, topic, "")
        self._topics.drop(topic)
        answer = self._command(Command.UNSUBSCRIBE, port.number, index, number)
        answer.add_done_callback(lambda answer: self._drop_subscriber(topic))
        return answer

    def _drop_subscriber(self, topic: str) -> None:
        self._subscribers[topic] -= 1
        if not self._subscribers[topic]:
            del self._subscribers[topic]
            if self.far is not None:
                self.far.on_interest(topic, False)
        self._topics.drop(topic)

    def _command(
        self,
        kind: Command,
        port: int,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        pointer: Pointer = None,
    ) -> asyncio.Future[int]:
        assert self._thread is not None
        return self._thread.command(kind, port, a, b, c, d, pointer)


def _check_slot(slot: int, generation: int) -> None:
    if not (0 <= slot < SLOTS and 0 <= generation < _GENERATIONS):
        raise Violation(f"handle slot {slot}, generation {generation}")


def _checked(check: Callable[[str], str], name: str) -> None:
    try:
        check(name)
    except ValueError as error:
        raise Refusal("invalid", str(error)) from error


def _held(names: Names, name: str, what: str) -> int:
    number = names.hold(name)
    if number is None:
        raise Refusal("limit", f"this Vnet has too many {what}")
    return number


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise Refusal("invalid", f"{text[:64]!r} is no uuid") from error
