"""`layer8 security join`: an identity, from the authority."""

from __future__ import annotations

import time
from pathlib import Path
from typing import BinaryIO

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import print_json
from layer8.cli.security.places import own_identity_directory, parse_identity, parse_role, read_secret, time_text
from layer8.security import enrolment_client, identity
from layer8.security.authority import Authority, Token
from layer8.security.enrolment import Answer


@click.command("join")
@click.argument("who", required=False)
@click.option(
    "--identity",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the identity will be (default: $LAYER8_IDENTITY, else ~/.config/layer8/identity).",
)
@click.option("--at", "address", metavar="ADDRESS", help="Where the authority answers: HOST:PORT, or a Unix socket.")
@click.option(
    "--authority", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="The authority's directory."
)
@click.option("--token-file", metavar="FILE", default="-", help="Where the token is; by default it is read from stdin.")
@click.option("--request", is_flag=True, help="Print a signing request, for `layer8 security issue --request`.")
@click.option("--overlay", metavar="NAME", help="The overlay, for --request.")
@click.option("--answer", type=click.File("rb"), metavar="FILE", help="Take the answer to that request over.")
@pass_settings
def command(
    settings: Settings,
    who: str | None,
    directory: Path | None,
    address: str | None,
    authority: Path | None,
    token_file: str,
    request: bool,
    overlay: str | None,
    answer: BinaryIO | None,
) -> None:
    """Become WHO (vnet/HOST or vnic/NAME) of an overlay. The key is made here and never leaves this directory.

    With a token, by --at ADDRESS or --authority DIR. Without one, in two steps: --request prints what the authority's
    owner signs, --answer takes the result over.
    """
    ways = sum((address is not None, authority is not None, request, answer is not None))
    if ways != 1:
        raise click.UsageError("give one of --at ADDRESS, --authority DIR, --request and --answer FILE")
    place = own_identity_directory(directory)
    if answer is not None:
        _install(place, Answer.decode(answer.read()))
    elif who is None:
        raise click.UsageError("say who: vnet/HOST or vnic/NAME")
    elif request:
        if overlay is None and not who.startswith("layer8://"):
            raise click.UsageError("say of which overlay, with --overlay NAME")
        wanted = parse_identity(who, overlay or who.removeprefix("layer8://").partition("/")[0])
        click.echo(identity.request(place, wanted), nl=False)
        if not settings.quiet:
            click.echo(f"the key is in {place}; next: layer8 security join --answer FILE", err=True)
        return
    else:
        role, name = parse_role(who)
        token = Token.parse(read_secret(token_file))
        if address is not None:
            enrolment_client.join(place, (role.value, name), token, address, settings.seconds())
        else:
            assert authority is not None
            there = Authority(authority)
            asked = identity.request(place, parse_identity(who, there.overlay))
            _install(place, Answer.of(there.redeem(token, asked, time.time())))
    made = identity.load(place, time.time())
    if settings.json:
        print_json({"identity": made.identity.uri, "expires": made.expires, "directory": str(place)})
    else:
        click.echo(f"{made.identity} in {place}, until {time_text(made.expires)}")


def _install(place: Path, answer: Answer) -> None:
    identity.install(place, answer.certificate.encode(), answer.trust.encode(), answer.revoked.encode())
