"""`layer8 demo`: plays the demo and prints what happened."""

from __future__ import annotations

import signal
import types
from typing import NoReturn

import click
from rich.console import Console

from layer8.cli.context import Settings, pass_settings
from layer8.cli.demo_report import print_report, report_fields
from layer8.cli.output import make_console, print_json
from layer8.demo.hosts import NAMES
from layer8.demo.show import play
from layer8.demo.stage import PartFailed

_TERMINATED = 128 + signal.SIGTERM


@click.command("demo")
@click.option("--hosts", type=click.IntRange(1, len(NAMES)), default=1, help="Play on so many Vnets, linked by TLS.")
@pass_settings
def command(settings: Settings, hosts: int) -> int:
    """Start a Vnet and separate processes, let them do real work, and check every count and digest.

    Live metrics of this host go to two subscribers, every source file of Python's standard library to a process that
    stores it, and requests from a pool of callers are answered. Nothing is left behind: no process and no file.
    """
    console = make_console()
    signal.signal(signal.SIGTERM, _leave)
    try:
        if settings.json or settings.quiet:
            outcome = play(lambda line: None, hosts)
        elif console.is_terminal and not console.is_dumb_terminal:
            with Console().status("") as status:  # as wide as the terminal
                outcome = play(lambda line: status.update(line), hosts)
        else:
            outcome = play(lambda line: console.print(line), hosts)
        if settings.json:
            print_json(report_fields(outcome))
        elif not settings.quiet:
            print_report(console, outcome)
    except PartFailed as failure:
        raise click.ClickException(str(failure)) from None
    except BrokenPipeError:
        raise click.ClickException("nobody reads the output; the demo was ended") from None
    return 0 if outcome.ok else 1


def _leave(number: int, frame: types.FrameType | None) -> NoReturn:
    raise SystemExit(_TERMINATED)  # unwinds the stage, which ends and removes everything
