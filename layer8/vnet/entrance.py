"""Where connections come in: accepted, silent in the lobby until they speak, then handed to an admission each.

Whatever a Vnet runs short of here (descriptors, places of an owner) is said to whoever comes, as far as that is
possible, and costs nobody who is attached anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Protocol

from layer8.health.liveness import peer_credentials
from layer8.security.provider import Action
from layer8.vnet.accounts import Accounts, Owner
from layer8.vnet.admission import Admission, Desk
from layer8.vnet.complaints import Complaints
from layer8.vnet.far_vnics import FarSession
from layer8.vnet.guard import Guard
from layer8.vnet.lobby import Lobby, turn_away
from layer8.vnet.place import Place
from layer8.vnet.refusal import Refusal
from layer8.vnet.returning import LONGEST_SECONDS

_ACCEPTED_AT_ONCE = 32
_RETRY_SECONDS = 0.1  # after accepting has failed


class House(Desk, Protocol):
    """The Vnet, as far as its entrance goes."""

    guard: Guard
    place: Place


class Entrance:
    """One a Vnet, in the loop's thread. `is_awaiting`: whether Vnics of an earlier Vnet come back all at once.

    `admissions`: who is on the way in; `left` takes one out.
    """

    def __init__(
        self,
        house: House,
        loop: asyncio.AbstractEventLoop,
        complaints: Complaints,
        *,
        is_awaiting: Callable[[], bool],
    ) -> None:
        self._house = house
        self._loop = loop
        self._complaints = complaints
        self._is_awaiting = is_awaiting
        self._accounts: Accounts = house.accounts
        self._lobby = Lobby(house.config, loop, self._speaks)
        self.admissions: set[Admission] = set()
        self._reserve = -1  # a descriptor to give up when there is no other

    def prepare(self) -> None:
        """Keeps a descriptor back. Raises OSError."""
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def open(self) -> None:
        """Accepts from now on."""
        self._set_accepting(True)

    def shut(self) -> None:
        """Accepts no longer; before the listener is closed."""
        self._set_accepting(False)

    def empty(self) -> None:
        """Sends away who is not attached yet."""
        self._lobby.close()
        for admission in tuple(self.admissions):
            admission.close()

    async def emptied(self) -> None:
        """Until the last admission has ended."""
        for admission in tuple(self.admissions):
            await asyncio.wait([admission.task])

    def close(self) -> None:
        """Safe twice."""
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def left(self, admission: Admission) -> None:
        if admission in self.admissions:
            self.admissions.remove(admission)
            self._accounts.give_pending(admission.owner)

    def far_speaks(self, connection: socket.socket, far: FarSession) -> None:
        """A Vnic of another host, by the carrier that plays it here."""
        connection.setblocking(False)
        if self._house.stopping:
            turn_away(connection, "this Vnet is stopping")
        else:
            self._speaks(connection, far.account, self._loop.time(), far)

    def _set_accepting(self, wanted: bool) -> None:
        listener = self._house.place.listener
        if listener is None:
            return
        if wanted and not self._house.stopping:
            self._loop.add_reader(listener.fileno(), self._acceptable)
        else:
            self._loop.remove_reader(listener.fileno())

    def _acceptable(self) -> None:
        listener = self._house.place.listener
        for _ in range(_ACCEPTED_AT_ONCE):
            if listener is None:
                return
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._cannot_accept(listener, error)
                return
            self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._lobby.enter(connection, peer_credentials(connection).uid)

    def _speaks(self, connection: socket.socket, owner: Owner, since: float, far: FarSession | None = None) -> None:
        try:
            self._accounts.take_pending(owner, len(self._house.roster.awaited))
        except Refusal as refusal:
            self._turn_away(connection, refusal.text)
            return
        try:
            if self._is_awaiting():
                since = self._loop.time() + LONGEST_SECONDS  # all come at once, and none is to lose its place by that
            self.admissions.add(Admission(self._house, connection, owner, since, self._loop, far))
        except OSError as error:
            self._accounts.give_pending(owner)
            if isinstance(error, ProcessLookupError):
                connection.close()  # it has died
            else:
                self._turn_away(connection, f"this Vnet has no room for a connection: {error.strerror}")

    def _turn_away(self, connection: socket.socket, text: str) -> None:
        house = self._house
        self._complaints.warn("turned away", "Vnet %s turned a connection away: %s", house.config.name, text)
        house.guard.audit("refuse", action=Action.ATTACH, allowed=False, reason=text)
        turn_away(connection, text)

    def _cannot_accept(self, listener: socket.socket, error: OSError) -> None:
        """Out of descriptors, most likely: the reserve lets us say so to one of those who wait, then we pause."""
        name = self._house.config.name
        self._complaints.warn("accept", "Vnet %s cannot accept: %s; raise ulimit -n", name, error.strerror)
        if error.errno in (errno.EMFILE, errno.ENFILE) and self._lobby.evict_oldest("this Vnet needs the room"):
            return
        if error.errno in (errno.EMFILE, errno.ENFILE) and self._reserve >= 0:
            self.close()
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                connection.setblocking(False)
                self._turn_away(connection, "this Vnet is out of file descriptors; raise its limit (ulimit -n)")
            with contextlib.suppress(OSError):
                self.prepare()
        self._set_accepting(False)
        self._loop.call_later(_RETRY_SECONDS, self._set_accepting, True)
