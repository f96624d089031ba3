"""What every ElectionEngine has to keep: the embedded one, and one that several hosts agree by. Without I/O.

Whoever writes an engine adds it to KINDS. First what a single call promises, then whole overlays over random schedules.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer8.health.election import Action, Appoint, Candidacy, ElectionEngine, OneHost, Persist, Proclaim

from .shared_engine import Memory, SharedEngine

LEASE = 2.0
A, B = UUID(int=1), UUID(int=2)

Make = Callable[[], ElectionEngine]


def shared(hosts: int) -> list[Make]:
    """An overlay of several hosts, with one store."""
    return [functools.partial(SharedEngine, Memory(), lease=LEASE, first_term=100)] * hosts


KINDS: dict[str, Callable[[], Sequence[Make]]] = {
    "embedded": lambda: [functools.partial(OneHost, lease=LEASE, first_term=100)],
    "shared, on one host": lambda: shared(1),
    "shared, on three hosts": lambda: shared(3),
}


class Told:
    """What an engine has said, with every term stored at once."""

    def __init__(self, engine: ElectionEngine) -> None:
        self.engine = engine
        self.actions: list[Action] = []

    def hear(self, actions: list[Action], now: float) -> None:
        self.actions += actions
        for action in actions:
            if isinstance(action, Persist):
                self.hear(self.engine.persisted(action.group, action.term, True, now), now)

    @property
    def appointed(self) -> tuple[int, UUID] | None:
        """The last one."""
        found = [(action.term, action.member) for action in self.actions if isinstance(action, Appoint)]
        return found[-1] if found else None

    @property
    def leader(self) -> UUID | None:
        return [action.leader for action in self.actions if isinstance(action, Proclaim)][-1]


@pytest.fixture(params=KINDS)
def told(request: pytest.FixtureRequest) -> Told:
    """An engine of each kind that A and B stand before, since 0.0; A is appointed."""
    engine = KINDS[request.param]()[0]()
    told = Told(engine)
    engine.start([], lambda actions: None, 0.0)
    assert engine.deadline == math.inf
    assert engine.has_room("g")
    for member in (A, B):
        told.hear(engine.stand("g", member, 0.0), 0.0)
    return told


def renew(told: Told, member: UUID, term: int, now: float) -> bool:
    agreed, actions = told.engine.renew("g", member, term, now)
    told.hear(actions, now)
    return agreed


def test_who_is_appointed_leads_when_it_renews_and_nobody_else_does(told: Told) -> None:
    assert told.appointed is not None
    term, member = told.appointed
    assert term > 100
    assert member == A
    assert told.leader is None
    assert not renew(told, B, term, 0.1)
    assert not renew(told, A, term + 1, 0.1)
    assert renew(told, A, term, 0.1)
    assert told.leader == A


def test_a_leader_that_renews_stays_and_one_that_does_not_is_followed_in_a_higher_term(told: Told) -> None:
    assert told.appointed is not None
    term, _ = told.appointed
    for tenths in range(1, 50):
        assert renew(told, A, term, tenths / 10)
        told.hear(told.engine.tick(tenths / 10), tenths / 10)
    assert told.appointed == (term, A)
    told.hear(told.engine.tick(6.8), 6.8)
    assert told.leader == A
    assert told.engine.deadline < math.inf
    told.hear(told.engine.tick(6.9), 6.9)
    assert not renew(told, A, term, 6.9)
    assert told.appointed == (term + 1, B)
    assert renew(told, B, term + 1, 7.0)
    assert told.leader == B


def test_who_surely_leaves_is_followed_at_once_and_of_whom_nobody_knows_after_its_lease(told: Told) -> None:
    assert told.appointed is not None
    term, _ = told.appointed
    assert renew(told, A, term, 0.0)
    told.hear(told.engine.leave("g", A, 0.5, surely=False), 0.5)
    told.hear(told.engine.tick(1.9), 1.9)
    assert told.appointed == (term, A)
    told.hear(told.engine.tick(2.0), 2.0)
    assert told.appointed == (term + 1, B)
    assert renew(told, B, term + 1, 2.0)
    told.hear(told.engine.stand("g", A, 2.5), 2.5)
    told.hear(told.engine.leave("g", B, 2.5, surely=True), 2.5)
    assert told.appointed == (term + 2, A)


def test_who_is_not_fit_is_not_chosen_until_it_is(told: Told) -> None:
    assert told.appointed is not None
    term, _ = told.appointed
    told.hear(told.engine.set_fit(B, False, 0.1), 0.1)
    told.hear(told.engine.leave("g", A, 0.5, surely=True), 0.5)
    assert told.appointed == (term, A)
    told.hear(told.engine.set_fit(B, True, 0.7), 0.7)
    assert told.appointed == (term + 1, B)
    told.engine.forget(A)
    told.engine.close()


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


class Host:
    """One Vnet after the other: what is on its disk, and the engine of the moment."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.disk: Persist | None = None
        self.writes: deque[Persist] = deque()
        self.engine: ElectionEngine | None = None


class World:
    """Members on one host or several, and messages on their way. Checks the promises all the time."""

    def __init__(self, members: int, makes: Sequence[Make]) -> None:
        self.now = 0.0
        self.members = [Member(number) for number in range(members)]
        self.hosts = [Host(make) for make in makes]
        self.leaders: dict[int, UUID] = {}
        for number in range(len(self.hosts)):
            self.start(number)

    def host_of(self, member: Member) -> Host:
        return self.hosts[self.members.index(member) % len(self.hosts)]

    def members_of(self, host: Host) -> list[Member]:
        return [member for member in self.members if self.host_of(member) is host]

    def start(self, number: int) -> None:
        host = self.hosts[number]
        host.engine = host.make()
        stored = [] if host.disk is None else [host.disk]
        host.engine.start(stored, functools.partial(self.carry_out, host), self.now)
        host.writes.clear()
        for member in self.members_of(host):
            member.inbox.clear()
            member.outbox.clear()
            if member.alive:
                member.outbox.append(("stand",))
                member.own.again(self.now + member.skew)

    def crash(self, number: int) -> None:
        """The next one starts at once."""
        self.hosts[number].engine = None
        self.check()
        self.start(number)

    def carry_out(self, host: Host, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Persist):
                host.writes.append(action)
                continue
            to = (action.member,) if isinstance(action, Appoint) else action.members
            for member in self.members_of(host):
                if member.uuid in to:
                    member.inbox.append(("action", action))

    def vnet_reads(self, number: int) -> None:
        member = self.members[number]
        host = self.host_of(member)
        if host.engine is None or not member.outbox:
            return
        kind, *rest = member.outbox.popleft()
        if kind == "stand":
            self.carry_out(host, host.engine.stand("g", member.uuid, self.now))
        elif kind == "leave":
            self.carry_out(host, host.engine.leave("g", member.uuid, self.now, surely=True))
        else:
            term, asked = rest
            assert isinstance(term, int)
            agreed, actions = host.engine.renew("g", member.uuid, term, self.now)
            member.inbox.append(("answer", agreed, term, asked))
            self.carry_out(host, actions)

    def tick(self) -> None:
        for host in self.hosts:
            if host.engine is not None and host.engine.deadline <= self.now:
                self.carry_out(host, host.engine.tick(self.now))

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
        for host in self.hosts:
            if host.engine is not None and host.writes:
                write = host.writes.popleft()
                if stored:
                    assert host.disk is None or write.term > host.disk.term
                    host.disk = write
                self.carry_out(host, host.engine.persisted(write.group, write.term, stored, self.now))

    def end(self, number: int, how: str) -> None:
        member = self.members[number]
        host = self.host_of(member)
        if how == "stop":
            member.stopped = True
        elif how == "go on":
            member.stopped = False
        elif how == "kill" and member.alive:
            member.alive = False
            if host.engine is not None:
                self.carry_out(host, host.engine.leave("g", member.uuid, self.now, surely=True))
        elif how == "leave" and member.alive and not member.stopped:
            member.own.resign()
            member.outbox.append(("leave",))
        elif how == "cut" and host.engine is not None:  # its connection ends, and it stands again
            self.carry_out(host, host.engine.leave("g", member.uuid, self.now, surely=False))
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
    st.tuples(st.just("crash"), st.integers(0, 2)),
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
        world.tick()
        world.check()
        world.now += 0.05


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(steps=st.lists(step, max_size=80))
def test_never_do_two_lead_whatever_is_lost_late_killed_or_stopped(kind: str, steps: list[tuple[str, object]]) -> None:
    world = World(4, KINDS[kind]())
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
            case "tick":
                world.tick()
            case "crash":
                world.crash(number % len(world.hosts))
            case "flow":
                flow(world, number)
            case _ if what in ("stop", "go on", "kill", "leave", "cut"):
                world.end(number, what)
        world.check()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["stop", "kill", "leave", "crash"]), st.integers(0, 2)), max_size=12))
def test_whoever_is_left_is_led_again_soon(kind: str, steps: list[tuple[str, int]]) -> None:
    """Member 3 goes on whatever happens to the others, and in the end somebody leads."""
    world = World(4, KINDS[kind]())
    flow(world, 10)
    for what, number in steps:
        if what == "crash":
            world.crash(number % len(world.hosts))
        else:
            world.end(number, what)
        flow(world, 8)
    flow(world, 200)
    leading = [member for member in world.members if member.own.is_leader(world.now + member.skew) and member.alive]
    assert len([member for member in leading if not member.stopped]) == 1
