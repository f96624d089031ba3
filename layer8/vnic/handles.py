"""Handles: the small numbers that stand for destinations and topics on this Vnic's port.

    none ──Grant──▶ open ──(its destination is gone, or it is the longest unused of 4096)──▶ none, Release
                     ├──(the Vnet is lost)──▶ kept ──(the next one adopts the port: Grant, renewed)──▶ open
                     │                                └──(that is refused)──▶ none, gone
                     └──(the segment is lost too)──▶ none; the next send asks the next Vnet

A slot is granted again under a new generation, so that what still travels under the old one is never mistaken. What a
number stood for is remembered for a while, because a report may come long after its handle.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable
from uuid import UUID

from layer8.dataplane import Port, Status
from layer8.errors import Layer8Error, NotAuthorized
from layer8.protocol.control import Failed, Grant, Release, Wire
from layer8.vnic.attachment import Attachment
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.presence import Presence
from layer8.vnic.questions import Answer, Questions
from layer8.vnic.refusals import error_of_failed
from layer8.vnic.waiting import Turn

SLOTS = 4096
"""LAYER8_SLOTS of the layout."""

_GENERATIONS = 1 << 16
_NAMES = 4 * SLOTS  # numbers whose names are remembered
_MANY = SLOTS // 2  # from so many on it matters which were used last


class Handle:
    """One destination or topic on one port. `send`, `publish` and `request` are C calls, port and number bound.

    `attachment`: on which it was granted, or renewed. `gone`: a later Vnet has refused to renew it. `allows`: what the
    Vnet lets it be used for.
    """

    __slots__ = (
        "action",
        "allows",
        "attachment",
        "busy",
        "gone",
        "name",
        "number",
        "publish",
        "request",
        "send",
        "slot",
        "topic",
    )

    def __init__(
        self,
        attachment: Attachment,
        name: UUID | str,
        topic: bool,
        action: str,
        slot: int,
        generation: int,
        allows: str = "",
    ) -> None:
        port: Port = attachment.port
        self.attachment = attachment
        self.action = action
        self.gone = False
        self.name = name
        self.topic = topic
        self.slot = slot
        self.number = slot | generation << 16
        self.send: Callable[..., int] = functools.partial(port.send, self.number)
        self.publish: Callable[..., int] = functools.partial(port.publish, self.number)
        self.request: Callable[..., int] = functools.partial(port.request, self.number)
        self.busy = 0  # messages in fragments under way: not to be released
        self.allow(allows)

    def allow(self, allows: str) -> None:
        """What the Vnet said that it may be used for; a Vnet that says nothing allows all."""
        self.allows = frozenset(allows.split() or ("send", "request", "publish"))
        port: Port = self.attachment.port
        may_send, may_request = "send" in self.allows, "request" in self.allows
        self.send = functools.partial(port.send, self.number) if may_send else not_allowed
        self.request = functools.partial(port.request, self.number) if may_request else not_allowed


class Handles:
    """The handles of one Vnic. Any thread; one at a time asks the Vnet for a new one.

    `quick`: the destinations by name for whoever wants no more than a look; empty while they must not be used so.
    """

    def __init__(self, presence: Presence, questions: Questions, asking: Turn) -> None:
        self._presence = presence
        self._questions = questions
        self._asking = asking
        self._open: tuple[dict[object, Handle], dict[object, Handle]] = ({}, {})  # destinations, topics
        self._free = deque(range(SLOTS))
        self._generations = [0] * SLOTS
        self._names: dict[int, UUID | str] = {}
        self.quick: dict[object, Handle] = {}

    def __len__(self) -> int:
        return len(self._open[0]) + len(self._open[1])

    def get(self, attachment: Attachment, name: UUID | str, topic: bool) -> Handle | None:
        """The handle for `name` on this attachment, if there is one."""
        found = self._open[topic].get(name)
        if found is None or found.attachment is not attachment:
            return None
        if len(self) >= _MANY:
            with self._presence.lock:
                if self._open[topic].pop(name, None) is found:
                    self._open[topic][name] = found  # last in the order: used last
        return found

    async def obtain(
        self, attachment: Attachment, name: UUID | str, topic: bool, action: str, deadline: float
    ) -> Handle | None:
        """The handle for `name`, asking the Vnet if need be. None: no answer until the deadline. One that is there and
        is not for this action is asked for anew: the policy may have changed.

        Raises NotFound, NotAuthorized, ConnectionLost, Closed.
        """
        handle = self.get(attachment, name, topic)
        if handle is not None and action in handle.allows:
            return handle
        if not await self._asking.take(deadline):
            return None
        try:
            handle = self.get(attachment, name, topic)
            if handle is not None and action in handle.allows:
                return handle
            if handle is not None:
                if handle.busy:
                    raise NotAuthorized(attachment.attached.principal, action, str(name))
                self.drop(handle)
            return await self._ask(attachment, name, topic, action, deadline)
        finally:
            self._asking.release()

    async def _ask(
        self, attachment: Attachment, name: UUID | str, topic: bool, action: str, deadline: float
    ) -> Handle | None:
        slot = self._slot(attachment)
        generation = self._generations[slot] = (self._generations[slot] + 1) % _GENERATIONS
        question = _question(name, topic, action, slot, generation)
        granted = False
        try:
            answer = await self._questions.ask(attachment, question, deadline)
            if answer is None:
                return None
            if isinstance(answer, Failed):
                if answer.code == "stopping":
                    raise ConnectionLost("the Vnet is stopping")
                raise error_of_failed(answer, name, attachment.attached.principal, action)
            handle = Handle(attachment, name, topic, action, slot, generation, answer.text)
            with self._presence.lock:
                granted = True
                self._open[topic][name] = handle
                self._names[handle.number] = name
                if len(self._names) > _NAMES:
                    del self._names[next(iter(self._names))]
                if attachment is self._presence.attachment and len(self) < _MANY:
                    self.quick = self._open[0]
                else:  # from now on it matters which were used last
                    self.quick = {}
            return handle
        finally:
            if not granted:
                self._give_back(attachment, slot, generation)

    def _slot(self, attachment: Attachment) -> int:
        """A free slot; the one longest unused is freed for it. What was sent under it is delivered all the same."""
        while not self._free:
            with self._presence.lock:
                oldest = next((handle for table in self._open for handle in table.values() if not handle.busy), None)
                if oldest is not None:
                    del self._open[oldest.topic][oldest.name]
            if oldest is None:
                raise Layer8Error(f"all {SLOTS} handles of this Vnic are sending large messages")
            self._give_back(attachment, oldest.slot, oldest.number >> 16)
        return self._free.popleft()

    def drop(self, handle: Handle) -> None:
        """It is of no use any more: its destination is gone. Safe twice."""
        with self._presence.lock:
            if self._open[handle.topic].get(handle.name) is not handle:
                return
            del self._open[handle.topic][handle.name]
        self._give_back(handle.attachment, handle.slot, handle.number >> 16)

    def _give_back(self, attachment: Attachment, slot: int, generation: int) -> None:
        if attachment is self._presence.attachment:
            self._questions.say(attachment, Release(id=0, slot=slot, generation=generation))
            self._free.append(slot)

    def name_of(self, number: int) -> UUID | str | None:
        """What this number stood for; None when that is long ago."""
        return self._names.get(number)

    # ── for layer8.vnic.outbox and core ────────────────────────────────────────────────────────────────────────────

    def slow_down(self) -> None:
        """The port takes nothing new: `quick` stays empty until the next handle is granted."""
        self.quick = {}

    def renew(self, attachment: Attachment, ask_all: Callable[[list[Wire]], list[Answer]]) -> None:
        """A Vnet has adopted the port: all handles are asked of it, under their numbers; the slots of the others are
        free. `ask_all`: answers, in the order of the questions."""
        with self._asking, self._presence.lock:  # whoever asks now asks a Vnet that is gone, and hears of it
            handles = [handle for table in self._open for handle in table.values()]
        questions: list[Wire] = [
            _question(handle.name, handle.topic, handle.action, handle.slot, handle.number >> 16, renew=True)
            for handle in handles
        ]
        for handle, answer in zip(handles, ask_all(questions), strict=True):
            granted = not isinstance(answer, Failed)
            if not self._keep(attachment, handle, None if isinstance(answer, Failed) else answer.text) and granted:
                self._questions.say(attachment, Release(id=0, slot=handle.slot, generation=handle.number >> 16))
        with self._presence.lock:
            taken = {handle.slot for table in self._open for handle in table.values()}
            self._free = deque(itertools.filterfalse(taken.__contains__, range(SLOTS)))
            self.quick = self._open[0] if len(self) < _MANY else {}

    def _keep(self, attachment: Attachment, handle: Handle, allows: str | None) -> bool:
        """What the Vnet has answered for one of them; None: no. False: it is not granted, or was dropped meanwhile."""
        with self._presence.lock:
            table = self._open[handle.topic]
            kept = table.get(handle.name) is handle
            if kept and allows is not None:
                handle.attachment = attachment
                handle.allow(allows)
                return True
            handle.gone = True
            if kept:
                del table[handle.name]
        return False

    def lose(self) -> None:
        """The port is gone, and all handles with it; a new port has all slots free."""
        with self._presence.lock:
            self.quick = {}
            for table in self._open:
                table.clear()
            self._free = deque(range(SLOTS))


def not_allowed(*arguments: object) -> int:
    """In place of a C call that the Vnet would refuse: the long way says so, or asks again."""
    return int(Status.CLOSED)


def _question(name: UUID | str, topic: bool, action: str, slot: int, generation: int, *, renew: bool = False) -> Grant:
    kind = "topic" if topic else "uuid" if isinstance(name, UUID) else "alias"
    return Grant(id=0, slot=slot, generation=generation, kind=kind, name=str(name), action=action, renew=renew)
