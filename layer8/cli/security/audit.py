"""`layer8 security audit`: the audit log, read and checked."""

from __future__ import annotations

import json
from pathlib import Path

import click

from layer8.cli.context import Settings, global_options, pass_settings
from layer8.cli.output import count_text, make_console, make_table, print_json
from layer8.cli.security.places import time_text
from layer8.errors import Layer8Error
from layer8.protocol.control import AuditPlace
from layer8.security import audit
from layer8.security.files import read_private
from layer8.security.trust import Trust
from layer8.security.x509 import is_sealed
from layer8.vnic.control import ControlClient

command = click.Group("audit", help="Read and check an audit log.")

_log = click.argument("log", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)


def _place(settings: Settings, log: Path | None) -> Path:
    """The log that was named, or that of the Vnet."""
    if log is not None:
        return log
    with ControlClient(settings.vnet, timeout=settings.seconds()) as client:
        place = client.request(AuditPlace(id=0)).text
    if not place:
        raise click.ClickException("this Vnet writes no audit log (setting audit); give the path of one")
    return Path(place)


@click.command("verify")
@_log
@click.option(
    "--trust",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The list of roots (trust.json of an identity or of the authority): check by whom it was sealed.",
)
@click.option("--head", type=click.File("rb"), metavar="FILE", help="A copy of its head that was kept elsewhere.")
@pass_settings
def verify(settings: Settings, log: Path | None, trust: Path | None, head: object) -> int:
    """Check that no line of LOG and of the older files beside it was edited, removed, added or exchanged.

    Without LOG the Vnet is asked where its own is, and you need the right to administer it, and to read the file.
    Status 1 when something was found. Lines written since the last seal (a minute) can be cut off without a trace.
    """
    check = None
    if trust is not None:
        roots = Trust.decode(read_private(trust))
        check = lambda data, signature: is_sealed(roots, data, signature)  # noqa: E731
    known = None if head is None else audit.Head.decode(head.read())  # type: ignore[attr-defined]
    report = audit.verify(_place(settings, log), check=check, known=known)
    if settings.json:
        print_json(
            {
                "lines": report.lines,
                "first": report.first,
                "last": report.last,
                "sealed": report.sealed,
                "good": not report.findings,
                "findings": [{"where": finding.where, "what": finding.what} for finding in report.findings],
            }
        )
    else:
        for finding in report.findings:
            click.echo(f"{finding.where}: {finding.what}")
        sealed = "never sealed" if report.sealed is None else f"sealed up to {report.sealed}"
        verdict = f"{len(report.findings)} findings" if report.findings else "good"
        click.echo(f"{count_text(report.lines, 'line')} ({report.first} to {report.last}), {sealed}: {verdict}")
    return 1 if report.findings else 0


@click.command("show")
@_log
@click.option("-n", "--count", type=click.IntRange(min=1), default=50, show_default=True, help="The latest so many.")
@click.option("--refused", is_flag=True, help="Only what was refused or taken away.")
@pass_settings
def show(settings: Settings, log: Path | None, count: int, refused: bool) -> None:
    """Show the latest lines of LOG, or of the Vnet's own."""
    place = _place(settings, log)
    try:
        lines = [json.loads(line) for line in place.read_bytes().splitlines() if line.strip()]
    except ValueError:
        raise Layer8Error(f"{place} is no audit log, or not whole: `layer8 security audit verify` says where") from None
    lines = [line for line in lines if not refused or not line.get("allowed", True)][-count:]
    if settings.json:
        for line in lines:
            print_json(line)
        return
    rows = (
        [
            time_text(line["time"]),
            line["what"] + (f" ×{line['count']}" if "count" in line else ""),
            "yes" if line.get("allowed", True) else "NO",
            line.get("principal", "-"),
            " ".join(filter(None, (line.get("action"), line.get("resource")))) or "-",
            line.get("reason", ""),
        ]
        for line in lines
    )
    make_console().print(make_table(["TIME", "WHAT", "OK", "PRINCIPAL", "ON", "REASON"], rows))


for _command in (verify, show):
    _command.params += global_options()
    command.add_command(_command)
