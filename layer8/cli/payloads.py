"""What a command sends: TEXT, a file or stdin, whole or line by line, with headers.

A positional is text; `-`, or neither text nor file, is stdin. Whether stdin is a terminal makes no difference.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import click

_MOST = 1 << 30  # bytes: what `max_message_bytes` of a Vnet can be at most


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Payloads:
    """What was asked for. Iterate over it for the payloads."""

    text: str | None
    file: Path | None
    lines: bool
    headers: dict[str, str | bytes] | None

    def __iter__(self) -> Iterator[bytes]:
        if self.text is not None and self.text != "-":
            content = os.fsencode(self.text)  # as it stood on the command line
            yield from content.splitlines() if self.lines else [content]
        elif self.file is not None:
            with self.file.open("rb") as stream:
                yield from _read(stream, self.lines)
        else:
            yield from _read(standard_input(), self.lines)


def standard_input() -> BinaryIO:
    """Raises UsageError when it is closed."""
    if sys.stdin is None:
        raise click.UsageError("stdin is closed: give TEXT or --file, or leave it open")
    return sys.stdin.buffer


def _read(stream: BinaryIO, lines: bool) -> Iterator[bytes]:
    """One byte more than any Vnet takes is read at most: then the Vnic says that it is too large."""
    if not lines:
        yield stream.read(_MOST + 1)
        return
    while line := stream.readline(_MOST + 1):
        yield line.removesuffix(b"\n")


def takes_payloads(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command `[TEXT|-] [--file F] [--lines] [-H k=v]` and hands them over as `payloads`."""

    def with_payloads(
        *arguments: Any, text: str | None, file: Path | None, lines: bool, headers: tuple[str, ...], **others: Any
    ) -> Any:
        if text is not None and file is not None:
            raise click.UsageError("give TEXT or --file, not both")
        payloads = Payloads(text=text, file=file, lines=lines, headers=_parse_headers(headers))
        return command(*arguments, payloads=payloads, **others)

    with_payloads.__name__ = command.__name__
    with_payloads.__doc__ = command.__doc__
    for option in (
        click.option("-H", "--header", "headers", multiple=True, metavar="K=V", help="A header; may be given again."),
        click.option("--lines", is_flag=True, help="One message a line, without its newline."),
        click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Send this file."),
        click.argument("text", required=False, metavar="[TEXT|-]"),
    ):
        with_payloads = option(with_payloads)
    return with_payloads


def _parse_headers(given: tuple[str, ...]) -> dict[str, str | bytes] | None:
    headers: dict[str, str | bytes] = {}
    for header in given:
        key, equals, value = header.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{header!r} is not K=V", param_hint="-H")
        headers[key] = value
    return headers or None


def parse_destination(name: str) -> UUID | str:
    """On the command line what reads as a uuid is one; everything else is an alias."""
    try:
        return UUID(name)
    except ValueError:
        return name
