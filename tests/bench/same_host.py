"""Round trip and one-way rate between two processes of one host: layer8, and beside it what else is installed.

Every figure comes from two fresh processes, a driver and a peer; everything is measured in one run, one after the
other, so that the ratios mean something even where the absolute figures do not. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from carriers import CARRIERS, AsyncCarrier, Carrier  # the file beside this one

from layer8.cli.output import duration_text, make_console, make_table, size_text
from layer8.testing import running_vnet

WARM_UP = 0.2  # part of the time that is spent before anything is counted
PATIENCE = 60.0  # seconds; a watchdog


class Result(NamedTuple):
    carrier: str
    measure: str  # "round trip" | "one way"
    size: int
    figures: dict[str, float]


class Talk:
    """What a process and the parent say to each other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ready(self) -> None:
        self._connection.send("ready")

    def tell(self, figures: dict[str, float]) -> None:
        self._connection.send(figures)

    def over(self) -> None:
        """Until both processes are through."""
        self._connection.recv()


def _echo(carrier: Carrier, talk: Talk) -> None:
    carrier.echo(talk.ready, talk.over)


def _round_trips(carrier: Carrier, talk: Talk, size: int, seconds: float) -> None:
    payload = os.urandom(size)
    if isinstance(carrier, AsyncCarrier):
        asyncio.run(_async_round_trips(carrier, talk, payload, seconds))
        return
    trips: list[int] = []
    with carrier.caller() as call:
        begun = time.monotonic()
        while (now := time.monotonic()) < begun + seconds:
            before = time.perf_counter_ns()
            call(payload)
            after = time.perf_counter_ns()
            if now > begun + WARM_UP * seconds:
                trips.append(after - before)
        call(b"")
        _tell(talk, trips)


async def _async_round_trips(carrier: AsyncCarrier, talk: Talk, payload: bytes, seconds: float) -> None:
    trips: list[int] = []
    async with carrier.async_caller() as call:
        begun = time.monotonic()
        while (now := time.monotonic()) < begun + seconds:
            before = time.perf_counter_ns()
            await call(payload)
            after = time.perf_counter_ns()
            if now > begun + WARM_UP * seconds:
                trips.append(after - before)
        await call(b"")
        _tell(talk, trips)


def _tell(talk: Talk, trips: list[int]) -> None:
    trips.sort()
    percentiles = {f"p{share}_us": trips[len(trips) * share // 100] / 1000 for share in (50, 99)}
    talk.tell(percentiles | {"count": len(trips)})
    talk.over()


def _sink(carrier: Carrier, talk: Talk, batched: bool) -> None:
    """Counts from the first message on, to the empty one at the end."""
    count = size = 0
    begun = 0.0
    for message_count, message_bytes, ended in carrier.arrivals(batched, talk.ready):
        if not begun:
            begun = time.monotonic()
        count += message_count
        size += message_bytes
        if ended:
            seconds = time.monotonic() - begun
            talk.tell({"messages_per_s": (count - 1) / seconds, "bytes_per_s": size / seconds, "count": count - 1})
            talk.over()
            return


def _source(carrier: Carrier, talk: Talk, size: int, seconds: float) -> None:
    payload = os.urandom(size)
    with carrier.sender() as send:
        end = time.monotonic() + seconds
        burst = range(max(1, min(256, (1 << 20) // max(1, size))))
        while time.monotonic() < end:
            for _ in burst:
                send(payload)
        send(b"")
        talk.over()


def _run(
    carrier: Carrier,
    peer: Callable[..., None],
    peer_arguments: tuple[Any, ...],
    driver: Callable[..., None],
    driver_arguments: tuple[Any, ...],
) -> dict[str, float]:
    """Starts both, peer first; the figures are what either of them tells."""
    processes = multiprocessing.get_context("spawn")
    running = []
    talks = []
    try:
        for target, arguments in ((peer, peer_arguments), (driver, driver_arguments)):
            near, far = processes.Pipe()
            process = processes.Process(target=target, args=(carrier, Talk(far), *arguments), daemon=True)
            process.start()
            far.close()
            running.append(process)
            talks.append(near)
            if target is peer:
                assert _take(talks) == "ready"
        figures: dict[str, float] = _take(talks)
        for near in talks:
            near.send("over")
        for process in running:
            process.join(PATIENCE)
        return figures
    finally:
        for process in running:
            process.kill()
            process.join()
        for near in talks:
            near.close()


def _take(talks: list[Connection]) -> Any:
    for near in wait(talks, PATIENCE):
        assert isinstance(near, Connection)
        try:
            return near.recv()
        except EOFError:
            raise SystemExit("a process has failed") from None
    raise SystemExit(f"nothing was heard for {PATIENCE:.0f} s")


def measure(names: list[str], sizes: list[int], seconds: float) -> Iterator[Result]:
    """One result after the other, as they are made."""
    with tempfile.TemporaryDirectory(prefix="layer8-bench-") as directory:
        for size in sizes:
            for name in names:
                for modes, what in (((None,), "round trip"), (CARRIERS[name].modes, "one way")):
                    for batched in modes:
                        carrier = CARRIERS[name](directory)
                        if what == "round trip":
                            figures = _run(carrier, _echo, (), _round_trips, (size, seconds))
                        else:
                            figures = _run(carrier, _sink, (batched,), _source, (size, seconds))
                        carrier.close()
                        yield Result(name + (" batched" if batched else ""), what, size, figures)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--size", type=int, action="append", help="bytes of a payload; may be given again (default: 64, 1024, 1048576)"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement (default: 2)")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each result")
    parser.add_argument("--only", choices=CARRIERS, action="append", help="measure only this; may be given again")
    arguments = parser.parse_args()
    if arguments.seconds <= 0 or any(size < 1 for size in arguments.size or ()):
        parser.error("sizes and seconds are more than 0")
    names = [name for name in arguments.only or CARRIERS if importlib.util.find_spec(CARRIERS[name].module)]
    results = []
    with running_vnet() as vnet:
        os.environ.update(vnet.environ)
        for result in measure(names, arguments.size or [64, 1024, 1 << 20], arguments.seconds):
            results.append(result)
            if arguments.json:
                print(json.dumps(result._asdict()), flush=True)
            elif sys.stderr.isatty():
                print(
                    f"\r\x1b[K{result.carrier}, {result.measure}, {result.size} B", end="", file=sys.stderr, flush=True
                )
    if not arguments.json:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)
        _print(results)


def _print(results: list[Result]) -> None:
    def ratio(result: Result, key: str) -> str:
        """To the first figure of layer8 for this size."""
        for one in results:
            if one[1:3] == result[1:3] and one.carrier.startswith("layer8"):
                return f"{result.figures[key] / one.figures[key]:.2f}"
        return "-"

    console = make_console()
    trips = [result for result in results if result.measure == "round trip"]
    rates = [result for result in results if result.measure == "one way"]
    console.print(
        make_table(
            [">SIZE", "ROUND TRIP", ">MEDIAN", ">P99", ">× LAYER8"],
            [
                [
                    size_text(one.size),
                    one.carrier,
                    duration_text(one.figures["p50_us"] / 1e6),
                    duration_text(one.figures["p99_us"] / 1e6),
                    ratio(one, "p50_us"),
                ]
                for one in trips
            ],
        )
    )
    console.print()
    console.print(
        make_table(
            [">SIZE", "ONE WAY", ">MESSAGES/S", ">BYTES/S", ">× LAYER8"],
            [
                [
                    size_text(one.size),
                    one.carrier,
                    f"{one.figures['messages_per_s']:,.0f}",
                    size_text(one.figures["bytes_per_s"]),
                    ratio(one, "messages_per_s"),
                ]
                for one in rates
            ],
        )
    )


if __name__ == "__main__":
    main()
