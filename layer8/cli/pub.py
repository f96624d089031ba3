"""`layer8 pub TOPIC`: publications on a topic."""

from __future__ import annotations

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import Progress, count_text, print_json, size_text
from layer8.cli.payloads import Payloads, takes_payloads
from layer8.vnic import Vnic


@click.command("pub")
@click.argument("topic")
@click.option("--reliable", is_flag=True, help="Wait for slow subscribers; drop nothing.")
@takes_payloads
@pass_settings
def command(settings: Settings, topic: str, reliable: bool, payloads: Payloads) -> None:
    """Publish on TOPIC. Text is published as it stands; without text or file, stdin is read to its end.

    A topic without subscribers is no error.
    """
    count = size = 0
    with Progress(settings) as progress, Vnic(vnet=settings.vnet, timeout=settings.seconds()) as vnic:
        for payload in payloads:
            progress.say(f"published {count_text(count, 'message')}, {size_text(size)}")
            sequence = vnic.publish(topic, payload, reliable=reliable, headers=payloads.headers)
            count += 1
            size += len(payload)
            if settings.json:
                print_json({"topic": topic, "sequence": sequence, "bytes": len(payload)})
    if not settings.json and not settings.quiet:
        click.echo(f"published {count_text(count, 'message')} on {topic}, {size_text(size)}")
