"""Subscriptions: what this Vnic wants to hear of, and where each publication goes.

An *interest* is one topic under one number, which the Vnic chooses and the publications of that topic carry. Several
subscriptions and streams of one topic share an interest; each is a sink of it. Numbers are given in turn, so that what
still stands in the ring under an old number is not taken for another topic.

    wanted ──(Subscribe answered)──▶ confirmed ──(the Vnet is lost)──▶ wanted ──(the keeper asks the next Vnet)──▶ …
       └────────────────────────────────┴──(its last sink is closed)──▶ forgotten
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from layer8.dataplane import Port
from layer8.errors import Backpressure, Layer8Error
from layer8.protocol.control import Failed, Subscribe, Unsubscribe
from layer8.vnic.attachment import Attachment
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.presence import Presence
from layer8.vnic.questions import Questions
from layer8.vnic.queues import Queue, Sink
from layer8.vnic.refusals import error_of_failed
from layer8.vnic.waiting import Turn

NUMBERS = 1024
"""LAYER8_TOPICS of the layout: subscribed topics of one Vnic."""

_STOPPING = Failed(id=0, code="stopping")
_NOBODY: tuple[str, tuple[Sink, ...]] = ("", ())


class Interest:
    """One topic that at least one sink wants. `confirmed`: the attachment on which the Vnet has agreed.

    Its segment counts what was missed under this number. When a Vnet has adopted the segment the count goes on, and so
    does what is read of it: it may have grown since the Vnet was lost, as a carrier brings the news later.
    """

    __slots__ = ("_counted", "_lost_at", "_not_ours", "_port", "asking", "confirmed", "number", "sinks", "topic")

    def __init__(self, topic: str, number: int, asking: Turn) -> None:
        self.topic = topic
        self.number = number
        self.sinks: tuple[Sink, ...] = ()
        self.confirmed: Attachment | None = None
        self.asking = asking  # held by the one who asks the Vnet
        self._port: Port | None = None
        self._counted: weakref.ref[Port] | None = None  # whose count it is, or was when the Vnet was lost
        self._not_ours = 0  # of that count: missed by an earlier subscription, less what was missed on earlier segments
        self._lost_at = 0  # what was missed by then

    def confirm(self, attachment: Attachment) -> None:
        port = attachment.port
        if self._counted is None or self._counted() is not port:
            self._not_ours = port.missed(self.number) - self.missed
            self._counted = weakref.ref(port)
        self._port = port
        self.confirmed = attachment

    def lose(self) -> None:
        self._lost_at = self.missed
        self._port = None
        self.confirmed = None

    @property
    def missed(self) -> int:
        """Publications dropped for this Vnic since the interest began."""
        port = self._port
        return self._lost_at if port is None else port.missed(self.number) - self._not_ours


class Topics:
    """The interests of one Vnic. Look-ups are for whoever reads the ring; changes hold the Vnic's lock."""

    def __init__(
        self, presence: Presence, questions: Questions, messages: Queue[Any], turn: Callable[[], Turn] = Turn
    ) -> None:
        self._presence = presence
        self._questions = questions
        self._messages = messages
        self._turn = turn
        self._interests: dict[str, Interest] = {}
        self._by_number: dict[int, tuple[str, tuple[Sink, ...]]] = {}
        self._free = deque(range(NUMBERS))
        self.plain: dict[int, str] = {}
        """Names of the topics that go to the Vnic's own queue and nowhere else, by number."""

    def of(self, number: int) -> tuple[str, tuple[Sink, ...]]:
        """Topic and sinks of this number; nobody when the last of them was closed."""
        return self._by_number.get(number, _NOBODY)

    async def add(self, topic: str, sink: Sink, deadline: float, timeout: float | None) -> Interest:
        """From its return on, what is published on this host comes to the sink. Raises Closed, NotAuthorized,
        Backpressure when no Vnet agreed in time."""
        with self._presence.lock:
            self._presence.check_open()
            interest = self._interests.get(topic)
            if interest is None:
                if not self._free:
                    raise Layer8Error(f"a Vnic subscribes to {NUMBERS} topics at most; close a subscription")
                interest = self._interests[topic] = Interest(topic, self._free.popleft(), self._turn())
            interest.sinks += (sink,)
            self._note(interest)
        try:
            await self._confirm(interest, deadline, timeout)
        except BaseException:
            self.remove(interest, sink)
            raise
        return interest

    async def _confirm(self, interest: Interest, deadline: float, timeout: float | None) -> None:
        if not await interest.asking.take(deadline):
            raise Backpressure("the Vnet", timeout)
        try:
            while True:
                attachment = await self._presence.wait_attached(deadline)
                if attachment is None:
                    raise Backpressure("the Vnet", timeout, self._presence.away)
                if interest.confirmed is attachment:
                    return
                try:
                    answer = await self._questions.ask(attachment, self.question(interest), deadline)
                except ConnectionLost:
                    answer = _STOPPING
                if isinstance(answer, Failed) and answer.code == "stopping":
                    answer = None
                    if await self._presence.wait_gone(attachment, deadline):
                        continue
                if answer is None:
                    raise Backpressure("the Vnet", timeout)
                if isinstance(answer, Failed):
                    raise error_of_failed(answer, interest.topic, attachment.attached.principal, "subscribe")
                interest.confirm(attachment)
                return
        finally:
            interest.asking.release()

    def remove(self, interest: Interest, sink: Sink) -> None:
        """The sink gets nothing more. Safe twice."""
        with self._presence.lock:
            sink.closed = True
            if sink not in interest.sinks:
                return
            interest.sinks = tuple(other for other in interest.sinks if other is not sink)
            if interest.sinks:
                self._note(interest)
                return
            attachment = interest.confirmed or self._presence.attachment
            interest.lose()
            del self._interests[interest.topic]
            self._note(interest)
            self._free.append(interest.number)
        if attachment is not None and not attachment.lost and self._presence.ended is None:
            self._questions.say(attachment, Unsubscribe(id=0, number=interest.number))

    def _note(self, interest: Interest) -> None:
        """Makes the look-ups agree with the sinks."""
        number, sinks = interest.number, interest.sinks
        if sinks:
            self._by_number[number] = (interest.topic, sinks)
        else:
            self._by_number.pop(number, None)
        if len(sinks) == 1 and sinks[0].queue is self._messages:
            self.plain[number] = interest.topic
        else:
            self.plain.pop(number, None)

    # ── for layer8.vnic.core ───────────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def question(interest: Interest, renew: bool = False) -> Subscribe:
        return Subscribe(id=0, topic=interest.topic, number=interest.number, renew=renew)

    def all(self) -> list[Interest]:
        with self._presence.lock:
            return list(self._interests.values())

    def lose(self) -> list[Interest]:
        """The Vnet is gone. What it had agreed to is to be asked of the next one."""
        with self._presence.lock:
            agreed = [interest for interest in self._interests.values() if interest.confirmed is not None]
            for interest in agreed:
                interest.lose()
            return agreed

    def revoked(self, number: int, topic: str, why: Callable[[], Layer8Error]) -> bool:
        """The Vnet has ended this subscription. Streams end with `why`; for the Vnic's own queue and for handlers it is
        asked for again with the next Vnet. Whether it was there."""
        with self._presence.lock:
            interest = self._interests.get(topic)
            if interest is None or interest.number != number:
                return False
            interest.lose()
            for sink in interest.sinks:
                if sink.handler is None and sink.queue is not self._messages:
                    sink.queue.why = why
                    sink.queue.ended = True
                    self.remove(interest, sink)
            return True

    def forget_closed(self, asked: list[Interest], attachment: Attachment) -> None:
        """Those of `asked` that were closed while this Vnet was asked for them."""
        for interest in asked:
            if not interest.sinks:
                self._questions.say(attachment, Unsubscribe(id=0, number=interest.number))

    def unsubscribe_all(self) -> None:
        """The Vnet is told; what has come already still goes to its sinks."""
        for interest in self.all():
            attachment = interest.confirmed
            interest.lose()
            if attachment is not None and not attachment.lost:
                self._questions.say(attachment, Unsubscribe(id=0, number=interest.number))
