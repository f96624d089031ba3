"""`layer8 top`: who does how much, live.

It asks the Vnet for the records of the overlay. When no answer comes it shows the status segment in place of them,
which needs no answer: the Vnics of this host as they were when the Vnet last wrote, and what has become of its process.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import click
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import age_text, make_console, make_table, print_json, record_fields, size_text
from layer8.cli.segment import open_segment, process_text
from layer8.errors import Layer8Error, VnetNotFound
from layer8.health_record import HealthRecord, LinkRecord, State
from layer8.vnet.status import PortStatus, Snapshot
from layer8.vnic.control import ControlClient

_PATIENCE = 2.0  # seconds without an answer, until the status segment is shown
_COLOURS = {
    State.UP: "green",
    State.SUSPECT: "yellow",
    State.STOPPED: "yellow",
    State.UNREACHABLE: "red",
    State.DOWN: "red",
}


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown at one moment. `source`: "directory" or "status segment". `age`: seconds that it is old.
    `vnet`: what the Vnet's process does."""

    time: float
    source: str
    vnet: str
    age: float = 0.0
    records: tuple[HealthRecord, ...] = ()
    alarms: tuple[str, ...] = ()
    rates: dict[str, tuple[float, float, float]] = {}  # by uuid: messages out of it and into it, bytes, a second


class Asker:
    """Asks for records in a thread of its own, which may hang as long as the Vnet does."""

    def __init__(self, vnet: str, interval: float) -> None:
        self._vnet = vnet
        self._interval = interval
        self._answer: tuple[float, tuple[HealthRecord, ...]] | None = None
        self.error: Layer8Error | None = None
        self.asked = threading.Event()
        threading.Thread(target=self._ask, name="layer8-top", daemon=True).start()

    def _ask(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                try:
                    with ControlClient(self._vnet, timeout=_PATIENCE) as client:
                        while True:
                            self._answer = time.monotonic(), client.health()
                            self.error = None
                            self.asked.set()
                            time.sleep(self._interval)
                except Layer8Error as error:
                    self.error = error
                    self.asked.set()
            time.sleep(min(self._interval, 0.5))

    def records(self) -> tuple[HealthRecord, ...] | None:
        """The last answer; None when it is too old to be shown."""
        answer = self._answer
        if answer is None or time.monotonic() - answer[0] > _PATIENCE + self._interval:
            return None
        return answer[1]


class Frames:
    """Makes frames, and rates from one to the next."""

    def __init__(self, vnet: str, interval: float) -> None:
        self._vnet = vnet
        self._asker = Asker(vnet, interval)
        self._before: dict[UUID, tuple[float, HealthRecord]] = {}

    def first(self) -> Frame:
        """As soon as there is one. Raises what the Vnet refused with, VnetNotFound without any trace of one."""
        deadline = time.monotonic() + _PATIENCE
        while not self._asker.asked.wait(0.05) and time.monotonic() < deadline:
            pass
        return self.next()

    def next(self) -> Frame:
        records = self._asker.records()
        if records is not None:
            frame = Frame(
                time=time.time(),
                source="directory",
                vnet="running",  # it answers; a pid among the records may be of another host
                records=tuple(record for record in records if record.state is not State.DOWN),
                alarms=_alarms(records),
            )
        else:
            frame = self._from_segment()
        return msgspec.structs.replace(frame, rates=self._rates(frame))

    def _from_segment(self) -> Frame:
        try:
            with open_segment(self._vnet) as reader:
                snapshot, state = reader.snapshot(), process_text(reader.pid, reader.started)
        except VnetNotFound:
            raise self._asker.error or VnetNotFound((self._vnet,)) from None
        return Frame(
            time=time.time(),
            source="status segment",
            vnet=state,
            age=time.time() - snapshot.updated,
            records=(_own_record(snapshot), *(_record(snapshot, port) for port in snapshot.ports)),
            alarms=snapshot.alarms,
        )

    def _rates(self, frame: Frame) -> dict[str, tuple[float, float, float]]:
        rates = {}
        now = frame.time - frame.age
        for record in frame.records:
            known = self._before.get(record.uuid)
            if known is not None and now > known[0]:
                seconds, before = now - known[0], known[1]
                rates[str(record.uuid)] = (
                    max(0.0, (record.messages_in - before.messages_in) / seconds),
                    max(0.0, (record.messages_out - before.messages_out) / seconds),
                    max(0.0, (record.bytes_in + record.bytes_out - before.bytes_in - before.bytes_out) / seconds),
                )
            if known is None or now > known[0]:
                self._before[record.uuid] = now, record
        return rates


def _alarms(records: tuple[HealthRecord, ...]) -> tuple[str, ...]:
    """Who raises what, and where, if there are several hosts."""
    several = len({record.host for record in records}) > 1
    return tuple(
        f"{record.alias or record.uuid}{f' on {record.host}' if several else ''}: {name}"
        for record in records
        for name in record.alarms
    )


def _own_record(snapshot: Snapshot) -> HealthRecord:
    records = snapshot.switch.get("records", 0)
    return HealthRecord(
        uuid=snapshot.uuid,
        kind="vnet",
        host=snapshot.host,
        vnet=snapshot.name,
        pid=snapshot.pid,
        version=snapshot.version,
        started=snapshot.started,
        since=snapshot.started,
        messages_in=records,
        messages_out=records,
        links=snapshot.links,
    )


def _record(snapshot: Snapshot, port: PortStatus) -> HealthRecord:
    return HealthRecord(
        uuid=port.uuid,
        alias=port.alias or None,
        host=snapshot.host,
        vnet=snapshot.name,
        version=port.version,
        pid=port.pid,
        state=State(port.state),
        reason=port.reason,
        cpu=port.cpu,
        memory=port.memory,
        messages_in=port.messages_in,
        bytes_in=port.bytes_in,
        messages_out=port.messages_out,
        bytes_out=port.bytes_out,
        undeliverable=port.undeliverable,
        missed=port.missed,
        fill=port.fill,
        alarms=port.alarms,
    )


Rate = tuple[float, float, float]

_SORTS: dict[str, Callable[[HealthRecord, Rate], Any]] = {
    "name": lambda record, rate: (record.kind == "vnic", record.alias is None, record.alias or "", str(record.uuid)),
    "cpu": lambda record, rate: -record.cpu,
    "memory": lambda record, rate: -record.memory,
    "rate": lambda record, rate: -(rate[0] + rate[1]),
    "fill": lambda record, rate: -record.fill,
}


@click.command("top")
@click.option(
    "-d", "--interval", type=click.FloatRange(min=0.1), default=2.0, metavar="SECONDS", help="Between two (default: 2)."
)
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="Show it N times and end.")
@click.option("--sort", type=click.Choice(list(_SORTS)), default="rate", help="What is on top (default: rate).")
@click.option("-a", "--alias", "aliases", multiple=True, metavar="ALIAS", help="Only these; may be repeated.")
@pass_settings
def command(settings: Settings, interval: float, count: int | None, sort: str, aliases: tuple[str, ...]) -> None:
    """Show what every Vnic of the overlay does, live: messages and bytes a second, CPU, memory, fill of its ring,
    alarms; and the links between hosts. Ends with Ctrl-C.

    When the Vnet does not answer (it is stopped, it hangs, it has crashed), the status segment is shown: what it last
    wrote of this host.
    """
    frames = Frames(settings.vnet, interval)
    console = make_console()
    terminal = console.is_terminal and not console.is_dumb_terminal and not settings.json
    live: contextlib.AbstractContextManager[Live | None] = contextlib.nullcontext()
    if terminal:
        console = Console(highlight=False, emoji=False, markup=False)
        live = Live(console=console, screen=count is None, auto_refresh=False)
    with live as screen:
        shown = 0
        frame = frames.first()
        while True:
            records = [record for record in frame.records if not aliases or record.alias in aliases]
            frame = msgspec.structs.replace(frame, records=tuple(_sorted(records, frame, sort)))
            if settings.json:
                fields = {name: getattr(frame, name) for name in frame.__struct_fields__}
                print_json(fields | {"records": [record_fields(record) for record in frame.records]})
            elif screen is not None:
                screen.update(picture(frame), refresh=True)
            else:
                console.print(picture(frame))
                sys.stdout.flush()
            shown += 1
            if shown == count:
                return
            time.sleep(interval)
            frame = frames.next()


def _sorted(records: list[HealthRecord], frame: Frame, sort: str) -> list[HealthRecord]:
    none = (0.0, 0.0, 0.0)
    records = sorted(records, key=lambda record: _SORTS["name"](record, none))
    return sorted(records, key=lambda record: _SORTS[sort](record, frame.rates.get(str(record.uuid), none)))


def picture(frame: Frame) -> Group:
    """A frame as it is printed."""
    parts: list[object] = [_headline(frame)]
    none = (0.0, 0.0, 0.0)
    several = len({record.host for record in frame.records}) > 1
    rows, links = [], []
    for record in frame.records:
        out, into, size = frame.rates.get(str(record.uuid), none)
        rows.append(
            [
                record.alias or ("(Vnet)" if record.kind == "vnet" else "-"),
                str(record.uuid)[:8],
                *([record.host] if several else []),
                str(record.pid or "-"),
                str(record.state),
                f"{record.cpu:.0f}",
                size_text(record.memory),
                f"{out:,.0f}",
                f"{into:,.0f}",
                size_text(size),
                f"{100 * record.fill:.0f} {_bar(record.fill)}",
                f"{record.undeliverable + record.missed:,}",
                ", ".join(record.alarms) or record.reason or "",
            ]
        )
        links += [_link_row(record, link) for link in record.links]
    columns = ["ALIAS", "UUID", *(["HOST"] if several else []), ">PID", "STATE", ">CPU%", ">MEMORY"]
    table = make_table([*columns, ">SENT/s", ">RECEIVED/s", ">BYTES/s", ">FILL%", ">LOST", "ALARMS"], rows)
    for record, row in zip(frame.records, table.rows, strict=True):
        row.style = _COLOURS[record.state] if not record.is_up else "red" if record.alarms else ""
    parts.append(table)
    if links:
        parts += [Text(), make_table(["LINK", "TO", "STATE", ">RTT", ">IN", ">OUT", ">QUEUED"], sorted(links))]
    if frame.alarms:
        parts += [Text(), Text("Alarms", style="bold red"), *(Text(f"  {alarm}") for alarm in frame.alarms)]
    return Group(*parts)  # type: ignore[arg-type]


def _headline(frame: Frame) -> Text:
    vnets = [record for record in frame.records if record.kind == "vnet"]
    vnics = len(frame.records) - len(vnets)
    hosts = len({record.host for record in frame.records})
    versions = ", ".join(sorted({record.version or "unknown" for record in vnets}))
    text = Text(time.strftime("%H:%M:%S", time.localtime(frame.time)), style="bold")
    text.append(f"  {vnics} Vnics on {hosts} host{'s' if hosts != 1 else ''}", style="")
    if versions:
        text.append(f"  layer8 {versions}", style="")
    if frame.source == "status segment":
        note = f"  the Vnet does not answer ({frame.vnet}): its status segment, {age_text(frame.age)} old"
        text.append(note, style="bold red")
    return text


def _link_row(record: HealthRecord, link: LinkRecord) -> list[str]:
    return [
        record.host,
        link.host or link.name or str(link.vnet)[:8],
        f"{link.state} {link.reason}".strip(),
        f"{link.round_trip * 1e3:.1f} ms" if link.round_trip else "-",
        size_text(link.bytes_in),
        size_text(link.bytes_out),
        size_text(link.queued),
    ]


def _bar(fill: float) -> str:
    full = round(max(0.0, min(fill, 1.0)) * 8)
    return "█" * full + "░" * (8 - full)
