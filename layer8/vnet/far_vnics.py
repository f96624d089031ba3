"""Vnics of other hosts: each has a carrier here, a thread that plays the Vnic to admission and switch.

    TLS port ──▶ carrier ── control socket ──▶ admission, session       (as of any Vnic)
                    └── mirror of its segment ──▶ switch

    accepted ──Begin──▶ begun ──(Attached passes)──▶ bound ──(cut)──▶ kept for `far_patience` ──▶ over
        └─ attach_timeout, pending_connections ─┘       ▲                │
                                                        └── Continue ────┘

The mirror is a file beside the list of ports, so what the switch has put into it outlives this process: the next Vnet
finds it there when the Vnic comes back, and carries on with what had not been carried.

What is asked of a stranger here is bounded in time, in number and in memory; who it is and what it may do, admission
asks the Security Provider, which sees the certificate of the connection and no uid.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from layer8.carrier import CarrierEnded, ConnectionCut, Pump, Traffic, first_message
from layer8.carrier.traffic import close_all
from layer8.dataplane import LAYOUT_VERSION, Mirror, MirrorCorrupt, make_mirror, segment_bytes
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.mirror import (
    MIRROR_VERSION,
    STALE,
    AnyMessage,
    Begin,
    Begun,
    Bound,
    Continue,
    Continued,
    End,
    Segment,
    encode,
)
from layer8.protocol.statement import Channel
from layer8.protocol.versions import difference
from layer8.security.tls_batches import TlsBatches
from layer8.version import VERSION
from layer8.vnet.accounts import Accounts
from layer8.vnet.complaints import Complaints
from layer8.vnet.config import VnetConfig
from layer8.vnet.roster import Roster
from layer8.vnet.tls_port import TlsConnection

_NAME_BYTES = 16
_SECRET_BYTES = 32
_STOP_SECONDS = 2.0

_log = logging.getLogger("layer8.vnet")


class Host(Protocol):
    """What the far Vnics need of their Vnet."""

    config: VnetConfig
    accounts: Accounts
    roster: Roster

    def far_speaks(self, connection: socket.socket, far: FarSession) -> None:
        """The control socket of a far Vnic, for an admission. The loop's thread."""


class FarSession:
    """One far Vnic, over as many connections as it takes: the Side of their pumps, one at a time.

    `account`: whose limits it counts for. `seen`: what a provider gets to see of it.
    """

    def __init__(self, vnics: FarVnics, account: str, connection: TlsConnection, local: socket.socket) -> None:
        self.account = account
        self.seen = Channel(certificate=connection.certificate, text=f"{account} at {connection.address}")
        self.name = secrets.token_bytes(_NAME_BYTES)
        self.secret = secrets.token_bytes(_SECRET_BYTES)
        self.traffic = Traffic(local)
        self.lock = threading.Lock()
        self.owner: object = None  # the thread that carries; under `lock`
        self.pump: Pump | None = None
        self.moved = threading.Event()  # it was taken over, or is over
        self.is_over = False
        self.given_up = 0.0  # when, unless another connection comes; monotonic seconds
        self.reserved = 0
        self._vnics = vnics
        self._segment: Segment | None = None
        self._file = -1  # for the Attach
        self._path: Path | None = None  # of a mirror that is not a port's yet
        self._doorbell = -1
        self._watch: select.epoll | None = None

    # ── for the admission, in the loop's thread ───────────────────────────────────────────────────────────────────

    def attached(self) -> None:
        """It is let in: the mirror becomes that of its port. Raises OSError."""
        path, self._path = self._path, None
        if path is not None and self._segment is not None:
            path.replace(self._vnics.host.roster.mirror(self._segment.uuid))
        self._vnics.settled(self)

    def is_cut(self) -> bool:
        """Whether it has no connection now, and is waited for."""
        return self.traffic.bound and self.pump is None

    # ── Side: what the pump asks for ──────────────────────────────────────────────────────────────────────────────

    def descriptors_came(self, descriptors: Sequence[int]) -> AnyMessage:
        """Doorbell and chime, behind the Attached."""
        segment, mirror = self._segment, self.traffic.mirror
        if len(descriptors) != 2 or segment is None or mirror is None or self.traffic.bound:
            close_all(descriptors)
            raise RuntimeError("a doorbell for no segment")
        self._doorbell = descriptors[0]
        self._watch = select.epoll.fromfd(descriptors[1])
        self.traffic.wake = descriptors[1]
        mirror.set_bell(self._doorbell)
        mirror.resume(segment.received, fresh=not segment.used)
        self.traffic.bound = True
        self._close_file()
        return Bound(received=mirror.place().received, fresh=not segment.used)

    def told(self, message: AnyMessage) -> AnyMessage | None:
        if not isinstance(message, Segment) or self._segment is not None:
            raise ProtocolViolation(f"{type(message).__name__} at the wrong time")
        if message.layout != LAYOUT_VERSION:
            text = difference("segment layout", LAYOUT_VERSION, message.layout, vnet_release=VERSION)
            raise CarrierEnded(text, "layout")
        self._segment = message
        if message.used:
            self._find_mirror(message)
        else:
            self._make_mirror(message)
        return None

    def descriptors_for_local(self) -> Sequence[int]:
        if self._file < 0:
            raise ProtocolViolation("descriptors without a segment")
        return (self._file,)

    def woken(self) -> None:
        assert self._watch is not None
        self._watch.poll(0)

    # ── the mirror ────────────────────────────────────────────────────────────────────────────────────────────────

    def _make_mirror(self, segment: Segment) -> None:
        size = segment_bytes(segment.ring_bytes)
        self._vnics.reserve(self, segment.ring_bytes, size)
        self._path = path = self._vnics.host.roster.mirror(segment.uuid).with_suffix(f".{self.name.hex()}.new")
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            make_mirror(self._file, segment.ring_bytes, segment.uuid)
            self.traffic.mirror = Mirror(self._file, at_vnet=True)
        except ValueError as error:
            raise CarrierEnded(str(error), "invalid") from None
        except OSError as error:
            raise CarrierEnded(
                f"this Vnet has no room for a segment of {size} bytes: {error.strerror}", "limit"
            ) from None

    def _find_mirror(self, segment: Segment) -> None:
        """The one that an earlier Vnet had of it. When there is none, or it does not fit, the attach is told so by a
        file that is no segment."""
        roster = self._vnics.host.roster
        if segment.uuid in roster.awaited:
            try:
                self._file = os.open(roster.mirror(segment.uuid), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                mirror = Mirror(self._file, at_vnet=True)
                place = mirror.place()
                if (place.uuid, place.ring_bytes) != (segment.uuid, segment.ring_bytes):
                    raise ValueError("it is of another segment")
                if not segment.head <= place.received <= segment.tail:
                    raise ValueError("it has what was never sent")
                mirror.resume(segment.received, fresh=False)
                self.traffic.mirror = mirror
                return
            except (OSError, ValueError, MirrorCorrupt) as error:
                _log.warning("the mirror of %s cannot be used: %s", segment.uuid, error)
                self._close_file()
        self._file = os.memfd_create("layer8-none", os.MFD_CLOEXEC)

    def goes_on(self, message: Continue) -> Continued:
        """A new connection, and nobody carries on another. Raises ProtocolViolation and MirrorCorrupt."""
        stream, mirror, segment = self.traffic.stream, self.traffic.mirror, message.segment
        stream.rewind(message.received)
        if not self.traffic.bound or mirror is None or segment is None:
            raise ProtocolViolation("it was not attached yet")
        bound = mirror.place().received
        if not segment.head <= bound <= segment.tail:
            raise ProtocolViolation("its segment is not what it was")
        mirror.resume(segment.received, fresh=False)
        return Continued(received=stream.received, bound=bound)

    def _close_file(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def close(self) -> None:
        """It is over: whoever has its control socket sees that end. By the thread that carried it last."""
        self.traffic.finish()
        self.traffic.close()
        self._close_file()
        if self._doorbell >= 0:
            os.close(self._doorbell)
        self._doorbell = -1
        if self._watch is not None:
            self._watch.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._path = None


class FarVnics:
    """The handler of ALPN_VNIC. `accept` and `close` in the loop's thread."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self.host = host
        self._loop = loop
        self._complaints = Complaints(_log, loop)
        self._lock = threading.Lock()
        self._sessions: dict[bytes, FarSession] = {}
        self._threads: set[threading.Thread] = set()
        self._pending: collections.Counter[str] = collections.Counter()  # connections that are not attached
        self._unsettled: set[FarSession] = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._sessions)

    def accept(self, connection: TlsConnection) -> None:
        """A connection after its handshake."""
        connection.settled()  # from here on it counts here
        account = account_of(connection.certificate)
        config = self.host.config
        with self._lock:
            full = (
                self._pending.total() >= config.pending_connections or self._pending[account] >= config.pending_per_uid
            )
            if not full and not self._stopped:
                self._pending[account] += 1
        if full or self._stopped:
            self._complain(f"{account} at {connection.address}: too many connections that are not attached")
            connection.close()
            return
        thread = threading.Thread(target=self._serve, args=(connection, account), name="layer8-far", daemon=True)
        self._threads.add(thread)
        thread.start()

    # ── one connection, in a thread of its own ────────────────────────────────────────────────────────────────────

    def _serve(self, connection: TlsConnection, account: str) -> None:
        session: FarSession | None = None
        tls = connection.socket
        counted = True
        try:
            deadline = time.monotonic() + self.host.config.attach_timeout
            message, came = first_message(tls, deadline, lambda: self._stopped)
            say: AnyMessage
            match message:
                case Begin(version=version) if version == MIRROR_VERSION:
                    session, say = self._begin(account, connection)
                    counted = False
                case Continue(version=version) if version == MIRROR_VERSION:
                    session, say = self._continue(account, message)
                case Begin(version=version) | Continue(version=version):
                    what = "protocol for Vnics of other hosts"
                    raise CarrierEnded(difference(what, MIRROR_VERSION, version, vnet_release=VERSION), "version")
                case _:
                    raise ProtocolViolation(f"{type(message).__name__} as the first message")
            if counted:  # a session that goes on; one that begins counts until it is attached
                self._uncount(account)
                counted = False
            self._carry(session, tls, came, say)
        except CarrierEnded as ended:
            if ended.code:
                _say_end(tls, ended)
            if ended.code not in ("", STALE):  # who comes back after this Vnet's death asks for a session that was
                self._complain(f"{account} at {connection.address} is refused: {ended.text}")
        except ConnectionCut as cut:
            _log.debug("the connection of %s at %s is cut: %s", account, connection.address, str(cut))
            if session is not None:
                self._close(connection)
                self._wait_for_another(session)
        except (ProtocolViolation, MirrorCorrupt) as violation:
            self._complain(f"{account} at {connection.address} said what cannot be: {violation}")
        except Exception:
            _log.exception("the carrier of a far Vnic failed")
        finally:
            if counted:
                self._uncount(account)
            if session is not None:
                self._leave(session)
            self._close(connection)
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _close(self, connection: TlsConnection) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(connection.close)

    def _begin(self, account: str, connection: TlsConnection) -> tuple[FarSession, Begun]:
        inner, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        session = FarSession(self, account, connection, inner)
        session.owner = threading.current_thread()
        with self._lock:
            self._sessions[session.name] = session
            self._unsettled.add(session)
        try:
            self._loop.call_soon_threadsafe(self.host.far_speaks, outer, session)
        except RuntimeError:
            outer.close()
        config = self.host.config
        return session, Begun(
            session=session.name, secret=session.secret, alive=config.far_alive, patience=config.far_patience
        )

    def _continue(self, account: str, message: Continue) -> tuple[FarSession, Continued]:
        with self._lock:
            session = self._sessions.get(message.session)
        if session is None or account != session.account or not hmac.compare_digest(message.secret, session.secret):
            raise CarrierEnded("this session is no more", STALE)
        with session.lock:
            if session.is_over:
                raise CarrierEnded("this session is no more", STALE)
            before, session.owner = session.owner, threading.current_thread()
            if session.pump is not None:
                session.pump.stop()
            session.moved.set()
        if isinstance(before, threading.Thread):
            before.join()
        session.moved = threading.Event()
        try:
            return session, session.goes_on(message)
        except BaseException:
            self._leave(session)
            raise

    def _carry(self, session: FarSession, tls: TlsBatches, came: bytes, say: AnyMessage) -> None:
        config = self.host.config
        pump = Pump(
            tls,
            session.traffic,
            session,
            alive=config.far_alive,
            patience=config.far_patience,
            came=came,
            say=[say],
        )
        with session.lock:
            if session.owner is not threading.current_thread():
                pump.close()
                raise ConnectionCut("another connection took its place")
            session.pump = pump
        if self._stopped:
            pump.stop()
        try:
            pump.run()
        finally:
            session.given_up = pump.keep_alive.given_up
            with session.lock:
                session.pump = None
            pump.close()

    def _wait_for_another(self, session: FarSession) -> None:
        """The Vnic may come back by another connection, until it has been silent for too long."""
        if session.traffic.bound and not self._stopped:
            session.moved.wait(max(0.0, session.given_up - time.monotonic()))

    def _leave(self, session: FarSession) -> None:
        """This thread no longer carries it; when no other does, it is over."""
        with session.lock:
            if session.owner is not threading.current_thread() or session.is_over:
                return
            session.is_over = True
        with self._lock:
            self._sessions.pop(session.name, None)
        self.settled(session)
        session.close()

    # ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────

    def reserve(self, session: FarSession, ring_bytes: int, size: int) -> None:
        """Memory for a segment that admission has not counted yet. Raises CarrierEnded."""
        config = self.host.config
        if not 0 < ring_bytes <= config.max_ring_bytes:
            raise CarrierEnded(f"a segment of {size} bytes is too large here (setting max_ring_bytes)", "limit")
        with self._lock:
            reserved = sum(other.reserved for other in self._unsettled if other.account == session.account)
            if self.host.accounts.of(session.account).bytes + reserved + size > config.bytes_per_uid:
                text = f"the segments of {session.account} are over the limit of {config.bytes_per_uid} bytes"
                raise CarrierEnded(f"{text} (setting bytes_per_uid)", "limit")
            session.reserved = size

    def settled(self, session: FarSession) -> None:
        """It is attached, or over. Safe twice, any thread."""
        with self._lock:
            if session not in self._unsettled:
                return
            self._unsettled.discard(session)
            session.reserved = 0
        self._uncount(session.account)

    def _uncount(self, account: str) -> None:
        with self._lock:
            self._pending[account] -= 1
            if self._pending[account] <= 0:
                del self._pending[account]

    def _complain(self, text: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._complaints.warn, "far", "far Vnic: %s", text)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def close(self) -> None:
        """The Vnet has stopped: all threads end. Safe twice."""
        with self._lock:
            self._stopped = True
            threads, sessions = list(self._threads), list(self._sessions.values())
        for session in sessions:
            with session.lock:
                if session.pump is not None:
                    session.pump.stop()
                session.moved.set()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))


def account_of(certificate: bytes | None) -> str:
    """Whose limits a connection counts for: the name in its certificate, which TLS has found good."""
    from cryptography import x509

    from layer8.security.certificates import leaf_identity

    if certificate is None:
        return "nobody"
    try:
        return leaf_identity(x509.load_der_x509_certificate(certificate)).uri
    except Exception:  # of another provider
        return f"certificate {hashlib.sha256(certificate).hexdigest()[:16]}"


def _say_end(tls: TlsBatches, ended: CarrierEnded) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        tls.send(encode(End(code=ended.code, text=ended.text[:500])))
