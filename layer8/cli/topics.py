"""`layer8 topics`: what is subscribed to."""

from __future__ import annotations

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import make_console, make_table, print_json
from layer8.vnic.control import ControlClient


@click.command("topics")
@pass_settings
def command(settings: Settings) -> None:
    """List the topics that somebody subscribes to, with the number of subscribers."""
    with ControlClient(settings.vnet, timeout=settings.seconds()) as client:
        topics = client.topics()
    if settings.json:
        for topic, subscribers in topics:
            print_json({"topic": topic, "subscribers": subscribers})
    else:
        rows = [[topic, f"{subscribers:,}"] for topic, subscribers in topics]
        make_console().print(make_table(["TOPIC", ">SUBSCRIBERS"], rows))
