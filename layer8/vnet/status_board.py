"""What the status segment shows, and when it is brought up to date.

Events stand there at once. Counters are looked at every `status_interval` while they move, less and less often while
they do not, and not at all while nobody is attached: a Vnet that has nothing to do does nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol
from uuid import UUID

from layer8.dataplane import SwitchCounters
from layer8.version import VERSION
from layer8.vnet.config import VnetConfig
from layer8.vnet.status import HealthStatus, PortStatus, Snapshot, StatusWriter

_SLOWEST = 16  # times the interval

_log = logging.getLogger("layer8.vnet")


class Shown(Protocol):
    """The Vnet, as far as it is shown."""

    config: VnetConfig
    uuid: UUID
    epoch: int
    started: float
    stopping: bool

    def path(self) -> Path: ...
    def listens(self) -> tuple[str, ...]: ...
    def switch_counters(self) -> SwitchCounters: ...
    def port_statuses(self) -> Iterable[PortStatus]: ...
    def health_status(self) -> HealthStatus: ...


class StatusBoard:
    """Without a segment (no room in /dev/shm, say) it warns once and shows nothing."""

    def __init__(self, shown: Shown, loop: asyncio.AbstractEventLoop) -> None:
        self._shown = shown
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._pause = shown.config.status_interval
        self._before: tuple[object, ...] = ()  # what counts as a move: not that some CPU was used
        self._writer: StatusWriter | None = None
        config = shown.config
        try:
            self._writer = StatusWriter(
                shown.path(), started=shown.started, ports=config.status_ports, events=config.status_events
            )
        except OSError as error:
            _log.warning("Vnet %s has no status segment: %s", config.name, error)

    def event(self, kind: str, *, uuid: UUID | None = None, alias: str = "", pid: int = 0, text: str = "") -> None:
        """Shows that something happened."""
        if self._writer is not None:
            self._writer.event(time.time(), kind, uuid=uuid, alias=alias, pid=pid, text=text)
            self.wake()

    def wake(self) -> None:
        """Something has changed: the counters are shown anew soon."""
        if self._shown.stopping:
            return
        interval = self._shown.config.status_interval
        if self._timer is not None and self._timer.when() > self._loop.time() + interval:
            self._timer.cancel()
            self._timer = None
        self._pause = interval
        if self._timer is None and self._writer is not None:
            self._timer = self._loop.call_later(interval, self.tick)

    def tick(self, state: str = "running") -> None:
        """Shows everything as it is now, and looks again later if there is anything to look at."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writer is None:
            return
        shown = self._shown
        ports = tuple(shown.port_statuses())
        self._writer.write(
            Snapshot(
                name=shown.config.name,
                socket=str(shown.path()),
                uuid=shown.uuid,
                epoch=shown.epoch,
                pid=os.getpid(),
                started=shown.started,
                updated=time.time(),
                state=state,
                listen=shown.listens(),
                switch=dataclasses.asdict(shown.switch_counters()),
                ports=ports,
                version=VERSION,
                **shown.health_status(),
            )
        )
        interval = shown.config.status_interval
        moved = tuple((port.uuid, port.messages_in, port.messages_out, port.fill, port.state) for port in ports)
        self._pause = interval if moved != self._before else min(self._pause * 2, interval * _SLOWEST)
        self._before = moved
        if ports and state == "running":
            self._timer = self._loop.call_later(self._pause, self.tick)

    def close(self) -> None:
        """Takes the segment away. Safe twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None
