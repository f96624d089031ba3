"""`layer8 security init`: the authority of a new overlay."""

from __future__ import annotations

import time
from pathlib import Path

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import print_json
from layer8.cli.security.places import authority_directory, authority_option
from layer8.security.authority import Authority


@click.command("init")
@click.argument("overlay")
@authority_option
@pass_settings
def command(settings: Settings, overlay: str, authority: Path | None) -> None:
    """Make the authority of the overlay OVERLAY: a directory with the key that everybody's certificate is signed by.

    Whoever can read it can be anybody in the overlay. Keep it on one host, and off hosts that run programs of others.
    """
    place = authority_directory(authority)
    made = Authority.create(place, overlay, time.time())
    fingerprint = made.fingerprint.hex()
    if settings.json:
        print_json({"overlay": overlay, "authority": str(place), "fingerprint": fingerprint})
    else:
        click.echo(f"overlay {overlay}, authority in {place}, fingerprint {fingerprint[:12]}")
        if not settings.quiet:
            click.echo("next: layer8 security issue vnet/HOST --into DIR   (or: layer8 security token vnet/HOST)")
