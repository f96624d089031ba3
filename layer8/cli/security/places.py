"""What the security commands share: where an authority and an identity are, and how an identity is written."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import click

from layer8.cli.payloads import standard_input
from layer8.protocol.statement import Role
from layer8.security.certificates import Identity
from layer8.security.loader import identity_directory

AUTHORITY = "LAYER8_AUTHORITY"

authority_option = click.option(
    "--authority",
    "authority",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help=f"The authority's directory (default: ${AUTHORITY}, else ~/.config/layer8/authority).",
)

lifetime_option = click.option(
    "--lifetime",
    type=float,
    metavar="SECONDS",
    help="How long a certificate is good (default: a day); a Vnet renews it at half of that.",
)


def authority_directory(given: Path | None) -> Path:
    """Where the authority is."""
    if given is not None:
        return given
    named = os.environ.get(AUTHORITY)
    return Path(named) if named else identity_directory({}).with_name("authority")


def own_identity_directory(given: Path | None) -> Path:
    return given if given is not None else identity_directory(os.environ)


def parse_identity(text: str, overlay: str) -> Identity:
    """ "vnet/HOST", "vnic/NAME", or the whole URI. Raises click.BadParameter."""
    uri = text if text.startswith("layer8://") else f"layer8://{overlay}/{text}"
    try:
        identity = Identity.parse(uri)
    except ValueError as error:
        raise click.BadParameter(f"{error}; write vnet/HOST or vnic/NAME") from error
    if identity.overlay != overlay:
        raise click.BadParameter(f"{identity} is not of the overlay {overlay}")
    return identity


def parse_role(text: str) -> tuple[Role, str]:
    """ "vnet/HOST" or "vnic/NAME", the name as it stands. Raises click.BadParameter."""
    role, slash, name = text.partition("/")
    if not slash or role not in (Role.VNET.value, Role.VNIC.value) or not name:
        raise click.BadParameter(f"{text!r} is neither vnet/HOST nor vnic/NAME")
    return Role(role), name


def read_secret(file: str) -> str:
    """What stands in `file`, or on stdin for "-"; never an argument, which everybody on the host can read."""
    if file == "-":
        secret = standard_input().read(4096).decode("ascii", "replace").strip()
    else:
        with open(file, encoding="ascii", errors="replace") as opened:
            secret = opened.read(4096).strip()
    if not secret:
        raise click.UsageError("the token is missing: give it on stdin, or in a file with --token-file FILE")
    return secret


def time_text(seconds: float) -> str:
    """A point of time, for people."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
