"""What psutil says of one process: identity, stopped or zombie, CPU, memory, threads, open files.

These are figures for people and for records, read a few times a second at most; they never decide what a process may
do, and its death is the pidfd's to say (liveness.py). A process that vanishes between two reads is DOWN, one that may
not be looked at keeps the figures it had. Nothing here raises because of what another process does.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import psutil

from layer8.health_record import State


class Identity(NamedTuple):
    """Which process: a pid is used again, a pid with its create time (Unix seconds) is not."""

    pid: int
    create_time: float


class Figures(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One reading. `cpu`: percent of one core since the reading before (0.0 at the first). `memory`: resident bytes."""

    state: State = State.UP
    reason: str = ""
    cpu: float = 0.0
    memory: int = 0
    threads: int = 0
    open_files: int = 0


def identify(pid: int) -> Identity | None:
    """The identity of a living process; None if there is none, or none to be seen from here."""
    try:
        return Identity(pid, psutil.Process(pid).create_time()) if pid > 0 else None
    except (psutil.Error, OSError, ValueError):
        return None


class ProcessReader:
    """Reads one process again and again. Not thread-safe.

    `pid` 0, a process of another pid namespace, is always UP with no figures: nothing can be read of it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.identity: Identity | None = None
        self._process: psutil.Process | None = None
        self._cpu_seconds = 0.0
        self._last: Figures = Figures()
        self._read_at: float | None = None
        if pid > 0:
            try:
                self._process = psutil.Process(pid)
                self.identity = Identity(pid, self._process.create_time())
            except (psutil.Error, OSError, ValueError):
                self._process = None
                self._last = Figures(state=State.DOWN, reason="no such process")

    def read(self, now: float) -> Figures:
        """The figures at `now` (monotonic seconds). Once DOWN, always DOWN."""
        if self._process is None:
            return self._last
        try:
            self._last = self._read(self._process, now)
        except psutil.AccessDenied:
            pass  # the figures of before stay
        except psutil.ZombieProcess:
            self._down("zombie")
        except (psutil.Error, OSError, ValueError):
            self._down("no such process")
        return self._last

    def _read(self, process: psutil.Process, now: float) -> Figures:
        with process.oneshot():
            status = process.status()
            threads = process.num_threads()
            if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) and threads <= 1:
                # A main thread that ended while others run is shown as a zombie too; that process lives.
                self._down("zombie")
                return self._last
            times = process.cpu_times()
            memory = process.memory_info().rss
            open_files = process.num_fds()
        cpu_seconds = times.user + times.system
        cpu = 0.0
        if self._read_at is not None and now > self._read_at:
            cpu = max(0.0, 100.0 * (cpu_seconds - self._cpu_seconds) / (now - self._read_at))
        self._cpu_seconds = cpu_seconds
        self._read_at = now
        stopped = status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        return Figures(
            state=State.STOPPED if stopped else State.UP,
            reason=status if stopped else "",
            cpu=cpu,
            memory=memory,
            threads=threads,
            open_files=open_files,
        )

    def _down(self, reason: str) -> None:
        self._process = None
        self._last = Figures(state=State.DOWN, reason=reason)
