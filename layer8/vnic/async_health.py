"""What `AsyncVnic.watch` and `elect` give back: a HealthWatch and an Election whose events are awaited."""

from __future__ import annotations

from typing import Generic, Protocol, Self, TypeVar
from uuid import UUID

from layer8.errors import Closed
from layer8.health_record import ElectionEvent, HealthEvent, HealthRecord
from layer8.names import check_timeout
from layer8.vnic.async_subscription import Closable
from layer8.vnic.election import Election
from layer8.vnic.health_watch import HealthWatch
from layer8.vnic.loop import Home, LoopPresence, Waiters
from layer8.vnic.waiting import FOREVER, deadline_after

Event = TypeVar("Event")
Told = TypeVar("Told", covariant=True)


class _Source(Protocol[Told]):
    def try_receive(self) -> Told | None: ...
    def close(self) -> None: ...


class _Events(Closable, Generic[Event]):
    """Events of something that a thread of the library feeds; it calls `_heard`."""

    def __init__(self, source: _Source[Event], home: Home, presence: LoopPresence) -> None:
        self._source = source
        self._home = home
        self._waiters = Waiters(home)
        presence.watched_by(self._waiters.wake)

    def _heard(self) -> None:
        self._home.run(self._waiters.wake)

    async def receive(self, timeout: float | None = None) -> Event:
        """The next event; waits up to `timeout` seconds (None: for ever, 0: not at all). Cancelled, it takes nothing.

        Raises TimeoutError; Closed when this or its Vnic was closed; NotAuthorized when it may not go on.
        """
        deadline = deadline_after(check_timeout(timeout))
        while (event := self._source.try_receive()) is None:
            if not await self._waiters.wait(deadline):
                raise TimeoutError(f"nothing happened within {timeout} s")
        return event

    async def try_receive(self) -> Event | None:
        """The next event if one is there."""
        return self._source.try_receive()

    def __aiter__(self) -> Self:
        """Every event, until this or the Vnic is closed."""
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.receive()
        except Closed:
            raise StopAsyncIteration from None

    async def close(self) -> None:
        """No more events. Safe twice."""
        self._source.close()
        self._waiters.wake()


class AsyncHealthWatch(_Events[HealthEvent]):
    """Made by `AsyncVnic.watch`; as `HealthWatch`, with its methods awaited."""

    def __init__(self, watch: HealthWatch, home: Home, presence: LoopPresence) -> None:
        super().__init__(watch, home, presence)
        self._watch = watch
        watch.on_event = self._heard

    @property
    def records(self) -> tuple[HealthRecord, ...]:
        """All that pass the filters, as last told, in order of uuid."""
        return self._watch.records

    def __repr__(self) -> str:
        return f"<Async{repr(self._watch)[1:]}"


class AsyncElection(_Events[ElectionEvent]):
    """Made by `AsyncVnic.elect`; as `Election`, with its methods awaited."""

    def __init__(self, election: Election, home: Home, presence: LoopPresence) -> None:
        super().__init__(election, home, presence)
        self._election = election
        election.on_event = self._heard

    @property
    def group(self) -> str:
        return self._election.group

    @property
    def is_leader(self) -> bool:
        """Whether this Vnic leads now, by its own clock: ask right before what only a leader does."""
        return self._election.is_leader

    @property
    def term(self) -> int:
        """The highest term heard of; while this Vnic leads, its own."""
        return self._election.term

    @property
    def leader(self) -> UUID | None:
        """Who leads in this term, as far as it is known."""
        return self._election.leader

    async def wait(self, timeout: float | None = None) -> bool:
        """Until this Vnic leads; False when `timeout` seconds have passed first. Raises Closed."""
        deadline = FOREVER if timeout is None else deadline_after(check_timeout(timeout))
        while not self._election.is_leader:
            self._election.wait(0)  # raises at the end
            if not await self._waiters.wait(deadline):
                return self._election.is_leader
        return True

    def __repr__(self) -> str:
        return f"<Async{repr(self._election)[1:]}"
