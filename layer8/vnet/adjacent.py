"""An adjacent Vnet: its session, the present connection under it, and the plane that carries its records."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Protocol
from uuid import UUID

from layer8.health_record import LinkRecord
from layer8.health_record import State as HealthState
from layer8.protocol.link_messages import Disinterest, Forgot, Interest, Interests, Linked, LinkHello, body
from layer8.protocol.statement import Principal
from layer8.security.tls_batches import TlsBatches
from layer8.vnet.link_thread import LinkThread, Queues


class Plane(Protocol):
    """The switch's side of sessions; see layer8.vnet.far."""

    def make_queues(self) -> Queues:
        """For one connection. Raises OSError or MemoryError."""

    async def opened(self, adjacent: Adjacent) -> None:
        """A session begins."""

    async def up(self, adjacent: Adjacent, queues: Queues, restarted: bool) -> None:
        """Records may go over its connection."""

    def ready(self, adjacent: Adjacent) -> None:
        """It can be spoken to: say what it does not know yet."""

    async def down(self, adjacent: Adjacent, queues: Queues, was_up: bool) -> None:
        """The connection's thread has ended. Frees the queues."""

    async def over(self, adjacent: Adjacent, reason: str) -> None:
        """The session is given up: what is owed to it goes back."""

    def said(self, adjacent: Adjacent, message: Interest | Interests | Disinterest | Forgot) -> None:
        """Raises ProtocolViolation."""


class Connection:
    """One connection of a session. `ended`: its thread has let go of it."""

    def __init__(self, tls: TlsBatches, address: str, dialled: bool, loop: asyncio.AbstractEventLoop) -> None:
        self.tls = tls
        self.address = address
        self.dialled = dialled
        self.thread: LinkThread | None = None
        self.queues: Queues | None = None
        self.is_up = False  # records go over it
        self.ended: asyncio.Future[str] = loop.create_future()
        self.since = time.time()

    def end(self, reason: str, last: bytes = b"", *, read: bool = True) -> None:
        """`last`: what is still said; `read`: and shall be read, for which it may take a moment."""
        if self.thread is not None:
            self.thread.close(reason, last, linger=read and last != b"")


class Adjacent:
    """One session. `number`: of the switch's link. `connection`: the present one. `has_state`: its whole part of the
    directory has come, on this connection or an earlier one."""

    def __init__(self, vnet: UUID) -> None:
        self.vnet = vnet
        self.hello: LinkHello | None = None
        self.principal: Principal | None = None
        self.number = 0
        self.connection: Connection | None = None
        self.is_live = False
        self.is_over = False
        self.has_state = False
        self.restarted = False  # since records last went over a connection
        self.reason = ""
        self.since = time.time()
        self.repaired = 0.0
        self.counted = (0, 0, 0, 0)  # records and bytes in, records and bytes out, of earlier connections
        self.steps: asyncio.Task[None] | None = None  # the last one of the chain

    def figures(self) -> tuple[int, int, int, int]:
        """Records and bytes in, records and bytes out, of the whole session."""
        before, connection = self.counted, self.connection
        if connection is None or connection.queues is None or connection.thread is None:
            return before
        now, thread = connection.queues.counters(), connection.thread
        return (
            before[0] + now.records_in,
            before[1] + thread.bytes_in,
            before[2] + now.records_out,
            before[3] + thread.bytes_out,
        )

    def now(self) -> tuple[float, int]:
        """The round trip of the present connection, seconds, and the bytes that wait to be written to it."""
        connection = self.connection
        if connection is None or connection.queues is None:
            return 0.0, 0
        return round_trip(connection.tls.plain), connection.queues.counters().out_fill

    @property
    def name(self) -> str:
        """For a line of the log."""
        return f"{self.hello.name}@{self.hello.host}" if self.hello is not None else str(self.vnet)

    def record(self) -> LinkRecord:
        """For the health record of this Vnet."""
        connection, hello = self.connection, self.hello
        thread = connection.thread if connection is not None else None
        records_in, bytes_in, records_out, bytes_out = self.figures()
        trip, queued = self.now()
        return LinkRecord(
            vnet=self.vnet,
            name=hello.name if hello is not None else "",
            host=hello.host if hello is not None else "",
            address=connection.address if connection is not None else "",
            state=HealthState.UP if self.is_live else HealthState.SUSPECT,
            reason=self.reason,
            since=self.since,
            heard=time.time() - (time.monotonic() - thread.heard) if thread is not None else 0.0,
            round_trip=trip,
            queued=queued,
            messages_in=records_in,
            bytes_in=bytes_in,
            messages_out=records_out,
            bytes_out=bytes_out,
        )

    async def introduce(self, message: Linked) -> None:
        """`say`, as a step that follows others."""
        self.say(message)

    def say(self, message: Linked) -> None:
        """Sends, if there is a connection; what is not sent is made good when the next one begins."""
        if self.connection is not None and self.connection.thread is not None:
            self.connection.thread.send_control(body(message))


def round_trip(connection: socket.socket) -> float:
    """Of a TCP connection, seconds: tcpi_rtt of struct tcp_info in linux/tcp.h. 0 when it is not known."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 72)
    except OSError:  # closed meanwhile
        return 0.0
    return float(struct.unpack_from("=I", info, 68)[0]) / 1e6 if len(info) >= 72 else 0.0
