"""What a Vnic sends: finds the handle, hands the message to the port, and waits while the destination takes no more.

The hot path stands in `Vnic.send`: the C call of the last destination, kept in `last`. Here is everything else. A
message up to 64 KiB without extras is one C call too; one with headers, a ttl or more bytes is an `Outgoing` that is
pushed until all of it stands in the ring, or taken back whole. When the Vnet goes away in the middle, the message goes
on with the next one; should that one not adopt the port it begins anew: until its last record stood in the ring nothing
was accepted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from uuid import UUID

from layer8.dataplane import Flag, Kind, Outgoing, Reason, Status
from layer8.errors import Backpressure, Layer8Error, MessageTooLarge, NotFound
from layer8.health_record import HealthRecord
from layer8.names import check_topic, destination
from layer8.protocol.control import Failed, Find
from layer8.protocol.headers import encode_headers
from layer8.vnic.attachment import Attachment
from layer8.vnic.calls import Call
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.handles import Handle, Handles
from layer8.vnic.presence import Presence
from layer8.vnic.questions import Questions
from layer8.vnic.refusals import error_of_failed, error_of_slot
from layer8.vnic.room import Room
from layer8.vnic.waiting import Turn, deadline_after, remaining

if TYPE_CHECKING:
    from typing_extensions import Buffer

FRAGMENT_BYTES = 65536
"""Header map and payload of one record, at most."""

Last = tuple[object, Callable[..., int]]

Payload = bytes | memoryview
To = UUID | HealthRecord | str
"""What users name destinations by."""


def check_payload(payload: Buffer) -> Payload:
    """The bytes to send, not copied. TypeError for str and for what is no C-contiguous buffer."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        raise TypeError("a payload is bytes, not str: encode it, for instance with .encode()")
    try:
        view = memoryview(payload)
    except TypeError:
        raise TypeError(f"a payload is bytes-like, not {type(payload).__name__}") from None
    if not view.c_contiguous:
        raise TypeError("a payload is one C-contiguous piece of memory, and this buffer is not")
    return view


class Draft:
    """One message as the program gave it, until it is accepted."""

    __slots__ = (
        "action",
        "call",
        "deadline",
        "headers",
        "kind",
        "name",
        "payload",
        "reliable",
        "size",
        "timeout",
        "to",
        "ttl",
    )

    def __init__(
        self,
        kind: Kind,
        to: To,
        payload: Buffer,
        headers: Mapping[str, str | bytes] | None,
        timeout: float | None,
        *,
        ttl: int = 0,
        reliable: bool = False,
        call: Call | None = None,
    ) -> None:
        self.kind = kind
        self.to = to
        self.name: UUID | str = check_topic(to) if kind is Kind.PUBLISH else destination(to)  # type: ignore[arg-type]
        self.action = {Kind.PUBLISH: "publish", Kind.REQUEST: "request"}.get(kind, "send")
        self.payload = check_payload(payload)
        self.size = len(self.payload) if isinstance(self.payload, bytes) else self.payload.nbytes
        self.headers = b"" if headers is None else encode_headers(headers)
        self.timeout = timeout
        self.deadline = deadline_after(timeout)
        self.ttl = ttl
        self.reliable = reliable
        self.call = call

    @property
    def plain(self) -> bool:
        """Whether one C call with payload and handle says it all."""
        return self.size <= FRAGMENT_BYTES and not self.headers and (not self.ttl or self.kind is Kind.REQUEST)

    def backpressure(self, away: str = "") -> Backpressure:
        """`away`: as Presence has it."""
        return Backpressure(self.name, self.timeout, away)


class Outbox:
    """The sending of one Vnic; any thread.

    `last`, `last_topic`: the destination (by identity) and the C call of the latest send and publish.
    """

    def __init__(
        self,
        presence: Presence,
        questions: Questions,
        later: Callable[[Outgoing], None],
        room: Room,
        asking: Turn,
    ) -> None:
        """`later`: keeps trying to push what found no room and nobody waits for."""
        self._presence = presence
        self._questions = questions
        self._later = later
        self.handles = Handles(presence, questions, asking)
        self.room = room
        self._nobody: Last = (object(), _not_now)
        self.last: Last = self._nobody
        self.last_topic: Last = self._nobody

    async def send(self, draft: Draft) -> int:
        """Until it is accepted: its sequence. Raises Backpressure, NotFound, Unreachable, MessageTooLarge, Closed, …"""
        while True:
            attachment = await self._presence.wait_attached(draft.deadline)
            if attachment is None:
                raise draft.backpressure(self._presence.away)
            limit = attachment.attached.max_message_bytes
            if draft.size + len(draft.headers) > limit:
                raise MessageTooLarge(draft.size, limit)
            try:
                sequence = await self._send_on(attachment, draft)
            except ConnectionLost:
                sequence = None
            if sequence is not None:
                return sequence
            if not await self._presence.wait_gone(attachment, draft.deadline):
                raise draft.backpressure()

    def call_of(self, to: To) -> Callable[..., int]:
        """The C call for a destination that is known; it becomes the last one."""
        try:
            handle = self.handles.quick.get(to)  # a HealthRecord is simply not there
        except TypeError:  # it has no hash
            destination(to)
            raise
        if handle is None or handle.attachment is not self._presence.attachment:
            return _not_now
        self.last = (to, handle.send)
        return handle.send

    def request_now(self, to: To, payload: Buffer, call: Call, ttl: int) -> bool:
        """Sends a plain request to a destination that is known, if that needs no waiting; False: not sent."""
        try:
            handle = self.handles.quick.get(to)
        except TypeError:
            destination(to)
            raise
        if handle is None or type(payload) is not bytes or handle.attachment is not self._presence.attachment:
            return False
        call.attachment = handle.attachment
        call.handle = handle.number
        return handle.request(payload, len(payload), call.correlation, ttl) > 0

    async def prepare(self, draft: Draft, timeout: float | None) -> None:
        """Asks for the handle of this draft, so that sending it waits for nobody."""
        attachment = await self._presence.wait_attached(draft.deadline)
        if attachment is not None:
            try:
                await self.handles.obtain(attachment, draft.name, False, draft.action, deadline_after(timeout))
            except ConnectionLost:
                pass  # the send will see

    def cancel(self, call: Call) -> None:
        """Its caller no longer waits: the callee is told."""
        attachment = call.attachment
        if attachment is None or attachment.lost or self._presence.ended is not None:
            return
        outgoing = attachment.port.outgoing(kind=Kind.CANCEL, handle=call.handle, correlation=call.correlation)
        if outgoing.push() in _FULL:
            self._later(outgoing)

    async def _send_on(self, attachment: Attachment, draft: Draft) -> int | None:
        """The sequence, or None when this attachment has ended before the message was accepted."""
        name = draft.name
        topic = draft.kind is Kind.PUBLISH
        if isinstance(name, str) and not topic and draft.size + len(draft.headers) > FRAGMENT_BYTES:
            name = await self._member(attachment, name, draft)  # fragments of one message go to one process
        again = isinstance(name, str)
        asked_again = False
        while True:
            handle = self.handles.get(attachment, name, topic)
            if handle is None or draft.action not in handle.allows:
                handle = await self.handles.obtain(attachment, name, topic, draft.action, draft.deadline)
            if handle is None:
                raise draft.backpressure()
            if draft.call is not None:
                draft.call.outcomes.clear()  # of a Vnet that was lost before it had the request
                draft.call.attachment = attachment
                draft.call.handle = handle.number
            result = await (self._hand_over(handle, draft) if draft.plain else self._push(handle, draft))
            if result > 0:
                return result
            if result in (Status.GONE, Status.REVOKED):
                self.handles.drop(handle)
                if again and result == Status.GONE:  # somebody else may have the alias by now
                    again = False
                    continue
                if result == Status.REVOKED and not asked_again:  # the Vnet says what is allowed now, and what is not
                    asked_again = True
                    continue
                raise error_of_slot(_REASONS[Status(result)], draft.name, attachment.attached.principal, draft.action)
            if result == Status.TOO_LARGE:
                raise MessageTooLarge(draft.size, attachment.attached.max_message_bytes)
            if result == Status.INVALID:
                raise Layer8Error(f"the port refused a message to {draft.name}")
            if result == Status.CORRUPT:
                attachment.give_up()
            return None

    async def _hand_over(self, handle: Handle, draft: Draft) -> int:
        """A message of one record: its sequence or a status that ends it."""
        port = handle.attachment.port
        payload = draft.payload if isinstance(draft.payload, bytes) else port.buffer(draft.payload)
        size = draft.size
        call: Callable[[], int]
        if draft.kind is Kind.UNICAST:
            call = functools.partial(handle.send, payload, size)
        elif draft.kind is Kind.PUBLISH:
            call = functools.partial(handle.publish, payload, size, draft.reliable)
        else:
            assert draft.call is not None
            call = functools.partial(port.request, handle.number, payload, size, draft.call.correlation, draft.ttl)
        while True:
            result = call()
            if result > 0:
                self._remember(handle, draft)
                return result
            if result not in _FULL:
                return result
            if remaining(draft.deadline) == 0:
                raise draft.backpressure()
            await self.room.wait(port, handle.slot, size, draft.deadline)

    def _remember(self, handle: Handle, draft: Draft) -> None:
        if handle.attachment is self._presence.attachment:
            if draft.kind is Kind.UNICAST:
                self.last = (draft.to, handle.send)
            elif draft.kind is Kind.PUBLISH:
                self.last_topic = (draft.to, handle.publish)

    async def _push(self, handle: Handle, draft: Draft) -> int:
        """Any other message: its sequence or a status that ends it. Whatever is raised, nothing of it stays."""
        port = handle.attachment.port
        outgoing = port.outgoing(
            kind=draft.kind,
            handle=handle.number,
            headers=draft.headers,
            payload=draft.payload,
            correlation=0 if draft.call is None else draft.call.correlation,
            ttl=draft.ttl,
            flags=Flag.RELIABLE if draft.reliable else Flag(0),
        )
        size = draft.size + len(draft.headers)
        handle.busy += 1
        try:
            while True:
                status = outgoing.push()
                if status == Status.OK:
                    return outgoing.sequence
                if status == Status.AWAY and outgoing.begun and draft.kind is not Kind.REQUEST:
                    if not await self._goes_on(handle, draft):
                        outgoing.abort()
                        return status
                    continue
                if status not in _FULL:
                    outgoing.abort()
                    return status
                if remaining(draft.deadline) == 0:
                    raise draft.backpressure()
                await self.room.wait(port, handle.slot, min(size, FRAGMENT_BYTES), draft.deadline)
        except BaseException:
            outgoing.abort()
            raise
        finally:
            handle.busy -= 1

    async def _goes_on(self, handle: Handle, draft: Draft) -> bool:
        """Waits for the next Vnet: whether it has adopted the port and renewed the handle."""
        attachment = await self._presence.wait_attached(draft.deadline)
        if attachment is None:
            raise draft.backpressure(self._presence.away)
        return handle.attachment is attachment and not handle.gone

    async def _member(self, attachment: Attachment, alias: str, draft: Draft) -> UUID:
        """One Vnic of this alias that is up."""
        answer = await self._questions.ask(attachment, Find(id=0, to=alias, is_uuid=False), draft.deadline)
        if answer is None:
            raise draft.backpressure()
        if isinstance(answer, Failed):
            if answer.code == "stopping":
                raise ConnectionLost("the Vnet is stopping")
            raise error_of_failed(answer, alias, attachment.attached.principal, draft.action)
        if answer.record is None:
            raise NotFound(alias)
        return answer.record.uuid

    # ── for layer8.vnic.core ───────────────────────────────────────────────────────────────────────────────────────

    def forget_last(self) -> None:
        """The hot path ends here from now on: the port takes nothing more."""
        self.last = self._nobody
        self.last_topic = self._nobody
        self.handles.slow_down()


_REASONS = {Status.GONE: Reason.GONE, Status.REVOKED: Reason.REVOKED}
_FULL = (Status.FULL, Status.XOFF)


def _not_now(*arguments: object) -> int:
    """In place of the C call when there is no last destination."""
    return int(Status.CLOSED)
