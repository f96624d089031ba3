"""`layer8 ping`: is it there, and how far away is the answer."""

from __future__ import annotations

import time

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import duration_text, print_json, printable
from layer8.cli.payloads import parse_destination
from layer8.health_record import HealthRecord
from layer8.protocol.control import Ping
from layer8.vnic.control import ControlClient


@click.command("ping")
@click.argument("name", required=False)
@click.option("-c", "--count", type=click.IntRange(min=1), default=1, metavar="N", help="Ask N times (default: 1).")
@click.option("-i", "--interval", type=click.FloatRange(min=0), default=1.0, metavar="SECONDS", help="Default: 1.")
@pass_settings
def command(settings: Settings, name: str | None, count: int, interval: float) -> int:
    """Ask the Vnet for a sign of life; with NAME, whether that alias or uuid is up.

    The time is that of the question to the Vnet, which watches the processes itself: no Vnic is disturbed. The status
    is 1 when somebody is there but not UP (stopped, for instance). With --timeout it waits until NAME is there.
    """
    to = None if name is None else parse_destination(name)
    healthy = True
    with ControlClient(settings.vnet, timeout=settings.seconds()) as client:
        for number in range(count):
            if number:
                time.sleep(interval)
            begun = time.perf_counter()
            record = None if to is None else client.find(to, timeout=settings.seconds(0.0))
            if record is None:
                client.request(Ping(id=0))
            seconds = time.perf_counter() - begun
            healthy = healthy and (record is None or record.is_up)
            if settings.json:
                print_json({"to": name, "seconds": seconds, **_fields(record)})
            elif not settings.quiet:
                click.echo(f"{_describe(record)}: {duration_text(seconds)}")
    return 0 if healthy else 1


def _fields(record: HealthRecord | None) -> dict[str, object]:
    if record is None:
        return {}
    return {"uuid": record.uuid, "alias": record.alias, "state": record.state, "host": record.host, "pid": record.pid}


def _describe(record: HealthRecord | None) -> str:
    if record is None:
        return "the Vnet is there"
    name = f"{record.alias} ({record.uuid})" if record.alias else str(record.uuid)
    return printable(f"{name} is {record.state} on {record.host or 'this host'}, process {record.pid}")
