"""The table `[vnet.NAME.alarms]`: a table for each alarm, and who is told.

[vnet.default.alarms]
command = ["/usr/local/bin/page-me"]       # the alarm comes as JSON on its stdin
webhook = "https://example.org/hook"       # and here it is posted
timeout = 10.0                             # seconds that either may take

[vnet.default.alarms.busy]
figure = "cpu"                             # by default the alarm's own name
raise = 90.0
clear = 70.0                               # by default four fifths of `raise`
for = 30.0                                 # seconds that it has to last
window = 60.0                              # seconds that a growth or a rate is taken over
alias = "worker"                           # only these: alias, host, kind, service, topic
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from urllib.parse import urlsplit

from layer8.health.alarms import FIGURES, Rule

_FILTERS = ("alias", "host", "kind", "service", "topic")
_NUMBERS = {"raise": "raise_at", "clear": "clear_at", "for": "hold", "window": "window"}
_CLEAR = 0.8  # of `raise`
_LONGEST = 3600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AlarmConfig:
    """`command`: arguments, none for no command. `webhook`: a URL, empty for none. `timeout`: seconds."""

    rules: tuple[Rule, ...] = ()
    command: tuple[str, ...] = ()
    webhook: str = ""
    timeout: float = 10.0


def parse_alarms(table: object) -> AlarmConfig:
    """Checks the whole table. Raises ValueError for the first thing wrong."""
    if not isinstance(table, Mapping):
        raise ValueError("give a table, as [vnet.NAME.alarms]")
    rules: list[Rule] = []
    values: dict[str, object] = {}
    for key, value in table.items():
        match key:
            case "command":
                if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
                    raise _wrong(key, f'{value!r} is no list of arguments, as ["/bin/mail", "me"]')
                values[key] = tuple(value)
            case "webhook":
                if not isinstance(value, str) or urlsplit(value).scheme not in ("http", "https"):
                    raise _wrong(key, f"{value!r} is no http or https URL")
                values[key] = value
            case "timeout":
                values[key] = _number(value, 0.1, _LONGEST, key)
            case _:
                rules.append(_rule(key, value))
    return AlarmConfig(rules=tuple(rules), **values)  # type: ignore[arg-type]


def _rule(name: str, table: object) -> Rule:
    if not isinstance(table, Mapping):
        raise _wrong(name, "an alarm is a table; beside them there are command, webhook and timeout")
    figure = table.get("figure", name)
    if figure not in FIGURES:
        raise _wrong(f"{name}.figure", f"{figure!r} is none of {', '.join(FIGURES)}")
    values: dict[str, float] = {}
    filters: dict[str, str] = {}
    for key, value in table.items():
        if key in _NUMBERS:
            longest = _LONGEST if key in ("for", "window") else float("inf")
            least = 0.1 if key == "window" else 0.0
            values[_NUMBERS[key]] = _number(value, least, longest, f"{name}.{key}")
        elif key in _FILTERS:
            if not isinstance(value, str):
                raise _wrong(f"{name}.{key}", f"{value!r} is no text")
            filters[key] = value
        elif key != "figure":
            known = ", ".join(("figure", *_NUMBERS, *_FILTERS))
            raise _wrong(f"{name}.{key}", f"unknown; known are {known}")
    if "raise_at" not in values:
        raise _wrong(f"{name}.raise", "say from which value on it is raised")
    values.setdefault("clear_at", values["raise_at"] * _CLEAR)
    if values["clear_at"] > values["raise_at"]:
        raise _wrong(f"{name}.clear", "it cannot be cleared above what raises it")
    return Rule(name=name, figure=str(figure), filters=filters, **values)


def _wrong(key: str, what: str) -> ValueError:
    return ValueError(f"{key}: {what}")


def _number(value: object, least: float, most: float, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _wrong(key, f"{value!r} is no number from {least:g} to {most:g}")
    return float(value)
