"""Who is behind the numbers that the Vnet stamps on records: each is asked once in a stay on a Vnet."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable

from layer8.errors import Layer8Error, Unreachable
from layer8.protocol.control import Failed, WhoIs
from layer8.vnic.attachment import Attachment
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.presence import Presence
from layer8.vnic.questions import Questions
from layer8.vnic.waiting import deadline_after, run_now

Teller = Callable[[weakref.ref[Attachment], int], str]


class Principals:
    """Of one Vnic; any thread. `timeout`: seconds that a Vnet may take to answer."""

    def __init__(self, presence: Presence, questions: Questions, timeout: float | None) -> None:
        self._presence = presence
        self._questions = questions
        self._timeout = timeout

    def teller(self) -> Teller:
        """Tells what `who_is` does, and holds nothing of the Vnic: messages may be kept for long."""
        return functools.partial(_who_is, weakref.ref(self))

    def who_is(self, attachment: Attachment, number: int) -> str:
        """The principal behind a number of this attachment. Raises Unreachable when its Vnet is gone."""
        known = attachment.principals.get(number)
        if known is None:
            self._presence.check_open()
            if not self._questions.may_wait:
                raise Unreachable("the Vnet", "it has not said yet who sent this")
            try:
                question = WhoIs(id=0, principal=number)
                answer = run_now(self._questions.ask_blocking(attachment, question, deadline_after(self._timeout)))
            except ConnectionLost:
                raise Unreachable("the Vnet", "the one that this message came through is gone") from None
            if answer is None:
                raise Unreachable("the Vnet", "it did not answer in time")
            if isinstance(answer, Failed):
                raise Layer8Error(f"the Vnet does not say who principal {number} is: {answer.text}")
            known = attachment.principals[number] = answer.text
        return known


def _who_is(principals: weakref.ref[Principals], attachment: weakref.ref[Attachment], number: int) -> str:
    present, through = principals(), attachment()
    if present is None or through is None:
        raise Unreachable("the Vnet", "the one that this message came through is gone")
    return present.who_is(through, number)
