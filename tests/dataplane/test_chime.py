"""A Vnic that sleeps in a loop: the switch wakes it by a descriptor."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable

import pytest

from layer8.dataplane import Kind, Status

from .conftest import PATIENCE, Vnic

_TOKENS = 3


def _rings(descriptor: int, seconds: float = PATIENCE) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _harvest(descriptor: int) -> int:
    """Empties it: how many events there were."""
    own = os.dup(descriptor)
    with select.epoll.fromfd(own) as watch:
        return len(watch.poll(0))


def test_chime_rings_once_for_each_announcement(attach: Callable[..., Vnic]) -> None:
    sender, receiver = attach(), attach(chime=True)
    handle = sender.grant(receiver.number)
    chime = receiver.switch_port.chime_fd
    for _ in range(_TOKENS):
        assert receiver.port.arm_arrived() == 0
        assert not _rings(chime, 0)
        assert sender.port.send(handle, b"x", 1) > 0
        assert _rings(chime)
        assert _harvest(chime) == 1
        assert not _rings(chime, 0)
        receiver.receive()


def test_arming_says_so_when_something_is_there_already(attach: Callable[..., Vnic]) -> None:
    sender, receiver = attach(), attach(chime=True)
    handle = sender.grant(receiver.number)
    assert receiver.port.arm_arrived() == 0
    assert sender.port.send(handle, b"x", 1) > 0
    assert _rings(receiver.switch_port.chime_fd)
    assert receiver.port.arm_arrived() == 1


def test_chime_rings_when_a_slow_receiver_has_room_again(attach: Callable[..., Vnic]) -> None:
    sender, receiver = attach(chime=True), attach()
    handle = sender.grant(receiver.number)
    payload = bytes(32 << 10)
    sent = 0
    deadline = time.monotonic() + PATIENCE
    while (status := sender.port.send(handle, payload, len(payload))) != Status.XOFF:
        sent += status > 0
        assert time.monotonic() < deadline
    chime = sender.switch_port.chime_fd
    assert sender.port.arm_room() == Status.OK
    assert sender.port.room(handle & 0xFFFF, 1) == 0
    receiver.receive(sent)
    receiver.port.wait_arrived(0.0)  # all of it is read
    while sender.port.room(handle & 0xFFFF, 1) == 0:  # it rings for room in the transmit ring, too
        assert _rings(chime)
        _harvest(chime)
        assert sender.port.arm_room() == Status.OK


def test_shut_port_is_not_waited_for(attach: Callable[..., Vnic]) -> None:
    vnic = attach(chime=True)
    vnic.port.shut(Status.AWAY)
    assert vnic.port.arm_arrived() == Status.AWAY
    assert vnic.port.arm_room() == Status.AWAY
    assert vnic.port.room(-1, 1) == Status.AWAY


def test_hostile_vnic_cannot_get_at_the_eventfd_behind_its_chime(attach: Callable[..., Vnic]) -> None:
    """It could make that blocking and full, and the switch would stop in it."""
    hostile, other = attach(chime=True), attach()
    chime = hostile.switch_port.chime_fd
    with pytest.raises(OSError) as refused:
        os.write(chime, b"\xfe" + bytes(7))
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(OSError) as refused:
        os.eventfd_read(chime)
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(OSError):
        os.open(f"/proc/self/fd/{chime}", os.O_RDWR)
    os.set_blocking(chime, True)
    to_hostile, to_other = other.grant(hostile.number), hostile.grant(other.number)
    for _ in range(_TOKENS):
        hostile.port.arm_arrived()
        assert other.port.send(to_hostile, b"x", 1) > 0
        hostile.receive()
    assert hostile.port.send(to_other, b"the switch goes on", 18) > 0
    assert other.receive()[0][0][2] == Kind.UNICAST
