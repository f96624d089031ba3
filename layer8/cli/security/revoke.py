"""`layer8 security revoke`: a certificate is good no more."""

from __future__ import annotations

import time
from pathlib import Path

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import count_text, print_json
from layer8.cli.security.places import authority_directory, authority_option, parse_identity
from layer8.security.authority import Authority


@click.command("revoke")
@click.argument("who")
@authority_option
@pass_settings
def command(settings: Settings, who: str, authority: Path | None) -> None:
    """Revoke all certificates of WHO (vnet/HOST or vnic/NAME), or the one with this serial number.

    Vnets close what was opened with them as soon as they have the new list: those beside the authority within 5
    seconds, others when they reach it or a Vnet that has.
    """
    place = Authority(authority_directory(authority))
    wanted = parse_identity(who, place.overlay).uri if "/" in who else who.lower()
    serials = [f"{serial:x}" for serial in place.revoke(wanted, time.time())]
    if settings.json:
        print_json({"who": who, "serials": serials})
    else:
        click.echo(f"revoked {count_text(len(serials), 'certificate')} of {who}: {', '.join(serials)}")
