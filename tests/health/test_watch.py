"""The view of a watch: what it makes of pages and changes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest

from layer8.health.watch import NOT_BACK, WatchView
from layer8.health_record import HealthEvent, HealthRecord, State

A, B, C = (UUID(int=number) for number in range(1, 4))


def record(uuid: UUID, alias: str | None = None, **more: Any) -> HealthRecord:
    return HealthRecord(uuid=uuid, alias=alias, **more)


def change(one: HealthRecord, **changes: Any) -> HealthRecord:
    return msgspec.structs.replace(one, **changes)


def told(*records: HealthRecord, **filters: str) -> WatchView:
    view = WatchView(filters)
    view.take(records, first=True, complete=True)
    return view


def test_the_present_state_is_joined_and_said_to_be_present() -> None:
    view, one, two = WatchView({}), record(A), record(B)
    assert view.take([one], first=True) == [HealthEvent(kind="joined", record=one, present=True)]
    assert (len(view.records), view.is_current) == (1, False)
    assert view.take([two], complete=True) == [HealthEvent(kind="joined", record=two, present=True)]
    assert view.is_current
    assert view.take([record(C)]) == [HealthEvent(kind="joined", record=record(C))]


def test_a_change_comes_with_what_it_was() -> None:
    one = record(A)
    view = told(one)
    stopped = change(one, state=State.STOPPED, reason="stopped")
    assert view.take([stopped]) == [HealthEvent(kind="changed", record=stopped, before=one)]
    assert view.records == {A: stopped}


def test_who_goes_down_has_left_with_the_reason() -> None:
    one = record(A)
    view = told(one)
    down = change(one, state=State.DOWN, reason="killed by signal 9 (SIGKILL)")
    (event,) = view.take([down])
    assert (event.kind, event.reason, event.before) == ("left", "killed by signal 9 (SIGKILL)", one)
    assert view.records == {}
    assert view.take([], [A]) == []
    assert view.take([one])[0].kind == "joined"


@pytest.mark.parametrize("filters", [{"alias": "a"}, {"state": "UP"}, {"service": "s"}, {"topic": "t"}, {"host": "h"}])
def test_who_no_longer_passes_the_filters_has_left(filters: dict[str, str]) -> None:
    one = record(A, "a", services=("s",), topics=("t",), host="h")
    view = told(one, **filters)
    other = change(one, alias="b", services=(), topics=(), host="i", state=State.SUSPECT)
    assert view.take([other]) == [HealthEvent(kind="left", record=other, before=one)]
    assert view.take([other]) == []
    assert view.take([one])[0].kind == "joined"


def test_who_is_down_is_there_for_whoever_watches_for_that() -> None:
    down = record(A, state=State.DOWN)
    assert told(down).records == {}
    view = told(down, state="DOWN")
    assert view.records == {A: down}
    assert [event.kind for event in view.take([], [A])] == ["left"]


def test_a_present_state_told_again_gives_the_difference_only() -> None:
    one, two = record(A), record(B)
    view = told(one, two)
    assert view.take([change(one, cpu=5.0, heard=9.0)], first=True) == []
    assert view.take([record(C)]) == [HealthEvent(kind="joined", record=record(C))]
    (event,) = view.take([], complete=True)
    assert (event.kind, event.record.uuid, event.record.state, event.reason) == ("left", B, State.DOWN, NOT_BACK)
    assert set(view.records) == {A, C}
