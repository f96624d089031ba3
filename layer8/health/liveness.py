"""Who is at the other end of a Unix socket, and when that process dies.

A closed socket does not mean death, nor an open one life: a forked child keeps it open. The pidfd does; it becomes
readable when the process ends. The kernel gives the right one by SO_PEERPIDFD (Linux 6.5). Before that there is only
pidfd_open(pid), and the pid may have been given to another process in between: it is believed once the peer has
answered something that was sent after the pidfd was there, for then it was alive, so the pid was still its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import struct
from typing import NamedTuple, Self

from layer8.health.process import parse_stat
from layer8.security.provider import Channel

SO_PEERPIDFD = 77
"""asm-generic/socket.h since Linux 6.5; Python's socket module does not name it."""

_UCRED = struct.Struct("3i")

# linux/pidfd.h: ioctl PIDFD_GET_INFO fills a struct pidfd_info; since Linux 6.15 also when the process was reaped.
_PIDFD_INFO = struct.Struct("=QQ11Ii")  # mask, cgroup, ids, exit code
_PIDFD_GET_INFO = 0xC000FF0B | _PIDFD_INFO.size << 16  # _IOWR(0xFF, 11, struct pidfd_info)
_PIDFD_INFO_EXIT = 1 << 3


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

    def __init__(self, sock: socket.socket | None) -> None:
        """None: a process on another host, of which nothing is to be seen. Raises ProcessLookupError when the peer has
        died already, OSError when descriptors are missing."""
        self._pidfd: int | None = None
        self.trusted = False
        self.pid = 0
        if sock is None:
            return
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

    def ending(self) -> str:
        """How a dead process ended, in words, as far as the kernel tells who is not its parent; else ""."""
        if not self.is_dead() or self._pidfd is None:
            return ""
        code = _reaped_code(self._pidfd)
        if code is None:
            code = _zombie_code(self.pid)
        if code is None:  # reaped in between
            code = _reaped_code(self._pidfd)
        return "" if code is None else ending_text(code)

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
            self.trusted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ending_text(code: int) -> str:
    """What a status as of waitpid says."""
    if os.WIFSIGNALED(code):
        number = os.WTERMSIG(code)
        try:
            return f"killed by signal {number} ({signal.Signals(number).name})"
        except ValueError:  # a real-time one
            return f"killed by signal {number}"
    return f"exited with status {os.WEXITSTATUS(code)}"


def _reaped_code(pidfd: int) -> int | None:
    info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask, *_, code = _PIDFD_INFO.unpack(info)
    return int(code) if mask & _PIDFD_INFO_EXIT else None


def _zombie_code(pid: int) -> int | None:
    """Of a process that ended and was not reaped; its pid is still its own."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = parse_stat(file.read(1024))
    except (OSError, ValueError, IndexError):
        return None
    return stat.exit_code if stat.is_dead else None


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
