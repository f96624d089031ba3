"""A Vnet for the tests of one file, and Vnics that are closed whatever happens.

What a Vnic does is the same on its Vnet's host and without one: the files in `BOTH` run over a Unix socket and TLS.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from layer8 import Backpressure, Vnic
from layer8.testing import Overlay, RunningVnet, make_overlay, running_vnet

BOTH = (
    "test_closing_in_traffic",
    "test_health",
    "test_interrupts",
    "test_many_large",
    "test_reattaching",
    "test_receiving",
    "test_requests",
    "test_sending",
    "test_subscriptions",
    "test_watch",
)

Fill = Callable[..., int]
Stopped = Callable[[int | None], contextlib.AbstractContextManager[None]]
MakeVnic = Callable[..., Vnic]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAYER8_VNET", "XDG_RUNTIME_DIR"):
        if name in os.environ:
            monkeypatch.delenv(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in BOTH and "transport" in metafunc.fixturenames:
        metafunc.parametrize("transport", ["local", "far"], indirect=True, scope="module")


class Transport:
    """How the Vnics of a test reach its Vnet: `config` for the Vnet, `arguments` for each Vnic."""

    def __init__(self, overlay: Overlay | None) -> None:
        self.config: dict[str, object] = {}
        self._place = ""
        self._security: str | None = None
        if overlay is not None:
            self._place = f"127.0.0.1:{free_port()}"
            self.config = {"security": "x509", "identity": overlay.vnet(), "listen": self._place}
            self._security = f"x509:{overlay.vnic()}"

    @property
    def is_far(self) -> bool:
        return bool(self._place)

    def arguments(self, running: RunningVnet) -> dict[str, object]:
        if not self._place:
            return {"vnet": str(running.socket)}
        return {"vnet": f"tls://{self._place}", "security": self._security}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    return make_overlay(tmp_path_factory.mktemp("overlay"))


@pytest.fixture(scope="module")
def transport(request: pytest.FixtureRequest) -> Transport:
    far = getattr(request, "param", "local") == "far"
    return Transport(request.getfixturevalue("overlay") if far else None)


@pytest.fixture(scope="module")
def vnet(transport: Transport) -> Iterator[RunningVnet]:
    """One for all tests of a file; a test that kills it asks for `own_vnet`."""
    with running_vnet(config={"max_message_bytes": 4 << 20, **transport.config}) as running:
        yield running


@pytest.fixture(scope="module")
def own_transport(request: pytest.FixtureRequest, transport: Transport) -> Transport:
    """As `transport`, at another port."""
    return Transport(request.getfixturevalue("overlay") if transport.config else None)


@pytest.fixture
def own_vnet(request: pytest.FixtureRequest, own_transport: Transport) -> Iterator[RunningVnet]:
    """With the settings of the mark `vnet_settings`, if it has one."""
    mark = request.node.get_closest_marker("vnet_settings")
    with running_vnet(config=own_transport.config | (mark.kwargs if mark else {})) as running:
        yield running


@pytest.fixture
def stopped() -> Stopped:
    """Stands a process still for a while: from the moment it really does, to the end of the `with`."""

    @contextlib.contextmanager
    def stop(pid: int | None) -> Iterator[None]:
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            while any(_state(task) != "T" for task in Path(f"/proc/{pid}/task").iterdir()):
                time.sleep(0.001)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):  # it was killed
                os.kill(pid, signal.SIGCONT)

    return stop


@pytest.fixture
def fill() -> Fill:
    """Sends until the destination takes nothing more: how many were accepted."""

    def send(sender: Vnic, to: UUID | str, payload: bytes = bytes(32 << 10)) -> int:
        count = 0
        try:
            while count < 10_000:
                sender.send(to, payload, timeout=0.2)
                count += 1
        except Backpressure:
            return count
        raise AssertionError("it took everything")

    return send


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def _maker(running: RunningVnet, transport: Transport) -> Iterator[MakeVnic]:
    made: list[Vnic] = []

    def make(alias: str | None = None, **arguments: object) -> Vnic:
        arguments = {"attach_timeout": 30.0, "timeout": 30.0, **transport.arguments(running), **arguments}
        vnic = Vnic(alias, **arguments)  # type: ignore[arg-type]  # long time-outs: on a busy machine too
        made.append(vnic)
        return vnic

    yield make
    for vnic in made:
        vnic.close()


@pytest.fixture
def make_vnic(vnet: RunningVnet, transport: Transport) -> Iterator[MakeVnic]:
    """Vnics on the file's Vnet."""
    yield from _maker(vnet, transport)


@pytest.fixture
def make_own(own_vnet: RunningVnet, own_transport: Transport) -> Iterator[MakeVnic]:
    """Vnics on the test's own Vnet."""
    yield from _maker(own_vnet, own_transport)
