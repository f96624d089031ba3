"""The thread that keeps a Vnic attached: it alone receives from the control connection, and when the Vnet goes away it
looks for the next one.

It holds the inside of the Vnic and never the Vnic itself, so a forgotten Vnic can be collected, which ends it.
"""

from __future__ import annotations

import logging
import os
import random
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from layer8.dataplane import Outgoing, Status
from layer8.errors import Layer8Error, VnetNotFound
from layer8.protocol.codec import Unknown
from layer8.protocol.control import (
    Done,
    Elected,
    Ended,
    Failed,
    PortClosed,
    ReportWanted,
    Stopping,
    TopicRevoked,
    Watched,
    Wire,
)
from layer8.vnic.attachment import Attachment, Stopped
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.questions import Answer, Question, Questions
from layer8.vnic.standing import Orders
from layer8.vnic.waiting import remaining

_logger = logging.getLogger("layer8.vnic")

_FIRST_PAUSE = 0.01  # seconds between two looks for a Vnet, doubled each time
_LONGEST_PAUSE = 0.5
_SOON = 10.0  # seconds in which a Vnet that was killed is most likely started again
_SOON_PAUSE = 0.2
_DEFERRED_PAUSE = 0.05
_IDLE = 3600.0
_ASKED_AT_ONCE = 64
_FULL = (Status.FULL, Status.XOFF)


class Kept(Protocol):
    """What the keeper calls; it is `layer8.vnic.core.Core`."""

    def stopping(self, attachment: Attachment) -> None: ...
    def lost(self, attachment: Attachment, reason: str) -> None: ...
    def look_again(self) -> Attachment: ...
    def found(self, attachment: Attachment) -> bool: ...
    def give_back(self, attachment: Attachment) -> None: ...
    def failed(self) -> None: ...
    def expelled(self, reason: str) -> None: ...
    def tend(self, attachment: Attachment) -> float:
        """Does what is due, and says for how many seconds nothing is."""
        ...

    def revoked(self, number: int, topic: str) -> None: ...
    def ended(self, attachment: Attachment, sources: Sequence[bytes]) -> None: ...
    @property
    def orders(self) -> Orders: ...
    @property
    def is_closed(self) -> bool: ...
    @property
    def crowd(self) -> int: ...


class Keeper:
    """`wake` and `stop` are for any thread, everything else happens in the keeper's own."""

    def __init__(self, kept: Kept, questions: Questions, name: str) -> None:
        self._kept = kept
        self._questions = questions
        self._lock = threading.RLock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop = False
        self._reason = ""
        self._expelled = False
        self._deferred: deque[Outgoing] = deque()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._attachment: Attachment | None = None

    @property
    def wake_fd(self) -> int:
        return self._wake

    @property
    def is_stopped(self) -> bool:
        return self._stop

    def start(self, attachment: Attachment) -> None:
        self._attachment = attachment
        try:
            self._thread.start()
        except BaseException:
            self._attachment = None
            self._close_wake()
            raise

    def wake(self) -> None:
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Ends the thread, and with it the connection. Safe twice."""
        self._stop = True
        self.wake()

    def join(self, seconds: float) -> None:
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(seconds)

    def push_later(self, outgoing: Outgoing) -> None:
        """Something small that found no room and that nobody waits for."""
        self._deferred.append(outgoing)
        self.wake()

    # ── the thread ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        attachment = self._attachment
        try:
            while attachment is not None:
                reason = self._keep(attachment)
                if self._stop or self._kept.is_closed:
                    self._kept.give_back(attachment)
                    return
                self._deferred.clear()
                self._kept.lost(attachment, reason)
                if self._expelled:
                    self._kept.expelled(reason)
                    return
                self._attachment = attachment = self._look_for_another()
        except Exception:
            _logger.exception("the keeper of a Vnic has failed; the Vnic is closed")
            self._kept.failed()
        finally:
            self._attachment = None
            with self._lock:
                self._close_wake()

    def _keep(self, attachment: Attachment) -> str:
        """Until the connection ends: why it did."""
        self._reason = ""
        try:
            early, attachment.early = attachment.early, []
            for message in early:
                self._handle(attachment, message)
            while not self._stop:
                self._receive(attachment, min(_IDLE, self._kept.tend(attachment)))
        except ConnectionLost as lost:
            return self._reason or lost.reason
        return "closed"

    def _receive(self, attachment: Attachment, seconds: float) -> None:
        """Waits once, and handles what has come."""
        if self._deferred:
            self._push_deferred()
            seconds = min(seconds, _DEFERRED_PAUSE)
        attachment.connection.wait(seconds, self._wake)
        self._clear_wake()
        for message, _ in attachment.connection.receive():
            self._handle(attachment, message)

    def _handle(self, attachment: Attachment, message: Wire | Unknown) -> None:
        match message:
            case Done() | Failed():
                self._questions.answered(message)
            case Stopping():
                self._reason = "the Vnet is stopping"
                self._kept.stopping(attachment)
            case TopicRevoked(number=number, topic=topic):
                self._kept.revoked(number, topic)
            case Ended(sources=sources):
                self._kept.ended(attachment, sources)
            case PortClosed() if self._reason:
                pass  # it has stopped
            case PortClosed(reason=reason, lasting=lasting):
                self._reason = f"the Vnet has closed the port: {reason}"
                self._expelled = lasting
                _logger.warning("%s", self._reason)
            case Watched(watch=number):
                self._kept.orders.heard(attachment, message, number)
            case ReportWanted():
                self._kept.orders.heard(attachment, message, None)
            case Elected(group=group):
                self._kept.orders.heard(attachment, message, group)
            case _:
                pass  # of a newer Vnet

    def ask(self, attachment: Attachment, message: Wire, deadline: float) -> Answer:
        """For the keeper's own thread, which is the one that receives the answer. Raises ConnectionLost."""
        return self.ask_all(attachment, [message], deadline)[0]

    def ask_all(self, attachment: Attachment, messages: Sequence[Wire], deadline: float) -> list[Answer]:
        """Many at a time: their answers, in the same order."""
        answers: list[Answer] = []
        open_: deque[Question] = deque()
        try:
            for message in messages:
                if len(open_) == _ASKED_AT_ONCE:
                    answers.append(self._wait_for(open_[0], deadline))
                    self._questions.forget(open_.popleft())
                open_.append(self._questions.pose(attachment, message))
            answers.extend(self._wait_for(question, deadline) for question in open_)
            return answers
        finally:
            for question in open_:
                self._questions.forget(question)

    def _wait_for(self, question: Question, deadline: float) -> Answer:
        while question.answer is None:
            left = remaining(deadline)
            if left == 0 or self._stop or question.lost:
                raise ConnectionLost("the Vnet did not answer in time")
            self._receive(question.attachment, left)
        return question.answer

    def _push_deferred(self) -> None:
        for _ in range(len(self._deferred)):
            if self._deferred[0].push() in _FULL:
                return
            self._deferred.popleft()

    def _clear_wake(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass

    def _look_for_another(self) -> Attachment | None:
        """The next attachment; None when the Vnic is closed first."""
        pause = _FIRST_PAUSE
        soon = time.monotonic() + _SOON
        said = ""
        while not self._stop and not self._kept.is_closed:
            try:
                attachment = self._kept.look_again()
                if self._kept.found(attachment):
                    return attachment
                self._kept.give_back(attachment)
            except VnetNotFound:
                pass
            except Stopped:
                return None
            except ConnectionLost as lost:
                _logger.info("the Vnet went away again: %s", lost.reason)
            except Layer8Error as error:
                if str(error) != said:
                    said = str(error)
                    _logger.warning("re-attaching was refused, trying on: %s", said)
            self._pause(pause * random.uniform(0.5, 1.0))
            # Those of one process look as often together as twenty would: the next Vnet needs the processor, too.
            often = _SOON_PAUSE * max(1.0, self._kept.crowd / 20)
            pause = min(2 * pause, often if time.monotonic() < soon else _LONGEST_PAUSE, _LONGEST_PAUSE)
        return None

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stop and (left := deadline - time.monotonic()) > 0:
            select.select([self._wake], [], [], left)
            self._clear_wake()

    def forked(self) -> None:
        """In the child: the thread does not exist here."""
        self._stop = True
        self._lock = threading.RLock()
        self._close_wake()

    def _close_wake(self) -> None:
        wake, self._wake = self._wake, -1
        if wake >= 0:
            os.close(wake)
