"""Connections that have said nothing yet: cheap to keep, and the first to go when room is short.

Whoever means to attach speaks at once, so silence costs nobody a place at the desk. The oldest silent connection of a
user makes room for that user's next one; the oldest of all does when the process runs out of descriptors.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import socket
from collections.abc import Callable

from layer8.protocol.codec import encode
from layer8.protocol.control import Refused
from layer8.vnet.config import VnetConfig

_SPARE = 8  # descriptors that silence may not take: an attach needs four


def turn_away(connection: socket.socket, text: str) -> None:
    """Says why, as far as the socket takes it, and closes."""
    with contextlib.suppress(OSError):
        connection.send(encode(Refused(code="limit", text=text)), socket.MSG_NOSIGNAL)
    connection.close()


class Lobby:
    """`speaks(connection, uid, since)` gets a connection when it has said something. One thread."""

    def __init__(
        self, config: VnetConfig, loop: asyncio.AbstractEventLoop, speaks: Callable[[socket.socket, int, float], None]
    ) -> None:
        self._config = config
        self._loop = loop
        self._speaks = speaks
        self._silent: dict[socket.socket, tuple[int, float]] = {}  # oldest first: uid, since
        self._of_uid: collections.defaultdict[int, dict[socket.socket, None]] = collections.defaultdict(dict)
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._silent)

    def enter(self, connection: socket.socket, uid: int) -> None:
        """Keeps a connection until it speaks, is silent for too long, or must make room."""
        mine = self._of_uid[uid]
        if len(mine) >= self._config.silent_per_uid:
            self._evict(next(iter(mine)), "too many connections of this user that say nothing")
        self._silent[connection] = uid, self._loop.time()
        self._of_uid[uid][connection] = None
        self._loop.add_reader(connection.fileno(), self._readable, connection)
        self._set_timer()

    def evict_oldest(self, text: str) -> bool:
        """Ends the connection that has been silent the longest; False when there is none."""
        if not self._silent:
            return False
        self._evict(next(iter(self._silent)), text)
        return True

    def _evict(self, connection: socket.socket, text: str) -> None:
        self._leave(connection)
        turn_away(connection, text)

    def _readable(self, connection: socket.socket) -> None:
        uid, since = self._leave(connection)
        while self._silent and not _are_free(_SPARE, connection.fileno()):
            self.evict_oldest("this Vnet needs the room")
        self._speaks(connection, uid, since)

    def _leave(self, connection: socket.socket) -> tuple[int, float]:
        self._loop.remove_reader(connection.fileno())
        uid, since = self._silent.pop(connection)
        del self._of_uid[uid][connection]
        if not self._of_uid[uid]:
            del self._of_uid[uid]
        return uid, since

    def _set_timer(self) -> None:
        if self._timer is None and self._silent:
            _, since = next(iter(self._silent.values()))
            self._timer = self._loop.call_at(since + self._config.attach_timeout, self._expire)

    def _expire(self) -> None:
        self._timer = None
        before = self._loop.time() - self._config.attach_timeout
        while self._silent and next(iter(self._silent.values()))[1] <= before:
            self.evict_oldest(f"the attach took longer than {self._config.attach_timeout:g} s")
        self._set_timer()

    def close(self) -> None:
        """The Vnet stops: closes all."""
        while self._silent:
            connection = next(iter(self._silent))
            self._leave(connection)
            connection.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _are_free(count: int, descriptor: int) -> bool:
    """Whether so many descriptors can still be made. Only trying tells: the kernel gives nobody the number."""
    made = []
    try:
        for _ in range(count):
            made.append(os.dup(descriptor))
    except OSError:
        return False
    finally:
        for copy in made:
            os.close(copy)
    return True
