"""`layer8 sub TOPIC…`: prints, stores or counts what is published."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import count_text, payload_fields, print_json, printable, size_text
from layer8.message import Message
from layer8.vnic import Vnic

_BATCH = 256  # messages taken at once


class Sink(Protocol):
    """Where the messages go."""

    def take(self, message: Message) -> None: ...
    def flush(self, *, last: bool = False) -> None: ...


@click.command("sub")
@click.argument("topics", metavar="TOPIC...", nargs=-1, required=True)
@click.option("-v", "--verbose", is_flag=True, help="Put topic, source, sequence and headers in front of each message.")
@click.option("--raw", is_flag=True, help="Exactly the bytes of the payloads, with nothing between them.")
@click.option("-0", "--null", "null", is_flag=True, help="Exactly the bytes of the payloads, a NUL byte after each.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N messages.")
@click.option("--rate", is_flag=True, help="Print messages and bytes a second in place of the messages.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="A file a message.")
@pass_settings
def command(
    settings: Settings,
    topics: tuple[str, ...],
    verbose: bool,
    raw: bool,
    null: bool,
    count: int | None,
    rate: bool,
    output: Path | None,
) -> None:
    """Print what is published on each TOPIC, one line a message, until Ctrl-C.

    Text is printed with control characters spelled out; --raw and -0 leave every byte as it is. With the global
    --timeout the command ends with status 4 when nothing has come for so long.
    """
    if raw + null + rate + (output is not None) + (settings.json and not rate) > 1:
        raise click.UsageError("--raw, -0, --rate, --output and --json exclude each other (--rate may have --json)")
    sink: Sink
    if rate:
        sink = Rate(settings.json)
    elif output is not None:
        sink = Files(output, verbose=verbose, quiet=settings.quiet)
    elif raw or null:
        sink = Bytes(b"\0" if null else b"", verbose=verbose)
    else:
        sink = Lines(settings.json, verbose=verbose)
    with Vnic(vnet=settings.vnet, timeout=settings.seconds()) as vnic, contextlib.ExitStack() as subscriptions:
        for topic in topics:
            subscriptions.enter_context(vnic.subscribe(topic))
        if not settings.quiet:
            click.echo(f"subscribed to {', '.join(topics)}", err=True)
        for batch in _batches(vnic, count, settings.timeout, every=1.0 if rate else None):
            for message in batch:
                sink.take(message)
            sink.flush()
        sink.flush(last=True)


def _batches(vnic: Vnic, count: int | None, patience: float | None, every: float | None) -> Iterator[list[Message]]:
    """Batches of messages, `count` in all; an empty one at least `every` seconds. TimeoutError after `patience`."""
    left = count
    heard = time.monotonic()
    while left is None or left > 0:
        wait = patience if patience is None else max(0.0, heard + patience - time.monotonic())
        if every is not None:
            wait = every if wait is None else min(wait, every)
        try:
            batch = vnic.receive_many(_BATCH if left is None else min(left, _BATCH), wait)
        except TimeoutError:
            if patience is not None and time.monotonic() - heard >= patience:
                raise TimeoutError(f"nothing was published for {patience} s") from None
            yield []
            continue
        heard = time.monotonic()
        if left is not None:
            left -= len(batch)
        yield batch


@dataclasses.dataclass(slots=True)
class Lines:
    """One line a message, for people or as JSON."""

    as_json: bool
    verbose: bool

    def take(self, message: Message) -> None:
        if self.as_json:
            print_json(_fields(message))
            return
        text = printable(message.payload.decode("utf-8", "backslashreplace"))
        sys.stdout.write(f"{_describe(message)} {text}\n" if self.verbose else f"{text}\n")

    def flush(self, *, last: bool = False) -> None:
        sys.stdout.flush()


@dataclasses.dataclass(slots=True)
class Bytes:
    """The payloads as they are, `end` after each."""

    end: bytes
    verbose: bool

    def take(self, message: Message) -> None:
        if self.verbose:
            click.echo(_describe(message), err=True)
        sys.stdout.buffer.write(message.payload + self.end)

    def flush(self, *, last: bool = False) -> None:
        sys.stdout.buffer.flush()


class Files:
    """A file a message, numbered on from what already stands in the directory."""

    def __init__(self, directory: Path, *, verbose: bool, quiet: bool) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._verbose = verbose
        self._quiet = quiet
        self._number = max((int(path.name) for path in directory.iterdir() if path.name.isdecimal()), default=0)

    def take(self, message: Message) -> None:
        self._number += 1
        path = self._directory / f"{self._number:06d}"
        with path.open("xb") as file:
            file.write(message.payload)
        if not self._quiet:
            sys.stdout.write(f"{path}{' ' + _describe(message) if self._verbose else ''}\n")

    def flush(self, *, last: bool = False) -> None:
        sys.stdout.flush()


class Rate:
    """Messages and bytes a second, one line a second, and all of them at the end."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._begun = time.monotonic()
        self._messages = self._bytes = self._missed = 0

    def take(self, message: Message) -> None:
        self._messages += 1
        self._bytes += len(message.payload)
        self._missed += message.missed

    def flush(self, *, last: bool = False) -> None:
        seconds = max(time.monotonic() - self._begun, 1e-9)
        if seconds < 1.0 and not last:
            return
        messages, size = self._messages / seconds, self._bytes / seconds
        if self._as_json:
            print_json({"messages_per_s": messages, "bytes_per_s": size, "missed": self._missed, "seconds": seconds})
        else:
            missed = f", missed {count_text(self._missed, 'message')}" if self._missed else ""
            click.echo(f"{messages:,.0f} messages/s, {size_text(size)}/s{missed}")
        self._begun = time.monotonic()
        self._messages = self._bytes = self._missed = 0


def _describe(message: Message) -> str:
    headers = "".join(f" {key}={value!s}" for key, value in message.headers.items())
    missed = f" missed={message.missed}" if message.missed else ""
    return printable(f"{message.topic} {message.source} {message.sequence}{missed}{headers}:").replace("\n", "\\n")


def _fields(message: Message) -> dict[str, object]:
    return {
        "topic": message.topic,
        "source": message.source,
        "principal": message.principal,
        "sequence": message.sequence,
        "missed": message.missed,
        "headers": dict(message.headers),
        **payload_fields(message.payload),
    }
