"""`layer8 security rotate`: a new key for the authority."""

from __future__ import annotations

import time
from pathlib import Path

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import print_json
from layer8.cli.security.places import authority_directory, authority_option, time_text
from layer8.security.authority import OVERLAP_SECONDS, Authority


@click.command("rotate")
@click.option(
    "--overlap",
    type=float,
    default=OVERLAP_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long both keys are good.",
)
@authority_option
@pass_settings
def command(settings: Settings, overlap: float, authority: Path | None) -> None:
    """Give the authority a new key.

    The new one is believed at once and signs after half of the overlap; the old one is believed until its end. Nobody
    is cut off who renews in that time, and the overlay keeps its fingerprint.
    """
    place = Authority(authority_directory(authority))
    trust = place.rotate(time.time(), overlap)
    new = trust.roots[-1]
    if settings.json:
        print_json({"roots": len(trust.roots), "signs_from": new.signs_from, "until": trust.roots[-2].until})
    else:
        old_until = time_text(trust.roots[-2].until)
        click.echo(
            f"root {len(trust.roots)} signs from {time_text(new.signs_from)}; the one before is good until {old_until}"
        )
