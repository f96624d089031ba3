"""The directory of the whole overlay: what lives here is told to every adjacent Vnet, what they tell is shown here.

    health desk ──events, figures──▶ Home ──deltas──▶ every link          (figures alone wait up to a second)
    link ──Part, Delta──▶ Mirror of that Vnet ──▶ the directory           (UP, …; SUSPECT while the session is silent;
                                                                           UNREACHABLE when it was given up)

A Vnet may speak of itself and of those whom it may host (`Action.HOST` on their principal); anything else breaks the
link's protocol. A uuid that two homes claim (a far Vnic that has moved) is shown as its later start says; one that
lives here is never shown otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol
from uuid import UUID

import msgspec

from layer8.health.directory import Appeared, Changed, Event, Forgotten
from layer8.health.replication import LARGEST_ENTRY, Changes, Home, Mirror
from layer8.health_record import HealthRecord, State
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.link_messages import Delta, Digest, Entry, Linked, Part, Repair, entries
from layer8.security.provider import Action, Principal, Resource, ResourceKind
from layer8.vnet.health_desk import HealthDesk
from layer8.vnet.switchboard import Switchboard

FIGURES_SECONDS = 1.0
LOST_SECONDS = 600.0
"""How long who is UNREACHABLE is remembered."""

MOST_ENTRIES = 100_000  # of one adjacent Vnet

_log = logging.getLogger("layer8.vnet")


class Told(Protocol):
    """What this needs of its Vnet."""

    uuid: UUID
    epoch: int
    health: HealthDesk
    board: Switchboard

    def allowed(self, who: Principal, action: Action, what: Resource) -> bool: ...


class Neighbour:
    """One adjacent Vnet as the directory sees it. `is_live`: it is heard."""

    def __init__(self, vnet: UUID) -> None:
        self.vnet = vnet
        self.mirror = Mirror()
        self.principal: Principal | None = None
        self.is_live = False
        self.reason = ""
        self.may_host: set[str] = set()  # principals, as asked of the provider
        self.forget: asyncio.TimerHandle | None = None


class SharedDirectory:
    """`tell(message)` sends to every adjacent Vnet that is heard. `came(record)`, `went(uuid)`: who is to know of far
    Vnics that are there, or no more. One thread."""

    def __init__(self, vnet: Told, loop: asyncio.AbstractEventLoop, tell: Callable[[Linked], None]) -> None:
        self._vnet = vnet
        self._loop = loop
        self._tell = tell
        self.home = Home(vnet.epoch)
        self.came: Callable[[HealthRecord], None] = lambda record: None
        self.went: Callable[[UUID], None] = lambda uuid: None
        self._neighbours: dict[UUID, Neighbour] = {}
        self._shown: dict[UUID, UUID] = {}  # far Vnic: whose record the directory shows
        self._applying = False
        self._credentials: dict[UUID, tuple[str, float]] = {}  # of who lives here
        self._waiting: dict[UUID, HealthRecord] = {}
        self._dropped: dict[UUID, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        vnet.health.listeners.append(self._happened)
        vnet.health.measured.append(self._measured)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for neighbour in self._neighbours.values():
            if neighbour.forget is not None:
                neighbour.forget.cancel()

    # ── what lives here ───────────────────────────────────────────────────────────────────────────────────────────

    def _happened(self, events: list[Event]) -> None:
        if self._applying:
            return
        for event in events:
            match event:
                case Appeared(record=record) | Changed(record=record):
                    self._note(record, 0.0)
                case Forgotten(record=record):
                    self._waiting.pop(record.uuid, None)
                    self._credentials.pop(record.uuid, None)
                    if record.uuid not in self._shown:
                        self._dropped[record.uuid] = None
                        self._set_timer(0.0)

    def _measured(self, before: HealthRecord, record: HealthRecord) -> None:
        if not self._applying and record != before:
            self._note(record, FIGURES_SECONDS)

    def _note(self, record: HealthRecord, patience: float) -> None:
        if self._shown.pop(record.uuid, None) is not None:
            self.went(record.uuid)  # it has moved here
        port = self._vnet.board.find_uuid(record.uuid)
        if port is not None:
            self._credentials[record.uuid] = port.principal.credential, port.principal.expires
        self._dropped.pop(record.uuid, None)
        self._waiting[record.uuid] = record
        self._set_timer(patience)

    def _set_timer(self, patience: float) -> None:
        when = self._loop.time() + patience
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self.flush)

    def flush(self) -> None:
        """Tells at once what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        entries = [
            Entry(_fitted(record), *self._credentials.get(uuid, ("", 0.0))) for uuid, record in self._waiting.items()
        ]
        dropped = tuple(self._dropped)
        self._waiting.clear()
        self._dropped.clear()
        for delta in self.home.change(entries, dropped):
            self._tell(delta)
        for entry in entries:
            if entry.record.state is State.DOWN:
                self._show_another(entry.record.uuid)

    # ── what lives elsewhere ──────────────────────────────────────────────────────────────────────────────────────

    def connected(self, vnet: UUID, epoch: int, principal: Principal) -> Linked:
        """A connection of a session begins; what to send."""
        neighbour = self._neighbours.setdefault(vnet, Neighbour(vnet))
        neighbour.principal = principal
        neighbour.may_host.clear()
        if neighbour.forget is not None:
            neighbour.forget.cancel()
            neighbour.forget = None
        return neighbour.mirror.connected(epoch)

    def take(self, vnet: UUID, message: Part | Delta | Digest) -> tuple[Repair | None, bool]:
        """What to answer, and whether a whole state has come. Raises ProtocolViolation."""
        neighbour = self._neighbours[vnet]
        mirror = neighbour.mirror
        if isinstance(message, Digest):
            return mirror.digest(message), False
        told = entries(message)
        for entry, _ in told:
            self._check(neighbour, entry)
        answer = mirror.part(message, told) if isinstance(message, Part) else mirror.delta(message, told)
        if len(mirror) > MOST_ENTRIES:
            raise ProtocolViolation(f"more than {MOST_ENTRIES} records")
        if isinstance(answer, Changes):
            self._apply(neighbour, answer)
            return None, isinstance(message, Part)
        return answer, False

    def _check(self, neighbour: Neighbour, entry: Entry) -> None:
        record = entry.record
        if record.kind == "vnet" or record.uuid == neighbour.vnet:
            if record.kind != "vnet" or record.uuid != neighbour.vnet:
                raise ProtocolViolation(f"a Vnet's record under the uuid {record.uuid} of another")
        elif record.principal not in neighbour.may_host:
            who = Resource(kind=ResourceKind.PRINCIPAL, name=record.principal)
            if neighbour.principal is None or not self._vnet.allowed(neighbour.principal, Action.HOST, who):
                raise ProtocolViolation(f"it may not host {record.principal[:128]}")
            neighbour.may_host.add(record.principal)

    def entry(self, vnet: UUID, uuid: UUID) -> Entry | None:
        """What this Vnet has said of this Vnic."""
        neighbour = self._neighbours.get(vnet)
        return neighbour.mirror.get(uuid) if neighbour is not None else None

    def home_of(self, uuid: UUID) -> UUID | None:
        """The adjacent Vnet where a far Vnic lives; None for one that lives here or nowhere."""
        return self._shown.get(uuid)

    def living(self, vnet: UUID | None = None) -> Iterable[Entry]:
        """Far Vnics that can be sent to, of one Vnet or of all that are heard or silent, as they are shown."""
        for neighbour in [self._neighbours[vnet]] if vnet in self._neighbours else self._neighbours.values():
            for entry in neighbour.mirror:
                if self._shown.get(entry.record.uuid) == neighbour.vnet:
                    yield entry

    def _apply(self, neighbour: Neighbour, changes: Changes) -> None:
        for uuid in changes.dropped:
            if self._shown.get(uuid) == neighbour.vnet:
                del self._shown[uuid]
                self._mark(uuid, State.DOWN, "gone")
                self.went(uuid)
                self._show_another(uuid)
        for entry in changes.put:
            self._show(neighbour, entry)

    def _show(self, neighbour: Neighbour, entry: Entry) -> None:
        record = entry.record
        if self._vnet.board.find_uuid(record.uuid) is not None or record.uuid == self._vnet.uuid:
            return  # it lives here, as far as we know; when that ends, this is looked at again
        other = self._shown.get(record.uuid)
        if other is not None and other != neighbour.vnet:
            rival = self.entry(other, record.uuid)
            if rival is not None and rival.record.state is not State.DOWN:
                if record.state is State.DOWN or record.started < rival.record.started:
                    return
                self.went(record.uuid)
        self._shown[record.uuid] = neighbour.vnet
        self._put(self._as_shown(neighbour, record))
        if record.kind == "vnic":
            if record.state is State.DOWN:
                self.went(record.uuid)
            else:
                self.came(record)

    def _as_shown(self, neighbour: Neighbour, record: HealthRecord) -> HealthRecord:
        if neighbour.is_live or record.state is State.DOWN:
            return record
        return msgspec.structs.replace(record, state=State.SUSPECT, reason=neighbour.reason, since=time.time())

    def _show_another(self, uuid: UUID) -> None:
        """What was shown is no more; somebody else may claim it."""
        for neighbour in self._neighbours.values():
            entry = neighbour.mirror.get(uuid)
            if entry is not None and entry.record.state is not State.DOWN:
                self._show(neighbour, entry)
                return

    def _put(self, record: HealthRecord) -> None:
        self._applying = True
        try:
            health = self._vnet.health
            before = health.directory.get(record.uuid)
            health.happened(health.directory.put(record, self._loop.time()))
            if before is not None and record.state is not State.DOWN:
                for hear in health.measured:
                    hear(before, record)
        finally:
            self._applying = False

    def _mark(self, uuid: UUID, state: State, reason: str) -> None:
        self._applying = True
        try:
            health = self._vnet.health
            known = health.directory.get(uuid)
            if known is not None and known.state is not State.DOWN:
                now, since = self._loop.time(), time.time()
                if known.links:  # of these is known what their other ends say; as it last told them they are no more
                    links = tuple(msgspec.structs.replace(link, state=state, reason=reason) for link in known.links)
                    left = links if state is State.SUSPECT else ()
                    record = msgspec.structs.replace(known, state=state, reason=reason, since=since, links=left)
                    health.happened(health.directory.put(record, now))
                else:
                    health.happened(health.directory.mark(uuid, state, now, since=since, reason=reason))
        finally:
            self._applying = False

    # ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────────

    def silent(self, vnet: UUID, reason: str) -> None:
        """Nothing is heard of it at the moment."""
        neighbour = self._neighbours[vnet]
        neighbour.is_live, neighbour.reason = False, reason
        self._mark_all(neighbour, State.SUSPECT)

    def heard(self, vnet: UUID) -> None:
        """It is heard, for the first time or again."""
        neighbour = self._neighbours[vnet]
        neighbour.is_live, neighbour.reason = True, ""
        for entry in neighbour.mirror:
            if self._shown.get(entry.record.uuid) == vnet:
                self._put(entry.record)

    def given_up(self, vnet: UUID, reason: str) -> None:
        """Its session is over."""
        neighbour = self._neighbours[vnet]
        neighbour.is_live, neighbour.reason = False, reason
        self._mark_all(neighbour, State.UNREACHABLE)
        if neighbour.forget is None:
            neighbour.forget = self._loop.call_later(LOST_SECONDS, self._forget, vnet)

    def _mark_all(self, neighbour: Neighbour, state: State) -> None:
        for entry in neighbour.mirror:
            if self._shown.get(entry.record.uuid) == neighbour.vnet:
                self._mark(entry.record.uuid, state, neighbour.reason)

    def _forget(self, vnet: UUID) -> None:
        neighbour = self._neighbours.pop(vnet)
        for entry in neighbour.mirror:
            uuid = entry.record.uuid
            if self._shown.get(uuid) == vnet:
                del self._shown[uuid]
                self._mark(uuid, State.DOWN, "its Vnet did not come back")
                self._show_another(uuid)

    def policy_changed(self) -> list[tuple[UUID, str]]:
        """Asks anew about everybody; adjacent Vnets that may no longer host whom they host, and why."""
        refused = []
        for neighbour in self._neighbours.values():
            neighbour.may_host.clear()
            try:
                for entry in neighbour.mirror:
                    self._check(neighbour, entry)
            except ProtocolViolation as violation:
                refused.append((neighbour.vnet, violation.reason))
        return refused


def _fitted(record: HealthRecord) -> HealthRecord:
    """With as many of its topics as an entry has room for."""
    while len(record.topics) > 1 and len(msgspec.msgpack.encode(record)) > LARGEST_ENTRY - 1024:
        record = msgspec.structs.replace(record, topics=record.topics[: len(record.topics) // 2])
    return record
