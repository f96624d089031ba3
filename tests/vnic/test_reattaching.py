"""The Vnet dies or stops, the Vnics find the next one by themselves, and it adopts what they had."""

from __future__ import annotations

import gc
import logging
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from layer8 import Backpressure, Closed, Message, Request, RequestFailed, Undeliverable, Unreachable, Vnic
from layer8.protocol.control import Resume, Wire
from layer8.rendezvous import state_directory
from layer8.testing import RunningVnet
from layer8.vnic.attachment import Attachment
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.keeper import Keeper
from layer8.vnic.questions import Answer

from .conftest import Transport

MakeVnic = Callable[..., Vnic]
Stopped = Callable[[int | None], AbstractContextManager[None]]
KIB = 1 << 10

# A far Vnic is away when its carrier has given up; nobody is gone for longer than that in these tests.
soon_away = pytest.mark.vnet_settings(far_alive=0.3, far_patience=1.5)


def wait_for_state(state: str, *vnics: Vnic) -> None:
    deadline = time.monotonic() + 30
    while any(vnic.state != state for vnic in vnics):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def until_taken(vnic: Vnic) -> None:
    """The Vnet is done with all that was sent: a receiver may have it a moment earlier."""
    while vnic.stats().port.transmit_fill:  # type: ignore[union-attr]
        time.sleep(0.001)


@soon_away
def test_who_read_everything_while_it_was_away_is_sent_to_again(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    """Also when its program does not come back to read: what it had not read holds nobody off any more."""
    reader, writer = make_own("reader"), make_own("writer")
    for number in range(18):
        writer.send("reader", bytes([number]) * 30_000)
    deadline = time.monotonic() + 30
    while (port := reader.stats().port) is not None and port.receive_fill < 18 * 30_000:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    own_vnet.kill()
    wait_for_state("away", reader, writer)
    while reader.stats().queued < 18:  # the rest of the ring was read
        time.sleep(0.001)
    assert [reader.receive(30).payload[0] for _ in range(18)] == list(range(18))
    own_vnet.restart()
    writer.send("reader", b"not read", timeout=30)


@soon_away
def test_uuid_alias_subscriptions_and_handlers_outlive_the_vnet(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    one, other = make_own("one"), make_own("other")
    handled: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    subscription = other.subscribe("plain")
    other.subscribe("handled", lambda message: handled.put(message.payload))
    stream = other.stream("streamed")
    other.serve(lambda request: request.payload + b"!")
    uuids = one.uuid, other.uuid
    for round_ in (b"first", b"second"):
        own_vnet.kill()
        wait_for_state("away", one, other)
        own_vnet.restart()
        wait_for_state("attached", one, other)
        assert (one.uuid, other.uuid) == uuids
        assert one.find("other", timeout=10).uuid == other.uuid
        one.send("other", round_)
        assert other.receive(30).payload == round_
        one.publish("plain", round_)
        assert other.receive(30).topic == "plain"
        one.publish("handled", round_)
        assert handled.get(timeout=30) == round_
        one.publish("streamed", round_)
        assert stream.receive(30).payload == round_
        assert one.request(other.uuid, round_).payload == round_ + b"!"
        assert subscription.missed == 0
    assert one.stats().attachments == 3


@soon_away
def test_an_outstanding_request_fails_as_unknown(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    caller, callee = make_own(), make_own("asked")
    kept: list[Message] = []
    killed = threading.Event()

    def answer() -> None:
        kept.append(callee.receive(30))
        own_vnet.kill()
        killed.set()

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(RequestFailed) as caught:
        caller.request("asked", b"", timeout=None)
    assert killed.wait(30)
    thread.join()
    assert caught.value.reason == "unknown"
    own_vnet.restart()
    wait_for_state("attached", caller, callee)
    assert isinstance(kept[0], Request)
    kept[0].reply(b"nobody waits any more")
    callee.send(caller.uuid, b"alive")
    assert caller.receive(30).payload == b"alive"


def test_what_was_on_its_way_arrives_once_and_in_order(
    own_vnet: RunningVnet, make_own: MakeVnic, stopped: Stopped
) -> None:
    sender, receiver = make_own(), make_own("target")
    reported: list[Undeliverable] = []
    sender.on_undeliverable = reported.append
    receiver.subscribe("some.topic")
    sender.send("target", b"x")
    sender.send(receiver.uuid, b"x")
    sender.publish("some.topic", b"x")
    for _ in range(3):
        assert receiver.receive(30).payload == b"x"
    expected = [bytes(10), bytes(20), bytes(30), bytes(150_000)]
    with stopped(own_vnet.pid):
        sender.send("target", expected[0])
        sender.publish("some.topic", expected[1], reliable=True)
        sender.send("target", expected[2], headers={"a": "b"})
        sender.send(receiver.uuid, expected[3])
        with pytest.raises(Backpressure):  # not accepted
            sender.send(receiver.uuid, bytes(1 << 20), timeout=0.05)
        own_vnet.kill()
    own_vnet.restart()
    assert [receiver.receive(30).payload for _ in expected] == expected
    wait_for_state("attached", sender, receiver)
    sender.send("target", b"after")
    assert receiver.receive(30).payload == b"after"
    assert reported == []
    assert receiver.try_receive() is None


def forget_everybody(vnet: RunningVnet) -> None:
    """The next Vnet knows nothing of an earlier one."""
    shutil.rmtree(state_directory(vnet.socket))


def test_what_was_on_its_way_is_reported_unknown_when_no_vnet_adopts_it(
    own_vnet: RunningVnet, make_own: MakeVnic, stopped: Stopped
) -> None:
    sender, receiver = make_own(), make_own("target")
    reported: queue.SimpleQueue[Undeliverable] = queue.SimpleQueue()
    sender.on_undeliverable = reported.put
    sender.send("target", b"x")
    sender.send(receiver.uuid, b"x")
    sender.publish("some.topic", b"x")
    assert receiver.receive(30).payload == b"x"
    assert receiver.receive(30).payload == b"x"
    until_taken(sender)
    with stopped(own_vnet.pid):
        expected = [
            Undeliverable("target", sender.send("target", bytes(10)), "unknown", 10),
            Undeliverable("some.topic", sender.publish("some.topic", bytes(20)), "unknown", 20),
            Undeliverable("target", sender.send("target", bytes(30), headers={"a": "b"}), "unknown", 30),
            Undeliverable(receiver.uuid, sender.send(receiver.uuid, bytes(150_000)), "unknown", 150_000),
        ]
        own_vnet.kill()
    forget_everybody(own_vnet)
    own_vnet.restart()
    assert [reported.get(timeout=30) for _ in expected] == expected
    assert sender.find("target", timeout=30).uuid == receiver.uuid  # whose carrier may have gone on dialling for longer
    sender.send("target", b"after")
    assert receiver.receive(30).payload == b"after"
    assert reported.empty()


def test_without_a_handler_what_was_lost_is_logged_with_a_count(
    own_vnet: RunningVnet, make_own: MakeVnic, stopped: Stopped, caplog: pytest.LogCaptureFixture
) -> None:
    sender, receiver = make_own(), make_own("unheard")
    sender.send("unheard", b"x")
    assert receiver.receive(30).payload == b"x"
    until_taken(sender)
    with caplog.at_level(logging.WARNING, "layer8.vnic"):
        with stopped(own_vnet.pid):
            sender.send("unheard", b"lost")
            own_vnet.kill()
        forget_everybody(own_vnet)
        own_vnet.restart()
        wait_for_state("attached", sender, receiver)
        deadline = time.monotonic() + 30
        while "1 message(s) did not arrive" not in caplog.text:
            assert time.monotonic() < deadline
    assert "unknown" in caplog.text


def test_what_stood_unread_is_still_read_first(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    sender, receiver = make_own(), make_own("reader")
    for number in range(500):
        sender.send("reader", number.to_bytes(2, "little"))
    until_taken(sender)
    deadline = time.monotonic() + 30
    while receiver.stats().port.receive_fill < 500 * 128:  # type: ignore[union-attr]
        assert time.monotonic() < deadline
    own_vnet.kill()
    own_vnet.restart()
    wait_for_state("attached", sender, receiver)
    assert sender.find("reader", timeout=30).uuid == receiver.uuid
    sender.send("reader", b"new")
    got = [receiver.receive(30).payload for _ in range(501)]
    assert got == [*(number.to_bytes(2, "little") for number in range(500)), b"new"]


@soon_away
def test_sends_wait_for_the_next_vnet_up_to_their_timeout(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    sender, receiver = make_own(timeout=0.2), make_own("waited-for")
    sender.send("waited-for", b"x")
    assert receiver.receive(30).payload == b"x"
    own_vnet.kill()
    wait_for_state("away", sender, receiver)
    with pytest.raises(Backpressure):
        sender.send(receiver.uuid, b"too early")
    with pytest.raises(Backpressure):
        sender.request(receiver.uuid, b"too early")
    assert sender.try_send(receiver.uuid, b"too early") is False
    with pytest.raises(Unreachable):
        sender.find("waited-for")
    outcome: queue.SimpleQueue[object] = queue.SimpleQueue()

    def send(payload: bytes) -> None:
        while True:
            try:
                sender.send(receiver.uuid, payload, timeout=60)
            except LookupError:  # the receiver is not back yet
                time.sleep(0.005)
                continue
            outcome.put(payload)
            return

    threads = [threading.Thread(target=send, args=(payload,)) for payload in (b"small", bytes(100_000))]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    own_vnet.restart()
    sizes = sorted(len(receiver.receive(30).payload) for _ in threads)
    for thread in threads:
        thread.join()
    assert sizes == [5, 100_000]
    assert outcome.qsize() == 2


def test_loops_and_waits_go_on_when_the_vnet_is_back(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    sender, receiver = make_own(), make_own("looping")
    got: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def loop() -> None:
        for message in receiver:
            got.put(message.payload)

    threads = [threading.Thread(target=loop) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(3):
        sender.send("looping", bytes([number]), timeout=30)
        assert got.get(timeout=30) == bytes([number])
        own_vnet.kill()
        own_vnet.restart()
        wait_for_state("attached", sender, receiver)
        sender.find("looping", timeout=30)
    receiver.close()
    for thread in threads:
        thread.join()


def test_traffic_survives_a_vnet_that_is_killed_again_and_again(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    """Each message arrives or is reported, in order; requests end one way or the other."""
    sender, receiver = make_own(), make_own("storm")
    reported: list[Undeliverable] = []
    sender.on_undeliverable = reported.append
    got: list[int] = []
    reader = threading.Thread(
        target=lambda: got.extend(int.from_bytes(message.payload, "little") for message in receiver)
    )
    reader.start()
    ended = threading.Event()
    accepted: list[int] = []

    def send() -> None:
        number = 0
        while not ended.is_set():
            try:
                sender.send(receiver.uuid, number.to_bytes(4, "little"), timeout=30)
            except (Unreachable, Backpressure):
                continue
            accepted.append(number)
            number += 1
            if number % 50 == 0:
                time.sleep(0.001)

    thread = threading.Thread(target=send)
    thread.start()
    deadline = time.monotonic() + 60
    for kills in range(1, 6):
        time.sleep(0.1)
        own_vnet.kill()
        own_vnet.restart()
        while min(sender.stats().attachments, receiver.stats().attachments) <= kills:
            assert time.monotonic() < deadline, sender.stats()
            time.sleep(0.002)
        wait_for_state("attached", sender, receiver)
    ended.set()
    thread.join()
    deadline = time.monotonic() + 30
    while len(set(got)) + len(reported) < len(accepted):
        assert time.monotonic() < deadline, (len(got), len(reported), len(accepted))
        time.sleep(0.01)
    receiver.close()
    reader.join()
    assert got == sorted(set(got))
    assert {item.reason for item in reported} <= {"unknown", "gone"}
    assert sender.stats().attachments == 6


def test_a_clean_stop_delivers_what_was_accepted(
    own_vnet: RunningVnet, own_transport: Transport, make_own: MakeVnic, caplog: pytest.LogCaptureFixture
) -> None:
    sender, receiver = make_own(), make_own("patient")
    for number in range(300):
        sender.send("patient", number.to_bytes(2, "little"))
    assert own_vnet.stop() == 0
    wait_for_state("away", sender, receiver)
    if own_transport.is_far:
        own_vnet.restart()  # what no carrier had brought to the Vnet comes with the next one
    got = [receiver.receive(30).payload for _ in range(300)]
    assert got == [number.to_bytes(2, "little") for number in range(300)]
    if not own_transport.is_far:
        own_vnet.restart()
    wait_for_state("attached", sender, receiver)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@soon_away
def test_while_the_vnet_is_away_close_and_subscribe_end(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    vnic, other = make_own(timeout=0.2), make_own()
    other.subscribe("kept")
    closing = other.subscribe("closed.meanwhile")
    own_vnet.kill()
    wait_for_state("away", vnic, other)
    with pytest.raises(Backpressure):
        vnic.subscribe("x")
    closing.close()
    vnic.close()
    own_vnet.restart()
    wait_for_state("attached", other)
    other.publish("closed.meanwhile", b"no")
    other.publish("kept", b"yes")
    assert other.receive(30).payload == b"yes"


@pytest.mark.parametrize("who", ["one that was there", "a new one"])
@pytest.mark.vnet_settings(far_alive=0.3, far_patience=1.5, return_patience=30.0)
def test_nobody_waits_for_one_that_was_closed_while_the_vnet_was_away(
    own_vnet: RunningVnet, make_own: MakeVnic, who: str
) -> None:
    """Whoever of its process attaches next says that it does not come."""
    closed = make_own("closed")
    other = make_own("other") if who == "one that was there" else None
    own_vnet.kill()
    wait_for_state("away", closed)
    closed.close()
    own_vnet.restart()
    other = other or make_own("other")
    other.send("other", b"records move")
    assert other.receive(30).payload == b"records move"
    (record,) = other.health(uuid=closed.uuid)
    assert (record.is_up, record.reason) == (False, "closed while no Vnet was there")
    assert not list(state_directory(own_vnet.socket).glob(f"{closed.uuid.hex}.*"))
    assert "goes on without" not in own_vnet.log


@soon_away
def test_what_was_sent_without_a_vnet_is_handed_on_before_close_returns(
    own_vnet: RunningVnet, make_own: MakeVnic, stopped: Stopped
) -> None:
    sender, receiver = make_own(), make_own("heir")
    sender.send("heir", b"x")
    assert receiver.receive(30).payload == b"x"
    with stopped(own_vnet.pid):
        sender.send("heir", b"first")
        sender.send("heir", b"last")
        own_vnet.kill()
    wait_for_state("away", sender, receiver)
    closing = threading.Thread(target=sender.close, args=(120,))
    closing.start()
    own_vnet.restart()
    assert [receiver.receive(60).payload for _ in range(2)] == [b"first", b"last"]
    closing.join(60)
    assert sender.state == "closed"


@soon_away
def test_what_no_vnet_has_taken_before_a_close_is_logged(
    own_vnet: RunningVnet, make_own: MakeVnic, stopped: Stopped, caplog: pytest.LogCaptureFixture
) -> None:
    sender = make_own("last")
    sender.send("last", b"x")
    assert sender.receive(30).payload == b"x"
    until_taken(sender)
    with stopped(own_vnet.pid):
        sender.send("last", b"lost")
        sender.send("last", b"lost")
        own_vnet.kill()
    wait_for_state("away", sender)
    sender.close(0.3)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("no Vnet has taken 2 message(s)" in warning for warning in warnings)


def test_a_drained_vnic_stays_drained(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    vnic, other = make_own("leaving"), make_own()
    vnic.subscribe("left")
    vnic.drain()
    own_vnet.kill()
    own_vnet.restart()
    deadline = time.monotonic() + 30
    while vnic.stats().attachments < 2 or other.state != "attached":
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert vnic.state == "draining"
    with pytest.raises(LookupError):
        other.send("leaving", b"")
    other.publish("left", b"")
    assert list(vnic) == []


def test_a_stopped_and_continued_vnet_is_the_same_vnet(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    one, other = make_own(), make_own("steady")
    one.send("steady", b"x")
    assert own_vnet.pid is not None
    os.kill(own_vnet.pid, signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(own_vnet.pid, signal.SIGCONT)
    one.send("steady", b"y")
    assert [other.receive(30).payload for _ in range(2)] == [b"x", b"y"]
    assert one.stats().attachments == 1


def test_closed_while_no_vnet_is_there_it_gives_its_segment_back_though_the_program_keeps_it(
    own_vnet: RunningVnet, make_own: MakeVnic
) -> None:
    def mapped() -> set[str]:
        gc.collect()  # tracebacks of a far Vnic's looks
        return {line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:layer8" in line}

    before = mapped()
    vnic = make_own()
    watch = vnic.watch()
    assert mapped() - before
    own_vnet.kill()
    wait_for_state("away", vnic)
    vnic.close(0.0)
    deadline = time.monotonic() + 30
    while mapped() - before:
        assert time.monotonic() < deadline, "its memory was never given back"
        time.sleep(0.01)
    with pytest.raises(Closed):
        watch.receive()


def test_what_a_vnet_wrote_that_died_again_at_once_is_never_read_with_the_numbers_of_the_next(
    own_vnet: RunningVnet, make_own: MakeVnic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would name another sender."""
    ring = 2 << 20  # by which its keeper is known
    sender, receiver = make_own(), make_own("written-to", ring_bytes=ring)
    ask, asked = Keeper.ask, threading.Event()

    def ask_and_lose(keeper: Keeper, attachment: Attachment, message: Wire, deadline: float) -> Answer:
        answer = ask(keeper, attachment, message, deadline)
        if isinstance(message, Resume) and attachment.port.ring_bytes == ring and not asked.is_set():
            asked.set()
            sender.send(receiver.uuid, b"in between", timeout=60)
            while attachment.port.stats().receive_fill == 0:
                time.sleep(0.001)
            own_vnet.kill()
            own_vnet.restart()
            raise ConnectionLost("as if its answer had never come")
        return answer

    monkeypatch.setattr(Keeper, "ask", ask_and_lose)
    own_vnet.kill()
    own_vnet.restart()
    message = receiver.receive(60)
    assert asked.is_set()
    assert message.payload == b"in between"
    wait_for_state("attached", sender, receiver)
    with pytest.raises(Unreachable, match="the one that this message came through is gone"):
        _ = message.principal
    sender.send(receiver.uuid, b"after", timeout=60)
    assert receiver.receive(30).principal
