"""Elections without I/O: tables first, then whole overlays of members and Vnets over random schedules."""

from __future__ import annotations

import math
from collections import deque
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

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
    engine = OneHost(100, lease=lease)
    for member in members:
        persist(engine, engine.stand("g", member, 0.0), 0.0)
    assert engine.renew("g", members[0], 101, 0.0)[0]
    return engine


def appointed(actions: list[Action]) -> list[tuple[int, UUID]]:
    return [(action.term, action.member) for action in actions if isinstance(action, Appoint)]


def proclaimed(actions: list[Action]) -> list[UUID | None]:
    return [action.leader for action in actions if isinstance(action, Proclaim)]


def test_the_first_to_stand_is_appointed_when_its_term_is_stored_and_leads_when_it_renews() -> None:
    engine = OneHost(100)
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
    engine = OneHost(100, lease=2.0)
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
    engine = OneHost(100)
    engine.stand("g", A, 0.0)
    assert engine.persisted("g", 101, False, 0.0) == []
    assert engine.deadline == 1.0
    assert engine.stand("g", B, 0.5)[1:] == []
    assert engine.tick(1.0) == [Persist(group="g", term=102, member=A)]


def test_after_a_restart_who_led_goes_on_in_its_term_or_time_passes() -> None:
    engine = OneHost(5, lease=2.0)
    engine.restore("g", 101, A, 10.0)
    assert proclaimed(engine.stand("g", B, 10.0)) == [A]
    engine.stand("g", A, 10.5)
    assert engine.renew("g", A, 101, 11.0)[0]
    engine = OneHost(5, lease=2.0)
    engine.restore("g", 101, A, 10.0)
    engine.stand("g", B, 10.0)
    assert appointed(persist(engine, engine.tick(12.0), 12.0)) == [(102, B)]


def test_groups_have_nothing_to_do_with_each_other() -> None:
    engine = led(A, B)
    assert appointed(persist(engine, engine.stand("h", B, 0.0), 0.0)) == [(101, B)]
    assert engine.renew("h", B, 101, 0.1)[0]
    assert engine.renew("g", A, 101, 0.1)[0]
    assert OneHost(1, max_groups=1).has_room("g")
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


# ── whole overlays ────────────────────────────────────────────────────────────────────────────────────────────────


class Member:
    def __init__(self, number: int) -> None:
        self.uuid = UUID(int=number + 1)
        self.skew = 1000.0 * number  # its clock has another zero
        self.own = Candidacy()
        self.alive = True
        self.stopped = False
        self.inbox: deque[tuple[object, ...]] = deque()  # from the Vnet
        self.outbox: deque[tuple[object, ...]] = deque()  # to the Vnet


class World:
    """Members, the Vnet of the moment, what is on disk, and messages on their way. Checks the promises all the time."""

    def __init__(self, members: int) -> None:
        self.now = 0.0
        self.members = [Member(number) for number in range(members)]
        self.disk: tuple[int, UUID] | None = None
        self.writes: deque[Persist] = deque()
        self.engine: OneHost | None = None
        self.leaders: dict[int, UUID] = {}
        self.start()

    def start(self) -> None:
        self.engine = OneHost(100, lease=2.0)
        if self.disk is not None:
            self.engine.restore("g", *self.disk, self.now)
        self.writes.clear()
        for member in self.members:
            member.inbox.clear()
            member.outbox.clear()
            if member.alive:
                member.outbox.append(("stand",))
                member.own.again(self.now + member.skew)

    def crash(self) -> None:
        self.engine = None

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Persist):
                self.writes.append(action)
                continue
            to = (action.member,) if isinstance(action, Appoint) else action.members
            for member in self.members:
                if member.uuid in to:
                    member.inbox.append(("action", action))

    def vnet_reads(self, number: int) -> None:
        member = self.members[number]
        if self.engine is None or not member.outbox:
            return
        kind, *rest = member.outbox.popleft()
        if kind == "stand":
            self.carry_out(self.engine.stand("g", member.uuid, self.now))
        elif kind == "leave":
            self.carry_out(self.engine.leave("g", member.uuid, self.now, surely=True))
        else:
            term, asked = rest
            assert isinstance(term, int)
            agreed, actions = self.engine.renew("g", member.uuid, term, self.now)
            member.inbox.append(("answer", agreed, term, asked))
            self.carry_out(actions)

    def member_reads(self, number: int) -> None:
        member = self.members[number]
        if not member.alive or member.stopped:
            return
        clock = self.now + member.skew
        if member.inbox:
            kind, *rest = member.inbox.popleft()
            if kind == "answer":
                agreed, term, asked = rest
                assert isinstance(term, int)
                assert isinstance(asked, float)
                if agreed:
                    member.own.renewed(term, asked, 2.0, clock)
                else:
                    member.own.refused(term)
            elif isinstance(rest[0], Appoint):
                member.own.appointed(rest[0].term, clock)
            elif isinstance(rest[0], Proclaim):
                member.own.proclaimed(rest[0].term, rest[0].leader)
        member.own.lapse(clock)
        if clock >= member.own.renew_at:
            member.own.renew_at = clock + 0.3
            member.outbox.append(("renew", member.own.own_term, clock))

    def disk_writes(self, stored: bool) -> None:
        if self.engine is None or not self.writes:
            return
        write = self.writes.popleft()
        if stored:
            assert self.disk is None or write.term > self.disk[0]
            self.disk = write.term, write.member
        self.carry_out(self.engine.persisted(write.group, write.term, stored, self.now))

    def end(self, number: int, how: str) -> None:
        member = self.members[number]
        if how == "stop":
            member.stopped = True
        elif how == "go on":
            member.stopped = False
        elif how == "kill" and member.alive:
            member.alive = False
            if self.engine is not None:
                self.carry_out(self.engine.leave("g", member.uuid, self.now, surely=True))
        elif how == "leave" and member.alive and not member.stopped:
            member.own.resign()
            member.outbox.append(("leave",))
        elif how == "cut" and self.engine is not None:  # its connection ends, and it stands again
            self.carry_out(self.engine.leave("g", member.uuid, self.now, surely=False))
            member.inbox.clear()
            member.outbox.clear()
            if member.alive:
                member.outbox.append(("stand",))

    def check(self) -> None:
        leading = [member for member in self.members if member.alive and member.own.is_leader(self.now + member.skew)]
        assert len(leading) <= 1, "two lead at one time"
        for member in leading:
            first = self.leaders.setdefault(member.own.own_term, member.uuid)
            assert first == member.uuid, "one term has two leaders"
            assert member.own.own_term == max(self.leaders), "an earlier term leads again"


step = st.one_of(
    st.tuples(st.just("time"), st.sampled_from([0.01, 0.1, 0.3, 0.7, 1.0, 2.0, 2.5])),
    st.tuples(st.just("vnet"), st.integers(0, 3)),
    st.tuples(st.just("member"), st.integers(0, 3)),
    st.tuples(st.just("disk"), st.booleans()),
    st.tuples(st.just("tick"), st.none()),
    st.tuples(st.sampled_from(["stop", "go on", "kill", "leave", "cut"]), st.integers(0, 3)),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("flow"), st.integers(1, 6)),
)


def flow(world: World, rounds: int) -> None:
    """Everybody does what they can, with little time passing."""
    for _ in range(rounds):
        for number in range(len(world.members)):
            world.member_reads(number)
            world.vnet_reads(number)
            world.check()
        world.disk_writes(True)
        world.check()
        if world.engine is not None:
            world.carry_out(world.engine.tick(world.now))
        world.check()
        world.now += 0.05


@settings(max_examples=400, deadline=None)
@given(steps=st.lists(step, max_size=80))
def test_never_do_two_lead_whatever_is_lost_late_killed_or_stopped(steps: list[tuple[str, object]]) -> None:
    world = World(4)
    for what, value in steps:
        number = value if isinstance(value, int) else 0
        match what:
            case "time":
                assert isinstance(value, float)
                world.now += value
            case "vnet":
                world.vnet_reads(number)
            case "member":
                world.member_reads(number)
            case "disk":
                world.disk_writes(bool(value))
            case "tick" if world.engine is not None:
                world.carry_out(world.engine.tick(world.now))
            case "crash":
                world.crash()
                world.check()
                world.start()
            case "flow":
                flow(world, number)
            case _ if what in ("stop", "go on", "kill", "leave", "cut"):
                world.end(number, what)
        world.check()


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["stop", "kill", "leave", "crash"]), st.integers(0, 2)), max_size=12))
def test_whoever_is_left_is_led_again_soon(steps: list[tuple[str, int]]) -> None:
    """Member 3 goes on whatever happens to the others, and within 2.6 s and what messages take somebody leads."""
    world = World(4)
    flow(world, 10)
    for what, number in steps:
        if what == "crash":
            world.crash()
            world.start()
        else:
            world.end(number, what)
        flow(world, 8)
    flow(world, 200)
    leading = [member for member in world.members if member.own.is_leader(world.now + member.skew) and member.alive]
    assert len([member for member in leading if not member.stopped]) == 1
