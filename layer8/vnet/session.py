"""One attached Vnic or observer: its requests, and its end.

    attached ──Detach──▶ detaching ──(transmit ring empty, or reaped)──▶ Done, closed
        ├──(pidfd: dead | socket closed | garbage | a violation)───────▶ closed
        └──(the Vnet stops)──▶ told ─────────────────────────────────▶ closed

However it ends, the port is removed: what it had sent is moved, what was on its way to it goes back. The session is
over when the switch has nothing left of the port; only then its numbers and its account are free.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable
from typing import Protocol
from uuid import UUID

from layer8.dataplane import Reason, Status
from layer8.health.directory import Directory, Event
from layer8.health_record import HealthRecord
from layer8.protocol.codec import Frame, Unknown
from layer8.protocol.control import (
    Announce,
    AuditPlace,
    Detach,
    Done,
    Draining,
    Elect,
    Explain,
    Failed,
    Farewell,
    Find,
    Grant,
    Health,
    Lead,
    Ping,
    PortClosed,
    Principals,
    ReadReport,
    Release,
    Reload,
    Renewal,
    Report,
    Reprove,
    Resume,
    Stopping,
    Subscribe,
    TopicRevoked,
    Topics,
    Unelect,
    Unsubscribe,
    Unwatch,
    Watch,
    WatchAck,
    WhoIs,
    Wire,
)
from layer8.security.provider import Action, Principal, Resource, ResourceKind
from layer8.version import VERSION
from layer8.vnet.admission import Newcomer
from layer8.vnet.board_port import BoardPort, PortState
from layer8.vnet.config import VnetConfig
from layer8.vnet.endings import Endings
from layer8.vnet.refusal import Refusal, Violation
from layer8.vnet.returns import Returns
from layer8.vnet.switch_thread import SwitchStopped
from layer8.vnet.switchboard import Switchboard

UNANSWERED = 256
"""Requests of one session that are worked on at a time; the next ones wait in its socket."""

_TOPICS_PER_PAGE = 100  # of 255 bytes at most: under 64 KiB
_HEALTH_PER_PAGE = 100
_ENDING_SECONDS = 0.03
_LONGEST_FIND = 86400.0  # seconds; whoever wants longer asks again

_OF_STATUS = {
    Status.GONE: ("not-found", "the destination has gone"),
    Status.INVALID: ("invalid", "the switch refused it"),
    Status.SYSTEM: ("limit", "this Vnet is out of memory"),
}


Administration = Reload | Explain | AuditPlace | Principals | Renewal | Reprove


class Hall(Protocol):
    """What a session needs of its Vnet."""

    config: VnetConfig
    board: Switchboard
    directory: Directory
    endings: Endings
    returns: Returns
    overlay: str
    stopping: bool

    def allowed(self, who: Principal, action: Action, what: Resource) -> bool: ...

    async def administer(self, session: Session, message: Administration) -> Done:
        """What is asked of the guard. Raises Refusal."""

    def handle(self, session: Session, message: Wire) -> None:
        """What is asked of the health desk."""

    async def refresh(self, alias: str | None = None, uuid: UUID | None = None) -> None:
        """Brings the directory's figures up to date: of all, of the members of an alias, or of one."""

    def changed(self, session: Session) -> None:
        """Its record says something else now."""

    def happened(self, events: list[Event]) -> None:
        """What the directory answered."""

    def closing(self, session: Session, why: str, violation: bool) -> None:
        """It is no longer there for others; `over` follows."""

    def over(self, session: Session) -> None:
        """Nothing is left of it."""


class Session:
    """`port` is None for an observer. One thread."""

    def __init__(self, hall: Hall, newcomer: Newcomer, loop: asyncio.AbstractEventLoop) -> None:
        self.newcomer = newcomer
        self.port: BoardPort | None = newcomer.port
        self.pid = newcomer.process.pid
        self.clean = False  # it said that it goes
        self.has_died = False  # its process surely has
        self.proofs = 0  # after the first
        self._hall = hall
        self._loop = loop
        self._stream = newcomer.stream
        self._unanswered = 0
        self._finds: set[int] = set()  # ids
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._watching = newcomer.process.is_watched
        self._stream.peer = self
        if self._watching:
            loop.add_reader(newcomer.process.fileno(), self._died)

    # ── the stream's peer ─────────────────────────────────────────────────────────────────────────────────────────

    def received(self, message: Wire | Unknown, frame: Frame) -> None:
        try:
            self._handle(message)
        except Refusal as refusal:
            if isinstance(id := getattr(message, "id", None), int):  # noqa: A001
                self._stream.send(_failed(id, refusal))
        except Violation as violation:
            self.violated(violation.reason)

    def violated(self, reason: str) -> None:
        self._close(reason, PortClosed(reason=reason), Reason.VIOLATION, violation=True)

    def ended(self, reason: str) -> None:
        """A process that ends closes its socket a moment before its pidfd tells how it ended."""
        if self._watching and not self._closing:
            self._loop.call_later(_ENDING_SECONDS, self._close, reason, None, Reason.GONE)
        else:
            self._close(reason, None, Reason.GONE)

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _handle(self, message: Wire | Unknown) -> None:
        match message:
            case Grant():
                self._grant(message)
            case Release(id=id, slot=slot, generation=generation):
                self._answer(id, self._hall.board.release(self.own_port(), slot, generation))
            case Subscribe(id=id, topic=topic, number=number, renew=renew):
                self._answer(id, self._hall.board.subscribe(self.own_port(), topic, number, renew), changed=True)
            case Unsubscribe(id=id, number=number):
                self._answer(id, self._hall.board.unsubscribe(self.own_port(), number), changed=True)
            case Find():
                self._start(self._find(message))
            case Health():
                self.require(Action.READ_HEALTH)
                self._start(self._health(message))
            case Topics(id=id, after=after):
                self.require(Action.READ_HEALTH)
                page = self._hall.board.topics_after(after, _TOPICS_PER_PAGE + 1)
                more = len(page) > _TOPICS_PER_PAGE
                self._stream.send(Done(id=id, topics=tuple(page[:_TOPICS_PER_PAGE]), more=more))
            case WhoIs(id=id, principal=number):
                uri = self._hall.board.principal_of(number)
                if uri is None:
                    raise Refusal("not-found", f"no principal has the number {number}")
                self._stream.send(Done(id=id, text=uri))
            case Draining(id=id):
                left = self._hall.board.drain(self.own_port())
                self._hall.changed(self)
                if left is None:
                    self._stream.send(Done(id=id))
                else:
                    self._answer(id, left)
            case Detach(id=id):
                self._detach(id)
            case Farewell(id=id, uuid=uuid, secret=secret):
                self._hall.returns.farewell(uuid, secret)
                self._stream.send(Done(id=id))
            case Resume(id=id, going=going, halves=halves):
                resumed = self._hall.board.resume(self.own_port(), going, halves)
                self._start(self._resume(id, resumed, None if going is None else halves))
            case Ping(id=id):
                self._stream.send(Done(id=id, text=VERSION))
            case Reload() | Explain() | AuditPlace() | Principals() | Renewal() | Reprove():
                self._start(self._administer(message))
            case Watch() | WatchAck() | Unwatch() | Announce() | Elect() | Lead() | Unelect() | Report() | ReadReport():
                self._hall.handle(self, message)
            case Unknown(id=id, kind=kind):
                if id is not None:  # without one it was an event, which a newer library may send
                    self._stream.send(Failed(id=id, code="unsupported", text=f"{kind!r} is not known to this Vnet"))
            case _:
                raise Violation(f"{type(message).__name__} after the attach")

    def _grant(self, request: Grant) -> None:
        slot, generation = request.slot, request.generation
        port = self.own_port()
        try:
            granted = self._hall.board.grant(port, slot, generation, request.kind, request.name, request.action)
        except Refusal as refusal:
            arrival = self._hall.returns.arrival(request.name) if refusal.code == "not-found" else None
            if arrival is None:
                raise
            self._start(self._grant_later(request, arrival))
        else:
            self._answer(request.id, granted, text=" ".join(sorted(port.handles[slot].allows)))

    async def _administer(self, message: Administration) -> None:
        try:
            self._stream.send(await self._hall.administer(self, message))
        except Refusal as refusal:
            self._stream.send(_failed(message.id, refusal))

    def topic_revoked(self, number: int, topic: str) -> None:
        """Its subscription has ended: it is no longer allowed."""
        self._stream.send(TopicRevoked(number=number, topic=topic))
        self._hall.changed(self)

    async def _grant_later(self, request: Grant, arrival: asyncio.Event) -> None:
        """While others are awaited nobody is told that a name is not there."""
        await arrival.wait()
        if not self._closing:
            self.received(request, b"")

    async def _resume(self, id: int, resumed: asyncio.Future[int], halves: bytes | None) -> None:  # noqa: A002
        try:
            status = await asyncio.shield(resumed)
        except SwitchStopped:
            self._stream.send(Failed(id=id, code="stopping", text="this Vnet is stopping"))
            return
        if status == Status.OK:
            await self._hall.returns.renewed(self.newcomer.uuid)
            endings = self._hall.endings
            over = endings.dead() if halves is None else endings.ask(self, halves)
            self._stream.send(Done(id=id, data=over))
        else:
            self._stream.send(Failed(id=id, code="invalid", text="the port is closed"))

    def own_port(self) -> BoardPort:
        if self.port is None:
            raise Refusal("invalid", "an observer has no port")
        if self._hall.stopping:
            raise Refusal("stopping", "this Vnet is stopping")
        return self.port

    def may(self, action: Action) -> bool:
        """Whether it may do this on the overlay."""
        resource = Resource(kind=ResourceKind.OVERLAY, name=self._hall.overlay)
        return self._hall.allowed(self.newcomer.principal, action, resource)

    def require(self, action: Action) -> None:
        """Raises Refusal unless it may."""
        if not self.may(action):
            overlay = str(Resource(kind=ResourceKind.OVERLAY, name=self._hall.overlay))
            raise Refusal("not-authorized", "", (self.newcomer.principal.uri, action.value, overlay))

    def tell(self, message: Wire) -> None:
        """Sends an answer or an event."""
        self._stream.send(message)

    def _answer(
        self,
        id: int,  # noqa: A002
        carried_out: asyncio.Future[int],
        *,
        changed: bool = False,
        text: str = "",
    ) -> None:
        """Answers when the switch has; the answer to a request is never older than what it asked for."""
        self._begin()

        def tell(carried_out: asyncio.Future[int]) -> None:
            self._end()
            if carried_out.cancelled() or isinstance(carried_out.exception(), SwitchStopped):
                self._stream.send(Failed(id=id, code="stopping", text="this Vnet is stopping"))
            elif carried_out.result() == Status.OK:
                if changed:
                    self._hall.changed(self)
                self._stream.send(Done(id=id, text=text))
            else:
                code, why = _OF_STATUS.get(Status(carried_out.result()), ("invalid", "the switch refused it"))
                self._stream.send(Failed(id=id, code=code, text=why))

        carried_out.add_done_callback(tell)

    def start(self, work: Awaitable[None]) -> None:
        """Work for this session that may wait; it ends with it. A Refusal is for the work itself to answer."""
        self._start(work)

    def _start(self, work: Awaitable[None]) -> None:
        self._begin()
        task = self._loop.create_task(self._carry_out(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, work: Awaitable[None]) -> None:
        try:
            await work
        finally:
            self._end()

    def _begin(self) -> None:
        self._unanswered += 1
        if self._unanswered == UNANSWERED:
            self._stream.hold()

    def _end(self) -> None:
        if self._unanswered == UNANSWERED:
            self._stream.release()
        self._unanswered -= 1

    async def _health(self, request: Health) -> None:
        if request.after is None:  # the next pages show what the first one found
            await self._hall.refresh()
        limit = max(1, min(request.limit, _HEALTH_PER_PAGE))
        records, more = self._hall.directory.page(request.filters, request.after, limit)
        self._stream.send(Done(id=request.id, records=records, more=more))

    async def _find(self, request: Find) -> None:
        try:
            to = self._finds_what(request)
            if math.isnan(request.timeout):
                raise Refusal("invalid", "the time-out is not a number")
            timeout = min(request.timeout, _LONGEST_FIND)
            if request.id in self._finds or len(self._finds) >= self._hall.config.finds_per_port:
                raise Refusal("limit", "too many finds wait already (setting finds_per_port)")
            directory, returns = self._hall.directory, self._hall.returns
            while directory.find(to) is None and (arrival := returns.arrival(request.to)) is not None:
                await arrival.wait()
            await self._hall.refresh(**({"uuid": to} if isinstance(to, UUID) else {"alias": to}))
            if self._closing:
                return
            if request.id in self._finds:
                raise Refusal("invalid", f"request {request.id} waits already")
            self._finds.add(request.id)
            self._hall.happened(self._hall.directory.wait((self, request.id), to, self._loop.time(), timeout))
        except Refusal as refusal:
            self._stream.send(_failed(request.id, refusal))

    def _finds_what(self, request: Find) -> UUID | str:
        if not request.is_uuid:
            alias = Resource(kind=ResourceKind.ALIAS, name=request.to)
            if not self._hall.allowed(self.newcomer.principal, Action.SEND, alias):
                self.require(Action.READ_HEALTH)
            return request.to
        self.require(Action.READ_HEALTH)
        try:
            return UUID(request.to)
        except ValueError:
            raise Refusal("invalid", f"{request.to[:64]!r} is no uuid") from None

    def found(self, id: int, record: HealthRecord | None, to: UUID | str) -> None:  # noqa: A002
        """The directory's answer to a find; None: nobody came in time."""
        self._finds.discard(id)
        if record is not None:
            self._stream.send(Done(id=id, uuid=record.uuid, record=record))
        else:
            self._stream.send(Failed(id=id, code="not-found", text=f"nobody has the name {to}"))

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _detach(self, id: int) -> None:  # noqa: A002
        self.clean = True
        if self.port is None:
            self._stream.send(Done(id=id))
            self._close("detached", None, Reason.GONE)
            return
        if self._closing:
            return
        self._leave("detached", violation=False)
        reaped = self._hall.board.remove(self.port, Reason.GONE, self._hold_ms())
        reaped.add_done_callback(functools.partial(self._reaped, id=id))
        if self.port.removed is not None:
            self.port.removed.add_done_callback(lambda removed: self._answer_when_moved(id, 0.0005))

    def _answer_when_moved(self, id: int, pause: float) -> None:  # noqa: A002
        """The Vnic may go as soon as its transmit ring is empty; what is held for stuck destinations is here."""
        if self.port is not None and self.port.state is not PortState.GONE and self._stream.is_open:
            if self.port.switch_port.counters().transmit_fill == 0:
                self._stream.finish(Done(id=id))
            else:
                self._loop.call_later(pause, self._answer_when_moved, id, min(pause * 2, 0.05))

    def stop(self, grace: float) -> None:
        """The Vnet stops; what was accepted is delivered first."""
        self._stream.send(Stopping(grace=grace))

    def close(self, reason: str) -> None:
        """Ends it, with the reason told."""
        self._close(reason, PortClosed(reason=reason), Reason.GONE)

    @property
    def is_closing(self) -> bool:
        return self._closing

    def expel(self, reason: str, *, lasting: bool = False) -> None:
        """It may not be here any more: what it had sent and could not be delivered yet does not wait for anybody.
        `lasting`: nor ever again."""
        self._close(reason, PortClosed(reason=reason, lasting=lasting), Reason.REVOKED, at_once=True)

    def part(self) -> None:
        """The Vnet ends and leaves the port as it is, for the next one to adopt."""
        self._unwatch()
        if self._closing:
            return
        self._closing = True
        for task in self._tasks:
            task.cancel()
        self._stream.finish()
        self._hall.over(self)

    def port_violated(self, reason: str) -> None:
        """The switch has closed the port."""
        self._close(reason, PortClosed(reason=reason), Reason.VIOLATION, violation=True)

    def _died(self) -> None:
        self.has_died = True
        self._close(self.newcomer.process.ending() or "its process has died", None, Reason.GONE)

    def process_ended(self) -> None:
        """Somebody saw that its process has gone or is a zombie: for one that has no pidfd here."""
        if not self._watching:
            self.has_died = True
            self._close("its process has died", None, Reason.GONE)

    def _hold_ms(self) -> int:
        return int(self._hall.config.hold * 1000)

    def _leave(self, why: str, *, violation: bool) -> None:
        """From now on it is not there for others. Once."""
        self._closing = True
        for id in self._finds:  # noqa: A001
            self._hall.directory.cancel((self, id))
        self._finds.clear()
        self._hall.closing(self, why, violation)

    def _close(
        self, why: str, last: Wire | None, reason: Reason, *, violation: bool = False, at_once: bool = False
    ) -> None:
        self._unwatch()
        if not self._closing:
            self._leave(why, violation=violation)
            if self.port is None:
                self._loop.call_soon(self._hall.over, self)
            else:
                wait_ms = 0 if violation or at_once else self._hold_ms()
                self._hall.board.remove(self.port, reason, wait_ms).add_done_callback(self._reaped)
        if last is not None and self._stream.is_open:
            self._stream.finish(last)
        else:
            self._stream.close(why)
        for task in self._tasks:
            task.cancel()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self.newcomer.process.fileno())
            self.newcomer.process.close()

    def _reaped(self, reaped: asyncio.Future[None], id: int | None = None) -> None:  # noqa: A002
        """The switch has nothing left of the port."""
        self.port = None
        if id is not None and self._stream.is_open:
            self._stream.finish(Done(id=id))
        self._hall.over(self)


def _failed(id: int, refusal: Refusal) -> Failed:  # noqa: A002
    return Failed(id=id, code=refusal.code, text=refusal.text[:1000], fields=refusal.fields)
