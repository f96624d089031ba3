"""A Vnic's side, through a real switch in the same process."""

from __future__ import annotations

import array
import contextlib
import functools
import os
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer8.dataplane import (
    FRAGMENT_BYTES,
    HEADERS_MAX,
    NO_SOURCE,
    Command,
    Flag,
    Kind,
    Port,
    Reason,
    Segment,
    Status,
    Target,
)

from .conftest import MAX_MESSAGE_BYTES, PRINCIPAL, Overlay, Vnic, attaching

_UUID = uuid.UUID(int=1)


@contextlib.contextmanager
def _pair() -> Iterator[tuple[Vnic, Vnic]]:
    """Two Vnics on a switch of their own, for tests that are run many times."""
    with contextlib.closing(Overlay()) as overlay, contextlib.contextmanager(attaching)(overlay) as attach:
        yield attach(), attach()


def test_message_arrives_with_its_sender_and_sequence(attach: Callable[[], Vnic]) -> None:
    sender, receiver = attach(), attach()
    handle = sender.grant(receiver.number)
    assert sender.port.send(handle, b"hello", 5) == 1
    assert sender.port.send(handle, sender.port.buffer(bytearray(b"again")), 5) == 2
    (entry, record, headers, payload), (second, *_, again) = receiver.receive(2)
    assert (payload, headers, again) == (b"hello", b"", b"again")
    assert entry[2:4] == (Kind.UNICAST, Flag.FIRST | Flag.LAST)
    assert (entry[6], second[6]) == (1, 2)
    assert receiver.port.source(entry[5]) == (sender.uuid.bytes, PRINCIPAL)
    assert (record.slot, record.generation, record.length) == (handle & 0xFFFF, 1, 5)


def test_message_with_headers_arrives_with_them(attach: Callable[[], Vnic]) -> None:
    sender, receiver = attach(), attach()
    handle = sender.grant(receiver.number)
    outgoing = sender.port.outgoing(kind=Kind.UNICAST, handle=handle, headers=b"map", payload=memoryview(b"payload"))
    sender.push(outgoing)
    [(entry, record, headers, payload)] = receiver.receive()
    assert (headers, payload, record.headers) == (b"map", b"payload", 3)
    assert entry[3] & Flag.HEADERS
    assert outgoing.sequence == entry[6]


@pytest.mark.parametrize("size", [0, FRAGMENT_BYTES, FRAGMENT_BYTES + 1, 3 << 20])
def test_message_of_any_size_arrives_whole(attach: Callable[[], Vnic], size: int) -> None:
    sender, receiver = attach(), attach()
    handle = sender.grant(receiver.number)
    payload = os.urandom(size)
    outgoing = sender.port.outgoing(kind=Kind.UNICAST, handle=handle, headers=b"h" * 10, payload=payload)
    thread = threading.Thread(target=sender.push, args=(outgoing, handle))
    thread.start()
    [(entry, record, headers, got)] = receiver.receive()
    thread.join()
    assert (headers, got == payload, entry[6]) == (b"h" * 10, True, outgoing.sequence)
    assert record.length == size + 10
    assert bool(entry[3] & Flag.ENTRY_LARGE) == (size + 10 > FRAGMENT_BYTES)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 63, 64, 65, 4000, FRAGMENT_BYTES - 1, FRAGMENT_BYTES, 200_000]), st.integers(0, 90)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_messages_arrive_once_and_in_order(sizes: list[tuple[int, int]]) -> None:
    with _pair() as (sender, receiver):
        handle = sender.grant(receiver.number)
        expected = [(bytes([n]) * size, b"h" * headers) for n, (size, headers) in enumerate(sizes)]

        def send() -> None:
            make = functools.partial(sender.port.outgoing, kind=Kind.UNICAST, handle=handle)
            for payload, headers in expected:
                sender.push(make(headers=headers, payload=payload), handle)

        thread = threading.Thread(target=send)
        thread.start()
        got = receiver.receive(len(expected))
        thread.join()
        assert [(payload, headers) for _, _, headers, payload in got] == expected
        assert receiver.port.stats().late_wakeups == sender.port.stats().late_wakeups == 0


def test_reply_comes_back_with_the_correlation_of_its_request(attach: Callable[[], Vnic]) -> None:
    caller, callee = attach(), attach()
    handle = caller.grant(callee.number)
    assert caller.port.request(handle, b"?", 1, 4711, 60_000) > 0
    [(entry, request, _, payload)] = callee.receive()
    assert (entry[2], payload, request.correlation) == (Kind.REQUEST, b"?", 4711)
    assert callee.port.reply(request.missed, request.topic, request.correlation, b"!", 1) > 0
    [(entry, reply, _, payload)] = caller.receive()
    assert (entry[2], payload, reply.correlation, reply.source) == (Kind.REPLY, b"!", 4711, callee.uuid.bytes)


def test_large_request_and_large_reply(attach: Callable[[], Vnic]) -> None:
    caller, callee = attach(), attach()
    handle = caller.grant(callee.number)
    question, answer = os.urandom(150_000), os.urandom(250_000)
    caller.push(caller.port.outgoing(kind=Kind.REQUEST, handle=handle, payload=question, correlation=9), handle)
    [(_, request, _, payload)] = callee.receive()
    assert payload == question
    callee.push(
        callee.port.outgoing(
            kind=Kind.FAILED_REPLY,
            right=request.missed,
            right_generation=request.topic,
            correlation=9,
            headers=b"why",
            payload=answer,
        )
    )
    [(entry, reply, headers, payload)] = caller.receive()
    assert (entry[2], reply.correlation, headers, payload == answer) == (Kind.FAILED_REPLY, 9, b"why", True)


def test_publication_arrives_under_the_subscribers_number(overlay: Overlay, attach: Callable[[], Vnic]) -> None:
    publisher, subscriber = attach(), attach()
    assert overlay.command(Command.SUBSCRIBE, subscriber.number, 3, 17) == Status.OK
    handle = publisher.grant(3, Target.TOPIC)
    assert publisher.port.publish(handle, b"news", 4, True) > 0
    [(entry, _, _, payload)] = subscriber.receive()
    assert (entry[2], entry[4], payload) == (Kind.PUBLISH, 17, b"news")
    assert subscriber.port.missed(17) == 0


def test_notice_says_what_became_of_a_record(overlay: Overlay, attach: Callable[[], Vnic]) -> None:
    sender, receiver = attach(), attach()
    handle = sender.grant(receiver.number)
    overlay.remove(receiver.number)
    assert sender.port.slot_state(handle & 0xFFFF) == 2
    assert sender.port.send(handle, b"x", 1) == Status.GONE
    never = sender.grant(0, Target.ALIAS)
    if sender.port.send(never, b"x", 1) > 0:  # nobody has the alias: the switch or its mark says so
        [(entry, record, _, _)] = sender.receive()
        assert (entry[2], entry[5], record.reason) == (Kind.NOTICE, NO_SOURCE, Reason.NOT_FOUND)


def test_message_over_the_limit_is_refused(attach: Callable[[], Vnic]) -> None:
    sender, receiver = attach(), attach()
    handle = sender.grant(receiver.number)
    assert sender.port.send(handle, bytes(FRAGMENT_BYTES + 1), FRAGMENT_BYTES + 1) == Status.TOO_LARGE
    outgoing = sender.port.outgoing(kind=Kind.UNICAST, handle=handle, payload=bytes(MAX_MESSAGE_BYTES + 1))
    assert outgoing.push() == Status.TOO_LARGE
    assert not outgoing.begun
    with pytest.raises(ValueError, match="headers"):
        sender.port.outgoing(kind=Kind.UNICAST, handle=handle, headers=bytes(HEADERS_MAX + 1))
    assert sender.port.stats().sent_records == 0


def test_message_given_up_never_arrives(attach: Callable[[], Vnic]) -> None:
    sender, receiver = attach(), attach()
    handle = sender.grant(receiver.number)
    for _ in range(3):
        outgoing = sender.port.outgoing(kind=Kind.UNICAST, handle=handle, payload=bytes(MAX_MESSAGE_BYTES))
        while not outgoing.begun:
            assert outgoing.push() in (Status.FULL, Status.XOFF)
            assert receiver.port.receive(256, 0) == 0
        outgoing.abort()
        outgoing.abort()
    after = sender.port.outgoing(kind=Kind.UNICAST, handle=handle, payload=b"after")
    while after.push() != Status.OK:  # fragments of the last one may still fill the ring: somebody has to take them
        assert receiver.port.receive(256, 0) == 0
    [(*_, payload)] = receiver.receive()
    assert payload == b"after"
    assert receiver.port.stats().assembling_bytes == 0


def test_payload_is_any_contiguous_buffer_and_no_text(attach: Callable[[], Vnic]) -> None:
    sender, receiver = attach(), attach()
    handle = sender.grant(receiver.number)
    numbers = array.array("I", range(1000))
    assert sender.port.send(handle, sender.port.buffer(numbers), 4000) > 0
    [(*_, payload)] = receiver.receive()
    assert payload == numbers.tobytes()
    with pytest.raises(TypeError):
        sender.port.send(handle, "text", 4)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        sender.port.buffer("text")  # type: ignore[arg-type]


def test_senders_in_several_threads_do_not_mix_their_messages(attach: Callable[[], Vnic]) -> None:
    sender, receiver = attach(), attach()
    handle = sender.grant(receiver.number)

    def send(name: int) -> None:
        for size in (10, 70_000, 20, 100_000):
            sender.push(sender.port.outgoing(kind=Kind.UNICAST, handle=handle, payload=bytes([name]) * size))

    threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    got = [payload for *_, payload in receiver.receive(16)]
    for thread in threads:
        thread.join()
    for name in range(4):
        own = [payload for payload in got if payload[0] == name]
        assert sorted(map(len, own)) == [10, 20, 70_000, 100_000]
        assert all(payload == bytes([name]) * len(payload) for payload in own)


def test_shut_port_ends_waits_and_refuses(attach: Callable[[], Vnic]) -> None:
    vnic = attach()
    results: list[int] = []

    def wait() -> None:
        while (status := vnic.port.wait_arrived(10.0)) in (0, Status.INTERRUPTED):
            pass
        results.append(status)

    thread = threading.Thread(target=wait)
    thread.start()
    vnic.port.shut(Status.GONE)
    thread.join()
    assert results == [Status.GONE]
    assert vnic.port.send(1, b"", 0) == Status.GONE
    vnic.port.close()
    vnic.port.close()
    assert vnic.port.wait_room(-1, 1, 10.0) == Status.CLOSED


def test_view_of_the_batch_outlives_its_port(attach: Callable[[], Vnic]) -> None:
    with Segment.create(512 << 10, attach().uuid) as segment:
        port = Port(segment.fd, max_message_bytes=1000, assembly_bytes=0)
    batch, table = port.batch, port.entries(1)
    del port
    assert len(batch[:64]) == 64
    assert len(next(table)) == 7


def test_port_is_closed_in_a_child_made_by_fork(attach: Callable[[], Vnic]) -> None:
    sender, receiver = attach(), attach()
    handle = sender.grant(receiver.number)
    child = os.fork()
    if child == 0:
        try:
            port = sender.port
            done = (port.send(handle, b"x", 1), port.receive(1, 0), port.wait_arrived(9.0), port.wait_room(-1, 1, 9.0))
            os._exit(done != (Status.CLOSED,) * 4)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert sender.port.send(handle, b"parent", 6) > 0
    [(*_, payload)] = receiver.receive()
    assert payload == b"parent"


def test_stranded_records_are_those_not_taken() -> None:
    with Segment.create(512 << 10, _UUID) as segment:
        port = Port(segment.fd, max_message_bytes=1000, assembly_bytes=0)
    for n in range(600):
        assert port.send(5, bytes(10), 10) == n + 1
    assert [record.sequence for record in port.stranded()] == list(range(1, 601))
    port.close()


def test_opening_what_is_no_segment_is_an_error() -> None:
    with pytest.raises(OSError, match="segment"):
        Port(-1, max_message_bytes=1, assembly_bytes=0)
    descriptor = os.memfd_create("nothing")
    try:
        os.ftruncate(descriptor, 1 << 20)
        with pytest.raises(ValueError, match="segment"):
            Port(descriptor, max_message_bytes=1, assembly_bytes=0)
    finally:
        os.close(descriptor)
    with Segment.create(512 << 10, _UUID) as segment:
        port = Port(segment.fd, max_message_bytes=1, assembly_bytes=0)
    with pytest.raises(OSError, match="doorbell"):
        port.set_doorbell(-1)
