"""What the global options of `layer8` say, for every command.

A command takes them with `@pass_settings`. The same options may stand before the name of the command or after it:
`layer8 --json ps` and `layer8 ps --json` are one thing, the later one wins.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import click

DEFAULT_TIMEOUT = 5.0


@dataclasses.dataclass(slots=True)
class Settings:
    """`vnet`: name of the Vnet. `timeout`: seconds, or None when the option was not given (`0` does not wait).
    `json`: print JSON lines in place of tables. `quiet`: nothing that is not the result itself."""

    vnet: str = "default"
    timeout: float | None = None
    json: bool = False
    quiet: bool = False

    def seconds(self, default: float = DEFAULT_TIMEOUT) -> float:
        """The time-out that was given, else `default`."""
        return default if self.timeout is None else self.timeout


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is None or value is False:
        return  # not given here; what stood before the command's name stays
    if parameter.name == "timeout" and not (value >= 0 and math.isfinite(value)):
        raise click.BadParameter("give seconds, 0 or more", context, parameter)
    setattr(context.ensure_object(Settings), str(parameter.name), value)


def _option(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, expose_value=False, callback=_store, **attributes)


def global_options() -> list[click.Parameter]:
    """Fresh copies of the options that every command takes."""
    return [
        _option("--vnet", metavar="NAME", help="The Vnet to talk to (default: default)."),
        _option("--timeout", type=float, metavar="SECONDS", help="How long to wait for others."),
        _option("--json", is_flag=True, help="Print JSON lines."),
        _option("-q", "--quiet", is_flag=True, help="Print nothing but the result."),
    ]
