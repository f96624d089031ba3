"""Where one Vnet lives in the file system: the lock that proves it runs, and the socket it listens on.

The lock, not the socket, says that a Vnet runs: the kernel drops it with the process, so after a crash the next Vnet
gets it and replaces the socket that was left behind. The order is directory (0700), lock, socket (0600 from its first
moment), and the reverse at the end. Only where the configuration admits others than this user is the directory 0755 and
the socket 0666: who may attach is then for the proofs to say.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from layer8.errors import Layer8Error
from layer8.rendezvous import check_socket_path, ensure_private_directory, lock_file

_BACKLOG = 4096

_log = logging.getLogger("layer8.vnet")


class AlreadyRunning(Layer8Error):
    """Another process holds the lock of this Vnet. `pid`: who, as it says itself; 0 when it has not said yet."""

    def __init__(self, name: str, pid: int, path: str) -> None:
        super().__init__(name, pid, path)
        self.name = name
        self.pid = pid
        self.path = path

    def __str__(self) -> str:
        holder = f"process {self.pid}" if self.pid else "another process"
        return f"Vnet {self.name!r} runs already ({holder}, at {self.path}); stop it first, or choose another --name"


class PlaceError(Layer8Error):
    """The Vnet cannot listen there. `path`: where; `reason`: why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot listen at {self.path}: {self.reason}"


class Place:
    """Holds lock and socket of one Vnet. `listener` is bound and listens when `open()` has returned."""

    def __init__(self, name: str, path: Path, *, for_others: bool = False) -> None:
        """`for_others`: other users may connect."""
        self.for_others = for_others
        self.name = name
        self.path = path
        self.lock_path = lock_file(path)
        self.listener: socket.socket | None = None
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> socket.socket:
        """Takes the lock and listens. Raises AlreadyRunning or PlaceError, and then holds nothing."""
        try:
            check_socket_path(self.path)
            ensure_private_directory(self.path.parent)
            if self.for_others:
                self._open_directories()
            self._lock = self._take_lock()
            self.listener = self._listen()
        except OSError as error:
            self.close()
            raise PlaceError(str(self.path), error.strerror or str(error)) from error
        except BaseException:
            self.close()
            raise
        return self.listener

    def _open_directories(self) -> None:
        os.chmod(self.path.parent, 0o755)
        shut = [str(place) for place in self.path.parent.parents if not place.stat().st_mode & stat.S_IXOTH]
        if shut:
            _log.warning("%s cannot be reached by other users: %s is shut to them", self.path, ", ".join(shut))

    def _take_lock(self) -> int:
        while True:
            lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not self._still_named(lock):  # its last holder took it away while we waited
                    os.close(lock)
                    continue
                os.ftruncate(lock, 0)
                os.pwrite(lock, b"%d\n" % os.getpid(), 0)
            except BlockingIOError:
                pid = os.pread(lock, 32, 0).strip()
                os.close(lock)
                raise AlreadyRunning(self.name, int(pid) if pid.isdigit() else 0, str(self.path)) from None
            except BaseException:
                os.close(lock)
                raise
            return lock

    def _still_named(self, lock: int) -> bool:
        try:
            named = os.stat(self.lock_path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(lock))

    def _listen(self) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise PlaceError(str(self.path), "something that is not a socket stands there; remove it")
            self.path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            os.fchmod(listener.fileno(), 0o600)  # Linux gives this mode to the name that bind makes
            listener.bind(os.fspath(self.path))
            if stat.S_IMODE(self.path.lstat().st_mode) & 0o177:
                raise PlaceError(str(self.path), "the socket came out readable for others")
            if self.for_others:
                os.chmod(self.path, 0o666)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def stop_listening(self) -> None:
        """Takes the socket away; the lock stays held. Safe twice."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
            with contextlib.suppress(OSError):
                self.path.unlink()

    def close(self) -> None:
        """Takes socket and lock away. Safe twice."""
        self.stop_listening()
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                self.lock_path.unlink()  # while it is still held: nobody can hold a lock that has lost its name
            os.close(self._lock)
            self._lock = -1
