"""What `send`, `try_send` and `publish` accept, and what they refuse."""

from __future__ import annotations

import array
import queue
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from layer8 import Backpressure, Message, MessageTooLarge, NotFound, Undeliverable, Unreachable, Vnic
from layer8.testing import RunningVnet

MakeVnic = Callable[..., Vnic]
Fill = Callable[..., int]
Stopped = Callable[[int | None], AbstractContextManager[None]]
KIB = 1 << 10


def read_all(vnic: Vnic) -> list[Message]:
    found: list[Message] = []
    while True:
        try:
            found += vnic.receive_many(timeout=0.3)
        except TimeoutError:
            return found


def test_a_message_arrives_with_source_sequence_and_principal(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("receiver")
    first = sender.send("receiver", b"one")
    second = sender.send(receiver.uuid, b"two")
    messages = [receiver.receive(10), receiver.receive(10)]
    assert [message.payload for message in messages] == [b"one", b"two"]
    assert [message.sequence for message in messages] == [first, second]
    assert {message.source for message in messages} == {sender.uuid}
    assert messages[0].principal.startswith("layer8://")
    assert messages[0].topic is None
    assert not messages[0].is_request
    assert bytes(messages[0].view) == b"one"


def test_a_health_record_is_a_destination(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("by-record")
    sender.send(sender.find("by-record"), b"x")
    assert receiver.receive(10).source == sender.uuid


@pytest.mark.parametrize(
    "payload",
    [b"", b"abc", bytearray(b"abc"), memoryview(b"abc"), memoryview(b"xabcx")[1:4], array.array("I", [1, 2, 3])],
    ids=["empty", "bytes", "bytearray", "memoryview", "slice", "array"],
)
def test_any_contiguous_buffer_is_a_payload(make_vnic: MakeVnic, payload: bytes) -> None:
    sender, receiver = make_vnic(), make_vnic("buffers")
    for _ in range(2):  # the first asks for the handle, the second has it
        sender.send("buffers", payload)
        sender.send("buffers", payload, headers={"a": "b"})
        sender.publish("buffers", payload)
    assert [receiver.receive(10).payload for _ in range(4)] == [bytes(memoryview(payload))] * 4


@pytest.mark.parametrize(
    "payload", ["text", 5, None, memoryview(bytes(10))[::2]], ids=["str", "int", "none", "strided"]
)
def test_what_is_no_buffer_is_a_type_error(make_vnic: MakeVnic, payload: Any) -> None:
    sender, _ = make_vnic(), make_vnic("typed")
    sender.send("typed", b"")
    for call in (sender.send, sender.try_send, sender.publish, sender.request):
        with pytest.raises(TypeError):
            call("typed", payload)


def test_headers_travel_and_reserved_ones_are_refused(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("headers")
    headers: dict[str, str | bytes] = {"trace": b"\x01\x02", "type": "text/plain"}
    sender.send("headers", b"small", headers=headers)
    sender.send("headers", bytes(200 * KIB), headers=headers)
    for size in (5, 200 * KIB):
        message = receiver.receive(10)
        assert dict(message.headers) == headers
        assert len(message.payload) == size
    for wrong in ({"layer8.x": "y"}, {"big": "x" * 5000}, {"": "x"}):
        with pytest.raises(ValueError):
            sender.send("headers", b"", headers=wrong)
    with pytest.raises(TypeError):
        sender.send("headers", b"", headers={"number": 5})  # type: ignore[dict-item]


def test_an_unknown_name_is_not_found(make_vnic: MakeVnic) -> None:
    sender = make_vnic()
    for to in ("nobody-has-this", uuid.uuid4()):
        for call in (sender.send, sender.try_send, sender.request):
            with pytest.raises(NotFound) as caught:
                call(to, b"")
            assert caught.value.to == to
            assert isinstance(caught.value, (Unreachable, LookupError))


@pytest.mark.parametrize(
    "alias", ["", "x" * 256, "é" * 128, "layer8.x", "9b6f31c4-08f0-4b7e-9b63-5b2f1f0a6d53", "\ud800"]
)
def test_an_impossible_alias_is_a_value_error(make_vnic: MakeVnic, alias: str) -> None:
    sender = make_vnic()
    with pytest.raises(ValueError):
        sender.send(alias, b"")
    with pytest.raises(ValueError):
        make_vnic(alias)


@pytest.mark.parametrize("topic", ["", "x" * 256, "é" * 128, "layer8.health", "\ud800"])
def test_an_impossible_topic_is_a_value_error(make_vnic: MakeVnic, topic: str) -> None:
    vnic = make_vnic()
    with pytest.raises(ValueError):
        vnic.publish(topic, b"")
    with pytest.raises(ValueError):
        vnic.subscribe(topic)
    with pytest.raises(TypeError):
        vnic.publish(b"bytes", b"")  # type: ignore[arg-type]


def test_a_message_over_the_limit_is_refused_and_nothing_is_sent(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("limited")
    with pytest.raises(MessageTooLarge) as caught:
        sender.send("limited", bytes((4 << 20) + 1))
    assert (caught.value.size, caught.value.limit) == ((4 << 20) + 1, 4 << 20)
    sender.send("limited", b"after")
    assert receiver.receive(10).payload == b"after"


def test_messages_of_all_sizes_arrive_whole_and_in_order(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("sizes")
    sizes = [0, 1, 63, 64, 65, 65535, 65536, 65537, 131072, 1 << 20, 3, 4 << 20, 70000, 1]

    def send() -> None:
        for number, size in enumerate(sizes):
            sender.send("sizes", bytes([number % 251]) * size, timeout=30)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for number, size in enumerate(sizes):
            assert receiver.receive(30).payload == bytes([number % 251]) * size
    finally:
        thread.join()


def test_order_holds_for_each_name_with_and_without_headers_and_size(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("ordered")
    count = 3000

    def send() -> None:
        for number in range(count):
            size = 70_000 if number % 100 == 0 else number % 200
            headers = {"n": "x"} if number % 7 == 0 else None
            sender.send(receiver.uuid, number.to_bytes(4, "little") + bytes(size), headers=headers, timeout=30)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        got = [int.from_bytes(receiver.receive(30).payload[:4], "little") for _ in range(count)]
    finally:
        thread.join()
    assert got == list(range(count))


def test_a_full_destination_is_backpressure_and_others_go_on(make_vnic: MakeVnic, fill: Fill) -> None:
    sender, slow, quick = make_vnic(), make_vnic("slow"), make_vnic("quick")
    accepted = fill(sender, "slow")
    begun = time.monotonic()
    with pytest.raises(Backpressure) as caught:
        sender.send("slow", bytes(32 * KIB), timeout=0.3)
    assert time.monotonic() - begun >= 0.3
    assert (caught.value.to, caught.value.timeout) == ("slow", 0.3)
    assert isinstance(caught.value, TimeoutError)
    for number in range(100):
        sender.send("quick", bytes([number]), timeout=5)
        assert quick.receive(5).payload == bytes([number])
    assert len(read_all(slow)) == accepted
    sender.send("slow", b"again", timeout=5)
    assert slow.receive(5).payload == b"again"


def test_a_large_message_that_finds_no_room_leaves_nothing_behind(make_vnic: MakeVnic) -> None:
    sender, slow = make_vnic(), make_vnic("half")
    sender.send("half", b"first")
    with pytest.raises(Backpressure):
        sender.send("half", bytes(4 << 20), timeout=0.3)
    thread = threading.Thread(target=sender.send, args=("half", bytes(3 << 20)), kwargs={"timeout": 30})
    thread.start()
    assert slow.receive(10).payload == b"first"
    assert len(slow.receive(30).payload) == 3 << 20
    thread.join()
    assert slow.try_receive() is None
    assert slow.stats().port.messages_aborted == 1  # type: ignore[union-attr]


def test_two_vnics_that_only_send_to_each_other_get_backpressure(make_vnic: MakeVnic) -> None:
    one, other = make_vnic("ping"), make_vnic("pong")
    errors: list[BaseException] = []

    def send(vnic: Vnic, to: str) -> None:
        try:
            while True:
                vnic.send(to, bytes(16 * KIB), timeout=0.3)
        except Backpressure as error:
            errors.append(error)

    threads = [threading.Thread(target=send, args=pair) for pair in ((one, "pong"), (other, "ping"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 2
    assert read_all(one)
    assert read_all(other)
    one.send("pong", b"x", timeout=5)


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan")])
def test_a_negative_timeout_is_a_value_error(make_vnic: MakeVnic, timeout: float) -> None:
    vnic = make_vnic("timed")
    vnic.send("timed", b"")
    calls: list[Callable[[], object]] = [
        lambda: vnic.send("timed", b"", timeout=timeout),
        lambda: vnic.publish("timed", b"", timeout=timeout),
        lambda: vnic.request("timed", b"", timeout=timeout),
        lambda: vnic.receive(timeout),
        lambda: vnic.receive_many(1, timeout),
        lambda: vnic.find("timed", timeout=timeout),
        lambda: vnic.send("timed", b"", ttl=timeout),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call()


def test_try_send_says_no_when_the_destination_is_full(make_vnic: MakeVnic, fill: Fill) -> None:
    sender, slow = make_vnic(), make_vnic("trying")
    assert fill(sender, "trying") > 0
    assert sender.try_send("trying", bytes(4 << 20)) is False
    assert sender.try_send("trying", b"", headers={"a": "b"}) is False
    read_all(slow)
    sender.send("trying", b"now", timeout=5)


def overfill(stopped: Stopped, vnet: RunningVnet, sender: Vnic, to: uuid.UUID, **arguments: float) -> list[int]:
    """More than the smallest receive ring takes, accepted while the Vnet stands still: the sequences."""
    with stopped(vnet.pid):
        return [sender.send(to, bytes(60 * KIB), **arguments) for _ in range(8)]  # type: ignore[arg-type]


def test_a_message_that_outlives_its_ttl_is_reported_expired(
    own_vnet: RunningVnet, make_own: MakeVnic, stopped: Stopped
) -> None:
    sender, slow = make_own(), make_own(ring_bytes=512 * KIB)
    reported: queue.SimpleQueue[Undeliverable] = queue.SimpleQueue()
    sender.on_undeliverable = reported.put
    assert sender.on_undeliverable == reported.put
    sender.send(slow.uuid, b"first")
    sequences = overfill(stopped, own_vnet, sender, slow.uuid, ttl=0.2)
    undeliverable = reported.get(timeout=20)
    assert undeliverable == Undeliverable(slow.uuid, sequences[-1], "expired", 60 * KIB)
    assert len(read_all(slow)) == 8
    with pytest.raises(ValueError):
        sender.send(slow.uuid, b"", ttl=0)


def test_what_is_held_for_a_destination_that_dies_comes_back_as_gone(
    own_vnet: RunningVnet, make_own: MakeVnic, stopped: Stopped
) -> None:
    sender, slow = make_own(), make_own(ring_bytes=512 * KIB)
    reported: queue.SimpleQueue[Undeliverable] = queue.SimpleQueue()
    sender.on_undeliverable = reported.put
    sender.send(slow.uuid, b"first")
    sequences = overfill(stopped, own_vnet, sender, slow.uuid)
    own_vnet_settles(sender)
    slow.close()
    assert reported.get(timeout=20) == Undeliverable(slow.uuid, sequences[-1], "gone", 60 * KIB)


def own_vnet_settles(sender: Vnic) -> None:
    """Until the switch has taken all that was sent."""
    while sender.stats().port.transmit_fill:  # type: ignore[union-attr]
        time.sleep(0.001)


def test_sending_to_a_vnic_that_is_gone_is_unreachable(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic()
    sender.send(receiver.uuid, b"x")
    receiver.close()
    deadline = time.monotonic() + 30
    while receiver.uuid in {record.uuid for record in sender.health(state="UP")}:
        assert time.monotonic() < deadline
    with pytest.raises(Unreachable):
        sender.send(receiver.uuid, b"x")


def test_publishing_without_subscribers_is_no_error(make_vnic: MakeVnic) -> None:
    publisher = make_vnic()
    for _ in range(3):
        assert publisher.publish("nobody.listens", b"x") > 0


def test_more_names_than_handles_can_be_used_in_turn(make_vnic: MakeVnic) -> None:
    publisher, subscriber = make_vnic(), make_vnic()
    subscriber.subscribe("many.4199")
    subscriber.subscribe("many.3")
    for number in range(4200):
        publisher.publish(f"many.{number}", str(number).encode())
    publisher.publish("many.3", b"again")
    assert [subscriber.receive(10).payload for _ in range(3)] == [b"3", b"4199", b"again"]
    assert publisher.stats().handles <= 4096


def test_several_threads_send_at_once(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("threads")
    threads, each = 4, 500

    def send(number: int) -> None:
        for index in range(each):
            size = 66_000 if index % 50 == 0 else 10
            sender.send("threads", bytes([number]) + index.to_bytes(4, "little") + bytes(size), timeout=30)

    workers = [threading.Thread(target=send, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    got: dict[int, list[int]] = {number: [] for number in range(threads)}
    try:
        for _ in range(threads * each):
            payload = receiver.receive(30).payload
            got[payload[0]].append(int.from_bytes(payload[1:5], "little"))
    finally:
        for worker in workers:
            worker.join()
    assert all(sorted(indices) == list(range(each)) for indices in got.values())


def test_several_threads_wait_for_different_full_destinations(make_vnic: MakeVnic, fill: Fill) -> None:
    sender = make_vnic()
    receivers = [make_vnic(f"full-{number}") for number in range(3)]
    for receiver in receivers:
        fill(sender, str(receiver.alias))
    done: list[str] = []

    def send(alias: str) -> None:
        sender.send(alias, b"last", timeout=30)
        done.append(alias)

    workers = [threading.Thread(target=send, args=(str(receiver.alias),)) for receiver in receivers]
    for worker in workers:
        worker.start()
    for receiver in reversed(receivers):
        messages = [receiver.receive(30)]
        while messages[-1].payload != b"last":
            messages.append(receiver.receive(30))
    for worker in workers:
        worker.join()
    assert sorted(done) == ["full-0", "full-1", "full-2"]
