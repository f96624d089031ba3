"""`layer8 security show`: what stands in a directory."""

from __future__ import annotations

import time
from pathlib import Path

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import make_console, make_table, print_json
from layer8.cli.security.places import own_identity_directory, time_text
from layer8.security import identity
from layer8.security.authority import Authority


@click.command("show")
@click.option(
    "--identity",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="An identity (default: $LAYER8_IDENTITY, else ~/.config/layer8/identity).",
)
@click.option(
    "--authority", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="An authority instead."
)
@pass_settings
def command(settings: Settings, directory: Path | None, authority: Path | None) -> None:
    """Show who an identity is and how long, or whom an authority has signed. Keys and tokens are never shown."""
    if authority is not None:
        _authority(settings, Authority(authority))
    else:
        _identity(settings, own_identity_directory(directory))


def _identity(settings: Settings, place: Path) -> None:
    now = time.time()
    held = identity.load(place, now)
    good = now < held.expires
    fields: dict[str, object] = {
        "identity": held.identity.uri,
        "directory": str(place),
        "fingerprint": held.trust.fingerprint.hex(),
        "serial": f"{held.certificate.serial_number:x}",
        "expires": held.expires,
        "renew_at": held.renew_at,
        "good": good,
        "roots": len(held.trust.roots),
        "revocation_list": held.revoked_number,
        "revoked": held.revoked.get_revoked_certificate_by_serial_number(held.certificate.serial_number) is not None,
    }
    if settings.json:
        print_json(fields)
        return
    times = {"expires": time_text(held.expires), "renew_at": time_text(held.renew_at)}
    rows = [(name.replace("_", " "), str(value)) for name, value in (fields | times).items()]
    make_console().print(make_table(["", ""], rows))


def _authority(settings: Settings, place: Authority) -> None:
    trust = place.trust()
    leaves = place.leaves()
    if settings.json:
        print_json(
            {
                "overlay": place.overlay,
                "authority": str(place.path),
                "fingerprint": place.fingerprint.hex(),
                "roots": [{"signs_from": root.signs_from, "until": root.until} for root in trust.roots],
                "certificates": [
                    {"identity": uri, "serial": serial, "expires": expires, "revoked": revoked}
                    for serial, (uri, expires, revoked) in leaves.items()
                ],
            }
        )
        return
    console = make_console()
    console.print(f"overlay {place.overlay}, fingerprint {place.fingerprint.hex()}, roots {len(trust.roots)}")
    rows = sorted(
        (uri, serial, time_text(expires), "revoked" if revoked else "good")
        for serial, (uri, expires, revoked) in leaves.items()
    )
    console.print(make_table(["IDENTITY", "SERIAL", "EXPIRES", "STATE"], rows))
