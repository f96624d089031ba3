"""A Vnet for the tests of one file, and Vnics that are closed whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from layer8 import Backpressure, Vnic
from layer8.testing import RunningVnet, running_vnet

Fill = Callable[..., int]
Stopped = Callable[[int | None], contextlib.AbstractContextManager[None]]
MakeVnic = Callable[..., Vnic]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAYER8_VNET", "XDG_RUNTIME_DIR"):
        if name in os.environ:
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def vnet() -> Iterator[RunningVnet]:
    """One for all tests of a file; a test that kills it asks for `own_vnet`."""
    with running_vnet(config={"max_message_bytes": 4 << 20}) as running:
        yield running


@pytest.fixture
def own_vnet() -> Iterator[RunningVnet]:
    with running_vnet() as running:
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


def _maker(running: RunningVnet) -> Iterator[MakeVnic]:
    made: list[Vnic] = []

    def make(alias: str | None = None, **arguments: object) -> Vnic:
        arguments.setdefault("vnet", str(running.socket))
        arguments = {"attach_timeout": 30.0, "timeout": 30.0, **arguments}  # on a busy machine too
        vnic = Vnic(alias, **arguments)  # type: ignore[arg-type]
        made.append(vnic)
        return vnic

    yield make
    for vnic in made:
        vnic.close()


@pytest.fixture
def make_vnic(vnet: RunningVnet) -> Iterator[MakeVnic]:
    """Vnics on the file's Vnet."""
    yield from _maker(vnet)


@pytest.fixture
def make_own(own_vnet: RunningVnet) -> Iterator[MakeVnic]:
    """Vnics on the test's own Vnet."""
    yield from _maker(own_vnet)
