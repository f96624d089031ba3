"""Who watches the directory over the control socket: the present state in pages, then every change, and no gap.

A watcher is sent a message only when it has taken the one before but one, so a slow one holds nobody up and costs no
more memory than the changes it has not taken; of many, only the last of each record is kept.

While the present state is being told, a change concerns it only if the pages have passed that record; what lies ahead
will be told as it is then.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from uuid import UUID

import msgspec

from layer8.health.directory import Appeared, Changed, Directory, Event, Forgotten, check_filters, matches
from layer8.health_record import HealthRecord
from layer8.protocol.control import Watched
from layer8.vnet.refusal import Refusal
from layer8.vnet.session import Session

_UNTAKEN = 2  # messages on their way to one watcher
_PAGE = 100  # records
_CHANGES_BYTES = 40 << 10  # in one message, about
_LONG = 4096  # changes, from which on only the last of each record is kept

_Change = tuple[UUID, HealthRecord | None]  # None: forgotten


class _Watcher:
    """One watch of one session."""

    def __init__(self, session: Session, number: int, filters: dict[str, str], directory: Directory) -> None:
        self.session = session
        self.number = number
        self._filters = filters
        self._directory = directory
        self._after: UUID | None = None  # the last one that was told of the present state
        self._first = True
        self._complete = False
        self._changes: collections.deque[_Change] = collections.deque()
        self._untaken = 0

    def happened(self, event: Event) -> None:
        match event:
            case Forgotten(record=record) if matches(record, self._filters):
                change: _Change = record.uuid, None
            case Appeared(record=record) if "state" in self._filters or matches(record, self._filters):
                change = record.uuid, record
            case Changed(record=record, before=before) if any(matches(one, self._filters) for one in (record, before)):
                change = record.uuid, record
            case _:
                return
        if not self._complete and (self._after is None or change[0].bytes > self._after.bytes):
            return
        self._changes.append(change)
        if len(self._changes) > _LONG:
            last: dict[UUID, HealthRecord | None] = {}
            for uuid, latest in self._changes:
                last.pop(uuid, None)
                last[uuid] = latest
            self._changes = collections.deque(last.items())

    def taken(self) -> None:
        self._untaken = max(0, self._untaken - 1)

    def next(self) -> Watched | None:
        """What is to be sent now, if anything and if it may be."""
        if self._untaken >= _UNTAKEN:
            return None
        if not self._complete:
            records, more = self._directory.page(self._filters, self._after, _PAGE)
            first, self._first = self._first, False
            if records:
                self._after = records[-1].uuid
            self._complete = not more
            self._untaken += 1
            return Watched(watch=self.number, records=records, first=first, complete=not more)
        if not self._changes:
            return None
        found: list[HealthRecord] = []
        forgotten: list[UUID] = []
        size = 0
        while self._changes and len(found) + len(forgotten) < _PAGE and size < _CHANGES_BYTES:
            uuid, record = self._changes[0]
            if record is None:
                forgotten.append(uuid)
            elif forgotten:
                break  # in one message what is forgotten comes last
            else:
                record_size = len(msgspec.msgpack.encode(record))
                if found and size + record_size > _CHANGES_BYTES:
                    break
                found.append(record)
                size += record_size
            self._changes.popleft()
        self._untaken += 1
        return Watched(watch=self.number, records=tuple(found), forgotten=tuple(forgotten))


class Watchers:
    """All watches. `may`: whether a session may read health, asked again before everything that is told."""

    def __init__(
        self, directory: Directory, loop: asyncio.AbstractEventLoop, may: Callable[[Session], bool], limit: int
    ) -> None:
        self._directory = directory
        self._loop = loop
        self._may = may
        self._limit = limit
        self._watchers: dict[Session, dict[int, _Watcher]] = {}
        self._due = False

    def __len__(self) -> int:
        return sum(map(len, self._watchers.values()))

    def open(self, session: Session, number: int, filters: dict[str, str]) -> None:
        """Raises Refusal. Nothing is sent before the caller has answered."""
        own = self._watchers.setdefault(session, {})
        if number not in own and len(own) >= self._limit:
            raise Refusal("limit", f"this Vnic watches {self._limit} times already (setting watches_per_port)")
        try:
            typed = {name: UUID(value) if name == "uuid" else value for name, value in filters.items()}
            check_filters({name: int(value) if name == "pid" else value for name, value in typed.items()})
        except (TypeError, ValueError) as error:
            raise Refusal("invalid", str(error)) from error
        own[number] = _Watcher(session, number, filters, self._directory)
        self._soon()

    def taken(self, session: Session, number: int) -> None:
        watcher = self._watchers.get(session, {}).get(number)
        if watcher is not None:
            watcher.taken()
            self._soon()

    def close(self, session: Session, number: int) -> None:
        self._watchers.get(session, {}).pop(number, None)

    def forget(self, session: Session) -> None:
        """It is over."""
        self._watchers.pop(session, None)

    def happened(self, events: list[Event]) -> None:
        """A listener of the desk."""
        if not self._watchers:
            return
        for own in self._watchers.values():
            for watcher in own.values():
                for event in events:
                    watcher.happened(event)
        self._soon()

    def _soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._due = False
        for session, own in list(self._watchers.items()):
            for number, watcher in list(own.items()):
                while (message := watcher.next()) is not None:
                    if not self._may(session):
                        message = Watched(watch=number, code="not-authorized")
                        own.pop(number, None)
                    session.tell(message)
                    if message.code:
                        break
