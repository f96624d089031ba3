"""`layer8 security reload`: the Vnet looks at its policy and identity at once."""

from __future__ import annotations

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import print_json
from layer8.protocol.control import Reload
from layer8.vnic.control import ControlClient


@click.command("reload")
@pass_settings
def command(settings: Settings) -> None:
    """Let the Vnet look at its policy and identity at once (it looks by itself every second).

    What is wrong with them is said here and in its log; what was good before then stays in force.
    """
    with ControlClient(settings.vnet, timeout=settings.seconds(30.0)) as client:
        text = client.request(Reload(id=0)).text
    if settings.json:
        print_json({"result": text})
    else:
        click.echo(text)
