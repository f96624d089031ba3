"""Sessions: which connection stays, when one is resumed, when it is given up; as tables and over random schedules."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer8.protocol.sessions import (
    Action,
    Backoff,
    Condition,
    Duplicate,
    GivenUp,
    Heard,
    Opened,
    Replaced,
    Resumed,
    Sessions,
    Silent,
)

LOW, HIGH = UUID(int=1), UUID(int=2)


def opened(now: float = 0.0) -> Sessions:
    sessions = Sessions(LOW)
    assert sessions.begin(HIGH, 1, 50, 1, "a", now) == [Opened(HIGH)]
    return sessions


def test_a_cut_connection_makes_silent_and_the_next_one_resumes() -> None:
    sessions = opened()
    assert sessions.lost("a") == [Silent(HIGH)]
    assert sessions.knows(HIGH) == (50, 0)
    assert sessions.tick(4.9) == []
    assert sessions.begin(HIGH, 1, 50, 2, "b", 4.9) == [Resumed(HIGH, restarted=False)]
    assert sessions.is_live(HIGH)
    assert sessions.tick(5.5) == []


def test_it_is_given_up_so_long_after_the_last_thing_heard() -> None:
    sessions = opened()
    assert sessions.deadline == 2.9
    sessions.heard("a", 2.0)
    assert sessions.tick(4.89) == []
    assert sessions.deadline == 4.9
    quiet = sessions.has_silent
    assert sessions.tick(4.9) == [Silent(HIGH)]
    assert (quiet, sessions.has_silent) == (False, True)
    assert sessions.deadline == 7.0
    sessions.heard("a", 5.1)
    assert sessions.tick(5.2) == [Heard(HIGH)]
    assert sessions.tick(8.2) == [Silent(HIGH)]
    assert sessions.tick(10.09) == []
    (over,) = sessions.tick(10.1)
    assert isinstance(over, GivenUp)
    assert over.connection == "a"
    assert HIGH not in sessions
    assert sessions.deadline == math.inf
    assert sessions.lost("a") == []


def test_a_vnet_that_started_anew_resumes() -> None:
    sessions = opened()
    sessions.lost("a")
    session, serial = sessions.decide(HIGH, 2, (0, 0), 1.0)
    assert session == 50
    assert sessions.begin(HIGH, 2, session, serial + 5, "b", 1.0) == [Resumed(HIGH, restarted=True)]


def test_one_that_knows_nothing_without_a_new_start_has_given_up() -> None:
    sessions = opened()
    sessions.lost("a")
    session, _ = sessions.decide(HIGH, 1, (0, 0), 1.0)
    assert session != 50
    first, second = sessions.begin(HIGH, 1, session, 2, "b", 1.0)
    assert isinstance(first, GivenUp)
    assert second == Opened(HIGH)


def test_what_both_have_is_not_replaced() -> None:
    sessions = opened()
    with pytest.raises(Duplicate):
        sessions.decide(HIGH, 1, (50, 1), 3.0)
    sessions.decide(HIGH, 1, (50, 0), 3.0)  # the other has lost it


def test_what_came_about_while_the_new_one_was_greeting_is_not_replaced() -> None:
    sessions = opened(now=2.0)
    with pytest.raises(Duplicate):
        sessions.decide(HIGH, 1, (0, 0), 1.5)


def test_a_later_connection_replaces_and_an_earlier_one_does_not() -> None:
    sessions = opened()
    assert sessions.begin(HIGH, 1, 50, 3, "b", 1.0) == [Replaced("a"), Resumed(HIGH, restarted=False)]
    with pytest.raises(Duplicate):
        sessions.begin(HIGH, 1, 50, 2, "c", 1.0)
    assert sessions.lost("a") == []  # nobody's any more
    assert sessions.is_live(HIGH)


def test_who_is_told_that_the_other_gave_up_gives_up() -> None:
    sessions = opened()
    assert sessions.give_up(HIGH, "it stops") == [GivenUp(HIGH, "a", "it stops")]
    assert sessions.give_up(HIGH, "it stops") == []


def test_dialling_waits_ever_longer_and_with_chance_until_it_succeeds() -> None:
    backoff = Backoff(first=0.1, longest=2.0, chance=random.Random(1))
    waits = [backoff.next() for _ in range(12)]
    assert all(0.05 * 2**n <= wait <= 0.1 * 2**n for n, wait in enumerate(waits[:4]))
    assert all(1.0 <= wait <= 2.0 for wait in waits[5:])
    assert len(set(waits)) == len(waits)
    backoff.success()
    assert backoff.next() <= 0.1


# ── two Vnets, any number of connections, any order ───────────────────────────────────────────────────────────────────


@dataclass(eq=False)
class Dial:
    """One connection under way. `step`: how much of the handshake is done."""

    number: int
    dials_low: bool
    step: int = 0
    greeted: dict[UUID, float] = field(default_factory=dict)
    theirs: dict[UUID, tuple[int, int]] = field(default_factory=dict)  # what `key` was told by the other
    numbers: tuple[int, int] = (0, 0)
    open_at: set[UUID] = field(default_factory=set)  # who uses it
    broken: bool = False


class Pair:
    """Two Vnets and the network between them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.vnets = {LOW: Sessions(LOW), HIGH: Sessions(HIGH)}
        self.epochs = {LOW: 1, HIGH: 1}
        self.using: dict[UUID, Dial | None] = {LOW: None, HIGH: None}
        self.dials: list[Dial] = []
        self.made = 0
        self.given_up = 0

    def dial(self, dials_low: bool) -> None:
        self.made += 1
        self.dials.append(Dial(self.made, dials_low))

    def step(self, dial: Dial) -> None:
        """The next message of this handshake arrives."""
        if dial.broken or dial.step >= 4:
            return
        dialler, acceptor = (LOW, HIGH) if dial.dials_low else (HIGH, LOW)
        dial.step += 1
        try:
            match dial.step:
                case 1:
                    dial.greeted = {dialler: self.now, acceptor: self.now}
                    dial.theirs[dialler] = self.vnets[acceptor].knows(dialler)
                case 2:
                    dial.theirs[acceptor] = self.vnets[dialler].knows(acceptor)
                    numbers = self._decide(acceptor, dialler, dial)
                    dial.numbers = max(dial.numbers, numbers)
                case 3:
                    dial.numbers = max(dial.numbers, self._decide(dialler, acceptor, dial))
                    self._begin(dialler, acceptor, dial)
                case 4:
                    self._begin(acceptor, dialler, dial)
        except Duplicate:
            self.cut(dial)

    def _decide(self, me: UUID, other: UUID, dial: Dial) -> tuple[int, int]:
        return self.vnets[me].decide(other, self.epochs[other], dial.theirs[me], dial.greeted[me])

    def _begin(self, me: UUID, other: UUID, dial: Dial) -> None:
        actions = self.vnets[me].begin(other, self.epochs[other], *dial.numbers, dial, self.now)
        self.using[me] = dial
        dial.open_at.add(me)
        self._carry_out(me, actions)

    def _carry_out(self, me: UUID, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Replaced(connection=Dial() as old) | GivenUp(connection=Dial() as old):
                    old.open_at.discard(me)
                    if self.using[me] is old:
                        self.using[me] = None
                    self.cut(old)
                case _:
                    pass
            self.given_up += isinstance(action, GivenUp)

    def cut(self, dial: Dial) -> None:
        """The connection is no more; who uses it sees that at once."""
        dial.broken = True
        for me in tuple(dial.open_at):
            dial.open_at.discard(me)
            if self.using[me] is dial:
                self.using[me] = None
            self._carry_out(me, self.vnets[me].lost(dial))

    def restart(self, me: UUID) -> None:
        """Killed and started anew."""
        other = HIGH if me == LOW else LOW
        self.vnets[me] = Sessions(me)
        self.epochs[me] += 1
        self.using[me] = None
        for dial in self.dials:
            dial.open_at.discard(me)
            if other in dial.open_at or dial.step < 4:
                self.cut(dial)

    def settle(self) -> None:
        """Nothing more goes wrong: both dial again until they have a link."""
        for turn in range(20):
            for dial in self.dials:
                while not dial.broken and dial.step < 4:
                    self.step(dial)
            self.now += 0.1
            for me, other in ((LOW, HIGH), (HIGH, LOW)):
                dial_now = self.using[me]
                if dial_now is not None:
                    self.vnets[me].heard(dial_now, self.now)
                self._carry_out(me, self.vnets[me].tick(self.now))
                if not self.vnets[me].is_live(other) and turn % 2 == (me == LOW):
                    self.dial(me == LOW)


events = st.one_of(
    st.tuples(st.just("dial"), st.booleans()),
    st.tuples(st.just("step"), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.integers(0, 7)),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(st.just("time"), st.integers(1, 70)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(events, max_size=40))
def test_whatever_happens_both_end_with_one_link_and_it_is_the_same(happenings: list[tuple[str, int]]) -> None:
    pair = Pair()
    for kind, value in happenings:
        recent = pair.dials[-8:]
        if kind == "dial":
            pair.dial(bool(value))
        elif kind == "step" and value < len(recent):
            pair.step(recent[value])
        elif kind == "cut" and value < len(recent):
            pair.cut(recent[value])
        elif kind == "restart":
            pair.restart(LOW if value else HIGH)
        elif kind == "time":
            pair.now += value / 10
            for me in (LOW, HIGH):
                pair._carry_out(me, pair.vnets[me].tick(pair.now))
    pair.settle()
    assert pair.using[LOW] is not None
    assert pair.using[LOW] is pair.using[HIGH]
    low, high = pair.vnets[LOW].get(HIGH), pair.vnets[HIGH].get(LOW)
    assert low is not None
    assert high is not None
    assert (low.id, low.serial) == (high.id, high.serial)
    assert low.condition is high.condition is Condition.LIVE


@given(st.lists(st.integers(0, 5), max_size=30))
def test_two_who_dial_at_the_same_time_need_no_second_try(order: list[int]) -> None:
    pair = Pair()
    pair.dial(True)
    pair.dial(False)
    for number in order:
        pair.step(pair.dials[number % 2])
    for dial in pair.dials:
        while not dial.broken and dial.step < 4:
            pair.step(dial)
    assert pair.using[LOW] is not None
    assert pair.using[LOW] is pair.using[HIGH]
    assert len(pair.dials) == 2
    assert pair.given_up == 0
