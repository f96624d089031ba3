"""What `same_host` measures: layer8, its request and reply, pyzmq over ipc, both in asyncio, and multiprocessing.Pipe.

A carrier is made in the parent process and goes to both others. An empty payload ends every run; `over` returns when
the other side is through as well, so that no carrier is closed under its last message.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, ClassVar, Protocol, runtime_checkable

Arrival = tuple[int, int, bool]  # how many messages, how many bytes, whether the empty one was the last of them
Call = Callable[[bytes], object]
AsyncCall = Callable[[bytes], Awaitable[object]]


class Carrier(Protocol):
    module: ClassVar[str]  # must be importable
    modes: ClassVar[tuple[bool, ...]]  # of receiving: single, batched

    def __init__(self, directory: str) -> None: ...
    def echo(self, ready: Callable[[], None], over: Callable[[], None]) -> None: ...
    def caller(self) -> AbstractContextManager[Call]: ...
    def arrivals(self, batched: bool, ready: Callable[[], None]) -> Iterator[Arrival]: ...
    def sender(self) -> AbstractContextManager[Call]: ...
    def close(self) -> None: ...


@runtime_checkable
class AsyncCarrier(Protocol):
    """A carrier whose driver is an event loop; then this is measured in place of `caller`."""

    def async_caller(self) -> AbstractAsyncContextManager[AsyncCall]: ...


class Layer8:
    """Plain messages in both directions."""

    module: ClassVar[str] = "layer8"
    modes: ClassVar[tuple[bool, ...]] = (False, True)
    _numbers: ClassVar[Iterator[int]] = itertools.count(1)

    def __init__(self, directory: str) -> None:
        self._alias = f"bench-{next(self._numbers)}"

    def echo(self, ready: Callable[[], None], over: Callable[[], None]) -> None:
        from layer8 import Vnic

        with Vnic(self._alias) as vnic:
            ready()
            while True:
                message = vnic.receive()
                vnic.send(message.source, message.payload)
                if not message.payload:
                    over()
                    return

    @contextlib.contextmanager
    def caller(self) -> Iterator[Call]:
        from layer8 import Vnic

        with Vnic() as vnic:
            peer = vnic.find(self._alias, timeout=5.0).uuid
            send, receive = vnic.send, vnic.receive

            def call(payload: bytes) -> None:
                send(peer, payload)
                receive()

            yield call

    def arrivals(self, batched: bool, ready: Callable[[], None]) -> Iterator[Arrival]:
        from layer8 import Vnic

        with Vnic(self._alias) as vnic:
            ready()
            if batched:
                while True:
                    messages = vnic.receive_many(256)
                    yield len(messages), sum([len(one.payload) for one in messages]), not messages[-1].payload
            else:
                receive = vnic.receive
                while True:
                    payload = receive().payload
                    yield 1, len(payload), not payload

    @contextlib.contextmanager
    def sender(self) -> Iterator[Call]:
        from layer8 import Vnic

        with Vnic() as vnic:
            peer = vnic.find(self._alias, timeout=5.0).uuid
            yield functools.partial(vnic.send, peer)

    def close(self) -> None:
        pass


class Layer8Request(Layer8):
    """`request` and `reply`; round trips only."""

    modes: ClassVar[tuple[bool, ...]] = ()

    def echo(self, ready: Callable[[], None], over: Callable[[], None]) -> None:
        from layer8 import Request, Vnic

        with Vnic(self._alias) as vnic:
            ready()
            for message in vnic:
                if isinstance(message, Request):
                    message.reply(message.payload)
                if not message.payload:
                    over()
                    return

    @contextlib.contextmanager
    def caller(self) -> Iterator[Call]:
        from layer8 import Vnic

        with Vnic() as vnic:
            peer = vnic.find(self._alias, timeout=5.0).uuid
            yield functools.partial(vnic.request, peer)


class Layer8Asyncio(Layer8):
    """The driver is an AsyncVnic in an event loop; round trips only. The peer is a Vnic."""

    modes: ClassVar[tuple[bool, ...]] = ()

    @contextlib.asynccontextmanager
    async def async_caller(self) -> AsyncIterator[AsyncCall]:
        from layer8 import AsyncVnic

        async with AsyncVnic() as vnic:
            peer = (await vnic.find(self._alias, timeout=5.0)).uuid

            async def call(payload: bytes) -> None:
                await vnic.send(peer, payload)
                await vnic.receive()

            yield call


class Zmq:
    """pyzmq over ipc: PAIR for round trips, PUSH and PULL one way."""

    module: ClassVar[str] = "zmq"
    modes: ClassVar[tuple[bool, ...]] = (False,)
    _numbers: ClassVar[Iterator[int]] = itertools.count(1)

    def __init__(self, directory: str) -> None:
        self._address = f"ipc://{directory}/zmq-{next(self._numbers)}"

    def echo(self, ready: Callable[[], None], over: Callable[[], None]) -> None:
        with self._socket("PAIR", bind=True) as socket:
            ready()
            while True:
                payload = socket.recv()
                socket.send(payload)
                if not payload:
                    over()
                    return

    @contextlib.contextmanager
    def caller(self) -> Iterator[Call]:
        with self._socket("PAIR") as socket:

            def call(payload: bytes) -> None:
                socket.send(payload)
                socket.recv()

            yield call

    def arrivals(self, batched: bool, ready: Callable[[], None]) -> Iterator[Arrival]:
        with self._socket("PULL", bind=True) as socket:
            ready()
            while True:
                payload = socket.recv()
                yield 1, len(payload), not payload

    @contextlib.contextmanager
    def sender(self) -> Iterator[Call]:
        with self._socket("PUSH") as socket:
            yield socket.send

    @contextlib.contextmanager
    def _socket(self, kind: str, bind: bool = False) -> Iterator[Any]:
        import zmq

        with zmq.Context() as context, context.socket(getattr(zmq, kind)) as socket:
            socket.linger = 30_000
            if bind:
                socket.bind(self._address)
            else:
                socket.connect(self._address)
            yield socket

    def close(self) -> None:
        pass


class ZmqAsyncio(Zmq):
    """The same with `zmq.asyncio` in the driver; round trips only."""

    modes: ClassVar[tuple[bool, ...]] = ()

    @contextlib.asynccontextmanager
    async def async_caller(self) -> AsyncIterator[AsyncCall]:
        import zmq.asyncio

        with zmq.asyncio.Context() as context, context.socket(zmq.PAIR) as socket:
            socket.connect(self._address)

            async def call(payload: bytes) -> None:
                await socket.send(payload)
                await socket.recv()

            yield call


class Pipe:
    """multiprocessing.Pipe with bytes."""

    module: ClassVar[str] = "multiprocessing"
    modes: ClassVar[tuple[bool, ...]] = (False,)

    def __init__(self, directory: str) -> None:
        self._near, self._far = multiprocessing.get_context("spawn").Pipe()

    def echo(self, ready: Callable[[], None], over: Callable[[], None]) -> None:
        ready()
        while True:
            payload = self._far.recv_bytes()
            self._far.send_bytes(payload)
            if not payload:
                over()
                return

    @contextlib.contextmanager
    def caller(self) -> Iterator[Call]:
        def call(payload: bytes) -> None:
            self._near.send_bytes(payload)
            self._near.recv_bytes()

        yield call

    def arrivals(self, batched: bool, ready: Callable[[], None]) -> Iterator[Arrival]:
        ready()
        while True:
            payload = self._far.recv_bytes()
            yield 1, len(payload), not payload

    @contextlib.contextmanager
    def sender(self) -> Iterator[Call]:
        yield self._near.send_bytes

    def close(self) -> None:
        self._near.close()
        self._far.close()


CARRIERS: dict[str, Any] = {
    "layer8": Layer8,
    "layer8 request": Layer8Request,
    "layer8 asyncio": Layer8Asyncio,
    "pyzmq ipc": Zmq,
    "pyzmq asyncio": ZmqAsyncio,
    "multiprocessing.Pipe": Pipe,
}
