"""What one process does: identity, stopped or zombie, CPU, memory, threads, open files.

These are figures for people and for records, read once in a second or two; they never decide what a process may do,
and its death is the pidfd's to say (liveness.py). A process that vanishes between two reads is DOWN, one that may
not be looked at keeps the figures it had. Nothing here raises because of what another process does.

psutil says who a process is. The figures are read from /proc/PID/stat through a descriptor that is kept: it speaks of
this process for ever, never of the next one with its pid, and a look costs 9 µs where psutil's takes 130 (which for a
thousand processes decides whether health is noticed).
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

import msgspec
import psutil

from layer8.health_record import State

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STAT_BYTES = 1024

_STOPPED = {"T": psutil.STATUS_STOPPED, "t": psutil.STATUS_TRACING_STOP}
_DEAD = ("Z", "X", "x")


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


class Stat(NamedTuple):
    """What is used of /proc/PID/stat, proc(5). `cpu`: seconds. `exit_code`: as waitpid gives it, of a zombie."""

    state: str
    cpu: float
    threads: int
    memory: int
    exit_code: int

    @property
    def is_dead(self) -> bool:
        """A main thread that ended while others run is shown as a zombie too; that process lives."""
        return self.state in _DEAD and self.threads <= 1


def parse_stat(line: bytes) -> Stat:
    """Raises ValueError or IndexError for what is no such line."""
    fields = line[line.rindex(b")") + 2 :].split()  # the name in front may have any sign in it
    return Stat(
        state=fields[0].decode(),
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
        threads=int(fields[17]),
        memory=int(fields[21]) * _PAGE,
        exit_code=int(fields[49]) if len(fields) > 49 else 0,
    )


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
        self.last = Figures()
        self._stat = -1
        self._cpu_seconds = 0.0
        self._read_at: float | None = None
        self._over = pid <= 0
        if pid > 0:
            with contextlib.suppress(OSError):
                self._stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            self.identity = identify(pid)
            if self.identity is None or not self._is_there():
                self.identity = None
                self._down("no such process")

    def _is_there(self) -> bool:
        """Whether what psutil has identified is still what the descriptor, opened before, speaks of."""
        try:
            return bool(self._look())
        except ProcessLookupError:
            return False
        except OSError:
            return True  # not to be looked at

    def _look(self) -> bytes:
        if self._stat >= 0:
            return os.pread(self._stat, _STAT_BYTES, 0)
        with open(f"/proc/{self.pid}/stat", "rb", buffering=0) as stat:  # descriptors were short
            return stat.read(_STAT_BYTES)

    def look(self) -> State:
        """The state alone, as cheaply as it can be had."""
        if not self._over:
            try:
                line = self._look()
                state = chr(line[line.rindex(b")") + 2])
                if state in _DEAD and parse_stat(line).is_dead:
                    self._down("zombie")
                elif (state in _STOPPED) != (self.last.state is State.STOPPED):
                    self.last = _with_state(self.last, state)
            except PermissionError:
                pass
            except (OSError, ValueError, IndexError):
                self._down("no such process")
        return self.last.state

    def read(self, now: float) -> Figures:
        """The figures at `now` (monotonic seconds). Once DOWN, always DOWN."""
        if not self._over:
            try:
                self._take(parse_stat(self._look()), now)
            except PermissionError:
                pass  # the figures of before stay
            except (OSError, ValueError, IndexError):
                self._down("no such process")
        return self.last

    def _take(self, stat: Stat, now: float | None) -> None:
        if stat.is_dead:
            self._down("zombie")
            return
        cpu = 0.0
        if self._read_at is not None and now is not None and now > self._read_at:
            cpu = max(0.0, 100.0 * (stat.cpu - self._cpu_seconds) / (now - self._read_at))
        self._cpu_seconds = stat.cpu
        self._read_at = now
        figures = Figures(cpu=cpu, memory=stat.memory, threads=stat.threads, open_files=self._open_files())
        self.last = _with_state(figures, stat.state)

    def _open_files(self) -> int:
        """Linux 6.2 gives the number as the directory's size; before that it has to be counted."""
        directory = f"/proc/{self.pid}/fd"
        try:
            return os.stat(directory).st_size or len(os.listdir(directory))
        except OSError:
            return self.last.open_files

    def _down(self, reason: str) -> None:
        self._over = True
        self.last = Figures(state=State.DOWN, reason=reason)
        self.close()

    def close(self) -> None:
        """Gives the descriptor back. Safe twice."""
        self._over = True
        stat, self._stat = self._stat, -1
        if stat >= 0:
            os.close(stat)


def _with_state(figures: Figures, state: str) -> Figures:
    reason = _STOPPED.get(state, "")
    return msgspec.structs.replace(figures, state=State.STOPPED if reason else State.UP, reason=reason)
