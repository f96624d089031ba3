"""`layer8 security serve`: the authority answers those who join and renew."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import print_json
from layer8.cli.security.places import authority_directory, authority_option
from layer8.security.authority import Authority
from layer8.security.enrolment import What
from layer8.security.enrolment_service import Door, EnrolmentService

_log = logging.getLogger("layer8.security")


@click.command("serve")
@click.option(
    "--listen", "addresses", multiple=True, required=True, metavar="ADDRESS", help="HOST:PORT, or a Unix socket."
)
@authority_option
@pass_settings
def command(settings: Settings, addresses: tuple[str, ...], authority: Path | None) -> None:
    """Let others join and renew at ADDRESS, until SIGTERM or Ctrl-C.

    A Vnet with the settings `authority` and `enrol` does the same beside its own work.
    """
    logging.basicConfig(
        level="WARNING" if settings.quiet else "INFO",
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    place = Authority(authority_directory(authority))
    ended = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ended)  # also in the threads that begin now
    service = EnrolmentService(addresses, Door(place, _told))
    try:
        if settings.json:
            print_json({"overlay": place.overlay, "addresses": service.addresses})
        else:
            click.echo(f"the authority of {place.overlay} listens at {', '.join(service.addresses)}")
            sys.stdout.flush()
        signal.sigwait(ended)
    finally:
        service.close()


def _told(what: What, who: str, granted: bool, why: str) -> None:
    if granted:
        _log.info("%s: %s", what.value, who)
    else:
        _log.warning("%s refused: %s%s", what.value, f"{who}: " if who else "", why)
