"""Interest: a topic crosses a link only while the other side has said that it has a subscriber.

A topic's number is that of the side that subscribes; it is kept from being used for another topic until every adjacent
Vnet has said that no record will name it any more.

A Vnet that took over says nothing until its own Vnics are back, and then all its topics at once, each perhaps under
another number than in its earlier life: what waits for it elsewhere goes on under that one. Said too early, the list
would lack those topics, and what waits would be dropped.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from uuid import UUID

from layer8.dataplane import Command
from layer8.names import check_topic
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.link_messages import EVERYTHING, Disinterest, Forgot, Interest, Interests
from layer8.vnet.adjacent import Adjacent
from layer8.vnet.switchboard import Switchboard

_INTERESTS_PER_MESSAGE = 200  # of 255 bytes at most

_log = logging.getLogger("layer8.vnet")


@dataclasses.dataclass(slots=True, eq=False)
class Neighbour:
    """One session. `subscriber`: the number of the Vnet's own proxy. `interests`: topics by the far number.
    `has_stated`: all its interests have come."""

    adjacent: Adjacent
    subscriber: int | None = None
    interests: dict[int, str] = dataclasses.field(default_factory=dict)
    stated: dict[int, str] | None = None  # a list of all interests that is coming
    has_stated: bool = False
    withdrawn: set[int] = dataclasses.field(default_factory=set)  # our numbers that it may still use
    withdrawn_before: set[int] = dataclasses.field(default_factory=set)  # those of them before the last list


class InterestDesk:
    """Of this Vnet and of its adjacent ones. `on_stated(vnet)`: all interests of an adjacent Vnet are known. One
    thread: the loop's."""

    def __init__(self, board: Switchboard) -> None:
        self.on_stated: Callable[[UUID], None] = lambda vnet: None
        self._board = board
        self._is_complete = False
        self._neighbours: dict[Neighbour, None] = {}
        self._topics: dict[str, int] = {}  # with subscribers here, with their numbers
        self._numbers: dict[int, str] = {}  # of those, and of those that may still be named

    def came(self, neighbour: Neighbour) -> None:
        self._neighbours[neighbour] = None

    def complete(self) -> None:
        """Whoever had subscribed here before is back. Safe twice."""
        if not self._is_complete:
            self._is_complete = True
            for neighbour in self._neighbours:
                self._state(neighbour)

    def ready(self, neighbour: Neighbour) -> None:
        """It can be spoken to."""
        if self._is_complete:
            self._state(neighbour)

    def _state(self, neighbour: Neighbour) -> None:
        neighbour.withdrawn_before |= neighbour.withdrawn
        topics = list(self._topics.items())
        for start in range(0, max(len(topics), 1), _INTERESTS_PER_MESSAGE):
            part, last = tuple(topics[start : start + _INTERESTS_PER_MESSAGE]), start + _INTERESTS_PER_MESSAGE
            neighbour.adjacent.say(Interests(topics=part, first=start == 0, last=last >= len(topics)))

    def went(self, neighbour: Neighbour) -> None:
        """Its session is over."""
        del self._neighbours[neighbour]
        for number in tuple(neighbour.withdrawn):
            self._forgotten(neighbour, number)
        for topic in neighbour.interests.values():
            self._board.drop_topic(topic)
        neighbour.interests.clear()

    def clear(self) -> None:
        """The switch has stopped."""
        self._neighbours.clear()

    def topic_of(self, number: int) -> str | None:
        """What a number means that a record names."""
        return self._numbers.get(number)

    def on_interest(self, topic: str, there: bool) -> None:
        """The first subscriber of a topic is here, or the last one has gone."""
        if there:
            number = self._numbers_of(topic)
            if number is None:
                number = self._board.hold_topic(topic)
                assert number is not None  # its subscriber holds it
                self._numbers[number] = topic
            self._topics[topic] = number
            for neighbour in self._told():
                neighbour.adjacent.say(Interest(topic=topic, number=number))
        else:
            number = self._topics.pop(topic)
            for neighbour in self._told():
                neighbour.withdrawn.add(number)
                neighbour.adjacent.say(Disinterest(number=number))
            self._release(number)

    def _told(self) -> tuple[Neighbour, ...]:
        """Those to whom every change is said."""
        return tuple(self._neighbours) if self._is_complete else ()

    def _numbers_of(self, topic: str) -> int | None:
        return next((number for number, name in self._numbers.items() if name == topic), None)

    def _forgotten(self, neighbour: Neighbour, number: int) -> None:
        neighbour.withdrawn.discard(number)
        neighbour.withdrawn_before.discard(number)
        self._release(number)

    def _release(self, number: int) -> None:
        """The number may be another topic's, when nobody will name it any more."""
        topic = self._numbers.get(number)
        named = any(number in neighbour.withdrawn for neighbour in self._neighbours)
        if topic is not None and topic not in self._topics and not named:
            del self._numbers[number]
            self._board.drop_topic(topic)

    def said(self, neighbour: Neighbour, message: Interest | Interests | Disinterest | Forgot) -> None:
        """Raises ProtocolViolation."""
        match message:
            case Interest(topic=topic, number=number):
                self._interested(neighbour, topic, number)
            case Interests(topics=topics, first=first, last=last):
                if first:
                    neighbour.stated = {}
                if neighbour.stated is None:
                    raise ProtocolViolation("a list of topics without a beginning")
                neighbour.stated.update((number, topic) for topic, number in topics)
                if last:
                    stated, neighbour.stated = neighbour.stated, None
                    self._stated(neighbour, stated)
            case Disinterest(number=number):
                if number in neighbour.interests:
                    self._uninterested(neighbour, number)
                else:
                    neighbour.adjacent.say(Forgot(number=number))
            case Forgot(number=number):
                for one in tuple(neighbour.withdrawn_before) if number == EVERYTHING else (number,):
                    if one in neighbour.withdrawn and self._numbers.get(one) not in self._topics:
                        self._forgotten(neighbour, one)
                    else:
                        neighbour.withdrawn.discard(one)
                        neighbour.withdrawn_before.discard(one)

    def _stated(self, neighbour: Neighbour, stated: dict[int, str]) -> None:
        """All its interests, perhaps under other numbers than before."""
        wanted = set(stated.values())
        for number in [number for number, topic in neighbour.interests.items() if topic not in wanted]:
            self._uninterested(neighbour, number)
        before = {topic: number for number, topic in neighbour.interests.items()}
        moved = {number: topic for number, topic in stated.items() if before.get(topic, number) != number}
        for topic in moved.values():
            del neighbour.interests[before[topic]]
        for number, topic in moved.items():
            self._renumbered(neighbour, topic, number)
        for number, topic in stated.items():
            self._interested(neighbour, topic, number)
        neighbour.adjacent.say(Forgot(number=EVERYTHING))
        neighbour.has_stated = True
        self.on_stated(neighbour.adjacent.vnet)

    def _renumbered(self, neighbour: Neighbour, topic: str, number: int) -> None:
        """What waits for it goes under this number; the switch sees that it subscribes already."""
        index = self._board.hold_topic(topic)
        assert index is not None and neighbour.subscriber is not None  # it is held as an interest
        self._board.drop_topic(topic)
        neighbour.interests[number] = topic
        self._board.command(Command.SUBSCRIBE, neighbour.subscriber, index, number)

    def _interested(self, neighbour: Neighbour, topic: str, number: int) -> None:
        known = neighbour.interests.get(number)
        if known == topic:
            return
        if known is not None:
            self._uninterested(neighbour, number)
        try:
            check_topic(topic)
        except ValueError as error:
            raise ProtocolViolation(f"interest in no topic: {error}") from error
        if not 0 <= number <= 0xFFFF:
            raise ProtocolViolation(f"a topic with the number {number}")
        index = self._board.hold_topic(topic)
        if index is None or neighbour.subscriber is None:
            _log.warning("there is no room for the topics of an adjacent Vnet (setting max_topics)")
            return
        neighbour.interests[number] = topic
        self._board.command(Command.SUBSCRIBE, neighbour.subscriber, index, number)

    def _uninterested(self, neighbour: Neighbour, number: int) -> None:
        topic = neighbour.interests.pop(number)
        index = self._board.hold_topic(topic)
        self._board.drop_topic(topic)
        if index is None or neighbour.subscriber is None:
            return

        def over(_: asyncio.Future[int]) -> None:
            self._board.drop_topic(topic)
            neighbour.adjacent.say(Forgot(number=number))

        self._board.command(Command.UNSUBSCRIBE, neighbour.subscriber, index, number).add_done_callback(over)
