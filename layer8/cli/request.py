"""`layer8 request NAME`: asks and prints the reply."""

from __future__ import annotations

import sys

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import Progress, payload_fields, print_json
from layer8.cli.payloads import Payloads, parse_destination, takes_payloads
from layer8.vnic import Vnic


@click.command("request")
@click.argument("name")
@takes_payloads
@pass_settings
def command(settings: Settings, name: str, payloads: Payloads) -> None:
    """Send a request to NAME, an alias or a uuid, and print the reply exactly as it is.

    With --lines every line is a request of its own, and a newline follows each reply. What a failed reply carried
    beside its reason is in the `payload` that --json prints on stderr.
    """
    to = parse_destination(name)
    with Progress(settings) as progress, Vnic(vnet=settings.vnet, timeout=settings.seconds()) as vnic:
        for answered, payload in enumerate(payloads):
            if settings.json or not sys.stdout.isatty():
                progress.say(f"{answered:,} answered")
            reply = vnic.request(to, payload, headers=payloads.headers)
            if settings.json:
                print_json({"from": reply.source, "headers": dict(reply.headers), **payload_fields(reply.payload)})
                continue
            sys.stdout.buffer.write(reply.payload + (b"\n" if payloads.lines else b""))
            sys.stdout.buffer.flush()
