"""A TCP proxy between a Vnic and its Vnet that cuts, swallows and refuses, when a test says so."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable

_LINGER_RESET = struct.pack("ii", 1, 0)


class CuttingProxy:
    """`address`: "host:port" for the Vnic. `budget()`: bytes after which the next connection is cut, None for never.

    `swallowing`: what comes is read and not passed on, and nobody is told. `refusing`: new connections are closed.
    """

    def __init__(self, target: str, budget: Callable[[], int | None] = lambda: None) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._budget = budget
        self.cuts = 0
        self.connections = 0
        self.swallowing = False
        self.refusing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stop = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def cut(self) -> None:
        """All connections that there are, with a reset."""
        with self._lock:
            doomed = list(self._open)
        for connection in doomed:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._stop = True
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop:
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            if self.refusing:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            for side in (near, far):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # it passes on at once, as a network does
            self.connections += 1
            thread = threading.Thread(target=self._forward, args=(near, far))
            self._threads.append(thread)
            thread.start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        left = self._budget()
        with self._lock:
            self._open.update((near, far))
        try:
            while not self._stop:
                readable, _, _ = select.select([near, far], [], [], 0.05)
                for source in readable:
                    sink = far if source is near else near
                    data = source.recv(16384 if left is None else min(16384, left))
                    if not data:
                        return
                    if not self.swallowing:
                        sink.sendall(data)
                    if left is not None:
                        left -= len(data)
                        if left == 0:
                            self.cuts += 1
                            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
                            return
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._open.difference_update((near, far))
            near.close()
            far.close()
