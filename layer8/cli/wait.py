"""`layer8 wait ALIAS`: for scripts that start processes in order."""

from __future__ import annotations

import math

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import Progress, print_json, record_fields
from layer8.cli.payloads import parse_destination
from layer8.errors import NotFound
from layer8.vnic.control import ControlClient


@click.command("wait")
@click.argument("name", metavar="ALIAS")
@pass_settings
def command(settings: Settings, name: str) -> None:
    """Wait until ALIAS (or a uuid) is up and print its uuid. For ever, unless --timeout is given: then status 4."""
    patience = settings.seconds(math.inf)
    with Progress(settings) as progress, ControlClient(settings.vnet) as client:
        progress.say(f"waiting for {name}", now=True)
        try:
            record = client.find(parse_destination(name), timeout=patience)
        except NotFound:
            raise TimeoutError(f"{name} did not come up within {patience} s") from None
    if settings.json:
        print_json(record_fields(record))
    elif not settings.quiet:
        click.echo(str(record.uuid))
