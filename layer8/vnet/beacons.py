"""Beacons on the LAN: a Vnet says on a multicast group where it is, and hears where others are.

    beacon (UDP)    version, fingerprint of the overlay, uuid, expires, port; and a proof of exactly that
    heard           another overlay, ourselves, whom we have a link with: nothing
                    proved to be of a Vnet of this overlay: its address is a hint, and dialled

A beacon is never more than a hint: who is dialled must prove itself like anybody else. A proof is looked at only within
limits, of each source and in all, since it costs more to check than to send; what is over them is dropped unread. IPv4
and IPv6, on every interface that there is at the time.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import logging
import random
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from layer8.protocol.statement import Channel, Purpose, Role, Statement
from layer8.rendezvous import split_address
from layer8.security.provider import SecurityProvider
from layer8.vnet.dialling import Address
from layer8.vnet.workers import Busy, Workers

EVERY_SECONDS = 5.0
FIRST_SECONDS = (0.0, 0.5, 1.0, 2.0)
GOOD_SECONDS = 60.0
CHECKS_PER_SECOND = 20  # of all sources
CHECKS_PER_SOURCE = 3
PACKET_BYTES = 4096

_VERSION = 1
_log = logging.getLogger("layer8.vnet")


class _Beacon(msgspec.Struct, frozen=True, array_like=True):
    version: int
    fingerprint: bytes
    vnet: UUID
    expires: float
    port: int
    proof: bytes = b""


_beacons = msgspec.msgpack.Decoder(_Beacon)
_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")


class Host(Protocol):
    """What beacons need of their Vnet."""

    provider: SecurityProvider
    providers: Workers
    overlay: str
    uuid: UUID


class Limits:
    """How many beacons may be looked at within a second. Sans-IO."""

    def __init__(self, *, of_all: int = CHECKS_PER_SECOND, of_source: int = CHECKS_PER_SOURCE) -> None:
        self._of_all = of_all
        self._of_source = of_source
        self._since = float("-inf")
        self._seen: collections.Counter[str] = collections.Counter()

    def take(self, source: str, now: float) -> bool:
        """Whether one more of this source may be looked at. `now`: seconds."""
        if now >= self._since + 1.0:
            self._since = now
            self._seen.clear()
        if self._seen.total() >= self._of_all or self._seen[source] >= self._of_source:
            return False
        self._seen[source] += 1
        return True


class Beacons:
    """One thread: the loop's. `open` raises OSError."""

    def __init__(
        self,
        host: Host,
        groups: Sequence[str],
        *,
        port: int,
        knows: Callable[[UUID], bool],
        hint: Callable[[Address], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`groups`: "group:port". `port`: where this Vnet listens. `knows(vnet)`: there is a link with it."""
        self._host = host
        self._groups = [split_address(group) for group in groups]
        self._port = port
        self._knows = knows
        self._hint = hint
        self._loop = loop
        self._limits = Limits()
        self._sockets: list[tuple[socket.socket, Address]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        try:
            for group in self._groups:
                listener = _listen(group)
                self._sockets.append((listener, group))
                self._loop.add_reader(listener.fileno(), self._heard, listener)
        except BaseException:
            self.close()
            raise
        self._start(self._send())

    def close(self) -> None:
        """Safe twice."""
        for task in self._tasks:
            task.cancel()
        for listener, _ in self._sockets:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._sockets.clear()

    def _start(self, work: collections.abc.Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _send(self) -> None:
        pauses = list(FIRST_SECONDS)
        while True:
            await asyncio.sleep((pauses.pop(0) if pauses else EVERY_SECONDS) * random.uniform(0.8, 1.2))
            try:
                packet = await self._host.providers.call(self._packet, timeout=2.0)
            except Exception as error:  # the provider's, too
                _log.debug("no beacon can be made: %r", error)
                continue
            for speaker, group in self._sockets:
                _shout(speaker, group, packet)

    def _packet(self) -> bytes:
        """In a worker thread."""
        beacon = _Beacon(
            _VERSION, self._host.provider.fingerprint(), self._host.uuid, time.time() + GOOD_SECONDS, self._port
        )
        proof = self._host.provider.prove(self._statement(beacon))
        return _encoder.encode(msgspec.structs.replace(beacon, proof=proof))

    def _statement(self, beacon: _Beacon) -> Statement:
        content = _encoder.encode(msgspec.structs.replace(beacon, proof=b""))
        return Statement(
            purpose=Purpose.LINK,
            prover_role=Role.VNET,
            overlay=self._host.overlay,
            audience="beacon",
            digest=hashlib.sha256(b"layer8 beacon 1\0" + content).digest(),
            expires=beacon.expires,
        )

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _heard(self, listener: socket.socket) -> None:
        for _ in range(64):
            try:
                packet, source = listener.recvfrom(PACKET_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return
            self._look(packet, source)

    def _look(self, packet: bytes, source: tuple[str | int, ...]) -> None:
        try:
            beacon = _beacons.decode(packet)
            ours = self._host.provider.fingerprint()
        except Exception:  # garbage, or the provider's
            return
        if beacon.version != _VERSION or beacon.fingerprint != ours or not 0 < beacon.port < 65536:
            return
        if beacon.vnet == self._host.uuid or self._knows(beacon.vnet):
            return
        if self._limits.take(str(source[0]), self._loop.time()):
            self._start(self._check(beacon, source))

    async def _check(self, beacon: _Beacon, source: tuple[str | int, ...]) -> None:
        text = f"a beacon from {source[0]}"
        try:
            statement = self._statement(beacon)
            seen = Channel(text=text)
            await self._host.providers.call(self._host.provider.verify, beacon.proof, statement, seen, timeout=2.0)
        except (TimeoutError, Busy):
            return
        except Exception as error:
            _log.debug("%s is not believed: %r", text, error)
            return
        self._hint((_with_scope(source), beacon.port))


def _with_scope(source: tuple[str | int, ...]) -> str:
    """A link-local address is one only together with its interface."""
    host = str(source[0])
    scope = source[3] if len(source) > 3 else 0
    return f"{host}%{scope}" if scope and "%" not in host and host.startswith("fe80") else host


def _listen(group: Address) -> socket.socket:
    host, port = group
    is_v6 = ":" in host
    listener = socket.socket(
        socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_v6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # To the group, so that what is sent to us alone does not come here; a link-local one would need an interface.
        listener.bind(("::" if is_v6 else host, port))
        _join(listener, host, is_v6)
    except OSError as error:
        listener.close()
        raise OSError(f"no beacons on {host}: {error.strerror or error}") from error
    return listener


def _join(listener: socket.socket, host: str, is_v6: bool) -> None:
    """On every interface; those where it cannot be, or is already, do not matter."""
    for index, _ in socket.if_nameindex():
        with contextlib.suppress(OSError):
            if is_v6:
                request = socket.inet_pton(socket.AF_INET6, host.partition("%")[0]) + struct.pack("@I", index)
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
            else:
                request = socket.inet_aton(host) + bytes(4) + struct.pack("@i", index)
                listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def _shout(speaker: socket.socket, group: Address, packet: bytes) -> None:
    host, port = group
    is_v6 = ":" in host
    _join(speaker, host, is_v6)  # interfaces come and go
    for index, _ in socket.if_nameindex():
        with contextlib.suppress(OSError):
            if is_v6:
                speaker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
                speaker.sendto(packet, (host, port, 0, index))
            else:
                speaker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + struct.pack("@i", index))
                speaker.sendto(packet, (host, port))
