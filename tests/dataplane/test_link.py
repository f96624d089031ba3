"""Two switches and a link, as Python drives them. What crosses it, and what a cut does, is tested in C."""

from __future__ import annotations

import contextlib
import select
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from layer8.dataplane import (
    CONTROL_MAX,
    FRAME_MAX,
    Command,
    Kind,
    Link,
    Reason,
    RemotePort,
    Status,
    Target,
    control_frame,
)

from .conftest import PATIENCE, Overlay, Vnic, attaching


class Side:
    """One Vnet of the two: its switch, its link and the proxies it has made."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self.queues = Link()
        self.number = overlay.command(Command.ADD_LINK)
        assert self.number >= 0
        assert overlay.command(Command.LINK_UP, 0, self.number, pointer=self.queues) == Status.OK
        self.proxies: list[RemotePort] = []

    def proxy(self, name: uuid.UUID) -> int:
        remote = RemotePort(name)
        self.proxies.append(remote)
        number = 500 + len(self.proxies) | 1 << 16
        assert self.overlay.command(Command.ADD_REMOTE, number, 9, self.number, pointer=remote) == Status.OK
        return number

    def close(self) -> None:
        self.overlay.command(Command.REMOVE_LINK, 0, self.number, Reason.UNREACHABLE)
        self.overlay.close()
        for remote in self.proxies:
            remote.free()
        self.queues.free()


def move(here: Side, there: Side, buffer: bytearray) -> int:
    size = here.queues.collect(buffer)
    assert there.queues.feed(memoryview(buffer)[:size]) == (size, [])
    return size


@pytest.fixture
def left() -> Iterator[Side]:
    with contextlib.closing(Side(Overlay())) as side:
        yield side


@pytest.fixture
def right() -> Iterator[Side]:
    with contextlib.closing(Side(Overlay())) as side:
        yield side


@pytest.fixture
def attach_left(left: Side) -> Iterator[Callable[[], Vnic]]:
    yield from attaching(left.overlay)


@pytest.fixture
def attach_right(right: Side) -> Iterator[Callable[[], Vnic]]:
    yield from attaching(right.overlay)


def test_message_crosses_when_the_far_control_plane_has_said_yes(
    left: Side, right: Side, attach_left: Callable[[], Vnic], attach_right: Callable[[], Vnic]
) -> None:
    sender, receiver = attach_left(), attach_right()
    handle = sender.grant(left.proxy(receiver.uuid))
    assert sender.port.send(handle, b"across", 6) == 1
    buffer = bytearray(FRAME_MAX)
    deadline = time.monotonic() + PATIENCE
    while not right.overlay.questions:
        assert time.monotonic() < deadline
        select.select([left.queues.event_fd], [], [], 0.1)
        move(left, right, buffer)
        right.overlay.command(Command.GRANT)  # of no port: takes the events meanwhile
    port, question = right.overlay.questions[0]
    assert port == 0
    assert tuple(question) == (right.number, sender.uuid, 1, 1, Kind.UNICAST, Target.PORT, receiver.uuid)
    proxy = right.proxy(question.source)
    assert right.overlay.command(Command.GRANT, proxy, handle, Target.PORT, receiver.number) == Status.OK
    (entry, record, _, payload), *_ = receiver.receive()
    assert (payload, entry[2]) == (b"across", Kind.UNICAST)
    assert record.source == sender.uuid.bytes
    assert left.queues.counters().records_out == 1
    assert right.queues.counters().records_in == 1
    while left.overlay.switch.counters().held_records:  # until the outcome is back
        assert time.monotonic() < deadline
        select.select([right.queues.event_fd], [], [], 0.1)
        move(right, left, buffer)


def test_refused_source_is_reported_to_its_sender(
    left: Side, right: Side, attach_left: Callable[[], Vnic], attach_right: Callable[[], Vnic]
) -> None:
    sender, receiver = attach_left(), attach_right()
    handle = sender.grant(left.proxy(receiver.uuid))
    assert sender.port.send(handle, b"across", 6) == 1
    buffer = bytearray(FRAME_MAX)
    deadline = time.monotonic() + PATIENCE
    while not right.overlay.questions:
        assert time.monotonic() < deadline
        move(left, right, buffer)
        right.overlay.command(Command.GRANT)
    assert right.overlay.command(Command.REFUSE_SOURCE, 0, right.number, pointer=sender.uuid) == Status.OK
    while left.overlay.switch.counters().held_records:
        assert time.monotonic() < deadline
        move(right, left, buffer)
    (entry, record, _, _), *_ = sender.receive()
    assert (entry[2], record.reason, record.sequence) == (Kind.NOTICE, Reason.REVOKED, 1)


def test_control_frames_come_back_in_order_and_unfinished_ones_wait() -> None:
    link = Link()
    stream = b"".join(control_frame(bytes([n]) * n) for n in range(100))
    found: list[bytes] = []
    held = b""
    for at in range(0, len(stream), 7):
        held += stream[at : at + 7]
        consumed, controls = link.feed(held)
        held = held[consumed:]
        found += controls
    assert found == [bytes([n]) * n for n in range(100)]
    assert held == b""
    link.free()


@pytest.mark.parametrize(
    "stream",
    [
        b"\0\0\0\0\0",
        b"\xff\xff\xff\xff\1",
        b"\x02\0\0\0\x09x",
        (CONTROL_MAX + 2).to_bytes(4, "little") + b"\0",
        (20).to_bytes(4, "little") + b"\1" + bytes(40),
    ],
)
def test_what_no_vnet_sends_is_refused(stream: bytes) -> None:
    link = Link()
    with pytest.raises(ValueError, match="cannot be"):
        link.feed(stream)
    link.free()
    link.free()


def test_too_large_a_control_message_is_refused_here() -> None:
    with pytest.raises(ValueError, match="at most"):
        control_frame(bytes(CONTROL_MAX + 1))
