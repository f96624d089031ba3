"""What `AsyncVnic.subscribe`, `stream` and `serve` give back: to be awaited or entered, and closed."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from layer8.errors import Closed
from layer8.message import Message
from layer8.names import check_timeout
from layer8.vnic.async_request import AsyncRequest
from layer8.vnic.loop import LoopPresence, is_cancelled
from layer8.vnic.loop_inbox import LoopDispatcher, LoopInbox
from layer8.vnic.queues import Queue, Sink
from layer8.vnic.subscription import Stream, Subscription, begin_to_serve, end_queue
from layer8.vnic.topics import Interest
from layer8.vnic.waiting import deadline_after

if TYPE_CHECKING:
    from layer8.vnic.async_vnic import AsyncVnic
    from layer8.vnic.core import Core


class _Closes(Protocol):
    async def close(self) -> None: ...


Thing = TypeVar("Thing", bound=_Closes)


class Opening(Generic[Thing]):
    """What is to be awaited, or entered with `async with`, which closes it at the end."""

    def __init__(self, making: Coroutine[Any, Any, Thing]) -> None:
        self._making = making
        self._made: Thing | None = None

    def __await__(self) -> Generator[Any, Any, Thing]:
        return self._making.__await__()

    async def __aenter__(self) -> Thing:
        self._made = await self._making
        return self._made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._made is not None:
            await self._made.close()


class Closable:
    async def close(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class AsyncSubscription(Closable):
    """One subscription of an AsyncVnic. It lasts until `close()`, or as long as the Vnic. `topic`: as subscribed."""

    _inner: Subscription

    def __init__(self, vnic: AsyncVnic, core: Core, interest: Interest, sink: Sink) -> None:
        self._inner = Subscription(vnic, core, interest, sink, interest.missed)

    @property
    def topic(self) -> str:
        return self._inner.topic

    @property
    def missed(self) -> int:
        """Publications of this topic that were dropped since the subscription, because this Vnic was too slow."""
        return self._inner.missed

    async def close(self) -> None:
        """No more publications come, also none of those that are on their way. Safe twice."""
        self._inner.close()

    def __repr__(self) -> str:
        return f"<Async{repr(self._inner)[1:]}"


class AsyncStream(AsyncSubscription):
    """A subscription with a queue of its own; read it with `receive` or `async for`. As `Stream`, `keep` included."""

    _inner: Stream

    def __init__(
        self,
        vnic: AsyncVnic,
        core: Core,
        interest: Interest,
        sink: Sink,
        queue: Queue[Message],
        turn: Callable[[int], Awaitable[None]],
    ) -> None:
        self._inner = Stream(vnic, core, interest, sink, interest.missed, queue)
        assert isinstance(core.inbox, LoopInbox)
        self._inbox = core.inbox
        self._queue = queue
        self._turn = turn
        self._size = 0

    async def receive(self, timeout: float | None = None) -> Message:
        """The next publication; waits up to `timeout` seconds. Cancelled, it has taken nothing.

        Raises TimeoutError, Closed when the stream or its Vnic was closed, or drained and everything is read, and
        NotAuthorized when the policy has ended the subscription: close it, and subscribe anew once that is allowed.
        """
        message = await self._next(check_timeout(timeout))
        if message is None:
            raise TimeoutError(f"nothing was published on {self.topic!r} within {timeout} s")
        return message

    async def try_receive(self) -> Message | None:
        """The next publication if one is there."""
        return await self._next(0.0)

    async def _next(self, timeout: float | None) -> Message | None:
        await self._turn(self._size)
        message = await self._inbox.take_from(self._queue, deadline_after(timeout))
        if message is not None:
            self._inner.taken()
            self._size = len(message.payload)
        return message

    def __aiter__(self) -> Self:
        """Every publication, until the stream or the Vnic is closed, or drained."""
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except Closed:
            raise StopAsyncIteration from None


class AsyncService(Closable):
    """Requests of an AsyncVnic that a handler answers. It lasts until `close()`, or as long as the Vnic; a request that
    comes afterwards goes into the Vnic's own queue again."""

    def __init__(self, vnic: AsyncVnic, core: Core, handler: Callable[[AsyncRequest], object], workers: int) -> None:
        self._vnic = vnic
        self._core = core
        self._handler = handler
        dispatcher, presence = core.dispatcher, core.presence
        assert isinstance(dispatcher, LoopDispatcher) and isinstance(presence, LoopPresence)
        self._presence = presence
        self._sink = Sink(dispatcher.jobs if workers == 1 else Queue(), self._answer)
        begin_to_serve(core, self._sink)
        if workers == 1:
            dispatcher.start(core.inbox)
        else:
            core.inbox.add_queue(self._sink.queue)
            for _ in range(workers):
                dispatcher.more(core.inbox, self._sink.queue)
        self._name = core.alias or str(core.uuid)
        self._workers = workers
        core.announcement.serve(self._name)

    async def _answer(self, request: AsyncRequest) -> None:
        if request.remaining == 0:
            return  # its caller has stopped waiting; it is let go unanswered
        try:
            answer = self._handler(request)
            if inspect.isawaitable(answer):
                answer = await answer
        except BaseException as error:
            if not request.answered and not is_cancelled(error):  # else it is let go unanswered: its caller is told
                await request.fail(f"{type(error).__name__}: {error}")
            raise
        if not request.answered:
            try:
                await request.reply(b"" if answer is None else answer)  # type: ignore[arg-type]  # checked there
            except (TypeError, ValueError) as error:
                await request.fail(f"the handler's answer cannot be sent: {error}")
                raise

    async def wait(self, timeout: float | None = None) -> bool:
        """Until the service or its Vnic is closed: True, or False when `timeout` seconds have passed first."""
        deadline = deadline_after(check_timeout(timeout))
        while not self._is_over():
            if not await self._presence.changed(deadline):
                return self._is_over()
        return True

    def __repr__(self) -> str:
        return f"<AsyncService of {self._name!r}, {self._workers} at a time{', closed' if self._is_over() else ''}>"

    def _is_over(self) -> bool:
        return self._sink.closed or self._core.is_closed

    async def close(self) -> None:
        """Serves no more; what waits to be served is let go, so its callers learn at once. Safe twice."""
        if not self._sink.closed:
            self._core.announcement.unserve(self._name)
        self._sink.closed = True
        self._presence.change()
        if self._core.records.requests is self._sink:
            self._core.records.requests = None
        if self._sink.queue is not self._core.dispatcher.jobs:
            end_queue(self._core, self._sink.queue)
