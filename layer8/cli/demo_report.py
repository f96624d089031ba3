"""Prints what happened in the demo."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from layer8.cli.output import count_text, duration_text, health_table, links_table, make_table, record_fields, size_text
from layer8.demo.show import Outcome


def print_report(console: Console, outcome: Outcome) -> None:
    """Figures, health of everybody who took part, and every check."""
    metrics, library, requests = outcome.metrics, outcome.library, outcome.requests
    trips = ", ".join(f"{name} {duration_text(trip / 1e6)}" for name, trip in requests["round_trip_us"].items())
    jobs = {"host metrics": metrics, "standard library": library, "requests": requests}
    console.print()
    console.print(
        make_table(
            ["JOB", ">MESSAGES", ">BYTES", ">SECONDS", ">MESSAGES/S", ">BYTES/S"],
            [_row(job, figures) for job, figures in jobs.items()],
        )
    )
    console.print()
    console.print(f"metrics: each to {metrics['subscribers']} subscribers, missed {metrics['missed']}")
    console.print(f"standard library: {library['digests_compared']:,} digests compared")
    console.print(f"requests: {requests['callers']} callers at once, round trip {trips}")
    console.print()
    console.print(health_table(outcome.health))
    if outcome.hosts:
        _print_links(console, outcome)
    console.print()
    for check in outcome.checks:
        mark, style = ("ok  ", "green") if check.ok else ("FAIL", "bold red")
        found = "" if check.ok else f", expected {_text(check.expected)}"
        console.print(mark, style=style, end=" ")
        console.print(f"{check.what}: {_text(check.found)}{found}")
    console.print()
    failed = sum(not check.ok for check in outcome.checks)
    verdict = "every count and digest agrees" if not failed else f"{count_text(failed, 'check')} FAILED"
    console.print(f"{verdict}; {outcome.seconds:.1f} s", style="bold green" if not failed else "bold red")


def _print_links(console: Console, outcome: Outcome) -> None:
    """Which records crossed a link, and how many did not have to."""
    console.print()
    console.print(f"hosts: {outcome.hosts}")
    links = links_table(outcome.health)
    if links is not None:
        console.print(links)
    crossed = sum(link.messages_out for record in outcome.health for link in record.links)
    delivered = sum(record.messages_out for record in outcome.health if record.kind == "vnic")
    console.print(
        f"{crossed:,} records crossed a link; {delivered:,} messages were delivered, the others on their host"
    )


def report_fields(outcome: Outcome) -> dict[str, object]:
    """The same for a program: one object."""
    return {
        "ok": outcome.ok,
        "seconds": outcome.seconds,
        "hosts": outcome.hosts,
        "metrics": outcome.metrics,
        "library": outcome.library,
        "requests": outcome.requests,
        "health": [record_fields(record) for record in outcome.health],
        "checks": [
            {"what": check.what, "ok": check.ok, "expected": check.expected, "found": check.found}
            for check in outcome.checks
        ],
    }


def _row(job: str, figures: dict[str, Any]) -> list[str]:
    seconds = max(figures["seconds"], 1e-9)
    return [
        job,
        f"{figures['messages']:,}",
        size_text(figures["bytes"]),
        f"{figures['seconds']:.2f}",
        f"{figures['messages'] / seconds:,.0f}",
        size_text(figures["bytes"] / seconds),
    ]


def _text(value: object) -> str:
    match value:
        case int():
            return f"{value:,}"
        case str():
            return value[:16] + "…" if len(value) > 16 else value
        case list():
            return ", ".join(map(str, value[:5])) + (" …" if len(value) > 5 else "") if value else "none"
        case dict():
            return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
        case _:
            return str(value)
