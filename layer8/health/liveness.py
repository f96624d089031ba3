"""Who is at the other end of a Unix socket, and when that process dies.

A closed socket does not mean death, nor an open one life: a forked child keeps it open. The pidfd does; it becomes
readable when the process ends. The kernel gives the right one by SO_PEERPIDFD (Linux 6.5). Before that there is only
pidfd_open(pid), and the pid may have been given to another process in between: it is believed once the peer has
answered something that was sent after the pidfd was there, for then it was alive, so the pid was still its own.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from typing import NamedTuple, Self

from layer8.security.provider import Channel

SO_PEERPIDFD = 77
"""asm-generic/socket.h since Linux 6.5; Python's socket module does not name it."""

_UCRED = struct.Struct("3i")


class Credentials(NamedTuple):
    """What the kernel noted when the peer called connect or listen. `pid` 0: of another pid namespace."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> Credentials:
    """SO_PEERCRED of a connected Unix socket. Raises OSError for another kind of socket."""
    return Credentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def channel(sock: socket.socket, text: str = "") -> Channel:
    """What a Security Provider gets to see of the peer of a Unix socket. `text`: where it is, for people."""
    pid, uid, gid = peer_credentials(sock)
    return Channel(uid=uid, gid=gid, pid=pid, text=text or f"pid {pid} of uid {uid}")


class PeerProcess:
    """The process at the other end. Has a `fileno()` that becomes readable when it dies, for select or a loop.

    `pid`: 0 when it cannot be known. `trusted`: whether `fileno()` surely speaks of the peer; see `confirm`.
    Close it when the connection is over. Any thread may call; close once nobody else does.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Raises ProcessLookupError when the peer has died already, OSError when descriptors are missing."""
        self.pid = peer_credentials(sock).pid
        self._pidfd, self.trusted = _open_pidfd(sock, self.pid)

    @property
    def is_watched(self) -> bool:
        """Whether there is a pidfd. Without one (another pid namespace, an old kernel) only the socket tells."""
        return self._pidfd is not None

    def fileno(self) -> int:
        """Raises ValueError when there is none: ask `is_watched` first."""
        if self._pidfd is None:
            raise ValueError("this peer cannot be watched: only its socket tells")
        return self._pidfd

    def confirm(self) -> None:
        """The peer has answered something that was sent after this object was made."""
        self.trusted = self._pidfd is not None

    def is_dead(self) -> bool:
        """Whether it surely has died. Does not wait. False while there is no trusted pidfd."""
        if self._pidfd is None or not self.trusted:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
            self.trusted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_pidfd(sock: socket.socket, pid: int) -> tuple[int | None, bool]:
    """A pidfd of the peer and whether it is surely the peer's."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD), True
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL) and pid > 0:
            raise ProcessLookupError(errno.ESRCH, f"process {pid} at the other end has died") from None
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
    if pid <= 0:
        return None, False
    try:
        return os.pidfd_open(pid), False
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
            return None, False
        raise  # ProcessLookupError: it has died
