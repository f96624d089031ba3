"""Links to adjacent Vnets: sessions, the connections under them, and what is said over them.

    accepted or dialled ──TLS──▶ greeted ──▶ begin: sessions say what it replaces or resumes
                                               ├─ Replaced, Resumed   the old thread ends, LINK_DOWN; LINK_UP, a new one
                                               ├─ Opened              ADD_LINK, LINK_UP, the thread starts
                                               └─ GivenUp             REMOVE_LINK: what is owed to it goes back
    a connection ends ──▶ Silent ──(5 s)──▶ GivenUp

What happens to one session happens in order: each adjacent Vnet has a chain of steps, since a thread must have let go
of its queues before the switch is told, and the switch before the next connection. What the records of a link mean,
says `layer8.vnet.far`; the directory, `layer8.vnet.shared_directory`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Protocol
from uuid import UUID

from layer8.health_record import LinkRecord
from layer8.protocol import sessions as protocol
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.link import LinkRefusal, Self
from layer8.protocol.link_messages import (
    Bye,
    Delta,
    Digest,
    Disinterest,
    Forgot,
    Fresh,
    Have,
    Interest,
    Interests,
    Linked,
    Open,
    Part,
    Reach,
    Repair,
    TrustNumbers,
    TrustPart,
    body,
    linked,
)
from layer8.protocol.sessions import Sessions
from layer8.protocol.statement import Channel
from layer8.vnet import greeting
from layer8.vnet.adjacent import Adjacent, Connection, Plane
from layer8.vnet.complaints import Complaints
from layer8.vnet.dialled import dialled
from layer8.vnet.greeting import Greeted, greet
from layer8.vnet.link_thread import LinkThread
from layer8.vnet.shared_directory import SharedDirectory, Told
from layer8.vnet.tls_port import TlsConnection, spelled, tls_binding
from layer8.vnet.workers import Workers

TICK_SECONDS = 0.5  # while somebody is silent, who may be heard again
DIGEST_SECONDS = 30.0
REPAIR_SECONDS = 1.0  # between two whole states on request of the same Vnet

_log = logging.getLogger("layer8.vnet")


class Host(greeting.Host, Told, Protocol):
    """What links need of their Vnet."""

    stopping: bool


class Links:
    """`plane`: the switch's side. `until_lost` and `dial` are for whoever dials. One thread: the loop's.

    `on_session(vnet, there)`: a session has come or gone. `on_state(vnet)`: its whole part of the directory has come.
    `on_reach(addresses)`: where other Vnets are said to be. `on_up(adjacent)`: a connection stands.
    `on_trust(adjacent, message)`: what it says of roots and revocations.
    """

    def __init__(self, vnet: Host, own: Callable[[], Self], plane: Plane, loop: asyncio.AbstractEventLoop) -> None:
        config = vnet.config
        self._vnet = vnet
        self._own = own
        self._plane = plane
        self._loop = loop
        self.sessions = Sessions(vnet.uuid, keep_alive=config.keep_alive, give_up=config.give_up)
        self.directory = SharedDirectory(vnet, loop, self.tell)
        self.adjacent: dict[UUID, Adjacent] = {}
        self.on_session: Callable[[UUID, bool], None] = lambda vnet, there: None
        self.on_state: Callable[[UUID], None] = lambda vnet: None
        self.on_reach: Callable[[Sequence[str]], None] = lambda addresses: None
        self.on_up: Callable[[Adjacent], None] = lambda adjacent: None
        self.on_trust: Callable[[Adjacent, TrustNumbers | TrustPart], None] = lambda adjacent, message: None
        self._handshakes = Workers(f"dial-{config.name}", 2, loop)
        self._complaints = Complaints(_log, loop)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: dict[UUID, asyncio.Task[None]] = {}  # of sessions that are over, the last step
        self._losses: dict[UUID, list[asyncio.Future[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._digest_at = 0.0
        self._fresh_at = float("-inf")
        self._is_open = False
        self._closed = False

    # ── connections come ──────────────────────────────────────────────────────────────────────────────────────────

    def accept(self, accepted: TlsConnection) -> None:
        """The TLS port's handler."""
        self._start(self._accept(accepted))

    async def _accept(self, accepted: TlsConnection) -> None:
        taken = False
        connection = Connection(accepted.socket, accepted.address, False, self._loop)
        current = asyncio.current_task()
        assert current is not None

        def expired() -> None:
            current.cancel()

        accepted.on_expired = expired
        seen = Channel(certificate=accepted.certificate, text=f"a Vnet at {accepted.address}")

        def begin(greeted: Greeted) -> None:
            nonlocal taken
            self._begin(greeted, connection)
            taken = True

        try:
            await self._greet(connection, accepted.binding, seen, begin)
        except (LinkRefusal, ProtocolViolation, OSError, TimeoutError) as error:
            self._complain(accepted.address, error)
        except asyncio.CancelledError:
            if not taken and not self._closed:
                return  # its time was over, and the port has said so
            raise
        finally:
            if taken:
                accepted.settled()
            else:
                accepted.close()

    async def dial(self, host: str, port: int) -> UUID:
        """Connects, and returns whose link it is once that stands. Raises LinkRefusal (also "duplicate", with the
        Vnet's uuid in `peer`), ProtocolViolation, OSError or TimeoutError."""
        tls = await dialled(self._vnet, self._handshakes, self._loop, host, port)
        taken = False
        try:
            connection = Connection(tls, spelled((host, port)), True, self._loop)
            seen = Channel(certificate=tls.getpeercert(binary_form=True), text=f"the Vnet at {connection.address}")

            def begin(greeted: Greeted) -> None:
                nonlocal taken
                self._begin(greeted, connection)
                taken = True

            return await self._greet(connection, tls_binding(tls), seen, begin)
        finally:
            if not taken:
                tls.close()

    async def _greet(
        self, connection: Connection, binding: bytes, seen: Channel, begin: Callable[[Greeted], None]
    ) -> UUID:
        return await greet(
            self._vnet,
            self._own(),
            self.sessions,
            connection.tls,
            self._loop,
            dials=connection.dialled,
            binding=binding,
            seen=seen,
            begin=begin,
            refused=lambda vnet: "this Vnet stops" if self._closed or self._vnet.stopping else None,
        )

    def _begin(self, greeted: Greeted, connection: Connection) -> None:
        """Raises Duplicate."""
        hello = greeted.hello
        actions = self.sessions.begin(
            hello.vnet, hello.epoch, greeted.session, greeted.serial, connection, self._loop.time()
        )
        self._carry_out(actions)
        adjacent = self.adjacent[hello.vnet]
        adjacent.hello, adjacent.principal = hello, greeted.principal
        adjacent.restarted |= any(isinstance(action, protocol.Resumed) and action.restarted for action in actions)
        self._chain(adjacent, self._connect, adjacent, connection)
        self._set_timer()

    # ── what sessions say is to be done ───────────────────────────────────────────────────────────────────────────

    def _carry_out(self, actions: Sequence[protocol.Action]) -> None:
        for action in actions:
            match action:
                case protocol.Opened(peer=peer):
                    self.adjacent[peer] = adjacent = Adjacent(peer)
                    adjacent.steps = self._ending.pop(peer, None)
                    self._chain(adjacent, self._plane.opened, adjacent)
                    self.on_session(peer, True)
                case protocol.Replaced(connection=Connection() as old):
                    old.end("another connection has replaced it")
                case protocol.Silent(peer=peer):
                    self._silent(self.adjacent[peer])
                case protocol.Heard(peer=peer):
                    self._live(self.adjacent[peer])
                case protocol.GivenUp(peer=peer, connection=old, reason=reason):
                    if isinstance(old, Connection):
                        old.end(reason, body(Bye(code="given-up", text=reason)), read=False)
                    self._over(self.adjacent.pop(peer), reason)

    def _silent(self, adjacent: Adjacent) -> None:
        adjacent.is_live = False
        adjacent.reason = "its Vnet is silent"
        adjacent.since = time.time()
        self.directory.silent(adjacent.vnet, adjacent.reason)
        self._vnet.health.put_own_record()
        self._lost(adjacent.vnet)

    def _live(self, adjacent: Adjacent) -> None:
        if not adjacent.is_live:
            adjacent.is_live, adjacent.reason, adjacent.since = True, "", time.time()
            self.directory.heard(adjacent.vnet)
            self._vnet.health.put_own_record()

    def _over(self, adjacent: Adjacent, reason: str) -> None:
        adjacent.is_live, adjacent.is_over, adjacent.reason = False, True, reason
        _log.warning("the session with Vnet %s is given up: %s", adjacent.name, reason)
        self.directory.given_up(adjacent.vnet, reason)
        self._chain(adjacent, self._end, adjacent, reason)
        assert adjacent.steps is not None
        self._ending[adjacent.vnet] = adjacent.steps
        self._lost(adjacent.vnet)
        self.on_session(adjacent.vnet, False)

    def _lost(self, vnet: UUID) -> None:
        for waiting in self._losses.pop(vnet, ()):
            if not waiting.done():
                waiting.set_result(None)

    async def until_lost(self, vnet: UUID) -> None:
        """Returns when this Vnet is not heard, at once if it is not now."""
        if self.sessions.is_live(vnet) and not self._closed:
            waiting = self._loop.create_future()
            self._losses.setdefault(vnet, []).append(waiting)
            await waiting

    # ── the chain of one session ──────────────────────────────────────────────────────────────────────────────────

    def _chain(self, adjacent: Adjacent, step: Callable[..., Coroutine[None, None, None]], *arguments: object) -> None:
        before = adjacent.steps

        async def run() -> None:
            if before is not None:
                await asyncio.wait([before])
            await step(*arguments)

        adjacent.steps = self._start(run())

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a step of a link failed", exc_info=task.exception())

    async def _connect(self, adjacent: Adjacent, connection: Connection) -> None:
        """The present connection, once the one before it has gone."""
        await self._settle(adjacent)
        session = self.sessions.get(adjacent.vnet)
        if adjacent.is_over or session is None or session.connection is not connection:
            connection.tls.close()  # it was replaced or given up meanwhile
            return
        hello, principal = adjacent.hello, adjacent.principal
        assert hello is not None
        assert principal is not None
        try:
            connection.queues = self._plane.make_queues()
        except (OSError, MemoryError) as error:
            _log.warning("no room for a link with Vnet %s: %s", adjacent.name, error)
            connection.tls.close()
            self._carry_out(self.sessions.lost(connection))
            return
        connection.thread = LinkThread(
            connection.queues,
            connection.tls,
            self._loop,
            name=hello.name or "link",
            keep_alive=self._vnet.config.keep_alive,
            on_control=lambda said: self._said(adjacent, connection, said),
            on_closed=lambda reason: self._closed_by(adjacent, connection, reason),
        )
        adjacent.connection = connection
        self.directory.flush()
        adjacent.say(self.directory.connected(adjacent.vnet, hello.epoch, principal))
        connection.thread.start()
        if session.connection is not connection:
            connection.end("another connection has replaced it")
            return
        how = "to" if connection.dialled else "from"
        _log.info("link with Vnet %s is up (%s %s)", adjacent.name, how, connection.address)
        self._live(adjacent)
        self._plane.ready(adjacent)
        self.on_up(adjacent)
        if self._is_open:
            adjacent.say(Open())

    def open(self) -> None:
        """Whoever is to be sent to is here: the others may send records."""
        if not self._is_open:
            self._is_open = True
            self.tell(Open())

    async def _let_out(self, adjacent: Adjacent, connection: Connection) -> None:
        """The other side takes records."""
        if adjacent.connection is connection and not connection.is_up and not connection.ended.done():
            assert connection.queues is not None
            connection.is_up = True
            restarted, adjacent.restarted = adjacent.restarted, False
            await self._plane.up(adjacent, connection.queues, restarted)

    async def _end(self, adjacent: Adjacent, reason: str) -> None:
        await self._settle(adjacent)
        await self._plane.over(adjacent, reason)

    async def _settle(self, adjacent: Adjacent) -> None:
        """Until the connection before has gone, from its thread and from the switch."""
        connection = adjacent.connection
        if connection is not None and connection.thread is not None:
            connection.end("another connection has replaced it")
            await connection.ended
            assert connection.queues is not None
            adjacent.counted = adjacent.figures()
            adjacent.connection = None
            await self._plane.down(adjacent, connection.queues, connection.is_up)

    def _closed_by(self, adjacent: Adjacent, connection: Connection, reason: str) -> None:
        """Its thread has ended."""
        if not connection.ended.done():
            connection.ended.set_result(reason)
        session = self.sessions.get(adjacent.vnet)
        if session is not None and session.connection is connection:
            _log.info("link with Vnet %s is down: %s", adjacent.name, reason)
        self._carry_out(self.sessions.lost(connection))
        self._chain(adjacent, self._settle_if, adjacent, connection)

    async def _settle_if(self, adjacent: Adjacent, connection: Connection) -> None:
        if adjacent.connection is connection:
            await self._settle(adjacent)

    # ── what is said ──────────────────────────────────────────────────────────────────────────────────────────────

    def tell(self, message: Linked) -> None:
        """To every adjacent Vnet with a connection."""
        data = body(message)
        for adjacent in self.adjacent.values():
            if adjacent.connection is not None and adjacent.connection.thread is not None:
                adjacent.connection.thread.send_control(data)

    def introduce(self, vnet: UUID, message: Linked) -> None:
        """Says something to an adjacent Vnet as soon as its connection stands."""
        adjacent = self.adjacent.get(vnet)
        if adjacent is not None:
            self._chain(adjacent, adjacent.introduce, message)

    def _said(self, adjacent: Adjacent, connection: Connection, said: Sequence[bytes]) -> None:
        if adjacent.connection is not connection or adjacent.is_over:
            return
        try:
            for data in said:
                message = linked(data)
                if message is not None and self.adjacent.get(adjacent.vnet) is adjacent:
                    self._heard(adjacent, message)
        except ProtocolViolation as violation:
            self.violated(adjacent, violation.reason)

    def _heard(self, adjacent: Adjacent, message: Linked) -> None:
        match message:
            case Have():
                for answer in self.directory.home.answer(message):
                    adjacent.say(answer)
                adjacent.say(self.directory.home.digest())
            case Part() | Delta() | Digest():
                repair, whole = self.directory.take(adjacent.vnet, message)
                if repair is not None:
                    adjacent.say(repair)
                agrees = whole or (isinstance(message, Digest) and repair is None)
                if agrees and not adjacent.has_state:
                    adjacent.has_state = True
                    self.on_state(adjacent.vnet)
            case Repair():
                if self._loop.time() >= adjacent.repaired + REPAIR_SECONDS:
                    adjacent.repaired = self._loop.time()
                    for part in self.directory.home.everything():
                        adjacent.say(part)
            case Fresh():
                self._refresh()
            case Interest() | Interests() | Disinterest() | Forgot():
                self._plane.said(adjacent, message)
            case Open():
                if adjacent.connection is not None:
                    self._chain(adjacent, self._let_out, adjacent, adjacent.connection)
            case TrustNumbers() | TrustPart():
                self.on_trust(adjacent, message)
            case Reach(addresses=addresses):
                self.on_reach(addresses)
            case Bye(code=code, text=text):
                reason = "it has stopped" if code == "stopping" else f"it has given the session up: {text[:200]}"
                self._carry_out(self.sessions.give_up(adjacent.vnet, reason))

    def violated(self, adjacent: Adjacent, reason: str) -> None:
        """It broke the protocol: this link alone is closed."""
        self._complaints.warn("violation", "Vnet %s broke the protocol of its link: %s", adjacent.name, reason)
        if adjacent.connection is not None:
            adjacent.connection.end(f"violation: {reason}", body(Bye(code="violation", text=reason[:200])))
        self._carry_out(self.sessions.give_up(adjacent.vnet, f"it broke the protocol: {reason}"))

    def _refresh(self) -> None:
        if self._loop.time() >= self._fresh_at + 1.0:
            self._fresh_at = self._loop.time()
            self._start(self._vnet.health.refresh())

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _set_timer(self) -> None:
        if self._closed or not self.adjacent:
            return
        soon = self._loop.time() + min(TICK_SECONDS, self._vnet.config.give_up / 4)
        when = soon if self.sessions.has_silent else min(self.sessions.deadline, max(soon, self._digest_at))
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for adjacent in self.adjacent.values():
            connection = adjacent.connection
            if connection is not None and connection.thread is not None:
                self.sessions.heard(connection, connection.thread.heard)
        self._carry_out(self.sessions.tick(self._loop.time()))
        if self._loop.time() >= self._digest_at:
            self._digest_at = self._loop.time() + DIGEST_SECONDS
            self.directory.flush()
            self.tell(self.directory.home.digest())
        self._set_timer()

    def records(self) -> Iterator[LinkRecord]:
        """For the health record of this Vnet."""
        return (adjacent.record() for adjacent in self.adjacent.values())

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def refuse(self, vnet: UUID, code: str, reason: str) -> None:
        """Gives a session up from here."""
        adjacent = self.adjacent.get(vnet)
        if adjacent is not None:
            if adjacent.connection is not None:
                adjacent.connection.end(reason, body(Bye(code=code, text=reason)))
            self._carry_out(self.sessions.give_up(vnet, reason))

    def cut(self, vnet: UUID, reason: str) -> None:
        """Ends the present connection; the session goes on with the next one."""
        adjacent = self.adjacent.get(vnet)
        if adjacent is not None and adjacent.connection is not None:
            adjacent.connection.end(reason)

    async def close(self) -> None:
        """Says that this Vnet stops, and ends everything. Safe twice."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for vnet in tuple(self._losses):
            self._lost(vnet)
        ends: list[Awaitable[object]] = []
        for adjacent in self.adjacent.values():
            connection = adjacent.connection
            if connection is not None and connection.thread is not None:
                connection.end("this Vnet stops", body(Bye(code="stopping")))
                ends.append(connection.ended)
        if ends:
            await asyncio.wait([asyncio.ensure_future(end) for end in ends], timeout=2.0)
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
        self.directory.close()
        self._handshakes.close()

    def _complain(self, address: str, error: Exception) -> None:
        if isinstance(error, LinkRefusal) and error.code in ("duplicate", "self", "stopping"):
            return
        text = str(error) or type(error).__name__
        self._complaints.warn("link", "no link with the Vnet at %s: %s", address, text)
