"""Answers to the requests that came over one port: what a `Request` needs of its Vnic.

A right to reply is open from the moment its request is put where the program will find it until it is answered, let
go, or cancelled by its caller. With the port all its rights end; the caller was told by the Vnet, or by its own
library that the Vnet is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from layer8.dataplane import Kind, Outgoing, Reason, Status
from layer8.errors import Backpressure, MessageTooLarge
from layer8.protocol.headers import encode_headers
from layer8.vnic.attachment import Attachment
from layer8.vnic.calls import REASON_HEADER
from layer8.vnic.outbox import FRAGMENT_BYTES, Payload, check_payload
from layer8.vnic.presence import Presence
from layer8.vnic.room import Room
from layer8.vnic.waiting import deadline_after, remaining, run_now

if TYPE_CHECKING:
    from typing_extensions import Buffer

_REASON_LETTERS = 500  # of a reason given as text: it travels in the header map
_FULL = (Status.FULL, Status.XOFF)


def _drop(outgoing: Outgoing) -> None:
    """The port is gone, and with it what was to be pushed."""


class Replies:
    """The open rights of one attachment. Any thread."""

    def __init__(
        self,
        attachment: Attachment,
        presence: Presence,
        room: Room,
        timeout: float | None,
        later: Callable[[Outgoing], None],
    ) -> None:
        """`timeout`: how long a reply waits for room. `later`: keeps trying to push what found none."""
        self._attachment: Attachment | None = attachment
        self._presence = presence
        self._room = room
        self._timeout = timeout
        self._later = later
        self._open: set[tuple[int, int]] = set()
        self.arm = self._open.add
        self.disarm = self._open.discard

    def __len__(self) -> int:
        return len(self._open)

    def reply(self, right: int, generation: int, correlation: int, payload: Buffer) -> None:
        if not self.reply_at_once(right, generation, correlation, payload):
            run_now(self.reply_later(right, generation, correlation, payload))

    def fail(self, right: int, generation: int, correlation: int, reason: str, payload: bytes) -> None:
        run_now(self.fail_later(right, generation, correlation, reason, payload))

    def reply_at_once(self, right: int, generation: int, correlation: int, payload: Buffer) -> bool:
        """Replies if that needs no waiting."""
        attachment = self._attachment
        if (
            type(payload) is bytes
            and attachment is not None
            and (right, generation) in self._open
            and attachment.port.reply(right, generation, correlation, payload, len(payload)) > 0
        ):
            self._open.discard((right, generation))
            return True
        check_payload(payload)
        return False

    async def reply_later(self, right: int, generation: int, correlation: int, payload: Buffer) -> None:
        await self._answer(Kind.REPLY, right, generation, correlation, check_payload(payload), b"")

    async def fail_later(self, right: int, generation: int, correlation: int, reason: str, payload: bytes) -> None:
        text = reason.encode("utf-8", "replace").decode()[:_REASON_LETTERS]
        headers = encode_headers({REASON_HEADER: text}, reserved=True)
        await self._answer(Kind.FAILED_REPLY, right, generation, correlation, check_payload(payload), headers)

    def abandon(self, right: int, generation: int, correlation: int) -> None:
        self._let_go(right, generation, correlation, Reason.UNANSWERED, b"")

    def refuse(self, request: tuple[int, int, int, str]) -> None:
        """For whoever reads the ring: right, generation, correlation, and why. Never waits."""
        headers = encode_headers({REASON_HEADER: request[3]}, reserved=True)
        self._let_go(*request[:3], Reason.FAILED, headers)

    def _let_go(self, right: int, generation: int, correlation: int, reason: Reason, headers: bytes) -> None:
        attachment = self._attachment
        if (right, generation) not in self._open or attachment is None or self._presence.ended is not None:
            return
        self._open.discard((right, generation))
        outgoing = attachment.port.outgoing(
            kind=Kind.FAILED_REPLY,
            headers=headers,
            right=right,
            right_generation=generation,
            correlation=correlation,
            reason=reason,
        )
        if outgoing.push() in _FULL:
            self._later(outgoing)

    def close(self) -> None:
        """The port is gone."""
        self._attachment = None
        self._later = _drop
        self._open.clear()

    async def _answer(
        self, kind: Kind, right: int, generation: int, correlation: int, payload: Payload, headers: bytes
    ) -> None:
        self._presence.check_open()
        attachment = self._attachment
        if attachment is None or (right, generation) not in self._open:
            return  # the caller no longer waits
        size = len(payload) if isinstance(payload, bytes) else payload.nbytes
        limit = attachment.attached.max_message_bytes
        if size + len(headers) > limit:
            raise MessageTooLarge(size, limit)
        port = attachment.port
        outgoing: Outgoing | None = None
        if kind is not Kind.REPLY or size > FRAGMENT_BYTES or not isinstance(payload, bytes):
            outgoing = port.outgoing(
                kind=kind,
                headers=headers,
                payload=payload,
                correlation=correlation,
                right=right,
                right_generation=generation,
                reason=Reason.FAILED if kind is Kind.FAILED_REPLY else Reason.NONE,
            )
        deadline = deadline_after(self._timeout)
        try:
            while True:
                if outgoing is None:
                    assert isinstance(payload, bytes)
                    status = port.reply(right, generation, correlation, payload, size)
                else:
                    status = outgoing.push()
                if status >= 0:
                    break
                if status not in _FULL:
                    if outgoing is not None:
                        outgoing.abort()
                    self._presence.check_open()
                    break  # with the Vnet the right has ended
                if remaining(deadline) == 0:
                    raise Backpressure("the caller", self._timeout)
                await self._room.wait(port, -1, min(size + len(headers), FRAGMENT_BYTES), deadline)
        except BaseException:
            if outgoing is not None:
                outgoing.abort()
            raise
        self._open.discard((right, generation))
