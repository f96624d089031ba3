"""A Vnet's side of the network: everything of it that reaches beyond this host, opened and closed as one.

    TLS port ──▶ links ◀── dialling ◀── names, what adjacent Vnets mention
                   └── sessions, the directory of the overlay, and what records from and to other hosts mean (`far`)

A Vnet that is told no `listen` and no `peers` has none of it, and needs no provider that could.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from layer8.health.directory import Directory
from layer8.health_record import HealthRecord
from layer8.protocol.link import Self
from layer8.protocol.link_messages import Fresh, Reach
from layer8.rendezvous import split_address
from layer8.vnet import far_vnics
from layer8.vnet import links as links_module
from layer8.vnet.acquaintances import Acquaintances
from layer8.vnet.beacons import Beacons
from layer8.vnet.dialling import Dialling
from layer8.vnet.discovery import Names, mentioned
from layer8.vnet.far import Far
from layer8.vnet.far_vnics import FarVnics
from layer8.vnet.links import Links
from layer8.vnet.returns import Returns
from layer8.vnet.tls_port import ALPN_LINK, ALPN_VNIC, TlsPort, spelled

_FRESH_SECONDS = 1.0
_MOST_MENTIONED = 64


class Beyond(links_module.Host, far_vnics.Host, Protocol):
    """What the network needs of its Vnet."""

    started: float
    directory: Directory
    returns: Returns


class Network:
    """One thread: the loop's. Handlers are mounted on `port` before `open`."""

    def __init__(self, vnet: Beyond, acquaintances: Acquaintances, loop: asyncio.AbstractEventLoop) -> None:
        self._vnet = vnet
        self._loop = loop
        self.acquaintances = acquaintances
        self.port = TlsPort(vnet, loop)
        self.far_vnics = FarVnics(vnet, loop)
        self.port.mount(ALPN_VNIC, self.far_vnics.accept)
        self.far = Far(vnet, vnet.config.max_far, loop)
        self.links = Links(vnet, self._own, self.far, loop)
        self.dialling = Dialling(self.links, loop)
        self._names: Names | None = None
        self._beacons: Beacons | None = None
        self._fresh_at = float("-inf")
        self._closed = False
        self.port.mount(ALPN_LINK, self.links.accept)
        self.links.on_session = self._session
        self.links.on_state = self._knows
        self.far.on_stated(self._knows)
        vnet.health.links = self.links.records
        self.far.directory = directory = self.links.directory
        self.far.violated = self._violated
        directory.came = self._came
        directory.went = self.far.went
        self._take_back: Callable[[], None] = lambda: None
        self.links.on_reach = self._mentioned

    def open(self) -> None:
        """Raises OSError, and then holds nothing."""
        config = self._vnet.config
        if config.listen:
            self.port.open(config.listen)
        if config.beacons and not config.listen:
            raise OSError("`beacons` say where this Vnet listens: it needs `listen`")
        if config.beacons:
            port = self.port.addresses[0][1]
            knows, hint = self.links.sessions.is_live, self.dialling.hint
            self._beacons = Beacons(self._vnet, config.beacons, port=port, knows=knows, hint=hint, loop=self._loop)
            self._beacons.open()

    def start(self) -> None:
        """When the Vnet is complete: looks for others."""
        config = self._vnet.config
        if config.listen or config.peers:
            self.acquaintances.write()
            self._take_back = self._vnet.provider.watch(self._policy_changed)
        self._names = Names(config.peers, self.dialling, self._loop, interval=config.resolve_interval)

    @property
    def listens(self) -> tuple[str, ...]:
        """Where others reach this Vnet, "host:port"."""
        return tuple(map(spelled, self.port.addresses))

    @property
    def reach(self) -> tuple[str, ...]:
        """Where others shall dial: as configured, else where it listens, unless that is every address."""
        if self._vnet.config.advertise:
            return self._vnet.config.advertise
        return tuple(address for address in self.listens if not ipaddress.ip_address(_host(address)).is_unspecified)

    def _own(self) -> Self:
        vnet = self._vnet
        name, host = vnet.config.name, vnet.health.host
        return Self(overlay=vnet.overlay, vnet=vnet.uuid, epoch=vnet.epoch, name=name, host=host, reach=self.reach[:8])

    def want_fresh(self) -> None:
        """Somebody here wants to see figures: the others are asked for theirs, at most once a second."""
        if self._loop.time() >= self._fresh_at + _FRESH_SECONDS:
            self._fresh_at = self._loop.time()
            self.links.tell(Fresh())

    def complete(self) -> None:
        """Whoever was awaited here is back, or has had their time; other Vnets perhaps not. Safe twice."""
        self.far.complete()

    def moving(self) -> None:
        """Records may come. After `complete`."""
        self.acquaintances.await_no_longer()
        self.links.open()

    def _came(self, record: HealthRecord) -> None:
        self.far.came(record)
        self._vnet.returns.arrived(str(record.uuid))
        if record.alias is not None:
            self._vnet.returns.arrived(record.alias)

    def _knows(self, vnet: UUID) -> None:
        """The whole part of an adjacent Vnet has come, or what it subscribes to."""
        adjacent = self.links.adjacent.get(vnet)
        if adjacent is not None and adjacent.has_state and self.far.has_stated(vnet):
            self._vnet.returns.vnet_is_back(vnet)

    def _violated(self, vnet: UUID, reason: str) -> None:
        adjacent = self.links.adjacent.get(vnet)
        if adjacent is not None:
            self.links.violated(adjacent, reason)

    def _policy_changed(self) -> None:
        """In any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._ask_anew)

    def _ask_anew(self) -> None:
        if not self._closed:
            for vnet, reason in self.links.directory.policy_changed():
                self.links.refuse(vnet, "not-authorized", reason)
            self.far.policy_changed()

    def _session(self, vnet: UUID, there: bool) -> None:
        if there:
            self.acquaintances.add(vnet)
            self._loop.call_soon(self._introduce, vnet)
        elif not self._closed:
            self.acquaintances.remove(vnet)
        self._vnet.health.put_own_record()

    def _introduce(self, newcomer: UUID) -> None:
        """Tells the others where the newcomer is, and the newcomer where they are."""
        reach = {
            vnet: adjacent.hello.reach for vnet, adjacent in self.links.adjacent.items() if adjacent.hello is not None
        }
        if newcomer in reach and len(reach) > 1:
            for vnet, adjacent in self.links.adjacent.items():
                if vnet != newcomer and reach[newcomer]:
                    adjacent.say(Reach(addresses=reach[newcomer]))
            others = [address for vnet, addresses in reach.items() if vnet != newcomer for address in addresses]
            self.links.introduce(newcomer, Reach(addresses=tuple(others[:_MOST_MENTIONED])))

    def _mentioned(self, addresses: Sequence[str]) -> None:
        for address in mentioned(addresses):
            if spelled(address) not in self.listens:
                self.dialling.hint(address)

    def stop_listening(self) -> None:
        """The Vnet stops. Safe twice."""
        if self._beacons is not None:
            self._beacons.close()
        self.port.close()

    async def close(self, *, forget: bool = False) -> None:
        """Nothing is left of it. `forget`: nobody will come back to this Vnet. Safe twice."""
        self._closed = True
        with contextlib.suppress(Exception):
            self._take_back()
        if self._names is not None:
            self._names.close()
        self.port.close()
        await self.far_vnics.close()
        await self.dialling.close()
        await self.links.close()
        self.acquaintances.close(forget=forget)


def _host(address: str) -> str:
    return split_address(address)[0].partition("%")[0]
