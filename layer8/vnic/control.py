"""A control connection without a port, for tools: it asks the Vnet and waits for the answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

import msgspec

from layer8.errors import Closed, Layer8Error, NotAuthorized, NotFound, Unreachable
from layer8.health.directory import check_filters
from layer8.health.watch import WatchView
from layer8.health_record import HealthEvent, HealthRecord
from layer8.names import check_timeout, destination
from layer8.protocol.codec import Unknown
from layer8.protocol.control import (
    Done,
    Failed,
    Find,
    Health,
    PrincipalFigures,
    Principals,
    Topics,
    Watch,
    WatchAck,
    Watched,
    Wire,
)
from layer8.rendezvous import candidates
from layer8.security.loader import load_provider
from layer8.security.provider import SecurityProvider
from layer8.vnic.attachment import observe, with_nodes
from layer8.vnic.connection import ConnectionLost
from layer8.vnic.refusals import error_of_failed
from layer8.vnic.waiting import FOREVER, SLICE, Timeout, deadline_after, remaining, resolve


class ControlClient:
    """Asks a Vnet without being a Vnic: `request`, `health`, `topics`, `find`. One question at a time, any thread.

    `vnet`, `security`, `attach_timeout`: as for Vnic. `timeout`: seconds to wait for each answer, None for ever.
    Raises VnetNotFound, SecurityMismatch, NotAuthorized.
    """

    def __init__(
        self,
        vnet: str = "default",
        *,
        security: SecurityProvider | str | None = None,
        timeout: float | None = 5.0,
        attach_timeout: float | None = 1.0,
    ) -> None:
        self._timeout = check_timeout(timeout)
        self._lock = threading.RLock()
        self._ids = 0
        self._early: list[Wire | Unknown] = []  # events that came before or with an answer
        self._closed = False
        provider = load_provider(security)
        places = with_nodes(candidates(vnet), provider)
        self._connection = observe(places, provider, uuid4(), check_timeout(attach_timeout))

    def request(self, message: Wire, timeout: Timeout = ...) -> Done:
        """Sends a control request (its `id` is set here) and returns the answer.

        Raises what the Vnet's refusal stands for, TimeoutError without an answer, Unreachable when the Vnet is gone.
        """
        answer = self._ask(message, deadline_after(resolve(timeout, self._timeout)))
        if isinstance(answer, Failed):
            about = str(getattr(message, "to", "") or getattr(message, "name", "") or "the Vnet")
            raise error_of_failed(answer, about, "this process")
        return answer

    def health(self, **filters: object) -> tuple[HealthRecord, ...]:
        """The records of the overlay, in order of uuid; `filters`: fields and their values (alias="store")."""
        wanted = check_filters(filters)
        found: list[HealthRecord] = []
        after: UUID | None = None
        while True:
            page = self.request(Health(id=0, after=after, filters=wanted))
            found.extend(page.records)
            if not page.more or not page.records:
                return tuple(found)
            after = page.records[-1].uuid

    def watch(self, **filters: object) -> Iterator[HealthEvent]:
        """Health events, as `Vnic.watch`, for ever. Nothing else may be asked meanwhile. Raises Unreachable when the
        Vnet is gone."""
        wanted = check_filters(filters)
        view = WatchView(wanted)
        self.request(Watch(id=0, watch=1, filters=wanted))
        waiting, self._early = self._early, []
        while True:
            for message in waiting:
                if isinstance(message, Watched):
                    if message.code:
                        raise NotAuthorized("this process", "read-health", "the overlay")
                    yield from view.take(
                        message.records, message.forgotten, first=message.first, complete=message.complete
                    )
                    self._say(WatchAck(watch=1))
            waiting = self._receive()

    def _say(self, message: Wire) -> None:
        try:
            self._connection.send(message)
        except ConnectionLost as error:
            raise Unreachable("the Vnet", error.reason) from None

    def _receive(self) -> list[Wire | Unknown]:
        try:
            self._connection.wait(SLICE)
            return [message for message, _ in self._connection.receive()]
        except ConnectionLost as error:
            raise Unreachable("the Vnet", error.reason) from None

    def topics(self) -> tuple[tuple[str, int], ...]:
        """The topics that somebody subscribes to, each with its number of subscribers."""
        found: list[tuple[str, int]] = []
        while True:
            page = self.request(Topics(id=0, after=found[-1][0] if found else ""))
            found.extend(page.topics)
            if not page.more or not page.topics:
                return tuple(found)

    def principals(self) -> tuple[PrincipalFigures, ...]:
        """What each principal has sent and received on this Vnet since it started."""
        found: list[PrincipalFigures] = []
        while True:
            page = self.request(Principals(id=0, after=found[-1].principal if found else ""))
            found.extend(page.principals)
            if not page.more or not page.principals:
                return tuple(found)

    def find(self, to: UUID | HealthRecord | str, *, timeout: float | None = 0.0) -> HealthRecord:
        """One Vnic of this alias or uuid that is up; waits up to `timeout` seconds for it. Raises NotFound."""
        name = destination(to)
        deadline = deadline_after(check_timeout(timeout))
        while True:
            wait = min(remaining(deadline), 5.0)
            message = Find(id=0, to=str(name), is_uuid=isinstance(name, UUID), timeout=wait)
            limit = FOREVER if self._timeout is None else wait + self._timeout
            try:
                done = self.request(message, None if limit == FOREVER else limit)
            except NotFound:
                if remaining(deadline) > 0:
                    continue
                raise NotFound(name) from None
            if done.record is None:
                raise Layer8Error("the Vnet answered without a record")
            return done.record

    def _ask(self, message: Wire, deadline: float) -> Done | Failed:
        with self._lock:
            if self._closed:
                raise Closed("this ControlClient")
            self._ids += 1
            try:
                self._connection.send(msgspec.structs.replace(message, id=self._ids))
                while True:
                    found: Done | Failed | None = None
                    for answer, _ in self._connection.receive():
                        if isinstance(answer, (Done, Failed)):
                            found = answer if answer.id == self._ids else found
                        else:
                            self._early.append(answer)
                    if found is not None:
                        return found
                    left = remaining(deadline)
                    if left == 0:
                        raise TimeoutError("the Vnet did not answer in time")
                    self._connection.wait(min(SLICE, left))
            except ConnectionLost as error:
                raise Unreachable("the Vnet", error.reason) from None

    def close(self) -> None:
        """Ends the connection. Safe twice."""
        with self._lock:
            self._closed = True
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
