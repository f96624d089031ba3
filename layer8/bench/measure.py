"""The measuring side: this process drives, and a peer of its own process answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from layer8.bench.pace import PATIENCE, paced
from layer8.vnic import AsyncVnic, Vnic

_ALIAS = "layer8-bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measurement. A round trip has `median` and `p99` in seconds, one way `messages` and `bytes` a second."""

    measure: str
    size: int
    count: int
    median: float | None = None
    p99: float | None = None
    messages: float | None = None
    bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """`peer`: mode of the other process. `run` drives; it gets the Vnet's name, the peer, a size and seconds."""

    name: str
    peer: str
    run: Callable[[str, Peer, int, float], Figure]


class Peer:
    """The process at the other end."""

    def __init__(self, mode: str, alias: str, environ: dict[str, str]) -> None:
        self.alias = alias
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for this process, which ends it
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "layer8.bench.peer", mode, alias],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self.line() != "ready":
            self.close()
            raise RuntimeError("the other process of the measurement did not start")

    def line(self) -> str:
        """The next line that it says, empty at its end."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def measure_all(
    vnet: str, environ: dict[str, str], names: Sequence[str], sizes: Sequence[int], seconds: float
) -> Iterator[tuple[str, int, Callable[[], Figure]]]:
    """What will be measured, each with the call that does it. `vnet`: as for Vnic. `environ`: of the other process."""
    for measure in MEASURES:
        if measure.name in names:
            for size in sizes:
                yield (
                    measure.name,
                    size,
                    lambda measure=measure, size=size: _measure(  # type: ignore[misc]
                        measure, vnet, environ, size, seconds
                    ),
                )


def _measure(measure: Measure, vnet: str, environ: dict[str, str], size: int, seconds: float) -> Figure:
    alias = f"{_ALIAS}-{os.getpid()}-{time.monotonic_ns()}"
    with contextlib.closing(Peer(measure.peer, alias, environ)) as peer:
        return measure.run(vnet, peer, size, seconds)


def _trips(name: str, size: int, trips: list[int]) -> Figure:
    trips.sort()
    median, p99 = (trips[len(trips) * share // 100] / 1e9 for share in (50, 99))
    return Figure(measure=name, size=size, count=len(trips), median=median, p99=p99)


def _round_trip(name: str, call: Callable[[bytes], object], size: int, seconds: float) -> Figure:
    payload = os.urandom(size)
    trips: list[int] = []
    for counts in paced(seconds):
        before = time.perf_counter_ns()
        call(payload)
        after = time.perf_counter_ns()
        if counts:
            trips.append(after - before)
    return _trips(name, size, trips)


def _send_and_receive(vnet: str, peer: Peer, size: int, seconds: float) -> Figure:
    with Vnic(vnet=vnet, timeout=PATIENCE) as vnic:

        def call(payload: bytes) -> None:
            vnic.send(peer.alias, payload)
            vnic.receive(PATIENCE)

        return _round_trip("send and receive", call, size, seconds)


def _request(vnet: str, peer: Peer, size: int, seconds: float) -> Figure:
    with Vnic(vnet=vnet, timeout=PATIENCE) as vnic:
        return _round_trip("request", lambda payload: vnic.request(peer.alias, payload), size, seconds)


def _asyncio(vnet: str, peer: Peer, size: int, seconds: float) -> Figure:
    async def drive() -> Figure:
        payload = os.urandom(size)
        trips: list[int] = []
        async with AsyncVnic(vnet=vnet, timeout=PATIENCE) as vnic:
            for counts in paced(seconds):
                before = time.perf_counter_ns()
                await vnic.send(peer.alias, payload)
                await vnic.receive(PATIENCE)
                after = time.perf_counter_ns()
                if counts:
                    trips.append(after - before)
        return _trips("send and receive, asyncio", size, trips)

    return asyncio.run(drive())


def _one_way(name: str) -> Callable[[str, Peer, int, float], Figure]:
    def run(vnet: str, peer: Peer, size: int, seconds: float) -> Figure:
        payload = os.urandom(size)
        with Vnic(vnet=vnet, timeout=PATIENCE) as vnic:
            end = time.monotonic() + seconds
            burst = range(max(1, min(256, (1 << 20) // max(1, size))))
            while time.monotonic() < end:
                for _ in burst:
                    vnic.send(peer.alias, payload)
            vnic.send(peer.alias, b"")
            figures = json.loads(peer.line() or "{}")
        if not figures:
            raise RuntimeError("the other process of the measurement has failed")
        return Figure(
            measure=name,
            size=size,
            count=figures["count"],
            messages=figures["messages_per_s"],
            bytes=figures["bytes_per_s"],
        )

    return run


MEASURES = (
    Measure("send and receive", "echo", _send_and_receive),
    Measure("send and receive, asyncio", "echo", _asyncio),
    Measure("request", "serve", _request),
    Measure("one way, receive", "sink", _one_way("one way, receive")),
    Measure("one way, receive_many", "sink-batched", _one_way("one way, receive_many")),
)
