"""The requests of an AsyncVnic, from their turn to their reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from layer8.dataplane import Kind
from layer8.errors import Backpressure, RequestTimeout
from layer8.health_record import HealthRecord
from layer8.message import Message
from layer8.vnic.calls import ttl_ms
from layer8.vnic.loop import Home, Waiters
from layer8.vnic.loop_inbox import LoopCall, LoopInbox
from layer8.vnic.outbox import Draft, To
from layer8.vnic.waiting import deadline_after

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from layer8.vnic.core import Core


class AsyncCaller:
    """As many requests at a time as the Vnet lets one Vnic have; more wait here for their turn."""

    def __init__(self, core: Core, home: Home) -> None:
        assert isinstance(core.inbox, LoopInbox)
        self._core = core
        self._inbox = core.inbox
        self._outbox = core.outbox
        self._turns = Waiters(home)
        self._outstanding = 0

    async def request(
        self, to: To, payload: Buffer, headers: Mapping[str, str | bytes] | None, seconds: float | None
    ) -> Message:
        """The reply. Cancelled, the callee is told."""
        core, deadline = self._core, deadline_after(seconds)
        await self._wait_turn(to, deadline, seconds)
        try:
            call = core.calls.begin(to, seconds)
            assert isinstance(call, LoopCall)
            try:
                ttl = ttl_ms(seconds)
                if headers is not None or not self._outbox.request_now(to, payload, call, ttl):
                    await self._outbox.send(Draft(Kind.REQUEST, to, payload, headers, seconds, ttl=ttl, call=call))
                try:
                    answered = await self._inbox.wait_for(call, deadline)
                except BaseException:
                    self._outbox.cancel(call)
                    raise
                if not answered:
                    self._outbox.cancel(call)
                    raise RequestTimeout(call.to, seconds)
            finally:
                core.calls.end(call)
        finally:
            self._outstanding -= 1
            self._turns.wake(1)
        return call.result()

    async def _wait_turn(self, to: To, deadline: float, seconds: float | None) -> None:
        """Until one request more may be outstanding."""
        presence = self._core.presence
        while (attachment := presence.attachment) and self._outstanding >= attachment.attached.max_requests:
            if not await self._turns.wait(deadline):
                raise Backpressure(to.uuid if isinstance(to, HealthRecord) else to, seconds)
            presence.check_open()
        self._outstanding += 1

    def wake(self) -> None:
        """In the loop: the Vnic is closed, and nobody gets a turn any more."""
        self._turns.wake()
