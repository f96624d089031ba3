"""Figures: health records made of the switch's counters and of what psutil says of each process.

psutil costs a fraction of a millisecond a process, so it is asked only when somebody wants to know, in a worker thread,
and about one process at most once a second. Counters cost next to nothing and are always those of now.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterable
from uuid import UUID

from layer8.dataplane import PortCounters
from layer8.health.process import Figures, ProcessReader
from layer8.health_record import HealthRecord, State
from layer8.vnet.switchboard import BoardPort, PortState
from layer8.vnet.workers import Busy, Workers

REFRESH_SECONDS = 1.0


@dataclasses.dataclass(slots=True, eq=False)
class _Process:
    """A process with at least one port."""

    reader: ProcessReader | None = None  # made by the first reading, in a worker
    figures: Figures = dataclasses.field(default_factory=Figures)
    read_at: float = float("-inf")
    ports: int = 0


class Statistics:
    """Belongs to the loop's thread. `host`, `vnet`: what stands in every record."""

    def __init__(self, workers: Workers, *, host: str, vnet: str) -> None:
        self._workers = workers
        self._host = host
        self._vnet = vnet
        self._processes: dict[int, _Process] = {}
        self._since: dict[int, float] = {}  # by number of port, Unix seconds
        self._reading = asyncio.Lock()

    def add(self, port: BoardPort, pid: int) -> None:
        """A port of the process `pid` (0: of another namespace) is there from now on."""
        self._since[port.number] = time.time()
        self._processes.setdefault(pid, _Process()).ports += 1

    def remove(self, port: BoardPort, pid: int) -> None:
        self._since.pop(port.number, None)
        process = self._processes[pid]
        process.ports -= 1
        if not process.ports:
            del self._processes[pid]

    def watch(self, pid: int) -> None:
        """Keeps figures of a process that has no port: the Vnet's own."""
        self._processes.setdefault(pid, _Process()).ports += 1

    async def refresh(self, pids: Iterable[int]) -> bool:
        """Reads these processes anew, those that were read within a second excepted; whether any was read."""
        if not self._due(pids := set(pids)):
            return False
        async with self._reading:  # a second one waits and then finds the work done
            due = self._due(pids)
            if not due:
                return False
            try:
                readings = await self._workers.call(_read, [(pid, self._processes[pid].reader) for pid in due])
            except Busy:
                return False
            for pid, reader, figures, read_at in readings:
                process = self._processes.get(pid)
                if process is not None:
                    process.reader, process.figures, process.read_at = reader, figures, read_at
        return True

    def _due(self, pids: set[int]) -> list[int]:
        before = time.monotonic() - REFRESH_SECONDS
        return [pid for pid in pids if pid in self._processes and self._processes[pid].read_at <= before]

    def record(self, port: BoardPort, pid: int) -> HealthRecord:
        """The port as it is now; the figures of its process as last read."""
        counters: PortCounters = port.switch_port.counters()
        process = self._processes[pid]
        figures = process.figures
        draining = port.state is PortState.DRAINING
        alive = figures.state is not State.DOWN  # death is the pidfd's to say
        return HealthRecord(
            uuid=port.uuid,
            alias=None if draining else port.alias,
            host=self._host,
            vnet=self._vnet,
            principal=port.principal.uri,
            topics=tuple(sorted(set(port.topics.values()))),
            pid=pid,
            create_time=_create_time(process),
            state=figures.state if alive else State.UP,
            reason="draining" if draining else figures.reason if alive else "",
            since=self._since.get(port.number, 0.0),
            cpu=figures.cpu,
            memory=figures.memory,
            threads=figures.threads,
            open_files=figures.open_files,
            messages_in=counters.in_messages,
            bytes_in=counters.in_bytes,
            messages_out=counters.out_messages,
            bytes_out=counters.out_bytes,
            undeliverable=counters.undeliverable,
            missed=counters.missed,
            fill=counters.receive_fill / (counters.receive_capacity or 1),
        )

    def own_record(self, uuid: UUID, *, principal: str, pid: int, since: float, records: int) -> HealthRecord:
        """The Vnet's own. `records`: that the switch has moved."""
        process = self._processes[pid]
        figures = process.figures
        return HealthRecord(
            uuid=uuid,
            kind="vnet",
            host=self._host,
            vnet=self._vnet,
            principal=principal,
            pid=pid,
            create_time=_create_time(process),
            since=since,
            cpu=figures.cpu,
            memory=figures.memory,
            threads=figures.threads,
            open_files=figures.open_files,
            messages_in=records,
            messages_out=records,
        )


def _create_time(process: _Process) -> float:
    identity = process.reader.identity if process.reader is not None else None
    return identity.create_time if identity is not None else 0.0


def _read(processes: list[tuple[int, ProcessReader | None]]) -> list[tuple[int, ProcessReader, Figures, float]]:
    """In a worker thread."""
    readings = []
    for pid, known in processes:
        reader = known if known is not None else ProcessReader(pid)
        now = time.monotonic()
        readings.append((pid, reader, reader.read(now), now))
    return readings
