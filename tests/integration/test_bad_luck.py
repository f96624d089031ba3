"""What the others notice when a process is killed, stopped, hostile, or goes without a word."""

from __future__ import annotations

import hashlib
import os
import queue
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from layer8 import Message, Undeliverable, Unreachable, Vnic
from layer8.testing import RunningVnet

Run = Callable[..., Any]
MakeVnic = Callable[..., Vnic]
Check = Callable[[], None]
KIB = 1 << 10


@pytest.fixture
def others(make_vnic: MakeVnic) -> Iterator[Callable[[], None]]:
    """Traffic between two bystanders, all the time; calling it checks that it is whole and goes on."""
    sender, receiver = make_vnic(), make_vnic()
    receiver.subscribe("bystanders")
    sent: list[bytes] = []
    got: list[bytes] = []
    ended = threading.Event()
    chance = random.Random(1)

    def send() -> None:
        while not ended.is_set():
            payload = chance.randbytes(chance.choice([10, 100, 1000, 100_000]))
            if len(sent) % 2:
                sender.send(receiver.uuid, payload, timeout=60)
            else:
                sender.publish("bystanders", payload, reliable=True, timeout=60)
            sent.append(hashlib.sha256(payload).digest())
            time.sleep(0.001)

    def receive() -> None:
        for message in receiver:
            got.append(hashlib.sha256(message.payload).digest())

    threads = [threading.Thread(target=send), threading.Thread(target=receive)]
    for thread in threads:
        thread.start()

    def check() -> None:
        so_far = len(sent)
        deadline = time.monotonic() + 30
        while len(got) < so_far + 20:
            assert time.monotonic() < deadline, "the others do not go on"
            time.sleep(0.005)
        # Two names, so order holds within each: unicasts at the odd places, publications at the even ones.
        assert set(got[:so_far]) <= set(sent)

    yield check
    ended.set()
    threads[0].join()
    deadline = time.monotonic() + 30
    while len(got) < len(sent) and time.monotonic() < deadline:
        time.sleep(0.005)
    receiver.close()
    threads[1].join()
    assert sorted(got) == sorted(sent)


def test_callers_learn_at_once_that_their_callee_was_killed(run: Run, make_vnic: MakeVnic) -> None:
    callee = run("hold", "holder")
    callee.wait_for("ready")
    caller = make_vnic()
    outcome: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def ask() -> None:
        try:
            caller.request("holder", b"please", timeout=None)
        except BaseException as error:
            outcome.put(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert callee.wait_for("asked") == "please"
    callee.kill()
    error = outcome.get(timeout=30)
    thread.join()
    assert isinstance(error, Unreachable)
    assert error.reason == "gone"


@pytest.mark.parametrize("size", [1000, 3 << 20], ids=["small", "large"])
def test_a_sender_killed_in_the_middle_of_a_send_harms_nobody(
    run: Run, make_vnic: MakeVnic, others: Check, nothing_stays: Check, size: int
) -> None:
    others()
    receiver = make_vnic("victim")
    got: list[Message] = []
    reader = threading.Thread(target=lambda: got.extend(receiver))
    reader.start()
    for _ in range(3):
        flood = run("flood", "victim", size)
        flood.wait_for("flooding")
        flood.kill()
        others()
    receiver.close()
    reader.join()
    assert got
    assert all(message.payload == message.payload[:1] * size for message in got)
    nothing_stays()


def test_a_stopped_subscriber_stops_nobody_and_learns_what_it_missed(
    run: Run, make_vnic: MakeVnic, others: Check
) -> None:
    stopped, running = run("subscribe", "news"), run("subscribe", "news")
    stopped.wait_for("ready")
    running.wait_for("ready")
    publisher = make_vnic()
    count = 3000
    with stopped.stopped():
        for number in range(count):
            publisher.publish("news", number.to_bytes(4, "little") + bytes(KIB), timeout=30)
            if number % 100 == 0:
                time.sleep(0.002)  # at a pace that the running one keeps
        others()
        publisher.publish("news", bytes(200 * KIB), timeout=30)
        publisher.publish("news", b"end", reliable=False, timeout=30)
        got, missed, told, ordered = running.wait_for("result").split()
        assert int(got) + int(missed) == count + 1
        assert missed == told
        assert ordered == "True" or int(got) == count + 1
    time.sleep(0.2)
    publisher.publish("news", b"end", timeout=30)
    got, missed, told, _ = stopped.wait_for("result").split()
    assert 0 < int(got) < count
    assert int(missed) == int(told)
    assert int(got) + int(missed) == count + 2  # the first end was missed too


def test_a_stopped_receiver_of_unicasts_stops_no_other_destination(
    run: Run, make_vnic: MakeVnic, others: Check
) -> None:
    stopped = run("receive", "sleeper")
    stopped.wait_for("ready")
    sender, quick = make_vnic(), make_vnic("awake")
    sender.send("sleeper", b"hello")
    stopped.wait_for("got")
    accepted = 0
    with stopped.stopped():
        with pytest.raises(TimeoutError):  # noqa: PT012
            while accepted < 10_000:
                sender.send("sleeper", bytes(10 * KIB), timeout=0.3)
                accepted += 1
        for number in range(200):
            sender.send("awake", bytes([number]), timeout=30)
            assert quick.receive(30).payload == bytes([number])
        others()
    for _ in range(accepted):
        assert stopped.wait_for("got").split()[0] == str(10 * KIB)
    sender.send("sleeper", b"again", timeout=30)
    assert stopped.wait_for("got").split()[0] == "5"


@pytest.mark.parametrize("how", ["kill", "_exit", "close", "end"])
def test_what_was_sent_before_the_end_arrives(run: Run, make_vnic: MakeVnic, nothing_stays: Check, how: str) -> None:
    receiver = make_vnic("heir")
    sender = run("last_words", "heir", how)
    sender.process.wait(30)
    got = [receiver.receive(30).payload for _ in range(50)]
    assert got == [bytes([number]) * 1000 for number in range(50)]
    receiver.close()
    nothing_stays()


def test_a_forked_child_cannot_use_the_vnic_and_does_not_keep_its_parent_alive(
    run: Run, make_vnic: MakeVnic, nothing_stays: Check
) -> None:
    receiver = make_vnic("heard")
    parent = run("fork", "heard")
    closed = int(parent.wait_for("child closed"))
    child = psutil.Process(closed)
    assert receiver.receive(30).payload == b"before"
    parent.tell("go on")
    assert receiver.receive(30).payload == b"after"
    name = receiver.find("forking").uuid
    os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(record.is_up for record in receiver.health(uuid=name)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert child.is_running()
    child.kill()
    receiver.close()
    nothing_stays()


def test_garbage_on_the_control_socket_disturbs_nobody(vnet: RunningVnet, others: Check, nothing_stays: Check) -> None:
    chance = random.Random(8)
    for length in (1, 3, 4, 5, 100, 5000, 100_000):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(vnet.socket))
            try:
                connection.sendall(chance.randbytes(length))
                connection.settimeout(0.05)
                connection.recv(1000)
            except OSError:
                pass
        others()
    nothing_stays()


@pytest.mark.parametrize("seed", range(4))
def test_a_segment_full_of_random_values_closes_that_port_alone(
    vnet: RunningVnet, run: Run, make_vnic: MakeVnic, others: Check, nothing_stays: Check, seed: int
) -> None:
    target = make_vnic("target")
    target.serve(lambda request: b"")
    got: list[Message] = []
    reader = threading.Thread(target=lambda: got.extend(target))
    reader.start()
    hostile = run("hostile", "target", seed)
    hostile.wait_for("ready")
    others()
    hostile.process.wait(90)  # one of the two sides notices, or its own library falls over it
    others()
    with make_vnic() as sane:
        sane.send("target", b"sane")
        deadline = time.monotonic() + 30
        while not any(message.payload == b"sane" for message in got):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    target.close()
    reader.join()
    assert vnet.pid is not None
    nothing_stays()


@pytest.mark.parametrize("how", ["receive", "iterate", "request", "find", "send"])
def test_control_c_ends_a_wait(run: Run, make_vnic: MakeVnic, how: str) -> None:
    make_vnic("nobody-answers")
    program = run("wait", how)
    program.wait_for("ready")
    time.sleep(0.3)
    program.process.send_signal(signal.SIGINT)
    program.wait_for("interrupted")
    assert program.process.wait(30) == 0


def test_a_pool_shares_the_work_and_loses_none_of_it(run: Run, make_vnic: MakeVnic) -> None:
    workers = [run("work", "pool") for _ in range(3)]
    for worker in workers:
        worker.wait_for("ready")
    callers = [make_vnic(timeout=60) for _ in range(3)]
    wrong: list[bytes] = []

    def ask(caller: Vnic) -> None:
        for number in range(200):
            payload = number.to_bytes(2, "little") * (1 if number % 50 else 50_000)
            if caller.request("pool", payload).payload != payload[::-1]:
                wrong.append(payload)

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    counts = []
    for worker in workers:
        worker.process.stdin.close()
        counts.append(int(worker.wait_for("done")))
    assert sum(counts) == 600
    assert all(counts)


def test_a_worker_killed_under_load_costs_only_the_requests_it_had(run: Run, make_vnic: MakeVnic) -> None:
    workers = [run("work", "fragile") for _ in range(3)]
    for worker in workers:
        worker.wait_for("ready")
    caller = make_vnic(timeout=60)
    outcomes: list[str] = []

    def ask() -> None:
        for _ in range(300):
            try:
                caller.request("fragile", b"x")
                outcomes.append("reply")
            except Unreachable as error:
                outcomes.append(error.reason)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(outcomes) < 150:
        time.sleep(0.001)
    workers[0].kill()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 900
    assert set(outcomes) <= {"reply", "gone"}
    assert outcomes.count("gone") <= 3


def test_the_vnet_is_killed_under_load_and_everything_is_accounted_for(
    vnet: RunningVnet, run: Run, make_vnic: MakeVnic
) -> None:
    receiver = run("receive", "survivor")
    receiver.wait_for("ready")
    sender = make_vnic(timeout=60)
    reported: list[Undeliverable] = []
    sender.on_undeliverable = reported.append
    accepted: dict[int, str] = {}
    ended = threading.Event()

    def send() -> None:
        number = 0
        while not ended.is_set():
            payload = number.to_bytes(4, "little") + bytes(number % 2000)
            try:
                sender.send("survivor", payload)
            except Unreachable:
                time.sleep(0.002)  # it is not back yet
                continue
            accepted[number] = hashlib.sha256(payload).hexdigest()
            number += 1

    got: list[str] = []
    reader = threading.Thread(target=lambda: _collect(receiver, got))
    reader.start()
    thread = threading.Thread(target=send)
    thread.start()
    for _ in range(3):
        time.sleep(0.2)
        vnet.kill()
        vnet.restart()
    time.sleep(0.3)
    ended.set()
    thread.join()
    deadline = time.monotonic() + 60
    while len(got) + len(reported) < len(accepted):
        assert time.monotonic() < deadline, (len(got), len(reported), len(accepted))
        time.sleep(0.02)
    receiver.kill()
    reader.join()
    assert set(got) <= set(accepted.values())
    assert len(set(got)) == len(got)
    assert {item.reason for item in reported} <= {"unknown", "not found", "gone"}


def _collect(receiver: Any, got: list[str]) -> None:
    while line := receiver.process.stdout.readline().decode().split():
        if line[0] == "got":
            got.append(line[2])
