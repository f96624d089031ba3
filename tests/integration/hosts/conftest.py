"""Several Vnets of one overlay, each in a process of its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from layer8 import Vnic
from layer8.testing import Overlay, RunningVnet, make_overlay, running_vnet
from layer8.vnet.status import StatusReader
from layer8.vnic.control import ControlClient

PATIENCE = 60.0


class Hosts:
    """An overlay, its Vnets by name, and Vnics on them; all closed at the end."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        directory.mkdir(exist_ok=True)
        self.overlay: Overlay = make_overlay(directory, "shop")
        self.vnets: dict[str, RunningVnet] = {}
        self._stack = stack

    def vnet(self, name: str, *, peers: tuple[str, ...] = (), **settings: Any) -> RunningVnet:
        """A Vnet called `name`, that dials the Vnets of these names (or addresses)."""
        config: Mapping[str, object] = {
            "security": "x509",
            "identity": self.overlay.vnet(name),
            "host": name,
            "listen": "127.0.0.1:0",
            "peers": [self.address(peer) if peer in self.vnets else peer for peer in peers],
            **settings,
        }
        vnet = self._stack.enter_context(running_vnet(config=config))
        self.vnets[name] = vnet
        return vnet

    def mesh(self, *names: str, **settings: Any) -> None:
        """Vnets of these names, each dialling those before it."""
        for number, name in enumerate(names):
            self.vnet(name, peers=names[:number], **settings)
        # Each knows all before anything is asked of it.
        for name in names:
            self.until_sees(name, kind="vnet", count=len(names))

    def until_sees(self, name: str, *, count: int, **filters: str) -> None:
        """Until the Vnet `name` knows so many records."""
        security = f"x509:{self.overlay.vnic()}"
        looker = ControlClient(str(self.vnets[name].socket), security=security, attach_timeout=30.0)
        try:
            until(lambda: len(looker.health(**filters)) == count, f"{name} sees {count} of {filters}")
        finally:
            looker.close()

    def address(self, name: str) -> str:
        """Where this Vnet listens for others, "host:port"."""
        reader = StatusReader(self.vnets[name].socket)
        try:
            return reader.snapshot().listen[0]
        finally:
            reader.close()

    def vnic(self, host: str, alias: str | None = None, **arguments: Any) -> Vnic:
        """A Vnic on this host; whoever makes it closes it, or the end of the test."""
        vnic = Vnic(
            alias,
            vnet=str(self.vnets[host].socket),
            security=f"x509:{self.overlay.vnic()}",
            attach_timeout=30.0,
            **arguments,
        )
        self._stack.callback(vnic.close)
        return vnic


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for something that nothing announces."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield Hosts(tmp_path, stack)


@pytest.fixture
def other_hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Of another authority, under the same name."""
    with ExitStack() as stack:
        yield Hosts(tmp_path / "other", stack)


@pytest.fixture(name="until")
def until_fixture() -> Callable[[Callable[[], object], str], None]:
    return until


@pytest.fixture
def silent_listener() -> Iterator[str]:
    """An address where connections are taken and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
