"""One home and its mirrors: what they agree on, whatever is lost between them."""

from __future__ import annotations

import hashlib
from collections import deque
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer8.health.replication import LOG_CHANGES, Changes, Home, Mirror
from layer8.health_record import HealthRecord, State
from layer8.protocol.link_messages import (
    CONTROL_BYTES,
    Delta,
    Digest,
    Entry,
    Have,
    Linked,
    Part,
    Repair,
    body,
    entries,
    linked,
)


def entry(number: int, alias: str = "a", state: State = State.UP, topics: tuple[str, ...] = ()) -> Entry:
    record = HealthRecord(uuid=UUID(int=number + 1), alias=alias, state=state, host="h", topics=topics)
    return Entry(record, credential="c")


class NewerRecord(HealthRecord, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """As a later version of layer8 has it."""

    news: str = ""


class NewerEntry(Entry, frozen=True, gc=False, array_like=True):
    news: int = 0


def newer(number: int, alias: str = "a") -> Entry:
    record = NewerRecord(uuid=UUID(int=number + 1), alias=alias, host="h", news="unheard of")
    return NewerEntry(record, credential="c", news=7)


def table(side: Home | Mirror) -> dict[UUID, Entry]:
    return {each.record.uuid: each for each in side}


class Wire:
    """A home and one mirror, with a connection between them that loses what it is told to."""

    def __init__(self) -> None:
        self.home = Home(epoch=1, log=8)
        self.mirror = Mirror()
        self.to_mirror: deque[bytes] = deque()
        self.to_home: deque[bytes] = deque()
        self.shown: dict[UUID, Entry] = {}
        self.whole = 0  # states sent

    def connect(self) -> None:
        self.to_mirror.clear()
        self.to_home.clear()
        self._say(self.to_home, self.mirror.connected(self.home.epoch))

    def change(self, *put: Entry, dropped: tuple[UUID, ...] = ()) -> None:
        for delta in self.home.change(put, dropped):
            self._say(self.to_mirror, delta)

    def restart(self) -> None:
        """The home's Vnet starts anew, with what lives there now."""
        entries = list(self.home)
        self.home = Home(epoch=self.home.epoch + 1, log=8)
        self.home.change(entries)
        self.connect()

    def step(self, lose: bool = False) -> None:
        if self.to_home:
            data = self.to_home.popleft()
            if not lose:
                self._at_home(linked(data))
        elif self.to_mirror:
            data = self.to_mirror.popleft()
            if not lose:
                self._at_mirror(linked(data))

    def settle(self) -> None:
        for _ in range(3):
            while self.to_home or self.to_mirror:
                self.step()
            self._say(self.to_mirror, self.home.digest())
        self.step()

    def _say(self, way: deque[bytes], message: Linked) -> None:
        way.append(body(message))

    def _at_home(self, message: Linked | None) -> None:
        match message:
            case Have():
                for answer in self.home.answer(message):
                    self.whole += isinstance(answer, Part) and answer.last
                    self._say(self.to_mirror, answer)
            case Repair():
                for part in self.home.everything():
                    self.whole += part.last
                    self._say(self.to_mirror, part)
            case _:
                raise AssertionError(message)

    def _at_mirror(self, message: Linked | None) -> None:
        answer: Changes | Repair | None
        match message:
            case Delta():
                answer = self.mirror.delta(message, entries(message))
            case Part():
                answer = self.mirror.part(message, entries(message))
            case Digest():
                answer = self.mirror.digest(message)
            case _:
                raise AssertionError(message)
        if isinstance(answer, Repair):
            self._say(self.to_home, answer)
        elif answer is not None:
            for each in answer.put:
                self.shown[each.record.uuid] = each
            for uuid in answer.dropped:
                del self.shown[uuid]

    def check(self) -> None:
        assert table(self.mirror) == table(self.home) == self.shown


@pytest.fixture
def wire() -> Wire:
    wire = Wire()
    wire.change(*(entry(number) for number in range(5)))
    wire.connect()
    wire.settle()
    return wire


def test_a_new_link_brings_the_whole_state_and_then_changes_in_sequence(wire: Wire) -> None:
    wire.check()
    assert wire.whole == 1
    wire.change(entry(2, alias="b"), entry(7))
    wire.change(dropped=(UUID(int=1),))
    wire.settle()
    wire.check()
    assert wire.whole == 1


def test_after_a_short_cut_only_the_changes_come(wire: Wire) -> None:
    wire.change(entry(8))
    wire.change(entry(9))
    wire.connect()  # both were lost
    wire.settle()
    wire.check()
    assert wire.whole == 1


def test_after_a_long_one_everything_comes(wire: Wire) -> None:
    for number in range(20):
        wire.change(entry(number, alias="new"))
    wire.connect()
    wire.settle()
    wire.check()
    assert wire.whole == 2


def test_a_home_that_starts_anew_is_learned_anew(wire: Wire) -> None:
    wire.change(dropped=(UUID(int=2),))
    wire.to_mirror.clear()
    wire.restart()
    wire.settle()
    wire.check()


def test_what_is_as_it_was_is_no_change(wire: Wire) -> None:
    assert wire.home.change([entry(1)], [UUID(int=99)]) == []


def test_a_gap_is_noticed_with_the_next_change(wire: Wire) -> None:
    wire.change(entry(8))
    wire.to_mirror.clear()
    wire.change(entry(9))
    wire.step()
    assert [linked(data) for data in wire.to_home] == [Repair()]
    wire.settle()
    wire.check()


def test_a_loss_that_nothing_follows_is_noticed_by_the_digest(wire: Wire) -> None:
    wire.change(entry(8))
    wire.to_mirror.clear()
    wire.settle()
    wire.check()


def test_a_mirror_that_differs_for_whatever_reason_is_repaired(wire: Wire) -> None:
    wire.mirror._apply([(entry(3, alias="wrong"), b"wrong")], [])
    wire.settle()
    assert table(wire.mirror) == table(wire.home)


def test_a_mirror_that_cannot_read_all_that_a_newer_home_says_agrees_with_it() -> None:
    wire = Wire()
    wire.change(*(newer(number) for number in range(5)))
    wire.connect()
    wire.settle()
    wire.change(newer(3, alias="b"), newer(7))
    wire.settle()
    assert wire.whole == 1
    assert not wire.to_home
    assert wire.shown == {UUID(int=n + 1): entry(n, alias="b" if n == 3 else "a") for n in (0, 1, 2, 3, 4, 7)}


def test_a_mirror_that_could_read_more_than_an_older_home_says_agrees_with_it() -> None:
    told = msgspec.msgpack.encode([{"uuid": UUID(int=1), "host": "h", "alias": None}, "c"])  # not as it is written now
    digest = hashlib.blake2b(told, digest_size=16).digest()
    mirror = Mirror()
    mirror.connected(1)
    part = Part(sequence=1, number=0, last=True, entries=(msgspec.Raw(told),))
    assert isinstance(mirror.part(part, entries(part)), Changes)
    assert mirror.digest(Digest(sequence=1, count=1, digest=digest)) is None


def test_a_state_that_is_cut_in_the_middle_changes_nothing() -> None:
    wire = Wire()
    wire.change(*(entry(number, topics=("t" * 200,) * 20) for number in range(100)))
    wire.connect()
    wire.step()
    assert len(wire.to_mirror) > 3
    wire.step()
    wire.step()
    assert wire.shown == {}
    wire.connect()
    wire.settle()
    wire.check()


def test_ten_thousand_records_fit_in_messages_and_arrive() -> None:
    wire = Wire()
    wire.change(*(entry(number, alias=f"worker-{number}") for number in range(10_000)))
    wire.connect()
    wire.step()
    assert all(len(data) <= CONTROL_BYTES for data in wire.to_mirror)
    wire.settle()
    wire.check()
    assert len(wire.shown) == 10_000


def test_the_log_of_changes_is_bounded() -> None:
    home = Home(epoch=1)
    for number in range(LOG_CHANGES + 100):
        home.change([entry(number % 10, alias=f"a{number}")])
    assert len(home._log) == LOG_CHANGES


steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 9)),
    st.tuples(st.just("drop"), st.integers(0, 9)),
    st.tuples(st.just("step"), st.booleans()),
    st.tuples(st.just("cut"), st.none()),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("digest"), st.none()),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(steps, max_size=80), st.booleans())
def test_whatever_is_lost_one_whole_exchange_makes_them_agree(
    schedule: list[tuple[str, int | bool | None]], connected: bool
) -> None:
    wire = Wire()
    if connected:
        wire.connect()
    for turn, (kind, value) in enumerate(schedule):
        match kind:
            case "put":
                wire.change(entry(int(value or 0), alias=f"a{turn}"))
            case "drop":
                wire.change(dropped=(UUID(int=int(value or 0) + 1),))
            case "step":
                wire.step(lose=bool(value))
            case "cut":
                wire.connect()
            case "restart":
                wire.restart()
            case "digest":
                wire._say(wire.to_mirror, wire.home.digest())
    if not connected:
        wire.connect()
    wire.settle()
    wire.check()
