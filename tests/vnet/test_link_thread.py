"""The thread of a link over a pair of sockets, with the switch's own queues and without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import Any, cast

from layer8.dataplane import Link
from layer8.protocol.link_messages import ALIVE, frame
from layer8.security.tls_batches import TlsBatches
from layer8.vnet.link_thread import LinkThread

FOR_EVER = 1e6


class Plain:
    """A socket that says as one of TLS does when it would block."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = self.plain = sock

    def recv_into(self, buffer: memoryview) -> int:
        try:
            return self._sock.recv_into(buffer)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None

    def send(self, data: memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            raise ssl.SSLWantWriteError from None

    def pending(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


async def two_ends(keep_alive: float, said: Sequence[bytes]) -> tuple[LinkThread, LinkThread, list[bytes]]:
    """A link whose first end says this, and what its second one heard; both closed again."""
    loop = asyncio.get_running_loop()
    heard: list[bytes] = []
    ended = [loop.create_future(), loop.create_future()]
    with contextlib.ExitStack() as stack:
        threads = []
        for number, sock in enumerate(socket.socketpair()):
            queues = Link()
            stack.callback(queues.free)
            threads.append(
                LinkThread(
                    queues,
                    cast(TlsBatches, Plain(sock)),
                    loop,
                    name=str(number),
                    keep_alive=(keep_alive, FOR_EVER)[number],
                    on_control=(lambda messages: None, heard.extend)[number],
                    on_closed=ended[number].set_result,
                )
            )
            threads[-1].start()
        first, second = threads
        for message in said:
            first.send_control(message)
        while len(heard) < len(said) or second.bytes_in <= sum(map(len, heard)):
            await asyncio.sleep(0.001)
        if keep_alive < 1:
            while first.bytes_out < 3 * len(ALIVE):
                await asyncio.sleep(0.001)
        first.close("over")
        await asyncio.wait_for(asyncio.gather(*ended), 30)
    return first, second, heard


def test_what_vnets_tell_each_other_counts_at_both_ends_alike() -> None:
    said = [b"a", bytes(60_000), b"c" * 100]
    first, second, heard = asyncio.run(two_ends(FOR_EVER, said))
    assert heard == said
    assert first.bytes_out == second.bytes_in == sum(len(frame(message)) for message in said)
    assert first.bytes_in == second.bytes_out == 0


def test_signs_of_life_count_at_both_ends_alike() -> None:
    first, second, _ = asyncio.run(two_ends(0.01, []))
    assert first.bytes_out == second.bytes_in >= 3 * len(ALIVE)
    assert first.bytes_out % len(ALIVE) == 0
