"""The authority on a port of its own: TLS connections to a `Registrar` each, with limits on everything.

    service = EnrolmentService(["0.0.0.0:7443", "/run/layer8/default.join"], Door(Authority(path)))

An address is HOST:PORT, or the path of a Unix socket. A `Door` answers one connection; `answer_secured` is for those of
a port that serves other things too (ALPN). A `Passage` passes a connection on, as it is, to where the authority can be
reached.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import ssl
import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from layer8.rendezvous import split_address
from layer8.security import certificates
from layer8.security.authority import Authority
from layer8.security.binding import tls_binding
from layer8.security.enrolment import ALPN, Registrar, Seal, Told
from layer8.security.tls_batches import TlsBatches

PATIENCE = 5.0  # seconds for a whole exchange
AT_ONCE = 16
_PASSED_BYTES = 4 << 20

_logger = logging.getLogger("layer8.security")


class Answering(Protocol):
    """What becomes of a connection. It owns it."""

    def answer(self, connection: socket.socket, patience: float = PATIENCE) -> None: ...


class Door:
    """Answers for the authority in a directory. Any thread."""

    def __init__(self, authority: Authority, told: Told = lambda *_: None) -> None:
        self._authority = authority
        self._told = told
        self._lock = threading.Lock()
        self._seal: Seal | None = None

    def answer(self, connection: socket.socket, patience: float = PATIENCE) -> None:
        """One exchange, in this thread. Never raises for what the other side does."""
        deadline = time.monotonic() + patience
        try:
            with connection:
                connection.settimeout(patience)
                context = _context(self._authority, self._fresh_seal(), time.time())
                with TlsBatches(context, connection, server_side=True) as secured:
                    secured.do_handshake()
                    self._exchange(secured, deadline)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            _logger.debug("an enrolment came to nothing: %s", error)

    def answer_secured(self, secured: TlsBatches, patience: float = PATIENCE) -> None:
        """As `answer`, after the handshake. Closes it."""
        deadline = time.monotonic() + patience
        try:
            with secured:
                secured.settimeout(patience)
                self._exchange(secured, deadline)
        except (OSError, ValueError) as error:
            _logger.debug("an enrolment came to nothing: %s", error)

    def _exchange(self, secured: TlsBatches, deadline: float) -> None:
        peer = secured.getpeercert(binary_form=True)
        registrar = Registrar(self._authority, self._fresh_seal(), tls_binding(secured), peer, self._told)
        secured.sendall(registrar.greeting())
        while not registrar.done:
            secured.settimeout(max(0.01, deadline - time.monotonic()))
            data = secured.recv(16384)
            if not data or time.monotonic() > deadline:
                return
            answer = registrar.receive(data, time.time())
            if answer:
                secured.settimeout(max(0.5, deadline - time.monotonic()))
                secured.sendall(answer)

    def _fresh_seal(self) -> Seal:
        now = time.time()
        with self._lock:
            if self._seal is None or not self._seal.is_fresh(self._authority, now):
                self._seal = Seal(self._authority, now)
            return self._seal


class Passage:
    """Passes connections on to an authority elsewhere; what goes through is TLS between the two ends."""

    def __init__(self, address: str) -> None:
        self._address = address

    def answer(self, connection: socket.socket, patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        try:
            with connection, connect(self._address, patience) as onward:
                _pass(connection, onward, deadline)
        except OSError as error:
            _logger.warning("the authority at %s cannot be reached: %s", self._address, error)


def _pass(one: socket.socket, other: socket.socket, deadline: float) -> None:
    poll = select.poll()
    ends = {one.fileno(): (one, other), other.fileno(): (other, one)}
    for number, (end, to) in ends.items():
        poll.register(number, select.POLLIN)
        end.settimeout(PATIENCE)
        to.settimeout(PATIENCE)
    passed = 0
    while (left := deadline - time.monotonic()) > 0 and passed < _PASSED_BYTES:
        for number, _ in poll.poll(left * 1000):
            end, to = ends[number]
            data = end.recv(16384)
            if not data:
                return
            to.sendall(data)
            passed += len(data)


class EnrolmentService:
    """Listens at `addresses` until `close`. Raises OSError when one of them cannot be had."""

    def __init__(self, addresses: Sequence[str], door: Answering) -> None:
        self._door = door
        self._stopped = threading.Event()
        self._room = threading.BoundedSemaphore(AT_ONCE)
        self._listeners: list[tuple[socket.socket, Path | None]] = []
        try:
            for address in addresses:
                self._listeners.append(_listen(address))
        except BaseException:
            self.close()
            raise
        self._threads = [
            threading.Thread(target=self._accept, args=(listener,), name="layer8-enrolment", daemon=True)
            for listener, _ in self._listeners
        ]
        for thread in self._threads:
            thread.start()

    @property
    def addresses(self) -> list[str]:
        """Where it listens, with the ports that were chosen for port 0."""
        found = []
        for listener, path in self._listeners:
            host, port = ("", 0) if path is not None else listener.getsockname()[:2]
            found.append(str(path) if path is not None else f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return found

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                if self._stopped.wait(0.2):
                    return
                continue
            if not self._room.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._answer, args=(connection,), name="layer8-enrolment-1", daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            self._door.answer(connection)
        except Exception:
            _logger.exception("an enrolment failed")
        finally:
            self._room.release()

    def close(self) -> None:
        """Safe twice."""
        self._stopped.set()
        for listener, path in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
            listener.close()
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink()
        self._listeners.clear()


def _listen(address: str) -> tuple[socket.socket, Path | None]:
    if not address.startswith("/"):
        host, port = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=64), None
    path = Path(address)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(address)
        os.chmod(path, 0o666)  # the token says who may have something
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener, path


def connect(address: str, timeout: float) -> socket.socket:
    """Raises OSError or ValueError."""
    if not address.startswith("/"):
        return socket.create_connection(split_address(address), timeout)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _context(authority: Authority, seal: Seal, now: float) -> ssl.SSLContext:
    """A member may show its certificate, a newcomer has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.set_alpn_protocols([ALPN])
    context.verify_mode = ssl.CERT_OPTIONAL
    for root in authority.trust().believed(now):
        context.load_verify_locations(cadata=certificates.to_der(root))
    load_pair(context, certificates.key_to_pem(seal.key) + seal.leaf)
    return context


def load_pair(context: ssl.SSLContext, pem: bytes) -> None:
    """A key and its certificate into a context, without a file that has a name."""
    memory = os.memfd_create("layer8-leaf", os.MFD_CLOEXEC)
    try:
        os.write(memory, pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
