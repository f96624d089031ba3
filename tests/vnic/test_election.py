"""Standing, leading, stepping back: what one process sees of an election."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from layer8 import Closed, Vnic
from layer8.testing import RunningVnet, running_vnet

MakeVnic = Callable[..., Vnic]
Stopped = Callable[..., object]
PATIENCE = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


def test_one_leads_all_see_it_and_the_next_one_follows_in_a_higher_term(make_vnic: MakeVnic) -> None:
    vnics = [make_vnic() for _ in range(3)]
    elections = [vnic.elect("one") for vnic in vnics]
    first, second, third = elections
    assert first.wait(PATIENCE)
    assert (first.group, first.leader, first.is_leader) == ("one", vnics[0].uuid, True)
    for election in elections[1:]:
        until(lambda election=election: election.leader == vnics[0].uuid, "the others see it")  # type: ignore[misc]
        assert (election.term, election.is_leader) == (first.term, False)
        assert not election.wait(0)
    term = first.term
    first.close()
    first.close()
    assert not first.is_leader
    assert second.wait(PATIENCE)
    assert second.term > term
    until(lambda: third.leader == vnics[1].uuid, "the third sees it")
    assert third.term == second.term
    vnics[1].close()
    assert not second.is_leader
    assert third.wait(PATIENCE)
    third.close()


def test_changes_come_as_events(make_vnic: MakeVnic) -> None:
    leader, other = make_vnic(), make_vnic()
    with leader.elect("events") as own:
        event = own.receive(PATIENCE)
        while event.leader is None:
            event = own.receive(PATIENCE)
        assert (event.group, event.leader, event.is_leader) == ("events", leader.uuid, True)
        with other.elect("events") as seen:
            event = seen.receive(PATIENCE)
            assert (event.leader, event.is_leader, event.term) == (leader.uuid, False, own.term)
            own.close()
            while not event.is_leader:
                event = seen.receive(PATIENCE)
            assert event.leader == other.uuid
            with pytest.raises(TimeoutError):
                seen.receive(0.01)
        with pytest.raises(Closed):
            seen.receive()
        assert list(seen) == []
        with pytest.raises(Closed):
            seen.wait()


def test_a_leader_goes_on_leading_long_after_its_first_lease(make_vnic: MakeVnic) -> None:
    with running_vnet(config={"election_lease": 0.5}) as quick:
        vnic = make_vnic(vnet=str(quick.socket))
        with vnic.elect("long") as election:
            assert election.wait(PATIENCE)
            term = election.term
            until(lambda: time.monotonic() > election._own.lease_end - 0.5, "renewed")
            end = election._own.lease_end
            until(lambda: election._own.lease_end > end + 1.5, "renewed several times")
            assert (election.is_leader, election.term) == (True, term)
        vnic.close()


def test_while_the_vnet_stands_still_the_lease_ends_by_the_own_clock(
    own_vnet: RunningVnet, make_own: MakeVnic, stopped: Stopped
) -> None:
    vnic = make_own()
    with vnic.elect("cut") as election:
        assert election.wait(PATIENCE)
        term = election.term
        with stopped(own_vnet.pid):  # type: ignore[attr-defined]
            until(lambda: not election.is_leader, "its lease has ended")
            assert election.leader is None
        assert election.wait(PATIENCE)
        assert election.term > term


def test_over_a_restart_of_the_vnet_a_term_never_comes_again(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    vnic = make_own()
    with vnic.elect("again") as election:
        assert election.wait(PATIENCE)
        terms = [election.term]
        for way in (own_vnet.kill, own_vnet.stop):
            way()
            own_vnet.restart()
            other = make_own()
            with other.elect("again") as seen:
                until(lambda seen=seen: seen.leader is not None, "led again")  # type: ignore[misc]
                terms.append(seen.term)
            other.close()
        assert terms == sorted(terms)
    with make_own().elect("again") as late:
        assert late.wait(PATIENCE)
        assert late.term > terms[-1]


def test_a_group_has_a_name_and_is_stood_in_once(make_vnic: MakeVnic) -> None:
    vnic = make_vnic()
    with pytest.raises(ValueError):
        vnic.elect("layer8.mine")
    with pytest.raises(ValueError):
        vnic.elect("")
    with vnic.elect("twice"):
        with pytest.raises(ValueError, match="already"):
            vnic.elect("twice")
        with vnic.elect("another") as another:
            assert another.wait(PATIENCE)
    with vnic.elect("twice") as again:
        assert again.wait(PATIENCE)
