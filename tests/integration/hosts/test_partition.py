"""A network that fails: in the middle, one way, half-open; and what all agree on when it is whole again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from layer8 import Vnic
from layer8.health_record import State

Until = Callable[[Callable[[], object], str], None]
QUICK = {"keep_alive": 0.2, "give_up": 1.0}
SECONDS = float(os.environ.get("LAYER8_PARTITION_SECONDS", "0"))  # scripts/partition-soak: with the times of real use


def living(vnic: Vnic) -> dict[UUID, tuple[str, str | None]]:
    return {record.uuid: (record.host, record.alias) for record in vnic.health(kind="vnic", state=State.UP)}


def test_a_partition_heals_to_one_directory(hosts: Any, until: Until) -> None:
    if not hosts.network.cuts:
        pytest.skip("needs network namespaces")
    hosts.mesh("a", "b", "c", **({} if SECONDS else QUICK))
    looking = {host: hosts.vnic(host) for host in "abc"}
    until(lambda: len(living(looking["a"])) == 3, "all see all")
    healing = time.monotonic() + SECONDS
    hosts.network.cut("c")
    until(lambda: len(living(looking["a"])) == 2, "c is lost to a")
    until(lambda: len(living(looking["c"])) == 1, "the others are lost to c")
    meanwhile = [hosts.vnic("a", "new-at-a"), hosts.vnic("c", "new-at-c")]  # both sides change meanwhile
    time.sleep(max(0.0, healing - time.monotonic()))
    hosts.network.heal("c")
    healed = time.monotonic()
    for vnic in looking.values():
        until(lambda vnic=vnic: len(living(vnic)) == 5, "all see all again")  # type: ignore[misc]
    print(f"one directory again {time.monotonic() - healed:.1f} s after the network was whole")
    assert living(looking["a"]) == living(looking["b"]) == living(looking["c"])
    meanwhile[0].send("new-at-c", b"across")
    assert meanwhile[1].receive(timeout=60).payload == b"across"


def test_a_way_that_is_blocked_in_one_direction_is_noticed_at_both_ends(hosts: Any, until: Until) -> None:
    if not hosts.network.cuts:
        pytest.skip("needs network namespaces")
    hosts.mesh("a", "b", **QUICK)
    a, b = hosts.vnic("a"), hosts.vnic("b")
    until(lambda: len(living(a)) == len(living(b)) == 2, "both see both")
    hosts.network.block("a", "b")
    for vnic in (a, b):
        until(lambda vnic=vnic: len(living(vnic)) == 1, "it is noticed")  # type: ignore[misc]
    hosts.network.unblock("a", "b")
    for vnic in (a, b):
        until(lambda vnic=vnic: len(living(vnic)) == 2, "it is whole again")  # type: ignore[misc]


@pytest.mark.parametrize("ways", [{"up"}, {"down"}, {"up", "down"}])
def test_a_connection_that_is_dead_at_one_end_is_replaced(
    near_hosts: Any, between: Any, ways: set[str], until: Until
) -> None:
    hosts = near_hosts
    hosts.vnet("a", **QUICK)
    proxy = between(hosts.address("a"))
    hosts.vnet("b", peers=(proxy.address,), listen=[], **QUICK)
    a, b = hosts.vnic("a", "at-a"), hosts.vnic("b")
    b.find("at-a", timeout=60)
    proxy.stopped |= ways
    until(lambda: len(living(b)) == 1, "it is noticed")
    proxy.stopped.clear()
    b.find("at-a", timeout=60)
    until(lambda: len(living(b)) == 2, "it is replaced")
    b.send("at-a", b"after all")
    assert a.receive(timeout=60).payload == b"after all"


def test_a_change_of_policy_is_in_force_for_far_vnics_too(near_hosts: Any, tmp_path: Path, until: Until) -> None:
    hosts = near_hosts
    allow = '[[allow]]\nwho = "*"\nmay = "*"\nwhat = "*"\n'
    deny = '[[deny]]\nwho = "*"\nmay = ["send", "request"]\nwhat = "alias store"\n'
    policy = tmp_path / "policy.toml"
    policy.write_text(allow)
    hosts.vnet("a")
    hosts.vnet("b", peers=("a",), policy=str(policy))  # the sender's Vnet has none: it lets everything out
    near, far = hosts.vnic("a"), hosts.vnic("b", "store")
    back: list[str] = []
    near.on_undeliverable = lambda report: back.append(report.reason)
    near.find("store", timeout=60)
    near.send("store", b"allowed")
    assert far.receive(timeout=60).payload == b"allowed"

    def comes_back() -> bool:
        near.send("store", b"denied some day")
        while far.try_receive() is not None:
            pass
        return bool(back)

    policy.write_text(deny + allow)
    until(comes_back, "it comes back")
    assert set(back) == {"revoked"}

    def arrives() -> bool:
        near.send("store", b"allowed again")
        message = far.try_receive()
        return message is not None and message.payload == b"allowed again"

    policy.write_text(allow)
    until(arrives, "it arrives again")


def test_what_a_policy_forbids_to_host_closes_the_link(near_hosts: Any, tmp_path: Path, until: Until) -> None:
    hosts = near_hosts
    policy = tmp_path / "policy.toml"
    allow = '[[allow]]\nwho = "*"\nmay = "*"\nwhat = "*"\n'
    policy.write_text(allow + '[[deny]]\nwho = "layer8://shop/vnet/b"\nmay = "host"\nwhat = "layer8://shop/vnic/app"\n')
    hosts.vnet("a", policy=str(policy))
    hosts.vnet("b", peers=("a",))
    hosts.vnic("b", "store")
    near = hosts.vnic("a")
    until(lambda: "may not host layer8://shop/vnic/app" in hosts.vnets["a"].log, "the link is closed")
    assert not [record for record in near.health(kind="vnic", state=State.UP) if record.host == "b"]
