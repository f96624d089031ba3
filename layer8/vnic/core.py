"""The inside of a Vnic: its states, its threads, and who owns what. All transitions stand here.

                      look_again + found
         (made) ─────────────────────────▶ attached ◀──────────────────────────┐
                                              │  │                             │ found: the same segment, handles and
                  Stopping: nothing new goes  │  │ end of the connection       │ subscriptions renewed; else a fresh
                  out, what comes is read     ▼  ▼                             │ one, subscriptions asked again
                                              away ──(keeper, every 10 to 500 ms)
                                              │
         close(), forgotten, atexit, ─────────┴──▶ closed      from every state, for good; a child made by fork
         expelled for good                                     begins in it

    draining        beside the state: nobody new is sent here; loops end when the ring is empty

What happens when the Vnet is lost, in this order (`lost`):
    1. nothing new is accepted: the hot path is cut, `presence` says away, the port is shut (sends wait)
    2. nobody begins to read the ring; whoever waits in it comes back and waits for step 5
    3. the rest of the ring is read: messages to their queues, replies to their calls; requests fail, as `unknown`
    4. the connection is given back; segment, port and handles are kept, with what stands in transmit and hold ring
    5. a Vnet adopts the segment: handles and subscriptions are renewed, Resume, and when its records move the port is
       opened again. A handle that is not renewed is gone; what was sent under it comes back as `unknown`
       Or no Vnet does (`_let_go`): what stands in the rings is reported `unknown`, once a message, handles are
       forgotten, and the next attach is with a fresh segment

Who owns what:
    Vnic (the program's)       the public face; the only owner of a Core that does not keep it alive by itself
    Core                       everything here; held by its threads too, so it ends by `close`, not by being forgotten
    keeper thread              receives from the control connection, re-attaches, gives attachments back
    dispatcher thread          runs handlers; exists from the first handler on
    whoever waits              reads the ring (`inbox`)
    Presence.lock              the Vnic's own lock: a few statements at a time, never while anything is waited for
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from layer8.dataplane import Port, Status
from layer8.errors import Closed, NotAuthorized
from layer8.message import Message
from layer8.protocol.control import Detach, Draining, Elected, Failed, ReportWanted, Resume, Wire
from layer8.security.provider import SecurityProvider
from layer8.vnic.attachment import ADOPT_SECONDS, Attachment, NotAdopted
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.election import Election
from layer8.vnic.keeper import Keeper
from layer8.vnic.losses import Losses
from layer8.vnic.outbox import Outbox
from layer8.vnic.parts import Parts
from layer8.vnic.presence import Presence
from layer8.vnic.principals import Principals
from layer8.vnic.questions import Answer
from layer8.vnic.queues import Queue
from layer8.vnic.records import Records
from layer8.vnic.refusals import error_of_failed
from layer8.vnic.renewing import Renewing
from layer8.vnic.replies import Replies
from layer8.vnic.reports import Reporter
from layer8.vnic.search import AGAIN_SECONDS, Search
from layer8.vnic.standing import Announcement, Orders
from layer8.vnic.topics import Interest, Topics
from layer8.vnic.turns import look_around
from layer8.vnic.waiting import SLICE, deadline_after, remaining, run_now, slice_of

if TYPE_CHECKING:
    from layer8.vnic.async_vnic import AsyncVnic
    from layer8.vnic.vnic import Vnic

_logger = logging.getLogger("layer8.vnic")

_AT_EXIT_SECONDS = 1.0
_REST_SECONDS = 5.0  # for a reader that a signal handler keeps from leaving the old ring
_RENEW_SECONDS = 30.0
_SOON_SECONDS = 0.2


class Core:
    """See the head of this module. Raises what `attach` raises."""

    def __init__(
        self,
        alias: str | None,
        *,
        vnet: str,
        security: SecurityProvider,
        timeout: float | None,
        attach_timeout: float | None,
        ring_bytes: int | None,
        spin_us: int,
        parts: Parts | None = None,
    ) -> None:
        parts = parts or Parts()
        self.uuid: UUID = uuid4()
        self.alias = alias
        self.timeout = timeout
        self._search = Search(
            self.uuid,
            alias,
            vnet=vnet,
            security=security,
            ring_bytes=ring_bytes,
            spin_us=spin_us,
            chime=parts.chime,
        )
        name = f"layer8-{alias or self.uuid.hex[:8]}"
        self.presence = parts.presence(f"Vnic {alias!r}" if alias else f"Vnic {self.uuid}")
        self.questions = parts.questions(self.presence)
        self.orders = Orders(self.presence)
        self.announcement = Announcement(self.presence, self.questions, self.orders)
        self.orders.hear(ReportWanted, None, Reporter(self))
        self.outbox = Outbox(
            self.presence,
            self.questions,
            lambda outgoing: self.keeper.push_later(outgoing),
            parts.room(),
            parts.turn(),
        )
        self._principals = Principals(self.presence, self.questions, timeout)
        self._losses = Losses(self.presence.what, self.outbox.handles.name_of)
        self.calls = parts.calls()
        self.dispatcher = parts.dispatcher(f"{name}-handlers")
        messages: Queue[Message] = Queue()
        self.topics = Topics(self.presence, self.questions, messages, parts.turn)
        self.records = Records(
            messages,
            self.dispatcher.jobs,
            self.topics,
            self.calls,
            self.outbox.handles.name_of,
            self._principals.teller(),
            self._losses.report,
            parts.request,
        )
        self.inbox = parts.inbox(self.presence, messages, self.dispatcher.jobs, self.records)
        self._replies: Replies | None = None
        self._current: Attachment | None = None  # also while its Vnet is stopping
        self._kept: Attachment | None = None  # of a Vnet that is gone; its port is for the next one
        self._former: Port | None = None  # that was let go: it knows what was taken through it
        self.undeliverable = 0
        self.attachments = 0
        self._renewing = Renewing(security)
        attachment = self._search.attach(attach_timeout)
        try:
            self.keeper = Keeper(self, self.questions, f"{name}-keeper")
            self._install(attachment)
            for word in self._search.words():
                self.questions.say(attachment, word)
            _open_cores.add(self)
            self.keeper.start(attachment)
        except BaseException:  # no descriptor, no thread
            _open_cores.discard(self)
            self.presence.end(self.presence.what)
            self.inbox.leave()
            self._forget()
            attachment.close()
            raise

    # ── attached ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _install(self, attachment: Attachment) -> bool:
        self._replies = replies = self._replies_of(attachment)
        if self._former is not None and not attachment.adopted:
            attachment.port.inherit(self._former)
            self._former = None
        self.records.attach(attachment, replies)
        with self.presence.lock:  # whoever reads what has come finds the Vnic attached
            if not self.presence.attach(attachment):
                return False
            self._current = attachment
            self._kept = None
            self._search.secret = attachment.attached.resume
            self.attachments += 1
            self.inbox.attach(attachment)
        vnet, how = attachment.challenge, "goes on with" if attachment.adopted else "is attached to"
        _logger.info("%s %s Vnet %s (%s)", self.presence.what, how, vnet.name, vnet.vnet)
        return True

    def look_again(self) -> Attachment:
        """One look for a Vnet."""
        keeper = self.keeper
        try:
            with self._search.look(keeper):
                if self._kept is not None:
                    try:
                        return self._search.attach_again(self._kept, keeper)
                    except NotAdopted as refusal:
                        why = str(refusal)  # whose traceback holds us
                        _logger.warning("%s begins anew: %s", self.presence.what, why)
                        self._let_go(self._kept)
                return self._search.attach(0.0, keeper)
        finally:
            self.presence.refusal = self._search.refusal

    def found(self, attachment: Attachment) -> bool:
        """Asks for what it had again, then goes on here. False: the Vnic was closed meanwhile."""
        interests = self.topics.all() if not self.presence.draining else []
        deadline = time.monotonic() + AGAIN_SECONDS + (len(interests) + len(self.outbox.handles)) * 0.01
        deadline += ADOPT_SECONDS if attachment.adopted else 0.0  # the Vnet waits for others, too
        try:
            for word in self._search.words():
                self.questions.say(attachment, word)
            self._renew_subscriptions(attachment, interests, deadline)
            if self.presence.draining:
                self.keeper.ask(attachment, Draining(id=0), deadline)
            if attachment.adopted:
                self.outbox.handles.renew(attachment, lambda questions: self._ask_all(attachment, questions, deadline))
                going, halves = attachment.port.going(), attachment.port.halves()  # nobody reads before `_install`
                answer = self.keeper.ask(attachment, Resume(id=0, going=going, halves=halves), deadline)
                if isinstance(answer, Failed):
                    raise ConnectionLost(f"the Vnet does not go on with this port: {answer.text}")
                self.ended(attachment, answer.data)
                attachment.port.reopen()
            self.orders.renew(lambda questions: self._ask_all(attachment, questions, deadline))
        except BaseException:
            if attachment.adopted and self.presence.ended is None:
                self._read_rest(attachment)
            self.give_back(attachment)
            raise
        if not self._install(attachment):
            return False
        self.topics.forget_closed(interests, attachment)
        return True

    def _read_rest(self, attachment: Attachment) -> None:
        """What a Vnet wrote that went away before all was renewed: the numbers in it mean nothing to the next one."""
        attachment.lost = True
        attachment.port.shut(Status.AWAY)
        self.records.attach(attachment, self._replies_of(attachment))
        self.inbox.take_rest(attachment.port, _REST_SECONDS)
        self.records.settle()

    def _replies_of(self, attachment: Attachment) -> Replies:
        return Replies(attachment, self.presence, self.outbox.room, self.timeout, self.keeper.push_later)

    def _ask_all(self, attachment: Attachment, questions: Sequence[Wire], deadline: float) -> list[Answer]:
        """Answers, in the same order. Raises ConnectionLost, also when the Vnet is stopping."""
        answers = self.keeper.ask_all(attachment, questions, deadline)
        if any(isinstance(answer, Failed) and answer.code == "stopping" for answer in answers):
            raise ConnectionLost("the Vnet is stopping")
        return answers

    def _renew_subscriptions(self, attachment: Attachment, interests: list[Interest], deadline: float) -> None:
        questions = [self.topics.question(interest, attachment.adopted) for interest in interests]
        for interest, answer in zip(interests, self._ask_all(attachment, questions, deadline), strict=True):
            if isinstance(answer, Failed):
                why = answer.text or answer.code
                _logger.warning("the subscription of %r was refused: %s", interest.topic, why)
            else:
                interest.confirm(attachment)

    def elect(self, vnic: Vnic | AsyncVnic, group: str) -> Election:
        if self.orders.is_heard(Elected, group):
            raise ValueError(f"{self.presence.what} stands in {group!r} already")
        return Election(vnic, self, group, self.timeout)

    # ── away ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def stopping(self, attachment: Attachment) -> None:
        """The Vnet stops: it delivers what it has and takes nothing new."""
        self.presence.leave()
        self.outbox.forget_last()
        self.questions.lose(attachment)

    def lost(self, attachment: Attachment, reason: str) -> None:
        """The Vnet is gone; the keeper calls this, in order of the head of this module."""
        if self.presence.ended is None:
            _logger.info("%s has lost its Vnet (%s) and looks for it", self.presence.what, reason)
        attachment.lost = True
        self.presence.leave()
        self.outbox.forget_last()
        attachment.port.shut(Status.AWAY)
        self.inbox.leave()
        self.questions.lose(attachment)
        self.topics.lose()
        self.inbox.take_rest(attachment.port, _REST_SECONDS)  # what that cannot reach is read when the port goes on
        self.calls.lose(attachment)
        self.records.settle()
        self._kept = attachment
        self.give_back(attachment)
        if attachment.spoiled:
            self._let_go(attachment)
        self.inbox.wake_all()

    def _let_go(self, attachment: Attachment) -> None:
        """Nobody adopts this segment. What stands in it is reported; the next attach begins with a fresh one."""
        self._kept = None
        self.outbox.handles.lose()
        attachment.port.shut()
        # A Vnet that only closed the port may have written something more.
        if self.inbox.take_rest(attachment.port, _REST_SECONDS):
            self._former = attachment.port
        else:
            _logger.warning("%s: a reader is busy elsewhere; what was unread is lost", self.presence.what)
        for undeliverable in self.records.reports_of(self._losses.stranded(attachment.port)):
            self.undeliverable += 1
            step, item = self.records.reporting(undeliverable)
            step(item)
        self.records.settle()
        self.records.forget_reports()
        self.records.leave()
        attachment.close()
        self.inbox.wake_all()

    def give_back(self, attachment: Attachment) -> None:
        """Nobody shall use it any more. A port that is kept for the next Vnet stays; the memory of another goes with
        the last thread that uses it."""
        attachment.lost = True
        self.questions.lose(attachment)
        if self._kept is not None and self._kept.port is attachment.port and self.presence.ended is None:
            attachment.connection.close()
        else:
            attachment.close()
        if self._current is attachment:
            self._current = None
            self.inbox.leave()
            if self._kept is None:
                self.records.leave()
        if self._replies is not None:
            self._replies.close()

    def tend(self, attachment: Attachment) -> float:
        """Renews the certificate when it is due, and says when to look again."""
        seconds = self._renewing.seconds(attachment)
        if seconds > 0:
            return seconds
        self._renewing.tend(
            attachment, lambda question: self.keeper.ask(attachment, question, time.monotonic() + _RENEW_SECONDS)
        )
        return max(_SOON_SECONDS, self._renewing.seconds(attachment))

    def revoked(self, number: int, topic: str) -> None:
        """The Vnet has ended a subscription."""
        principal = "" if self._current is None else self._current.attached.principal
        if self.topics.revoked(number, topic, lambda: NotAuthorized(principal, "subscribe", f"topic {topic}")):
            self.inbox.wake_all()
            _logger.warning("%s may no longer subscribe to %r: the policy has changed", self.presence.what, topic)

    def ended(self, attachment: Attachment, sources: Sequence[bytes]) -> None:
        """What these had begun when an earlier Vnet died does not go on."""
        self.inbox.forget_begun(attachment.port, [UUID(bytes=source) for source in sources])

    @property
    def is_closed(self) -> bool:
        return self.presence.ended is not None

    @property
    def crowd(self) -> int:
        """Vnics of this process."""
        return len(_open_cores)

    def failed(self) -> None:
        """The keeper cannot go on. Better closed than attached to nothing."""
        self.presence.end(f"{self.presence.what}, whose keeper has failed (see the log),")
        self.inbox.wake_all()

    # ── closed ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def drain(self) -> None:
        """Takes no new messages: leaves alias and topics; loops end when the ring is empty."""
        self.presence.check_open()
        deadline = deadline_after(self.timeout)
        attachment = self.presence.attachment
        self.topics.unsubscribe_all()
        if attachment is not None:
            answer = await self.questions.ask_any(Draining(id=0), deadline)
            if isinstance(answer, Failed):
                raise error_of_failed(answer, "the Vnet", attachment.attached.principal, "drain")
        self.presence.drain()
        self.inbox.wake_all()

    def expelled(self, reason: str) -> None:
        """The Vnet is gone, and nobody will let this one in again. The keeper's thread, after `lost`."""
        self.close(0.0, f"{self.presence.what}, because {reason},")

    def close(self, timeout: float | None, why: str = "") -> None:
        """Says goodbye and gives everything back. Safe twice, from any thread, from a handler. `why`: for whoever
        uses it afterwards."""
        why = why or self.presence.what
        deadline = deadline_after(timeout)
        self._wait_for_heir(deadline)
        attachment, current = self.presence.attachment, self._current
        told = attachment is not None
        if not self.presence.end(why):
            return
        try:
            self.outbox.forget_last()
            self.inbox.leave()
            self.calls.fail_all(Closed(why))
            self.inbox.wake_all()
            if current is not None:
                current.port.shut()
            if attachment is not None and remaining(deadline):
                told = self._detach(attachment, deadline)
            self.dispatcher.join(min(remaining(deadline), 1e6))
        finally:
            self.presence.leave()
            self.outbox.handles.lose()
            self.keeper.stop()
            look_around()
            self.keeper.join(min(remaining(deadline), 1e6))
            _open_cores.discard(self)
            kept, self._kept = self._kept, None
            if kept is not None:  # the Vnet was away
                kept.close()
                self.records.leave()
            if not told:
                self._search.leave_word()
            self.orders.clear()
            self._forget()
        _logger.info("%s is closed", self.presence.what)

    def _wait_for_heir(self, deadline: float) -> None:
        """While no Vnet is there: until one has taken what was sent over, or the deadline."""
        while self.presence.attachment is None and self.presence.ended is None:
            left = self._kept or self._current
            messages = [] if left is None else self._losses.stranded(left.port)
            if not messages:
                return
            if remaining(deadline) == 0:
                _logger.warning("%s is closed; no Vnet has taken %d message(s)", self.presence.what, len(messages))
                return
            try:
                run_now(Presence.wait_attached(self.presence, min(deadline, time.monotonic() + SLICE)))  # it may block
            except Closed:
                return

    def _forget(self) -> None:
        """What was not taken is gone. Messages know no collector, so nothing that holds one may stay in a circle."""
        for queue in self.inbox.queues:
            queue.items.clear()
        self.inbox.forget()
        self.topics.lose()

    def _detach(self, attachment: Attachment, deadline: float) -> bool:
        """The Vnet moves what still stands in the transmit ring, then answers. False: it went away before."""
        try:
            run_now(self.questions.ask_blocking(attachment, Detach(id=0), deadline))
        except ConnectionLost:
            return False
        return True

    def abandon(self) -> None:
        """The program has forgotten the Vnic: ends it without waiting for anything."""
        if self.presence.ended is None:
            self.close(0.0)

    def forked(self) -> None:
        """In the child: the descriptors are closed, nothing is said to the Vnet, every use raises Closed."""
        if self.presence.ended is not None:
            return
        attachment = self._current or self._kept
        self.presence.forked()
        self.outbox.forget_last()
        self.inbox.forked()
        self.dispatcher.forked()
        self.keeper.forked()
        if attachment is not None:
            attachment.connection.close()
            attachment.segment.close()

    def wait_closed(self, ended: threading.Event, deadline: float) -> bool:
        """Until `ended` is set or the Vnic is closed. False: the deadline came first."""
        while not ended.is_set() and self.presence.ended is None:
            seconds = slice_of(deadline)
            if seconds == 0:
                return False
            ended.wait(seconds)
        return True

    @property
    def replies(self) -> Replies | None:
        return self._replies


# ── the process ────────────────────────────────────────────────────────────────────────────────────────────────────

_open_cores: weakref.WeakSet[Core] = weakref.WeakSet()


def _fork_in_child() -> None:
    for core in list(_open_cores):
        core.forked()
    _open_cores.clear()


def _close_at_exit() -> None:
    for core in list(_open_cores):
        core.close(_AT_EXIT_SECONDS)


os.register_at_fork(after_in_child=_fork_in_child)
atexit.register(_close_at_exit)
