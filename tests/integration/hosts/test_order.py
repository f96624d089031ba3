"""Everything arrives once and in order, whatever happens to connections and Vnets: the books of both ends agree."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

Until = Callable[[Callable[[], object], str], None]

COUNT = 1_000_000
CUTS = 20
KILLS = 10
LARGE = 200_000  # bytes: a message in fragments


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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mortal", ["b", "ab"])
def test_reliable_publications_outlive_the_vnet_of_one_end_and_of_both(
    near_hosts: Any, spawn: Any, free_port: int, until: Until, stopped: Any, mortal: str
) -> None:
    """Also when the subscriber's next Vnet has another number for the topic, or its link before its subscriber, and
    when the publisher's next Vnet dies before it knows who subscribes elsewhere."""
    hosts = near_hosts
    hosts.vnet("a", listen=f"127.0.0.1:{free_port}", give_up=60.0)
    hosts.vnet("b", peers=("a",), listen=[], give_up=60.0)
    publisher, other = hosts.vnic("a", timeout=120), hosts.vnic("b")
    earlier = other.subscribe("earlier")
    receiver = spawn(hosts, "b", "count_receive", "sink", "numbers")
    until(lambda: len(publisher.health(topic="numbers")) == 1, "the subscriber is known")
    earlier.close()  # its number is free for the next Vnet
    ended = threading.Event()
    sent: list[int] = []

    def publish() -> None:
        while not ended.is_set():
            payload = len(sent).to_bytes(8, "little") + bytes(LARGE if len(sent) % 50 == 0 else 0)
            sent.append(publisher.publish("numbers", payload, reliable=True))

    def have() -> int:
        said = receiver.ask("have")
        assert said.isdigit(), said
        return int(said)

    def is_linked() -> bool:
        return all(hosts.vnets[name].log.count("is up") > links[name] for name in mortal)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for number in range(2):
            before = have()
            until(lambda before=before: have() > before + 200, "numbers come")  # type: ignore[misc]
            with stopped(receiver.process.pid):  # and not back before its Vnet has a link
                links = {name: hosts.vnets[name].log.count("is up") for name in mortal}
                for name in mortal * (2 if number == 0 else 1):
                    hosts.vnets[name].kill()
                    hosts.vnets[name].restart()
                until(is_linked, "the link is up")
    finally:
        ended.set()
        thread.join(150)
    until(lambda: have() == len(sent), f"all of {len(sent)} have come; the last word: {have()}")
