"""All of a Vnet's health in one place: makes the rooms, lets them know of each other, starts and ends them.

desk        records, the directory, and who hears of changes        elections   leaders of groups
requests    what Vnics ask of all this                              alarms      who is told of a high figure
publisher   the Vnet's own voice on its switch                      reports     what Vnics say of themselves
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from uuid import UUID

from layer8.dataplane import SwitchCounters
from layer8.health.alarms import Alarm
from layer8.health.directory import Appeared, Changed, Event
from layer8.health.election import ElectionEngine
from layer8.health_record import State
from layer8.rendezvous import http_token_file, terms_directory
from layer8.security.provider import Action, Principal, Resource, Role, SecurityProvider
from layer8.vnet.alarm_desk import AlarmDesk
from layer8.vnet.config import VnetConfig, has_several_hosts
from layer8.vnet.elections import Elections
from layer8.vnet.health_desk import HealthDesk
from layer8.vnet.health_requests import HealthRequests
from layer8.vnet.publisher import Publisher
from layer8.vnet.session import Session
from layer8.vnet.switchboard import Switchboard
from layer8.vnet.terms import Terms
from layer8.vnet.workers import Workers

if TYPE_CHECKING:
    from layer8.vnet.http.pages import HttpPort


class Owner(Protocol):
    """The Vnet, as far as its health needs it."""

    config: VnetConfig
    uuid: UUID
    epoch: int
    overlay: str
    started: float
    stopping: bool
    board: Switchboard
    workers: Workers

    def path(self) -> Path: ...
    def switch_counters(self) -> SwitchCounters: ...
    def attached(self) -> Sequence[Session]: ...
    def session_of(self, uuid: UUID) -> Session | None:
        """Of the Vnic of this uuid, if it is attached here."""

    def allowed(self, who: Principal, action: Action, what: Resource) -> bool: ...
    def event(self, kind: str, *, uuid: UUID | None = None, alias: str = "", pid: int = 0, text: str = "") -> None:
        """Shows in the status segment that something happened."""


class Ready(Owner, Protocol):
    """The Vnet, as far as it is shown over HTTP."""

    def is_ready(self) -> bool:
        """Whether Vnics can attach and records move."""

    async def refresh(self) -> None:
        """Brings the figures of this host up to date, and asks the others for theirs."""


class HealthWing:
    """One a Vnet, in the loop's thread. `several_hosts` may be replaced by whoever knows better."""

    def __init__(self, vnet: Owner, path: Path, loop: asyncio.AbstractEventLoop, engine: ElectionEngine) -> None:
        self._vnet = vnet
        config = vnet.config
        self.desk = HealthDesk(vnet, loop)
        self.several_hosts: Callable[[], bool] = lambda: has_several_hosts(config)
        self.elections = Elections(
            vnet.board,
            vnet.workers,
            Terms(terms_directory(path)),
            loop,
            engine,
            several_hosts=lambda: self.several_hosts(),
        )
        self.requests = HealthRequests(
            self.desk,
            vnet.board,
            self.elections,
            vnet.session_of,
            loop,
            watches_per_port=config.watches_per_port,
        )
        uri = f"layer8://{vnet.overlay}/vnet/{self.desk.host}"
        self.publisher = Publisher(
            vnet.board, loop, uuid=vnet.uuid, epoch=vnet.epoch, principal=Principal(uri=uri, role=Role.VNET)
        )
        self.alarms = AlarmDesk(
            config.alarms,
            self.desk,
            loop,
            publish=self.publisher.publish,
            event=self._alarmed,
            is_own=lambda uuid: uuid == vnet.uuid or vnet.board.find_uuid(uuid) is not None,
        )
        self.alarms.told.append(lambda alarm: self.requests.reports.on_alarm(alarm, vnet.session_of(alarm.uuid)))
        self.desk.listeners.append(self._happened)
        self._http: HttpPort | None = None

    def start(self) -> None:
        self.desk.start()
        self.elections.start()

    def open_http(self, vnet: Ready, principal: Callable[[], Principal]) -> None:
        """Listens where it was told to, if it was. Raises OSError. `principal`: whose rights decide, now."""
        config = vnet.config
        if config.http:
            from layer8.vnet.http.pages import HttpPort  # with what it needs, and only where it is wanted

            self._http = HttpPort(vnet, self, config.http, http_token_file(vnet.path()), principal)
            try:
                self._http.open()
            except OSError as error:
                self._http = None
                raise OSError(error.errno, f"http at {config.http}: {error.strerror or error}") from error

    @property
    def http(self) -> str:
        """Where HTTP is spoken, "host:port"; empty: nowhere."""
        return "" if self._http is None else self._http.address

    async def stop_http(self) -> None:
        """Safe twice."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    def close(self) -> None:
        """Before the switch stops."""
        self.desk.close()
        self.elections.close()
        self.alarms.close()
        self.publisher.close()

    def _alarmed(self, alarm: Alarm) -> None:
        self._vnet.event(
            f"alarm-{alarm.state}", uuid=alarm.uuid, alias=alarm.alias or "", pid=alarm.pid, text=alarm.text
        )

    def _happened(self, events: list[Event]) -> None:
        """Changes of state stand among the events of the status segment; who comes and goes here is there already."""
        for event in events:
            if not isinstance(event, Appeared | Changed):
                continue
            record = event.record
            where = "" if record.host == self.desk.host else f"on {record.host}"
            if isinstance(event, Changed) and event.record.state is event.before.state:
                continue
            if not where and (isinstance(event, Appeared) or record.state is State.DOWN):
                continue
            self._vnet.event(
                record.state.lower(),
                uuid=record.uuid,
                alias=record.alias or "",
                pid=record.pid if not where else 0,
                text=", ".join(filter(None, (record.reason, where))),
            )


def own_principal(provider: SecurityProvider, uri: str = "") -> Principal:
    """Who a Vnet with this provider is, as far as the provider says; else the local user. `uri`: it speaks for this one
    in place of itself. Believed as long as the Vnet's own credential, which may be another one tomorrow."""
    identity = getattr(provider, "identity", None)
    uri = uri or (str(identity) if identity is not None else f"layer8://local/uid/{os.geteuid()}")
    role = Role.VNET if urlsplit(uri).path.startswith("/vnet/") else Role.VNIC
    return Principal(uri=uri, role=role, credential=getattr(provider, "credential", ""))
