"""Several Vnets of one overlay, each in a process of its own, on a network that can be cut.

Where network namespaces can be made each Vnet has one of its own, with an address on a bridge; else each has a loopback
address of its own, and what needs a cut goes through a proxy of ours. Everything is inside namespaces of our making.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
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

from .networks import NAMESPACES, Loopback, Namespaces

PATIENCE = 60.0
PROGRAMS = Path(__file__).parent / "programs"


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for something that nothing announces."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


# ── Vnets ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Hosts:
    """An overlay, its Vnets by name, and Vnics on them; all closed at the end."""

    def __init__(self, directory: Path, stack: ExitStack, network: Loopback | Namespaces) -> None:
        directory.mkdir(exist_ok=True)
        self.overlay: Overlay = make_overlay(directory, "shop")
        self.network: Any = network
        self.vnets: dict[str, RunningVnet] = {}
        self._stack = stack

    def vnet(self, name: str, *, peers: tuple[str, ...] = (), **settings: Any) -> RunningVnet:
        """A Vnet called `name`, that dials the Vnets of these names (or addresses)."""
        listen, launcher = self.network.join(name)
        config: Mapping[str, object] = {
            "security": "x509",
            "identity": self.overlay.vnet(name),
            "host": name,
            "listen": listen,
            "peers": [self.address(peer) if peer in self.vnets else peer for peer in peers],
            **settings,
        }
        vnet = self._stack.enter_context(running_vnet(config=config, launcher=launcher))
        self._stack.callback(_stops_cleanly, vnet)
        self.vnets[name] = vnet
        return vnet

    def mesh(self, *names: str, **settings: Any) -> None:
        """Vnets of these names, each dialling those before it."""
        for number, name in enumerate(names):
            self.vnet(name, peers=names[:number], **settings)
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
        security = f"x509:{self.overlay.vnic()}"
        vnic = Vnic(alias, vnet=str(self.vnets[host].socket), security=security, attach_timeout=30.0, **arguments)
        self._stack.callback(vnic.close)
        return vnic


def _stops_cleanly(vnet: RunningVnet) -> None:
    """Whatever the test did with it; unless it was killed."""
    status = vnet.stop()
    assert status in (0, None, -signal.SIGKILL), f"exit status {status}:\n{vnet.log}"


@pytest.fixture
def network() -> Iterator[Loopback | Namespaces]:
    network = Namespaces() if NAMESPACES else Loopback()
    yield network
    network.close()


@pytest.fixture
def hosts(tmp_path: Path, network: Loopback | Namespaces) -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield Hosts(tmp_path / "shop", stack, network)


@pytest.fixture
def near_hosts(tmp_path: Path) -> Iterator[Hosts]:
    """On loopback addresses in any case: what a proxy of ours stands between."""
    with ExitStack() as stack:
        yield Hosts(tmp_path / "near", stack, Loopback())


@pytest.fixture
def other_hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Of another authority, under the same name; on loopback addresses too."""
    with ExitStack() as stack:
        yield Hosts(tmp_path / "other", stack, Loopback())


@pytest.fixture(name="until")
def until_fixture() -> Callable[[Callable[[], object], str], None]:
    return until


# ── what stands between ───────────────────────────────────────────────────────────────────────────────────────────────


class Between:
    """A TCP proxy to one address. Connections can be cut after so many bytes, stopped, and delayed."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._closed = False
        self.bytes = 0  # that have passed, both ways
        self.cuts = 0
        self.cut_at: int | None = None  # when so many have passed, the connection is cut
        self.stopped: set[str] = set()  # "up" to the target, "down" from it: what is read there goes nowhere
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def cut(self) -> None:
        """Ends all connections with a reset, whatever is on its way."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self.cuts += bool(pairs)
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join(10)

    def _serve(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, 10)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._pairs.append((near, far))
            threading.Thread(target=self._carry, args=(near, far, "up"), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, "down"), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        try:
            while data := source.recv(65536):
                if way in self.stopped:
                    continue
                self.bytes += len(data)
                if self.cut_at is not None and self.bytes >= self.cut_at:
                    keep = len(data) - (self.bytes - self.cut_at)
                    self.cut_at = None
                    sink.sendall(data[: max(keep, 0)])
                    self.cut()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except (OSError, ValueError):
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def between() -> Iterator[Callable[[str], Between]]:
    with ExitStack() as stack:

        def between(target: str) -> Between:
            made = Between(target)
            stack.callback(made.close)
            return made

        yield between


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


# ── Vnics in processes of their own ───────────────────────────────────────────────────────────────────────────────────


class Program:
    """A program of `programs/` on one of the hosts. It speaks in lines."""

    def __init__(self, hosts: Hosts, host: str, name: str, *arguments: str) -> None:
        environ = hosts.vnets[host].environ | {"LAYER8_IDENTITY": hosts.overlay.vnic()}
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / f"{name}.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        self.uuid = self.until("up")

    def until(self, word: str) -> str:
        """What follows this word in the next line that begins with it; "back" in one before is a failure."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            first, _, rest = line.strip().partition(" ")
            if first == word:
                return rest
            assert first != "back", line
        raise AssertionError(f"{self.process.args!r} has ended")

    def tell(self) -> None:
        """A line."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ask(self, word: str) -> str:
        self.tell()
        return self.until(word)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., Program]]:
    """Starts `programs/NAME.py` on a host of these hosts, and returns when it is up."""
    running: list[Program] = []

    def spawn(hosts: Hosts, host: str, name: str, *arguments: object) -> Program:
        running.append(Program(hosts, host, name, *map(str, arguments)))
        return running[-1]

    yield spawn
    for program in running:
        program.kill()
