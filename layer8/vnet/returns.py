"""Who comes back after a Vnet's death, and who waits meanwhile: the list of ports, processes, time and names together.

    awaiting ──(`Returning` is over)──▶ START is given ──(the switch has it)──▶ moving; stays

While somebody is awaited no record moves, and nobody is told that a name is not there. `returning.py` says when it is
over, `awaited.py` who has died meanwhile, `endings.py` who hears of it later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol
from uuid import UUID

from layer8.health.directory import Directory, Event
from layer8.health_record import HealthRecord, State
from layer8.vnet.acquaintances import Acquaintances
from layer8.vnet.awaited import AwaitedProcesses
from layer8.vnet.config import VnetConfig
from layer8.vnet.returning import Returning
from layer8.vnet.roster import Entry, Roster

_log = logging.getLogger("layer8.vnet")


class Others(Protocol):
    """The network, as far as it awaits other Vnets."""

    acquaintances: Acquaintances

    def complete(self) -> None: ...
    def moving(self) -> None: ...


class House(Protocol):
    """What this needs of its Vnet."""

    config: VnetConfig
    roster: Roster
    directory: Directory
    stopping: bool

    @property
    def host(self) -> str: ...
    @property
    def others(self) -> Others: ...

    def happened(self, events: list[Event]) -> None: ...
    def event(self, kind: str, *, text: str = "") -> None: ...

    def start_moving(self) -> asyncio.Future[int]:
        """Lets the switch move records."""


class Returns:
    """Of one Vnet. One thread, the loop's."""

    def __init__(self, house: House, loop: asyncio.AbstractEventLoop) -> None:
        self._house = house
        self._loop = loop
        self._returning = Returning((), 0.0, 0.0)
        self._patience: asyncio.TimerHandle | None = None
        self._processes = AwaitedProcesses(house.roster, loop, self._process_ended)
        self._arrivals: dict[str, asyncio.Event] = {}  # by uuid or alias: who waits for it to come back
        self._moving = asyncio.Event()

    @property
    def is_moving(self) -> bool:
        return self._moving.is_set()

    @property
    def is_over(self) -> bool:
        """Nobody is awaited: the switch may begin as it likes."""
        return self._returning.is_over

    def is_awaiting(self) -> bool:
        return bool(self._house.roster.awaited) and not self.is_moving

    # ── from the list of ports to START ───────────────────────────────────────────────────────────────────────────

    def load(self) -> None:
        """Who is awaited, when the list of ports is there."""
        awaited = self._house.roster.awaited
        vnets = self._house.others.acquaintances.awaited if awaited else ()
        self._returning = Returning({*awaited, *vnets}, self._loop.time(), self._house.config.return_patience)

    def begin(self) -> None:
        """The Vnet accepts."""
        if self._returning.is_over:
            self._moving.set()
            self._house.others.complete()
            self._house.others.moving()
            return
        name, awaited = self._house.config.name, self._house.roster.awaited
        _log.info("Vnet %s awaits %d Vnics of an earlier one", name, len(awaited))
        now = self._loop.time()
        for entry in awaited.values():
            record = HealthRecord(
                uuid=entry.uuid,
                alias=entry.alias,
                host=self._house.host,
                vnet=name,
                principal=entry.principal,
                pid=entry.pid,
                create_time=entry.create_time,
                state=State.UNREACHABLE,
                reason="not back yet",
                since=time.time(),
            )
            self._house.happened(self._house.directory.put(record, now))
        self._processes.watch()
        self._check()

    def _check(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self.is_moving or self._house.stopping:
            return
        self._returning.tick(self._loop.time())
        others = self._house.others
        if self._returning.is_over or self._returning.missing <= others.acquaintances.awaited:
            others.complete()  # before other Vnets are back: they await us as we await them
        if self._returning.is_over:
            self._move()
        else:
            self._patience = self._loop.call_at(self._returning.deadline, self._check)

    def _move(self) -> None:
        """All are back, or have had their time: records move, and whoever is not there is not there."""
        late = len(self._returning.missing)
        took = self._loop.time()
        self._house.event("moving", text=f"{late} missing" if late else "all are back")
        if late:
            name = self._house.config.name
            _log.warning("Vnet %s goes on without %d Vnics that are not back", name, late)
        for uuid in self._returning.missing:
            if uuid in self._house.roster.awaited:
                self._down(uuid, took, "did not come back")
        self._house.start_moving().add_done_callback(self._moves)

    def _moves(self, started: asyncio.Future[int]) -> None:
        if not started.cancelled() and started.exception() is None:
            self._moving.set()
            self._house.others.moving()
            for name in tuple(self._arrivals):
                self.arrived(name)

    # ── who is back, and who will not come ────────────────────────────────────────────────────────────────────────

    def attached(self, uuid: UUID, alias: str | None, pid: int, *, adopted: bool) -> None:
        """A port was made. With a fresh segment there is nothing to renew."""
        self._processes.back(pid)
        self.arrived(str(uuid))
        self.arrived(alias or "")
        if not adopted:
            self.is_back(uuid)

    def is_back(self, uuid: UUID) -> None:
        """This Vnic has renewed all, or has gone again."""
        if not self.is_moving:
            self._returning.back(uuid, self._loop.time())
            self._check()

    def vnet_is_back(self, uuid: UUID) -> None:
        """An adjacent Vnet that an earlier life of this one knew."""
        if not self.is_moving:
            self._returning.back(uuid, self._loop.time())
            for name in [name for name in self._arrivals if not self._may_come(name)]:
                self.arrived(name)
            self._check()

    async def renewed(self, uuid: UUID) -> None:
        """An adopted port has renewed what it had; returns when records move."""
        self.is_back(uuid)
        await self._moving.wait()

    def farewell(self, uuid: UUID, secret: bytes) -> None:
        """Whoever had this secret for this uuid does not come back."""
        entry = self._house.roster.take_leave(uuid, secret)
        if entry is not None:
            self._will_not_come(entry, "closed while no Vnet was there")

    def _process_ended(self, entry: Entry) -> None:
        seen = entry.pid > 0
        self._will_not_come(
            entry, "its process ended while no Vnet was there" if seen else "nothing was seen of it for too long"
        )

    def _will_not_come(self, entry: Entry, reason: str) -> None:
        now = self._loop.time()
        self._down(entry.uuid, now, reason)
        self._returning.back(entry.uuid, now)
        for name in (str(entry.uuid), entry.alias or ""):
            if not self._may_come(name):
                self.arrived(name)  # nobody has it, and who asked is told
        self._check()

    def _down(self, uuid: UUID, now: float, reason: str) -> None:
        self._house.happened(self._house.directory.mark(uuid, State.DOWN, now, since=time.time(), reason=reason))

    # ── who waits for a name ──────────────────────────────────────────────────────────────────────────────────────

    def arrival(self, name: str) -> asyncio.Event | None:
        """Set when it is known whether this name (a uuid or an alias) is there; None: it is not, and will not be."""
        if not self._may_come(name):
            return None
        return self._arrivals.setdefault(name, asyncio.Event())

    def arrived(self, name: str) -> None:
        """Who was awaited under this name may be there."""
        event = self._arrivals.pop(name, None)
        if event is not None:
            event.set()

    def _may_come(self, name: str) -> bool:
        """Whether somebody who is awaited has this name, or lives perhaps where a Vnet that is awaited does. Of others
        nobody waits to hear, for who waits is not back: handles to somebody who has died would keep all waiting."""
        if self.is_moving:
            return False
        awaited = self._house.others.acquaintances.awaited
        return self._house.roster.awaits(name) or not self._returning.missing.isdisjoint(awaited)

    def close(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._processes.close()
