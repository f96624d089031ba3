"""A connection that this Vnet dials: TCP, then TLS, and the other end takes links."""

from __future__ import annotations

import asyncio
import socket

from layer8.protocol.codec import ProtocolViolation
from layer8.security.provider import TlsRole
from layer8.security.tls_batches import TlsBatches
from layer8.vnet import greeting
from layer8.vnet.tls_port import ALPN_LINK, handshake
from layer8.vnet.workers import Workers

CONNECT_SECONDS = 3.0


async def dialled(
    vnet: greeting.Host, handshakes: Workers, loop: asyncio.AbstractEventLoop, host: str, port: int
) -> TlsBatches:
    """The other end has shown a certificate, and said nothing yet. Raises ProtocolViolation, OSError, TimeoutError."""
    plain: socket.socket = await connect(host, port, loop)
    try:
        config = vnet.config
        context = await vnet.providers.call(vnet.provider.tls, TlsRole.DIAL, timeout=config.provider_timeout)
        context.set_alpn_protocols([ALPN_LINK])
        tls = TlsBatches(context, plain)
        late = asyncio.Event()
        timer = loop.call_later(config.attach_timeout, late.set)
        try:
            await handshake(tls, handshakes, loop, late)
        finally:
            timer.cancel()
        if late.is_set():
            raise TimeoutError
        if tls.selected_alpn_protocol() != ALPN_LINK:
            raise ProtocolViolation("there is no Vnet that takes links")
        return tls
    except BaseException:
        plain.close()
        raise


async def connect(host: str, port: int, loop: asyncio.AbstractEventLoop) -> socket.socket:
    """A TCP connection to a numeric address. Raises OSError or TimeoutError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    name, _, scope = host.partition("%")
    place = (name, port, 0, int(scope)) if scope.isdecimal() else (host, port)
    plain = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(CONNECT_SECONDS):
            await loop.sock_connect(plain, place)
    except BaseException:
        plain.close()
        raise
    return plain
