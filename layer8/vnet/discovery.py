"""Where other Vnets are: from the configuration, from names, from what adjacent Vnets say, from beacons on the LAN.

    peers = ["10.0.0.7:8808", "vnets.example:8808"]     every name with all its addresses, looked up again and again
    Reach                                               of an adjacent Vnet: with whom it has links; a hint

Everything here only ever leads to dialling: who answers must prove itself like anybody else. Every name is looked up
for itself in a thread of a pool, so one whose servers do not answer delays no other.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Sequence

from layer8.rendezvous import split_address
from layer8.vnet.dialling import Address, Dialling
from layer8.vnet.workers import Busy, Workers

RESOLVE_TIMEOUT = 15.0
_RESOLVERS = 16
_MOST_ADDRESSES = 512  # of one name

_log = logging.getLogger("layer8.vnet")


class Names:
    """Keeps `dialling` told of all addresses of every one of `peers`. One thread: the loop's."""

    def __init__(
        self, peers: Sequence[str], dialling: Dialling, loop: asyncio.AbstractEventLoop, *, interval: float
    ) -> None:
        """`interval`: seconds between two look-ups of a name."""
        self._dialling = dialling
        self._interval = interval
        self._workers = Workers("resolve", _RESOLVERS, loop)
        self._tasks = [loop.create_task(self._follow(peer)) for peer in peers]

    async def _follow(self, peer: str) -> None:
        host, port = split_address(peer)
        numeric = _is_numeric(host)
        complained = False
        while True:
            try:
                found = await self._workers.call(_look_up, host, port, timeout=RESOLVE_TIMEOUT)
            except (OSError, Busy, UnicodeError) as error:
                if not complained:
                    complained = True
                    text = getattr(error, "strerror", None) or str(error) or "no answer in time"
                    _log.warning("the peer %s cannot be looked up: %s", peer, text)
            else:
                complained = False
                self._dialling.want(f"peer {peer}", found)
                if numeric:
                    return
            await asyncio.sleep(self._interval * random.uniform(0.8, 1.2))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._workers.close()


def _look_up(host: str, port: int) -> list[Address]:
    """In a worker thread."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [_address(place) for *_, place in found[:_MOST_ADDRESSES]]


def _address(place: tuple[str | int, ...] | tuple[int, bytes]) -> Address:
    return str(place[0]), int(place[1])


def _is_numeric(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except OSError:
            continue
        return True
    return False


def mentioned(addresses: Sequence[str]) -> list[Address]:
    """The usable ones of what another Vnet says: numeric, with a port."""
    found = []
    for text in addresses[:64]:
        try:
            host, port = split_address(text[:128])
        except ValueError:
            continue
        if host and port and _is_numeric(host):
            found.append((host, port))
    return found
