"""The Vnet's side, as Python drives it. What the switch does with messages is tested in C and in test_port."""

from __future__ import annotations

import os
import select
import threading
import uuid
from collections.abc import Callable

import pytest

from layer8.dataplane import Command, Event, Segment, Status, Switch, SwitchConfig, SwitchEvent, SwitchPort

from .conftest import Overlay, Vnic


def test_command_is_answered_with_its_token() -> None:
    switch = Switch(SwitchConfig(max_ports=4))
    thread = threading.Thread(target=switch.run)
    thread.start()
    assert switch.command(Command.STOP, 99) == Status.OK
    thread.join()
    assert select.select([switch.event_fd], [], [], 30.0)[0]
    assert SwitchEvent(Event.DONE, 0, 99, Status.OK) in switch.events()
    assert switch.events() == []
    switch.close()
    switch.close()


def test_running_switch_is_not_closed(overlay: Overlay) -> None:
    while not overlay.switch._running:
        pass
    with pytest.raises(ValueError, match="runs"):
        overlay.switch.close()


def test_closed_switch_and_freed_port_say_so() -> None:
    switch = Switch()
    switch.close()
    with pytest.raises(ValueError, match="closed"):
        switch.command(Command.STOP, 1)
    with Segment.create(512 << 10, uuid.UUID(int=5)) as segment:
        port = SwitchPort(segment.fd, uuid.UUID(int=5), 1)
    port.free()
    port.free()
    with pytest.raises(ValueError, match="freed"):
        port.counters()


def test_counters_count(overlay: Overlay, attach: Callable[[], Vnic]) -> None:
    sender, receiver = attach(), attach()
    handle = sender.grant(receiver.number)
    for _ in range(10):
        assert sender.port.send(handle, bytes(100), 100) > 0
    receiver.receive(10)
    sent, got = sender.switch_port.counters(), receiver.switch_port.counters()
    assert (sent.in_messages, sent.in_bytes) == (10, 1000)
    assert (got.out_messages, got.out_bytes) == (10, 1000)
    assert got.receive_capacity == 512 << 10
    assert sender.switch_port.bytes == 0x8000 + (5 << 18)
    assert overlay.switch.counters().records >= 10


def test_segment_that_is_none_is_refused() -> None:
    name = uuid.UUID(int=6)
    with Segment.create(512 << 10, name) as segment, pytest.raises(ValueError, match="segment"):
        SwitchPort(segment.fd, uuid.UUID(int=7), 1)  # of another Vnic
    descriptor = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, 0x8000 + (5 << 18))
        with pytest.raises(ValueError, match="segment"):
            SwitchPort(descriptor, name, 1)
    finally:
        os.close(descriptor)
    with pytest.raises((ValueError, OSError)):
        SwitchPort(-1, name, 1)
