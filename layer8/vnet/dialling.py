"""Dialling other Vnets: every address for itself, again and again, for as long as somebody says that there is a Vnet.

    wanted ──dial──▶ linked ──(not heard any more)──▶ dial at once, then ever later, with chance
       ├── it is this Vnet itself: never again, until it is wanted anew
       └── there is a link with that Vnet already (it dialled us, or has several addresses): as linked

Whoever knows of addresses says so under a name of its own (`want`); an address is dialled as long as anybody wants it.
Each has a task of its own, so one that is wrong, down or hostile delays no other. A *hint* is an address that somebody
mentioned: it is dropped after a few failures.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol
from uuid import UUID

from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.link import LinkRefusal
from layer8.protocol.sessions import Backoff
from layer8.vnet.tls_port import spelled
from layer8.vnet.workers import Busy

HINT_FAILURES = 4
MOST_HINTS = 256

Address = tuple[str, int]

_log = logging.getLogger("layer8.vnet")


class Dials(Protocol):
    """What dialling needs of the links."""

    async def dial(self, host: str, port: int) -> UUID: ...
    async def until_lost(self, vnet: UUID) -> None: ...


class _Target:
    def __init__(self) -> None:
        self.wanted_by: set[str] = set()
        self.task: asyncio.Task[None] | None = None
        self.complained = ""


class Dialling:
    """Addresses are numeric. One thread: the loop's. `sleep`: tests give their own."""

    def __init__(
        self,
        links: Dials,
        loop: asyncio.AbstractEventLoop,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._links = links
        self._loop = loop
        self._sleep = sleep
        self._targets: dict[Address, _Target] = {}
        self._hints = 0
        self._closed = False

    @property
    def addresses(self) -> frozenset[Address]:
        return frozenset(self._targets)

    def want(self, who: str, addresses: Iterable[Address]) -> None:
        """These, and no others, are what `who` wants dialled."""
        if self._closed:
            return
        wanted = set(addresses)
        for address, target in tuple(self._targets.items()):
            if who in target.wanted_by and address not in wanted:
                target.wanted_by.discard(who)
                self._drop_unwanted(address, target)
        for address in wanted:
            target = self._targets.setdefault(address, _Target())
            target.wanted_by.add(who)
            if target.task is None or target.task.done():
                target.task = self._loop.create_task(self._pursue(address, target, hinted=False))

    def hint(self, address: Address) -> None:
        """Somebody says that there is a Vnet."""
        if address not in self._targets and self._hints < MOST_HINTS and not self._closed:
            target = self._targets[address] = _Target()
            self._hints += 1
            target.task = self._loop.create_task(self._pursue(address, target, hinted=True))

    def _drop_unwanted(self, address: Address, target: _Target) -> None:
        if not target.wanted_by:
            del self._targets[address]
            if target.task is not None:
                target.task.cancel()

    async def _pursue(self, address: Address, target: _Target, *, hinted: bool) -> None:
        backoff = Backoff()
        failures = 0
        try:
            while True:
                vnet = None
                try:
                    vnet = await self._links.dial(*address)
                except LinkRefusal as refusal:
                    if refusal.code == "self":
                        return
                    if refusal.code == "duplicate":
                        vnet = refusal.peer
                    else:
                        self._complain(address, target, refusal)
                except (OSError, TimeoutError, ProtocolViolation, Busy) as error:
                    self._complain(address, target, error)
                except Exception as error:  # the provider's
                    self._complain(address, target, error)
                if vnet is not None:
                    target.complained = ""
                    failures = 0
                    await self._links.until_lost(vnet)
                    backoff.success()
                else:
                    failures += 1
                    if hinted and not target.wanted_by and failures >= HINT_FAILURES:
                        return
                await self._sleep(backoff.next())
        finally:
            self._hints -= hinted
            if hinted and not target.wanted_by and self._targets.get(address) is target:
                del self._targets[address]

    def _complain(self, address: Address, target: _Target, error: Exception) -> None:
        """Once for each reason, however often it is tried."""
        text = str(error) or ("it does not answer" if isinstance(error, TimeoutError) else type(error).__name__)
        if text != target.complained:
            target.complained = text
            _log.warning("no link with the Vnet at %s: %s", spelled(address), text)

    async def close(self) -> None:
        """Ends all tasks. Safe twice."""
        self._closed = True
        tasks = [target.task for target in self._targets.values() if target.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(tasks)
        self._targets.clear()
