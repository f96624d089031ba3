"""The processes of those who are awaited after a Vnet's death: whoever dies is awaited no longer, even if the others
have gone on without it. Of a process that cannot be seen from here the time tells."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from layer8.vnet.roster import UNSEEN_SECONDS, Entry, Roster, is_same_process

_MOST = 1024  # processes that are watched at a time, one descriptor each
_SOONEST = 1.0  # seconds between two looks at the time


class AwaitedProcesses:
    """Watches until `close`. `died(entry)`: its process has ended; it is out of the list. One thread, the loop's."""

    def __init__(self, roster: Roster, loop: asyncio.AbstractEventLoop, died: Callable[[Entry], None]) -> None:
        self._roster = roster
        self._loop = loop
        self._died = died
        self._watched: dict[int, int] = {}  # pidfd by pid
        self._unwatched = False  # there were too many
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Begins with all that are awaited now."""
        self._watch_more()
        self._look_at_time()

    def _watch_more(self) -> None:
        entries = {entry.pid: entry for entry in self._roster.awaited.values() if entry.pid > 0}
        self._unwatched = False
        for pid, entry in entries.items():
            if pid in self._watched:
                continue
            if len(self._watched) == _MOST:
                self._unwatched = True
                return
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._give_up(pid)
                continue
            except OSError:  # no descriptors, or no pidfds here
                self._unwatched = True
                return
            self._watched[pid] = pidfd
            self._loop.add_reader(pidfd, self._ended, pid)
            if not is_same_process(entry, pid):  # looked at with the descriptor in hand
                self._forget(pid)
                self._give_up(pid)

    def back(self, pid: int) -> None:
        """One of this process has come back: when all have, it is watched no longer here."""
        if pid in self._watched and all(entry.pid != pid for entry in self._roster.awaited.values()):
            self._forget(pid)
            if self._unwatched:
                self._watch_more()

    def _ended(self, pid: int) -> None:
        self._forget(pid)
        self._give_up(pid)
        if self._unwatched:
            self._watch_more()

    def _give_up(self, pid: int) -> None:
        for entry in [entry for entry in self._roster.awaited.values() if entry.pid == pid]:
            self._roster.give_up(entry.uuid)
            self._died(entry)

    def _look_at_time(self) -> None:
        """Gives up those who cannot be seen when they have been awaited for long enough."""
        now = time.time()
        unseen = [entry for entry in self._roster.awaited.values() if entry.pid <= 0]
        late = [entry for entry in unseen if now - entry.awaited_since >= UNSEEN_SECONDS]
        for entry in late:
            self._roster.give_up(entry.uuid)
            self._died(entry)
        if len(late) < len(unseen):
            first = min(entry.awaited_since for entry in unseen if entry not in late)
            self._timer = self._loop.call_later(max(_SOONEST, first + UNSEEN_SECONDS - now), self._look_at_time)

    def _forget(self, pid: int) -> None:
        pidfd = self._watched.pop(pid, -1)
        if pidfd >= 0:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)

    def close(self) -> None:
        """Nobody is awaited any more. Safe twice."""
        if self._timer is not None:
            self._timer.cancel()
        for pid in list(self._watched):
            self._forget(pid)
