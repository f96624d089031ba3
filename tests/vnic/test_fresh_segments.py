"""A Vnic whose segment no Vnet takes over goes on with another one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from layer8 import Vnic
from layer8.testing import RunningVnet

MakeVnic = Callable[..., Vnic]


def test_a_receiver_with_a_fresh_segment_takes_nothing_twice(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    sender, receiver = make_own(), make_own("once")
    for payload in (b"one", b"two"):
        sender.send(receiver.uuid, payload)
        assert receiver.receive(30).payload == payload
    while sender.stats().port.transmit_fill:  # type: ignore[union-attr]
        time.sleep(0.001)
    segments = [vnic._core._current.segment.fd for vnic in (sender, receiver)]  # type: ignore[union-attr]
    own_vnet.kill()
    os.pwrite(segments[0], bytes(8), 0x1200)  # transmit.head, as if it was killed before it had published it
    os.pwrite(segments[1], bytes([1]) * 8, 0x1000)  # transmit.tail, so that the next Vnet does not adopt it
    own_vnet.restart()
    sender.send(receiver.uuid, b"three", timeout=60)
    assert receiver.receive(30).payload == b"three"
    stats = receiver.stats().port
    assert stats is not None
    assert stats.duplicates_dropped == 2
