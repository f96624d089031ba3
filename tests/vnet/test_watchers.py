"""What a watcher is sent, over random schedules: in the end it knows what the directory knows."""

from __future__ import annotations

from typing import cast
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from layer8.health.directory import Directory, matches
from layer8.health.watch import WatchView
from layer8.health_record import HealthRecord, State
from layer8.protocol.codec import encode
from layer8.protocol.control import Watched
from layer8.vnet import watchers
from layer8.vnet.session import Session
from layer8.vnet.watchers import _Watcher

NOBODY = cast(Session, None)


def put(directory: Directory, watcher: _Watcher, record: HealthRecord, now: float) -> None:
    for event in directory.put(record, now):
        watcher.happened(event)


def drain(watcher: _Watcher, view: WatchView) -> list[Watched]:
    sent = []
    while (message := watcher.next()) is not None:
        sent.append(message)
        watcher.taken()
        view.take(message.records, message.forgotten, first=message.first, complete=message.complete)
    return sent


def seen(directory: Directory, filters: dict[str, str]) -> dict[UUID, HealthRecord]:
    wants_down = filters.get("state") == "DOWN"
    return {
        record.uuid: record
        for record in directory
        if matches(record, filters) and (wants_down or record.state is not State.DOWN)
    }


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 12), st.sampled_from(list(State)), st.sampled_from(["a", "b", None])),
        st.tuples(st.just("take"), st.just(0), st.just(State.UP), st.none()),
        st.tuples(st.just("tick"), st.integers(1, 100), st.just(State.UP), st.none()),
    ),
    max_size=60,
)


@given(
    before=st.sets(st.integers(1, 12)),
    steps=steps,
    filters=st.sampled_from([{}, {"alias": "a"}, {"state": "UP"}, {"state": "DOWN"}]),
)
def test_whatever_happens_a_watcher_knows_in_the_end_what_the_directory_knows(
    before: set[int], steps: list[tuple[str, int, State, str | None]], filters: dict[str, str]
) -> None:
    directory = Directory("here", keep_down=30.0)
    for number in before:
        directory.put(HealthRecord(uuid=UUID(int=number), alias="a"), 0.0)
    page, long = watchers._PAGE, watchers._LONG
    watchers._PAGE, watchers._LONG = 2, 5
    try:
        watcher, view, now = _Watcher(NOBODY, 1, filters, directory), WatchView(filters), 0.0
        for what, number, state, alias in steps:
            if what == "put":
                put(directory, watcher, HealthRecord(uuid=UUID(int=number), alias=alias, state=state), now)
            elif what == "tick":
                now += number
                for event in directory.tick(now):
                    watcher.happened(event)
            elif (message := watcher.next()) is not None:
                watcher.taken()
                view.take(message.records, message.forgotten, first=message.first, complete=message.complete)
        drain(watcher, view)
    finally:
        watchers._PAGE, watchers._LONG = page, long
    assert view.is_current
    assert view.records == seen(directory, filters)


def test_every_change_is_told_as_long_as_they_are_taken() -> None:
    directory = Directory("here")
    watcher, view = _Watcher(NOBODY, 1, {}, directory), WatchView({})
    drain(watcher, view)
    states = [State.UP, State.STOPPED, State.UP, State.SUSPECT, State.DOWN]
    for state in states:
        put(directory, watcher, HealthRecord(uuid=UUID(int=1), state=state), 0.0)
    told = [record.state for message in drain(watcher, view) for record in message.records]
    assert told == states


def test_who_does_not_take_is_sent_no_more_and_remembered_within_bounds() -> None:
    directory = Directory("here")
    watcher = _Watcher(NOBODY, 1, {}, directory)
    view = WatchView({})
    drain(watcher, view)
    for number in range(20_000):
        state = State.STOPPED if number % 2 else State.UP
        put(directory, watcher, HealthRecord(uuid=UUID(int=1 + number % 7), state=state), 0.0)
        while (message := watcher.next()) is not None:
            view.take(message.records, message.forgotten)
    assert len(watcher._changes) <= watchers._LONG
    watcher.taken()
    watcher.taken()
    drain(watcher, view)
    assert view.records == seen(directory, {})


def test_no_message_is_too_long_for_the_control_socket() -> None:
    directory = Directory("here")
    watcher, view = _Watcher(NOBODY, 1, {}, directory), WatchView({})
    topics = tuple(f"{number:04}" + "t" * 200 for number in range(60))
    for number in range(200):
        put(directory, watcher, HealthRecord(uuid=UUID(int=number + 1), topics=topics), 0.0)
    sent = drain(watcher, view)
    for number in range(200):
        put(directory, watcher, HealthRecord(uuid=UUID(int=number + 1), topics=topics, state=State.STOPPED), 0.0)
    sent += drain(watcher, view)
    assert len(view.records) == 200
    assert max(len(encode(message)) for message in sent) <= 64 << 10
