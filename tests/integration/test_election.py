"""Leaders that are killed, stopped and cut off, by real processes; and the Vnet killed in between."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from layer8 import Vnic
from layer8.testing import RunningVnet
from layer8.vnic.election import Election

Run = Callable[..., Any]
MakeVnic = Callable[..., Vnic]
PATIENCE = 60.0


def until_led(election: Election, *, after: int, but: UUID | None = None) -> int:
    """The next term in which somebody leads, seen by a member."""
    deadline = time.monotonic() + PATIENCE
    while election.leader is None or election.term <= after or election.leader == but:
        assert time.monotonic() < deadline, repr(election)
        time.sleep(0.005)
    return election.term


def test_a_leader_killed_fifty_times_in_a_row_is_followed_each_time_in_a_higher_term(
    run: Run, make_vnic: MakeVnic, vnet: RunningVnet
) -> None:
    """Fifty leaders, each killed as soon as it leads; a bystander sees every one of them."""
    members: dict[UUID, Any] = {}

    def join() -> None:
        program = run("hold_group", "group")
        members[UUID(program.wait_for("ready"))] = program

    terms: list[int] = []
    killed = 0
    bystander = make_vnic()
    for _ in range(3):
        join()
    election = bystander.elect("group")
    while killed < 50:
        terms.append(until_led(election, after=terms[-1] if terms else 0))
        leader = election.leader
        if leader in members:
            members[leader].kill()
            killed += 1
            join()
        else:  # its own turn: it steps back, behind the others
            election.close()
            election = bystander.elect("group")
    election.close()
    assert terms == sorted(set(terms))


def test_a_leader_that_is_stopped_is_followed_and_knows_it_when_it_goes_on(run: Run, vnet: RunningVnet) -> None:
    leader, follower = run("stand", "group"), None
    term = int(leader.wait_for("leads"))
    follower = run("stand", "group")
    follower.wait_for("ready")
    with leader.stopped():
        later = int(follower.wait_for("leads"))
        assert later > term
    for program in (leader, follower):
        program.tell("end")
    own, others = claims_of(leader), claims_of(follower)
    assert {claim[2] for claim in own} == {term}
    check_claims(own + others)


def claims_of(program: Any) -> list[tuple[float, float, int]]:
    claims = []
    while (line := program.line()) != "over":
        if line.startswith("claim "):
            _, start, end, term = line.split()
            claims.append((float(start), float(end), int(term)))
    return claims


def check_claims(claims: list[tuple[float, float, int]]) -> None:
    """Nobody led in a lower term after somebody surely led in a higher one."""
    claims.sort(key=lambda claim: claim[2])
    soonest_higher = float("inf")
    for start, end, _ in reversed(claims):
        assert start <= soonest_higher, "two led at one time"
        soonest_higher = min(soonest_higher, end)


def test_a_vnet_killed_in_the_middle_of_elections_gives_no_term_twice(
    run: Run, make_vnic: MakeVnic, vnet: RunningVnet
) -> None:
    programs = [run("stand", "group") for _ in range(3)]
    for program in programs:
        program.wait_for("ready")
    observer = make_vnic()
    with observer.elect("group") as election:
        term = 0
        for number in range(6):
            if number % 2:
                term = max(term, until_led(election, after=0))
            election.close()  # if it led, a new term is on its way
            time.sleep(0.002 * number)
            vnet.kill()
            vnet.restart()
            election = observer.elect("group")
            later = until_led(election, after=0)
            assert later >= term
            term = later
        election.close()
    claims = []
    for program in programs:
        program.tell("end")
    owners: dict[int, int] = {}
    for number, program in enumerate(programs):
        for claim in claims_of(program):
            assert owners.setdefault(claim[2], number) == number, "one term had two leaders"
            claims.append(claim)
    check_claims(claims)


def test_a_killed_leader_that_is_followed_leaves_the_next_one_its_place(run: Run, make_vnic: MakeVnic) -> None:
    program = run("stand", "group")
    program.wait_for("ready")
    first = int(program.wait_for("leads"))
    vnic = make_vnic()
    with vnic.elect("group") as election:
        assert until_led(election, after=0) == first
        assert not election.is_leader
        os.kill(program.pid, signal.SIGKILL)
        assert election.wait(PATIENCE)
        assert election.leader == vnic.uuid
        assert election.term > first
