"""`layer8 reply ALIAS`: answers requests, with what they carried or with what a program makes of it."""

from __future__ import annotations

import contextlib
import math
import shlex
import signal
import subprocess
from collections.abc import Iterator

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import print_json
from layer8.message import Request
from layer8.vnic import Vnic


@click.command("reply")
@click.argument("alias")
@click.option("--echo", is_flag=True, help="Reply with what the request carried.")
@click.option("--command", "program", metavar="CMD", help="Run CMD (no shell); its stdin is the request.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N requests.")
@pass_settings
def command(settings: Settings, alias: str, echo: bool, program: str | None, count: int | None) -> None:
    """Take the alias ALIAS and answer requests until Ctrl-C, or SIGTERM, which lets it answer what has come before.

    With --command, stdout of the program is the reply; a status other than 0 is a failed reply that carries its
    stderr.
    """
    if echo == (program is not None):
        raise click.UsageError("give --echo or --command")
    try:
        arguments = [] if program is None else shlex.split(program)
    except ValueError as error:
        raise click.UsageError(f"--command {program!r} cannot be split into words: {error}") from error
    if not echo and not arguments:
        raise click.UsageError("--command is empty")
    with Vnic(alias, vnet=settings.vnet, timeout=settings.seconds()) as vnic, _drained_by_sigterm(vnic):
        if not settings.quiet:
            click.echo(f"answering as {alias} ({vnic.uuid})", err=True)
        answered = 0
        for message in vnic:
            if not isinstance(message, Request):
                continue
            failed = None if echo else _run(arguments, message)
            if echo:
                message.reply(message.payload)
            if settings.json:
                print_json({"from": message.source, "bytes": len(message.payload), "failed": failed})
            answered += 1
            if answered == count:
                return


@contextlib.contextmanager
def _drained_by_sigterm(vnic: Vnic) -> Iterator[None]:
    """The first SIGTERM takes the alias back, and the loop ends after the last request; a second one ends at once."""

    def drain(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        vnic.drain()

    before = signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: list[str], request: Request) -> str | None:
    """Answers the request with the program's output; why it failed, or None."""
    patience = None if math.isinf(request.remaining) else request.remaining
    try:
        result = subprocess.run(arguments, input=request.payload, capture_output=True, timeout=patience, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        request.fail(str(error))
        return str(error)
    if result.returncode != 0:
        reason = f"{arguments[0]} ended with status {result.returncode}"
        request.fail(reason, result.stderr)
        return reason
    request.reply(result.stdout)
    return None
