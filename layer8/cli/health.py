"""`layer8 health`: every field of the health records, changes as they happen, and what Vnics report of themselves."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from uuid import UUID

import click
import msgspec

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import make_console, make_table, print_json, printable, record_fields, size_text
from layer8.cli.payloads import parse_destination
from layer8.cli.segment import open_segment
from layer8.errors import Layer8Error, NotFound
from layer8.health.directory import check_filters
from layer8.health_record import HealthEvent, HealthRecord, LinkRecord, State
from layer8.protocol.control import ReadReport
from layer8.rendezvous import http_token_file
from layer8.vnic.control import ControlClient

_NOBODY = 3  # as everywhere: nobody there
_SIZES = {"memory", "bytes_in", "bytes_out", "queued"}
_MOMENTS = {"create_time", "started", "since", "heard"}


@click.command("health")
@click.argument("what", nargs=-1, metavar="[UUID|ALIAS | report UUID|ALIAS | page]")
@click.option("--alias", help="Only this alias.")
@click.option("--host", help="Only this host.")
@click.option("--service", help="Only who answers requests under this name.")
@click.option("--state", help="Only this state: UP, SUSPECT, STOPPED, UNREACHABLE or DOWN.")
@click.option("--topic", help="Only subscribers of this topic.")
@click.option("--kind", type=click.Choice(["vnic", "vnet"]), help="Only Vnics or only Vnets.")
@click.option("-f", "--follow", is_flag=True, help="Print who is there and then every change, until Ctrl-C.")
@click.option("--ask", type=click.Choice(["stack", "memory"]), help="With `report`: let it report now.")
@pass_settings
def command(
    settings: Settings, /, what: tuple[str, ...], follow: bool, ask: str | None, **filters: str | None
) -> int | None:
    """Show the health records, all fields of each; of one Vnic with UUID or ALIAS. The status is 1 when one of those
    chosen is in trouble (who has left in order is not), and 3 when there is none.

    `layer8 health report UUID` shows what a Vnic of this host has reported of its threads or its memory, on an alarm
    or when asked with --ask; it must have agreed (Vnic.allow_reports).

    `layer8 health page` prints the address of the page that the Vnet serves, with the token that opens it.
    """
    chosen = check_filters(filters)
    with ControlClient(settings.vnet, timeout=settings.seconds()) as client:
        if what == ("page",):
            return _page(settings)
        if what[:1] == ("report",) and len(what) == 2:
            return _report(settings, client, what[1], ask or "")
        if len(what) > 1 or ask or what == ("report",):
            raise click.UsageError("give one UUID or ALIAS, or `report` and one of them")
        to = parse_destination(what[0]) if what else None
        if follow:
            _follow(settings, client, to, filters)
        records = [record for record in client.health(**filters) if to in (None, record.uuid, record.alias)]
    if not chosen.get("state") and isinstance(to, str) and any(record.state is not State.DOWN for record in records):
        records = [record for record in records if record.state is not State.DOWN]
    _show(settings, records)
    if not records:
        if not settings.quiet and not settings.json:
            click.echo("layer8: no health record matches; `layer8 ps --all` lists who is and was there", err=True)
        return _NOBODY
    return 0 if all(record.is_up or record.reason == "detached" for record in records) else 1


def _show(settings: Settings, records: list[HealthRecord]) -> None:
    console = make_console()
    for number, record in enumerate(records):
        if settings.json:
            print_json(record_fields(record))
        elif not settings.quiet:
            if number:
                console.print()
            rows = [[name, _text(name, value)] for name, value in record_fields(record).items()]
            console.print(make_table(["", ""], rows))


def _follow(settings: Settings, client: ControlClient, to: UUID | str | None, filters: dict[str, str | None]) -> None:
    own: dict[str, object] = {"uuid": to} if isinstance(to, UUID) else {"alias": to} if to else {}
    for event in client.watch(**(filters | own)):
        if settings.json:
            fields = {"kind": event.kind, "present": event.present, "record": record_fields(event.record)}
            print_json(fields)
        else:
            click.echo(_line(event))
            sys.stdout.flush()


def _line(event: HealthEvent) -> str:
    record = event.record
    moment = time.strftime("%H:%M:%S")
    what = "is there" if event.present else event.kind
    why = f" ({record.reason})" if record.reason else ""
    alarms = f" alarms: {', '.join(record.alarms)}" if record.alarms else ""
    return printable(
        f"{moment} {what:8} {record.state:11} {record.uuid} {record.alias or '-'} on {record.host}{why}{alarms}"
    )


def _report(settings: Settings, client: ControlClient, name: str, ask: str) -> int:
    to = parse_destination(name)
    uuid = to if isinstance(to, UUID) else client.find(to).uuid
    try:
        done = client.request(ReadReport(id=0, uuid=uuid, ask=ask))
    except NotFound:
        hosts = sorted({record.host for record in client.health(uuid=uuid)})
        where = f"; it is on {hosts[0]}, whose Vnet keeps its reports" if hosts and hosts[0] != platform.node() else ""
        raise Layer8Error(
            f"this Vnet has no report of {uuid}{where} (`--ask stack` and `--ask memory` ask now)"
        ) from None
    report = msgspec.json.decode(done.text, type=dict[str, object])
    if settings.json:
        print_json(report)
    else:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(str(report["time"]))))
        click.echo(printable(f"{report['kind']} of {report['uuid']}, {moment}, because of: {report['cause']}\n"))
        click.echo(printable(str(report["text"])))
    return 0


def _page(settings: Settings) -> int:
    with open_segment(settings.vnet) as reader:
        snapshot = reader.snapshot()
    if not snapshot.http:
        raise Layer8Error(f'Vnet {snapshot.name} serves no page: put http = "127.0.0.1:9464" into its configuration')
    token = http_token_file(Path(snapshot.socket)).read_text().strip()
    address = f"http://{snapshot.http}/?token={token}"
    if settings.json:
        print_json({"address": address, "metrics": f"http://{snapshot.http}/metrics", "token": token})
    else:
        click.echo(address)
    return 0


def _text(name: str, value: object) -> str:
    match value:
        case None | "" | ():
            return "-"
        case tuple() if name == "links":
            return "; ".join(_link_text(link) for link in value)
        case tuple():
            return ", ".join(map(str, value))
        case float() if name in _MOMENTS:
            return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value)) if value else "-"
        case int() if name in _SIZES:
            return size_text(value)
        case float():
            return f"{value:.2f}"
        case _:
            return str(value)


def _link_text(link: LinkRecord) -> str:
    return f"{link.host or link.vnet} {link.state}, out {size_text(link.bytes_out)}, in {size_text(link.bytes_in)}"
