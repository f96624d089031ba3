"""Two processes on two clustered servers of NATS, for `layer8 bench --hosts 2`; only where both parts are installed.

`nats-server` (Debian has it) and the client `nats-py`. They speak plain TCP, without TLS and certificates: NATS at its
fastest. It drops what a subscriber is too slow for, so the sender asks it now and then whether it has kept up.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from layer8.bench.pace import PATIENCE, paced
from layer8.errors import Layer8Error

_SUBJECT = "bench"
_WINDOW = 4 << 20  # bytes that may be on their way
_MOST = 4096  # and messages


def is_installed() -> bool:
    return shutil.which("nats-server") is not None and importlib.util.find_spec("nats") is not None


@contextlib.contextmanager
def servers() -> Iterator[Nats]:
    """Two servers that are one cluster, each with a client's port of its own."""
    with tempfile.TemporaryDirectory(prefix="layer8-nats-") as directory, contextlib.ExitStack() as stack:
        near = stack.enter_context(_server(Path(directory, "near"), None))
        far = stack.enter_context(_server(Path(directory, "far"), near["cluster"][0]))
        yield Nats(near["nats"][0], far["nats"][0])


@contextlib.contextmanager
def _server(directory: Path, route: str | None) -> Iterator[dict[str, list[str]]]:
    """The addresses on which it listens, by what they are for."""
    directory.mkdir()
    arguments = ["nats-server", "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(directory)]
    arguments += ["--cluster", "nats://127.0.0.1:-1", "--cluster_name", "bench"]
    if route is not None:
        arguments += ["--routes", route]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 10.0
        while not (listens := _addresses(directory)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Layer8Error(f"nats-server does not start: {(directory / 'log').read_text().strip()}")
            time.sleep(0.02)
        yield listens
    finally:
        process.terminate()
        process.wait()


def _addresses(directory: Path) -> dict[str, list[str]]:
    """Empty until the server has written them whole."""
    for found in directory.glob("*.ports"):
        with contextlib.suppress(ValueError):
            return dict(json.loads(found.read_text()))
    return {}


@dataclasses.dataclass(frozen=True, slots=True)
class Nats:
    near_url: str
    far_url: str

    def far(self, talk: Connection, what: str, size: int) -> None:
        asyncio.run(self._far(talk, what))

    async def _far(self, talk: Connection, what: str) -> None:
        client = await _connect(self.far_url)
        subscription = await client.subscribe(_SUBJECT, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await client.flush()
        talk.send(None)
        begun, total = 0.0, 0
        async for message in subscription.messages:
            if what == "echo" or not message.data:
                if message.reply:
                    await message.respond(message.data)
                else:
                    break
            elif total == 0:
                begun, total = time.perf_counter(), 1
            else:
                total += 1
        talk.send((total - 1) / max(time.perf_counter() - begun, 1e-9))
        await asyncio.to_thread(_until_closed, talk)

    def near(self, talk: Connection, what: str, size: int, seconds: float, where: object) -> None:
        asyncio.run(self._near(talk, what, size, seconds))

    async def _near(self, talk: Connection, what: str, size: int, seconds: float) -> None:
        client = await _connect(self.near_url)
        payload = os.urandom(size)
        await _until_there(client)
        if what == "echo":
            trips = []
            for counts in paced(seconds):
                start = time.perf_counter()
                await client.request(_SUBJECT, payload, timeout=PATIENCE)
                if counts:
                    trips.append(time.perf_counter() - start)
            talk.send(statistics.median(trips))
        else:
            window = min(_MOST, _WINDOW // size)
            for _ in paced(seconds):
                for _ in range(window):
                    await client.publish(_SUBJECT, payload)
                await client.request(_SUBJECT, b"", timeout=PATIENCE)
            await client.publish(_SUBJECT, b"")
            await client.flush()
            talk.send(0.0)
        await asyncio.to_thread(_until_closed, talk)


async def _until_there(client: Any) -> None:
    """The other server has heard of the subscriber."""
    from nats.errors import NoRespondersError

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await client.request(_SUBJECT, b"", timeout=PATIENCE)
            return
        except NoRespondersError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


async def _connect(url: str) -> Any:
    import nats

    return await nats.connect(url, max_reconnect_attempts=0)


def _until_closed(talk: Connection) -> None:
    with contextlib.suppress(EOFError):
        talk.recv()
