"""Roots and revocations spread from Vnet to Vnet over links, and what a revocation means for a link.

    link up, or something new ──TrustNumbers──▶   which lists I have
                              ◀──TrustNumbers──   mine are older
                              ◀──TrustPart…──     mine are newer: here they are, signed by the authority
    taken over ──TrustNumbers──▶ everybody else   so it goes through the whole overlay, each Vnet asking nobody

Whoever sends a list proves nothing by it and need not be believed: it is signed, numbered, and only a higher number is
taken. When what is believed has changed, or a certificate has run out, links are looked at again: the session of a Vnet
that is revoked is given up; a connection whose certificate has run out is cut, and the next one, with the renewed
certificate, takes the session up where it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol
from uuid import UUID

import msgspec

from layer8.errors import Layer8Error
from layer8.protocol.link_messages import LARGEST_LIST, TrustNumbers, TrustPart
from layer8.security.provider import Action, Resource, ResourceKind, SecurityProvider
from layer8.vnet.adjacent import Adjacent
from layer8.vnet.guard import Guard
from layer8.vnet.links import Links
from layer8.vnet.workers import Workers

_PART_BYTES = 48 << 10
_LARGEST = 2 * LARGEST_LIST
_LOOK_SECONDS = 2.0

_log = logging.getLogger("layer8.vnet")
_lists = msgspec.msgpack.Decoder(tuple[bytes, bytes])


class Host(Protocol):
    """What spreading needs of its Vnet."""

    provider: SecurityProvider
    workers: Workers


class Spreading:
    """Belongs to the loop's thread. Does nothing with a provider that has no lists."""

    def __init__(self, vnet: Host, links: Links, guard: Guard, loop: asyncio.AbstractEventLoop) -> None:
        self._vnet = vnet
        self._links = links
        self._guard = guard
        self._loop = loop
        self._has_lists = all(hasattr(vnet.provider, name) for name in ("list_numbers", "lists", "take_lists"))
        self._parts: dict[UUID, bytearray] = {}
        self._told = (0, 0)
        self._timer: asyncio.TimerHandle | None = None
        links.on_up = self._up
        links.on_trust = self._heard
        guard.listeners.append(self._changed)

    def _numbers(self) -> tuple[int, int]:
        numbers: tuple[int, int] = self._vnet.provider.list_numbers()  # type: ignore[attr-defined]
        return numbers

    def _up(self, adjacent: Adjacent) -> None:
        """A connection stands."""
        self._parts.pop(adjacent.vnet, None)
        if self._has_lists:
            roots, revocations = self._numbers()
            adjacent.say(TrustNumbers(roots=roots, revocations=revocations))
        self._watch()

    def _heard(self, adjacent: Adjacent, message: TrustNumbers | TrustPart) -> None:
        if not self._has_lists:
            return
        match message:
            case TrustNumbers(roots=roots, revocations=revocations):
                mine = self._numbers()
                if mine[0] > roots or mine[1] > revocations:
                    self._send(adjacent)
                if mine[0] < roots or mine[1] < revocations:  # the answer to this is what it has
                    adjacent.say(TrustNumbers(roots=mine[0], revocations=mine[1]))
            case TrustPart(number=number, last=last, data=data):
                parts = self._parts.setdefault(adjacent.vnet, bytearray())
                if number == 0:
                    parts.clear()
                parts += data
                if len(parts) > _LARGEST:
                    del self._parts[adjacent.vnet]
                elif last:
                    self._loop.create_task(self._take(adjacent, bytes(self._parts.pop(adjacent.vnet))))

    def _send(self, adjacent: Adjacent) -> None:
        data = msgspec.msgpack.encode(self._vnet.provider.lists())  # type: ignore[attr-defined]
        pieces = [data[at : at + _PART_BYTES] for at in range(0, len(data), _PART_BYTES)]
        for number, piece in enumerate(pieces):
            adjacent.say(TrustPart(number=number, last=number == len(pieces) - 1, data=piece))

    async def _take(self, adjacent: Adjacent, data: bytes) -> None:
        name = adjacent.hello.name if adjacent.hello is not None else str(adjacent.vnet)
        try:
            trust, revoked = _lists.decode(data)
            take = self._vnet.provider.take_lists  # type: ignore[attr-defined]
            if await self._vnet.workers.call(take, trust, revoked, timeout=10.0):
                _log.info("newer lists of roots or revocations have come from Vnet %s", name)
        except (Layer8Error, msgspec.DecodeError, OSError, TimeoutError) as error:
            _log.warning("lists from Vnet %s were not taken over: %s", name, error)

    # ── what follows for links ────────────────────────────────────────────────────────────────────────────────────

    def _changed(self) -> None:
        """Who is believed, or the policy, may be another."""
        if self._has_lists and (numbers := self._numbers()) != self._told:
            self._told = numbers
            self._links.tell(TrustNumbers(roots=numbers[0], revocations=numbers[1]))
        for vnet, adjacent in tuple(self._links.adjacent.items()):
            who = adjacent.principal
            if who is None:
                continue
            if not self._guard.would_allow(who, Action.HOST, Resource(kind=ResourceKind.PRINCIPAL, name=who.uri)):
                self._guard.audit("revoke", principal=who.uri, action=Action.HOST, allowed=False, reason="its link")
                _log.warning("the link with %s is closed: it is believed no more", who.uri)
                self._links.refuse(vnet, "not-authorized", "it is believed no more")

    def _watch(self) -> None:
        if self._timer is None and self._links.adjacent:
            self._timer = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.time()
        for vnet, adjacent in tuple(self._links.adjacent.items()):
            who = adjacent.principal
            if who is not None and who.expires and who.expires <= now:
                self._links.cut(vnet, f"the certificate of {who.uri} has run out")
        self._watch()

    def close(self) -> None:
        """Safe twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
