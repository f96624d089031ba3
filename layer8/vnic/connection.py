"""The control socket to a Vnet: whole messages out and in, with descriptors, never blocking for longer than asked.

Any thread may `send`; what the socket does not take at once is kept, in order, until somebody calls `flush`. One
thread receives: the Vnic's keeper, or during an attach whoever attaches.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path

from layer8.errors import Layer8Error
from layer8.protocol.codec import Decoder, Frame, ProtocolViolation, Unknown, encode
from layer8.protocol.control import FromVnet, Wire
from layer8.protocol.statement import Channel
from layer8.rendezvous import FarPlace
from layer8.security.provider import SecurityProvider
from layer8.vnic.far import FarCarrier

_READ_BYTES = 65536
_DESCRIPTORS = 4  # in one message, at most; the protocol has one
_UNSENT_BYTES = 1 << 20
_CREDENTIALS = struct.Struct("=iII")


class ConnectionLost(Layer8Error):
    """The control connection is over. `reason`: how that was noticed. Never leaves this package."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the connection to the Vnet is lost: {self.reason}"


class Connection:
    """One connected control socket. `descriptors`: received and not yet taken; whoever takes one closes it."""

    def __init__(self, sock: socket.socket, carrier: FarCarrier | None = None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._carrier = carrier
        self._decoder = Decoder(FromVnet)
        self._lock = threading.RLock()
        self._unsent = bytearray()
        self.descriptors: list[int] = []

    @classmethod
    def to(cls, path: Path, timeout: float) -> Connection:
        """Connects within `timeout` seconds. Raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(timeout)
            sock.connect(str(path))
            return cls(sock)
        except BaseException:
            sock.close()
            raise

    @classmethod
    def far(cls, place: FarPlace, provider: SecurityProvider, timeout: float) -> Connection:
        """To a Vnet on another host, within `timeout` seconds. Raises OSError."""
        carrier = FarCarrier(place, provider, timeout)
        connection = cls(carrier.local, carrier)
        try:
            carrier.wait(timeout)
            return connection
        except BaseException:
            connection.close()
            raise

    def expect_chime(self) -> None:
        """Who attaches here sleeps on a descriptor."""
        if self._carrier is not None:
            self._carrier.wants_chime = True

    def fileno(self) -> int:
        return self._socket.fileno()

    def seen(self) -> Channel:
        """What the kernel says of the other side, or TLS."""
        if self._carrier is not None:
            return self._carrier.channel
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(raw)
        return Channel(uid=uid, gid=gid, pid=pid, text=str(self._socket.getpeername()))

    def send(self, message: Wire, descriptors: Sequence[int] = ()) -> None:
        """Hands the message over or keeps it for `flush`. Raises ConnectionLost."""
        frame = encode(message)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        with self._lock:
            if self._unsent:
                if descriptors or len(self._unsent) + len(frame) > _UNSENT_BYTES:
                    raise ConnectionLost("the Vnet does not read what it is asked")
                self._unsent += frame
                return
            try:
                sent = self._socket.sendmsg([frame], rights, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if descriptors:
                    raise ConnectionLost("the Vnet does not read what it is asked") from None
                sent = 0
            except OSError as error:
                raise ConnectionLost(str(error)) from None
            self._unsent += frame[sent:]

    @property
    def unsent(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Sends on what was kept, as far as the socket takes it. Raises ConnectionLost."""
        with self._lock:
            try:
                while self._unsent:
                    del self._unsent[: self._socket.send(self._unsent, socket.MSG_NOSIGNAL)]
            except BlockingIOError:
                pass
            except OSError as error:
                raise ConnectionLost(str(error)) from None

    def receive(self) -> list[tuple[Wire | Unknown, Frame]]:
        """The messages that have come, none if nothing has. Raises ConnectionLost at the end or after a violation."""
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                _READ_BYTES, socket.CMSG_LEN(_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return []
        except OSError as error:
            raise ConnectionLost(str(error)) from None
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                self.descriptors.extend(received)
        if not data:
            raise ConnectionLost((self._carrier.why if self._carrier is not None else "") or "the Vnet has closed it")
        try:
            return self._decoder.feed_frames(data)
        except ProtocolViolation as violation:
            raise ConnectionLost(str(violation)) from None

    def wait(self, seconds: float, wake: int | None = None) -> None:
        """Until something has come, `wake` (a descriptor) is readable, or the time has passed; flushes meanwhile."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        if wake is not None:
            poll.register(wake, select.POLLIN)
        if any(events & select.POLLOUT for _, events in poll.poll(seconds * 1000)):
            self.flush()

    def hang_up(self) -> None:
        """Whoever receives notices the end. Any thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is over already

    def close(self) -> None:
        """Safe twice, and in a child made by fork: nothing is said to the other side."""
        self._socket.close()
        if self._carrier is not None:
            self._carrier.forked()
        while self.descriptors:
            os.close(self.descriptors.pop())
