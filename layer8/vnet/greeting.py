"""The handshake of a link on a TLS socket: the state machine of layer8.protocol.link, driven by the loop.

    TLS done ──hellos, proofs──▶ PROVED ──permission, which connection stays──▶ DONE ──▶ a Greeted
        └───────────── at most `attach_timeout`; anything wrong is said and ends it ──▶ an error

Calls of the provider run in its worker threads. Not a byte is read beyond the handshake: the rest is the link thread's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from layer8.protocol import link_messages
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.link import LinkHandshake, LinkRefusal, Self, State
from layer8.protocol.link_messages import (
    HEADER_BYTES,
    UNPROVEN_BYTES,
    Handshake,
    LinkHello,
    LinkProof,
    LinkRefused,
    body,
    frame,
)
from layer8.protocol.sessions import Duplicate, Sessions
from layer8.protocol.statement import Channel, Principal
from layer8.security.provider import Action, Resource, ResourceKind, SecurityProvider
from layer8.security.tls_batches import TlsBatches
from layer8.vnet.config import VnetConfig
from layer8.vnet.workers import Busy, Workers


class Host(Protocol):
    """What a greeting needs of its Vnet."""

    config: VnetConfig
    provider: SecurityProvider
    providers: Workers
    overlay: str

    def allowed(self, who: Principal, action: Action, what: Resource) -> bool: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Greeted:
    """Who it is, and what was agreed."""

    hello: LinkHello
    principal: Principal
    session: int
    serial: int


async def greet(
    host: Host,
    own: Self,
    sessions: Sessions,
    tls: TlsBatches,
    loop: asyncio.AbstractEventLoop,
    *,
    dials: bool,
    binding: bytes,
    seen: Channel,
    begin: Callable[[Greeted], None],
    refused: Callable[[UUID], str | None],
) -> UUID:
    """The whole handshake. `begin` is called at the moment from which on this side uses the connection, and may raise
    Duplicate. `refused(vnet)`: why a link with this Vnet is not wanted. Returns the other's uuid.

    Raises LinkRefusal, ProtocolViolation, OSError or TimeoutError; the socket is the caller's in any case.
    """
    greeted_at = loop.time()
    machine = LinkHandshake(host.provider, own, dials=dials, binding=binding, seen=seen, knows=sessions.knows)
    speaker = _Speaker(tls, loop)

    def start() -> UUID:
        assert machine.peer is not None
        assert machine.principal is not None
        begin(Greeted(hello=machine.peer, principal=machine.principal, session=machine.session, serial=machine.serial))
        return machine.peer.vnet

    async def refuse(code: str, text: str) -> LinkRefusal:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await speaker.say([LinkRefused(code=code, text=text)])
        return LinkRefusal(code, text, remote=False)

    def admit() -> tuple[int, int]:
        """Permission, and which connection stays. Raises LinkRefusal."""
        assert machine.peer is not None
        assert machine.principal is not None
        overlay = Resource(kind=ResourceKind.OVERLAY, name=host.overlay)
        if not host.allowed(machine.principal, Action.ATTACH, overlay):
            raise LinkRefusal("not-authorized", f"{machine.principal.uri} may not attach to {overlay}", False)
        why = refused(machine.peer.vnet)
        if why is not None:
            raise LinkRefusal("stopping", why, False)
        try:
            return sessions.decide(machine.peer.vnet, machine.peer.epoch, machine.theirs, greeted_at)
        except Duplicate:
            raise LinkRefusal("duplicate", "there is a link already", False) from None

    try:
        async with asyncio.timeout(host.config.attach_timeout):
            if dials:
                await speaker.say(await host.providers.call(machine.start, timeout=host.config.provider_timeout))
            while True:
                data = await speaker.hear()
                message = link_messages.handshake(data)
                if isinstance(message, LinkHello | LinkProof):
                    timeout = host.config.provider_timeout
                    await speaker.say(await host.providers.call(machine.receive, message, data, timeout=timeout))
                else:
                    machine.receive(message, data)
                if machine.state is State.DONE:  # the acceptor, who has read LinkStart
                    return start()
                if machine.state is State.PROVED:
                    answer = machine.proceed(*admit())
                    peer = start() if dials else None  # before it says LinkStart
                    await speaker.say([answer])
                    if peer is not None:
                        return peer
    except Duplicate:
        refusal = await refuse("duplicate", "a later connection stands")
        refusal.peer = machine.peer.vnet if machine.peer is not None else None
        raise refusal from None
    except LinkRefusal as refusal:
        refusal.peer = machine.peer.vnet if machine.peer is not None else None
        if not refusal.remote:
            await refuse(refusal.code, refusal.text)
        raise
    except ProtocolViolation as violation:
        await refuse("invalid", violation.reason)
        raise
    except Busy:
        raise await refuse("not-authorized", "the Security Provider is busy") from None


class _Speaker:
    """Frames on a non-blocking TLS socket, one at a time."""

    def __init__(self, tls: TlsBatches, loop: asyncio.AbstractEventLoop) -> None:
        self._tls = tls
        self._loop = loop

    async def say(self, messages: list[Handshake]) -> None:
        data = b"".join(frame(body(message)) for message in messages)
        while data:
            try:
                data = data[self._tls.send(data) :]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wanted:
                await self._ready(wanted)

    async def hear(self) -> bytes:
        """The content of the next control frame."""
        header = await self._exactly(HEADER_BYTES)
        length = int.from_bytes(header[:4], "little") - 1
        if header[4] != link_messages.CONTROL:
            raise ProtocolViolation("data before the end of the handshake")
        if not 0 < length <= UNPROVEN_BYTES:
            raise ProtocolViolation(f"a frame of {length} bytes in a handshake")
        return await self._exactly(length)

    async def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            try:
                more = self._tls.recv(length - len(data))
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wanted:
                await self._ready(wanted)
                continue
            if not more:
                raise ConnectionResetError("closed by the other side")
            data += more
        return data

    async def _ready(self, wanted: ssl.SSLError) -> None:
        ready = self._loop.create_future()

        def set_ready() -> None:
            if not ready.done():
                ready.set_result(None)

        descriptor = self._tls.fileno()
        reads = isinstance(wanted, ssl.SSLWantReadError)
        if reads:
            self._loop.add_reader(descriptor, set_ready)
        else:
            self._loop.add_writer(descriptor, set_ready)
        try:
            await ready
        finally:
            if reads:
                self._loop.remove_reader(descriptor)
            else:
                self._loop.remove_writer(descriptor)
