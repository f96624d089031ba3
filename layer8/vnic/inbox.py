"""Who reads the receive ring: whoever waits.

    leader      holds the reading; sleeps on the ring, takes batches from it and puts every message where it belongs:
                a queue, a call. Leaves as soon as what it waits for is there, and hands the reading on.
    follower    sleeps at its gate until its own thing is there or the reading is free.
    nobody      when nobody waits nobody reads: the ring fills and the switch holds the senders back.

A *place* is what a thread waits at: the Vnic's queue, a stream's, the dispatcher's, or one call. The reading moves:

    free ──(a waiter finds it free and a port there)──▶ led ──(it has what it wants, or gives up)──▶ free, wake the next
    free ──(the keeper: the Vnet is lost)──▶ led by the keeper, which takes the rest of the old ring ──▶ no port
    no port ──(attached again)──▶ free, wake the next

No wake-up is lost: a follower registers its gate and then looks again, at its place and at the reading; whoever puts
something into a place or frees the reading does that first and then looks for gates. A signal handler may raise
anywhere, so each step that moves messages on is one call that Python does not look at signals within: a batch is
counted by the call that takes it, and what was begun with it is finished by the next reader.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

from layer8.dataplane import Port, Status
from layer8.errors import Closed
from layer8.message import Message
from layer8.vnic.attachment import Attachment
from layer8.vnic.presence import Presence
from layer8.vnic.queues import Queue
from layer8.vnic.records import BATCH, Left, Records, Step
from layer8.vnic.waiting import Gate, remaining, slice_of

if TYPE_CHECKING:
    from layer8.vnic.dispatcher import Job

_DRAINING_SLICE = 0.02  # a follower that ends when the ring is empty looks this often
_PIECE = 32  # records: what a signal handler interrupts is built again, so a storm of signals must leave time for this
_REPORT_EVERY = 64  # messages taken from a long queue between two reports of its fill

T = TypeVar("T")


class Place(Protocol):
    """Where a thread waits."""

    def ready(self) -> bool: ...


class Inbox:
    """The reading of one Vnic, and its queue of messages that no handler and no stream takes."""

    def __init__(self, presence: Presence, messages: Queue[Message], jobs: Queue[Job], records: Records) -> None:
        self.messages = messages
        self.queues: tuple[Queue[Any], ...] = (messages, jobs)  # all that count as fill
        self._presence = presence
        self._records = records
        self._lock = presence.lock
        self._attachment: Attachment | None = None
        self._port: Port | None = None  # None: there is nothing to read
        self._leader = 0  # ident of the thread that reads, 0: nobody
        self._waiting: dict[Gate, Place] = {}
        self._taken: deque[int] = deque()  # size of the batch that is in work
        self._built = 0  # records of it that became steps already
        self._steps: list[Step] = []  # what is left of a piece of it, last first
        self._drained = False
        self._taken_since = 0
        self._ended: deque[tuple[Port, UUID]] = deque()  # sources whose old messages are dropped at the end of the ring

    # ── waiting ────────────────────────────────────────────────────────────────────────────────────────────────────

    def wait(self, place: Place, deadline: float, until_drained: bool = False) -> bool:
        """Until something is in `place`, where another thread may be faster to take it. False: the deadline came first.

        `until_drained`: after drain() an empty ring is the end. Raises Closed at the end.
        """
        me = threading.get_ident()
        while not place.ready():
            self._check(until_drained)
            gate: Gate | None = None
            try:
                with self._lock:
                    if self._leader == me:
                        raise RuntimeError("a signal handler cannot wait on the Vnic whose wait it has interrupted")
                    if self._leader == 0 and self._port is not None:
                        self._leader = me
                    else:
                        gate = Gate()
                        self._waiting[gate] = place
                if gate is None:
                    self._lead(place, deadline, until_drained)
                elif not place.ready() and (self._leader != 0 or self._port is None):
                    seconds = slice_of(deadline)
                    gate.wait(min(_DRAINING_SLICE, seconds) if self._presence.draining else seconds)
            finally:
                if self._leader == me:  # without the lock: nothing may come between the end of the wait and this
                    self._leader = 0
                if gate is not None:
                    self._waiting.pop(gate, None)
                self._hand_on()
            if not place.ready() and remaining(deadline) == 0:
                return False
        return True

    def take(self, queue: Queue[T], deadline: float) -> T | None:
        """The next message of a queue, None when there was none until the deadline. Raises Closed at the end, or the
        reason why nothing comes any more."""
        while True:
            if queue.is_long:
                self.taking(queue, 1)
            item = queue.take()
            if item is not None:
                return item
            if queue.ended:
                raise queue.why()
            if not self.wait(queue, deadline, until_drained=True):
                return None

    def take_many(self, limit: int, deadline: float) -> list[Message]:
        """Up to `limit` messages of the Vnic's queue, none when none has come until the deadline. Raises Closed."""
        queue = self.messages
        found: list[Message] = []
        try:
            while not found:
                if queue.is_long:
                    self.taking(queue, limit)
                queue.take_into(found, limit)
                if not found and not self.wait(queue, deadline, until_drained=True):
                    break
        except BaseException:
            queue.items.extendleft(reversed(found))  # a signal handler raised: the program has not got them
            raise
        return found

    def _check(self, until_drained: bool) -> None:
        presence = self._presence
        if presence.ended is not None:
            raise Closed(presence.ended)
        if until_drained and presence.draining and (self._drained or self._port is None):
            raise Closed(f"{presence.what}, which was drained,")

    # ── the leader ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _lead(self, place: Place, deadline: float, until_drained: bool) -> None:
        """Reads until there is something in `place`, or somebody has to look around."""
        port = self._port
        while port is not None and port is self._port:
            empty = not self._read(port)
            if place.ready():
                return
            if empty:
                if self._presence.draining:
                    self._drained = True
                if self._presence.ended is not None or (until_drained and self._drained):
                    return
                seconds = slice_of(deadline)
                if seconds == 0:
                    return
                status = port.wait_arrived(seconds)
                if status < 0:
                    if status == Status.CORRUPT:
                        self._break_off(port)
                    return

    def _read(self, port: Port) -> bool:
        """Takes one batch, or goes on with one, and puts its messages where they belong. False: the ring was empty."""
        if not self._steps and not self._build(port):
            return False
        while self._steps:
            put, item = self._steps[-1]
            del self._steps[-1]  # and put: no look at signals between them
            put(item)
        self._records.settle()
        self._after_batch()
        return True

    def _build(self, port: Port) -> bool:
        """Makes messages of the next piece of a batch. False: the ring was empty."""
        if not self._taken:
            # One call takes the batch and notes its size: a signal handler cannot come between the two.
            self._taken.extend(map(port.receive, (BATCH,), (self.unread(),)))
        count = self._taken[0]
        if count <= 0:
            del self._taken[0]
            self._forget_ended()
            return False
        begin = self._built
        end = min(count, begin + _PIECE)
        try:
            plain = self._records.plain(port, count) if begin == 0 else None
            steps = [] if plain is not None else self._records.steps(port, begin, end)
        except Left:
            self._built = 0
            del self._taken[0]
            return False
        if plain is not None:
            del self._taken[0]  # and extend: no look at signals between them
            self.messages.items.extend(plain)
            return True
        self._steps = steps  # and what follows: likewise
        if end < count:
            self._built = end
        else:
            self._built = 0
            del self._taken[0]
        return True

    def _break_off(self, port: Port) -> None:
        """The Vnet has written what cannot be."""
        with self._lock:
            if self._port is port and self._attachment is not None:
                attachment = self._attachment
                self._port = None
                attachment.give_up()

    def _after_batch(self) -> None:
        if self._waiting:
            for gate, place in list(self._waiting.items()):
                if place.ready():
                    gate.open()
        port = self._port
        if port is not None and self.unread() > port.ring_bytes // 8:
            for queue in self.queues:
                queue.is_long = True

    def _hand_on(self) -> None:
        """Wakes one who may read, if nobody does."""
        if self._waiting and self._leader == 0 and self._port is not None:
            for gate in list(self._waiting)[:1]:
                gate.open()

    def wake_all(self) -> None:
        """Everybody who waits looks around: the state has changed."""
        for gate in list(self._waiting):
            gate.open()
        port = self._port
        if port is not None:
            port.wake()

    # ── fill ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def unread(self) -> int:
        """Bytes taken from the ring that no program has taken yet, as the switch is told.

        Up to five eighths of the ring, so that a reply still finds room behind what a handler has not yet done; but
        all of it when it is more than two rings, or a stranger could fill the memory.
        """
        total = 0
        for queue in self.queues:
            if queue.items:
                total += queue.unread()
        return self._as_told(total) if total else 0

    def _as_told(self, total: int) -> int:
        if (port := self._port) is not None and total <= 2 * port.ring_bytes:
            return min(total, port.ring_bytes // 8 * 5)
        return total

    def add_queue(self, queue: Queue[Any]) -> None:
        with self._lock:
            self.queues += (queue,)

    def remove_queue(self, queue: Queue[Any]) -> None:
        with self._lock:
            self.queues = tuple(other for other in self.queues if other is not queue)

    def taking(self, queue: Queue[T], count: int) -> None:
        """`count` messages are about to be taken from a long queue: the switch is told now and then."""
        self._taken_since += count
        left = len(queue.items) - count
        if left > 0 and self._taken_since < _REPORT_EVERY:
            return
        self._taken_since = 0
        total = sum([other.unread(count if other is queue else 0) for other in self.queues])
        port = self._port
        if port is not None:
            port.set_unread(self._as_told(total))
        if port is None or total <= port.ring_bytes // 8:
            queue.is_long = False

    # ── for layer8.vnic.core ───────────────────────────────────────────────────────────────────────────────────────

    def attach(self, attachment: Attachment) -> None:
        """From now on this port is read."""
        with self._lock:
            self._attachment = attachment
            self._port = attachment.port
            self._drained = False
        # An adopted segment says what was unread when the Vnet was lost; what was taken since then nobody was told.
        for queue in self.queues:
            queue.is_long = True
        attachment.port.set_unread(self.unread())
        self._hand_on()

    def leave(self) -> None:
        """Nobody begins to read any more."""
        with self._lock:
            self._port = None
            self._attachment = None

    def take_rest(self, port: Port, patience: float) -> bool:
        """After `leave`, and after the port was shut: reads the rest of it. False: somebody still reads."""
        me = threading.get_ident()
        deadline = time.monotonic() + patience
        while True:
            with self._lock:
                if self._leader == 0:
                    self._leader = me
                    break
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)  # it was woken, and leaves
        try:
            while self._read(port):
                pass
            port.forget_begun()  # whose other fragments no next Vnet moves
        finally:
            with self._lock:
                self._leader = 0
        return True

    def forget_begun(self, port: Port, sources: Sequence[UUID]) -> None:
        """What these had begun does not go on; the rest of it may stand in the ring, so that is read before. If nobody
        reads now, and nothing is there to be read, it is dropped here; else whoever reads next does it."""
        self._ended.extend((port, source) for source in sources)
        with self._lock:
            if self._leader != 0:
                return
            self._leader = threading.get_ident()
        try:
            if port.stats().receive_fill == 0:
                self._forget_ended()
        finally:
            self._leader = 0
            self._hand_on()

    def _forget_ended(self) -> None:
        """For whoever reads, at the end of the ring."""
        while self._ended:
            port, source = self._ended[0]
            port.forget_begun(source)
            del self._ended[0]

    def forget(self) -> None:
        """The Vnic is closed: what is left of an interrupted batch is gone."""
        with self._lock:
            if self._leader == 0:
                self._steps = []
                self._built = 0
                self._taken.clear()
                self._ended.clear()

    def forked(self) -> None:
        """In the child: whoever read or waited does not exist here."""
        self._lock = self._presence.lock
        self._leader = 0
        self._port = None
        self._waiting.clear()
        self.messages.items.clear()
