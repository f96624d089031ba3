"""`AsyncVnic`: a Vnic for asyncio, with the names of `Vnic`. The public face; how it waits stands in `loop_inbox`.

The inside is the same `Core`; what differs are its parts that wait. The hot path is that of `Vnic`: one C call for a
message to the last destination, and none of it waits.
"""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections.abc import Awaitable, Callable, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self
from uuid import UUID

from layer8.dataplane import Kind
from layer8.errors import Backpressure, Closed
from layer8.health.directory import check_filters
from layer8.health_record import HealthRecord
from layer8.message import Message, Undeliverable
from layer8.names import check_alias, check_count, check_timeout, check_topic
from layer8.security.loader import load_provider
from layer8.security.provider import SecurityProvider
from layer8.vnic import lookup
from layer8.vnic.async_caller import AsyncCaller
from layer8.vnic.async_health import AsyncElection, AsyncHealthWatch
from layer8.vnic.async_request import AsyncRequest
from layer8.vnic.async_subscription import AsyncService, AsyncStream, AsyncSubscription, Opening
from layer8.vnic.core import Core
from layer8.vnic.election import Election
from layer8.vnic.handover import in_thread
from layer8.vnic.health_watch import HealthWatch
from layer8.vnic.loop import LoopPresence
from layer8.vnic.loop_inbox import LoopDispatcher, LoopInbox, LoopParts
from layer8.vnic.outbox import Draft, To
from layer8.vnic.queues import Queue, Sink
from layer8.vnic.reports import allow_reports
from layer8.vnic.statistics import VnicStats, read_stats
from layer8.vnic.vnic import check_handler, check_sizes, ttl_of
from layer8.vnic.waiting import NOW, Timeout, deadline_after, remaining, resolve

if TYPE_CHECKING:
    from typing_extensions import Buffer

_TURN = 256  # operations that find no reason to wait until the loop's other tasks have their turn
_TURN_BITS = 12  # 4 KiB of payload count as one more


class AsyncVnic:
    """A place on the network of processes, for asyncio. It is attached by awaiting or entering it:

        async with AsyncVnic("greeter") as vnic:
            await vnic.send("printer", b"hello")

        vnic = await AsyncVnic("greeter")
        ...
        await vnic.close()

    Arguments, names and errors are those of `Vnic`; every method is awaited, `async for` reads every message, and
    handlers may be coroutine functions. It belongs to the event loop in which it was attached, and to its thread.

    A cancelled `receive` has taken nothing. A cancelled `send` is sent whole or not at all. Awaits that need no waiting
    let the loop's other tasks run now and then. Many tasks may use one AsyncVnic at a time.
    """

    def __init__(
        self,
        alias: str | None = None,
        *,
        vnet: str = "default",
        security: SecurityProvider | str | None = None,
        timeout: float | None = 5.0,
        attach_timeout: float | None = 1.0,
        ring_bytes: int | None = None,
        spin_us: int | None = None,
    ) -> None:
        check_sizes(ring_bytes, spin_us)
        checked_alias = None if alias is None else check_alias(alias)
        provider = load_provider(security)
        checked_timeout, checked_attach = check_timeout(timeout), check_timeout(attach_timeout)

        def attach(parts: LoopParts) -> Core:
            return Core(
                checked_alias,
                vnet=vnet,
                security=provider,
                timeout=checked_timeout,
                attach_timeout=checked_attach,
                ring_bytes=ring_bytes,
                spin_us=spin_us or 0,
                parts=parts,
            )

        self._make = attach
        self._alias = alias
        self._core: Core | None = None
        self._attaching = False
        self._spent = 0
        self._on_undeliverable: Callable[[Undeliverable], object] | None = None

    # ── attached by awaiting or entering ───────────────────────────────────────────────────────────────────────────

    def __await__(self) -> Generator[Any, None, Self]:
        return self._attach().__await__()

    async def __aenter__(self) -> Self:
        return await self._attach()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _attach(self) -> Self:
        if self._core is not None:
            self._here()
            return self
        if self._attaching:
            raise ValueError("this AsyncVnic is being attached by another task")
        self._attaching = True
        try:
            await self._attach_once()
        finally:
            self._attaching = False
        return self

    async def _attach_once(self) -> None:
        """The attach itself blocks, so a thread of its own does it."""
        loop = asyncio.get_running_loop()
        parts = LoopParts(loop)
        make = self._make  # the thread, which may last a moment longer, holds nothing of the AsyncVnic itself
        core = await in_thread(loop, lambda: make(parts), lambda core: core.close(0.0))
        assert isinstance(core.inbox, LoopInbox) and isinstance(core.dispatcher, LoopDispatcher)
        self._core = core
        self._home = parts.home
        self._outbox = core.outbox
        self._inbox = core.inbox
        self._dispatcher = core.dispatcher
        self._messages = core.inbox.messages
        self._caller = AsyncCaller(core, parts.home)
        weakref.finalize(self, core.abandon).atexit = False

    def _here(self) -> Core:
        """Raises Closed, and ValueError before it is attached or in another loop."""
        core = self._core
        if core is None:
            raise ValueError("an AsyncVnic is attached by awaiting it (await AsyncVnic(...)) or by async with")
        core.presence.check_open()
        if not self._home.is_here:
            raise ValueError(f"{self!r} belongs to another event loop: make one in each loop")
        return core

    async def _turn(self) -> None:
        """Others run, so that a hot loop of awaits stops nobody."""
        self._spent = 0
        await asyncio.sleep(0)

    # ── who and how ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def uuid(self) -> UUID:
        """The one name that is this Vnic's alone. Its own choice, and the same as long as it lives."""
        if self._core is None:
            raise ValueError("an AsyncVnic has its uuid when it is attached: await it first")
        return self._core.uuid

    @property
    def alias(self) -> str | None:
        """The name that it may share with others, as it was given."""
        return self._alias

    @property
    def state(self) -> str:
        """ "attached"; "away" while no Vnet is there, also before it is attached; "draining"; "closed"."""
        return "away" if self._core is None else self._core.presence.state

    async def stats(self) -> VnicStats:
        """Figures of this Vnic: messages, bytes, fills, and what went wrong."""
        if self._core is None:
            self._here()
        assert self._core is not None
        return read_stats(self._core)

    def __repr__(self) -> str:
        name = "" if self.alias is None else f" {self.alias!r}"
        which = "" if self._core is None else f" {self._core.uuid}"
        return f"<AsyncVnic{name}{which} {self.state}>"

    # ── sending ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def send(
        self,
        to: To,
        payload: Buffer,
        *,
        headers: Mapping[str, str | bytes] | None = None,
        timeout: Timeout = ...,
        ttl: float | None = None,
    ) -> int:
        """Sends one message and returns its sequence; as `Vnic.send`. Cancelled, it is sent whole or not at all.

        The payload must not change until it has returned.
        """
        core = self._here()
        if self._spent >= _TURN:
            await self._turn()
        last, call = self._outbox.last
        if type(payload) is bytes and headers is None and ttl is None and timeout is ...:
            self._spent += 1 + (len(payload) >> _TURN_BITS)
            if to is not last:
                call = self._outbox.call_of(to)
            sequence = call(payload, len(payload))
            if sequence > 0:
                return sequence
        draft = Draft(Kind.UNICAST, to, payload, headers, resolve(timeout, core.timeout), ttl=ttl_of(ttl))
        return await self._send(draft)

    async def _send(self, draft: Draft) -> int:
        self._spent += 1 + (draft.size >> _TURN_BITS)
        return await self._outbox.send(draft)

    async def try_send(self, to: To, payload: Buffer, *, headers: Mapping[str, str | bytes] | None = None) -> bool:
        """Sends if that is possible at once; False: surely not sent. As `Vnic.try_send`."""
        core = self._here()
        if self._spent >= _TURN:
            await self._turn()
        last, call = self._outbox.last
        if to is last and type(payload) is bytes and headers is None and call(payload, len(payload)) > 0:
            self._spent += 1 + (len(payload) >> _TURN_BITS)
            return True
        draft = Draft(Kind.UNICAST, to, payload, headers, 0.0)
        try:
            await self._outbox.prepare(draft, core.timeout)
            await self._send(draft)
        except Backpressure:
            return False
        return True

    async def publish(
        self,
        topic: str,
        payload: Buffer,
        *,
        reliable: bool = False,
        headers: Mapping[str, str | bytes] | None = None,
        timeout: Timeout = ...,
    ) -> int:
        """Publishes to everybody who subscribes to `topic` and returns the sequence; as `Vnic.publish`."""
        core = self._here()
        if self._spent >= _TURN:
            await self._turn()
        if type(reliable) is not bool:
            raise TypeError(f"reliable is True or False, not {type(reliable).__name__}")
        last, call = self._outbox.last_topic
        if topic is last and type(payload) is bytes and headers is None and timeout is ...:
            self._spent += 1 + (len(payload) >> _TURN_BITS)
            sequence = call(payload, len(payload), reliable)
            if sequence > 0:
                return sequence
        draft = Draft(Kind.PUBLISH, topic, payload, headers, resolve(timeout, core.timeout), reliable=reliable)
        return await self._send(draft)

    async def request(
        self,
        to: To,
        payload: Buffer,
        *,
        headers: Mapping[str, str | bytes] | None = None,
        timeout: Timeout = ...,
    ) -> Message:
        """Sends a request and waits for the reply; as `Vnic.request`. Cancelled, its callee is told.

        More requests at a time than the Vnet lets one Vnic have wait here for their turn.
        """
        core = self._here()
        if self._spent >= _TURN:
            await self._turn()
        return await self._caller.request(to, payload, headers, resolve(timeout, core.timeout))

    # ── receiving ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def receive(self, timeout: float | None = None) -> Message:
        """The next message, request or publication that no handler and no stream takes; as `Vnic.receive`.

        Cancelled, it has taken nothing. Requests are AsyncRequest.
        """
        self._here()
        if self._spent >= _TURN:
            await self._turn()
        message = await self._inbox.take_from(self._messages, deadline_after(check_timeout(timeout)))
        if message is None:
            raise TimeoutError(f"no message came within {timeout} s")
        self._spent += 1 + (len(message.payload) >> _TURN_BITS)
        return message

    async def try_receive(self) -> Message | None:
        """The next message if one is there. Raises Closed as `receive` does."""
        self._here()
        if self._spent >= _TURN:
            await self._turn()
        self._spent += 1
        return await self._inbox.take_from(self._messages, NOW)

    async def receive_many(self, max: int = 256, timeout: float | None = None) -> list[Message]:  # noqa: A002
        """At least one message, and up to `max` of those that are there; as `Vnic.receive_many`."""
        limit = check_count(max, "receive_many takes")
        self._here()
        if self._spent >= _TURN:
            await self._turn()
        deadline = deadline_after(check_timeout(timeout))
        messages = await self._inbox.take_many_from(self._messages, limit, deadline)
        if not messages:
            raise TimeoutError(f"no message came within {timeout} s")
        self._spent += len(messages)
        return messages

    def __aiter__(self) -> Self:
        """Every message as it comes, until the Vnic is closed, or drained and everything is read."""
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except Closed:
            raise StopAsyncIteration from None

    # ── topics, services ───────────────────────────────────────────────────────────────────────────────────────────

    def subscribe(self, topic: str, handler: Callable[[Message], object] | None = None) -> Opening[AsyncSubscription]:
        """Subscribes to `topic`; as `Vnic.subscribe`. To be awaited, or entered with `async with`.

        A handler is a coroutine function, or a function that does not block; all of this Vnic run one at a time.
        """
        return Opening(self._subscribe(topic, handler))

    async def _subscribe(self, topic: str, handler: Callable[[Message], object] | None) -> AsyncSubscription:
        core = self._here()
        topic = check_topic(topic, to_subscribe=True)
        if handler is None:
            sink = Sink(self._messages)
        else:
            sink = Sink(core.dispatcher.jobs, check_handler(handler))
            core.dispatcher.start(core.inbox)
        interest = await core.topics.add(topic, sink, deadline_after(core.timeout), core.timeout)
        return AsyncSubscription(self, core, interest, sink)

    def stream(self, topic: str, keep: int | None = None) -> Opening[AsyncStream]:
        """Subscribes to `topic` with a queue of its own; as `Vnic.stream`. To be awaited, or entered."""
        return Opening(self._stream(topic, keep))

    async def _stream(self, topic: str, keep: int | None) -> AsyncStream:
        core = self._here()
        topic = check_topic(topic, to_subscribe=True)
        queue: Queue[Message] = Queue(None if keep is None else check_count(keep, "a stream keeps"))
        sink = Sink(queue)
        core.inbox.add_queue(queue)
        try:
            interest = await core.topics.add(topic, sink, deadline_after(core.timeout), core.timeout)
        except BaseException:
            core.inbox.remove_queue(queue)
            raise
        return AsyncStream(self, core, interest, sink, queue, self._turn_after)

    async def _turn_after(self, size: int) -> None:
        """Before something of about `size` bytes is taken elsewhere than here."""
        if self._spent >= _TURN:
            await self._turn()
        self._spent += 1 + (size >> _TURN_BITS)

    def serve(self, handler: Callable[[AsyncRequest], object], *, workers: int = 1) -> Opening[AsyncService]:
        """From now on `handler` answers the requests to this Vnic; as `Vnic.serve`. To be awaited, or entered.

        With one worker requests are handled in order; with more, so many at a time, in no order.
        """
        return Opening(self._serve(handler, workers))

    async def _serve(self, handler: Callable[[AsyncRequest], object], workers: int) -> AsyncService:
        core = self._here()
        check_handler(handler)
        workers = check_count(workers, "the workers of a service are")
        if core.records.requests is not None:
            raise ValueError("this Vnic serves already: close the other service first")
        return AsyncService(self, core, handler, workers)

    @property
    def on_undeliverable(self) -> Callable[[Undeliverable], object] | None:
        """Called, or awaited, where handlers run; as `Vnic.on_undeliverable`."""
        return self._on_undeliverable

    @on_undeliverable.setter
    def on_undeliverable(self, handler: Callable[[Undeliverable], object] | None) -> None:
        core = self._here()
        if handler is None:
            core.records.undeliverable = None
        else:
            core.records.undeliverable = Sink(core.dispatcher.jobs, check_handler(handler))
            core.dispatcher.start(core.inbox)
        self._on_undeliverable = handler

    # ── who is there ───────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, to: To, *, timeout: float | None = 0.0) -> HealthRecord:
        """One Vnic of this alias or uuid that is up; waits up to `timeout` seconds until there is one."""
        return await lookup.find(self._here(), to, check_timeout(timeout))

    async def health(self, **filters: object) -> tuple[HealthRecord, ...]:
        """The health records of the overlay; as `Vnic.health`."""
        return await lookup.health(self._here(), filters)

    def watch(self, **filters: object) -> Opening[AsyncHealthWatch]:
        """A stream of health events: who is there now, then every change; as `Vnic.watch`. To be awaited or entered."""
        return Opening(self._watch(filters))

    async def _watch(self, filters: dict[str, object]) -> AsyncHealthWatch:
        core = self._here()
        wanted = check_filters(filters)

        def begin() -> HealthWatch:
            return HealthWatch(self, core, wanted, core.timeout)

        assert isinstance(core.presence, LoopPresence)
        watch = await in_thread(self._home.loop, begin, HealthWatch.close)
        return AsyncHealthWatch(watch, self._home, core.presence)

    def elect(self, group: str) -> Opening[AsyncElection]:
        """Stands for election in `group`; as `Vnic.elect`. To be awaited, or entered."""
        return Opening(self._elect(group))

    async def _elect(self, group: str) -> AsyncElection:
        core = self._here()
        name = check_alias(group)
        assert isinstance(core.presence, LoopPresence)
        election = await in_thread(self._home.loop, lambda: core.elect(self, name), Election.close)
        return AsyncElection(election, self._home, core.presence)

    async def allow_reports(self, allowed: bool = True, *, trace_memory: bool = False) -> None:
        """Lets operators of this Vnet ask this process what it does; as `Vnic.allow_reports`."""
        allow_reports(self._here(), allowed, trace_memory)

    # ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────

    def drain(self) -> Awaitable[None]:
        """Takes no new messages; loops end after the last one that was offered before. As `Vnic.drain`.

        It begins whether it is awaited or not, so a signal handler may call it: loop.add_signal_handler(SIGTERM,
        vnic.drain).
        """
        core = self._here()
        task = self._home.loop.create_task(core.drain())
        self._home.loop.call_soon_threadsafe(_nothing)  # a handler of `signal` interrupts a selector that goes on
        return task

    async def close(self, timeout: float | None = 5.0) -> None:
        """Leaves the network; safe twice. As `Vnic.close`: handlers that still run then are cancelled."""
        seconds = check_timeout(timeout)
        core = self._core
        if core is None or core.is_closed:
            return
        if not self._home.is_here:
            raise ValueError(f"{self!r} belongs to another event loop: close it there")
        deadline = deadline_after(seconds)
        handlers = self._dispatcher.tasks - {asyncio.current_task()}
        await in_thread(self._home.loop, lambda: self._leave(core, seconds), _nothing)
        if handlers:
            left = remaining(deadline)
            _, running = await asyncio.wait(handlers, timeout=None if left > 1e6 else left)
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running, timeout=1.0)

    def _leave(self, core: Core, seconds: float | None) -> None:
        """In a thread: it goes on to the end when whoever waits for it is cancelled."""
        try:
            core.close(seconds)
        finally:
            self._home.run(self._caller.wake)

    def __del__(self) -> None:
        core = getattr(self, "_core", None)
        if core is not None and not core.is_closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Vnic belongs to its process: make one in each process")


def _nothing(*arguments: object) -> None:
    pass
