"""One connection of a link: a thread that moves whole batches between a TLS socket and the queues of the switch.

    switch ──queue──▶ collect ──▶ TLS writes of up to 128 KiB ──▶ the other Vnet
    switch ◀──queue── feed    ◀── TLS reads, up to 128 KiB    ◀──
    loop   ◀── control frames ──▶ loop                                (Python speaks with Python on the same stream)

Only this thread touches the socket, for reading and for writing: two threads on one SSLSocket are a crash. It sleeps in
poll over the socket, the queues' eventfd and one of its own for control frames.

**Order.** A control frame goes out before all data that came into the queue after it was given: data are collected
first, the control frames are taken afterwards and sent in front. So what a record presupposes (its sender's place in
the directory) is there when it arrives. Nobody can say more than BACKLOG_BYTES that is not read.

**Alive.** Something is sent at least every `keep_alive` seconds, an empty control frame for want of anything better.
Who hears something is awake, and sends then what would soon be due: the ends of a link at rest wake up together.
`heard` is when something last came, whatever it was; what follows from silence is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from layer8.protocol.link_messages import ALIVE, FRAME_BYTES, frame
from layer8.security.tls_batches import TlsBatches

WRITE_BYTES = 256 << 10
READ_BYTES = 512 << 10
TURN_BYTES = 128 << 10
"""Read before it is fed, written before something is read: less than a sender has under way, so that both ends work."""

SMALL_BYTES = 1 << 10  # of one writing: behind so little there is rarely an answer
BACKLOG_BYTES = 64 << 20
FLUSH_SECONDS = 1.0
SPIN_SECONDS = 60e-6

_ONE = (1).to_bytes(8, "little")


class Counters(Protocol):
    """Of one connection."""

    @property
    def records_in(self) -> int: ...
    @property
    def records_out(self) -> int: ...
    @property
    def out_fill(self) -> int: ...


class Queues(Protocol):
    """The switch's side of a connection; see layer8.dataplane.Link."""

    @property
    def event_fd(self) -> int:
        """Readable when there is something to collect again, or room to feed again."""

    def collect(self, buffer: memoryview) -> int:
        """Fills the buffer with whole frames; how many bytes."""

    def feed(self, received: memoryview) -> tuple[int, Sequence[bytes]]:
        """Takes frames: how many bytes are done with, and the contents of control frames. Raises ValueError for what
        cannot be."""

    def counters(self) -> Counters: ...


class LinkThread:
    """`start` once; `close` ends it. Callbacks come in the loop's thread: `on_control` with the control frames of one
    reading, in order, `on_closed` with the reason, once, when the thread has let go of socket and queues."""

    def __init__(
        self,
        queues: Queues,
        tls: TlsBatches,
        loop: asyncio.AbstractEventLoop,
        *,
        name: str,
        keep_alive: float,
        on_control: Callable[[Sequence[bytes]], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self.heard = time.monotonic()
        self.bytes_in = 0  # of all frames, control and signs of life included, without TLS
        self.bytes_out = 0
        self.is_closing = False
        self._queues = queues
        self._tls = tls
        self._loop = loop
        self._keep_alive = keep_alive
        self._on_control = on_control
        self._on_closed = on_closed
        self._lock = threading.Lock()
        self._controls: collections.deque[bytes] = collections.deque()
        self._backlog = 0
        self._reason = ""
        self._linger = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name=f"layer8-link-{name}", daemon=True)
        # What follows is the thread's alone.
        self._in = bytearray(READ_BYTES + FRAME_BYTES + 4)
        self._in_fill = 0
        self._out = bytearray(WRITE_BYTES)
        self._pending: collections.deque[memoryview | bytes] = collections.deque()
        self._said = time.monotonic()
        self._wants_write = False
        self._came = False  # since there was last nothing to write
        self._stuck = False  # what was read last is not taken yet: nothing more is read
        self._more = False  # the socket may have more
        self._moved = 0.0  # when records last came or went

    def start(self) -> None:
        self._thread.start()

    def send_control(self, data: bytes) -> None:
        """A message for a control frame. Any thread. What is sent after the end goes nowhere."""
        with self._lock:
            if self.is_closing:
                return
            self._controls.append(frame(data))
            self._backlog += len(data)
            if self._backlog > BACKLOG_BYTES:
                self._reason, self.is_closing = "it leaves too much unread", True
        self._ring()

    def close(self, reason: str, last: bytes = b"", *, linger: bool = False) -> None:
        """Ends it, after what was given so far and `last` has been sent or FLUSH_SECONDS later. Any thread; at once.

        `linger`: waits so long also for the other side to close: what it has not read is lost with a connection that
        is closed while something unread stands at this end."""
        with self._lock:
            if self.is_closing:
                return
            self._linger = linger
            if last:
                self._controls.append(frame(last))
            self._reason, self.is_closing = reason, True
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            os.write(self._wake, _ONE)

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            reason = self._move()
        except ssl.SSLError as error:
            reason = f"TLS failed: {error.reason or error}"
        except OSError as error:
            reason = error.strerror or str(error)
        except Exception as error:
            reason = f"violation: {error}" if isinstance(error, ValueError) else f"the link thread failed: {error!r}"
        with self._lock:
            self.is_closing = True
            reason = self._reason or reason
            os.close(self._wake)
            self._wake = -1
        with contextlib.suppress(OSError):
            self._tls.plain.shutdown(socket.SHUT_WR)
            if self._linger:
                self._read_out()
        self._tls.close()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._on_closed, reason)

    def _move(self) -> str:
        """Until the end; the reason."""
        poll = select.poll()
        socket_fd, queues_fd = self._tls.fileno(), self._queues.event_fd
        poll.register(self._wake, select.POLLIN)
        poll.register(queues_fd, select.POLLIN)
        poll.register(socket_fd, select.POLLIN)
        watched = select.POLLIN
        self._more = True  # the handshake may have left something
        deadline = float("inf")
        while True:
            if self.is_closing and deadline == float("inf"):
                deadline = time.monotonic() + FLUSH_SECONDS
            moved = self._read()
            if moved is None:
                return "closed by the other side"
            # Of what was read nothing is left to do, unless more has come or a part of it found no room.
            moved = self._write() or (moved and (self._more or self._in_fill > 0))
            now = time.monotonic()
            if self.is_closing and (not (self._pending or self._controls) or now >= deadline):
                return self._reason
            if moved:
                continue
            wanted = (0 if self._stuck else select.POLLIN) | (select.POLLOUT if self._wants_write else 0)
            if wanted != watched:
                poll.modify(socket_fd, wanted)
                watched = wanted
            until = min(deadline, self._said + self._keep_alive)
            for descriptor, events in self._soon(poll) or poll.poll(max(0.0, until - now) * 1000 + 1):
                if descriptor == socket_fd:
                    self._more = self._more or bool(events & ~select.POLLOUT)
                    self._wants_write = self._wants_write and not events & select.POLLOUT
                else:
                    # That of the queues is taken by a `collect` that finds nothing, if one follows.
                    if descriptor != queues_fd or self._pending or self.is_closing:
                        with contextlib.suppress(BlockingIOError):
                            os.read(descriptor, 8)
                    self._stuck = self._stuck and descriptor != queues_fd

    def _soon(self, poll: select.poll) -> list[tuple[int, int]]:
        """What happens a moment after records have come or gone: an answer is often near, and a wake-up costs more.
        Whoever is to give it may need the processor."""
        while time.monotonic() < self._moved + SPIN_SECONDS:
            os.sched_yield()
            if happened := poll.poll(0):
                return happened
        return []

    def _read_out(self) -> None:
        """Until the other side has closed too; what it still says goes nowhere."""
        deadline = time.monotonic() + FLUSH_SECONDS
        poll = select.poll()
        poll.register(self._tls.fileno(), select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
            if not self._tls.plain.recv(READ_BYTES):
                return

    def _read(self) -> bool | None:
        """Whether anything came; None: the end."""
        if self._stuck or not (self._more or self._in_fill):
            return False
        start, ended = self._in_fill, False
        view = memoryview(self._in)
        until = min(start + TURN_BYTES, READ_BYTES)
        while self._more and self._in_fill < until:
            try:
                count = self._tls.recv_into(view[self._in_fill : READ_BYTES])
            except ssl.SSLWantReadError:
                self._more = False
                break
            except ssl.SSLWantWriteError:
                self._wants_write = True
                break
            except OSError:  # what came before is looked at all the same
                ended = True
                break
            if not count:
                ended = True
                break
            self._in_fill += count
            self.bytes_in += count
            self._more = self._tls.pending() > 0  # else the poll tells
        came = self._in_fill > start
        if came:
            self._came = True
            self.heard = time.monotonic()
        done = self._feed(view) if self._in_fill else 0
        return None if ended else came or done > 0

    def _feed(self, view: memoryview) -> int:
        done, controls = self._queues.feed(view[: self._in_fill])
        said = [control for control in controls if control]
        if said:
            self._loop.call_soon_threadsafe(self._on_control, said)
        if done and not controls:
            self._moved = time.monotonic()
        left = self._in_fill - done
        if done and left:
            view[:left] = bytes(view[done : self._in_fill])
        self._in_fill = left
        if not done and left >= 4:
            length = int.from_bytes(view[:4], "little")
            if length > FRAME_BYTES:
                raise ValueError("a frame that is too large")
            self._stuck = left >= length + 4  # it is whole and found no room
        return done

    def _write(self) -> bool:
        """Whether anything went."""
        if not self._pending and not self._fill():
            return False
        if self._wants_write:
            return False
        moved = False
        turn = TURN_BYTES
        while self._pending and turn > 0:
            first = self._pending[0]
            try:
                count = self._tls.send(first[:turn])
            except ssl.SSLWantWriteError:
                self._wants_write = True
                return moved
            except ssl.SSLWantReadError:
                self._more = True
                return moved
            moved = True
            turn -= count
            self.bytes_out += count
            if count < len(first):
                self._pending[0] = memoryview(first)[count:]
            else:
                self._pending.popleft()
        if self._pending or TURN_BYTES - turn >= SMALL_BYTES:
            self._more = True  # answers may have come; and as long as there is something to write, nothing polls
        self._said = time.monotonic()
        return moved

    def _fill(self) -> bool:
        """Data first, what is put in front of them afterwards; see the head of this module."""
        size = 0 if self.is_closing else self._queues.collect(memoryview(self._out))
        with self._lock:
            controls = b"".join(self._controls)
            self._controls.clear()
            self._backlog = 0
        if controls:
            self._pending.append(controls)
        if size:
            self._moved = time.monotonic()
            self._pending.append(memoryview(self._out)[:size])
        if not self._pending:
            patience = self._keep_alive / 2 if self._came else self._keep_alive
            self._came = False
            if time.monotonic() >= self._said + patience:
                self._pending.append(ALIVE)
        return bool(self._pending)
