"""What a Vnic has asked its Vnet for good, and asks every next one again: watches, elections, what it announces."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from layer8.protocol.control import Announce, Failed, Wire
from layer8.vnic.attachment import Attachment
from layer8.vnic.presence import Presence
from layer8.vnic.questions import Answer, Questions

_logger = logging.getLogger("layer8.vnic")


class Standing(Protocol):
    """One thing asked for good. Both are called by the keeper when it has found the next Vnet."""

    def question(self) -> Wire | None:
        """What is to be asked again; None: nothing now."""

    def renewed(self, answer: Answer) -> None:
        """What that Vnet said."""


class Orders:
    """All of one Vnic. Any thread; events come from the keeper."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._all: dict[int, Standing] = {}
        self._hearing: dict[tuple[type[Wire], object], Hearing] = {}
        self._numbers = 0

    def add(self, standing: Standing) -> int:
        """Its number, for `remove`; also a number of its own towards the Vnet."""
        with self._presence.lock:
            self._numbers += 1
            self._all[self._numbers] = standing
            return self._numbers

    def remove(self, number: int) -> None:
        with self._presence.lock:
            self._all.pop(number, None)

    def all(self) -> list[Standing]:
        with self._presence.lock:
            return list(self._all.values())

    def renew(self, ask_all: Callable[[list[Wire]], list[Answer]]) -> None:
        """The keeper has found the next Vnet. `ask_all`: answers, in the order of the questions."""
        asked = [(standing, question) for standing in self.all() if (question := standing.question()) is not None]
        for (standing, _), answer in zip(asked, ask_all([question for _, question in asked]), strict=True):
            standing.renewed(answer)

    def hear(self, kind: type[Wire], about: object, hearing: Hearing) -> None:
        """Events of this kind about this (a number, a name, None) go to `hearing` from now on."""
        self._hearing[kind, about] = hearing

    def clear(self) -> None:
        """The Vnic is closed. What is here may hold it, and it is held for as long as the program holds that."""
        with self._presence.lock:
            self._all.clear()
        self._hearing.clear()

    def is_heard(self, kind: type[Wire], about: object) -> bool:
        return (kind, about) in self._hearing

    def unhear(self, kind: type[Wire], about: object) -> None:
        self._hearing.pop((kind, about), None)

    def heard(self, attachment: Attachment, message: Wire, about: object) -> None:
        """In the keeper's thread."""
        hearing = self._hearing.get((type(message), about))
        if hearing is not None:
            try:
                hearing.heard(attachment, message)
            except Exception:
                _logger.exception("an event of the Vnet could not be handled")


class Hearing(Protocol):
    def heard(self, attachment: Attachment, message: Wire) -> None:
        """In the keeper's thread, which must not wait."""


class Announcement:
    """What this Vnic is to others. Nobody waits for the answer."""

    def __init__(self, presence: Presence, questions: Questions, orders: Orders) -> None:
        self._presence = presence
        self._questions = questions
        self._services: tuple[str, ...] = ()
        self._reports = False
        orders.add(self)

    def serve(self, name: str) -> None:
        self._services = (*self._services, name)
        self._say()

    def unserve(self, name: str) -> None:
        services = list(self._services)
        if name in services:
            services.remove(name)
            self._services = tuple(services)
            self._say()

    def report(self, allowed: bool) -> None:
        if allowed != self._reports:
            self._reports = allowed
            self._say()

    def question(self) -> Wire | None:
        if not self._services and not self._reports:
            return None
        return Announce(id=0, services=tuple(dict.fromkeys(self._services)), reports=self._reports)

    def renewed(self, answer: Answer) -> None:
        if isinstance(answer, Failed) and answer.code != "unsupported":
            _logger.warning("%s may not announce what it is: %s", self._presence.what, answer.text or answer.code)

    def _say(self) -> None:
        attachment = self._presence.attachment
        if attachment is not None and self._presence.ended is None:
            question = self.question() or Announce(id=0)
            self._questions.say(attachment, question)


class Bell:
    """Threads wait at it for something that the keeper's thread brings. Signals are looked at five times a second."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.RLock())

    def ring(self) -> None:
        with self._condition:
            self._condition.notify_all()

    @property
    def lock(self) -> threading.Condition:
        """Hold it while you look whether to wait."""
        return self._condition

    def wait(self, seconds: float) -> None:
        """With the lock held. Returns early, also for nothing."""
        self._condition.wait(max(0.0, min(seconds, 0.2)))
