"""What `layer8 bench` measures: two processes on two Vnets of this machine, beside two that speak TLS with each other.

Every figure comes from two fresh processes, one after the other in one run, so that ratios mean something where
absolute figures do not. Over loopback: two Vnets, a sender and a receiver share the cores that raw TLS has for two.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from layer8.bench import nats_pair
from layer8.bench.pace import PATIENCE, paced
from layer8.errors import Layer8Error
from layer8.testing import make_overlay, running_vnet
from layer8.vnet.status import StatusReader

SMALL, BULK = 64, 64 << 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one carrier. `round_trip`: seconds, median; `rate`: small messages a second; `bulk`: bytes a second."""

    carrier: str
    round_trip: float
    rate: float
    bulk: float


def measure(hosts: int, seconds: float, tell: Callable[[str], None]) -> list[Figures]:
    """`hosts`: 1 or 2. `tell` is given a line at each step."""
    found = []
    with tempfile.TemporaryDirectory(prefix="layer8-bench-") as directory, ExitStack() as stack:
        overlay = make_overlay(directory, "bench")
        security = f"x509:{overlay.vnic('bench')}"
        sockets: list[str] = []
        reach: list[str] = []
        for name in ("one", "two")[:hosts]:
            config: dict[str, object] = {"security": "x509", "identity": overlay.vnet(name), "host": name}
            if hosts > 1:
                config |= {"listen": "127.0.0.1:0", "peers": list(reach)}
            vnet = stack.enter_context(running_vnet(config=config))
            sockets.append(str(vnet.socket))
            with StatusReader(vnet.socket) as reader:
                reach += reader.snapshot().listen
        ends = (sockets[0], sockets[-1], security)
        tell(f"layer8, {hosts} Vnet{'s' if hosts > 1 else ''}")
        found.append(_measure(f"layer8, {hosts} host{'s' if hosts > 1 else ''}", _Layer8(*ends), seconds))
        if hosts > 1:
            tell("layer8, 1 Vnet")
            found.append(_measure("layer8, 1 host", _Layer8(sockets[0], sockets[0], security), seconds))
            tell("raw TLS")
            tls = _Tls(overlay.vnet("one"), overlay.vnet("two"))
            found.append(_measure("raw TLS (Python's ssl)", tls, seconds))
            if nats_pair.is_installed():
                tell("NATS, 2 servers")
                nats = stack.enter_context(nats_pair.servers())
                found.append(_measure("NATS, 2 servers, no TLS", nats, seconds))
    return found


def _measure(carrier: str, ends: _Layer8 | _Tls | nats_pair.Nats, seconds: float) -> Figures:
    return Figures(
        carrier=carrier,
        round_trip=_run(ends, "echo", SMALL, seconds),
        rate=_run(ends, "sink", SMALL, seconds),
        bulk=_run(ends, "sink", BULK, seconds) * BULK,
    )


def _run(ends: _Layer8 | _Tls | nats_pair.Nats, what: str, size: int, seconds: float) -> float:
    """Two processes: one that answers or counts, one that drives; the figure."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:

        def start(work: Callable[..., None], *arguments: object) -> Connection:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(ends, theirs, *arguments), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join, 10)
            stack.callback(process.terminate)
            stack.callback(ours.close)
            return ours

        far = start(type(ends).far, what, size)
        where = _hear(far)
        near = start(type(ends).near, what, size, seconds, where)
        figure = _hear(near)
        return float(_hear(far) if what == "sink" else figure)


def _hear(connection: Connection) -> Any:
    if not connection.poll(PATIENCE):
        raise Layer8Error("a process of the benchmark says nothing")
    try:
        return connection.recv()
    except EOFError:
        raise Layer8Error("a process of the benchmark has failed") from None


@dataclasses.dataclass(frozen=True, slots=True)
class _Layer8:
    near_socket: str
    far_socket: str
    security: str

    def far(self, talk: Connection, what: str, size: int) -> None:
        from layer8 import Vnic

        os.environ["LAYER8_VNET"] = self.far_socket  # what stands there would be looked at in place of it
        with Vnic("far", vnet=self.far_socket, security=self.security, attach_timeout=PATIENCE) as vnic:
            talk.send(str(vnic.uuid))
            if what == "echo":
                with suppress(Exception):
                    while True:
                        message = vnic.receive()
                        vnic.send(message.source, message.payload)
                return
            talk.send(_rate(_counts(vnic)))
            with suppress(EOFError):
                talk.recv()

    def near(self, talk: Connection, what: str, size: int, seconds: float, where: str) -> None:
        from uuid import UUID

        from layer8 import Vnic

        payload = os.urandom(size)
        os.environ["LAYER8_VNET"] = self.near_socket
        with Vnic(vnet=self.near_socket, security=self.security, attach_timeout=PATIENCE, timeout=PATIENCE) as vnic:
            to = UUID(where)
            vnic.find(to, timeout=PATIENCE)
            if what == "echo":
                trips = []
                for counts in paced(seconds):
                    start = time.perf_counter()
                    vnic.send(to, payload)
                    vnic.receive(timeout=PATIENCE)
                    if counts:
                        trips.append(time.perf_counter() - start)
                talk.send(statistics.median(trips))
            else:
                for _ in paced(seconds):
                    for _ in range(64):
                        vnic.send(to, payload)
                vnic.send(to, b"", timeout=PATIENCE)
                talk.send(0.0)
            with suppress(EOFError):
                talk.recv()


def _counts(vnic: Any) -> Iterator[int]:
    """How many have come, a batch at a time, until the empty one."""
    while True:
        messages = vnic.receive_many(timeout=PATIENCE)
        yield len(messages)
        if not messages[-1].payload:
            return


def _rate(counts: Iterator[int]) -> float:
    """A second, between the first batch and the last."""
    next(counts)
    begun, total = time.perf_counter(), 0
    for count in counts:
        total += count
    return total / max(time.perf_counter() - begun, 1e-9)


@dataclasses.dataclass(frozen=True, slots=True)
class _Tls:
    """One message is one `sendall`; what is read is counted in bytes."""

    near_identity: str
    far_identity: str

    def far(self, talk: Connection, what: str, size: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            talk.send(listener.getsockname())
            plain, _ = listener.accept()
        with _speaking(plain, self.far_identity, serves=True) as tls:
            if what == "echo":
                with suppress(EOFError, OSError):
                    while True:
                        tls.sendall(_exactly(tls, size))
                return
            buffer = bytearray(256 << 10)
            talk.send(_rate(iter(lambda: tls.recv_into(buffer), 0)) / size)
            with suppress(EOFError):
                talk.recv()

    def near(self, talk: Connection, what: str, size: int, seconds: float, where: tuple[str, int]) -> None:
        payload = os.urandom(size)
        plain = socket.create_connection(where, PATIENCE)
        with _speaking(plain, self.near_identity, serves=False) as tls:
            if what == "echo":
                trips = []
                for counts in paced(seconds):
                    start = time.perf_counter()
                    tls.sendall(payload)
                    _exactly(tls, size)
                    if counts:
                        trips.append(time.perf_counter() - start)
                talk.send(statistics.median(trips))
            else:
                for _ in paced(seconds):
                    for _ in range(64):
                        tls.sendall(payload)
                tls.shutdown(socket.SHUT_WR)
                talk.send(0.0)
                with suppress(EOFError):
                    talk.recv()


def _exactly(tls: ssl.SSLSocket, size: int) -> bytes:
    data = tls.recv(size)
    while len(data) < size:
        more = tls.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


@contextmanager
def _speaking(plain: socket.socket, identity: str, *, serves: bool) -> Iterator[ssl.SSLSocket]:
    from layer8.security.provider import TlsRole
    from layer8.security.x509 import X509Provider

    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context = X509Provider(Path(identity)).tls(TlsRole.LINK if serves else TlsRole.DIAL)
    with plain, context.wrap_socket(plain, server_side=serves) as tls:
        tls.settimeout(PATIENCE)
        yield tls
