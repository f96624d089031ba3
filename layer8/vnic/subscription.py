"""What `subscribe`, `stream` and `serve` give back: things to close, and in `with` they close themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from layer8.errors import Closed
from layer8.message import Message, Request
from layer8.names import check_timeout
from layer8.vnic.queues import Queue, Sink
from layer8.vnic.topics import Interest
from layer8.vnic.waiting import FOREVER, deadline_after

if TYPE_CHECKING:
    from layer8.vnic.async_vnic import AsyncVnic
    from layer8.vnic.core import Core
    from layer8.vnic.vnic import Vnic


class _Closable:
    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Subscription(_Closable):
    """One subscription of a Vnic, made by `Vnic.subscribe`. It lasts until `close()`, or as long as the Vnic.

    `topic`: as subscribed. May be used from several threads.
    """

    def __init__(self, vnic: Vnic | AsyncVnic, core: Core, interest: Interest, sink: Sink, missed: int) -> None:
        self._vnic = vnic  # who has the subscription keeps the Vnic
        self._core = core
        self._interest = interest
        self._sink = sink
        self._missed_before = missed
        self._missed_at_end: int | None = None

    @property
    def topic(self) -> str:
        return self._interest.topic

    @property
    def missed(self) -> int:
        """Publications of this topic that were dropped since the subscription, because this Vnic was too slow."""
        if self._missed_at_end is not None:
            return self._missed_at_end
        return self._interest.missed - self._missed_before

    def close(self) -> None:
        """No more publications come, also none of those that are on their way. Safe twice."""
        if self._missed_at_end is None:
            self._missed_at_end = self.missed
            self._core.topics.remove(self._interest, self._sink)

    def __repr__(self) -> str:
        closed = "" if self._missed_at_end is None else ", closed"
        return f"<{type(self).__name__} of {self.topic!r}, {self.missed} missed{closed}>"


class Stream(Subscription):
    """A subscription with a queue of its own, made by `Vnic.stream`; read it with `receive` or a `for` loop.

    With `keep=N` only the newest N publications wait in it (1: the latest); older ones are dropped and counted in
    `missed`. Without it a full queue holds back whoever publishes reliably, like the Vnic's own.
    """

    def __init__(
        self, vnic: Vnic | AsyncVnic, core: Core, interest: Interest, sink: Sink, missed: int, queue: Queue[Message]
    ) -> None:
        super().__init__(vnic, core, interest, sink, missed)
        self._queue = queue
        self._taken = 0

    def close(self) -> None:
        """No more publications come, and those that wait are dropped. Safe twice."""
        super().close()
        end_queue(self._core, self._queue)

    @property
    def missed(self) -> int:
        """Publications dropped since the subscription: on the way, or for newer ones."""
        if self._missed_at_end is not None:
            return self._missed_at_end
        return super().missed + max(0, self._queue.offered - self._taken - len(self._queue.items))

    def receive(self, timeout: float | None = None) -> Message:
        """The next publication; waits up to `timeout` seconds (None: for ever, 0: not at all).

        Raises TimeoutError, Closed when the stream or its Vnic was closed, or drained and everything is read, and
        NotAuthorized when the policy has ended the subscription: close it, and subscribe anew once that is allowed.
        """
        message = self._next(deadline_after(check_timeout(timeout)))
        if message is None:
            raise TimeoutError(f"nothing was published on {self.topic!r} within {timeout} s")
        return message

    def try_receive(self) -> Message | None:
        """The next publication if one is there."""
        return self._next(deadline_after(0.0))

    def _next(self, deadline: float) -> Message | None:
        message = self._core.inbox.take(self._queue, deadline)
        if message is not None:
            self.taken()
        return message

    def taken(self) -> None:
        """One more was taken from the queue."""
        self._taken += 1

    def __iter__(self) -> Iterator[Message]:
        """Every publication, until the stream or the Vnic is closed, or drained."""
        while True:
            try:
                message = self._next(FOREVER)
            except Closed:
                return
            if message is not None:
                yield message


class Service(_Closable):
    """Requests of a Vnic that a handler answers, made by `Vnic.serve`. It lasts until `close()`, or as long as the
    Vnic; a request that comes afterwards goes into the Vnic's own queue again."""

    def __init__(self, vnic: Vnic, core: Core, handler: Callable[[Request], object], workers: int) -> None:
        self._vnic = vnic
        self._core = core
        self._handler = handler
        self._ended = threading.Event()
        self._sink = Sink(core.dispatcher.jobs if workers == 1 else Queue(), self._answer)
        begin_to_serve(core, self._sink)  # before anybody reads on: a request must not go by
        if workers == 1:
            core.dispatcher.start(core.inbox)
        else:
            core.inbox.add_queue(self._sink.queue)
            for number in range(workers):
                threading.Thread(
                    target=core.dispatcher.work,
                    args=(core.inbox, self._sink.queue),
                    name=f"layer8-worker-{number}",
                    daemon=True,
                ).start()
        self._name = core.alias or str(core.uuid)
        self._workers = workers
        core.announcement.serve(self._name)

    def _answer(self, request: Request) -> None:
        if request.remaining == 0:
            return  # its caller has stopped waiting; it is let go unanswered
        try:
            answer = self._handler(request)
        except BaseException as error:
            if not request.answered:
                request.fail(f"{type(error).__name__}: {error}")
            raise
        if not request.answered:
            if answer is None:
                answer = b""
            try:
                request.reply(answer)  # type: ignore[arg-type]  # checked there
            except (TypeError, ValueError) as error:
                request.fail(f"the handler's answer cannot be sent: {error}")
                raise

    def __repr__(self) -> str:
        closed = ", closed" if self._sink.closed or self._core.is_closed else ""
        return f"<Service of {self._name!r}, {self._workers} at a time{closed}>"

    def wait(self, timeout: float | None = None) -> bool:
        """Until the service or its Vnic is closed: True, or False when `timeout` seconds have passed first."""
        return self._core.wait_closed(self._ended, deadline_after(check_timeout(timeout)))

    def close(self) -> None:
        """Serves no more; what waits to be served is let go, so its callers learn at once. Safe twice."""
        if not self._sink.closed:
            self._core.announcement.unserve(self._name)
        self._sink.closed = True
        self._ended.set()
        if self._core.records.requests is self._sink:
            self._core.records.requests = None
        if self._sink.queue is not self._core.dispatcher.jobs:
            end_queue(self._core, self._sink.queue)


def begin_to_serve(core: Core, sink: Sink) -> None:
    """Requests go to the sink from now on, also those that came before and that nobody has taken."""
    core.records.requests = sink
    waiting = core.inbox.messages.items
    for request in [message for message in list(waiting) if isinstance(message, Request)]:
        try:
            waiting.remove(request)
        except ValueError:
            continue  # somebody has taken it
        sink.queue.expect(1, len(request.payload))
        sink.queue.items.append(sink.item(request))


def end_queue(core: Core, queue: Queue[Any]) -> None:
    """Nothing comes into it any more, and whoever waits at it goes."""
    queue.ended = True
    core.inbox.remove_queue(queue)
    queue.items.clear()
    core.inbox.wake_all()
