"""The play: who starts, who waits for whom, and what must agree in the end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from layer8.demo import answers, library
from layer8.demo.hosts import NAMES
from layer8.demo.stage import Stage
from layer8.health_record import HealthRecord

SUBSCRIBERS = 2
CALLERS = 4
REQUESTS_PER_CALLER = 5000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must agree."""

    what: str
    expected: object
    found: object

    @property
    def ok(self) -> bool:
        return self.expected == self.found


@dataclasses.dataclass(slots=True)
class Outcome:
    """What happened. The values of `metrics`, `library` and `requests` are figures: counts, bytes, seconds."""

    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    library: dict[str, Any] = dataclasses.field(default_factory=dict)
    requests: dict[str, Any] = dataclasses.field(default_factory=dict)
    hosts: str = ""  # what they are, where there are several
    health: tuple[HealthRecord, ...] = ()
    checks: list[Check] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(check.ok for check in self.checks)

    def check(self, what: str, expected: object, found: object) -> None:
        self.checks.append(Check(what=what, expected=expected, found=found))


def play(tell: Callable[[str], None], hosts: int = 1) -> Outcome:
    """Plays all of it, on so many hosts. `tell` is given a line at each step.

    Raises PartFailed when a process lets the others down."""
    outcome = Outcome()
    begun = time.monotonic()
    tell("starting a Vnet" if hosts == 1 else f"starting {hosts} Vnets")
    with Stage(hosts) as stage:
        outcome.hosts = stage.hosts_kind
        _play(stage, outcome, tell)
    outcome.check("processes and files left behind", [], stage.leftovers())
    outcome.seconds = time.monotonic() - begun
    return outcome


def _play(stage: Stage, outcome: Outcome, tell: Callable[[str], None]) -> None:
    source = library.source_directory()
    tell(f"starting {4 + SUBSCRIBERS + CALLERS} processes")
    publisher = stage.start("metrics.publish", "demo-metrics")
    subscribers = [
        stage.start("metrics.subscribe", f"demo-subscriber-{n}", host=n - 1) for n in range(1, SUBSCRIBERS + 1)
    ]
    store = stage.start("library.store", library.STORE, host=2, directory=str(stage.directory))
    answering = stage.start("answers.answer", answers.ANSWERS, host=1)
    sender = stage.start("library.send", "demo-sender", source=str(source))
    callers = [
        stage.start(
            "answers.call", f"demo-caller-{n}", host=n - 1, source=str(source), requests=REQUESTS_PER_CALLER, seed=n
        )
        for n in range(1, CALLERS + 1)
    ]
    for actor in (publisher, *subscribers, store, answering, sender, *callers):
        actor.expect("ready")
    stage.until_all_see(4 + SUBSCRIBERS + CALLERS, SUBSCRIBERS)

    tell("publishing live metrics of this host")
    publisher.tell("go")
    tell(f"sending the source files of {source}")
    sender.tell("go")
    sent, stored = sender.expect("result"), store.expect("result")
    tell(f"{CALLERS} callers ask for digests")
    for caller in callers:
        caller.tell("go")
    calls = [caller.expect("result") for caller in callers]
    publisher.tell("finish")
    published = publisher.expect("result")
    heard = [subscriber.expect("result") for subscriber in subscribers]

    outcome.health = _health(stage)
    tell("stopping")
    statuses = stage.stop()
    answered = answering.expect("result")

    _judge_metrics(outcome, published, heard)
    _judge_library(outcome, sent, stored)
    _judge_requests(outcome, calls, answered)
    _judge_counters(outcome)
    tell("comparing what was stored with the source")
    expected, found = library.digests(source), library.digests(stage.directory)
    outcome.library["digests_compared"] = len(expected.keys() & found.keys())
    outcome.check("files in the store", len(expected), len(found))
    outcome.check("files that are not the same in both", [], library.differences(expected, found))
    outcome.check("processes that ended in disorder", [], [alias for alias, status in statuses if status != 0])


def _health(stage: Stage) -> tuple[HealthRecord, ...]:
    """Everybody, each as the Vnet of its own host sees it: that has the latest figures."""
    found: dict[UUID, HealthRecord] = {}
    for host in range(len(stage.vnets)):
        with stage.client(host) as client:
            name = {} if len(stage.vnets) == 1 else {"host": NAMES[host]}
            found |= {record.uuid: record for record in client.health(**name)}
    return tuple(found[uuid] for uuid in sorted(found))


def _judge_metrics(outcome: Outcome, published: dict[str, Any], heard: list[dict[str, Any]]) -> None:
    outcome.metrics = {
        "messages": published["messages"],
        "bytes": published["bytes"],
        "seconds": published["seconds"],
        "subscribers": len(heard),
        "delivered": sum(one["messages"] for one in heard),
        "missed": sum(one["missed"] for one in heard),
    }
    for number, one in enumerate(heard, 1):
        outcome.check(f"publications at subscriber {number}", published["messages"], one["messages"])
        outcome.check(f"digest of them at subscriber {number}", published["digest"], one["digest"])
        outcome.check(f"missed or out of order at subscriber {number}", 0, one["missed"] + one["misplaced"])


def _judge_library(outcome: Outcome, sent: dict[str, Any], stored: dict[str, Any]) -> None:
    outcome.library = {key: sent[key] for key in ("messages", "bytes", "seconds")}
    outcome.check("files that arrived", sent["messages"], stored["messages"])
    outcome.check("bytes that arrived", sent["bytes"], stored["bytes"])
    outcome.check("digests equal on arrival", sent["messages"], stored["equal"])
    outcome.check("what the store told the sender", _counts(stored), _counts(sent["stored"]))


def _counts(figures: dict[str, Any]) -> dict[str, int]:
    return {key: figures[key] for key in ("messages", "bytes", "equal")}


def _judge_requests(outcome: Outcome, calls: list[dict[str, Any]], answered: dict[str, Any]) -> None:
    round_trips = sorted(trip for call in calls for trip in call["round_trips_us"])
    outcome.requests = {
        "messages": sum(call["messages"] for call in calls),
        "bytes": sum(call["bytes"] for call in calls),
        "seconds": max(call["seconds"] for call in calls),
        "callers": len(calls),
        "round_trip_us": {f"p{share}": round_trips[len(round_trips) * share // 100] for share in (50, 90, 99)}
        | {"max": round_trips[-1]},
    }
    outcome.check("requests answered", CALLERS * REQUESTS_PER_CALLER, answered["messages"])
    outcome.check("replies at the callers", CALLERS * REQUESTS_PER_CALLER, len(round_trips))
    outcome.check("wrong replies", 0, sum(call["wrong"] for call in calls))


def _judge_counters(outcome: Outcome) -> None:
    """The switch has counted too: every message once where it was sent and once at each receiver."""
    published, files, asked = (job["messages"] for job in (outcome.metrics, outcome.library, outcome.requests))
    other = files + 2 * asked + 2  # files; requests and replies; the sender's one request to the store
    vnics = [record for record in outcome.health if record.kind == "vnic"]
    outcome.check("messages that the Vnet took", published + other, sum(vnic.messages_in for vnic in vnics))
    delivered = SUBSCRIBERS * published + other
    outcome.check("messages that the Vnet delivered", delivered, sum(vnic.messages_out for vnic in vnics))
