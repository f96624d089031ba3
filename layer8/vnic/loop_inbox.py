"""Who reads the receive ring of an AsyncVnic: its loop, whenever a task waits for what may stand there.

    nobody waits    nobody reads: the ring fills and the switch holds the senders back, as with threads
    a task waits    it reads what is there itself; found empty, the ring is *armed*: the next record rings the chime
    a stranger      the first record of a principal: its name is asked first, and nobody reads on until it is known
    the chime       a descriptor of the loop's own selector; reads on until everybody has what they wait for, or arms

No thread stands between a message and its task. The keeper's thread reads only the rest of a ring whose Vnet is gone.
A message is taken from its queue and returned in one go, so a cancelled `receive` has taken nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from layer8.dataplane import Port, Status
from layer8.errors import Closed
from layer8.health_record import HealthRecord
from layer8.message import Message
from layer8.vnic.async_request import AsyncRequest
from layer8.vnic.attachment import Attachment
from layer8.vnic.calls import Call, Calls, Outcome
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.dispatcher import Dispatcher, Job
from layer8.vnic.inbox import Inbox
from layer8.vnic.inquiry import Inquiry
from layer8.vnic.loop import (
    Home,
    LoopGate,
    LoopPresence,
    LoopQuestions,
    LoopRoom,
    LoopTurn,
    SecondLook,
    Waiters,
    is_cancelled,
)
from layer8.vnic.parts import Parts
from layer8.vnic.presence import Presence
from layer8.vnic.questions import Questions
from layer8.vnic.queues import Queue, Sink
from layer8.vnic.records import Records, Stranger
from layer8.vnic.room import Room
from layer8.vnic.waiting import FOREVER, NOW, Turn

_PIECES = 16  # of batches, read in one go; then the loop's other work has its turn
_HANDLED = 64

_logger = logging.getLogger("layer8.vnic")

T = TypeVar("T")


class LoopInbox(Inbox):
    """See the head of this module. `wait_at`, `take_from` and `wait_for` stand in place of `wait` and `take`."""

    def __init__(
        self,
        home: Home,
        room: LoopRoom,
        questions: Questions,
        presence: Presence,
        messages: Queue[Message],
        jobs: Queue[Job],
        records: Records,
    ) -> None:
        super().__init__(presence, messages, jobs, records)
        self._home = home
        self._room = room
        self._questions = questions
        self._inquiry: Inquiry | None = None
        self._curious = Waiters(home)  # who take what is there, and wait for its name
        records.names_first = True
        self._queued: dict[Queue[Any], Waiters] = {}
        self._calling = 0  # tasks that wait for the outcome of a call
        self._armed = False
        self._turning = False
        self._watch: select.epoll | None = None
        self._second_look = SecondLook(home, self._look_again)
        room.armed = self._second_look.start

    # ── waiting ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def wait_at(self, queue: Queue[Any], deadline: float, until_drained: bool = False) -> bool:
        """Until something is in `queue` for this task. False: the deadline came first.

        `until_drained`: after drain() an empty ring is the end. Raises Closed at the end.
        """
        if self._is_free(queue):
            return True
        self._check(until_drained)
        if not self._armed or deadline == NOW:
            empty = self._read_until(lambda: self._is_free(queue))
            if self._is_free(queue):
                return True
            self._check(until_drained)
        while deadline == NOW:
            if self._inquiry is None:
                return False
            await self._curious.wait(FOREVER)
            self._read_until(lambda: self._is_free(queue))
            if self._is_free(queue):
                return True
        waiters = self._queued.get(queue)
        if waiters is None:
            waiters = self._queued[queue] = Waiters(self._home)
        if not self._armed:
            self._go_on(empty)
        try:
            return await waiters.wait(deadline)
        finally:
            if not waiters and not waiters.woken and self._queued.get(queue) is waiters:
                del self._queued[queue]

    def _is_free(self, queue: Queue[Any]) -> bool:
        """Whether something is there that no task before this one has waited for."""
        waiters = self._queued.get(queue)
        if waiters is None:
            return queue.ready()
        return queue.ended or (not waiters and len(queue.items) > waiters.woken)

    async def take_from(self, queue: Queue[T], deadline: float) -> T | None:
        """The next message of a queue, None when there was none until the deadline. Raises Closed at the end, or the
        reason why nothing comes any more."""
        while self._is_free(queue) or await self.wait_at(queue, deadline, until_drained=True):
            if queue.is_long:
                self.taking(queue, 1)
            item = queue.take()
            if item is not None:
                return item
            if queue.ended:
                raise queue.why()
        return None

    async def take_many_from(self, queue: Queue[T], limit: int, deadline: float) -> list[T]:
        """Up to `limit` messages, none when none has come until the deadline. Raises Closed at the end."""
        found: list[T] = []
        while not found and (self._is_free(queue) or await self.wait_at(queue, deadline, until_drained=True)):
            if queue.is_long:
                self.taking(queue, limit)
            queue.take_into(found, limit)
        return found

    async def wait_for(self, call: LoopCall, deadline: float) -> bool:
        """Until the call has an outcome. False: the deadline came first."""
        self._calling += 1
        try:
            while not call.ready():
                if not self._armed:
                    empty = self._read_until(call.ready)
                    if call.ready():
                        break
                    self._go_on(empty)
                if not await call.gate.wait(deadline):
                    return call.ready()
            return True
        finally:
            self._calling -= 1

    # ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_once(self) -> bool:
        """A piece of a batch, if there is one. False: the ring was empty, or there is nothing to read from now."""
        with self._lock:
            port = self._port
            if port is None or self._leader or self._inquiry is not None:
                return False
            self._leader = threading.get_ident()
        try:
            found = self._read(port)
        finally:
            self._leader = 0
        if not found and self._presence.draining and self._inquiry is None:
            self._drained = True
        return found

    def _build(self, port: Port) -> bool:
        while True:
            try:
                return super()._build(port)
            except Stranger as stranger:
                if self._home.is_here and self._ask(stranger.number):  # the keeper takes the rest of a ring as it is
                    return False
                self._records.admit(stranger.number)

    def _ask(self, number: int) -> bool:
        """Whether the Vnet is asked; then `_told` goes on."""
        if self._attachment is None:
            return False
        try:
            self._inquiry = Inquiry(self._home, self._questions, self._attachment, number, self._told)
        except ConnectionLost:
            return False
        return True

    def _told(self) -> None:
        inquiry, self._inquiry = self._inquiry, None
        if inquiry is not None and inquiry.attachment is self._attachment and not inquiry.is_answered:
            self._records.admit(inquiry.number)
        self._curious.wake()
        self._turn_soon()

    def _read_until(self, ready: Callable[[], bool]) -> bool:
        """Reads for a while, until `ready()`. Whether the ring was found empty."""
        for _ in range(_PIECES):
            found = self._read_once()
            self._wake_ready()
            if not found:
                return True
            if ready():
                break
        return False

    def _go_on(self, empty: bool) -> None:
        """Somebody waits: for the chime, or for what has been read only in part."""
        if empty:
            self._arm()
        else:
            self._turn_soon()

    def _turn(self) -> None:
        """Reads until everybody has what they wait for, or the ring is empty; then the chime is waited for."""
        self._turning = False
        for _ in range(_PIECES):
            self._wake_ready()
            if not self._is_wanted():
                return
            if not self._read_once():
                self._wake_ready()
                if self._is_wanted() and not self._armed:
                    self._arm()
                return
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            self._home.loop.call_soon(self._turn)

    def _is_wanted(self) -> bool:
        return self._calling > 0 or any(self._queued.values())

    def _arm(self) -> None:
        port = self._port
        if port is None or self._inquiry is not None:
            return  # `attach` looks, or `_told`
        status = port.arm_arrived()
        self._armed = status == 0
        self._second_look.start()
        if status > 0:
            self._turn_soon()
        elif status == Status.CORRUPT:
            self._break_off(port)

    def _wake_ready(self) -> None:
        for queue, waiters in list(self._queued.items()):
            if queue.ended or (self._drained and not queue.items):
                waiters.wake()
            elif queue.items:
                waiters.wake(len(queue.items) - waiters.woken)

    def _after_batch(self) -> None:
        super()._after_batch()
        if not self._home.is_here:  # the keeper takes the rest of a ring
            self._home.run(self._wake_ready)

    def _rung(self) -> None:
        """The chime: something has arrived, or there is room, or a wake-up that is no longer needed."""
        assert self._watch is not None
        self._watch.poll(0)
        self._armed = False
        self._room.look()
        self._turn()

    def _look_again(self) -> bool:
        """What the chime should have told. Whether somebody waits for it still."""
        if self._armed and self._is_wanted():
            self._arm()
        if self._room:
            self._room.look()
        return bool(self._room) or self._is_wanted()

    def wake_all(self) -> None:
        """Any thread. Everybody who waits looks around: the state has changed."""
        self._home.run(self._look_around)

    def _look_around(self) -> None:
        self._armed = False
        self._room.wake_all()
        self._turn()
        for waiters in list(self._queued.values()):
            waiters.wake()

    # ── for layer8.vnic.core, any thread ───────────────────────────────────────────────────────────────────────────

    def attach(self, attachment: Attachment) -> None:
        super().attach(attachment)
        if not self._home.loop.is_closed():
            self._home.run(self._listen, select.epoll.fromfd(attachment.take_chime()))
            self.wake_all()

    def _listen(self, watch: select.epoll) -> None:
        """A loop that ends before it comes to this drops `watch`, which closes it."""
        self._hang_up()
        self._watch = watch
        self._home.loop.add_reader(watch.fileno(), self._rung)

    def _hang_up(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            if not self._home.loop.is_closed():
                self._home.loop.remove_reader(watch.fileno())
            watch.close()

    def forget(self) -> None:
        super().forget()
        if self._home.loop.is_closed():
            self._hang_up()
        else:
            self._home.run(self._hang_up)

    def forked(self) -> None:
        """In the child, where the loop is not to be used: only the copy of the descriptor is closed."""
        super().forked()
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()


class LoopOutcomes(deque[Outcome]):
    """Of one call; the first one opens the gate of the task that waits."""

    __slots__ = ("_gate",)

    def __init__(self, gate: LoopGate) -> None:
        super().__init__()
        self._gate = gate

    def append(self, outcome: Outcome, /) -> None:
        super().append(outcome)
        self._gate.open()


class LoopCall(Call):
    __slots__ = ("gate",)

    def __init__(self, home: Home, correlation: int, to: UUID | HealthRecord | str, timeout: float | None) -> None:
        super().__init__(correlation, to, timeout)
        self.gate = LoopGate(home)
        self.outcomes = LoopOutcomes(self.gate)


class LoopCalls(Calls):
    def __init__(self, home: Home) -> None:
        super().__init__()
        self._home = home

    def _make(self, correlation: int, to: UUID | HealthRecord | str, timeout: float | None) -> LoopCall:
        return LoopCall(self._home, correlation, to, timeout)

    def begin(self, to: UUID | HealthRecord | str, timeout: float | None) -> LoopCall:
        call = super().begin(to, timeout)
        assert isinstance(call, LoopCall)
        return call


class LoopDispatcher(Dispatcher):
    """Runs handlers as tasks of the loop: one at a time, in order; more of them with `more`."""

    def __init__(self, name: str, home: Home) -> None:
        super().__init__(name)
        self._home = home
        self.tasks: set[asyncio.Task[None]] = set()
        self._begun = False  # with the jobs of the Vnic itself

    def start(self, inbox: Inbox) -> None:
        if not self._begun:
            self._begun = True
            self.more(inbox, self.jobs)

    def more(self, inbox: Inbox, jobs: Queue[Job]) -> None:
        assert isinstance(inbox, LoopInbox)
        task = self._home.loop.create_task(self._work(inbox, jobs), name=self._name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _work(self, inbox: LoopInbox, jobs: Queue[Job]) -> None:
        handled = 0
        while not jobs.ended:
            try:
                await inbox.wait_at(jobs, FOREVER)
            except Closed:
                return
            if jobs.is_long:
                inbox.taking(jobs, 1)
            job = jobs.take()
            if job is None:
                continue
            await self._run_here(*job)
            del job  # no message is kept alive by the wait for the next
            handled += 1
            if handled % _HANDLED == 0:
                await asyncio.sleep(0)

    async def _run_here(self, sink: Sink, item: object) -> None:
        if sink.closed or sink.handler is None:
            return
        try:
            result = sink.handler(item)
            if inspect.isawaitable(result):
                await result
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or is_cancelled(error):
                raise
            self.failures += 1
            _logger.exception("a handler failed on %r (%d so far)", item, self.failures)

    def join(self, seconds: float) -> None:
        """`AsyncVnic.close` waits for them, in the loop."""

    def forked(self) -> None:
        self.tasks = set()
        self.jobs.items.clear()


class LoopParts(Parts):
    """The parts of an AsyncVnic."""

    chime = True
    request = AsyncRequest

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.home = Home(loop)
        self._room = LoopRoom(self.home)
        self._questions: Questions

    def turn(self) -> Turn:
        return LoopTurn(self.home)

    def presence(self, what: str) -> Presence:
        return LoopPresence(what, self.home)

    def questions(self, presence: Presence) -> Questions:
        self._questions = LoopQuestions(presence, self.home)
        return self._questions

    def room(self) -> Room:
        return self._room

    def calls(self) -> Calls:
        return LoopCalls(self.home)

    def dispatcher(self, name: str) -> Dispatcher:
        return LoopDispatcher(name, self.home)

    def inbox(self, presence: Presence, messages: Queue[Message], jobs: Queue[Job], records: Records) -> Inbox:
        return LoopInbox(self.home, self._room, self._questions, presence, messages, jobs, records)
