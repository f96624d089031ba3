"""Sessions without records: control frames alone. Stands in until the switch takes links."""

from __future__ import annotations

import os
from collections.abc import Sequence

from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.link_messages import FRAME_BYTES, Disinterest, Forgot, Interest
from layer8.vnet.link_thread import Queues
from layer8.vnet.links import Adjacent


class ControlQueues:
    """Splits frames; takes control frames alone."""

    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def collect(self, buffer: memoryview) -> int:
        return 0

    def feed(self, data: memoryview) -> tuple[int, Sequence[bytes]]:
        found: list[bytes] = []
        position = 0
        while len(data) - position >= 4:
            length = int.from_bytes(data[position : position + 4], "little")
            if not 0 < length <= FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            if len(data) - position < 4 + length:
                break
            if data[position + 4] != 0:
                raise ValueError("a record")
            found.append(bytes(data[position + 5 : position + 4 + length]))
            position += 4 + length
        return position, found

    def __del__(self) -> None:
        os.close(self.event_fd)


class NoPlane:
    def make_queues(self) -> Queues:
        return ControlQueues()

    async def opened(self, adjacent: Adjacent) -> None:
        pass

    async def up(self, adjacent: Adjacent, queues: Queues, restarted: bool) -> None:
        pass

    async def down(self, adjacent: Adjacent, queues: Queues) -> None:
        pass

    async def over(self, adjacent: Adjacent, reason: str) -> None:
        pass

    def ready(self, adjacent: Adjacent) -> None:
        pass

    def said(self, adjacent: Adjacent, message: Interest | Disinterest | Forgot) -> None:
        raise ProtocolViolation("no records here")
