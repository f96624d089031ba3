"""Figures of many Vnets on one machine, printed: how soon they agree, what they cost while nothing happens, and how
long a large directory takes to join. See --help.

    python tests/bench/mesh.py [settle] [join]

Nothing here fails because of a figure; a loaded machine shows in all of them. CPU is that of the Vnets' processes as
the kernel's scheduler counts it, so it says what it would be on a quiet machine, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from layer8 import HealthRecord, Vnic
from layer8.testing import Overlay, RunningVnet, make_overlay, running_vnet
from layer8.vnet.config import Config, VnetConfig
from layer8.vnet.daemon import Daemon
from layer8.vnet.server import Vnet
from layer8.vnic.control import ControlClient

T = TypeVar("T")


def cpu(pid: int) -> float:
    """Seconds that all threads of a process have run, to the nanosecond."""
    spent = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            spent += int((thread / "schedstat").read_text().split()[0])
    return spent / 1e9


def free_address(number: int) -> str:
    host = f"127.0.5.{number}"
    with socket.create_server((host, 0)) as listener:
        return f"{host}:{listener.getsockname()[1]}"


def settle(vnets: int, vnics: int, seconds: float) -> None:
    """So many Vnets, each knowing all addresses, and so many Vnics spread over them: until every Vnet knows all."""
    addresses = [free_address(number) for number in range(1, vnets + 1)]
    with contextlib.ExitStack() as stack:
        overlay = make_overlay(stack.enter_context(tempfile.TemporaryDirectory()), "bench")
        identities = [overlay.vnet(f"host{number}") for number in range(vnets)]
        security = f"x509:{overlay.vnic()}"
        moments = [(time.perf_counter(), 0.0)]
        running = _at_once(lambda number: _vnet(addresses, identities, number), vnets)
        pids = [vnet.pid for vnet in running if vnet.pid is not None]
        for vnet in running:
            stack.push(vnet)

        def agreed(wanted: int) -> None:
            with contextlib.ExitStack() as looking:
                for vnet in running:
                    looker = ControlClient(str(vnet.socket), security=security)
                    looking.callback(looker.close)
                    while len(looker.health()) != wanted:
                        time.sleep(0.05)
            moments.append((time.perf_counter(), sum(map(cpu, pids))))

        moments.append((time.perf_counter(), sum(map(cpu, pids))))
        agreed(vnets)
        made = [
            vnic for some in _at_once(lambda n: _vnics(running[n], security, vnics // vnets), vnets) for vnic in some
        ]
        for vnic in made:
            stack.callback(vnic.close, 0.0)
        moments.append((time.perf_counter(), sum(map(cpu, pids))))
        agreed(vnets + len(made))
        for what, (since, before), (now, spent) in zip(
            (f"{vnets} Vnets started", "all linked", f"{len(made)} Vnics attached", "all agreed"),
            moments,
            moments[1:],
            strict=False,
        ):
            print(f"{what}: {now - since:.1f} s, {spent - before:.1f} s of CPU in the Vnets")
        print(f"in all {moments[-1][0] - moments[0][0]:.1f} s, {moments[-1][1]:.1f} s of CPU   (wanted: under 10 s)")
        time.sleep(5.0)
        before, since = sum(map(cpu, pids)), time.perf_counter()
        time.sleep(seconds)
        share = 100 * (sum(map(cpu, pids)) - before) / (time.perf_counter() - since)
        print(f"the mesh at rest: {share:.1f}% of a core for {vnets} Vnets   (wanted: under 10%)")


def _at_once(make: Callable[[int], T], count: int) -> list[T]:
    """What `make` gives for each number, made by a few threads."""
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        return list(pool.map(make, range(count)))


def _vnet(addresses: list[str], identities: list[str], number: int) -> RunningVnet:
    identity = {"security": "x509", "identity": identities[number], "host": f"host{number}"}
    peers = [address for address in addresses if address != addresses[number]]
    return running_vnet(config={**identity, "listen": addresses[number], "peers": peers})


def _vnics(vnet: RunningVnet, security: str, count: int) -> list[Vnic]:
    return [Vnic(vnet=str(vnet.socket), security=security, attach_timeout=60, timeout=60) for _ in range(count)]


def join(count: int) -> None:
    """A Vnet with so many records, and one that joins it: from its start to the moment in which it knows them all."""
    with tempfile.TemporaryDirectory() as directory:
        overlay = make_overlay(directory, "bench")
        first, second = free_address(1), free_address(2)
        took = []
        with _process(_home, directory, overlay, "one", first, (), count):
            for _ in range(3):
                with _process(_joiner, directory, overlay, "two", second, (first,), count) as talk:
                    took.append(talk.recv())
    text = ", ".join(f"{seconds:.2f}" for seconds in took)
    print(f"{count} health records join in {text} s   (wanted: under 2 s)")


@contextlib.contextmanager
def _process(
    ready: Callable[[Vnet, int, Connection], None],
    directory: str,
    overlay: Overlay,
    host: str,
    listen: str,
    peers: tuple[str, ...],
    count: int,
) -> Iterator[Connection]:
    talk, far = multiprocessing.Pipe()
    config = VnetConfig(
        socket=Path(directory) / f"{host}.sock",
        security="x509",
        identity=Path(overlay.vnet(host)),
        host=host,
        listen=(listen,),
        peers=peers,
    )
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(config, ready, count, far))
    process.start()
    try:
        assert talk.recv() == "ready"
        yield talk
    finally:
        process.terminate()
        process.join()


def _run(config: VnetConfig, ready: Callable[[Vnet, int, Connection], None], count: int, talk: Connection) -> None:
    Daemon(Config(vnets=(config,)), ready=lambda vnets: ready(vnets[0], count, talk), parent=os.getppid()).run()


def _home(vnet: Vnet, count: int, talk: Connection) -> None:
    """Records as of Vnics with a few topics, none of which exists."""
    for number in range(count):
        vnet.health.put(
            HealthRecord(
                uuid=uuid4(),
                alias=f"worker-{number % 100}",
                host=vnet.health.host,
                vnet="default",
                principal=f"layer8://bench/vnic/worker-{number % 100}",
                program="python worker.py",
                topics=("prices.gold", "prices.silver"),
                pid=number,
                create_time=time.time(),
                started=time.time(),
                since=time.time(),
                heard=time.time(),
            )
        )
    talk.send("ready")


def _joiner(vnet: Vnet, count: int, talk: Connection) -> None:
    begun = time.perf_counter()
    talk.send("ready")

    async def wait() -> None:
        while sum(record.kind == "vnic" for record in vnet.directory) < count:
            await asyncio.sleep(0.02)
        talk.send(time.perf_counter() - begun)

    vnet.waiting = asyncio.get_running_loop().create_task(wait())  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="settle, join; all by default")
    parser.add_argument("--vnets", type=int, default=20)
    parser.add_argument("--vnics", type=int, default=200)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    chosen = set(given.what or ("settle", "join"))
    if "settle" in chosen:
        settle(given.vnets, given.vnics, given.seconds)
    if "join" in chosen:
        join(given.records)


if __name__ == "__main__":
    sys.exit(main())
