"""What a Vnet knows of everybody's health, and who is told of a change.

    attach, detach, death, look, refresh ──▶ directory ──▶ events ──▶ finds that wait, and every listener
    rounds ──▶ states and figures                                     (watches, alarms, status events, links)

Records of other hosts come into the same directory by whoever speaks to them, and go the same way.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from layer8.dataplane import SwitchCounters
from layer8.health.alarms import Alarm
from layer8.health.directory import Directory, Event, Expired, Found
from layer8.health_record import HealthRecord, LinkRecord, State
from layer8.vnet.board_port import BoardPort
from layer8.vnet.config import VnetConfig
from layer8.vnet.rounds import Rounds
from layer8.vnet.session import Session
from layer8.vnet.statistics import Statistics
from layer8.vnet.status import HealthStatus, PortStatus

_LARGE_POOL = 64  # members of an alias
_POOL_SECONDS = 0.1
_ALARMS_SHOWN = 32
_AT_ONCE = 64  # records made before others get a turn

Listener = Callable[[list[Event]], None]
"""Hears every event of the directory, in order; must not take long and must not raise."""

Measured = Callable[[HealthRecord, HealthRecord], None]
"""Hears that the figures of a record have changed: what they were, and the record as it is."""


class Patient(Protocol):
    """The Vnet, as far as its health goes."""

    config: VnetConfig
    uuid: UUID
    started: float
    stopping: bool

    def switch_counters(self) -> SwitchCounters: ...
    def attached(self) -> Sequence[Session]:
        """The sessions with a port that is up."""


class HealthDesk:
    """Belongs to the loop's thread.

    `listeners`, `measured`: who hears of changes. `links`: the Vnet's own links as they are now.
    `alarms_of`: the names of the alarms that are raised about a uuid.
    """

    def __init__(self, vnet: Patient, loop: asyncio.AbstractEventLoop) -> None:
        config = vnet.config
        self._vnet = vnet
        self._loop = loop
        self.host = config.host or socket.gethostname()
        self.directory = Directory(self.host, keep_down=config.keep_down)
        self.statistics = Statistics(host=self.host, vnet=config.name, patience=config.suspect_after)
        self.listeners: list[Listener] = []
        self.measured: list[Measured] = []
        self.links: Callable[[], Iterable[LinkRecord]] = tuple
        self.watches_time = False  # figures have to be told that did not change: of an alarm that time alone raises
        self.alarms_of: Callable[[UUID], tuple[str, ...]] = lambda uuid: ()
        self._timer: asyncio.TimerHandle | None = None
        self._pools_fresh_until = float("-inf")
        self._measuring: asyncio.Task[None] | None = None
        self._rounds = Rounds(
            loop,
            look_interval=config.look_interval,
            statistics_interval=config.statistics_interval,
            present=vnet.attached,
            look=self._look,
            measure=self._measure,
        )

    def start(self) -> None:
        self.statistics.watch(os.getpid())
        self.put_own_record()

    def close(self) -> None:
        self._rounds.close()
        if self._measuring is not None:
            self._measuring.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self.statistics.close()

    # ── who comes and goes ────────────────────────────────────────────────────────────────────────────────────────

    def joined(self, session: Session) -> None:
        assert session.port is not None
        newcomer = session.newcomer
        is_cut = None if newcomer.far is None else newcomer.far.is_cut
        self.statistics.add(session.port, session.pid, newcomer.program, newcomer.version, is_cut)
        self.changed(session)
        self._rounds.wake()

    def changed(self, session: Session) -> None:
        """Its record says something else now."""
        port = session.port
        if port is not None and port.is_up:
            record = self.statistics.record(port, session.pid, self.alarms_of(port.uuid))
            self.put(record)

    def went(self, session: Session, why: str) -> None:
        port = session.port
        assert port is not None
        last = self.statistics.record(port, session.pid)
        self.put(msgspec.structs.replace(last, state=State.DOWN, reason=why, since=time.time()))

    def put_own_record(self) -> None:
        vnet = self._vnet
        self.put(
            self.statistics.own_record(
                vnet.uuid,
                principal="",
                pid=os.getpid(),
                started=vnet.started,
                records=vnet.switch_counters().records,
                links=tuple(self.links()),
                alarms=self.alarms_of(vnet.uuid),
            )
        )

    def put(self, record: HealthRecord) -> None:
        """A record as it is now, of this host."""
        before = self.directory.get(record.uuid)
        self.happened(self.directory.put(record, self._loop.time()))
        if before is not None and record.state is not State.DOWN:
            for hear in self.measured:
                hear(before, record)

    def happened(self, events: list[Event]) -> None:
        """What the directory answered."""
        for event in events:
            match event:
                case Found(token=(Session() as session, int(id)), record=record):
                    session.found(id, record, record.uuid)
                case Expired(token=(Session() as session, int(id)), to=to):
                    session.found(id, None, to)
        if events:
            for listener in self.listeners:
                listener(events)
        self._set_timer()

    def _set_timer(self) -> None:
        """For finds that wait and records that are to be forgotten."""
        deadline = self.directory.deadline
        if self._timer is not None:
            if self._timer.when() == deadline and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if deadline != float("inf") and not self._vnet.stopping:
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.happened(self.directory.tick(self._loop.time()))

    # ── the rounds ────────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self, session: Session) -> None:
        port = session.port
        if port is None or not port.is_up:
            return
        now = self._loop.time()
        state = self.statistics.state_of(session.pid, now, self._vnet.config.look_interval / 2)
        if state is State.DOWN and session.pid > 0:
            session.process_ended()
        elif self.statistics.look(port, session.pid, now):
            self.changed(session)

    def _measure(self) -> None:
        if self._measuring is None or self._measuring.done():
            self._measuring = self._loop.create_task(self._measure_all())

    async def _measure_all(self) -> None:
        sessions = list(self._vnet.attached())
        await self.statistics.refresh({session.pid for session in sessions} | {os.getpid()})
        await self._renew(sessions)
        self.put_own_record()

    async def _renew(self, sessions: Sequence[Session]) -> None:
        """Makes those records that would say something else."""
        for number, session in enumerate(sessions):
            port = session.port
            if port is not None and port.is_up and self._has_news(port, session.pid):
                self.changed(session)
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)

    def _has_news(self, port: BoardPort, pid: int) -> bool:
        return self.watches_time or self.statistics.has_news(port, pid)

    async def refresh(self, alias: str | None = None, uuid: UUID | None = None) -> None:
        """Brings the figures up to date: of all, of the members of an alias, or of one."""
        sessions = list(self._vnet.attached())
        if alias is not None:
            sessions = [session for session in sessions if session.port is not None and session.port.alias == alias]
        elif uuid is not None:
            sessions = [session for session in sessions if session.port is not None and session.port.uuid == uuid]
        if alias is not None and len(sessions) > _LARGE_POOL:  # who asks at every message cannot have it that exact
            if self._loop.time() < self._pools_fresh_until:
                return
            self._pools_fresh_until = self._loop.time() + _POOL_SECONDS
        pids = {session.pid for session in sessions}
        everything = alias is None and uuid is None
        await self.statistics.refresh(pids | {os.getpid()} if everything else pids)
        await self._renew(sessions)
        if everything:
            self.put_own_record()

    # ── for the status segment ────────────────────────────────────────────────────────────────────────────────────

    def status(self, alarms: Iterable[Alarm], http: str) -> HealthStatus:
        return HealthStatus(
            host=self.host,
            http=http,
            alarms=tuple(alarm.text for _, alarm in zip(range(_ALARMS_SHOWN), alarms, strict=False)),
            links=tuple(self.links()),
        )

    def port_statuses(self) -> Iterator[PortStatus]:
        for session in self._vnet.attached():
            port = session.port
            if port is None:
                continue
            counters = port.switch_port.counters()
            known = self.directory.get(port.uuid)
            yield PortStatus(
                uuid=port.uuid,
                alias=port.alias or "",
                pid=session.pid,
                messages_in=counters.in_messages,
                bytes_in=counters.in_bytes,
                messages_out=counters.out_messages,
                bytes_out=counters.out_bytes,
                undeliverable=counters.undeliverable,
                missed=counters.missed,
                fill=counters.receive_fill / (counters.receive_capacity or 1),
                state=known.state if known is not None else State.UP,
                reason=known.reason if known is not None else "",
                cpu=known.cpu if known is not None else 0.0,
                memory=known.memory if known is not None else 0,
                alarms=known.alarms if known is not None else (),
                version=session.newcomer.version,
            )
