"""How an AsyncVnic waits: the waits of `layer8.vnic.waiting` and of a Vnic's parts, made of futures of one event loop.

Everything here belongs to the loop's thread, but for what is said to be for any thread: `Home.run` and what stands on
it. Other threads (the keeper, a helper that attaches) change the state first and wake afterwards; the wake runs in the
loop, where whoever waits has looked at the state and registered in one go. So none is lost.
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable

from layer8.dataplane import Port
from layer8.protocol.control import Wire
from layer8.vnic.attachment import Attachment
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.presence import Presence
from layer8.vnic.questions import Answer, Questions
from layer8.vnic.room import Room
from layer8.vnic.waiting import FOREVER, NOW, Turn

LOOK_AGAIN = 1.0
"""Seconds between two looks of who waits for the chime. A thread looks more often, because of signals."""

_WOKEN_AT_ONCE = 64  # senders of one destination: more would find the ring full again

Woken = asyncio.Future[bool]


class Home:
    """The event loop that an AsyncVnic lives in."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    @property
    def is_here(self) -> bool:
        """Whether it is the loop that runs the caller."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    def run(self, callback: Callable[..., object], *arguments: object) -> None:
        """Any thread: in the loop, now or soon. A loop that is closed has nobody who waits."""
        if self.is_here:
            callback(*arguments)
            return
        try:
            self.loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            pass

    async def until(self, future: Woken, deadline: float) -> bool:
        """Waits for a future that others set to True. False: the deadline came first."""
        if deadline == FOREVER:
            return await future
        seconds = 0.0 if deadline == NOW else max(0.0, deadline - time.monotonic())
        timer = self.loop.call_later(seconds, _expire, future)
        try:
            return await future
        finally:
            timer.cancel()


def _expire(future: Woken) -> None:
    if not future.done():
        future.set_result(False)


def is_cancelled(error: BaseException) -> bool:
    """Whether this task is being cancelled. A handler may raise CancelledError too, of something that it awaited."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class SecondLook:
    """Looks again now and then while somebody waits for the chime, should a wake-up ever be lost: the Vnet that rings
    it may be dying, or another program may hold its descriptor."""

    def __init__(self, home: Home, look: Callable[[], bool]) -> None:
        """`look`: in the loop; whether somebody still waits."""
        self._home = home
        self._look = look
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Somebody waits from now on. Costs nothing when it has begun already."""
        if self._timer is None:
            self._timer = self._home.loop.call_later(LOOK_AGAIN, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._look():
            self.start()


class Waiters:
    """Tasks that wait for the same thing, in order. A cancelled one hands its wake-up on.

    `woken`: so many were woken and have not run yet.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._futures: OrderedDict[Woken, None] = OrderedDict()
        self.woken = 0

    def __bool__(self) -> bool:
        return bool(self._futures)

    async def wait(self, deadline: float) -> bool:
        """Until it is woken. False: the deadline came first."""
        if deadline == NOW:
            return False
        future: Woken = self._home.loop.create_future()
        self._futures[future] = None
        try:
            return await self._home.until(future, deadline)
        except BaseException:
            if future.done() and not future.cancelled() and future.result():
                self.wake(1)
            raise
        finally:
            self._futures.pop(future, None)
            self.woken -= future.done() and not future.cancelled() and future.result()

    def wake(self, count: float = math.inf) -> None:
        """The first so many that wait."""
        while self._futures and count > 0:
            future, _ = self._futures.popitem(last=False)
            if not future.done():
                future.set_result(True)
                self.woken += 1
                count -= 1


class LoopGate:
    """One task waits at it, any thread opens it; waiting closes it again."""

    __slots__ = ("_future", "_home", "_open")

    def __init__(self, home: Home) -> None:
        self._home = home
        self._future: Woken | None = None
        self._open = False

    def open(self) -> None:
        self._home.run(self._resolve)

    def _resolve(self) -> None:
        self._open = True
        if self._future is not None and not self._future.done():
            self._future.set_result(True)

    async def wait(self, deadline: float) -> bool:
        if not self._open:
            if deadline == NOW:
                return False
            self._future = self._home.loop.create_future()
            await self._home.until(self._future, deadline)
            self._future = None
        opened, self._open = self._open, False
        return opened


class LoopTurn(Turn):
    """Taken by tasks of the loop, and with `with` by other threads."""

    def __init__(self, home: Home) -> None:
        super().__init__()
        self._home = home
        self._waiters = Waiters(home)

    async def take(self, deadline: float) -> bool:
        while not self._lock.acquire(blocking=False):
            if not await self._waiters.wait(deadline):
                return self._lock.acquire(blocking=False)
        return True

    def release(self) -> None:
        self._lock.release()
        self._home.run(self._waiters.wake, 1)


class LoopPresence(Presence):
    def __init__(self, what: str, home: Home) -> None:
        super().__init__(what)
        self._home = home
        self._waiters = Waiters(home)
        self._watching: list[weakref.WeakMethod[Callable[[], object]]] = []

    def watched_by(self, wake: Callable[[], object]) -> None:
        """A bound method, called in the loop at every change of the state as long as its object lives."""
        self._watching = [other for other in self._watching if other() is not None]
        self._watching.append(weakref.WeakMethod(wake))

    def _wake(self) -> None:
        self._waiters.wake()
        for reference in self._watching:
            wake = reference()
            if wake is not None:
                wake()

    async def wait_attached(self, deadline: float) -> Attachment | None:
        while True:
            attachment = self.attachment
            self.check_open()
            if attachment is not None:
                return attachment
            if not await self._waiters.wait(deadline):
                return self.attachment

    async def wait_gone(self, attachment: Attachment, deadline: float) -> bool:
        while self.attachment is attachment:
            self.check_open()
            if not await self._waiters.wait(deadline):
                return self.attachment is not attachment
        return True

    async def changed(self, deadline: float) -> bool:
        """Until the state is another, or `change` was called. False: the deadline came first."""
        return await self._waiters.wait(deadline)

    def change(self) -> None:
        with self.lock:
            self._notify()

    def _notify(self) -> None:
        super()._notify()  # a thread that helps may wait, too
        self._home.run(self._wake)


class LoopQuestions(Questions):
    def __init__(self, presence: Presence, home: Home) -> None:
        super().__init__(presence)
        self._home = home

    @property
    def may_wait(self) -> bool:
        return not self._home.is_here

    async def ask(self, attachment: Attachment, message: Wire, deadline: float) -> Answer | None:
        gate = LoopGate(self._home)
        question = self.pose(attachment, message, gate)
        try:
            while question.answer is None:
                if question.lost:
                    raise ConnectionLost("the Vnet went away before it answered")
                if not await gate.wait(deadline):
                    break
            return question.answer
        finally:
            self.forget(question)


class LoopRoom(Room):
    """Senders by the slot that they wait for, in order. `look` is called when the chime rings, `armed` when somebody
    begins to wait for that."""

    def __init__(self, home: Home) -> None:
        super().__init__()
        self._home = home
        self.armed: Callable[[], None] = lambda: None
        self._slots: dict[int, deque[tuple[Woken, Port, int]]] = {}
        self._armed = False
        self._looking = False

    async def wait(self, port: Port, slot: int, size: int, deadline: float) -> None:
        if deadline == NOW or port.room(slot, size) != 0:
            return
        entry: tuple[Woken, Port, int] = (self._home.loop.create_future(), port, size)
        waiting = self._slots.setdefault(slot, deque())
        waiting.append(entry)
        try:
            if not self._armed:
                self._arm(port)
            await self._home.until(entry[0], deadline)
        finally:
            waiting.remove(entry)
            if not waiting and self._slots.get(slot) is waiting:
                del self._slots[slot]

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return bool(self._slots)

    def look(self) -> None:
        """There may be room."""
        self._armed = self._looking = False
        last: Port | None = None
        for slot, waiting in self._slots.items():
            woken = 0
            for future, port, size in waiting:
                if woken == _WOKEN_AT_ONCE:
                    break
                if not future.done():
                    last = port
                    if port.room(slot, size) == 0:
                        break
                    future.set_result(True)
                    woken += 1
        if last is not None:
            self._arm(last)

    def wake_all(self) -> None:
        """The port is shut, or another one: everybody looks around."""
        for waiting in self._slots.values():
            for future, _, _ in waiting:
                if not future.done():
                    future.set_result(True)

    def _arm(self, port: Port) -> None:
        """From now on room rings the chime; what there is already is looked at when those just woken have run."""
        self._armed = port.arm_room() == 0
        self.armed()
        for slot, waiting in self._slots.items():
            first = next((entry for entry in waiting if not entry[0].done()), None)
            if first is not None and first[1].room(slot, first[2]) != 0 and not self._looking:
                self._looking = True
                self._home.loop.call_soon(self.look)
