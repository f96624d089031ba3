"""Figures of health, printed: how soon others know, what it costs, how much memory it takes. See --help.

    python tests/bench/health.py [kill] [far] [silent] [cut] [stop] [elect] [cost] [directory] [scrape]

Nothing here fails because of a figure; a loaded machine shows in all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psutil

from layer8 import HealthRecord, State, Vnic
from layer8.health.directory import Directory
from layer8.rendezvous import http_token_file
from layer8.testing import RunningVnet, make_overlay, running_vnet
from layer8.vnet.status import StatusReader
from layer8.vnic.health_watch import HealthWatch as Watch

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "hosts"))
from networks import NAMESPACES, Loopback, Namespaces

VICTIM = "from layer8 import Vnic; v = Vnic('victim', attach_timeout=60); print(v.uuid, flush=True); input()"
ZYGOTE = """
import os, signal, sys
import layer8.vnic.vnic
from layer8 import Vnic
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    if not os.fork():
        vnic = Vnic("victim", attach_timeout=60)
        print(os.getpid(), vnic.uuid, flush=True)
        signal.pause()
"""
MANY = """
import sys, resource
from layer8 import Vnic
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
vnics = [Vnic("many", attach_timeout=60, timeout=60, ring_bytes=512 << 10) for _ in range(int(sys.argv[1]))]
print("ready", flush=True)
input()
"""
ELECT = "from layer8 import Vnic; v = Vnic(attach_timeout=60); e = v.elect('bench'); print(v.uuid, flush=True); input()"


def start(vnet: RunningVnet, code: str, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=vnet.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    return process, process.stdout.readline().decode().strip()


def percentile(values: list[float], share: float) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def say(what: str, values: list[float], limit: str) -> None:
    print(
        f"{what}: median {statistics.median(values) * 1e3:.1f} ms, p99 {percentile(values, 0.99) * 1e3:.1f} ms, "
        f"max {max(values) * 1e3:.1f} ms, of {len(values)}   (wanted: {limit})"
    )


def kill(count: int) -> None:
    """SIGKILL to the moment in which another process of the host has the event."""
    with running_vnet() as vnet, Vnic(vnet=str(vnet.socket), timeout=60) as vnic, vnic.watch(alias="victim") as watch:
        took = _kills(count, watch, vnet.environ)
    say("killed until DOWN on its own host", took, "p99 under 100 ms")


def far(count: int) -> None:
    """SIGKILL to the moment in which a process of another host has the event."""
    with (
        _two_hosts() as (near, there, security),
        Vnic(vnet=str(near.socket), security=security, timeout=60) as vnic,
        vnic.watch(alias="victim") as watch,
    ):
        took = _kills(count, watch, there.environ | {"LAYER8_IDENTITY": security.removeprefix("x509:")})
    say("killed until DOWN on another host", took, "p99 under 500 ms")


def silent(count: int) -> None:
    """A host that falls silent without a word (its Vnet gets SIGSTOP: connections stand, nothing comes) to the moments
    in which a process of another host has the events."""

    def pid(vnet: RunningVnet) -> int:
        assert vnet.pid is not None
        return vnet.pid

    with _two_hosts() as (near, there, security):
        _cuts(
            count,
            (near, there, security),
            "falls silent",
            lambda: os.kill(pid(there), signal.SIGSTOP),
            lambda: os.kill(pid(there), signal.SIGCONT),
        )


def cut(count: int) -> None:
    """The same, of a host in a network namespace whose only interface is taken down."""
    if not NAMESPACES:
        print("a host is cut off: needs network namespaces (root, and ip of iproute2)")
        return
    with contextlib.closing(Namespaces()) as network, _two_hosts(network) as (near, there, security):
        _cuts(count, (near, there, security), "is cut off", lambda: network.cut("two"), lambda: network.heal("two"))


def _cuts(
    count: int,
    hosts: tuple[RunningVnet, RunningVnet, str],
    what: str,
    end: Callable[[], None],
    go_on: Callable[[], None],
) -> None:
    suspect, unreachable, back = [], [], []
    near, there, security = hosts
    with (
        Vnic(vnet=str(near.socket), security=security, timeout=60) as vnic,
        Vnic("victim", vnet=str(there.socket), security=security, timeout=60),
        vnic.watch(alias="victim") as watch,
    ):
        while watch.receive(60).record.state is not State.UP:
            pass
        for number in range(count):
            time.sleep(1.0 + 0.31 * number)  # anywhere between two keep-alives
            begun = time.perf_counter()
            end()
            while watch.receive(60).record.state is not State.SUSPECT:
                pass
            suspect.append(time.perf_counter() - begun)
            while watch.receive(60).record.state is not State.UNREACHABLE:
                pass
            unreachable.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            go_on()
            while watch.receive(60).record.state is not State.UP:
                pass
            back.append(time.perf_counter() - begun)
    say(f"a host {what} until SUSPECT", suspect, "within 3 s")
    say(f"a host {what} until UNREACHABLE", unreachable, "within 6 s")
    say(f"a host {what} and goes on, until UP", back, "-")


@contextlib.contextmanager
def _two_hosts(network: Loopback | Namespaces | None = None) -> Iterator[tuple[RunningVnet, RunningVnet, str]]:
    """Two Vnets with a link, by default over loopback addresses, and the security of a Vnic of theirs."""
    network = Loopback() if network is None else network
    with contextlib.ExitStack() as stack:
        overlay = make_overlay(stack.enter_context(tempfile.TemporaryDirectory()), "bench")
        vnets, peers = [], []
        for host in ("one", "two"):
            listen, launcher = network.join(host)
            config = {
                "security": "x509",
                "identity": overlay.vnet(host),
                "host": host,
                "listen": listen,
                "peers": peers,
            }
            vnets.append(stack.enter_context(running_vnet(config=config, launcher=launcher)))
            with StatusReader(vnets[-1].socket) as reader:
                peers = [reader.snapshot().listen[0]]
        yield vnets[0], vnets[1], f"x509:{overlay.vnic()}"


def _kills(count: int, watch: Watch, environ: dict[str, str]) -> list[float]:
    """Seconds from SIGKILL to the event, for one Vnic after the other in this environment."""
    took: list[float] = []
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        for _ in range(count):
            zygote.stdin.write(b"one more\n")
            zygote.stdin.flush()
            pid, uuid = zygote.stdout.readline().decode().split()
            while True:  # it is known here
                event = watch.receive(60)
                if event.kind == "joined" and event.record.uuid == UUID(uuid):
                    break
            begun = time.perf_counter()
            os.kill(int(pid), signal.SIGKILL)
            while True:
                event = watch.receive(60)
                if event.kind == "left" and event.record.uuid == UUID(uuid):
                    break
            took.append(time.perf_counter() - begun)
        zygote.kill()
    return took


def stop(count: int) -> None:
    took: list[float] = []
    with running_vnet() as vnet, Vnic(vnet=str(vnet.socket), timeout=60) as vnic, vnic.watch(alias="victim") as watch:
        victim, _ = start(vnet, VICTIM)
        for _ in range(count):
            time.sleep(0.37)
            begun = time.perf_counter()
            os.kill(victim.pid, signal.SIGSTOP)
            while watch.receive(60).record.state is not State.STOPPED:
                pass
            took.append(time.perf_counter() - begun)
            os.kill(victim.pid, signal.SIGCONT)
            while watch.receive(60).record.state is not State.UP:
                pass
        victim.kill()
        victim.communicate()
    say("stopped until STOPPED", took, "under 2 s")


def elect(count: int) -> None:
    for how in (signal.SIGKILL, signal.SIGSTOP):
        took: list[float] = []
        with running_vnet() as vnet, Vnic(vnet=str(vnet.socket), timeout=60) as vnic:
            for _ in range(count):
                leader, _ = start(vnet, ELECT)
                with vnic.elect("bench") as election:
                    while election.leader is None:
                        time.sleep(0.001)
                    begun = time.perf_counter()
                    os.kill(leader.pid, how)
                    election.wait(60)
                    took.append(time.perf_counter() - begun)
                leader.kill()
                leader.communicate()
        say(f"a leader gets {how.name} until the next one leads", took, "under 3 s")


def many(vnet: RunningVnet, vnics: int, processes: int) -> list[subprocess.Popen[bytes]]:
    share = vnics // processes
    return [start(vnet, MANY, str(share))[0] for _ in range(processes)]


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()


def cost(vnics: int, seconds: float, processes: int) -> None:
    """CPU of the Vnet with so many idle Vnics, with health as it is by default and with next to none."""
    limits = {"max_ports": vnics + 64, "ports_per_uid": vnics + 64, "bytes_per_uid": 1 << 40, "pending_per_uid": 1024}
    shares = {}
    rare = {"look_interval": 60.0, "statistics_interval": 3600.0, "status_interval": 3600.0}
    for name, more in (("with health", {}), ("without", rare)):
        with running_vnet(config={**limits, **more}) as vnet:
            crowd = many(vnet, vnics, processes)
            time.sleep(3.0)
            daemon = psutil.Process(vnet.pid)
            before, begun = daemon.cpu_times(), time.perf_counter()
            time.sleep(seconds)
            after = daemon.cpu_times()
            used = after.user + after.system - before.user - before.system
            shares[name] = 100 * used / (time.perf_counter() - begun)
            end(crowd)
    print(
        f"CPU of a Vnet with {vnics} idle Vnics in {processes} processes: {shares['with health']:.2f}% of a core, "
        f"{shares['without']:.2f}% with health next to off   (wanted: health under 1%)"
    )


def directory(count: int) -> None:
    def records() -> Directory:
        made = Directory("here")
        for number in range(count):
            made.put(
                HealthRecord(
                    uuid=uuid4(),
                    alias=f"worker-{number % 100}",
                    host=f"host-{number % 50}.example.org",
                    vnet="default",
                    principal=f"layer8://example/vnic/worker-{number % 100}",
                    program="python worker.py",
                    topics=("prices.gold", "prices.silver"),
                    services=(f"worker-{number % 100}",),
                    pid=number,
                    create_time=time.time(),
                    started=time.time(),
                    since=time.time(),
                    heard=time.time(),
                    cpu=float(number),
                    memory=number << 12,
                    messages_in=number * 1000,
                    bytes_in=number * 100_000,
                    messages_out=number * 1000,
                    bytes_out=number * 100_000,
                ),
                0.0,
            )
        return made

    tracemalloc.start()
    made = records()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"a directory of {len(made)} records: {size / (1 << 20):.1f} MiB   (wanted: under 60 MiB)")


def scrape(vnics: int, processes: int) -> None:
    """A scrape with so many Vnics, and the round trip of two others without and with scrapes beside it."""
    limits = {"max_ports": vnics + 64, "ports_per_uid": vnics + 64, "bytes_per_uid": 1 << 40, "pending_per_uid": 1024}
    with running_vnet(config={**limits, "http": "127.0.0.1:0"}) as vnet:
        crowd = many(vnet, vnics, processes)
        with StatusReader(vnet.socket) as reader:
            host, _, port = reader.snapshot().http.rpartition(":")
        token = http_token_file(Path(vnet.socket)).read_text().strip()

        def once() -> float:
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            begun = time.perf_counter()
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
            size = len(connection.getresponse().read())
            connection.close()
            assert size > vnics * 100
            return time.perf_counter() - begun

        once()
        took = []
        for _ in range(10):
            took.append(once())
            time.sleep(0.3)
        say(f"a scrape with {vnics} Vnics", took, "under 200 ms")
        with Vnic("near", vnet=str(vnet.socket), timeout=60) as near, Vnic(vnet=str(vnet.socket), timeout=60) as far:
            near.serve(lambda request: b"")
            found: dict[str, list[float]] = {"warm-up": [], "without": [], "with": []}
            for name in ("warm-up", *("without", "with") * 3):  # in turns: what else runs here changes
                ended = threading.Event()
                scraper = threading.Thread(target=_scrape_until, args=(ended, once))
                if name == "with":
                    scraper.start()
                until = time.perf_counter() + 3.0
                while (begun := time.perf_counter()) < until:
                    far.request("near", b"")
                    found[name].append(time.perf_counter() - begun)
                ended.set()
                if name == "with":
                    scraper.join()
            trips = {name: (percentile(times, 0.99), statistics.median(times)) for name, times in found.items()}
        end(crowd)
    print(
        f"round trip p99 {trips['without'][0] * 1e6:.0f} µs without scrapes, {trips['with'][0] * 1e6:.0f} µs with one "
        f"every second: {trips['with'][0] / trips['without'][0]:.2f} of it; medians {trips['without'][1] * 1e6:.0f} "
        f"and {trips['with'][1] * 1e6:.0f} µs   (wanted: p99 within 10%)"
    )


def _scrape_until(ended: threading.Event, once: Callable[[], float]) -> None:
    while not ended.wait(1.0):
        once()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="as above; all by default")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=5)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--vnics", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=10, help="that the Vnics are spread over")
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    chosen = set(given.what or ("kill", "far", "silent", "cut", "stop", "elect", "cost", "directory", "scrape"))
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}")
    if "directory" in chosen:
        directory(10_000)
    if "stop" in chosen:
        stop(given.stops)
    if "elect" in chosen:
        elect(max(3, given.stops // 2))
    if "cost" in chosen:
        cost(given.vnics, given.seconds, given.processes)
    if "scrape" in chosen:
        scrape(given.vnics, given.processes)
    if "kill" in chosen:
        kill(given.kills)
    if "far" in chosen:
        far(given.kills)
    if "silent" in chosen:
        silent(given.cuts)
    if "cut" in chosen:
        cut(given.cuts)


if __name__ == "__main__":
    sys.exit(main())
