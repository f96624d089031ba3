"""`layer8 security token`: lets somebody join."""

from __future__ import annotations

import time
from pathlib import Path

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import print_json
from layer8.cli.security.places import authority_directory, authority_option, lifetime_option, parse_role, time_text
from layer8.security.authority import TOKEN_SECONDS, Authority
from layer8.security.certificates import LEAF_SECONDS
from layer8.security.files import write_private


@click.command("token")
@click.argument("who")
@click.option("--seconds", type=float, default=TOKEN_SECONDS, show_default=True, help="How long the token is good.")
@click.option(
    "--uses",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How often it is good; over 1, WHO may end in a star.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it there (0600).")
@lifetime_option
@authority_option
@pass_settings
def command(
    settings: Settings,
    who: str,
    seconds: float,
    uses: int,
    out: Path | None,
    lifetime: float | None,
    authority: Path | None,
) -> None:
    """Print a token with which WHO (vnet/HOST or vnic/NAME) may join, once and soon.

    Whoever has it can be WHO until then: hand it over in a file or a pipe. The authority keeps only its hash.
    """
    place = Authority(authority_directory(authority))
    role, name = parse_role(who)
    now = time.time()
    leaf_seconds = LEAF_SECONDS if lifetime is None else lifetime
    text = place.make_token(role, name, now, seconds=seconds, uses=uses, lifetime=leaf_seconds).text()
    if out is not None:
        write_private(out, text.encode() + b"\n")
        text = ""
    if settings.json:
        fields: dict[str, object] = {"who": who, "expires": now + seconds, "uses": uses}
        print_json(fields | ({"token": text} if text else {"file": str(out)}))
        return
    if text:
        click.echo(text)
    if not settings.quiet:
        often = "once" if uses == 1 else f"{uses} times"
        click.echo(f"for {who}, good {often} until {time_text(now + seconds)}", err=True)
