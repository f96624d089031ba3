"""The directory as a table of calls and events."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer8.health.directory import (
    RECORD_BYTES,
    Appeared,
    Changed,
    Directory,
    Expired,
    Forgotten,
    Found,
    check_filters,
)
from layer8.health_record import HealthRecord, State
from layer8.protocol.codec import encode
from layer8.protocol.control import Done

A, B, C, D = (UUID(int=number) for number in range(1, 5))


def record(uuid: UUID, alias: str | None = None, **more: Any) -> HealthRecord:
    return HealthRecord(uuid=uuid, alias=alias, **{"host": "here", **more})


def directory(*records: HealthRecord, **settings: Any) -> Directory:
    made = Directory("here", **settings)
    for one in records:
        made.put(one, 0.0)
    return made


def change(one: HealthRecord, **changes: Any) -> HealthRecord:
    return msgspec.structs.replace(one, **changes)


# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_uuid_appears_and_is_there() -> None:
    known = directory()
    one = record(A, "worker")
    assert known.put(one, 1.0) == [Appeared(record=one)]
    assert known.get(A) == known.find(A) == known.find("worker") == one
    assert len(known) == 1
    assert list(known) == [one]


def test_figures_alone_are_no_event() -> None:
    one = record(A, "worker")
    known = directory(one)
    next_one = change(one, cpu=50.0, memory=1, messages_in=9, fill=0.5)
    assert known.put(next_one, 1.0) == []
    assert known.get(A) == next_one


@pytest.mark.parametrize(
    "changes",
    [{"state": State.SUSPECT}, {"reason": "silent"}, {"alias": None}, {"topics": ("t",)}, {"host": "there"}],
)
def test_what_people_watch_for_is_an_event(changes: dict[str, Any]) -> None:
    one = record(A, "worker")
    known = directory(one)
    next_one = change(one, **changes)
    assert known.put(next_one, 1.0) == [Changed(record=next_one, before=one)]


def test_marking_another_state_keeps_the_rest() -> None:
    one = record(A, "worker", cpu=2.0, since=5.0)
    known = directory(one)
    [event] = known.mark(A, State.STOPPED, 1.0, since=9.0, reason="stopped")
    assert isinstance(event, Changed)
    assert event.record == change(one, state=State.STOPPED, reason="stopped", since=9.0)
    assert known.mark(A, State.STOPPED, 2.0, since=10.0, reason="stopped") == []
    assert known.mark(B, State.DOWN, 2.0, since=10.0) == []


def test_a_record_that_went_down_is_kept_for_a_while_and_then_forgotten() -> None:
    known = directory(record(A, "worker"), keep_down=60.0)
    assert known.deadline == float("inf")
    [event] = known.mark(A, State.DOWN, 10.0, since=1.0, reason="killed")
    assert isinstance(event, Changed)
    assert known.deadline == 70.0
    assert known.find(A) is None
    assert known.find("worker") is None
    assert known.members("worker") == ()
    assert known.tick(69.9) == []
    assert known.get(A) == event.record
    assert known.put(event.record, 69.9) == []  # said again: not kept longer for it
    assert known.tick(70.0) == [Forgotten(record=event.record)]
    assert known.get(A) is None
    assert list(known) == []
    assert known.deadline == float("inf")


def test_who_comes_back_after_being_down_appears_again() -> None:
    one = record(A, "worker")
    known = directory(one)
    known.mark(A, State.DOWN, 1.0, since=1.0)
    assert known.put(one, 2.0) == [Appeared(record=one)]
    assert known.find("worker") == one
    assert known.tick(1000.0) == []


def test_only_so_many_dead_are_kept() -> None:
    known = directory(record(A), record(B), record(C), max_down=2)
    for uuid in (B, A):
        known.mark(uuid, State.DOWN, 1.0, since=1.0)
    events = known.mark(C, State.DOWN, 2.0, since=2.0)
    assert isinstance(events[0], Changed)
    assert isinstance(events[1], Forgotten)
    assert known.get(B) is None
    assert {one.uuid for one in known} == {A, C}


# ── finding ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("state", "by_uuid", "by_alias"),
    [
        (State.UP, True, True),
        (State.SUSPECT, True, True),
        (State.STOPPED, True, False),
        (State.UNREACHABLE, False, False),
        (State.DOWN, False, False),
    ],
)
def test_which_states_are_found(state: State, by_uuid: bool, by_alias: bool) -> None:
    known = directory(record(A, "worker", state=state))
    assert (known.find(A) is not None) == by_uuid
    assert (known.find("worker") is not None) == by_alias


def test_an_alias_and_a_uuid_with_the_same_text_are_two_names() -> None:
    known = directory(record(A, str(B)))
    assert known.find(B) is None
    assert known.find(str(B)) is not None


def test_the_members_of_an_alias_are_found_in_turn() -> None:
    known = directory(record(A, "worker"), record(B, "worker"), record(C, "other"))
    found = [known.find("worker") for _ in range(4)]
    assert [one.uuid for one in found if one is not None] == [A, B, A, B]


def test_up_goes_before_suspect_and_here_before_there_and_empty_before_full() -> None:
    known = directory(
        record(A, "worker", state=State.SUSPECT),
        record(B, "worker", host="there"),
        record(C, "worker", fill=0.5),
        record(D, "worker", fill=0.25),
    )
    order = []
    for _ in range(4):
        found = known.find("worker")
        assert found is not None
        order.append(found.uuid)
        known.mark(found.uuid, State.DOWN, 1.0, since=1.0)
    assert order == [D, C, B, A]
    assert known.find("worker") is None


def test_who_gives_its_alias_up_is_no_member_any_more() -> None:
    known = directory(record(A, "worker"))
    known.put(record(A), 1.0)
    assert known.find("worker") is None
    assert known.find(A) is not None
    known.put(record(A, "other"), 2.0)
    assert known.find("other") is not None


# ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_is_there_is_found_at_once() -> None:
    one = record(A, "worker")
    known = directory(one)
    assert known.wait(1, "worker", 0.0, 5.0) == [Found(token=1, record=one)]
    assert known.wait(1, A, 0.0, 0.0) == [Found(token=1, record=one)]


def test_without_a_timeout_nobody_waits() -> None:
    known = directory()
    assert known.wait(1, "worker", 0.0, 0.0) == [Expired(token=1, to="worker")]
    assert known.deadline == float("inf")


@pytest.mark.parametrize("to", ["worker", A])
def test_a_wait_ends_when_one_comes_up(to: UUID | str) -> None:
    known = directory()
    assert known.wait(1, to, 0.0, 5.0) == []
    assert known.deadline == 5.0
    assert known.put(record(B, "other"), 1.0) == [Appeared(record=record(B, "other"))]
    one = record(A, "worker")
    assert known.put(one, 2.0) == [Appeared(record=one), Found(token=1, record=one)]
    assert known.put(change(one, reason="x"), 3.0) == [Changed(record=change(one, reason="x"), before=one)]
    assert known.tick(10.0) == []
    assert known.deadline == float("inf")


def test_a_wait_ends_when_one_recovers() -> None:
    known = directory(record(A, "worker", state=State.STOPPED))
    assert known.wait(1, "worker", 0.0, 5.0) == []
    events = known.mark(A, State.UP, 1.0, since=1.0)
    assert isinstance(events[0], Changed)
    assert isinstance(events[1], Found)


def test_a_wait_ends_when_its_time_is_over() -> None:
    known = directory()
    known.wait("late", "worker", 0.0, 5.0)
    known.wait("early", A, 0.0, 2.0)
    assert known.deadline == 2.0
    assert known.tick(1.9) == []
    assert known.tick(2.0) == [Expired(token="early", to=A)]
    assert known.tick(99.0) == [Expired(token="late", to="worker")]
    assert known.put(record(A, "worker"), 100.0) == [Appeared(record=record(A, "worker"))]


def test_for_ever_is_an_infinite_timeout() -> None:
    known = directory()
    known.wait(1, "worker", 0.0, float("inf"))
    assert known.tick(1e12) == []
    assert len(known.put(record(A, "worker"), 1e12)) == 2


def test_a_cancelled_wait_hears_nothing() -> None:
    known = directory()
    known.wait(1, "worker", 0.0, 5.0)
    known.wait(2, "worker", 0.0, 5.0)
    known.cancel(1)
    known.cancel(1)
    assert known.put(record(A, "worker"), 1.0)[1:] == [Found(token=2, record=record(A, "worker"))]


def test_a_token_waits_for_one_thing_at_a_time() -> None:
    known = directory()
    known.wait(1, "worker", 0.0, 5.0)
    with pytest.raises(ValueError, match="waits already"):
        known.wait(1, "other", 0.0, 5.0)


# ── filters and pages ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [A, B, C]),
        ({"alias": "worker"}, [A, B]),
        ({"host": "there"}, [B]),
        ({"state": "STOPPED"}, [C]),
        ({"state": State.UP}, [A, B]),
        ({"topic": "prices"}, [A, C]),
        ({"topic": "price"}, []),
        ({"kind": "vnet"}, [C]),
        ({"alias": "worker", "topic": "prices"}, [A]),
        ({"alias": None, "host": None}, [A, B, C]),
    ],
)
def test_filters_select_what_matches_all_of_them(filters: dict[str, object], found: list[UUID]) -> None:
    known = directory(
        record(C, None, kind="vnet", state=State.STOPPED, topics=("prices",)),
        record(B, "worker", host="there", topics=("news",)),
        record(A, "worker", topics=("news", "prices")),
    )
    assert [one.uuid for one in known.select(check_filters(filters))] == found
    records, more = known.page(check_filters(filters), None, 100)
    assert [one.uuid for one in records] == found
    assert not more


@pytest.mark.parametrize("filters", [{"colour": "red"}, {"alias": 7}, {"alias": b"x"}, {"uuid": "x"}])
def test_an_unknown_filter_is_a_type_error(filters: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        check_filters(filters)


@pytest.mark.parametrize("filters", [{"state": "ALIVE"}, {"state": "up"}, {"kind": "router"}])
def test_an_unknown_state_or_kind_is_a_value_error(filters: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        check_filters(filters)


def test_a_filter_of_a_later_version_lets_nothing_pass() -> None:
    assert directory(record(A)).select({"new": "x"}) == ()


@given(st.lists(st.uuids(), unique=True, max_size=30), st.integers(1, 10))
def test_pages_give_every_record_once_in_order(uuids: list[UUID], limit: int) -> None:
    known = directory(*map(record, uuids))
    seen: list[UUID] = []
    more, after = True, None
    while more:
        records, more = known.page({}, after, limit)
        assert len(records) <= limit
        seen += [one.uuid for one in records]
        after = seen[-1] if seen else None
    assert seen == sorted(uuids)
    assert [one.uuid for one in known] == seen


def test_a_page_fits_in_a_message_however_many_topics_there_are() -> None:
    topics = tuple(f"{number:04}" + "x" * 251 for number in range(1024))
    known = directory(*(record(UUID(int=number), topics=topics) for number in range(20)))
    seen, more, after = 0, True, None
    while more:
        records, more = known.page({}, after, 100)
        encode(Done(id=1, records=records, more=more))
        assert all(len(msgspec.msgpack.encode(one)) <= RECORD_BYTES and one.topics for one in records)
        seen += len(records)
        after = records[-1].uuid
    assert seen == 20


# ── any sequence of calls ─────────────────────────────────────────────────────────────────────────────────────────

calls = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 4), st.sampled_from([None, "x", "y"]), st.sampled_from(State)),
    st.tuples(st.just("mark"), st.integers(0, 4), st.none(), st.sampled_from(State)),
    st.tuples(st.just("wait"), st.integers(0, 4), st.sampled_from([None, "x", "y"]), st.none()),
    st.tuples(st.just("cancel"), st.integers(0, 4), st.none(), st.none()),
    st.tuples(st.just("tick"), st.integers(0, 40), st.none(), st.none()),
)


@given(st.lists(calls, max_size=40))
def test_every_wait_ends_once_and_the_index_is_what_the_records_say(
    steps: list[tuple[str, int, str | None, State | None]],
) -> None:
    known = directory(keep_down=30.0, max_down=3)
    now, waiting = 0.0, set[int]()
    for call, number, alias, state in steps:
        events: list[Any] = []
        uuid = UUID(int=number)
        if call == "put" and state is not None:
            events = known.put(record(uuid, alias, state=state), now)
        elif call == "mark" and state is not None:
            events = known.mark(uuid, state, now, since=now)
        elif call == "wait" and number not in waiting:
            waiting.add(number)
            events = known.wait(number, uuid if alias is None else alias, now, 10.0)
        elif call == "cancel":
            waiting.discard(number)
            known.cancel(number)
        elif call == "tick":
            now += number
            events = known.tick(now)
            assert known.deadline > now
        for event in events:
            if isinstance(event, (Found, Expired)):
                assert isinstance(event.token, int)
                waiting.remove(event.token)  # KeyError: answered twice or after it was taken back
        living = [one for one in known if one.state in (State.UP, State.SUSPECT, State.STOPPED)]
        for name in ("x", "y"):
            assert {one.uuid for one in known.members(name)} == {one.uuid for one in living if one.alias == name}
        assert sum(one.state is State.DOWN for one in known) <= 3
    assert {event.token for event in known.tick(1e9) if isinstance(event, Expired)} == waiting
