"""A Vnet's side of the network: everything of it that reaches beyond this host, opened and closed as one.

A Vnet that is told no `listen` has none of it, and needs no provider that could.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from layer8.vnet import far_vnics
from layer8.vnet.far_vnics import FarVnics
from layer8.vnet.tls_port import ALPN_VNIC, Host, TlsPort, spelled


class Beyond(Host, far_vnics.Host, Protocol):
    """What the network needs of its Vnet."""


class Network:
    """One thread: the loop's. Handlers are mounted on `port` before `open`."""

    def __init__(self, vnet: Beyond, loop: asyncio.AbstractEventLoop) -> None:
        self._vnet = vnet
        self.port = TlsPort(vnet, loop)
        self.far_vnics = FarVnics(vnet, loop)
        self.port.mount(ALPN_VNIC, self.far_vnics.accept)

    def open(self) -> None:
        """Raises OSError, and then holds nothing."""
        if self._vnet.config.listen:
            self.port.open(self._vnet.config.listen)

    @property
    def listens(self) -> tuple[str, ...]:
        """Where others reach this Vnet, "host:port"."""
        return tuple(map(spelled, self.port.addresses))

    def stop_listening(self) -> None:
        """The Vnet stops. Safe twice."""
        self.port.close()

    async def close(self) -> None:
        """Nothing is left of it. Safe twice."""
        self.port.close()
        await self.far_vnics.close()
