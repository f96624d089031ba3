"""Who sent this? Asked in an event loop, before the first message of a principal is offered to the program.

So `message.principal`, which cannot be awaited, is known by then and stops nobody. A Vnet that does not answer in time
keeps no message back.
"""

from __future__ import annotations

from collections.abc import Callable

from layer8.protocol.control import Done, WhoIs
from layer8.vnic.attachment import Attachment
from layer8.vnic.loop import Home
from layer8.vnic.questions import Questions

PATIENCE = 1.0
"""Seconds that messages are kept back for."""


class Inquiry:
    """One question to the Vnet; `told` is called once in the loop: answered or not, reading goes on.

    An answer that comes later is kept, too. Raises ConnectionLost.
    """

    def __init__(
        self, home: Home, questions: Questions, attachment: Attachment, number: int, told: Callable[[], object]
    ) -> None:
        self.attachment = attachment
        self.number = number
        self._home = home
        self._questions = questions
        self._told: Callable[[], object] | None = told
        self._question = questions.pose(attachment, WhoIs(id=0, principal=number), self)
        self._timer = home.loop.call_later(PATIENCE, self._tell)

    @property
    def is_answered(self) -> bool:
        return self.number in self.attachment.principals

    def open(self) -> None:
        """Any thread: there is an answer, or there will be none."""
        self._home.run(self._end)

    def _end(self) -> None:
        self._questions.forget(self._question)
        self._timer.cancel()
        answer = self._question.answer
        if isinstance(answer, Done):
            self.attachment.principals[self.number] = answer.text
        self._tell()

    def _tell(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            told()
