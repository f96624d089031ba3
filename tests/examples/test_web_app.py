"""The web application, run by uvicorn and asked by a real HTTP client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from layer8 import Vnic
from layer8.testing import RunningVnet, running_vnet

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 200.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def vnet() -> Iterator[RunningVnet]:
    with running_vnet() as vnet:
        yield vnet


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def server(vnet: RunningVnet, listening: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ["web_app:app", "--fd", str(listening.fileno()), "--log-level", "warning", "--lifespan", "on"]
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *arguments],
        cwd=EXAMPLES,
        env={**os.environ, **vnet.environ},
        pass_fds=[listening.fileno()],
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def client(server: subprocess.Popen[bytes], listening: socket.socket) -> Iterator[httpx.Client]:
    port = listening.getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False) as client:
        yield client  # what it asks waits in the socket until the application is up


def _price(client: httpx.Client) -> str:
    """When it has come back to the application, which hears it as any subscriber does."""
    deadline = time.monotonic() + PATIENCE
    while (answer := client.get("/prices/gold")).status_code == 404:
        assert time.monotonic() < deadline
    return answer.text


def test_application_serves_publishes_and_shuts_down_cleanly(
    vnet: RunningVnet,
    server: subprocess.Popen[bytes],
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAYER8_VNET", str(vnet.socket))
    assert client.get("/square/12").text == "144"
    wrong = client.get("/square/twelve")
    assert (wrong.status_code, wrong.text) == (422, "not a number")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: client.get(f"/square/{number}").text, range(100)))
    assert answers == [str(number**2) for number in range(100)]
    with Vnic(attach_timeout=PATIENCE) as vnic:
        assert vnic.request("example.squares", b"9", timeout=PATIENCE).payload == b"81"  # it serves others, too
        vnic.subscribe("example.prices.gold")
        assert client.post("/prices/gold", content=b"2391.5").status_code == 202
        assert vnic.receive(timeout=PATIENCE).payload == b"2391.5"
        assert _price(client) == "2391.5"
        server.send_signal(signal.SIGTERM)
        assert server.stderr is not None
        complaints = server.stderr.read()
        assert server.wait(PATIENCE) in (0, -signal.SIGTERM)  # uvicorn raises the signal again when it is through
        assert complaints == b""
        assert vnic.health(alias="example.squares", state="UP") == ()
