"""One control connection: messages and descriptors in and out of a Unix socket, bounded on both sides.

asyncio has no transport that passes descriptors, so this speaks to the loop directly. What the peer sends is bounded
by the decoder, what it does not read by `WRITE_BYTES`: from `READ_PAUSE_BYTES` of unread answers on it is no longer
listened to, so only events can reach the bound. A descriptor that nobody asked for is closed and ends the connection.

Everything runs in the loop's thread. `ended` comes exactly once, for whatever reason, and nothing comes after it.
"""

from __future__ import annotations

import array
import asyncio
import collections
import os
import socket
from collections.abc import Sequence
from typing import Protocol

from layer8.protocol.codec import UNPROVEN_BYTES, Decoder, Frame, ProtocolViolation, Unknown, encode
from layer8.protocol.control import FromVnic, Wire

READ_BYTES = 16 << 10
READ_PAUSE_BYTES = 64 << 10
WRITE_BYTES = 1 << 20
FLUSH_SECONDS = 1.0

_DESCRIPTORS = 4  # that are looked at; the kernel closes what finds no room
_ANCILLARY_BYTES = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)


class Peer(Protocol):
    """Whoever a stream belongs to at the moment."""

    def received(self, message: Wire | Unknown, frame: Frame) -> None:
        """A message has come."""

    def violated(self, reason: str) -> None:
        """The peer broke the protocol; nothing more will be read. Answer if there is something to say, and close."""

    def ended(self, reason: str) -> None:
        """The connection is no more."""


class ControlStream:
    """Owns the socket. `descriptor`: the one that came and was not yet taken, -1 without. `descriptor_lost`: one was
    sent, and this process had no room for it."""

    def __init__(self, connection: socket.socket, loop: asyncio.AbstractEventLoop, peer: Peer) -> None:
        self.peer = peer
        self.decoder = Decoder(FromVnic, UNPROVEN_BYTES)
        self.descriptor = -1
        self.descriptor_lost = False
        self.expects_descriptor = False
        self._connection = connection
        self._loop = loop
        self._fd = connection.fileno()
        self._outgoing: collections.deque[tuple[memoryview, Sequence[int]]] = collections.deque()
        self._backlog = 0
        self._holds = 0  # reasons of the peer not to read
        self._reading = False
        self._writing = False
        self._finishing: asyncio.TimerHandle | None = None
        self._violated = False
        self.closed = False
        self._set_reading()

    @property
    def is_open(self) -> bool:
        """Whether anything can still be sent."""
        return not self.closed and self._finishing is None

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def hold(self) -> None:
        """Stop reading until `release`; counted."""
        self._holds += 1
        self._set_reading()

    def release(self) -> None:
        self._holds -= 1
        self._set_reading()

    def take_descriptor(self) -> int:
        """The descriptor that came, or -1; whoever takes it closes it."""
        descriptor, self.descriptor = self.descriptor, -1
        return descriptor

    def _set_reading(self) -> None:
        wanted = not (
            self.closed or self._violated or self._finishing or self._holds or self._backlog > READ_PAUSE_BYTES
        )
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._connection.recvmsg(READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"reading failed: {error.strerror}")
            return
        if not self._keep_descriptor(ancillary, bool(flags & socket.MSG_CTRUNC)):
            self._violation("descriptors that nobody asked for")
            return
        if not data:
            self.close("closed in the middle of a message" if self.decoder.pending else "closed by the other side")
            return
        try:
            messages = self.decoder.feed_frames(data)
        except ProtocolViolation as violation:
            self._violation(violation.reason)
            return
        for message, frame in messages:
            if not self.is_open:
                break
            self.peer.received(message, frame)

    def _keep_descriptor(self, ancillary: list[tuple[int, int, bytes]], truncated: bool) -> bool:
        """Keeps the one descriptor that is expected, closes all others; False when there were others."""
        came = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                came.frombytes(data[: len(data) - len(data) % came.itemsize])
        if truncated and not came:
            self.descriptor_lost = True  # the table of descriptors is full
        elif len(came) == 1 and self.expects_descriptor and self.descriptor < 0 and not truncated:
            self.descriptor = came[0]
        elif came:
            for descriptor in came:
                os.close(descriptor)
            return False
        return True

    def _violation(self, reason: str) -> None:
        self._violated = True
        self._set_reading()
        self.peer.violated(reason)

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, message: Wire, descriptors: Sequence[int] = ()) -> None:
        """Sends, or keeps until the peer reads. `descriptors` go with it and must stay open until `ended` or sent."""
        if not self.is_open:
            return
        data = memoryview(encode(message))
        if self._backlog + len(data) > WRITE_BYTES:
            self.close(f"it left {self._backlog} bytes of answers and events unread")
            return
        self._outgoing.append((data, descriptors))
        self._backlog += len(data)
        if self._writing:
            self._set_reading()
        else:
            self._writable()

    def _writable(self) -> None:
        try:
            while self._outgoing:
                data, descriptors = self._outgoing[0]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
                sent = self._connection.sendmsg([data], rights, socket.MSG_NOSIGNAL)
                self._backlog -= sent
                if sent == len(data):
                    self._outgoing.popleft()
                else:
                    self._outgoing[0] = data[sent:], ()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.close(f"writing failed: {error.strerror}")
            return
        if bool(self._outgoing) != self._writing:
            self._writing = bool(self._outgoing)
            if self._writing:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)
        if self._finishing and not self._outgoing:
            self.close("closed here")
            return
        self._set_reading()

    # ── end ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def finish(self, message: Wire | None = None) -> None:
        """Sends a last message and closes when the peer has read, or FLUSH_SECONDS later."""
        if message is not None:
            self.send(message)
        if not self.is_open:
            return
        self._finishing = self._loop.call_later(FLUSH_SECONDS, self.close, "closed here; the end was not read")
        self._set_reading()
        if not self._outgoing:
            self.close("closed here")

    def close(self, reason: str) -> None:
        """Closes at once. Safe twice."""
        if self.closed:
            return
        self.closed = True
        if self._finishing is not None:
            self._finishing.cancel()
        self._set_reading()
        if self._writing:
            self._loop.remove_writer(self._fd)
        if self.descriptor >= 0:
            os.close(self.take_descriptor())
        self._outgoing.clear()
        self._connection.close()
        self.peer.ended(reason)
