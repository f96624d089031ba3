"""Messages between hosts: the same verbs and the same guarantees as on one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from layer8 import NotFound, RequestFailed, Unreachable, Vnic
from layer8.health_record import State

Until = Callable[[Callable[[], object], str], None]


def received(vnic: Vnic, timeout: float = 60.0) -> bytes:
    return vnic.receive(timeout=timeout).payload


def test_unicast_to_another_host_arrives_exactly_once_with_its_sender(hosts: Any) -> None:
    hosts.mesh("a", "b")
    near, far = hosts.vnic("a"), hosts.vnic("b", "store")
    near.find("store", timeout=60)
    near.send("store", b"by alias")
    near.send(far.uuid, b"by uuid")
    messages = [far.receive(timeout=60) for _ in range(2)]
    assert {message.payload for message in messages} == {b"by alias", b"by uuid"}
    assert {(message.source, message.principal) for message in messages} == {(near.uuid, "layer8://shop/vnic/app")}
    far.send(near.uuid, b"back")
    assert received(near) == b"back"
    for vnic in (near, far):
        assert vnic.try_receive() is None


def test_a_service_on_another_host_answers(hosts: Any) -> None:
    hosts.mesh("a", "b")
    near, far = hosts.vnic("a"), hosts.vnic("b", "upper")
    far.serve(lambda request: request.payload.upper())
    near.find("upper", timeout=60)
    assert near.request("upper", b"hello", timeout=60).payload == b"HELLO"
    assert near.request(far.uuid, b"x" * 200_000, timeout=60).payload == b"X" * 200_000


def test_a_failed_reply_crosses(hosts: Any) -> None:
    hosts.mesh("a", "b")
    near, far = hosts.vnic("a"), hosts.vnic("b", "broken")

    def fail(request: Any) -> bytes:
        raise RuntimeError("no")

    far.serve(fail)
    near.find("broken", timeout=60)
    with pytest.raises(RequestFailed):
        near.request("broken", b"x", timeout=60)


def test_one_publication_to_nine_subscribers_on_three_hosts_arrives_nine_times(hosts: Any, until: Until) -> None:
    hosts.mesh("a", "b", "c")
    subscribers = [hosts.vnic(host) for host in "abc" for _ in range(3)]
    for vnic in subscribers:
        vnic.subscribe("prices")
    publisher = hosts.vnic("a")
    until(lambda: len(publisher.health(topic="prices")) == 9, "all subscribers are known")
    publisher.publish("prices", b"first")
    assert [received(vnic) for vnic in subscribers] == [b"first"] * 9
    publisher.publish("prices", b"second")
    assert [received(vnic) for vnic in subscribers] == [b"second"] * 9  # and nothing between


def links(vnic: Vnic, host: str) -> int:
    """Records that have left this host."""
    (own,) = vnic.health(kind="vnet", host=host)
    return sum(link.messages_out for link in own.links)


def test_a_topic_without_remote_subscribers_puts_nothing_on_any_link(hosts: Any, until: Until) -> None:
    hosts.mesh("a", "b")
    publisher, near, far = hosts.vnic("a"), hosts.vnic("a"), hosts.vnic("b")
    near.subscribe("prices")
    before = links(publisher, "a")
    for _ in range(100):
        publisher.publish("prices", b"x")
    assert [received(near) for _ in range(100)] == [b"x"] * 100
    assert links(publisher, "a") == before
    with far.subscribe("prices"):
        until(lambda: len(publisher.health(topic="prices")) == 2, "the far subscriber is known")
        publisher.publish("prices", b"y")
        assert received(far) == b"y"
        assert links(publisher, "a") == before + 1
    until(lambda: len(publisher.health(topic="prices")) == 1, "it has gone")
    publisher.publish("prices", b"z")
    assert [received(near) for _ in range(2)] == [b"y", b"z"]
    assert links(publisher, "a") == before + 1


def test_an_alias_goes_to_this_host_before_others(hosts: Any) -> None:
    hosts.mesh("a", "b")
    far = hosts.vnic("b", "worker")
    sender = hosts.vnic("a")
    sender.find("worker", timeout=60)
    sender.send("worker", b"far")
    assert received(far) == b"far"
    near = hosts.vnic("a", "worker")
    for _ in range(10):
        sender.send("worker", b"near")
    assert [received(near) for _ in range(10)] == [b"near"] * 10
    near.close()
    sender.send("worker", b"far again")
    assert received(far) == b"far again"


def test_killing_a_vnic_fails_its_outstanding_requests_on_other_hosts_at_once(hosts: Any, spawn: Any) -> None:
    hosts.mesh("a", "b")
    victim = spawn(hosts, "b", "keep", "victim")
    near = hosts.vnic("a")
    near.find("victim", timeout=60)
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            near.request("victim", b"never answered", timeout=None)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        victim.until("got")
    victim.kill()
    for thread in threads:
        thread.join(60)
    assert [type(error) for error in failed] == [Unreachable] * 5


def test_requests_fail_when_the_session_is_given_up_and_all_returns_when_it_does(hosts: Any) -> None:
    if not hosts.network.cuts:
        pytest.skip("needs network namespaces")
    hosts.mesh("a", "b", keep_alive=0.2, give_up=1.0)
    near, far = hosts.vnic("a"), hosts.vnic("b", "store")
    near.find("store", timeout=60)
    near.send("store", b"before")
    assert received(far) == b"before"
    hosts.network.cut("b")
    with pytest.raises((Unreachable, RequestFailed)):  # it may have run, or not
        near.request("store", b"into the void", timeout=None)
    with pytest.raises(NotFound):
        near.find("store", timeout=0)
    hosts.network.heal("b")
    assert near.find("store", timeout=60).state is State.UP
    near.send("store", b"after")
    assert received(far) == b"after"


def test_a_large_message_crosses_whole(hosts: Any) -> None:
    hosts.mesh("a", "b")
    near, far = hosts.vnic("a"), hosts.vnic("b", "store")
    near.find("store", timeout=60)
    data = os.urandom(5_000_000)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(received(far)), daemon=True)
    reader.start()
    near.send("store", data, timeout=60)
    reader.join(60)
    assert got == [data]


def test_a_receiver_that_does_not_read_holds_nobody_else_up(hosts: Any) -> None:
    hosts.mesh("a", "b")
    near, slow, quick = hosts.vnic("a"), hosts.vnic("b", "slow"), hosts.vnic("b", "quick")
    for alias in ("slow", "quick"):
        near.find(alias, timeout=60)
    deadline = time.monotonic() + 60
    while near.try_send("slow", b"x" * 10_000) or time.monotonic() < deadline - 59:
        assert time.monotonic() < deadline
    near.send("quick", b"passes", timeout=60)
    assert received(quick) == b"passes"
    assert received(slow) == b"x" * 10_000
