"""`layer8 vnet`: a Vnet in the foreground."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from layer8.cli.context import Settings, pass_settings
from layer8.names import check_vnet_name
from layer8.vnet import config as configuration
from layer8.vnet.daemon import Daemon
from layer8.vnet.probe import NoAnswer
from layer8.vnet.probe import probe as probe_vnet
from layer8.vnet.server import Vnet

_PROBE_SECONDS = 4.0


@click.command(name="vnet")
@click.option(
    "--name", metavar="NAME", help="Name of the Vnet (default: default); with --config, the one of its Vnets to run."
)
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Settings in TOML, a table [vnet.NAME] for each Vnet; all of them run.",
)
@click.option("--probe", is_flag=True, help="Run none: ask those that run whether they answer (for service managers).")
@click.option("--log-level", type=click.Choice(configuration.LOG_LEVELS), help="How much to log to stderr.")
@click.option("--ready-fd", type=int, hidden=True, help="Write a line to this descriptor when ready, and close it.")
@click.option("--parent", type=int, hidden=True, help="End when this process, which must be the parent, ends.")
@click.option(
    "--scratch", type=click.Path(path_type=Path), hidden=True, help="Remove this directory when that happens."
)
@pass_settings
def command(
    settings: Settings,
    name: str | None,
    path: Path | None,
    probe: bool,
    log_level: str | None,
    ready_fd: int | None,
    parent: int | None,
    scratch: Path | None,
) -> int:
    """Run a Vnet in the foreground, until SIGTERM or Ctrl-C.

    Prints where it listens, then `ready` once Vnics can attach. A second signal stops without waiting for messages
    that are still on their way.
    """
    if name == "":
        check_vnet_name(name)
    config = _config(path, name or (settings.vnet if settings.vnet != "default" else None))
    if probe:
        return _probe(config, settings)
    logging.basicConfig(
        level=(log_level or ("warning" if settings.quiet else config.log_level)).upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )

    def ready(vnets: Sequence[Vnet]) -> None:
        for vnet in vnets:
            if settings.json:
                click.echo(json.dumps({"vnet": vnet.config.name, "socket": str(vnet.path()), "pid": os.getpid()}))
            elif not settings.quiet:
                click.echo(f"Vnet {vnet.config.name} (pid {os.getpid()}) listens at {vnet.path()}")
        if not settings.json and not settings.quiet:
            click.echo("ready")
        sys.stdout.flush()
        if ready_fd is not None:
            os.write(ready_fd, b"ready\n")
            os.close(ready_fd)

    return Daemon(config, ready=ready, parent=parent, scratch=scratch).run()


def _probe(config: configuration.Config, settings: Settings) -> int:
    for vnet in config.vnets:
        try:
            seconds = probe_vnet(vnet, settings.timeout if settings.timeout is not None else _PROBE_SECONDS)
        except NoAnswer as error:
            click.echo(f"layer8 vnet: {error}", err=True)
            return 3
        if settings.json:
            click.echo(json.dumps({"vnet": vnet.name, "seconds": seconds}))
        elif not settings.quiet:
            click.echo(f"Vnet {vnet.name} answers within {seconds * 1000:.1f} ms")
    return 0


def _config(path: Path | None, name: str | None) -> configuration.Config:
    if path is not None:
        return configuration.read(path, only=name)
    if name is None:
        return configuration.Config()
    vnet = configuration.VnetConfig(name=check_vnet_name(name))
    return dataclasses.replace(configuration.Config(), vnets=(vnet,))
