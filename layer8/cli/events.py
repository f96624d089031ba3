"""`layer8 events`: what happened lately, read from the status segment; so also when the Vnet hangs or has crashed."""

from __future__ import annotations

import time

import click
from rich.console import Console

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import make_console, make_table, print_json
from layer8.cli.segment import open_segment, process_text
from layer8.errors import VnetNotFound
from layer8.vnet.status import StatusError, StatusEvent

_PAUSE = 0.2


@click.command("events")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=50, metavar="N", help="The last N (default: 50).")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only events of this kind; may be repeated.")
@pass_settings
def command(settings: Settings, lines: int, follow: bool, kinds: tuple[str, ...]) -> None:
    """Show what happened lately on the Vnet of this host: who attached, left, died, was refused or quarantined, changes
    of state in the whole overlay, alarms. Needs no answer of the Vnet: it works when it hangs, and after a crash."""
    reader = open_segment(settings.vnet)
    console = make_console()
    with reader:
        state = process_text(reader.pid, reader.started)
        if state != "running" and not settings.quiet:
            click.echo(f"the Vnet (pid {reader.pid}) is {state}; these are its last events", err=True)
        found = reader.events()
        events = [event for event in found if not kinds or event.kind in kinds]
        _print(settings, console, events[-lines:] if lines else [])
    last = max((event.number for event in found), default=0)
    while follow:
        time.sleep(_PAUSE)
        try:
            with open_segment(settings.vnet) as reader:
                found = reader.events()
        except (StatusError, VnetNotFound):
            continue  # it is being made anew
        newest = max((event.number for event in found), default=0)
        if newest < last:  # of the next Vnet
            last = 0
        fresh = [event for event in found if event.number > last]
        last = max(newest, last)
        _print(settings, console, [event for event in fresh if not kinds or event.kind in kinds])


def _print(settings: Settings, console: Console, events: list[StatusEvent]) -> None:
    if settings.json:
        for event in events:
            print_json({name: getattr(event, name) for name in event.__struct_fields__})
    elif events:
        console.print(make_table(["", "", "", "", "", ""], [_row(event) for event in events]))


def _row(event: StatusEvent) -> list[str]:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time)) + f".{int(event.time * 1000) % 1000:03}"
    return [
        moment,
        event.kind,
        event.alias or "-",
        str(event.uuid or "-"),
        str(event.pid or "-"),
        event.text or "",
    ]
