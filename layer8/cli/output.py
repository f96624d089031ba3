"""How commands print: tables for people, JSON lines for programs, sizes and times in words.

Tables have no frame and one row a line, so that they can be cut with ordinary tools when they do not go to a terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import click
import msgspec
from rich.console import Console
from rich.table import Table

from layer8.cli.context import Settings
from layer8.health_record import HealthRecord

_MOMENT = 0.5  # seconds between two lines of progress

_WIDTH = 500  # of every console: a row is never cut; a narrow terminal wraps it


_HEIGHT = 25  # given with the width, or else a terminal that is dumb counts as 80 wide


class Progress:
    """How far something is that takes long: one line on stderr that is written anew. Nothing where stderr is no
    terminal, or with -q; nothing of what takes no longer than a moment."""

    def __init__(self, settings: Settings) -> None:
        self._is_shown = not settings.quiet and sys.stderr.isatty()
        self._shown = False
        self._due = time.monotonic() + _MOMENT

    def say(self, text: str, *, now: bool = False) -> None:
        """Shows `text`, unless the last one has only just been shown. `now`: at once."""
        if self._is_shown and (now or time.monotonic() >= self._due):
            self._shown = True
            self._due = time.monotonic() + _MOMENT
            click.echo(f"\r{_clear()}{printable(text)}", err=True, nl=False)

    def end(self) -> None:
        """Takes the line away."""
        if self._shown:
            self._shown = False
            click.echo(f"\r{_clear()}", err=True, nl=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _clear() -> str:
    return " " * 60 + "\r" if os.environ.get("TERM", "dumb") == "dumb" else "\x1b[K"


class _Stdout(Console):
    def on_broken_pipe(self) -> None:
        raise  # called where a BrokenPipeError was caught; what it means is for `main` to say


def make_console() -> Console:
    """What goes to stdout; colours only where there is a terminal."""
    return _Stdout(highlight=False, emoji=False, markup=False, width=_WIDTH, height=_HEIGHT)


def print_json(value: object) -> None:
    """One line of JSON, flushed: whoever reads it may be waiting for it."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """`columns`: the headings; one that begins with `>` is set flush right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(printable(cell) for cell in row))
    return table


def payload_fields(payload: bytes) -> dict[str, object]:
    """A payload in JSON: `text` where it is UTF-8, else `base64`; and its length, `bytes`."""
    try:
        return {"bytes": len(payload), "text": payload.decode()}
    except UnicodeDecodeError:
        return {"bytes": len(payload), "base64": payload}  # msgspec writes bytes as base64


def record_fields(record: HealthRecord) -> dict[str, object]:
    """Every field of a health record, also those that have their default."""
    return {name: getattr(record, name) for name in record.__struct_fields__}


def health_table(records: Iterable[HealthRecord]) -> Table:
    """Who is there, how it is, and what went through: by kind and alias; with the host where there are several."""
    records = sorted(records, key=lambda record: (record.kind, record.alias is None, record.alias or "", record.uuid))
    hosts = len({record.host for record in records}) > 1
    now = time.time()
    columns = ["ALIAS", "UUID", *(["HOST"] if hosts else []), "KIND", ">PID", "STATE", ">SINCE"]
    figures = [">SENT", ">BYTES", ">RECEIVED", ">BYTES", ">LOST", ">CPU%", ">MEMORY", ">FILES", ">FILL%"]
    return make_table(
        [*columns, *figures, "VERSION", "SERVICES", "ALARMS", "REASON"],
        (
            [
                record.alias or "-",
                str(record.uuid),
                *([record.host] if hosts else []),
                record.kind,
                str(record.pid or "-"),
                str(record.state),
                age_text(now - record.since) if record.since else "-",
                f"{record.messages_in:,}",
                size_text(record.bytes_in),
                f"{record.messages_out:,}",
                size_text(record.bytes_out),
                f"{record.undeliverable + record.missed:,}",
                f"{record.cpu:.0f}",
                size_text(record.memory),
                str(record.open_files or "-"),
                f"{100 * record.fill:.0f}",
                record.version or "-",
                ", ".join(record.services) or "-",
                ", ".join(record.alarms) or "-",
                record.reason or "-",
            ]
            for record in records
        ),
    )


def links_table(records: Iterable[HealthRecord]) -> Table | None:
    """The links between Vnets, each as its Vnet sees it; None where there is none."""
    rows = [
        [record.host, link.host, link.address, str(link.state), f"{link.messages_out:,}", size_text(link.bytes_out)]
        for record in records
        for link in record.links
    ]
    columns = ["FROM", "TO", "ADDRESS", "STATE", ">RECORDS", ">BYTES"]
    return make_table(columns, sorted(rows)) if rows else None


_CONTROL_CHARACTERS = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)
}


def printable(text: str) -> str:
    """`text` with control characters spelled out: what others wrote must not steer our terminal."""
    return text.translate(_CONTROL_CHARACTERS)


def size_text(size: float) -> str:
    """Bytes, with a binary unit."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024 or unit == "GiB":
            return f"{size:.1f} {unit}"
    raise AssertionError("the loop returns at its last unit")


def age_text(seconds: float) -> str:
    """How long something has been so, in two units at most."""
    minutes, rest = divmod(int(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def duration_text(seconds: float) -> str:
    """Seconds, with the unit that suits them."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def count_text(count: int, thing: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")
