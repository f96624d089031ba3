"""`layer8 health`: every field of the health records."""

from __future__ import annotations

import time

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import make_console, make_table, print_json, record_fields, size_text
from layer8.health.directory import check_filters
from layer8.vnic.control import ControlClient

_NOBODY = 3  # as everywhere: nobody there
_SIZES = {"memory", "bytes_in", "bytes_out"}
_MOMENTS = {"create_time", "since"}


@click.command("health")
@click.option("--alias", help="Only this alias.")
@click.option("--state", help="Only this state: UP, SUSPECT, STOPPED, UNREACHABLE or DOWN.")
@click.option("--topic", help="Only subscribers of this topic.")
@click.option("--kind", type=click.Choice(["vnic", "vnet"]), help="Only Vnics or only Vnets.")
@pass_settings
def command(settings: Settings, /, **filters: str | None) -> int:
    """Show the health records, all fields of each. The status is 1 when one of those chosen is in trouble (who has left
    in order is not), and 3 when there is none."""
    chosen = check_filters(filters)
    with ControlClient(settings.vnet, timeout=settings.seconds()) as client:
        records = client.health(**chosen)
    console = make_console()
    for number, record in enumerate(records):
        if settings.json:
            print_json(record_fields(record))
        elif not settings.quiet:
            if number:
                console.print()
            rows = [[name, _text(name, value)] for name, value in record_fields(record).items()]
            console.print(make_table(["", ""], rows))
    if not records:
        return _NOBODY
    return 0 if all(record.is_up or record.reason == "detached" for record in records) else 1


def _text(name: str, value: object) -> str:
    match value:
        case None | "" | ():
            return "-"
        case tuple():
            return ", ".join(map(str, value))
        case float() if name in _MOMENTS:
            return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value)) if value else "-"
        case int() if name in _SIZES:
            return size_text(value)
        case float():
            return f"{value:.2f}"
        case _:
            return str(value)
