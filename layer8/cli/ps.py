"""`layer8 ps`: who is there."""

from __future__ import annotations

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import health_table, make_console, print_json, record_fields
from layer8.health_record import State
from layer8.vnic.control import ControlClient


@click.command("ps")
@click.option("-a", "--all", "everybody", is_flag=True, help="Also those that went down a short while ago.")
@pass_settings
def command(settings: Settings, everybody: bool) -> None:
    """List the Vnics that the Vnet knows: alias, uuid, process, state and what went through each."""
    with ControlClient(settings.vnet, timeout=settings.seconds()) as client:
        records = [record for record in client.health() if everybody or record.state is not State.DOWN]
    if settings.json:
        for record in records:
            print_json(record_fields(record))
    else:
        make_console().print(health_table(records))
