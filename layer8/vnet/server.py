"""One Vnet: its place, its switch, and everybody who is attached.

    start  lock and socket ─▶ list of ports ─▶ switch thread ─▶ status segment ─▶ accepting
           somebody is awaited: no record moves, and nobody is told that a name is not there: returns.py
    stop   no longer accepting ─▶ Vnics told ─▶ switch quiet, or the grace over ─▶ switch stopped ─▶ all closed
           the list and the segments of those who live stay, for the next Vnet

This holds the parts together and answers what one of them asks of the others (`Desk` of admission, `Hall` of session).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from layer8.dataplane import Command, Status, Switch, SwitchConfig, SwitchCounters
from layer8.errors import Layer8Error
from layer8.health.directory import Event
from layer8.health.election import ElectionEngine
from layer8.protocol.control import Done, Refused
from layer8.rendezvous import links_file, state_directory
from layer8.security.provider import Action, Principal, Resource, SecurityProvider
from layer8.vnet.accounts import Accounts, whose
from layer8.vnet.acquaintances import Acquaintances
from layer8.vnet.admission import Admission, Newcomer
from layer8.vnet.board_port import BoardPort
from layer8.vnet.complaints import Complaints
from layer8.vnet.config import VnetConfig, has_several_hosts
from layer8.vnet.endings import Endings
from layer8.vnet.engine import make_engine
from layer8.vnet.enrolling import EnrolError, Enrolling
from layer8.vnet.entrance import Entrance
from layer8.vnet.far_vnics import FarSession
from layer8.vnet.guard import Guard
from layer8.vnet.health_wing import HealthWing, own_principal
from layer8.vnet.network import Network
from layer8.vnet.place import Place
from layer8.vnet.refusal import Refusal
from layer8.vnet.returns import Others, Returns
from layer8.vnet.roster import Roster
from layer8.vnet.session import Administration, Session
from layer8.vnet.spreading import Spreading
from layer8.vnet.status import HealthStatus, PortStatus
from layer8.vnet.status_board import StatusBoard
from layer8.vnet.switch_thread import SwitchThread
from layer8.vnet.switchboard import Switchboard
from layer8.vnet.workers import Workers

OVERLAY = "local"
"""The overlay of a Vnet that nobody has configured one for: private to its user."""

_LAST_WORDS_SECONDS = 1.0  # for what is still to be told when the switch has stopped

_log = logging.getLogger("layer8.vnet")


class VnetFailed(Layer8Error):
    """The Vnet could not start. `name`, `reason`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"Vnet {self.name!r} cannot start: {self.reason}"


class Vnet:
    """`failed` is done when the switch ended by itself. Everything runs in the loop's thread."""

    def __init__(
        self, config: VnetConfig, path: Path, provider: SecurityProvider, engine: ElectionEngine | None = None
    ) -> None:
        """`engine`: who decides elections; by default the embedded one."""
        loop = asyncio.get_running_loop()
        self.config = config
        self.provider = provider
        self.overlay: str = getattr(provider, "overlay", OVERLAY)
        known = Acquaintances.load(links_file(path))
        self.uuid = known.vnet
        self.epoch = time.time_ns()
        self.started = time.time()
        self.place = Place(config.name, path, for_others=config.admits_others)
        self.providers = Workers(f"provider-{config.name}", config.provider_workers, loop)
        self.workers = Workers(f"worker-{config.name}", 2, loop)
        self.accounts = Accounts(config)
        self.guard = Guard(self, loop)
        self.board = Switchboard(config, self.overlay, self.guard.allowed, self.guard.would_allow)
        self.board.ended = self.guard.ledger.ended
        self.board.granted = self.guard.granted
        self.roster = Roster(state_directory(path))
        self.endings = Endings(self.roster, alone=not has_several_hosts(config))
        self.returns = Returns(self, loop)
        self.stopping = False
        engine = engine if engine is not None else make_engine("", config.election_lease)
        self.wing = HealthWing(self, path, loop, engine)
        self.health = self.wing.desk
        self.directory = self.health.directory
        self.handle = self.wing.requests.handle
        self.enrolling = Enrolling(config, provider.audit)
        self.network: Network = Network(self, known, loop)
        self.spreading = Spreading(self, self.network.links, self.guard, loop)
        self.failed: asyncio.Future[int] = loop.create_future()
        self._loop = loop
        self._complaints = Complaints(_log, loop)
        self._entrance = Entrance(self, loop, self._complaints, is_awaiting=self.returns.is_awaiting)
        self._sessions: set[Session] = set()
        self._by_port: dict[int, Session] = {}
        self._thread: SwitchThread | None = None
        self._status: StatusBoard | None = None
        self._quiet: asyncio.Future[int] | None = None
        self._hurried = False
        self._emptied = asyncio.Event()
        self.board.violated = self._violated

    # ── start and stop ────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Raises AlreadyRunning, PlaceError or VnetFailed, and then holds nothing."""
        self.place.open()
        try:
            self.enrolling.open(self.network.port)
            self.network.open()
            self.roster.load()
            self.returns.load()
            self._entrance.prepare()
            self._thread = self._make_switch()
            self._status = StatusBoard(self, self._loop)
            self.wing.open_http(self, lambda: own_principal(self.provider, self.config.http_as))
        except (OSError, EnrolError) as error:
            self.network.stop_listening()
            self.enrolling.close()
            self._entrance.close()
            self.place.close()
            raise VnetFailed(self.config.name, getattr(error, "strerror", None) or str(error)) from error
        self.board.connect(self._thread)
        self._thread.start()
        self._thread.ended.add_done_callback(self._switch_ended)
        self.wing.start()
        self.guard.start()
        self._status.event("started", pid=os.getpid())
        self._status.tick()
        self._entrance.open()
        _log.info("Vnet %s listens at %s", self.config.name, self.place.path)
        self.returns.begin()
        self.network.start()

    def start_moving(self) -> asyncio.Future[int]:
        assert self._thread is not None
        return self._thread.command(Command.START)

    @property
    def host(self) -> str:
        return self.health.host

    @property
    def others(self) -> Others:
        return self.network

    def _make_switch(self) -> SwitchThread:
        config = self.config
        switch = Switch(
            SwitchConfig(
                max_ports=min(config.max_ports + config.max_far, 65535),
                max_aliases=config.max_aliases,
                max_topics=config.max_topics,
                max_rights=config.max_requests,
                max_rights_per_port=config.max_requests_per_port,
                visit_records=config.visit_records,
                visit_bytes=config.visit_bytes,
                spin_us=config.spin_us,
                frozen=int(not self.returns.is_over),
                max_message_bytes=config.max_message_bytes,
            )
        )
        board = self.board
        far = self.network.far
        return SwitchThread(
            switch,
            self._loop,
            name=config.name,
            gone=board.on_gone,
            violated=board.on_violation,
            question=far.on_question,
            link_violated=far.on_link_violation,
        )

    async def stop(self, grace: float | None = None) -> None:
        """Stops cleanly; once. `grace`: seconds that accepted messages may still take, by default as configured."""
        grace = self.config.grace if grace is None else grace
        self.stopping = True
        self._entrance.shut()
        self.place.stop_listening()
        self.network.stop_listening()
        self.enrolling.close()
        self.spreading.close()
        if self._status is not None:
            self._status.event("stopping")
            self._status.tick("stopping")
        self._entrance.empty()
        for session in tuple(self._sessions):
            session.stop(grace)
        thread = self._thread
        assert thread is not None
        self._quiet = thread.command(Command.QUIESCE)
        if not self.returns.is_moving:
            grace = 0.0  # nothing moves: the next Vnet will see to it
        await asyncio.wait([self._quiet], timeout=grace)
        if not self._quiet.done() or self._quiet.cancelled():
            _log.warning("Vnet %s stops with messages still on their way", self.config.name)
        await self._close()

    def hurry(self) -> None:
        """Ends every wait of `stop`."""
        self._hurried = True
        if self._quiet is not None:
            self._quiet.cancel()
        self._emptied.set()

    async def _close(self) -> None:
        thread, status = self._thread, self._status
        assert thread is not None
        await self._entrance.emptied()
        for session in tuple(self._sessions):
            if session.port is None:
                session.close("the Vnet has stopped")
            else:
                session.part()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                while self._sessions and not thread.ended.done() and not self._hurried:
                    self._emptied.clear()
                    await self._emptied.wait()
        await self.network.close(forget=not self.roster.present)
        await self.wing.stop_http()
        await thread.stop()
        if status is not None:
            status.close()
        self.board.disconnect()
        thread.close()
        self.wing.close()
        self.guard.close()
        self.providers.close()
        self.workers.close()
        self.returns.close()
        self._entrance.close()
        self.roster.close()
        self.place.close()
        _log.info("Vnet %s has stopped", self.config.name)

    def _switch_ended(self, ended: asyncio.Future[int]) -> None:
        if not self.stopping and not self.failed.done():
            _log.error("the switch of Vnet %s ended by itself (%s)", self.config.name, Status(ended.result()).name)
            self.failed.set_result(ended.result())

    def far_speaks(self, connection: socket.socket, far: FarSession) -> None:
        self._entrance.far_speaks(connection, far)

    # ── Desk: what an admission needs ─────────────────────────────────────────────────────────────────────────────

    def allowed(self, who: Principal, action: Action, what: Resource) -> bool:
        return self.guard.allowed(who, action, what)

    def refused(self, admission: Admission, refused: Refused) -> None:
        text = refused.text or ", ".join(refused.fields)
        form = "Vnet %s refused pid %d of %s: %s (%s)"
        who = (self.config.name, admission.pid, whose(admission.owner))
        if self._complaints.warn(f"refused {refused.code}", form, *who, text, refused.code):
            self.event("refused", pid=admission.pid, text=text or refused.code)
        if refused.text:  # else the guard has said no, and noted it
            reason = f"{whose(admission.owner)}: {refused.text}{': ' if admission.doubt else ''}{admission.doubt}"
            self.guard.audit("refuse", action=Action.ATTACH, allowed=False, reason=reason)

    def left(self, admission: Admission) -> None:
        self._entrance.left(admission)

    def admitted(self, newcomer: Newcomer) -> None:
        session = Session(self, newcomer, self._loop)
        self._sessions.add(session)
        self.guard.expires(newcomer.principal)
        how = "as an observer" if newcomer.port is None else str(newcomer.port.uuid)
        self.guard.audit("attach", principal=newcomer.principal.uri, action=Action.ATTACH, reason=how)
        port = newcomer.port
        if port is None:
            return
        self._by_port[port.number] = session
        self.health.joined(session)
        self.returns.attached(port.uuid, port.alias, session.pid, adopted=newcomer.adopted)
        how = "adopted" if newcomer.adopted else "attached"
        self.event(how, uuid=port.uuid, alias=port.alias or "", pid=session.pid, text=newcomer.program)
        _log.info("%s %s %r (pid %d, %s)", how, port.uuid, port.alias, session.pid, newcomer.program or "-")
        if self._status is not None:
            self._status.wake()

    async def reload(self) -> None:
        """Looks at policy and identity anew; what is wrong with them is logged, and the last good ones stay."""
        with contextlib.suppress(Refusal):
            await self.guard.reload()

    def everybody(self) -> tuple[Session, ...]:
        return tuple(self._sessions)

    async def administer(self, session: Session, message: Administration) -> Done:
        return await self.guard.answer(session, message)

    # ── Hall: what a session needs ────────────────────────────────────────────────────────────────────────────────

    async def refresh(self, alias: str | None = None, uuid: UUID | None = None) -> None:
        if alias is None and uuid is None:
            self.network.want_fresh()
        await self.health.refresh(alias, uuid)

    def changed(self, session: Session) -> None:
        self.health.changed(session)

    def happened(self, events: list[Event]) -> None:
        self.health.happened(events)

    def session_of(self, uuid: UUID) -> Session | None:
        port = self.board.find_uuid(uuid)
        return None if port is None else self._by_port.get(port.number)

    def attached(self) -> list[Session]:
        return [session for session in self._by_port.values() if session.port is not None and session.port.is_up]

    def closing(self, session: Session, why: str, violation: bool) -> None:
        port = session.port
        if port is None:
            return
        if violation:
            self._complaints.warn("violation", "closed %s (pid %d): %s", port.uuid, session.pid, why)
        _log.info("detached %s %r (pid %d): %s", port.uuid, port.alias, session.pid, why)
        kind = "violation" if violation else "detached" if session.clean else "gone"
        self.event(kind, uuid=port.uuid, alias=port.alias or "", pid=session.pid, text=why)
        self.guard.audit(kind, principal=port.principal.uri, reason=why)
        self.wing.requests.ending(session)
        self.health.went(session, f"quarantined: {why}" if violation else why)

    def over(self, session: Session) -> None:
        if session not in self._sessions:
            return
        self._sessions.discard(session)
        self.endings.forget(session)
        self.wing.requests.over(session)
        newcomer = session.newcomer
        if newcomer.port is None:
            self.accounts.give_observer(newcomer.owner)
        else:
            del self._by_port[newcomer.port.number]
            if session.port is None:  # else it stays, for the next Vnet
                self.roster.forget(newcomer.port.uuid, newcomer.port.number)
            self.returns.is_back(newcomer.port.uuid)
            self.health.statistics.remove(newcomer.port, session.pid)
            self.accounts.give_port(newcomer.owner, newcomer.size)
        self._emptied.set()

    def _violated(self, port: BoardPort, what: int) -> None:
        session = self._by_port.get(port.number)
        if session is not None:
            session.port_violated("its segment holds what cannot be")

    # ── status ────────────────────────────────────────────────────────────────────────────────────────────────────

    def event(self, kind: str, *, uuid: UUID | None = None, alias: str = "", pid: int = 0, text: str = "") -> None:
        if self._status is not None:
            self._status.event(kind, uuid=uuid, alias=alias, pid=pid, text=text)

    def path(self) -> Path:
        return self.place.path

    def listens(self) -> tuple[str, ...]:
        return self.network.listens

    def switch_counters(self) -> SwitchCounters:
        assert self._thread is not None
        return self._thread.switch.counters()

    def is_ready(self) -> bool:
        running = self._thread is not None and not self._thread.ended.done()
        return running and not self.stopping and self.returns.is_moving

    def health_status(self) -> HealthStatus:
        return self.health.status(self.wing.alarms.alarms.raised(), self.wing.http)

    def port_statuses(self) -> Iterator[PortStatus]:
        return self.health.port_statuses()
