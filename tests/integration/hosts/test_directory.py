"""The directory of the overlay over several Vnets: who sees whom, when a Vnet is silent, given up, and back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from layer8 import NotFound, Vnic
from layer8.health_record import HealthRecord, State

Until = Callable[[Callable[[], object], str], None]
QUICK = {"keep_alive": 0.2, "give_up": 1.0}


def states(vnic: Vnic, host: str) -> set[State]:
    return {record.state for record in vnic.health(host=host)}


def vnics(vnic: Vnic) -> dict[UUID, HealthRecord]:
    return {record.uuid: record for record in vnic.health(kind="vnic")}


def test_every_vnic_sees_all_fifteen_records_of_three_vnets_in_full_mesh(hosts: Any, until: Until) -> None:
    hosts.mesh("a", "b", "c")
    there = [hosts.vnic(host, f"{host}{number}") for host in "abc" for number in range(4)]
    for vnic in there:
        until(lambda vnic=vnic: len(vnic.health()) == 15, "all records")  # type: ignore[misc]
        assert set(vnics(vnic)) == {other.uuid for other in there}
        assert {record.host for record in vnic.health(kind="vnet")} == set("abc")


def test_find_waits_for_somebody_on_another_host(hosts: Any) -> None:
    hosts.mesh("a", "b")
    near = hosts.vnic("a")
    with pytest.raises(NotFound):
        near.find("store", timeout=0)
    far = hosts.vnic("b", "store")
    record = near.find("store", timeout=60)
    assert (record.uuid, record.host, record.state) == (far.uuid, "b", State.UP)
    assert record.principal == "layer8://shop/vnic/app"


def test_what_happens_to_a_vnic_is_seen_on_other_hosts(hosts: Any, until: Until) -> None:
    hosts.mesh("a", "b")
    near, far = hosts.vnic("a"), hosts.vnic("b", "store")
    until(lambda: far.uuid in vnics(near), "it is seen")
    with far.subscribe("prices"):
        until(lambda: vnics(near)[far.uuid].topics == ("prices",), "its topics are seen")
    far.close()
    until(lambda: vnics(near)[far.uuid].state is State.DOWN, "its end is seen")
    assert vnics(near)[far.uuid].reason == "detached"


def test_a_watch_sees_other_hosts(hosts: Any) -> None:
    hosts.mesh("a", "b")
    near = hosts.vnic("a")
    with near.watch(alias="store") as watch:
        far = hosts.vnic("b", "store")
        event = next(iter(watch))
        assert (event.kind, event.record.uuid, event.record.host) == ("joined", far.uuid, "b")


def test_a_late_vnet_learns_everything_from_the_one_that_it_is_told(hosts: Any, until: Until) -> None:
    hosts.mesh("a", "b", "c")
    there = [hosts.vnic(host) for host in "abc"]
    hosts.vnet("d", peers=("b",))
    late = hosts.vnic("d")
    everybody = {vnic.uuid for vnic in (*there, late)}
    for vnic in (late, *there):
        until(lambda vnic=vnic: set(vnics(vnic)) == everybody, "everybody")  # type: ignore[misc]


def test_a_silent_vnet_is_suspect_then_unreachable_and_comes_back(hosts: Any, until: Until) -> None:
    hosts.mesh("a", "b", **QUICK)
    near = hosts.vnic("a")
    far = hosts.vnic("b", "store")
    near.find("store", timeout=60)
    pid = hosts.vnets["b"].pid
    with near.watch(uuid=far.uuid) as watch:
        events = iter(watch)
        assert next(events).record.state is State.UP
        os.kill(pid, signal.SIGSTOP)
        assert next(events).record.state is State.SUSPECT
        lost = next(events).record
        assert lost.state is State.UNREACHABLE
        assert lost.reason == "nothing was heard of it for 1 s"
        with pytest.raises(NotFound):
            near.find("store", timeout=0)
        os.kill(pid, signal.SIGCONT)
        while next(events).record.state is not State.UP:
            pass
    assert near.find("store", timeout=60).uuid == far.uuid


def test_a_killed_vnet_that_returns_in_time_is_only_suspect(hosts: Any, until: Until) -> None:
    hosts.mesh("a", "b", give_up=60.0)
    near = hosts.vnic("a")
    far = hosts.vnic("b", "store")
    near.find("store", timeout=60)
    vnet = hosts.vnets["b"]
    before = {record.uuid for record in near.health(kind="vnet")}
    with near.watch(uuid=far.uuid) as watch:
        events = iter(watch)
        assert next(events).record.state is State.UP
        vnet.kill()
        assert next(events).record.state is State.SUSPECT
        vnet.restart()
        while (record := next(events).record).state is not State.UP:
            assert record.state in (State.SUSPECT, State.UNREACHABLE)
    assert record.uuid == far.uuid
    assert {record.uuid for record in near.health(kind="vnet")} == before  # it is the same Vnet


def test_a_vnet_that_stops_says_so(hosts: Any, until: Until) -> None:
    hosts.mesh("a", "b", give_up=600.0)
    near = hosts.vnic("a")
    hosts.vnets["b"].stop()
    until(lambda: states(near, "b") == {State.UNREACHABLE}, "that it has stopped")
    assert {record.reason for record in near.health(host="b")} == {"it has stopped"}


def test_two_that_dial_each_other_have_one_link(hosts: Any, free_port: int, until: Until) -> None:
    hosts.vnet("a", peers=(f"127.0.0.1:{free_port}",))
    hosts.vnet("b", listen=f"127.0.0.1:{free_port}", peers=("a",))
    near = hosts.vnic("a")
    until(lambda: states(near, "b") == {State.UP}, "a link")

    def linked() -> list[tuple[str, State]]:
        (own,) = near.health(kind="vnet", host="a")
        return [(link.host, link.state) for link in own.links]

    until(lambda: linked() == [("b", State.UP)], "one link")


def test_a_peer_that_is_wrong_down_or_silent_delays_no_other(hosts: Any, silent_listener: str) -> None:
    hosts.vnet("a")
    wrong = ("127.0.0.1:1", silent_listener, "no-such-host.invalid:8808", "192.0.2.1:8808")
    hosts.vnet("b", peers=(*wrong, "a"))
    far = hosts.vnic("a", "store")
    assert hosts.vnic("b").find("store", timeout=60).uuid == far.uuid


def test_vnets_of_different_overlays_have_no_link(hosts: Any, other_hosts: Any, until: Until) -> None:
    hosts.vnet("a")
    other_hosts.vnet("b", peers=(hosts.address("a"),))
    until(lambda: "no link with the Vnet at" in other_hosts.vnets["b"].log, "the refusal in the log")
    assert len(hosts.vnic("a").health(kind="vnet")) == 1
