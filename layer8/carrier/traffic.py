"""What of a carrier outlives its connections: the control socket, what was said on it, and the mirror."""

from __future__ import annotations

import os
import select
import socket
import time
from array import array
from collections.abc import Sequence

from layer8.dataplane import Mirror
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.mirror import SocketStream

_READ_BYTES = 32 << 10
_DESCRIPTORS = 4
_UNREAD_BYTES = 1 << 20
_FINISH_SECONDS = 1.0


class LocalEnded(Exception):
    """The control socket was closed by its other side."""


class Traffic:
    """Owns `local`, this carrier's end of the control socket, and `mirror`. One thread at a time.

    `wake`: becomes readable when the mirror is to look, -1 without one. `bound`: rings are carried from now on.
    """

    def __init__(self, local: socket.socket) -> None:
        local.setblocking(False)
        self.local = local
        self.stream = SocketStream()
        self.mirror: Mirror | None = None
        self.wake = -1
        self.bound = False
        self.local_ended = False
        self._unread: list[tuple[bytes, Sequence[int]]] = []  # what the control socket did not take yet
        self._unread_bytes = 0

    def read_local(self) -> tuple[bytes, list[int]]:
        """What was said on the control socket, and the descriptors that came with it, which are the caller's to close.
        Raises LocalEnded and BlockingIOError."""
        try:
            data, ancillary, _, _ = self.local.recvmsg(
                _READ_BYTES, socket.CMSG_LEN(_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            raise BlockingIOError from None
        except OSError:
            raise LocalEnded from None
        descriptors = array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        if not data:
            raise LocalEnded
        return data, list(descriptors)

    def write_local(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Says it on the control socket, or keeps it until `flush_local`. Descriptors must stay open until it was said.
        Raises LocalEnded, and ProtocolViolation when nobody reads there."""
        self._unread.append((data, descriptors))
        self._unread_bytes += len(data)
        if self._unread_bytes > _UNREAD_BYTES:
            raise ProtocolViolation("the control socket is not read")
        self.flush_local()

    @property
    def is_unread(self) -> bool:
        return bool(self._unread)

    def flush_local(self) -> None:
        """Raises LocalEnded."""
        while self._unread:
            data, descriptors = self._unread[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
            try:
                sent = self.local.sendmsg([data], rights, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._unread.clear()
                raise LocalEnded from None
            self._unread_bytes -= sent
            if sent == len(data):
                del self._unread[0]
            else:
                self._unread[0] = data[sent:], ()

    def finish(self) -> None:
        """What the control socket has not taken yet gets a moment more."""
        deadline = time.monotonic() + _FINISH_SECONDS
        try:
            while self._unread and (left := deadline - time.monotonic()) > 0:
                poll = select.poll()
                poll.register(self.local, select.POLLOUT)
                poll.poll(left * 1000)
                self.flush_local()
        except (LocalEnded, OSError, ValueError):
            pass  # nobody is there any more

    def close(self) -> None:
        """Safe twice. Whoever has the other end of the control socket sees it end."""
        self.local.close()
        if self.mirror is not None:
            self.mirror.close()
            self.mirror = None


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
