"""`layer8 bench`: how fast messages are here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform

import click

from layer8.bench.hosts import measure as between_hosts
from layer8.bench.measure import MEASURES, Figure, measure_all
from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import Progress, duration_text, make_console, make_table, print_json, size_text
from layer8.testing import running_vnet

_SIZES = (64, 1024, 1 << 20)
_LARGEST = 16 << 20


@click.command("bench")
@click.option(
    "--size",
    "sizes",
    type=click.IntRange(1, _LARGEST),
    multiple=True,
    metavar="BYTES",
    help="Of a payload; may be given again (default: 64, 1024 and 1048576).",
)
@click.option(
    "--seconds", type=click.FloatRange(0.01, 600), default=1.0, metavar="S", help="For each figure (default: 1)."
)
@click.option(
    "--measure",
    "names",
    type=click.Choice([measure.name for measure in MEASURES]),
    multiple=True,
    help="Only this; may be given again.",
)
@click.option(
    "--hosts", type=click.IntRange(1, 2), default=1, help="2: between two Vnets, beside raw TLS; fixed sizes."
)
@click.option("--running", is_flag=True, help="On the Vnet that runs (--vnet), not on one of its own.")
@pass_settings
def command(
    settings: Settings, sizes: tuple[int, ...], seconds: float, names: tuple[str, ...], hosts: int, running: bool
) -> None:
    """Measure round trips and one-way rates between two processes and a Vnet, Python at both ends.

    The absolute figures are this machine's, now; compare within one run. What else runs here shows in them.
    """
    if hosts > 1:
        if sizes or names or running:
            raise click.UsageError("--hosts measures what it measures: no --size, --measure or --running with it")
        _between_hosts(settings, seconds)
        return
    with contextlib.ExitStack() as stack:
        if running:
            vnet, environ = settings.vnet, dict(os.environ)
            if vnet != "default":
                environ["LAYER8_VNET"] = os.environ.get("LAYER8_VNET", vnet)
        else:
            own = stack.enter_context(running_vnet())
            vnet, environ = str(own.socket), own.environ
            os.environ["LAYER8_VNET"] = vnet  # what stands there would be looked at in place of ours
        plan = list(
            measure_all(vnet, environ, names or [measure.name for measure in MEASURES], sizes or _SIZES, seconds)
        )
        figures = []
        progress = stack.enter_context(Progress(settings))
        for number, (name, size, measure) in enumerate(plan, 1):
            progress.say(f"{number}/{len(plan)} {name}, {size_text(size)}", now=True)
            figure = measure()
            figures.append(figure)
            progress.end()
            if settings.json:
                print_json(_fields(figure))
    if not settings.json:
        columns = ["MEASURE", ">SIZE", ">MEDIAN", ">P99", ">MESSAGES/S", ">BYTES/S"]
        make_console().print(make_table(columns, [_row(figure) for figure in figures]))
        if not settings.quiet:
            cores = len(os.sched_getaffinity(0))
            click.echo(f"Linux {platform.release()}, Python {platform.python_version()}, {cores} cores", err=True)


def _between_hosts(settings: Settings, seconds: float) -> None:
    """64 bytes there and back, median; 64 bytes one way; 64 KiB one way; all with certificates."""
    with Progress(settings) as progress:
        figures = between_hosts(2, seconds, lambda line: progress.say(line, now=True))
    if settings.json:
        for one in figures:
            print_json(dataclasses.asdict(one))
        return
    columns = ["", ">ROUND TRIP 64 B", ">ONE WAY 64 B", ">ONE WAY 64 KIB"]
    rows = (
        [one.carrier, duration_text(one.round_trip), f"{one.rate:,.0f}/s", f"{size_text(int(one.bulk))}/s"]
        for one in figures
    )
    make_console().print(make_table(columns, rows))


def _row(figure: Figure) -> list[str]:
    return [
        figure.measure,
        size_text(figure.size),
        "" if figure.median is None else duration_text(figure.median),
        "" if figure.p99 is None else duration_text(figure.p99),
        "" if figure.messages is None else f"{figure.messages:,.0f}",
        "" if figure.bytes is None else f"{size_text(figure.bytes)}",
    ]


def _fields(figure: Figure) -> dict[str, object]:
    fields = {
        "measure": figure.measure,
        "size": figure.size,
        "count": figure.count,
        "median_s": figure.median,
        "p99_s": figure.p99,
        "messages_per_s": figure.messages,
        "bytes_per_s": figure.bytes,
    }
    return {name: value for name, value in fields.items() if value is not None}
