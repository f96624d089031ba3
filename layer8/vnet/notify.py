"""What a service manager is told: ready, reloading, stopping, and that the loop still turns (sd_notify(3)).

Without $NOTIFY_SOCKET there is nobody to tell. The variables are taken out of the environment: children are not the
service.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping

_LEAST_SECONDS = 0.01


class Notifier:
    """`watchdog_seconds`: how often the manager wants to hear, 0.0 never. One thread."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        self.watchdog_seconds = int(usec) / 1e6 if self._address and ours and usec.isdecimal() else 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_well: Callable[[], bool] = lambda: True

    def ready(self, status: str) -> None:
        self._say(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        """`ready` says when it is over."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._say("STOPPING=1\nSTATUS=stopping")

    def watch(self, loop: asyncio.AbstractEventLoop, is_well: Callable[[], bool]) -> None:
        """From now on the manager hears from us in time, as long as the loop turns and `is_well`."""
        self._is_well = is_well
        if self.watchdog_seconds:
            self._pet(loop)

    def _pet(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_well():
            self._say("WATCHDOG=1")
        self._timer = loop.call_later(max(self.watchdog_seconds / 3, _LEAST_SECONDS), self._pet, loop)

    def close(self) -> None:
        """Safe twice."""
        if self._timer is not None:
            self._timer.cancel()

    def _say(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with (
            contextlib.suppress(OSError),  # the manager has gone, or does not read: never a reason to stop
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as to,
        ):
            to.sendto(text.encode(), address)
