"""TLS over a connected socket in whole batches: one system call carries many TLS records.

`ssl.SSLSocket` makes a system call for each record that it writes (16 KiB) and two for each that it reads, and every
write wakes the other end. Here OpenSSL works on memory, and what it has made goes out at once:

    send ──▶ SSL ──▶ memory ──▶ one send           recv_into ◀── SSL ◀── memory ◀── one recv

The methods are those of a socket of `ssl`, for the same use: SSLWantReadError and SSLWantWriteError where the socket is
non-blocking, and a `send` that was not finished is called again with the same data. One thread at a time.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any, Self

_READ_BYTES = 144 << 10  # a system call
_WRITE_BYTES = 256 << 10  # encrypted at a time


class TlsBatches:
    """Takes `plain` over; `close` closes it. The handshake is the caller's to do."""

    def __init__(self, context: ssl.SSLContext, plain: socket.socket, *, server_side: bool = False) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._raw = memoryview(bytearray(_READ_BYTES))
        self._unsent = memoryview(b"")  # encrypted, and not taken by the socket
        self._owed = 0  # the caller's bytes that stand in it and were not called sent

    def do_handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._pull()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # why
                raise
            else:
                self._flush()
                return

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def pending(self) -> int:
        """Bytes that are here, the beginnings of TLS records too. While it is 0, the socket's poll tells."""
        return self._tls.pending() + self._incoming.pending

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        """What is there, of many TLS records; 0: the end. Waits, if the socket does, for the first."""
        view = memoryview(buffer)
        done, size = 0, len(view)
        while done < size:
            if not self.pending():
                if done:
                    break
                self._pull()
            try:
                count = self._tls.read(size - done, view[done:])
            except ssl.SSLWantReadError:
                if done:
                    break
                self._answer()
                self._pull()
                continue
            except ssl.SSLError as error:
                if done or isinstance(error, ssl.SSLEOFError):
                    break
                raise
            if not count:
                break
            done += int(count)
        return done

    def recv(self, size: int) -> bytes:
        while True:
            if not self.pending():
                self._pull()
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._answer()
                self._pull()
            except ssl.SSLEOFError:
                return b""

    def _pull(self) -> None:
        try:
            count = self._plain.recv_into(self._raw)
        except BlockingIOError:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "nothing more has come") from None
        if count:
            self._incoming.write(self._raw[:count])
        else:
            self._incoming.write_eof()

    def _answer(self) -> None:
        """What TLS itself has to say; if it does not go now, it goes with the next."""
        if self._outgoing.pending:
            with contextlib.suppress(ssl.SSLWantWriteError):
                self._flush()

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, data: bytes | memoryview) -> int:
        if not self._owed:
            self._owed = self._tls.write(data if len(data) <= _WRITE_BYTES else memoryview(data)[:_WRITE_BYTES])
        self._flush()
        sent, self._owed = self._owed, 0
        return sent

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self.send(left) :]

    def _flush(self) -> None:
        if self._outgoing.pending:
            made = self._outgoing.read()
            self._unsent = memoryview(bytes(self._unsent) + made if self._unsent else made)
        while self._unsent:
            try:
                count = self._plain.send(self._unsent)
            except BlockingIOError:
                raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "the socket is full") from None
            self._unsent = self._unsent[count:]

    # ── the connection ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def plain(self) -> socket.socket:
        """What goes over it is none of TLS."""
        return self._plain

    def fileno(self) -> int:
        return self._plain.fileno()

    def close(self) -> None:
        """Says nothing more. Safe twice."""
        self._plain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *about: object) -> None:
        self.close()

    def setblocking(self, flag: bool) -> None:
        self._plain.setblocking(flag)

    def settimeout(self, seconds: float | None) -> None:
        self._plain.settimeout(seconds)

    def getpeercert(self, binary_form: bool = False) -> Any:
        return self._tls.getpeercert(binary_form)

    def selected_alpn_protocol(self) -> str | None:
        return self._tls.selected_alpn_protocol()

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        return self._tls.get_channel_binding(cb_type)
