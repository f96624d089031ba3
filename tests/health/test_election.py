"""The embedded engine and the member's half without I/O, as tables; test_engines.py has what every engine promises."""

from __future__ import annotations

import math
from uuid import UUID

from layer8.health.election import Action, Appoint, Candidacy, OneHost, Persist, Proclaim

A, B, C = (UUID(int=number) for number in range(1, 4))


def persist(engine: OneHost, actions: list[Action], now: float) -> list[Action]:
    """Carries out what is to be stored, and gives everything that came of it."""
    done: list[Action] = []
    while actions:
        done += actions
        actions = [
            follow
            for action in actions
            if isinstance(action, Persist)
            for follow in engine.persisted(action.group, action.term, True, now)
        ]
    return done


def led(*members: UUID, lease: float = 2.0) -> OneHost:
    """An engine with a group "g" that the first member leads, in term 101, since 0.0."""
    engine = OneHost(first_term=100, lease=lease)
    for member in members:
        persist(engine, engine.stand("g", member, 0.0), 0.0)
    assert engine.renew("g", members[0], 101, 0.0)[0]
    return engine


def appointed(actions: list[Action]) -> list[tuple[int, UUID]]:
    return [(action.term, action.member) for action in actions if isinstance(action, Appoint)]


def proclaimed(actions: list[Action]) -> list[UUID | None]:
    return [action.leader for action in actions if isinstance(action, Proclaim)]


def test_the_first_to_stand_is_appointed_when_its_term_is_stored_and_leads_when_it_renews() -> None:
    engine = OneHost(first_term=100)
    actions = engine.stand("g", A, 0.0)
    assert Persist(group="g", term=101, member=A) in actions
    assert appointed(actions) == []
    assert appointed(engine.persisted("g", 101, True, 0.0)) == [(101, A)]
    assert proclaimed(engine.stand("g", B, 0.0)) == [None]
    agreed, actions = engine.renew("g", A, 101, 0.1)
    assert agreed
    assert actions == [Proclaim(group="g", term=101, leader=A, members=(A, B))]


def test_a_leader_that_renews_stays_and_one_that_does_not_is_followed_by_another() -> None:
    engine = led(A, B)
    for tenths in range(1, 100):
        assert engine.renew("g", A, 101, tenths / 10)[0]
    assert engine.deadline == 9.9 + 2.0
    assert engine.tick(11.8) == []
    actions = persist(engine, engine.tick(11.9), 11.9)
    assert proclaimed(actions) == [None]
    assert appointed(actions) == [(102, B)]
    assert engine.renew("g", A, 101, 12.0)[0] is False
    assert engine.renew("g", B, 102, 12.0)[0] is True


def test_who_was_appointed_and_is_silent_is_passed_by() -> None:
    engine = OneHost(first_term=100, lease=2.0)
    for member in (A, B):
        persist(engine, engine.stand("g", member, 0.0), 0.0)
    assert engine.deadline == 0.6
    assert appointed(persist(engine, engine.tick(0.6), 0.6)) == [(102, B)]
    assert engine.renew("g", A, 101, 0.7)[0] is False
    assert appointed(persist(engine, engine.tick(1.2), 1.2)) == [(103, A)]


def test_who_surely_leaves_is_followed_at_once_and_of_whom_nobody_knows_after_its_lease() -> None:
    engine = led(A, B)
    assert appointed(persist(engine, engine.leave("g", A, 0.5, surely=True), 0.5)) == [(102, B)]
    engine = led(A, B)
    assert persist(engine, engine.leave("g", A, 0.5, surely=False), 0.5) == []
    assert persist(engine, engine.tick(1.9), 1.9) == []
    assert appointed(persist(engine, engine.tick(2.0), 2.0)) == [(102, B)]


def test_who_is_not_fit_is_not_chosen_until_it_is() -> None:
    engine = led(A, B, C)
    engine.set_fit(B, False, 0.1)
    assert appointed(persist(engine, engine.leave("g", A, 0.5, surely=True), 0.5)) == [(102, C)]
    assert persist(engine, engine.leave("g", C, 0.6, surely=True), 0.6) == []
    assert appointed(persist(engine, engine.set_fit(B, True, 0.7), 0.7)) == [(103, B)]


def test_a_term_that_cannot_be_stored_is_given_to_nobody_and_tried_again() -> None:
    engine = OneHost(first_term=100)
    engine.stand("g", A, 0.0)
    assert engine.persisted("g", 101, False, 0.0) == []
    assert engine.deadline == 1.0
    assert engine.stand("g", B, 0.5)[1:] == []
    assert engine.tick(1.0) == [Persist(group="g", term=102, member=A)]


def test_after_a_restart_who_led_goes_on_in_its_term_or_time_passes() -> None:
    engine = OneHost(first_term=5, lease=2.0)
    engine.start([Persist(group="g", term=101, member=A)], print, 10.0)
    assert proclaimed(engine.stand("g", B, 10.0)) == [A]
    engine.stand("g", A, 10.5)
    assert engine.renew("g", A, 101, 11.0)[0]
    engine = OneHost(first_term=5, lease=2.0)
    engine.start([Persist(group="g", term=101, member=A)], print, 10.0)
    engine.stand("g", B, 10.0)
    assert appointed(persist(engine, engine.tick(12.0), 12.0)) == [(102, B)]


def test_groups_have_nothing_to_do_with_each_other() -> None:
    engine = led(A, B)
    assert appointed(persist(engine, engine.stand("h", B, 0.0), 0.0)) == [(101, B)]
    assert engine.renew("h", B, 101, 0.1)[0]
    assert engine.renew("g", A, 101, 0.1)[0]
    assert OneHost(first_term=1, max_groups=1).has_room("g")
    assert not led(A).has_room("x") or led(A)._max_groups > 1


def test_a_lease_counts_from_before_it_was_asked_for_and_is_never_revived() -> None:
    own = Candidacy()
    own.appointed(7, 100.0)
    assert own.renew_at == 100.0
    assert not own.is_leader(100.0)
    own.renewed(7, 100.0, 2.0, 101.0)
    assert own.is_leader(101.9)
    assert not own.is_leader(102.0)
    own.renewed(7, 101.5, 2.0, 103.0)  # the answer comes after the end of the lease before
    assert not own.is_leader(103.0)
    own.appointed(7, 103.0)
    assert own.renew_at == math.inf
    own.appointed(8, 103.0)
    own.renewed(8, 103.0, 2.0, 103.0)
    assert own.is_leader(104.0)
    own.resign()
    assert not own.is_leader(104.0)


def test_an_answer_that_took_longer_than_the_lease_is_worth_nothing() -> None:
    own = Candidacy()
    own.appointed(7, 0.0)
    own.renewed(7, 0.0, 2.0, 5.0)
    assert not own.is_leader(5.0)
    assert own.renew_at == math.inf
