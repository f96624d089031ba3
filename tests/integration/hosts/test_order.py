"""Everything arrives once and in order, whatever happens to connections and Vnets: the books of both ends agree."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

Until = Callable[[Callable[[], object], str], None]

COUNT = 1_000_000
CUTS = 20
KILLS = 10


@pytest.mark.timeout(300)
def test_a_million_unicasts_arrive_in_order_although_the_connection_is_cut_twenty_times_at_random_bytes(
    near_hosts: Any, between: Any, spawn: Any, until: Until
) -> None:
    chance = random.Random(8)
    hosts = near_hosts
    hosts.vnet("a")
    cutter = between(hosts.address("a"))
    hosts.vnet("b", peers=(cutter.address,), listen=[])
    receiver = spawn(hosts, "a", "count_receive", "sink")
    sender = spawn(hosts, "b", "count_send", "sink", COUNT)
    for number in range(CUTS):
        cutter.cut_at = cutter.bytes + chance.randrange(1, 3_000_000)
        until(lambda number=number: cutter.cuts > number, "the connection is cut")  # type: ignore[misc]
    sent = sender.until("sent")
    assert sent == str(COUNT)
    until(lambda: receiver.ask("have") == sent, f"all have come, in order; the last word: {receiver.ask('have')}")


@pytest.mark.timeout(300)
def test_killing_either_vnet_ten_times_under_load_leaves_the_same_count_at_both_ends(
    near_hosts: Any, spawn: Any, free_port: int, until: Until
) -> None:
    hosts = near_hosts
    hosts.vnet("a", listen=f"127.0.0.1:{free_port}", give_up=60.0)
    hosts.vnet("b", peers=("a",), listen=[], give_up=60.0)
    receiver = spawn(hosts, "a", "count_receive", "sink")
    sender = spawn(hosts, "b", "count_send", "sink", 1 << 40)

    def have() -> int:
        said = receiver.ask("have")
        assert said.isdigit(), said
        return int(said)

    for number in range(KILLS):
        before = have()
        until(lambda before=before: have() > before + 100, "numbers come")  # type: ignore[misc]
        vnet = hosts.vnets["ab"[number % 2]]
        vnet.kill()
        time.sleep(random.Random(number).random() / 10)  # the state of a dead Vnet is as good at any moment
        vnet.restart()
    before = have()
    until(lambda: have() > before + 100, "numbers come after the last one too")
    sent = int(sender.ask("sent"))
    until(lambda: have() == sent, f"all of {sent} have come")
