"""Questions to the Vnet over the control connection, and the callers who wait for the answers.

A caller waits at its gate; the keeper, who alone receives, matches answers to callers by id. When the Vnet is lost all
its open questions end with ConnectionLost, and whoever asked decides whether to ask the next Vnet.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from layer8.errors import Unreachable
from layer8.protocol.control import Done, Failed, Wire
from layer8.vnic.attachment import Attachment
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.presence import Presence
from layer8.vnic.waiting import Gate, run_now, slice_of

Answer = Done | Failed


class Opens(Protocol):
    """What somebody waits at."""

    def open(self) -> None: ...


class Question:
    """One question on its way. `answer` stays None until it is there; then, or when it is lost, the gate opens."""

    __slots__ = ("answer", "attachment", "gate", "id", "lost")

    def __init__(self, number: int, attachment: Attachment, gate: Opens) -> None:
        self.id = number
        self.attachment = attachment
        self.gate = gate
        self.answer: Answer | None = None
        self.lost = False


class Questions:
    """All open questions of one Vnic."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._ids = itertools.count(1)
        self._open: dict[int, Question] = {}

    @property
    def may_wait(self) -> bool:
        """Whether this thread may be blocked until an answer comes."""
        return True

    def pose(self, attachment: Attachment, message: Wire, gate: Opens | None = None) -> Question:
        """Sends it, its `id` set. Whoever poses a question also calls `forget`. Raises ConnectionLost."""
        question = Question(next(self._ids), attachment, gate or Gate())
        self._open[question.id] = question
        try:
            if attachment.lost:  # looked at after the entry is made: `lose` finds the entry, or we see this
                raise ConnectionLost("the Vnet is gone")
            attachment.connection.send(msgspec.structs.replace(message, id=question.id))
        except BaseException:
            self.forget(question)
            raise
        return question

    def forget(self, question: Question) -> None:
        self._open.pop(question.id, None)

    async def ask(self, attachment: Attachment, message: Wire, deadline: float) -> Answer | None:
        """The answer of this Vnet, or None when there was none until the deadline. Raises ConnectionLost, Closed."""
        return await self.ask_blocking(attachment, message, deadline)

    async def ask_blocking(self, attachment: Attachment, message: Wire, deadline: float) -> Answer | None:
        """The same, for whoever may block its thread."""
        gate = Gate()
        question = self.pose(attachment, message, gate)
        try:
            while question.answer is None:
                if question.lost:
                    raise ConnectionLost("the Vnet went away before it answered")
                seconds = slice_of(deadline)
                if seconds == 0:
                    return None
                gate.wait(seconds)
            return question.answer
        finally:
            self.forget(question)

    async def ask_any(self, message: Wire, deadline: float) -> Answer:
        """The answer of the Vnet that is there, or of the next one. Raises Unreachable at the deadline, Closed."""
        presence = self._presence
        return await _ask_any(presence, self.ask, presence.wait_attached, presence.wait_gone, message, deadline)

    def ask_any_blocking(self, message: Wire, deadline: float) -> Answer:
        """The same, for whoever may block its thread."""
        attached = functools.partial(Presence.wait_attached, self._presence)
        gone = functools.partial(Presence.wait_gone, self._presence)
        return run_now(_ask_any(self._presence, self.ask_blocking, attached, gone, message, deadline))

    def say(self, attachment: Attachment, message: Wire) -> None:
        """A question whose answer nobody waits for. A lost connection is noticed elsewhere."""
        try:
            attachment.connection.send(msgspec.structs.replace(message, id=next(self._ids)))
        except ConnectionLost:
            pass

    # ── the keeper's side ──────────────────────────────────────────────────────────────────────────────────────────

    def answered(self, answer: Answer) -> None:
        question = self._open.get(answer.id)
        if question is not None:
            question.answer = answer
            question.gate.open()

    def lose(self, attachment: Attachment) -> None:
        for question in list(self._open.values()):
            if question.attachment is attachment:
                question.lost = True
                question.gate.open()


async def _ask_any(
    presence: Presence,
    ask: Callable[[Attachment, Wire, float], Awaitable[Answer | None]],
    wait_attached: Callable[[float], Awaitable[Attachment | None]],
    wait_gone: Callable[[Attachment, float], Awaitable[bool]],
    message: Wire,
    deadline: float,
) -> Answer:
    while True:
        attachment = await wait_attached(deadline)
        if attachment is None:
            raise Unreachable("the Vnet", presence.away or "no Vnet is there")
        try:
            answer = await ask(attachment, message, deadline)
        except ConnectionLost:
            answer = None
            if await wait_gone(attachment, deadline):
                continue
        if answer is None:
            raise Unreachable("the Vnet", "it did not answer in time")
        stopping = isinstance(answer, Failed) and answer.code == "stopping"
        if stopping and await wait_gone(attachment, deadline):
            continue
        return answer
