"""Alarms as a table of records, times and what is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer8.health.alarms import FIGURES, Alarms, Rule
from layer8.health_record import HealthRecord, State

A, B = UUID(int=1), UUID(int=2)


def rule(figure: str = "cpu", raise_at: float = 90, clear_at: float = 70, **more: Any) -> Rule:
    return Rule(name=more.pop("name", figure), figure=figure, raise_at=raise_at, clear_at=clear_at, **more)


def said(alarms: Alarms, values: Sequence[tuple[float, float]], figure: str = "cpu", **record: Any) -> list[str]:
    """What is said as the figure goes through (time, value)."""
    found = []
    for now, value in values:
        one = HealthRecord(uuid=A, **{figure: value, **record})
        found += [f"{alarm.state} at {now:g}" for alarm in alarms.observe(one, now, 1000 + now)]
    return found


def test_it_is_raised_once_and_cleared_once_below_the_other_threshold() -> None:
    values = [(0, 50), (1, 90), (2, 95), (3, 71), (4, 89), (5, 91), (6, 70), (7, 71), (8, 90)]
    assert said(Alarms([rule()]), values) == ["raised at 1", "cleared at 6", "raised at 8"]


def test_it_has_to_last_as_long_as_is_asked() -> None:
    values = [(0, 95), (5, 95), (9, 50), (10, 95), (15, 95), (20, 95), (21, 95)]
    assert said(Alarms([rule(hold=10)]), values) == ["raised at 20"]


def test_growth_is_taken_over_the_window_and_says_nothing_before() -> None:
    alarms = Alarms([rule("memory_growth", 100, 10, window=10)])
    grows = [(float(now), 1000.0 * now) for now in range(0, 30, 5)]
    stays = [(float(now), 25_000.0) for now in range(30, 60, 5)]
    assert said(alarms, grows, "memory") == ["raised at 10"]
    assert said(alarms, stays, "memory") == ["cleared at 35"]
    assert said(alarms, [(60, 0.0), (65, 0.0)], "memory") == []


@pytest.mark.parametrize("figure", ["undeliverable", "missed"])
def test_counts_are_rates(figure: str) -> None:
    alarms = Alarms([rule(figure, 5, 1, window=2)])
    assert said(alarms, [(0, 1000), (2, 1001), (4, 1011), (6, 1012), (8, 1012)], figure) == [
        "raised at 4",
        "cleared at 6",
    ]


def test_silence_is_the_time_since_it_was_heard_of() -> None:
    alarms = Alarms([rule("silence", 60, 5)])
    assert said(alarms, [(0, 1000), (59, 1000), (60, 1000), (61, 1061)], "heard") == ["raised at 60", "cleared at 61"]
    assert said(alarms, [(100, 0)], "heard") == []  # nothing can be said


@pytest.mark.parametrize("figure", ["memory", "open_files", "fill"])
def test_other_figures_are_taken_as_they_are(figure: str) -> None:
    alarms = Alarms([rule(figure, 0.9, 0.5)])
    assert said(alarms, [(0, 0.9), (1, 0.4)], figure) == ["raised at 0", "cleared at 1"]


def test_an_alarm_is_about_whom_its_filters_say() -> None:
    alarms = Alarms([rule(name="worker-busy", filters={"alias": "worker"})])
    assert said(alarms, [(0, 95)], alias="other") == []
    assert said(alarms, [(0, 95)], alias="worker") == ["raised at 0"]
    assert alarms.raised_about(A) == ("worker-busy",)
    assert alarms.raised_about(B) == ()
    (alarm,) = alarms.raised()
    assert (alarm.alarm, alarm.value, alarm.threshold, alarm.alias) == ("worker-busy", 95, 90, "worker")
    assert "worker-busy raised: cpu of vnic worker is 95, limit 90" in alarm.text


def test_what_was_raised_about_somebody_who_is_gone_is_cleared() -> None:
    alarms = Alarms([rule(), rule("memory", 1, 1)])
    alarms.observe(HealthRecord(uuid=A, cpu=95, memory=2), 0, 0)
    down = HealthRecord(uuid=A, state=State.DOWN, cpu=95)
    assert [(alarm.alarm, alarm.state, alarm.reason) for alarm in alarms.observe(down, 1, 1)] == [
        ("cpu", "cleared", "gone"),
        ("memory", "cleared", "gone"),
    ]
    assert alarms.raised() == []
    assert alarms.forget(A, 2, "gone") == []


@settings(deadline=None)
@given(
    st.sampled_from(FIGURES),
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 100)), max_size=40),
    st.floats(0, 5),
)
def test_raised_and_cleared_take_turns_whatever_the_figures(
    figure: str, steps: list[tuple[float, float]], hold: float
) -> None:
    alarms = Alarms([rule(figure, 50, 20, hold=hold, window=3)])
    source = {"memory_growth": "memory", "silence": "heard"}.get(figure, figure)
    now, states = 0.0, []
    for step, value in steps:
        now += step
        record = msgspec.structs.replace(HealthRecord(uuid=A), **{source: value})
        states += [alarm.state for alarm in alarms.observe(record, now, now)]
        assert bool(alarms.raised_about(A)) == (bool(states) and states[-1] == "raised")
    assert states == (["raised", "cleared"] * len(states))[: len(states)]
