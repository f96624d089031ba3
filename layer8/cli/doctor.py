"""`layer8 doctor`: what about this host would hurt, and what to do about it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import duration_text, make_console, make_table, print_json
from layer8.errors import Layer8Error, VnetNotFound
from layer8.health.host import Finding, Level, examine
from layer8.protocol.control import Ping
from layer8.version import VERSION
from layer8.vnic.control import ControlClient

_SIGNS = {Level.OK: "ok", Level.WARNING: "look", Level.BAD: "BAD"}


@click.command("doctor")
@pass_settings
def command(settings: Settings) -> int:
    """Look at this host: kernel, memory, descriptors, container, cores, clock, and whether the Vnet answers.

    Says what would hurt and what to do. The status is 1 when something is in the way, and 0 also with advice.
    """
    found = [*examine(), *_vnet(settings)]
    if settings.json:
        for finding in found:
            print_json(
                {"check": finding.what, "level": finding.level, "found": finding.found, "advice": finding.advice}
            )
    else:
        shown = [finding for finding in found if not settings.quiet or finding.level is not Level.OK]
        rows: list[list[str]] = []
        for finding in shown:
            rows.append([_SIGNS[finding.level], finding.what, finding.found])
            if finding.advice:
                rows.append(["", "", f"→ {finding.advice}"])
        if rows:
            make_console().print(make_table(["", "", ""], rows))
    return 1 if any(finding.level is Level.BAD for finding in found) else 0


def _vnet(settings: Settings) -> Iterator[Finding]:
    """Whether the Vnet answers. None running is no fault of the host."""
    told = os.environ.get("LAYER8_VNET")
    if told:
        yield Finding(what="LAYER8_VNET", level=Level.OK, found=f"{told}: programs look there and nowhere else")
    try:
        with ControlClient(settings.vnet, timeout=settings.seconds(1.0)) as client:
            begun = time.perf_counter()
            version = client.request(Ping(id=0)).text or "unknown"
            seconds = time.perf_counter() - begun
    except VnetNotFound as error:
        yield Finding(
            what="Vnet",
            level=Level.WARNING,
            found=f"none answers ({'; '.join(error.tried) or 'no place to look'})",
            advice="start one: layer8 vnet, or scripts/vnetd start",
        )
    except Layer8Error as error:
        yield Finding(what="Vnet", level=Level.BAD, found=str(error), advice="use the settings that its owner gave you")
    else:
        found = f"{settings.vnet} answers in {duration_text(seconds)}; it runs layer8 {version}"
        if version == VERSION:
            yield Finding(what="Vnet", level=Level.OK, found=found)
        else:
            yield Finding(
                what="Vnet",
                level=Level.WARNING,
                found=f"{found}, and this command is of layer8 {VERSION}",
                advice="after an upgrade: restart the Vnet, then the programs when convenient",
            )
