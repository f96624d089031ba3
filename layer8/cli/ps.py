"""`layer8 ps`: who is there."""

from __future__ import annotations

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import (
    health_table,
    links_table,
    make_console,
    make_table,
    print_json,
    record_fields,
    size_text,
)
from layer8.health_record import State
from layer8.vnic.control import ControlClient


@click.command("ps")
@click.option("-a", "--all", "everybody", is_flag=True, help="Also those that went down a short while ago.")
@click.option("--principals", is_flag=True, help="By principal: what each sent, received, and was refused.")
@pass_settings
def command(settings: Settings, everybody: bool, principals: bool) -> None:
    """List the Vnics that the Vnet knows: alias, uuid, process, state and what went through each."""
    if principals:
        _principals(settings)
        return
    with ControlClient(settings.vnet, timeout=settings.seconds()) as client:
        records = [record for record in client.health() if everybody or record.state is not State.DOWN]
    if settings.json:
        for record in records:
            print_json(record_fields(record))
    else:
        console = make_console()
        console.print(health_table(records))
        links = links_table(records)
        if links is not None:
            console.print()
            console.print(links)


def _principals(settings: Settings) -> None:
    """Also those whose Vnics are gone."""
    with ControlClient(settings.vnet, timeout=settings.seconds()) as client:
        found = client.principals()
    if settings.json:
        for figures in found:
            print_json(figures)
        return
    columns = ["PRINCIPAL", ">VNICS", ">SENT", ">BYTES", ">RECEIVED", ">BYTES", ">REFUSED"]
    rows = (
        [
            figures.principal,
            str(figures.ports),
            f"{figures.sent:,}",
            size_text(figures.sent_bytes),
            f"{figures.received:,}",
            size_text(figures.received_bytes),
            f"{figures.refused:,}",
        ]
        for figures in found
    )
    make_console().print(make_table(columns, rows))
