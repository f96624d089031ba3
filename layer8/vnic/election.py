"""`Vnic.elect`: standing in a group, and knowing by one's own clock whether one leads."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import UUID

from layer8.errors import Closed, Layer8Error
from layer8.health.election import Candidacy
from layer8.health_record import ElectionEvent
from layer8.names import check_timeout
from layer8.protocol.control import Elect, Elected, Failed, Lead, Unelect, Wire
from layer8.vnic.attachment import Attachment
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.refusals import error_of_failed
from layer8.vnic.standing import Bell
from layer8.vnic.waiting import FOREVER, deadline_after, remaining, run_now

if TYPE_CHECKING:
    from layer8.vnic.async_vnic import AsyncVnic
    from layer8.vnic.core import Core
    from layer8.vnic.questions import Answer
    from layer8.vnic.vnic import Vnic

_RETRY_SECONDS = 0.1
_IDLE_SECONDS = 0.2

_logger = logging.getLogger("layer8.vnic")


class Election:
    """Made by `Vnic.elect`; this Vnic stands in `group` until `close()`. May be used from several threads.

    Every member sees the same leader in the same term. A term is a number that only grows, also over the death of the
    Vnet: give it along with what the leader does, and refuse lower ones (a fencing token). Leading is a lease: it ends
    by this process's own clock, before anybody else can lead, so ask `is_leader` right before what only a leader does.
    """

    def __init__(self, vnic: Vnic | AsyncVnic, core: Core, group: str, timeout: float | None) -> None:
        self._vnic = vnic  # who has the election keeps the Vnic
        self._core = core
        self._group = group
        self._own = Candidacy()
        self._events: deque[ElectionEvent] = deque()
        self._bell = Bell()
        self._closed = False
        self._error: Layer8Error | None = None
        self._told: tuple[int, UUID | None] = (0, None)
        self.on_event: Callable[[], object] | None = None
        """Called, in a thread of the library, when something has changed; for whoever cannot wait in `receive`."""
        self._number = core.orders.add(self)
        core.orders.hear(Elected, group, self)
        try:
            answer = core.questions.ask_any_blocking(Elect(id=0, group=group), deadline_after(timeout))
            if isinstance(answer, Failed):
                raise self._refusal(answer)
        except BaseException:
            self._end()
            raise
        self._thread = threading.Thread(target=self._lead, name=f"layer8-election-{group}", daemon=True)
        self._thread.start()

    def _refusal(self, answer: Failed) -> Layer8Error:
        return error_of_failed(answer, self._group, "this Vnic", "serve")

    # ── what is asked ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def group(self) -> str:
        return self._group

    @property
    def is_leader(self) -> bool:
        """Whether this Vnic leads now, by its own clock."""
        return not self._closed and self._core.presence.ended is None and self._own.is_leader(time.monotonic())

    @property
    def term(self) -> int:
        """The highest term heard of; while this Vnic leads, its own."""
        return self._own.own_term if self.is_leader else self._own.term

    @property
    def leader(self) -> UUID | None:
        """Who leads in this term, as far as it is known; None: nobody at the moment."""
        if self.is_leader:
            return self._core.uuid
        leader = self._own.leader
        return None if leader == self._core.uuid else leader

    def wait(self, timeout: float | None = None) -> bool:
        """Until this Vnic leads; False when `timeout` seconds have passed first. Raises Closed."""
        deadline = deadline_after(check_timeout(timeout))
        with self._bell.lock:
            while not self.is_leader:
                self._check_open()
                left = remaining(deadline)
                if left == 0:
                    return False
                self._bell.wait(left)
        return True

    def receive(self, timeout: float | None = None) -> ElectionEvent:
        """The next change of leader or term; waits up to `timeout` seconds (None: for ever, 0: not at all).

        Raises TimeoutError; Closed when the election or its Vnic was closed; NotAuthorized when it may not stand any
        more.
        """
        event = self._next(deadline_after(check_timeout(timeout)))
        if event is None:
            raise TimeoutError(f"no other leader within {timeout} s")
        return event

    def try_receive(self) -> ElectionEvent | None:
        """The next change if one is there."""
        return self._next(deadline_after(0.0))

    def _next(self, deadline: float) -> ElectionEvent | None:
        self._core.presence.check_open()
        with self._bell.lock:
            while not self._events:
                self._check_open()
                left = remaining(deadline)
                if left == 0:
                    return None
                self._bell.wait(left)
            return self._events.popleft()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the election of {self._group!r}")
        self._core.presence.check_open()
        if self._error is not None:
            raise self._error

    def __iter__(self) -> Iterator[ElectionEvent]:
        """Every change, until the election or the Vnic is closed."""
        while True:
            try:
                event = self._next(FOREVER)
            except Closed:
                return
            if event is not None:
                yield event

    # ── for the keeper ─────────────────────────────────────────────────────────────────────────────────────────────

    def question(self) -> Wire | None:
        return None if self._closed else Elect(id=0, group=self._group)

    def renewed(self, answer: Answer) -> None:
        with self._bell.lock:
            if isinstance(answer, Failed):
                self._error = self._refusal(answer)
                self._own.resign()
            else:
                self._own.again(time.monotonic())
            self._tell()

    def heard(self, attachment: Attachment, message: Wire) -> None:
        if isinstance(message, Elected):
            with self._bell.lock:
                if message.appointed:
                    self._own.appointed(message.term, time.monotonic())
                else:
                    self._own.proclaimed(message.term, message.leader)
                self._tell()

    def _tell(self) -> None:
        """With the lock held: whoever waits, and the thread that renews."""
        leader, term = self.leader, self.term
        if (term, leader) != self._told and term:
            self._told = term, leader
            is_leader = leader == self._core.uuid
            self._events.append(ElectionEvent(group=self._group, term=term, leader=leader, is_leader=is_leader))
        self._bell.ring()
        if self.on_event is not None:
            self.on_event()

    # ── the thread that renews ─────────────────────────────────────────────────────────────────────────────────────

    def _lead(self) -> None:
        while not self._closed and self._core.presence.ended is None:
            with self._bell.lock:
                now = time.monotonic()
                if self._own.lapse(now):
                    _logger.warning("%s leads %r no more: its lease ended", self._core.presence.what, self._group)
                    self._tell()
                term, renew_at = self._own.own_term, self._own.renew_at
                if now < renew_at:
                    end = self._own.lease_end
                    self._bell.wait(min(renew_at - now, end - now if end > now else _IDLE_SECONDS, _IDLE_SECONDS))
                    continue
                self._own.renew_at = now + _RETRY_SECONDS
            self._renew(term, now)
        with self._bell.lock:
            self._bell.ring()

    def _renew(self, term: int, now: float) -> None:
        attachment = self._core.presence.attachment
        if attachment is None:
            time.sleep(0.01)  # asked again in a moment, and with the next Vnet at once
            return
        try:
            question = Lead(id=0, group=self._group, term=term)
            answer = run_now(self._core.questions.ask_blocking(attachment, question, now + 1.0))
        except (ConnectionLost, Closed):
            return
        with self._bell.lock:
            if isinstance(answer, Failed):
                self._own.refused(term)
            elif answer is not None:
                self._own.renewed(term, now, answer.seconds, time.monotonic())
            self._tell()

    # ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Stands no more; a leader has ceased to lead when this begins. Safe twice."""
        if self._closed:
            return
        self._end()
        attachment = self._core.presence.attachment
        if attachment is not None:
            self._core.questions.say(attachment, Unelect(id=0, group=self._group))

    def _end(self) -> None:
        self._closed = True
        with self._bell.lock:
            self._own.resign()
            self._events.clear()
            self._bell.ring()
        self._core.orders.remove(self._number)
        self._core.orders.unhear(Elected, self._group)
        if self.on_event is not None:
            self.on_event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        role = "closed" if self._closed else "leader" if self.is_leader else f"led by {self.leader}"
        return f"<Election of {self._group!r}, term {self.term}, {role}>"
