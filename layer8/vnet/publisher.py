"""The Vnet's own voice on its switch: what it publishes itself, on topics that begin with `layer8.`.

It has a port like a Vnic's, made with the first publication: a segment in this process, written by the loop, read by
the switch. So what it says goes the way of every publication, to subscribers here and over links, and slow ones hold
nobody up. Nobody can send to it: its uuid is listed nowhere.
"""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from layer8.dataplane import Port, Segment, SwitchPort
from layer8.security.provider import Principal
from layer8.vnet.board_port import BoardPort
from layer8.vnet.refusal import Refusal
from layer8.vnet.switch_thread import SwitchStopped
from layer8.vnet.switchboard import Switchboard

RING_BYTES = 512 << 10
LARGEST = 32 << 10
_WAITING = 256  # publications until the port is there

_log = logging.getLogger("layer8.vnet")


class Publisher:
    """In the loop's thread. `uuid`: the source that subscribers see. `lost`: publications that found no room."""

    def __init__(
        self, board: Switchboard, loop: asyncio.AbstractEventLoop, *, uuid: UUID, epoch: int, principal: Principal
    ) -> None:
        self._board = board
        self._loop = loop
        self._uuid = uuid
        self._epoch = epoch
        self._principal = principal
        self._port: Port | None = None
        self._board_port: BoardPort | None = None
        self._handles: dict[str, int] = {}
        self._waiting: list[tuple[str, bytes]] = []
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        self.lost = 0

    def publish(self, topic: str, payload: bytes) -> None:
        """Returns at once; what finds no room is counted. Payloads of at most LARGEST bytes."""
        if self._closed or len(payload) > LARGEST:
            self.lost += 1
            return
        if len(self._waiting) >= _WAITING:
            self.lost += 1
            return
        self._waiting.append((topic, payload))
        if self._opening is None or self._opening.done():
            self._opening = self._loop.create_task(self._work())

    async def _work(self) -> None:
        try:
            if self._port is None:
                await self._open()
            while self._waiting:
                topic, payload = self._waiting.pop(0)
                await self._publish(topic, payload)
        except (Refusal, OSError, SwitchStopped) as error:
            self.lost += len(self._waiting)
            self._waiting.clear()
            _log.warning("the Vnet cannot publish: %s", error)

    async def _open(self) -> None:
        with Segment.create(RING_BYTES, self._uuid) as segment:
            switch_port = SwitchPort(segment.fd, self._uuid, self._epoch)
            port = Port(segment.fd, max_message_bytes=LARGEST, assembly_bytes=LARGEST)
        port.set_doorbell(switch_port.doorbell_fd)
        self._board_port = await self._board.add(self._uuid, None, self._principal, switch_port)
        self._board.hide(self._board_port)
        self._port = port

    async def _publish(self, topic: str, payload: bytes) -> None:
        assert self._port is not None and self._board_port is not None
        handle = self._handles.get(topic)
        if handle is None:
            slot = len(self._handles)
            await self._board.grant_own(self._board_port, slot, topic)
            handle = self._handles[topic] = slot | 1 << 16
        if self._port.publish(handle, payload, len(payload), False) <= 0:
            self.lost += 1

    def close(self) -> None:
        """Before the switch stops. Safe twice."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._port is not None:
            self._port.close()
            self._port = None
