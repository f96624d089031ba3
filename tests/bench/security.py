"""security.py [attach|messages|reload]: what security costs. Without an argument, all three. Only reports.

attach      from Vnic(...) to the Vnic attached: with the full handshake by certificate, and of the same uid
messages    rate and round trip without a policy and with one of 1,000 rules, taken in turn: their ratio
reload      a policy of 10,000 rules replaced while 1,000 ports are attached, and the latest message of a pair that
            talks meanwhile; LAYER8_BENCH_PORTS changes the number of ports
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from layer8 import Vnic
from layer8.protocol.control import Reload
from layer8.testing import make_overlay, running_vnet
from layer8.vnic.control import ControlClient

PROCESSES = 8
_LARGE = {"max_ports": 65535, "ports_per_uid": 65535, "bytes_per_uid": 1 << 40, "pending_per_uid": 65535}


def rules(count: int, seed: int = 0) -> str:
    """So many rules, of which the last one allows everything."""
    lines = []
    for number in range(count - 1):
        kind = "deny" if number % 7 == 0 else "allow"
        what = f"topic t{seed}.{number}.*" if number % 3 else f"topic t{seed}.{number}"
        lines.append(
            f'[[{kind}]]\nwho = "layer8://shop/vnic/p{number % 97}{"*" if number % 5 == 0 else ""}"\n'
            f'may = ["publish", "subscribe"]\nwhat = "{what}"\n'
        )
    return "\n".join([*lines, '[[allow]]\nwho = "*"\nmay = "*"\nwhat = "*"\n'])


def attach(rounds: int = 100) -> None:
    with tempfile.TemporaryDirectory() as directory:
        overlay = make_overlay(directory, "shop")
        identity = f"x509:{overlay.vnic('web')}"
        for name, config, security in (
            ("same uid", {}, "local"),
            ("certificates", {"security": "x509", "identity": overlay.vnet()}, identity),
        ):
            with running_vnet(config=config) as vnet:
                times = []
                for _ in range(rounds):
                    began = time.perf_counter()
                    vnic = Vnic(vnet=str(vnet.socket), security=security, attach_timeout=30)
                    times.append(1000 * (time.perf_counter() - began))
                    vnic.close()
                print(f"attach, {name}: {statistics.median(times):.2f} ms median, {max(times):.1f} ms most of {rounds}")


def _measure(vnet: str, security: str, seconds: float) -> tuple[float, float]:
    """Messages a second one way within one process, and the median round trip in µs."""
    with Vnic("a", vnet=vnet, security=security) as a, Vnic("b", vnet=vnet, security=security) as b:
        sent = 0
        stop = threading.Event()

        def take() -> None:
            while not stop.is_set():
                try:
                    b.receive_many(timeout=0.2)
                except TimeoutError:
                    pass

        taker = threading.Thread(target=take)
        taker.start()
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            for _ in range(200):
                a.send("b", b"x" * 64)
            sent += 200
        rate = sent / (time.perf_counter() - began)
        stop.set()
        taker.join()
        while b.try_receive() is not None:
            pass
        trips = []
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            one = time.perf_counter()
            a.send("b", b"x" * 64)
            b.receive(timeout=10)
            trips.append(time.perf_counter() - one)
        return rate, 1e6 * statistics.median(trips)


def messages(rounds: int = 4, seconds: float = 0.7) -> None:
    with tempfile.TemporaryDirectory() as directory:
        overlay = make_overlay(directory, "shop")
        policy = Path(directory, "policy.toml")
        policy.write_text(rules(1000))
        base = {"security": "x509", "identity": overlay.vnet()}
        security = f"x509:{overlay.vnic('p1')}"
        with running_vnet(config=base) as plain, running_vnet(config=base | {"policy": str(policy)}) as guarded:
            found: dict[str, list[tuple[float, float]]] = {"plain": [], "guarded": []}
            for _ in range(rounds):
                found["plain"].append(_measure(str(plain.socket), security, seconds))
                found["guarded"].append(_measure(str(guarded.socket), security, seconds))
        rate = [statistics.median(rate for rate, _ in found[name]) for name in ("plain", "guarded")]
        trip = [statistics.median(trip for _, trip in found[name]) for name in ("plain", "guarded")]
        noise = [max(r for r, _ in found["plain"]) / min(r for r, _ in found["plain"])]
        print(f"one way: {rate[0]:,.0f}/s without a policy, {rate[1]:,.0f}/s with 1,000 rules: {rate[1] / rate[0]:.2f}")
        print(f"round trip: {trip[0]:.1f} µs without, {trip[1]:.1f} µs with: {trip[1] / trip[0]:.2f}")
        print(f"(noise: the best round without a policy is {noise[0]:.2f} times the worst)")


def part(security: str, count: int) -> None:
    """One process with ports, each with a handle and a subscription."""
    vnics = [Vnic(security=security, ring_bytes=512 << 10, timeout=120, attach_timeout=120) for _ in range(count)]
    for vnic in vnics:
        vnic.send(vnic.uuid, b"x")
        vnic.subscribe("news")
    print("ready", flush=True)
    sys.stdin.readline()
    os._exit(0)


def reload(ports: int = int(os.environ.get("LAYER8_BENCH_PORTS", "1000"))) -> None:
    with tempfile.TemporaryDirectory() as directory:
        overlay = make_overlay(directory, "shop")
        policy = Path(directory, "policy.toml")
        policy.write_text(rules(10_000))
        config = _LARGE | {"security": "x509", "identity": overlay.vnet(), "policy": str(policy)}
        security = f"x509:{overlay.vnic('p1')}"
        with running_vnet(config=config) as vnet:
            parts = [
                subprocess.Popen(
                    [sys.executable, __file__, "part", security, str(ports // PROCESSES)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=vnet.environ,
                )
                for _ in range(PROCESSES)
            ]
            try:
                for process in parts:
                    assert process.stdout is not None
                    process.stdout.readline()
                quiet = _pair(vnet.socket, security, 2.0, lambda: None)
                busy = _pair(vnet.socket, security, 6.0, lambda: policy.write_text(rules(10_000, seed=1)))
                whole = _whole_reload(vnet.socket, security, policy, lambda: vnet.log.count("ports checked"))
                checks = [line for line in vnet.log.splitlines() if "ports checked" in line]
                taken = [line for line in vnet.log.splitlines() if "rules are in force" in line]
                print(f"{ports} ports, 10,000 rules: {taken[-1].partition(': ')[2]}")
                print(f"  {whole:.2f} s from the new file to everything checked")
                print(f"  {checks[-1].partition(': ')[2]}")
                print(f"  a pair that talks meanwhile: none of {busy[0]} messages lost, latest {busy[1]:.0f} ms")
                print(f"  the same without a reload: latest {quiet[1]:.0f} ms of {quiet[0]}")
            finally:
                for process in parts:
                    process.kill()
                    process.communicate()


def _whole_reload(socket: Path, security: str, policy: Path, checks: Callable[[], int]) -> float:
    before = checks()
    policy.write_text(rules(10_000, seed=2))
    began = time.perf_counter()
    with ControlClient(str(socket), security=security, timeout=60) as client:
        client.request(Reload(id=0))
    while checks() == before:
        time.sleep(0.005)
    return time.perf_counter() - began


def _pair(socket: Path, security: str, seconds: float, change: object) -> tuple[int, float]:
    """Messages of one pair while `change` happens: how many, and the longest that one took (ms). All arrive."""
    with Vnic(vnet=str(socket), security=security) as a, Vnic("pair", vnet=str(socket), security=security) as b:
        times = []
        began = time.perf_counter()
        changed = False
        while time.perf_counter() < began + seconds:
            if not changed and time.perf_counter() > began + 0.5:
                changed = True
                change()  # type: ignore[operator]
            one = time.perf_counter()
            a.send("pair", b"x" * 64)
            assert b.receive(timeout=30).payload == b"x" * 64
            times.append(time.perf_counter() - one)
        return len(times), 1000 * max(times)


def main(arguments: Sequence[str]) -> None:
    for name, measure in (("attach", attach), ("messages", messages), ("reload", reload)):
        if not arguments or name in arguments:
            measure()


if __name__ == "__main__":
    if sys.argv[1:2] == ["part"]:
        part(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1:])
