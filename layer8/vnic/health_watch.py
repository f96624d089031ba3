"""`Vnic.watch`: health events as they happen, read like a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from layer8.errors import Closed, Layer8Error, NotAuthorized, Unreachable
from layer8.health.watch import WatchView
from layer8.health_record import HealthEvent, HealthRecord
from layer8.names import check_timeout
from layer8.protocol.control import Failed, Unwatch, Watch, WatchAck, Watched, Wire
from layer8.vnic.attachment import Attachment
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.refusals import error_of_failed
from layer8.vnic.standing import Bell
from layer8.vnic.waiting import FOREVER, deadline_after, remaining

if TYPE_CHECKING:
    from layer8.vnic.async_vnic import AsyncVnic
    from layer8.vnic.core import Core
    from layer8.vnic.questions import Answer
    from layer8.vnic.vnic import Vnic


class HealthWatch:
    """Made by `Vnic.watch`; lasts until `close()`, or as long as the Vnic. May be used from several threads.

    When it is there it has the present state already: `records`, and a "joined" event for each of them. Every later
    change is told, in order; while no Vnet is there nothing is, and afterwards the difference.
    """

    def __init__(self, vnic: Vnic | AsyncVnic, core: Core, filters: dict[str, str], timeout: float | None) -> None:
        self._vnic = vnic  # who has the watch keeps the Vnic
        self._core = core
        self._filters = filters
        self._view = WatchView(filters)
        self._events: deque[HealthEvent] = deque()
        self._bell = Bell()
        self._closed = False
        self._error: Layer8Error | None = None
        self.on_event: Callable[[], object] | None = None
        """Called, in a thread of the library, when events have come; for whoever cannot wait in `receive`."""
        self._number = core.orders.add(self)
        core.orders.hear(Watched, self._number, self)
        try:
            self._begin(deadline_after(timeout))
        except BaseException:
            self._end()
            raise

    def _begin(self, deadline: float) -> None:
        question = self.question()
        assert question is not None
        answer = self._core.questions.ask_any_blocking(question, deadline)
        if isinstance(answer, Failed):
            raise error_of_failed(answer, "the directory", "this Vnic", "read-health")
        with self._bell.lock:
            while not self._view.is_current and self._error is None:
                self._core.presence.check_open()
                if remaining(deadline) == 0:
                    raise Unreachable("the Vnet", "it did not tell the present state in time")
                self._bell.wait(remaining(deadline))
        if self._error is not None:
            raise self._error

    # ── for the keeper ─────────────────────────────────────────────────────────────────────────────────────────────

    def question(self) -> Wire | None:
        return None if self._closed else Watch(id=0, watch=self._number, filters=self._filters)

    def renewed(self, answer: Answer) -> None:
        if isinstance(answer, Failed):
            self._fail(error_of_failed(answer, "the directory", "this Vnic", "read-health"))

    def heard(self, attachment: Attachment, message: Wire) -> None:
        if not isinstance(message, Watched) or self._closed:
            return
        try:
            attachment.connection.send(WatchAck(watch=self._number))
        except ConnectionLost:
            pass  # the keeper notices by itself
        if message.code:
            self._fail(NotAuthorized("this Vnic", "read-health", "the overlay"))
            return
        with self._bell.lock:
            events = self._view.take(message.records, message.forgotten, first=message.first, complete=message.complete)
            self._events.extend(events)
            self._bell.ring()
        if events and self.on_event is not None:
            self.on_event()

    def _fail(self, error: Layer8Error) -> None:
        with self._bell.lock:
            self._error = error
            self._bell.ring()
        if self.on_event is not None:
            self.on_event()

    # ── for the program ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def records(self) -> tuple[HealthRecord, ...]:
        """All that pass the filters, as last told (their figures are of then), in order of uuid."""
        with self._bell.lock:
            return tuple(sorted(self._view.records.values(), key=lambda record: record.uuid))

    def receive(self, timeout: float | None = None) -> HealthEvent:
        """The next event; waits up to `timeout` seconds (None: for ever, 0: not at all).

        Raises TimeoutError; Closed when the watch or its Vnic was closed; NotAuthorized when it may watch no more.
        """
        deadline = deadline_after(check_timeout(timeout))
        event = self._next(deadline)
        if event is None:
            raise TimeoutError(f"nothing changed within {timeout} s")
        return event

    def try_receive(self) -> HealthEvent | None:
        """The next event if one is there."""
        return self._next(deadline_after(0.0))

    def _next(self, deadline: float) -> HealthEvent | None:
        self._core.presence.check_open()
        with self._bell.lock:
            while not self._events:
                if self._closed:
                    raise Closed("this watch")
                self._core.presence.check_open()
                if self._error is not None:
                    raise self._error
                left = remaining(deadline)
                if left == 0:
                    return None
                self._bell.wait(left)
            return self._events.popleft()

    def __iter__(self) -> Iterator[HealthEvent]:
        """Every event, until the watch or the Vnic is closed."""
        while True:
            try:
                event = self._next(FOREVER)
            except Closed:
                return
            if event is not None:
                yield event

    def close(self) -> None:
        """No more events. Safe twice."""
        if self._closed:
            return
        self._end()
        attachment = self._core.presence.attachment
        if attachment is not None:
            self._core.questions.say(attachment, Unwatch(id=0, watch=self._number))

    def _end(self) -> None:
        self._closed = True
        self._core.orders.remove(self._number)
        self._core.orders.unhear(Watched, self._number)
        with self._bell.lock:
            self._events.clear()
            self._bell.ring()
        if self.on_event is not None:
            self.on_event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        filters = ", ".join(f"{name}={value!r}" for name, value in self._filters.items())
        return f"<HealthWatch {filters or 'of everybody'}{', closed' if self._closed else ''}>"
