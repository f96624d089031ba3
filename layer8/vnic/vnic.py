"""`Vnic`: what a program uses. The public face over `layer8.vnic.core`, and the hot path."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self
from uuid import UUID

from layer8.dataplane import Kind, check_ring_bytes
from layer8.errors import Backpressure, Closed, RequestTimeout
from layer8.health.directory import check_filters
from layer8.health_record import HealthRecord
from layer8.message import Message, Request, Undeliverable
from layer8.names import check_alias, check_count, check_timeout, check_topic
from layer8.security.loader import load_provider
from layer8.security.provider import SecurityProvider
from layer8.vnic import lookup
from layer8.vnic.calls import ttl_ms
from layer8.vnic.core import Core
from layer8.vnic.election import Election
from layer8.vnic.health_watch import HealthWatch
from layer8.vnic.outbox import Draft, To
from layer8.vnic.queues import Queue, Sink
from layer8.vnic.reports import allow_reports
from layer8.vnic.statistics import VnicStats, read_stats
from layer8.vnic.subscription import Service, Stream, Subscription
from layer8.vnic.waiting import FOREVER, NOW, Timeout, deadline_after, resolve, run_now

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Vnic:
    """A place on the network of processes: attaches to the Vnet of this host and talks to every other Vnic.

        with Vnic("greeter") as vnic:
            vnic.send("printer", b"hello")

    alias           a name that several Vnics may share; who sends to it reaches one of them. None: only the uuid
    vnet            name of the Vnet, or the path of its socket; the variable LAYER8_VNET stands in for it
    security        the Security Provider: an object, "local", "local:UID" (the Vnet of that user), "x509:DIRECTORY" (by
                    certificate, with the identity there) or "module:factory"; None: what the variables LAYER8_SECURITY
                    and LAYER8_IDENTITY say, else the same uid, checked by the kernel
    timeout         seconds that everything waits that waits for others, unless it is told otherwise; None: for ever
    attach_timeout  seconds to wait until a Vnet is there; 0 looks once
    ring_bytes      size of the receive ring, a power of two from 512 KiB (1 MiB by default), two fifths of the segment
    spin_us         microseconds to look for a message before sleeping; None: 0

    Attaching raises VnetNotFound, SecurityMismatch, NotAuthorized, or a Layer8Error that says what was missing.

    Names: `to` is a UUID, a HealthRecord, or an alias (str). Payloads are bytes-like and C-contiguous. Headers are a
    small mapping of str to str or bytes, 4 KiB in all. Time-outs are seconds: None is for ever, 0 does not wait.

    Order holds for each source and name used. What `send` accepted is delivered, or reported to `on_undeliverable`,
    also if this process ends right after. When the Vnet dies, the Vnic attaches to the next one by itself, with the
    same uuid, alias, subscriptions and handlers; what was on its way then is reported with the reason "unknown".

    May be used from several threads. Ctrl-C works in every wait. In a child made by fork it is Closed.
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
        core = self._core = Core(
            None if alias is None else check_alias(alias),
            vnet=vnet,
            security=load_provider(security),
            timeout=check_timeout(timeout),
            attach_timeout=check_timeout(attach_timeout),
            ring_bytes=ring_bytes,
            spin_us=spin_us or 0,
        )
        self._outbox = core.outbox
        self._inbox = core.inbox
        self._messages = core.inbox.messages
        self._on_undeliverable: Callable[[Undeliverable], object] | None = None
        weakref.finalize(self, core.abandon).atexit = False

    # ── who and how ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def uuid(self) -> UUID:
        """The one name that is this Vnic's alone. Its own choice, and the same as long as it lives."""
        return self._core.uuid

    @property
    def alias(self) -> str | None:
        """The name that it may share with others, as it was given."""
        return self._core.alias

    @property
    def state(self) -> str:
        """ "attached"; "away" while no Vnet is there; "draining"; "closed"."""
        return self._core.presence.state

    def stats(self) -> VnicStats:
        """Figures of this Vnic: messages, bytes, fills, and what went wrong. Costs some microseconds."""
        return read_stats(self._core)

    def __repr__(self) -> str:
        name = "" if self.alias is None else f" {self.alias!r}"
        return f"<Vnic{name} {self.uuid} {self.state}>"

    # ── sending ────────────────────────────────────────────────────────────────────────────────────────────────────

    def send(
        self,
        to: To,
        payload: Buffer,
        *,
        headers: Mapping[str, str | bytes] | None = None,
        timeout: Timeout = ...,
        ttl: float | None = None,
    ) -> int:
        """Sends one message and returns its sequence, which `on_undeliverable` may name again.

        It returns when the message is accepted; `timeout` bounds only that. `ttl`: seconds that the message may wait
        for its destination; without it, it waits as long as that lives.

        Raises Backpressure (surely not sent), NotFound, Unreachable, NotAuthorized, MessageTooLarge, Closed; TypeError
        or ValueError for a wrong argument.
        """
        last, call = self._outbox.last
        if type(payload) is bytes and headers is None and ttl is None and timeout is ...:
            if to is not last:
                call = self._outbox.call_of(to)
            sequence = call(payload, len(payload))
            if sequence > 0:
                return sequence
        draft = Draft(Kind.UNICAST, to, payload, headers, resolve(timeout, self._core.timeout), ttl=ttl_of(ttl))
        return run_now(self._outbox.send(draft))

    def try_send(self, to: To, payload: Buffer, *, headers: Mapping[str, str | bytes] | None = None) -> bool:
        """Sends if that is possible at once; False: surely not sent. Raises as `send` does, but not Backpressure.

        The first message to a name asks the Vnet for it and takes a moment all the same.
        """
        last, call = self._outbox.last
        if to is last and type(payload) is bytes and headers is None and call(payload, len(payload)) > 0:
            return True
        draft = Draft(Kind.UNICAST, to, payload, headers, 0.0)
        try:
            run_now(self._outbox.prepare(draft, self._core.timeout))
            run_now(self._outbox.send(draft))
        except Backpressure:
            return False
        return True

    def publish(
        self,
        topic: str,
        payload: Buffer,
        *,
        reliable: bool = False,
        headers: Mapping[str, str | bytes] | None = None,
        timeout: Timeout = ...,
    ) -> int:
        """Publishes to everybody who subscribes to `topic` and returns the sequence. That nobody does is no error.

        A subscriber that does not keep up misses publications, and learns how many. With `reliable=True` nothing is
        dropped: slow subscribers hold the publisher back, up to `timeout` seconds. Raises as `send` does.
        """
        if type(reliable) is not bool:
            raise TypeError(f"reliable is True or False, not {type(reliable).__name__}")
        last, call = self._outbox.last_topic
        if topic is last and type(payload) is bytes and headers is None and timeout is ...:
            sequence = call(payload, len(payload), reliable)
            if sequence > 0:
                return sequence
        seconds = resolve(timeout, self._core.timeout)
        draft = Draft(Kind.PUBLISH, topic, payload, headers, seconds, reliable=reliable)
        return run_now(self._outbox.send(draft))

    def request(
        self,
        to: To,
        payload: Buffer,
        *,
        headers: Mapping[str, str | bytes] | None = None,
        timeout: Timeout = ...,
    ) -> Message:
        """Sends a request and waits for the reply.

        Raises RequestTimeout (it may have been carried out), RequestFailed with what the callee said (or "unanswered",
        or "unknown" when the Vnet died meanwhile), Unreachable as soon as the callee is known to be gone, and what
        `send` raises when the request could not be sent.
        """
        core = self._core
        seconds = resolve(timeout, core.timeout)
        deadline = deadline_after(seconds)
        ttl = ttl_ms(seconds)
        call = core.calls.begin(to, seconds)
        try:
            if headers is not None or not self._outbox.request_now(to, payload, call, ttl):
                draft = Draft(Kind.REQUEST, to, payload, headers, seconds, ttl=ttl, call=call)
                run_now(self._outbox.send(draft))
            try:
                answered = core.inbox.wait(call, deadline)
            except BaseException:
                self._outbox.cancel(call)
                raise
            if not answered:
                self._outbox.cancel(call)
                raise RequestTimeout(call.to, seconds)
        finally:
            core.calls.end(call)
        return call.result()

    # ── receiving ──────────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, timeout: float | None = None) -> Message:
        """The next message, request or publication that no handler and no stream takes.

        Raises TimeoutError after `timeout` seconds, Closed after `close`, or after `drain` when everything is read.
        """
        queue = self._messages
        if timeout is None and not queue.is_long:
            items = queue.items
            try:
                message = items[0]
                del items[0]  # one step with the line before: see layer8.vnic.queues
                return message
            except IndexError:
                pass
        taken = self._inbox.take(queue, deadline_after(check_timeout(timeout)))
        if taken is None:
            raise TimeoutError(f"no message came within {timeout} s")
        return taken

    def try_receive(self) -> Message | None:
        """The next message if one is there. Raises Closed as `receive` does."""
        return self._inbox.take(self._messages, NOW)

    def receive_many(self, max: int = 256, timeout: float | None = None) -> list[Message]:  # noqa: A002
        """At least one message, and up to `max` of those that are there: the fastest way to read many.

        Raises TimeoutError and Closed as `receive` does, ValueError for a `max` below 1.
        """
        limit = check_count(max, "receive_many takes")
        messages = self._inbox.take_many(limit, deadline_after(check_timeout(timeout)))
        if not messages:
            raise TimeoutError(f"no message came within {timeout} s")
        return messages

    def __iter__(self) -> Iterator[Message]:
        """Every message as it comes, until the Vnic is closed, or drained and everything is read."""
        queue, inbox = self._messages, self._inbox
        items = queue.items
        while True:
            if items and not queue.is_long:
                try:
                    message = items[0]
                    del items[0]  # one step with the line before: see layer8.vnic.queues
                except IndexError:
                    continue
                yield message
                continue
            try:
                taken = inbox.take(queue, FOREVER)
            except Closed:
                return
            if taken is not None:
                yield taken

    # ── topics, services ───────────────────────────────────────────────────────────────────────────────────────────

    def subscribe(self, topic: str, handler: Callable[[Message], object] | None = None) -> Subscription:
        """Subscribes to `topic`, literally. When it has returned, what is published on this host arrives.

        Without `handler` publications come to `receive`. A handler is called for each, in order and one at a time with
        all handlers of this Vnic, in a thread of its own; its exceptions are logged and counted.

        Raises ValueError for a topic that is none, NotAuthorized, Backpressure when no Vnet agreed in time, Closed.
        """
        core = self._core
        topic = check_topic(topic, to_subscribe=True)
        if handler is None:
            sink = Sink(self._messages)
        else:
            sink = Sink(core.dispatcher.jobs, _check_function(handler))
            core.dispatcher.start(core.inbox)
        interest = run_now(core.topics.add(topic, sink, deadline_after(core.timeout), core.timeout))
        return Subscription(self, core, interest, sink, interest.missed)

    def stream(self, topic: str, keep: int | None = None) -> Stream:
        """Subscribes to `topic` with a queue of its own. `keep`: only the newest so many wait in it. As `subscribe`."""
        core = self._core
        topic = check_topic(topic, to_subscribe=True)
        queue: Queue[Message] = Queue(None if keep is None else check_count(keep, "a stream keeps"))
        sink = Sink(queue)
        core.inbox.add_queue(queue)
        try:
            interest = run_now(core.topics.add(topic, sink, deadline_after(core.timeout), core.timeout))
        except BaseException:
            core.inbox.remove_queue(queue)
            raise
        return Stream(self, core, interest, sink, interest.missed, queue)

    def serve(self, handler: Callable[[Request], object], *, workers: int = 1) -> Service:
        """From now on `handler` answers the requests to this Vnic; returns at once.

        What it returns (bytes-like, or None for an empty one) is the reply, an exception a failed reply with its text;
        it may also answer by itself. With one worker requests are handled in order, where handlers run; with more of
        them, each in a thread of its own, in no order. Messages that are not requests still come to `receive`.
        """
        self._core.presence.check_open()
        _check_function(handler)
        workers = check_count(workers, "the workers of a service are")
        if self._core.records.requests is not None:
            raise ValueError("this Vnic serves already: close the other service first")
        return Service(self, self._core, handler, workers)

    @property
    def on_undeliverable(self) -> Callable[[Undeliverable], object] | None:
        """Called where handlers run, with an Undeliverable for each accepted message that did not arrive (or, with the
        reason "unknown", may not have arrived). Without it they are logged as a count. Requests are not among them:
        their caller gets the error."""
        return self._on_undeliverable

    @on_undeliverable.setter
    def on_undeliverable(self, handler: Callable[[Undeliverable], object] | None) -> None:
        core = self._core
        core.presence.check_open()
        if handler is None:
            core.records.undeliverable = None
        else:
            core.records.undeliverable = Sink(core.dispatcher.jobs, _check_function(handler))
            core.dispatcher.start(core.inbox)
        self._on_undeliverable = handler

    # ── who is there ───────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, to: To, *, timeout: float | None = 0.0) -> HealthRecord:
        """One Vnic of this alias or uuid that is up; waits up to `timeout` seconds until there is one.

        Raises NotFound, NotAuthorized, Unreachable when no Vnet answered in time, Closed.
        """
        return run_now(lookup.find(self._core, to, check_timeout(timeout)))

    def health(self, **filters: object) -> tuple[HealthRecord, ...]:
        """The health records of the overlay, in order of uuid. `filters`: alias, host, service, state,
        topic, kind, uuid or pid with the value it shall have, for instance `alias="store"` or `state="UP"`. Raises
        TypeError or ValueError for a filter that is none, NotAuthorized, Unreachable, Closed."""
        return run_now(lookup.health(self._core, filters))

    def watch(self, **filters: object) -> HealthWatch:
        """A stream of health events: who is there now, and then every change, with no gap between.

        `filters`: as for `health`, and a service. Each event is a HealthEvent: "joined", "changed" or "left", with the
        record and its reason. When this returns, the present state is known. Raises as `health` does.
        """
        return HealthWatch(self, self._core, check_filters(filters), self._core.timeout)

    def elect(self, group: str) -> Election:
        """Stands for election in `group`: one Vnic of all that do leads, and when it dies, stands still or leaves,
        another one does within 3 s.

        The result has `is_leader`, `leader`, `term` (only grows: a fencing token), `wait()`, and is a stream of
        ElectionEvent; close it to stand no more. Raises Layer8Error in an overlay of several hosts (this Vnet decides
        for its own host only), NotAuthorized, ValueError for a name that is none or a group it stands in already.
        """
        return self._core.elect(self, check_alias(group))

    def allow_reports(self, allowed: bool = True, *, trace_memory: bool = False) -> None:
        """Lets operators of this Vnet ask this process where its threads stand and what it has allocated, on an alarm
        or by `layer8 health report`. `trace_memory`: starts tracemalloc, which makes allocating slower and reports
        say where memory went. Reports have names of functions and types, and no values."""
        allow_reports(self._core, allowed, trace_memory)

    # ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────

    def drain(self) -> None:
        """Takes no new messages: leaves its alias and its topics. Loops and `receive` end after the last message that
        was offered before; replies, and messages that somebody sends to its uuid, may still be sent meanwhile."""
        run_now(self._core.drain())

    def close(self, timeout: float | None = 5.0) -> None:
        """Leaves the network; safe twice. What `send` accepted is still delivered; what was not received is lost.

        Waits up to `timeout` seconds until the Vnet, or the next one, has taken what was sent and the running handler
        has returned. A warning is logged when nobody has.
        """
        self._core.close(check_timeout(timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        core = getattr(self, "_core", None)
        if core is not None and not core.is_closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Vnic belongs to its process: make one in each process")


def check_handler(handler: Callable[..., object]) -> Callable[..., object]:
    if not callable(handler):
        raise TypeError(f"a handler is callable, not {type(handler).__name__}")
    return handler


def _check_function(handler: Callable[..., object]) -> Callable[..., object]:
    """A handler of threads: what a coroutine function returns would never run."""
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        raise TypeError(f"a handler of a Vnic is no coroutine function, as {handler!r} is: use an AsyncVnic")
    return check_handler(handler)


def check_sizes(ring_bytes: int | None, spin_us: int | None) -> None:
    """What the program may choose of its Vnic, before anything is made. The segment itself knows which sizes it has."""
    for name, value, unit in (("ring_bytes", ring_bytes, "bytes"), ("spin_us", spin_us, "microseconds")):
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise TypeError(f"{name} is a whole number of {unit} or None, not {type(value).__name__}")
    if spin_us is not None and spin_us < 0:
        raise ValueError(f"spin_us is a number of microseconds, not {spin_us}")
    if ring_bytes is not None:
        check_ring_bytes(ring_bytes)


def ttl_of(ttl: float | None) -> int:
    seconds = check_timeout(ttl)
    if seconds == 0:
        raise ValueError("a ttl is more than 0 seconds")
    return ttl_ms(seconds)
