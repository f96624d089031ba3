"""Subscriptions, streams and handlers."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from layer8 import Closed, Message, Vnic
from layer8.testing import RunningVnet

MakeVnic = Callable[..., Vnic]
Stopped = Callable[[int | None], AbstractContextManager[None]]
KIB = 1 << 10


def test_what_is_published_after_subscribe_has_returned_arrives(make_vnic: MakeVnic) -> None:
    publisher = make_vnic()
    publisher.publish("prices", b"too early")
    for number in range(20):
        subscriber = make_vnic()
        subscription = subscriber.subscribe("prices")
        publisher.publish("prices", bytes([number]))
        message = subscriber.receive(10)
        assert message.payload == bytes([number])
        assert (message.topic, message.source, message.missed) == ("prices", publisher.uuid, 0)
        assert (subscription.topic, subscription.missed) == ("prices", 0)
        subscriber.close()


def test_every_subscriber_gets_every_publication_in_order(make_vnic: MakeVnic) -> None:
    publisher = make_vnic()
    subscribers = [make_vnic() for _ in range(3)]
    for subscriber in subscribers:
        subscriber.subscribe("all")
    for number in range(500):
        publisher.publish("all", number.to_bytes(2, "little"), reliable=True)
    publisher.publish("all", bytes(200 * KIB))
    for subscriber in subscribers:
        got = [int.from_bytes(subscriber.receive(10).payload, "little") for _ in range(500)]
        assert got == list(range(500))
        assert len(subscriber.receive(10).payload) == 200 * KIB


def test_a_topic_is_literal(make_vnic: MakeVnic) -> None:
    publisher, subscriber = make_vnic(), make_vnic()
    subscriber.subscribe("prices.*")
    publisher.publish("prices.gold", b"no")
    publisher.publish("prices.*", b"yes")
    assert subscriber.receive(10).payload == b"yes"


def test_a_closed_subscription_brings_nothing_more(make_vnic: MakeVnic) -> None:
    publisher, subscriber = make_vnic(), make_vnic()
    with subscriber.subscribe("news") as subscription:
        publisher.publish("news", b"1")
        assert subscriber.receive(10).payload == b"1"
    subscription.close()
    publisher.publish("news", b"2")
    publisher.send(subscriber.uuid, b"end")
    assert subscriber.receive(10).payload == b"end"
    subscriber.subscribe("news")
    publisher.publish("news", b"3")
    assert subscriber.receive(10).payload == b"3"


def test_handlers_run_one_at_a_time_and_in_order(make_vnic: MakeVnic) -> None:
    publisher, subscriber = make_vnic(), make_vnic()
    got: list[tuple[str | None, bytes]] = []
    done = threading.Event()
    threads = set()

    def handler(message: Message) -> None:
        threads.add(threading.current_thread().name)
        got.append((message.topic, message.payload))
        if len(got) == 400:
            done.set()

    subscriber.subscribe("one", handler)
    subscriber.subscribe("two", handler)
    for number in range(200):
        publisher.publish("one", number.to_bytes(2, "little"), reliable=True)
        publisher.publish("two", number.to_bytes(2, "little"), reliable=True)
    assert done.wait(30)
    assert len(threads) == 1
    for topic in ("one", "two"):
        assert [payload for name, payload in got if name == topic] == [
            number.to_bytes(2, "little") for number in range(200)
        ]


def test_an_exception_in_a_handler_is_logged_and_counted_and_the_next_message_comes(
    make_vnic: MakeVnic, caplog: pytest.LogCaptureFixture
) -> None:
    publisher, subscriber = make_vnic(), make_vnic()
    got: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def handler(message: Message) -> None:
        if message.payload == b"bad":
            raise RuntimeError("on purpose")
        got.put(message.payload)

    subscriber.subscribe("risky", handler)
    with caplog.at_level(logging.ERROR, "layer8.vnic"):
        publisher.publish("risky", b"bad")
        publisher.publish("risky", b"good")
        assert got.get(timeout=30) == b"good"
    assert subscriber.stats().handler_failures == 1
    assert "RuntimeError: on purpose" in caplog.text


def test_handler_and_loop_may_share_a_topic_and_a_vnic(make_vnic: MakeVnic) -> None:
    publisher, subscriber = make_vnic(), make_vnic("both")
    handled: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    subscriber.subscribe("shared", lambda message: handled.put(message.payload))
    plain = subscriber.subscribe("shared")
    publisher.send("both", b"unicast")
    publisher.publish("shared", b"published")
    assert [subscriber.receive(10).payload for _ in range(2)] == [b"unicast", b"published"]
    assert handled.get(timeout=10) == b"published"
    plain.close()
    publisher.publish("shared", b"more")
    assert handled.get(timeout=10) == b"more"
    assert subscriber.try_receive() is None


def test_a_slow_subscriber_misses_and_learns_how_many(make_vnic: MakeVnic) -> None:
    publisher, subscriber = make_vnic(), make_vnic()
    subscription = subscriber.subscribe("firehose")
    count = 2000
    for number in range(count):
        publisher.publish("firehose", number.to_bytes(4, "little") + bytes(KIB), timeout=30)
    while publisher.stats().port.transmit_fill:  # type: ignore[union-attr]
        time.sleep(0.001)
    got: list[Message] = []
    deadline = time.monotonic() + 30
    while len(got) + subscription.missed < count:  # all that was sent has been moved, and one side or the other knows
        assert time.monotonic() < deadline, (len(got), subscription.missed)
        while (message := subscriber.try_receive()) is not None:
            got.append(message)
    assert 0 < len(got) < count
    assert subscription.missed == count - len(got)
    publisher.publish("firehose", b"last", reliable=True, timeout=30)  # its room may not have been heard of yet
    last = subscriber.receive(10)
    assert sum(message.missed for message in [*got, last]) == count - len(got)
    numbers = [int.from_bytes(message.payload[:4], "little") for message in got]
    assert numbers == sorted(set(numbers))


def test_reliable_publications_wait_for_slow_subscribers(make_vnic: MakeVnic) -> None:
    publisher, subscriber = make_vnic(), make_vnic()
    subscription = subscriber.subscribe("careful")
    count = 2000

    def publish() -> None:
        for number in range(count):
            publisher.publish("careful", number.to_bytes(4, "little") + bytes(KIB), reliable=True, timeout=60)

    thread = threading.Thread(target=publish)
    thread.start()
    got = []
    for _ in range(count):
        got.append(int.from_bytes(subscriber.receive(60).payload[:4], "little"))
    thread.join()
    assert got == list(range(count))
    assert subscription.missed == 0


def test_a_stream_has_a_queue_of_its_own(make_vnic: MakeVnic) -> None:
    publisher, subscriber = make_vnic(), make_vnic("streaming")
    with subscriber.stream("stream.a") as first, subscriber.stream("stream.b") as second:
        publisher.publish("stream.a", b"a")
        publisher.publish("stream.b", b"b")
        publisher.send("streaming", b"unicast")
        assert second.receive(10).payload == b"b"
        assert first.receive(10).payload == b"a"
        assert subscriber.receive(10).payload == b"unicast"
        assert first.try_receive() is None
        with pytest.raises(TimeoutError):
            first.receive(0.01)
        assert first.missed == 0


def test_a_stream_that_keeps_one_has_the_latest(make_vnic: MakeVnic) -> None:
    publisher, subscriber = make_vnic(), make_vnic()
    other = subscriber.subscribe("state.end")
    with subscriber.stream("state", keep=1) as stream:
        for number in range(100):
            publisher.publish("state", bytes([number]))
        publisher.publish("state.end", b"")
        assert subscriber.receive(10).topic == "state.end"
        assert stream.receive(10).payload == bytes([99])
        assert stream.missed == 99
        assert other.missed == 0
    with pytest.raises(ValueError):
        subscriber.stream("state", keep=0)


def test_iterating_a_stream_ends_with_the_vnic(make_vnic: MakeVnic) -> None:
    publisher, subscriber = make_vnic(), make_vnic()
    got: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    stream = subscriber.stream("ending")

    def loop() -> None:
        for message in stream:
            got.put(message.payload)
        got.put(None)

    thread = threading.Thread(target=loop)
    thread.start()
    publisher.publish("ending", b"x")
    assert got.get(timeout=30) == b"x"
    subscriber.close()
    assert got.get(timeout=30) is None
    thread.join()


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another reader"])
def test_a_stream_closed_by_another_thread_ends_the_wait(make_vnic: MakeVnic, beside: bool) -> None:
    subscriber = make_vnic()
    if beside:
        subscriber.subscribe("something.else", lambda message: None)
    stream = subscriber.stream("left")
    outcome: queue.SimpleQueue[object] = queue.SimpleQueue()

    def wait() -> None:
        try:
            outcome.put(stream.receive(60))
        except Closed as error:
            outcome.put(error)

    threads = [threading.Thread(target=wait), threading.Thread(target=lambda: outcome.put(list(stream)))]
    for thread in threads:
        thread.start()
    stream.close()
    got = [outcome.get(timeout=30) for _ in threads]
    for thread in threads:
        thread.join()
    assert [] in got
    assert any(isinstance(item, Closed) for item in got)


def test_topics_can_be_subscribed_and_closed_for_ever(make_vnic: MakeVnic) -> None:
    publisher, subscriber = make_vnic(), make_vnic()
    for number in range(1100):  # more than there are numbers
        with subscriber.subscribe(f"turn.{number}"):
            if number % 100 == 0:
                publisher.publish(f"turn.{number}", str(number).encode())
                assert subscriber.receive(10).payload == str(number).encode()


def test_a_subscription_keeps_its_vnic(make_vnic: MakeVnic) -> None:
    subscription = make_vnic().subscribe("kept")
    assert subscription._vnic.state == "attached"
    assert "kept" in repr(subscription)


def test_subscribing_with_a_vnet_that_stands_still_is_backpressure(
    own_vnet: RunningVnet, make_own: MakeVnic, stopped: Stopped
) -> None:
    vnic = make_own(timeout=0.3)
    with stopped(own_vnet.pid), pytest.raises(TimeoutError):
        vnic.subscribe("stopped")
    vnic.subscribe("stopped")
    vnic.publish("stopped", b"x")
    assert vnic.receive(30).payload == b"x"
