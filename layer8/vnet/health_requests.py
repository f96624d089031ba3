"""What Vnics ask of the health desk over their control sockets, beside reading records once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

import msgspec

from layer8.names import check_alias
from layer8.protocol.control import (
    Announce,
    Done,
    Elect,
    Failed,
    Lead,
    ReadReport,
    Report,
    Unelect,
    Unwatch,
    Watch,
    WatchAck,
    Wire,
)
from layer8.security.provider import Action, Resource, ResourceKind
from layer8.vnet.elections import Elections
from layer8.vnet.health_desk import HealthDesk
from layer8.vnet.refusal import Refusal
from layer8.vnet.reports import Reports
from layer8.vnet.session import Session
from layer8.vnet.switchboard import Switchboard
from layer8.vnet.watchers import Watchers

_SERVICES = 64  # that one Vnic may announce
_REPORT_SECONDS = 4.0


class HealthRequests:
    """One a Vnet; in the loop's thread."""

    def __init__(
        self,
        desk: HealthDesk,
        board: Switchboard,
        elections: Elections,
        by_uuid: Callable[[UUID], Session | None],
        loop: asyncio.AbstractEventLoop,
        *,
        watches_per_port: int,
    ) -> None:
        self._desk = desk
        self._board = board
        self.elections = elections
        self.reports = Reports(loop)
        self._by_uuid = by_uuid
        self.watchers = Watchers(
            desk.directory, loop, lambda session: session.may(Action.READ_HEALTH), watches_per_port
        )
        desk.listeners.append(self.watchers.happened)
        desk.listeners.append(elections.happened)

    def handle(self, session: Session, message: Wire) -> None:
        """Raises Refusal, which is the answer then."""
        match message:
            case Watch(id=id, watch=number, filters=filters):
                session.require(Action.READ_HEALTH)
                self.watchers.open(session, number, filters)
                session.tell(Done(id=id))
            case WatchAck(watch=number):
                self.watchers.taken(session, number)
            case Unwatch(id=id, watch=number):
                self.watchers.close(session, number)
                session.tell(Done(id=id))
            case Elect() | Lead() | Unelect():
                self.elections.handle(session, message)
            case Report(id=id, kind=kind, text=text):
                self.reports.keep(session, kind, text)
                session.tell(Done(id=id))
            case ReadReport():
                session.require(Action.READ_HEALTH)
                session.start(self._read_report(session, message))
            case Announce():
                self._announce(session, message)

    async def _read_report(self, session: Session, request: ReadReport) -> None:
        try:
            if request.ask not in ("", "stack", "memory"):
                raise Refusal("invalid", f"there is no {request.ask[:16]!r} report; there are stack and memory")
            if request.ask:
                reporter = self._by_uuid(request.uuid)
                if reporter is None:
                    raise Refusal("not-found", f"no Vnic {request.uuid} is on this host")
                await self.reports.want(reporter, request.ask, _REPORT_SECONDS)
            report, more = self.reports.get(request.uuid, request.number)
            if report is None:
                raise Refusal("not-found", f"this Vnet has no such report of {request.uuid}")
            session.tell(Done(id=request.id, text=msgspec.json.encode(report).decode(), more=more))
        except Refusal as refusal:
            session.tell(Failed(id=request.id, code=refusal.code, text=refusal.text))

    def _announce(self, session: Session, message: Announce) -> None:
        port = session.own_port()
        if len(message.services) > _SERVICES:
            raise Refusal("limit", f"a Vnic announces {_SERVICES} services at most")
        for name in message.services:
            if name not in (port.alias, str(port.uuid)):
                try:
                    check_alias(name)
                except ValueError as error:
                    raise Refusal("invalid", str(error)) from error
                self._board.require(port, Action.SERVE, Resource(kind=ResourceKind.ALIAS, name=name))
        port.services = message.services
        port.reports = message.reports
        self._desk.changed(session)
        session.tell(Done(id=message.id))

    def over(self, session: Session) -> None:
        """Nothing is left of the session."""
        self.watchers.forget(session)

    def ending(self, session: Session) -> None:
        """It is no longer there for others."""
        self.elections.over(session, surely=session.clean or session.has_died)
        if session.port is not None:
            self.reports.forget(session.port.uuid)
