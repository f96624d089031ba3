"""`layer8 security issue`: a certificate, by whoever has the authority's directory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import BinaryIO

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import print_json
from layer8.cli.security.places import (
    authority_directory,
    authority_option,
    lifetime_option,
    parse_identity,
    time_text,
)
from layer8.security import certificates, identity
from layer8.security.authority import Authority, Issued
from layer8.security.certificates import LEAF_SECONDS
from layer8.security.enrolment import Answer


@click.command("issue")
@click.argument("who", required=False)
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Make key and certificate there."
)
@click.option(
    "--request", type=click.File("rb"), metavar="FILE", help="Sign this request (- is stdin), and print the answer."
)
@lifetime_option
@authority_option
@pass_settings
def command(
    settings: Settings,
    who: str | None,
    into: Path | None,
    request: BinaryIO | None,
    lifetime: float | None,
    authority: Path | None,
) -> None:
    """Give WHO (vnet/HOST or vnic/NAME) a certificate.

    With --into the key is made here, and the directory is ready for use. With --request whoever has the key has asked
    (`layer8 security join --request`), and its answer goes to stdout; WHO, if given, must be whom it asks for.
    """
    place = Authority(authority_directory(authority))
    seconds = LEAF_SECONDS if lifetime is None else lifetime
    if (into is None) == (request is None):
        raise click.UsageError("give either --into DIR or --request FILE")
    if request is not None:
        pem = request.read(65536)
        wanted, _ = certificates.check_request(pem)
        if who is not None and parse_identity(who, place.overlay) != wanted:
            raise click.UsageError(f"the request is for {wanted}, not for {who}")
        issued = place.sign(pem, time.time(), seconds)
        click.echo(Answer.of(issued).encode(), nl=False)
        _tell(settings, issued, None)
        return
    assert into is not None
    if who is None:
        raise click.UsageError("say who: vnet/HOST or vnic/NAME")
    key = certificates.new_key()
    issued = place.issue(parse_identity(who, place.overlay), key.public_key(), time.time(), seconds)
    identity.install(into, issued.certificate, issued.trust, issued.revoked, key)
    _tell(settings, issued, into)


def _tell(settings: Settings, issued: Issued, into: Path | None) -> None:
    if into is None:
        click.echo(f"issued {issued.identity} until {time_text(issued.expires)}", err=True)
    elif settings.json:
        print_json(
            {
                "identity": issued.identity.uri,
                "serial": f"{issued.serial:x}",
                "expires": issued.expires,
                "directory": str(into),
            }
        )
    else:
        click.echo(f"{issued.identity} in {into}, until {time_text(issued.expires)}")
