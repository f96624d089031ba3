"""Figures: health records made of the switch's counters and of what each process does.

Counters cost next to nothing and are always those of now. A process is read when somebody wants to know, at most once a
second, and by `look`, which costs less, on the rounds (rounds.py). All of it happens in the loop, a few at a time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable
from uuid import UUID

from layer8.dataplane import PortCounters
from layer8.health.process import ProcessReader
from layer8.health_record import HealthRecord, LinkRecord, State
from layer8.version import VERSION
from layer8.vnet.board_port import BoardPort, PortState

REFRESH_SECONDS = 1.0
_AT_ONCE = 32  # processes read before others get a turn
_HALF = 0.5  # of a receive ring: from there on its senders are held back


@dataclasses.dataclass(slots=True, eq=False)
class _Process:
    """A process with at least one port."""

    reader: ProcessReader
    read_at: float = float("-inf")
    looked_at: float = float("-inf")
    ports: int = 0


@dataclasses.dataclass(slots=True, eq=False)
class _Seen:
    """What was seen of one port at the look before."""

    started: float  # Unix seconds
    since: float
    heard: float
    program: str
    version: str
    state: State = State.UP
    taken: int = 0  # messages that it had sent
    given: int = 0  # bytes that had been delivered to it, records' headers included
    fill: int = 0
    glance: object = None  # the counters as they were
    told: object = None  # what the last record was made of
    idle_from: float | None = None  # monotonic: it reads nothing, and its senders wait
    is_cut: Callable[[], bool] | None = None  # of a far Vnic: whether its connection is


class Statistics:
    """Belongs to the loop's thread. `host`, `vnet`: what stands in every record. `patience`: seconds that a Vnic may
    leave a ring unread that is over half full."""

    def __init__(self, *, host: str, vnet: str, patience: float = 5.0) -> None:
        self._host = host
        self._vnet = vnet
        self._patience = patience
        self._processes: dict[int, _Process] = {}
        self._seen: dict[int, _Seen] = {}  # by number of port
        self._reading = asyncio.Lock()

    def add(
        self,
        port: BoardPort,
        pid: int,
        program: str = "",
        version: str = "",
        is_cut: Callable[[], bool] | None = None,
    ) -> None:
        """A port of the process `pid` (0: of another namespace, or host) is there from now on. `is_cut`: of a far Vnic,
        whether its connection is."""
        now = time.time()
        self._seen[port.number] = _Seen(
            started=now, since=now, heard=now, program=program, version=version, is_cut=is_cut
        )
        self.watch(pid)

    def remove(self, port: BoardPort, pid: int) -> None:
        self._seen.pop(port.number, None)
        process = self._processes[pid]
        process.ports -= 1
        if not process.ports:
            process.reader.close()
            del self._processes[pid]

    def watch(self, pid: int) -> None:
        """Keeps figures of a process, which need not have a port: the Vnet's own."""
        process = self._processes.get(pid)
        if process is None:
            process = self._processes[pid] = _Process(ProcessReader(pid))
        process.ports += 1

    def close(self) -> None:
        """Reads nothing any more."""
        for process in self._processes.values():
            process.reader.close()

    async def refresh(self, pids: Iterable[int]) -> bool:
        """Reads these processes anew, those that were read within a second excepted; whether any was read."""
        async with self._reading:  # a second one waits and then finds the work done
            now = time.monotonic()
            due = [
                process
                for pid in set(pids)
                if (process := self._processes.get(pid)) is not None and process.read_at <= now - REFRESH_SECONDS
            ]
            for number, process in enumerate(due):
                process.read_at = time.monotonic()
                process.reader.read(process.read_at)
                if number % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)
        return bool(due)

    def state_of(self, pid: int, now: float, fresh: float) -> State:
        """Of a process, looked at now, or less than `fresh` seconds ago: it may have many ports."""
        process = self._processes.get(pid)
        if process is None:
            return State.UP
        if now - process.looked_at >= fresh:
            process.looked_at = now
            return process.reader.look()
        return process.reader.last.state

    def has_news(self, port: BoardPort, pid: int) -> bool:
        """Whether a record made now would say anything that the last one did not."""
        seen = self._seen[port.number]
        return seen.told != (port.switch_port.levels(), self._processes[pid].reader.last, seen.heard, seen.state)

    def look(self, port: BoardPort, pid: int, now: float) -> bool:
        """Whether its state is another one than its record says. `now`: monotonic seconds."""
        seen = self._seen[port.number]
        glance = port.switch_port.glance()
        if glance == seen.glance and seen.idle_from is None and seen.is_cut is None:  # as most are, most of the time
            return self._processes[pid].reader.last.state is not seen.state
        seen.glance = glance
        taken, given, fill, capacity, held, _ = port.switch_port.levels()
        drained = fill - seen.fill < given - seen.given
        if taken != seen.taken or drained:
            seen.heard = time.time()
        if (held or fill >= _HALF * capacity) and not drained:
            seen.idle_from = now if seen.idle_from is None else seen.idle_from
        else:
            seen.idle_from = None
        seen.taken, seen.given, seen.fill = taken, given, fill
        return self._judged(port, pid, now)[0] is not seen.state

    def _judged(self, port: BoardPort, pid: int, now: float) -> tuple[State, str]:
        """State and reason. Death is the pidfd's to say."""
        figures = self._processes[pid].reader.last
        seen = self._seen[port.number]
        if figures.state is State.STOPPED:
            return State.STOPPED, figures.reason
        if seen.is_cut is not None and seen.is_cut():
            return State.SUSPECT, "its connection is cut"
        if seen.idle_from is not None and now - seen.idle_from >= self._patience:
            return State.SUSPECT, "it does not read its messages"
        return State.UP, "draining" if port.state is PortState.DRAINING else ""

    def record(self, port: BoardPort, pid: int, alarms: tuple[str, ...] = ()) -> HealthRecord:
        """The port as it is now; the figures of its process as last read."""
        counters: PortCounters = port.switch_port.counters()
        process, seen = self._processes[pid].reader, self._seen[port.number]
        state, reason = self._judged(port, pid, time.monotonic())
        if state is not seen.state:
            seen.state, seen.since = state, time.time()
        draining = port.state is PortState.DRAINING
        seen.told = (port.switch_port.levels(), process.last, seen.heard, seen.state)
        return HealthRecord(
            uuid=port.uuid,
            alias=None if draining else port.alias,
            host=self._host,
            vnet=self._vnet,
            principal=port.principal.uri,
            program=seen.program,
            version=seen.version,
            services=() if draining else port.services,
            topics=tuple(sorted(set(port.topics.values()))),
            pid=pid,
            create_time=_create_time(process),
            started=seen.started,
            state=state,
            reason=reason,
            since=seen.since,
            heard=seen.heard,
            cpu=process.last.cpu,
            memory=process.last.memory,
            threads=process.last.threads,
            open_files=process.last.open_files,
            messages_in=counters.in_messages,
            bytes_in=counters.in_bytes,
            messages_out=counters.out_messages,
            bytes_out=counters.out_bytes,
            undeliverable=counters.undeliverable,
            missed=counters.missed,
            fill=counters.receive_fill / (counters.receive_capacity or 1),
            alarms=alarms,
        )

    def own_record(
        self,
        uuid: UUID,
        *,
        principal: str,
        pid: int,
        started: float,
        records: int,
        links: tuple[LinkRecord, ...] = (),
        alarms: tuple[str, ...] = (),
    ) -> HealthRecord:
        """The Vnet's own. `records`: that the switch has moved."""
        process = self._processes[pid].reader
        return HealthRecord(
            uuid=uuid,
            kind="vnet",
            host=self._host,
            vnet=self._vnet,
            principal=principal,
            version=VERSION,
            pid=pid,
            create_time=_create_time(process),
            started=started,
            since=started,
            heard=time.time(),
            cpu=process.last.cpu,
            memory=process.last.memory,
            threads=process.last.threads,
            open_files=process.last.open_files,
            messages_in=records,
            messages_out=records,
            links=links,
            alarms=alarms,
        )


def _create_time(process: ProcessReader) -> float:
    return process.identity.create_time if process.identity is not None else 0.0
