"""The processes of those who are awaited after a Vnet's death: whoever dies meanwhile is awaited no longer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from layer8.vnet.roster import Entry, Roster, is_same_process

_MOST = 1024  # processes that are watched, one descriptor each; of the others the time tells


class AwaitedProcesses:
    """Watches until `close`. `died(entry)`: its process has ended; it is out of the list. One thread, the loop's."""

    def __init__(self, roster: Roster, loop: asyncio.AbstractEventLoop, died: Callable[[Entry], None]) -> None:
        self._roster = roster
        self._loop = loop
        self._died = died
        self._watched: dict[int, int] = {}  # pidfd by pid

    def watch(self) -> None:
        """Begins with all that are awaited now."""
        entries = {entry.pid: entry for entry in self._roster.awaited.values() if entry.pid > 0}
        for pid, entry in list(entries.items())[:_MOST]:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._ended(pid)
                continue
            except OSError:  # no descriptors, or no pidfds here
                return
            self._watched[pid] = pidfd
            self._loop.add_reader(pidfd, self._ended, pid)
            if not is_same_process(entry, pid):  # looked at with the descriptor in hand
                self._ended(pid)

    def _ended(self, pid: int) -> None:
        self._forget(pid)
        for entry in [entry for entry in self._roster.awaited.values() if entry.pid == pid]:
            self._roster.give_up(entry.uuid)
            self._died(entry)

    def _forget(self, pid: int) -> None:
        pidfd = self._watched.pop(pid, -1)
        if pidfd >= 0:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)

    def close(self) -> None:
        """Nobody is awaited any more. Safe twice."""
        for pid in list(self._watched):
            self._forget(pid)
