"""`layer8 send NAME`: messages to a Vnic or to one of those that share an alias."""

from __future__ import annotations

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import Progress, count_text, print_json, size_text
from layer8.cli.payloads import Payloads, parse_destination, takes_payloads
from layer8.errors import Unreachable
from layer8.message import Undeliverable
from layer8.vnic import Vnic

_LARGE = 8 << 20  # bytes: it may take a while


@click.command("send")
@click.argument("name")
@takes_payloads
@pass_settings
def command(settings: Settings, name: str, payloads: Payloads) -> None:
    """Send to NAME, an alias or a uuid. Text is sent as it stands; without text or file, stdin is read to its end.

    What could not be delivered in the end fails the command too.
    """
    to = parse_destination(name)
    returned: list[Undeliverable] = []
    count = size = 0
    with Progress(settings) as progress, Vnic(vnet=settings.vnet, timeout=settings.seconds()) as vnic:
        vnic.on_undeliverable = returned.append
        for payload in payloads:
            sent = f"sent {count_text(count, 'message')}, {size_text(size)}"
            progress.say(f"{sent}; sending {size_text(len(payload))}", now=len(payload) > _LARGE)
            sequence = vnic.send(to, payload, headers=payloads.headers)
            count += 1
            size += len(payload)
            if settings.json:
                print_json({"to": name, "sequence": sequence, "bytes": len(payload)})
    if returned:
        raise Unreachable(to, f"{count_text(len(returned), 'message')} came back ({returned[0].reason})")
    if not settings.json and not settings.quiet:
        click.echo(f"sent {count_text(count, 'message')} to {name}, {size_text(size)}")
