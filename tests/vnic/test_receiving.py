"""`receive` and its kin: what they return, how they wait, how they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from layer8 import Closed, Message, Vnic

MakeVnic = Callable[..., Vnic]
Fill = Callable[..., int]
KIB = 1 << 10


def test_receive_ends_with_timeout_error(make_vnic: MakeVnic) -> None:
    vnic = make_vnic()
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        vnic.receive(timeout=0.3)
    assert time.monotonic() - begun >= 0.3
    with pytest.raises(TimeoutError):
        vnic.receive_many(timeout=0)
    assert vnic.try_receive() is None


def test_receive_does_not_wait_when_told_so(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("now")
    sender.send("now", b"x")
    while (message := receiver.try_receive()) is None:
        pass
    assert message.payload == b"x"
    with pytest.raises(TimeoutError):
        receiver.receive(0)


def test_receive_many_takes_at_least_one_and_at_most_what_is_asked(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("many")
    for number in range(600):
        sender.send("many", number.to_bytes(2, "little"))
    got: list[Message] = []
    while len(got) < 600:
        batch = receiver.receive_many(50, timeout=10)
        assert 1 <= len(batch) <= 50
        got += batch
    assert [int.from_bytes(message.payload, "little") for message in got] == list(range(600))
    with pytest.raises(ValueError):
        receiver.receive_many(0)


def test_iteration_ends_when_the_vnic_is_closed_by_another_thread(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("loop")
    got: list[bytes] = []
    looped = threading.Event()

    def loop() -> None:
        for message in receiver:
            got.append(message.payload)
        looped.set()

    thread = threading.Thread(target=loop)
    thread.start()
    for number in range(10):
        sender.send("loop", bytes([number]))
    while len(got) < 10:
        time.sleep(0.001)
    receiver.close()
    assert looped.wait(30)
    thread.join()
    assert got == [bytes([number]) for number in range(10)]


def test_drain_ends_loops_after_the_last_message_and_leaves_the_alias(make_vnic: MakeVnic) -> None:
    sender, receiver, other = make_vnic(), make_vnic("drained"), make_vnic("drained")
    with receiver.subscribe("drained.topic"):
        for _ in range(100):
            sender.send(receiver.uuid, b"before")
        sender.publish("drained.topic", b"before")
        deadline = time.monotonic() + 30
        while receiver.stats().port.receive_fill < 101 * 128:  # type: ignore[union-attr]
            assert time.monotonic() < deadline
        receiver.drain()
        assert receiver.state == "draining"
        for _ in range(50):
            sender.send("drained", b"after")
        sender.publish("drained.topic", b"after")
        assert [message.payload for message in receiver] == [b"before"] * 101
    with pytest.raises(Closed):
        receiver.receive()
    with pytest.raises(Closed):
        receiver.receive_many()
    assert len([other.receive(10) for _ in range(50)]) == 50


def test_drain_ends_a_loop_that_already_waits(make_vnic: MakeVnic) -> None:
    vnic = make_vnic()
    vnic.subscribe("something", lambda message: None)  # the dispatcher reads, the loop follows
    ended = threading.Event()

    def loop() -> None:
        for _ in vnic:
            pass
        ended.set()

    thread = threading.Thread(target=loop)
    thread.start()
    vnic.drain()
    assert ended.wait(30)
    thread.join()


def test_every_message_goes_to_one_of_several_threads(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("shared")
    count, got = 4000, []
    lock = threading.Lock()

    def take() -> None:
        for message in receiver:
            with lock:
                got.append(int.from_bytes(message.payload, "little"))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(count):
        sender.send("shared", number.to_bytes(4, "little"), timeout=30)
    deadline = time.monotonic() + 60
    while len(got) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    receiver.close()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(count))


def test_messages_read_for_others_while_a_request_waits_count_as_fill(make_vnic: MakeVnic, fill: Fill) -> None:
    """Whoever waits for a reply reads the ring. What it reads for others must still hold the senders back."""
    vnic, sender, callee = make_vnic("busy"), make_vnic(), make_vnic("callee")
    asked = threading.Event()
    answer = threading.Event()

    def serve() -> None:
        request = callee.receive(30)
        asked.set()
        answer.wait(30)
        request.reply(b"done")  # type: ignore[attr-defined]

    server = threading.Thread(target=serve)
    server.start()
    caller = threading.Thread(target=vnic.request, args=("callee", b""), kwargs={"timeout": 60})
    caller.start()
    assert asked.wait(30)
    accepted = fill(sender, "busy", bytes(8 * KIB))
    assert 0 < accepted * 8 * KIB <= 3 << 20
    answer.set()
    caller.join()
    server.join()
    # Now nobody waits. Taking what was read must let the sender go on, without another wait here.
    for _ in range(accepted):
        assert vnic.receive(30).payload == bytes(8 * KIB)
    sender.send("busy", b"again", timeout=30)
    assert vnic.receive(30).payload == b"again"


def test_long_queues_let_senders_go_as_soon_as_they_are_popped(make_vnic: MakeVnic, fill: Fill) -> None:
    """As above, but the program goes away right after its last pop."""
    vnic, sender = make_vnic("popper"), make_vnic()
    with vnic.stream("popper.other") as stream:
        reader = threading.Thread(target=lambda: list(stream))
        reader.start()
        fill(sender, "popper", bytes(8 * KIB))
        while vnic._messages.items:
            vnic.try_receive()
        sender.send("popper", b"again", timeout=30)
        vnic.close()
        reader.join()


def test_uses_after_close_raise_closed(make_vnic: MakeVnic) -> None:
    vnic = make_vnic("closing")
    vnic.close()
    vnic.close()
    assert vnic.state == "closed"
    calls: list[Callable[[], object]] = [
        lambda: vnic.send("closing", b""),
        lambda: vnic.try_send("closing", b""),
        lambda: vnic.publish("t", b""),
        lambda: vnic.request("closing", b""),
        vnic.receive,
        vnic.try_receive,
        vnic.receive_many,
        lambda: vnic.subscribe("t"),
        lambda: vnic.subscribe("t", print),
        lambda: vnic.stream("t"),
        lambda: vnic.serve(lambda request: b""),
        lambda: vnic.find("closing"),
        vnic.health,
        vnic.drain,
    ]
    for call in calls:
        with pytest.raises(Closed):
            call()
    assert list(vnic) == []
    assert vnic.stats().state == "closed"


def test_close_wakes_everybody_who_waits(make_vnic: MakeVnic, fill: Fill) -> None:
    vnic, full = make_vnic(), make_vnic("stuffed")
    callee = make_vnic("silent")
    fill(vnic, "stuffed")
    ended: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            ended.append(error)

    calls: list[Callable[[], object]] = [
        lambda: vnic.receive(),
        lambda: vnic.receive_many(),
        lambda: vnic.send("stuffed", bytes(32 * KIB), timeout=None),
        lambda: vnic.send("stuffed", bytes(3 << 20), timeout=None),
        lambda: vnic.request("silent", b"", timeout=None),
        lambda: vnic.find("never", timeout=None),
    ]
    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    request = callee.receive(30)  # kept: one that is let go would be answered "unanswered"
    vnic.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert [type(error) for error in ended] == [Closed] * len(calls)
    assert full.state == "attached"
    assert request.is_request
