"""The TLS port: where other hosts reach this Vnet. One port for all who come: ALPN says what a connection is for.

    accepted ──(its first byte)──▶ greeted: TLS handshake ──▶ handed to the handler of its ALPN ──settled──▶ known
        └──────────────────────── attach_timeout, pending_per_address, pending_connections ────────┘

Everything before `settled` is work for a stranger and bounded in time and number, per address and in all. Who connects
and says nothing costs a descriptor and a place in a table: nothing of TLS is made for it. Who has been here longest
without being known makes room for the next one. The arithmetic of a handshake runs in worker threads; waiting for the
other side is the loop's, so a slow handshake keeps no thread.

A handler gets the connection when the handshake is complete, and owns it from then on. The certificate, if there is
one, is of a root that the provider believes (a handler mounted with `needs_certificate=False` may get none). *Who* that
is, whether they are revoked, and what they may do, the handler must ask the provider itself.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import errno
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Protocol

from layer8.rendezvous import split_address
from layer8.security.binding import tls_binding as tls_binding
from layer8.security.provider import SecurityProvider, TlsRole
from layer8.security.tls_batches import TlsBatches
from layer8.vnet.complaints import Complaints
from layer8.vnet.config import VnetConfig
from layer8.vnet.workers import Busy, Workers

ALPN_LINK = "layer8-link/1"
ALPN_VNIC = "layer8-vnic/1"
ALPN_JOIN = "layer8-join/1"

_ACCEPTED_AT_ONCE = 32
_RETRY_SECONDS = 0.1  # after accepting has failed
_BACKLOG = 256
_HANDSHAKE_THREADS = 2

_log = logging.getLogger("layer8.vnet")


class TlsPortError(OSError):
    """The port cannot be opened; the text says which and why."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Handler:
    accept: Callable[[TlsConnection], None]
    needs_certificate: bool


class TlsConnection:
    """One connection after its handshake. Belongs to whoever it was handed to: `close()` or `take()` ends that.

    `socket`: non-blocking. Never use it from two threads at once, not even to read in one and write in the other.
    `certificate`: DER of the peer's, None without. `binding`: see `tls_binding`. `deadline`: when the handler must have
    called `settled` (the loop's clock); what is later the port closes, or calls `on_expired`, which must see to that.
    `address`: of the peer, for people.
    """

    def __init__(self, port: TlsPort, plain: socket.socket, address: tuple[str, int], deadline: float) -> None:
        self.socket: TlsBatches
        self.plain = plain
        self.alpn = ""
        self.certificate: bytes | None = None
        self.binding = b""
        self.host, self.number = address
        self.deadline = deadline
        self.is_closed = False
        self.on_expired: Callable[[], None] | None = None  # the handler's
        self._port = port

    @property
    def address(self) -> str:
        return spelled((self.host, self.number))

    def settled(self) -> None:
        """The peer has proved who it is: it no longer counts as a stranger, and has no deadline here. Safe twice."""
        self._port.forget(self)

    def close(self) -> None:
        """Safe twice."""
        if not self.is_closed:
            self.is_closed = True
            self._port.forget(self)
            self.socket.close()


class _Stranger:
    """One connection until it is handed over. `wake`: something is to be done with it now."""

    def __init__(self, connection: TlsConnection, group: str) -> None:
        self.connection = connection
        self.group = group
        self.evicted = ""  # why
        self.wake: asyncio.Event = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.handed = False


class Host(Protocol):
    """What the port needs of its Vnet."""

    config: VnetConfig
    provider: SecurityProvider
    providers: Workers


class TlsPort:
    """One thread: the loop's. `mount` handlers, then `open`. `addresses`: where it listens, once open."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._loop = loop
        self._handlers: dict[str, _Handler] = {}
        self._listeners: list[socket.socket] = []
        self._strangers: dict[TlsConnection, _Stranger] = {}  # oldest first
        self._of_group: collections.defaultdict[str, dict[TlsConnection, None]] = collections.defaultdict(dict)
        self._workers = Workers(f"tls-{host.config.name}", _HANDSHAKE_THREADS, loop)
        self._complaints = Complaints(_log, loop)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.refused = 0  # connections that ended before they were handed over

    def __len__(self) -> int:
        """Connections that are not settled."""
        return len(self._strangers)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        return tuple(listener.getsockname()[:2] for listener in self._listeners)

    def mount(self, alpn: str, accept: Callable[[TlsConnection], None], *, needs_certificate: bool = True) -> None:
        """Connections with this ALPN go to `accept`, in the loop's thread. Before or after `open`."""
        if alpn in self._handlers:
            raise ValueError(f"{alpn} is mounted already")
        self._handlers[alpn] = _Handler(accept, needs_certificate)

    def open(self, addresses: Sequence[str]) -> None:
        """Listens at all of them ("host:port"). Raises TlsPortError, and then holds nothing."""
        try:
            self._host.provider.tls(TlsRole.LINK)
        except Exception as error:
            raise TlsPortError(f"`listen` needs a Security Provider that has TLS: {error}") from error
        try:
            found = [(text, info) for text in addresses for info in _resolve(text)]
            families = {info[0] for _, info in found}
            for text, (family, _, _, _, place) in found:
                self._listeners.append(_listen(text, family, place, only_v6=len(families) > 1))
        except BaseException:
            self.close()
            raise
        self._set_accepting(True)
        where = ", ".join(map(spelled, self.addresses))
        _log.info("Vnet %s listens for other hosts at %s", self._host.config.name, where)

    def close(self) -> None:
        """Accepts no more, and ends what is not settled. Safe twice."""
        self._closed = True
        self._set_accepting(False)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for stranger in tuple(self._strangers.values()):
            self._evict(stranger, "this Vnet stops")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._workers.close()

    # ── accepting ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _set_accepting(self, wanted: bool) -> None:
        for listener in self._listeners:
            if wanted and not self._closed:
                self._loop.add_reader(listener.fileno(), self._acceptable, listener)
            else:
                self._loop.remove_reader(listener.fileno())

    def _acceptable(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                plain, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._cannot_accept(error)
                return
            plain.setblocking(False)
            with contextlib.suppress(OSError):
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._enter(plain, address[:2])

    def _cannot_accept(self, error: OSError) -> None:
        name = self._host.config.name
        self._complaints.warn("accept", "Vnet %s cannot accept from other hosts: %s", name, error.strerror)
        if error.errno in (errno.EMFILE, errno.ENFILE) and self._strangers:
            self._evict(next(iter(self._strangers.values())), "this Vnet needs the room")
            return
        self._set_accepting(False)
        self._loop.call_later(_RETRY_SECONDS, self._set_accepting, True)

    def _enter(self, plain: socket.socket, address: tuple[str, int]) -> None:
        config = self._host.config
        group = _group(address[0])
        mine = self._of_group[group]
        if len(mine) >= config.pending_per_address:
            self._evict(self._strangers[next(iter(mine))], f"{group} has too many connections that are not settled")
        elif len(self._strangers) >= config.pending_connections:
            self._evict(next(iter(self._strangers.values())), "too many connections that are not settled")
        deadline = self._loop.time() + config.attach_timeout
        connection = TlsConnection(self, plain, address, deadline)
        stranger = _Stranger(connection, group)
        self._strangers[connection] = stranger
        self._of_group[group][connection] = None
        self._loop.add_reader(plain.fileno(), self._speaks, stranger)
        self._set_timer()

    def _speaks(self, stranger: _Stranger) -> None:
        """It has said something, which may be that it goes."""
        self._loop.remove_reader(stranger.connection.plain.fileno())
        stranger.task = self._loop.create_task(self._greet(stranger))

    # ── those who are not settled ─────────────────────────────────────────────────────────────────────────────────

    def forget(self, connection: TlsConnection) -> None:
        """It counts no longer."""
        stranger = self._strangers.pop(connection, None)
        if stranger is not None:
            group = self._of_group[stranger.group]
            del group[connection]
            if not group:
                del self._of_group[stranger.group]

    def _evict(self, stranger: _Stranger, why: str) -> None:
        """Ends a connection: at once, or, while a worker has it in hands, as soon as that is over."""
        connection = stranger.connection
        self.forget(connection)
        self.refused += 1
        self._complaints.warn(
            "tls", "Vnet %s closes a connection from %s: %s", self._host.config.name, connection.address, why
        )
        if stranger.handed:
            if connection.on_expired is not None:
                connection.on_expired()
            else:
                connection.close()
        elif stranger.task is None:
            self._loop.remove_reader(connection.plain.fileno())
            connection.plain.close()
        else:
            stranger.evicted = why
            stranger.wake.set()

    def _set_timer(self) -> None:
        if self._timer is None and self._strangers:
            self._timer = self._loop.call_at(next(iter(self._strangers)).deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._strangers:
            stranger = next(iter(self._strangers.values()))
            if stranger.connection.deadline > now:
                break
            seconds = self._host.config.attach_timeout
            self._evict(stranger, f"it was not settled within {seconds:g} s (setting attach_timeout)")
        self._set_timer()

    # ── the handshake ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _greet(self, stranger: _Stranger) -> None:
        connection = stranger.connection
        tls: TlsBatches | None = None
        try:
            context = await self._context()
            tls = TlsBatches(context, connection.plain, server_side=True)
            await handshake(tls, self._workers, self._loop, stranger.wake)
            if not stranger.evicted:
                self._hand_over(stranger, tls)
                return
        except Busy:
            self._drop(stranger, "too many handshakes at the same time")
        except TimeoutError:
            self._drop(stranger, "the Security Provider did not answer in time")
        except (OSError, ssl.SSLError) as error:
            self._drop(stranger, _reason(error))
        except Exception as error:
            self._drop(stranger, f"the Security Provider failed: {error!r}")
        with contextlib.suppress(OSError):
            (tls or connection.plain).close()

    async def _context(self) -> ssl.SSLContext:
        host = self._host
        context = await host.providers.call(host.provider.tls, TlsRole.LINK, timeout=host.config.provider_timeout)
        context.set_alpn_protocols(list(self._handlers))
        if not all(handler.needs_certificate for handler in self._handlers.values()):
            context.verify_mode = ssl.CERT_OPTIONAL  # one that is shown must be good all the same
        return context

    def _hand_over(self, stranger: _Stranger, tls: TlsBatches) -> None:
        connection = stranger.connection
        connection.socket = tls
        connection.alpn = tls.selected_alpn_protocol() or ""
        connection.certificate = tls.getpeercert(binary_form=True)
        connection.binding = tls_binding(tls)
        handler = self._handlers.get(connection.alpn)
        if handler is None:
            self._drop(stranger, "it asks for nothing that there is here (no ALPN in common)")
        elif handler.needs_certificate and connection.certificate is None:
            self._drop(stranger, "it shows no certificate")
        else:
            stranger.handed = True
            try:
                handler.accept(connection)
            except Exception:
                _log.exception("a connection of %s from %s failed", connection.alpn, connection.address)
                connection.close()
            return
        tls.close()

    def _drop(self, stranger: _Stranger, why: str) -> None:
        if stranger.connection in self._strangers:
            self.forget(stranger.connection)
            self.refused += 1
            name, address = self._host.config.name, stranger.connection.address
            self._complaints.warn("tls", "Vnet %s closes a connection from %s: %s", name, address, why)


async def handshake(tls: TlsBatches, workers: Workers, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The whole handshake of a non-blocking socket, either side; returns early, with it undone, when `stop` is set.

    Each step is made by a worker and waited for, whatever happens: a socket must not be closed under its hands. Raises
    what `do_handshake` does, and Busy.
    """
    while not stop.is_set():
        try:
            await workers.call(tls.do_handshake)
            return
        except ssl.SSLWantReadError:
            await _ready(tls.fileno(), loop.add_reader, loop.remove_reader, stop)
        except ssl.SSLWantWriteError:
            await _ready(tls.fileno(), loop.add_writer, loop.remove_writer, stop)


async def _ready(
    descriptor: int,
    add: Callable[[int, Callable[[], None]], None],
    remove: Callable[[int], bool],
    stop: asyncio.Event,
) -> None:
    """Returns when the descriptor is ready, or `stop` is set."""
    ready = asyncio.Event()
    add(descriptor, ready.set)
    waits = [asyncio.ensure_future(event.wait()) for event in (ready, stop)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        remove(descriptor)
        for wait in waits:
            wait.cancel()


def _resolve(text: str) -> list[tuple[socket.AddressFamily, int, int, str, tuple[str, int]]]:
    try:
        host, port = split_address(text)
        return socket.getaddrinfo(  # type: ignore[return-value]
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (ValueError, OSError) as error:
        raise TlsPortError(f"cannot listen at {text!r}: {getattr(error, 'strerror', None) or error}") from error


def _listen(text: str, family: int, place: tuple[str, int], *, only_v6: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_v6))
        listener.bind(place)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise TlsPortError(f"cannot listen at {text!r}: {error.strerror or error}") from error
    return listener


def _group(host: str) -> str:
    """Who shares a limit: an IPv4 address; the /64 of an IPv6 one, since a single machine has all of that."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS came about: {error.reason or error}"
    return error.strerror or os.strerror(error.errno or 0)


def spelled(address: tuple[str, int]) -> str:
    """ "host:port", as `split_address` reads it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
