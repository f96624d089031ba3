"""What a program receives: Message, Request and Undeliverable.

One of these is built for every message, so they are msgspec structs without a garbage-collector header and hold only
what the receive table gives for nothing. Whatever costs time is made when it is asked for: the uuid and the principal
of the sender by one `Source` shared by all its messages, the headers by the mapping that decodes itself. Nothing here
refers back to a message, so leaving the collector out loses no memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn, Protocol
from uuid import UUID

import msgspec

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from 3.12 on

NO_HEADERS: Mapping[str, str | bytes] = MappingProxyType({})
"""The headers of every message that has none: one shared, empty, read-only mapping."""


class Source:
    """The sender of messages: uuid and principal, each made at the first question and kept.

    One object per sender and principal serves all its messages. Two threads that ask at once may both do the work;
    they get equal answers.
    """

    __slots__ = ("_number", "_principal", "_uuid", "_uuid_bytes", "_who_is")

    def __init__(
        self, uuid_bytes: bytes, number: int, who_is: Callable[[int], str], principal: str | None = None
    ) -> None:
        """`number`: of the principal, as the Vnet stamped it. `who_is`: its URI; may ask the Vnet, and may raise.
        `principal`: that URI, where it is known."""
        self._uuid_bytes = uuid_bytes
        self._number = number
        self._who_is = who_is
        self._uuid: UUID | None = None
        self._principal = principal

    @property
    def uuid(self) -> UUID:
        if self._uuid is None:
            self._uuid = UUID(bytes=self._uuid_bytes)
        return self._uuid

    @property
    def principal(self) -> str:
        if self._principal is None:
            self._principal = self._who_is(self._number)
        return self._principal

    def __repr__(self) -> str:
        return f"Source({self.uuid})"


class Message(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One received message. Compared by identity: two messages with the same bytes are two messages.

    `payload`: the bytes sent. `topic`: for a publication, else None. `sequence`: the sender's count at sending.
    `missed`: publications of this topic dropped for this subscriber just before this one, because it was slow.
    `headers`: read-only, str to str or bytes; a mapping that a hostile sender garbled raises a Layer8Error when read.
    """

    payload: bytes
    _source: Source
    sequence: int = 0
    topic: str | None = None
    missed: int = 0
    headers: Mapping[str, str | bytes] = NO_HEADERS

    @property
    def source(self) -> UUID:
        """The uuid of the sender, stamped by the Vnet."""
        return self._source.uuid

    @property
    def principal(self) -> str:
        """Who the sender proved to be, stamped by the Vnet.

        The first question about a sender may ask the Vnet; an AsyncVnic has asked it before it offers the message.
        Raises Unreachable when the Vnet is gone, or has not answered.
        """
        return self._source.principal

    @property
    def view(self) -> memoryview:
        """The payload as a read-only memoryview: slicing it copies nothing."""
        return memoryview(self.payload)

    @property
    def is_request(self) -> bool:
        """Whether the sender waits for a reply; then this is a Request."""
        return False

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} stays in its process: give others its payload and dict(headers)")

    def __repr__(self) -> str:
        topic = "" if self.topic is None else f" on {self.topic!r}"
        missed = f", {self.missed} missed before it" if self.missed else ""
        return f"<{type(self).__name__} {self.sequence} of {self.source}{topic}: {len(self.payload)} bytes{missed}>"


class Replier(Protocol):
    """What a Request needs of its Vnic: one object for all its requests. Called from any thread.

    `right`, `generation` and `correlation` are what the request came with.
    """

    def reply(self, right: int, generation: int, correlation: int, payload: Buffer) -> None:
        """Sends the reply, waiting for room up to the Vnic's time-out. Backpressure: surely not sent.

        A caller that no longer waits (gone, cancelled, timed out) is no error: the reply goes nowhere.
        """

    def fail(self, right: int, generation: int, correlation: int, reason: str, payload: bytes) -> None:
        """Sends a failed reply; the caller gets RequestFailed(reason, payload). Errors as in `reply`."""

    def abandon(self, right: int, generation: int, correlation: int) -> None:
        """The program let the request go without an answer: tell the caller. Called by the interpreter wherever it
        frees an object, so it must neither raise, nor wait, nor take a lock that its own thread may hold."""


class Right:
    """The right to answer one request, used once: the only mutable part of a Request."""

    __slots__ = ("_correlation", "_deadline", "_generation", "_open", "_replier", "_right")

    def __init__(self, replier: Replier, right: int, generation: int, correlation: int, deadline: float) -> None:
        """`deadline`: time.monotonic() at which the caller stops waiting; math.inf when it never does."""
        self._replier = replier
        self._right = right
        self._generation = generation
        self._correlation = correlation
        self._deadline = deadline
        self._open = [True]  # popping is one step, also between threads

    @property
    def deadline(self) -> float:
        return self._deadline

    def reply(self, payload: Buffer) -> None:
        names = self.take()
        try:
            self._replier.reply(*names, payload)
        except BaseException:
            self.give_back()
            raise

    def fail(self, reason: str, payload: bytes) -> None:
        names = self.take()
        try:
            self._replier.fail(*names, reason, payload)
        except BaseException:
            self.give_back()
            raise

    @property
    def answered(self) -> bool:
        return not self._open

    @property
    def replier(self) -> Replier:
        return self._replier

    def take(self) -> tuple[int, int, int]:
        """What the replier needs: right, generation and correlation. ValueError when it was used before."""
        try:
            self._open.pop()
        except IndexError:
            raise ValueError("this request has been answered already: a request takes one reply") from None
        return self._right, self._generation, self._correlation

    def give_back(self) -> None:
        """Nothing was sent: it can be tried again."""
        self._open.append(True)

    def __del__(self) -> None:
        if self._open:
            self._replier.abandon(self._right, self._generation, self._correlation)


class Request(Message, frozen=True, gc=False, eq=False, kw_only=True):
    """A message whose sender waits for an answer: exactly one `reply` or `fail`.

    It may be answered later and from another thread. A second answer is a ValueError. An answer that raised
    (Backpressure, TypeError) was not sent and may be tried again. A request that the program forgets unanswered fails
    at its caller at once, with the reason "unanswered".
    """

    _right: Right

    @property
    def is_request(self) -> bool:
        return True

    def reply(self, payload: Buffer) -> None:
        """Answers with `payload` (bytes-like). If the caller no longer waits, nothing happens.

        Raises ValueError when it was answered before, Backpressure when the caller takes nothing, MessageTooLarge,
        Closed.
        """
        self._right.reply(payload)

    def fail(self, reason: str, payload: bytes = b"") -> None:
        """Answers that it failed: the caller gets RequestFailed(reason, payload). Raises as `reply` does."""
        if not isinstance(reason, str):
            raise TypeError(f"a reason is a str, not {type(reason).__name__}")
        self._right.fail(reason, payload)

    @property
    def answered(self) -> bool:
        """Whether `reply` or `fail` was done."""
        return self._right.answered

    @property
    def remaining(self) -> float:
        """Seconds the caller still waits: 0.0 when it has stopped, math.inf when it waits for ever."""
        deadline = self._right.deadline
        return math.inf if deadline == math.inf else max(0.0, deadline - time.monotonic())


class Undeliverable(msgspec.Struct, frozen=True, gc=False):
    """A message that was accepted and did not arrive. `reason` "unknown": it may have arrived.

    `to`: the name it was sent to. `sequence`: what send returned. `size`: bytes of its payload; of a message in
    fragments that was refused before its last one, rounded up to whole fragments.
    """

    to: UUID | str
    sequence: int
    reason: str
    size: int
