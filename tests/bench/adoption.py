"""adoption.py [PORTS [ROUNDS]]: how long Vnics are without a Vnet when it is killed and started again.

PORTS Vnics (100) in ten processes, each of which sends itself a message as soon as that can be. Time counts from the
start of the next Vnet's process, Python's own start included.

adoption.py cost [ROUNDS]: what it costs on the way of a message to be ready for that: the C core as it is, by turns
with one that notes nothing for a next Vnet (both built in build/), in processor time: it can be told on a busy machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from layer8 import Vnic
from layer8.testing import running_vnet

PROCESSES = 10


def part(count: int) -> None:
    """One of the ten."""
    vnics = [Vnic(ring_bytes=512 << 10, timeout=60, attach_timeout=60) for _ in range(count)]
    for vnic in vnics:
        vnic.send(vnic.uuid, b"x")
        vnic.receive()
    print("ready", flush=True)
    for _ in sys.stdin:
        got = [0.0] * count
        away = threading.Event()

        def one(number: int, got: list[float] = got, away: threading.Event = away) -> None:
            away.wait()
            vnic = vnics[number]
            vnic.send(vnic.uuid, b"y", timeout=60)
            vnic.receive(60)
            got[number] = time.monotonic()

        threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        print("armed", flush=True)
        while any(vnic.state == "attached" for vnic in vnics):  # one that looks: a thousand would take the processors
            time.sleep(0.02)
        away.set()
        for thread in threads:
            thread.join()
        print(*got, flush=True)


def main(ports: int, rounds: int) -> None:
    with running_vnet(config={"max_ports": 65535, "ports_per_uid": 65535, "bytes_per_uid": 1 << 40}) as vnet:
        parts = [
            subprocess.Popen(
                [sys.executable, __file__, "part", str(ports // PROCESSES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=vnet.environ,
            )
            for _ in range(PROCESSES)
        ]

        def lines() -> list[str]:
            return [process.stdout.readline() for process in parts if process.stdout is not None]

        try:
            lines()
            for _ in range(rounds):
                for process in parts:
                    assert process.stdin is not None
                    process.stdin.write("go\n")
                    process.stdin.flush()
                lines()
                vnet.kill()
                time.sleep(0.2)
                started = time.monotonic()
                vnet.restart()
                ready = time.monotonic() - started
                got = [float(moment) - started for line in lines() for moment in line.split()]
                print(
                    f"{len(got)} ports: the Vnet accepts after {ready:.2f} s, "
                    f"first message after {statistics.median(got):.2f} s (median), {max(got):.2f} s (last)"
                )
        finally:
            for process in parts:
                process.kill()
                process.communicate()


def cost(rounds: int) -> None:
    root = Path(__file__).parents[2]
    programs = {}
    for name, without in (("with", "OFF"), ("without", "ON")):
        directory = root / "build" / f"{name}-adoption"
        options = [f"-DLAYER8_WITHOUT_ADOPTION={without}", "-DLAYER8_KILL_POINTS=OFF"]
        subprocess.run(["cmake", "-S", root / "cffi_build", "-B", directory, *options], check=True, stdout=sys.stderr)
        subprocess.run(["cmake", "--build", directory, "--target", "adoption_cost"], check=True, stdout=sys.stderr)
        programs[name] = directory / "adoption_cost"
    taken: dict[str, list[list[float]]] = {name: [] for name in programs}
    for number in range(rounds):
        for name in sorted(programs, reverse=number % 2 == 1):
            said = subprocess.run([programs[name]], check=True, capture_output=True, text=True).stdout
            taken[name].append([float(word) for word in said.split()])
    for place, what in enumerate(("by uuid", "by alias")):
        noted, bare = (sorted(run[place] for run in taken[name]) for name in ("with", "without"))
        least, median = noted[0] / bare[0], statistics.median(noted) / statistics.median(bare)
        print(
            f"{what}: {noted[0]:.0f} ns of processor time a message with adoption, {bare[0]:.0f} ns without: "
            f"ratio {least:.3f} (least), {median:.3f} (median of {rounds})"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["part"]:
        part(int(sys.argv[2]))
    elif sys.argv[1:2] == ["cost"]:
        cost(int(sys.argv[2]) if len(sys.argv) > 2 else 10)
    else:
        numbers = [int(argument) for argument in sys.argv[1:3]]
        main(*(numbers + [100, 3][len(numbers) :]))
