"""What a batch of the receive table becomes: messages, outcomes of calls, reports, each with the place it goes to.

`plain` is the hot path: a batch of whole messages without headers, all for the Vnic's own queue, in one comprehension.
Everything else becomes steps, (put, item): putting is a method of a deque, which no signal can cut in two. Building
moves nothing, so an interrupted batch is simply built again.
"""

from __future__ import annotations

import functools
import logging
import math
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from layer8.dataplane import NO_SOURCE, Batch, Entry, Flag, Kind, Port, Reason, Record
from layer8.errors import RequestFailed
from layer8.message import Message, Request, Right, Source, Undeliverable
from layer8.protocol.headers import header_map
from layer8.vnic.calls import Calls, error_of_call, error_of_reply
from layer8.vnic.queues import OVERHEAD, Queue, Sink
from layer8.vnic.refusals import word
from layer8.vnic.topics import Topics

if TYPE_CHECKING:
    from layer8.vnic.attachment import Attachment
    from layer8.vnic.replies import Replies

BATCH = 256
"""Most messages taken from the ring at once."""

_REPORTED = 1 << 15  # records that transmit and hold ring can hold at a time, about

Step = tuple[Callable[..., object], object]

_UNICAST = int(Kind.UNICAST)
_PUBLISH = int(Kind.PUBLISH)
_REQUEST = int(Kind.REQUEST)
_REPLY = int(Kind.REPLY)
_FAILED_REPLY = int(Kind.FAILED_REPLY)
_CANCEL = int(Kind.CANCEL)
_ABORT = int(Kind.ABORT)
_NOTICE = int(Kind.NOTICE)
_PLAIN = int(Flag.FIRST | Flag.LAST)
_LARGE = int(Flag.ENTRY_LARGE)
_HEADERS = int(Flag.HEADERS)
_MISSED = int(Flag.ENTRY_MISSED)
_LOST_NOTICES = int(Reason.LOST_NOTICES)
_SPECIAL = int(Flag.HEADERS | Flag.ENTRY_MISSED | Flag.ENTRY_LARGE)

_NO_ROOM = "no room for a message of this size: too many are arriving at once"

_logger = logging.getLogger(__name__)


def _log_discarded(about: tuple[UUID, int]) -> None:
    _logger.warning("discarded a message of up to %d fragments from %s: %s", about[1], about[0], _NO_ROOM)


class Left(Exception):
    """The Vnic was closed while a batch of its port was being built: nobody will read what is in it."""


class Stranger(Exception):
    """Something has come from a principal whose name is to be asked first."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Records:
    """Turns the entries of one Vnic's port into messages. Used by whoever reads the ring, one thread at a time."""

    def __init__(
        self,
        messages: Queue[Message],
        jobs: Queue[Any],
        topics: Topics,
        calls: Calls,
        name_of: Callable[[int], UUID | str | None],
        who_is: Callable[[weakref.ref[Attachment], int], str],
        report: Callable[[Undeliverable], None],
        request: type[Request] = Request,
    ) -> None:
        """`name_of`: the destination that a handle stood for. `who_is`: the principal behind a number; it holds nothing
        of the Vnic. `report`: about a message that did not arrive and that no handler is told of."""
        self._messages = messages
        self._jobs = jobs
        self._topics = topics
        self._calls = calls
        self._name_of = name_of
        self._who_is = who_is
        self._report = report
        self._request = request
        self._reports: deque[Undeliverable] = deque()
        self._reported: set[int] = set()  # sequences of what was reported, and those of before
        self._reported_earlier: set[int] = set()
        self._sources: dict[int, Source] = {}
        self._nameless: set[int] = set()  # principals that nobody is asked about
        self.names_first = False  # raise Stranger
        self._attachment: Attachment | None = None
        self._replies: Replies | None = None
        self.requests: Sink | None = None  # who serves, when not the Vnic's own queue
        self.undeliverable: Sink | None = None

    def attach(self, attachment: Attachment, replies: Replies) -> None:
        """From now on batches are of this port: the numbers of sources, principals and rights are its own."""
        self._attachment = attachment
        self._replies = replies
        self._sources = {}
        self._nameless = set()

    def leave(self) -> None:
        """The port is given back."""
        self._attachment = None
        self._replies = None
        self._sources = {}

    # ── the hot path ───────────────────────────────────────────────────────────────────────────────────────────────

    def plain(self, port: Port, count: int) -> list[Message] | None:
        """The messages of the batch when all of it is for the Vnic's own queue and whole; else None."""
        batch = port.batch
        entries = list(port.entries(count))
        kind = entries[0][2]
        if kind == _UNICAST:
            build = self._unicasts
        elif kind == _PUBLISH:
            build = self._publications
        else:
            return None
        try:
            messages = build(batch, entries)
        except KeyError:
            for entry in entries:
                self._source(port, entry)
            try:
                messages = build(batch, entries)
            except KeyError:
                return None
        if len(messages) != count:
            return None
        last = entries[-1]
        self._messages.expect(count, last[0] + last[1] - count * OVERHEAD)
        return messages

    def _unicasts(self, batch: Batch, entries: list[Entry]) -> list[Message]:
        sources = self._sources
        return [
            Message(batch[at : at + size], sources[source], sequence)
            for at, size, kind, flags, _, source, sequence in entries
            if kind == _UNICAST and flags == _PLAIN
        ]

    def _publications(self, batch: Batch, entries: list[Entry]) -> list[Message]:
        sources = self._sources
        names = self._topics.plain  # topics of the Vnic's own queue alone
        return [
            Message(batch[at : at + size], sources[source], sequence, names[topic])
            for at, size, kind, flags, topic, source, sequence in entries
            if kind == _PUBLISH and not flags & _SPECIAL and topic in names
        ]

    def _source(self, port: Port, entry: Entry) -> Source:
        number = entry[5]
        source = self._sources.get(number)
        if source is None:
            if number == NO_SOURCE:  # more senders than numbers: it is in the record
                record = port.record(entry)
                return self._new_source(record.source, record.principal)
            source = self._sources[number] = self._new_source(*port.source(number))
        return source

    def _new_source(self, uuid: bytes, principal: int) -> Source:
        attachment = self._attachment
        if attachment is None:
            raise Left
        name = attachment.principals.get(principal)
        if name is None and self.names_first and principal not in self._nameless:
            raise Stranger(principal)
        # A message knows no collector, and one kept for long must not keep a port: only weak references from here.
        return Source(uuid, principal, functools.partial(self._who_is, weakref.ref(attachment)), name)

    def admit(self, principal: int) -> None:
        """Its messages are built without a name."""
        self._nameless.add(principal)

    # ── everything else ────────────────────────────────────────────────────────────────────────────────────────────

    def steps(self, port: Port, begin: int, end: int) -> list[Step]:
        """The records `begin` to `end` of the batch as steps, the last one first."""
        found: list[Step] = []
        expected: list[tuple[Queue[Any], int]] = []
        for entry in port.entries(end, begin):
            kind = entry[2]
            if kind == _UNICAST:
                self._for_sink(found, expected, None, *self._message(port, entry))
            elif kind == _PUBLISH:
                name, sinks = self._topics.of(entry[4])
                for sink in sinks:  # each its own Message: whoever has it may keep it
                    self._for_sink(found, expected, sink, *self._message(port, entry, name))
            elif kind == _REQUEST:
                self._add_request(found, expected, port, entry)
            elif kind in (_REPLY, _FAILED_REPLY):
                self._add_reply(found, port, entry)
            elif kind == _CANCEL:
                record = port.record(entry)
                if self._replies is None:
                    raise Left
                found.append((self._replies.disarm, (record.missed, record.topic)))
            elif kind == _NOTICE:
                self._add_notice(found, port, entry)
            elif kind == _ABORT:
                self._add_discarded(found, port, entry)
        for queue, size in expected:
            queue.expect(1, size)
        found.reverse()
        return found

    def settle(self) -> None:
        """After the steps: reports for which there is no handler."""
        while self._reports:
            self._report(self._reports.popleft())

    def _for_sink(
        self, found: list[Step], expected: list[tuple[Queue[Any], int]], sink: Sink | None, message: object, size: int
    ) -> None:
        if sink is None:
            expected.append((self._messages, size))
            found.append((self._messages.items.append, message))
        else:
            expected.append((sink.queue, size))
            found.append((sink.queue.items.append, sink.item(message)))

    def _content(self, port: Port, entry: Entry) -> tuple[bytes, bytes, Record | None]:
        """Header map, payload and, where it was needed to get them, the record."""
        at, size, _, flags, *_ = entry
        if flags & _LARGE:
            return port.large(at)
        payload = port.batch[at : at + size]
        return port.headers(entry) if flags & _HEADERS else b"", payload, None

    def _message(self, port: Port, entry: Entry, topic: str | None = None) -> tuple[Message, int]:
        headers, payload, record = self._content(port, entry)
        missed = 0
        if entry[3] & _MISSED:
            missed = (record or port.record(entry)).missed
        message = Message(payload, self._source(port, entry), entry[6], topic, missed, header_map(headers))
        return message, len(payload)

    def _add_request(self, found: list[Step], expected: list[tuple[Queue[Any], int]], port: Port, entry: Entry) -> None:
        headers, payload, record = self._content(port, entry)
        record = record or port.record(entry)
        if self._replies is None:
            raise Left
        deadline = time.monotonic() + record.ttl / 1000 if record.ttl else math.inf
        # The record's fields of a request: `missed` is the index of the right to reply, `topic` its generation.
        right = Right(self._replies, record.missed, record.topic, record.correlation, deadline)
        source = self._source(port, entry)
        request = self._request(payload, source, entry[6], None, 0, header_map(headers), _right=right)
        # Before it is armed a request that is dropped with an interrupted batch means nothing to its caller.
        found.append((self._replies.arm, (record.missed, record.topic)))
        self._for_sink(found, expected, self.requests, request, len(payload))

    def _add_reply(self, found: list[Step], port: Port, entry: Entry) -> None:
        headers, payload, record = self._content(port, entry)
        record = record or port.record(entry)
        call = self._calls.find(record.correlation)
        if call is None:
            return  # its caller has given up
        if entry[2] == _REPLY:
            reply = Message(payload, self._source(port, entry), entry[6], None, 0, header_map(headers))
            found.append((call.outcomes.append, reply))
        else:
            found.append((call.outcomes.append, error_of_reply(record.reason, headers, payload)))

    def _add_discarded(self, found: list[Step], port: Port, entry: Entry) -> None:
        """A large message for which there was no room beside those being assembled: whoever waits for it is told."""
        record = port.record(entry)
        if record.reason == _REQUEST:
            if self._replies is None:
                raise Left
            found.append((self._replies.arm, (record.missed, record.topic)))
            found.append((self._replies.refuse, (record.missed, record.topic, record.correlation, _NO_ROOM)))
        elif record.reason in (_REPLY, _FAILED_REPLY):
            call = self._calls.find(record.correlation)
            if call is not None:
                found.append((call.outcomes.append, RequestFailed(_NO_ROOM)))
        found.append((_log_discarded, (UUID(bytes=record.source), record.fragments)))

    def _add_notice(self, found: list[Step], port: Port, entry: Entry) -> None:
        record = port.record(entry)
        # Of a notice `topic` is the kind of the record it speaks of, `source` its destination, `ttl` its size.
        if record.topic == _REQUEST and record.reason != _LOST_NOTICES:
            call = self._calls.find(record.correlation)
            if call is not None:
                if self._attachment is None:
                    raise Left
                principal = self._attachment.attached.principal
                found.append((call.outcomes.append, error_of_call(call, record.reason, principal)))
            return
        if record.reason == _LOST_NOTICES:
            undeliverable = Undeliverable("", 0, f"{record.missed} {word(record.reason)}", 0)
        else:
            to = self._name_of(record.slot | record.generation << 16) or UUID(bytes=record.source)
            undeliverable = Undeliverable(to, record.sequence, word(record.reason), record.ttl)
        if self._reported_before(undeliverable):
            return
        found.append((self._reported.add, undeliverable.sequence))
        found.append(self.reporting(undeliverable))

    def _reported_before(self, undeliverable: Undeliverable) -> bool:
        """A Vnet that adopts reports a refusal again: it cannot know whether the earlier one had."""
        if len(self._reported) >= _REPORTED:
            self._reported_earlier, self._reported = self._reported, set()
        number = undeliverable.sequence
        return number != 0 and (number in self._reported or number in self._reported_earlier)

    def reports_of(self, undeliverables: list[Undeliverable]) -> list[Undeliverable]:
        """Those that were not reported before; they are from now on."""
        new = [undeliverable for undeliverable in undeliverables if not self._reported_before(undeliverable)]
        self._reported.update(undeliverable.sequence for undeliverable in new)
        return new

    def forget_reports(self) -> None:
        """Sequences begin anew."""
        self._reported, self._reported_earlier = set(), set()

    def reporting(self, undeliverable: Undeliverable) -> Step:
        """The step that tells the program of it."""
        sink = self.undeliverable
        if sink is None:
            return self._reports.append, undeliverable
        return sink.queue.items.append, sink.item(undeliverable)
