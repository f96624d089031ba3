"""Requests on their way: who waits for which answer.

A call is known by its correlation, a number that this Vnic chose and that comes back with the reply. Whoever reads the
ring puts the outcome into the call; the first outcome counts.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections import deque
from typing import TYPE_CHECKING
from uuid import UUID

from layer8.errors import Layer8Error, RequestFailed
from layer8.health_record import HealthRecord
from layer8.message import Message
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.headers import decode_headers
from layer8.vnic.refusals import UNKNOWN, error_of_notice, word

if TYPE_CHECKING:
    from layer8.vnic.attachment import Attachment

REASON_HEADER = "layer8.reason"
"""Where a failed reply carries the reason that the callee gave, as text."""

_FIRST_CORRELATION = 1 << 63  # apart from the sequences that stand in the same field of other messages

Outcome = Message | Layer8Error


class Call:
    """One request. `outcomes`: what came of it, the first counts. A place that the inbox can wait at."""

    __slots__ = ("attachment", "correlation", "handle", "outcomes", "timeout", "to")

    def __init__(self, correlation: int, to: UUID | HealthRecord | str, timeout: float | None) -> None:
        self.correlation = correlation
        self.to: UUID | str = to.uuid if isinstance(to, HealthRecord) else to
        self.timeout = timeout
        self.attachment: Attachment | None = None  # through which it was sent
        self.handle = 0
        self.outcomes: deque[Outcome] = deque()

    def ready(self) -> bool:
        return bool(self.outcomes)

    def result(self) -> Message:
        """The reply, once it is ready. Raises what came in place of one."""
        outcome = self.outcomes[0]
        if isinstance(outcome, Layer8Error):
            raise outcome
        return outcome


class Calls:
    """The outstanding requests of one Vnic."""

    def __init__(self) -> None:
        # From anywhere, so that a reply to a request of long ago is not taken for one to another Vnic's.
        self._correlations = itertools.count(_FIRST_CORRELATION | secrets.randbits(62))
        self._open: dict[int, Call] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, to: UUID | HealthRecord | str, timeout: float | None) -> Call:
        """`to` may turn out to be no name at all; then the call ends before it was sent."""
        call = self._make(next(self._correlations), to, timeout)
        self._open[call.correlation] = call
        return call

    def _make(self, correlation: int, to: UUID | HealthRecord | str, timeout: float | None) -> Call:
        return Call(correlation, to, timeout)

    def end(self, call: Call) -> None:
        self._open.pop(call.correlation, None)

    def find(self, correlation: int) -> Call | None:
        """None: nobody waits for it any more."""
        return self._open.get(correlation)

    def lose(self, attachment: Attachment) -> None:
        """The Vnet is gone: whether these were carried out cannot be known."""
        for call in list(self._open.values()):
            if call.attachment is attachment:
                call.outcomes.append(RequestFailed(UNKNOWN))

    def fail_all(self, error: Layer8Error) -> None:
        for call in list(self._open.values()):
            call.outcomes.append(error)


def error_of_reply(reason: int, headers: bytes, payload: bytes) -> RequestFailed:
    """What a failed reply says: the callee's own words, or the switch's code."""
    try:
        text = decode_headers(headers).get(REASON_HEADER)
    except ProtocolViolation:
        text = None
    return RequestFailed(text if isinstance(text, str) else word(reason), payload)


def error_of_call(call: Call, reason: int, principal: str) -> Layer8Error:
    """What the Vnet's notice about a request means to its caller."""
    return error_of_notice(reason, call.to, principal, call.timeout)


def ttl_ms(seconds: float | None) -> int:
    """A time to live as it stands in a record: 0 is no limit."""
    if seconds is None:
        return 0
    return max(1, min(math.ceil(seconds * 1000), (1 << 32) - 1))
