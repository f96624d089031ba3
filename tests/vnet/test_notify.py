"""What a service manager is told."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from layer8.vnet.notify import Notifier

PATIENCE = 30.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(PATIENCE)
        yield listening


def test_each_state_is_told(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready("all is well")
    assert manager.recv(4096).decode().splitlines() == ["READY=1", "STATUS=all is well", f"MAINPID={os.getpid()}"]
    notifier.reloading()
    first, second = manager.recv(4096).decode().splitlines()
    assert first == "RELOADING=1"
    assert int(second.removeprefix("MONOTONIC_USEC=")) > 0
    notifier.stopping()
    assert manager.recv(4096).decode().splitlines()[0] == "STOPPING=1"


def test_an_abstract_socket_is_one_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0layer8-test-{os.getpid()}")
        listening.settimeout(PATIENCE)
        Notifier({"NOTIFY_SOCKET": f"@layer8-test-{os.getpid()}"}).stopping()
        assert listening.recv(4096).startswith(b"STOPPING=1")


def test_nobody_is_told_where_nobody_listens(tmp_path: Path) -> None:
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")


def test_children_do_not_inherit_the_variables(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    Notifier(environ)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "often"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(variables: dict[str, str], seconds: float) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/nowhere", **variables}).watchdog_seconds == seconds


def test_the_watchdog_is_petted_while_all_is_well(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "60000"})
    manager.setblocking(False)
    well = True

    async def scenario() -> None:
        nonlocal well
        loop = asyncio.get_running_loop()
        notifier.watch(loop, lambda: well)
        for _ in range(3):
            assert await asyncio.wait_for(loop.sock_recv(manager, 4096), PATIENCE) == b"WATCHDOG=1"
        well = False
        with pytest.raises(TimeoutError):
            await hear_until_silence(loop)
        notifier.close()

    async def hear_until_silence(loop: asyncio.AbstractEventLoop) -> None:
        while True:
            await asyncio.wait_for(loop.sock_recv(manager, 4096), 0.3)

    asyncio.run(scenario())
