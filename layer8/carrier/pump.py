"""The loop of a carrier over one connection: from the network to the segment and the control socket, and back.

Each turn reads what is there, says what there is to say (256 KiB a TLS write), and sleeps only when neither side has
anything: over the TLS socket, the control socket and the descriptor that the segment's other side rings.

Order. The control socket is read before the rings are looked at, and what was read is sent behind all that stood in the
rings by then: so an answer never overtakes the records, the marks of a handle or the notices that came before it, as it
does not where socket and segment are one host's.
"""

from __future__ import annotations

import os
import select
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from layer8.carrier.traffic import LocalEnded, Traffic, close_all
from layer8.dataplane.mirror import COLLECT_MIN, FIRST_TYPE, FRAME_MAX, SOON, WORK, Buffer
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.mirror import (
    ACKNOWLEDGE_BYTES,
    FRAME,
    MESSAGE,
    SOCKET,
    SOCKET_DESCRIPTORS,
    Alive,
    AnyMessage,
    End,
    KeepAlive,
    decode,
    encode,
)
from layer8.security.tls_batches import TlsBatches

_WRITE_BYTES = 256 << 10
_READS = 4  # before what is here is sent
_LAST_WORDS_SECONDS = 1.0
_SOON_SECONDS = 0.05
_CONTROL_FRAME = 64 << 10  # room for a frame of the control socket, and messages


class ConnectionCut(Exception):
    """The connection is over, and the session is not."""


class CarrierEnded(Exception):
    """The session is over. `code`, `text`: why, when the other side said so."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.code = code


class Side(Protocol):
    """What differs between the Vnic's carrier and the Vnet's."""

    def descriptors_came(self, descriptors: Sequence[int]) -> AnyMessage:
        """With bytes on the control socket; they are its to close. What to say in front of those bytes."""

    def told(self, message: AnyMessage) -> AnyMessage | None:
        """A message for this side, and the answer. Raises ProtocolViolation, CarrierEnded."""

    def descriptors_for_local(self) -> Sequence[int]:
        """Those that go with marked bytes to the control socket; they stay open for as long as the carrier has them."""

    def woken(self) -> None:
        """Empties `Traffic.wake`."""


def first_message(
    tls: TlsBatches, deadline: float, stopped: Callable[[], bool], clock: Callable[[], float] = time.monotonic
) -> tuple[AnyMessage, bytes]:
    """The first message of a connection, and what came behind it. Raises ConnectionCut, ProtocolViolation."""
    came = b""
    while True:
        if len(came) >= FRAME.size:
            length, kind = FRAME.unpack_from(came)
            if kind != MESSAGE or length > FRAME_MAX:
                raise ProtocolViolation("the connection does not begin with a message")
            if len(came) >= 4 + length:
                return decode(came[FRAME.size : 4 + length]), came[4 + length :]
        left = deadline - clock()
        if left <= 0 or stopped():
            raise ConnectionCut("it said nothing in time")
        want = select.POLLIN
        try:
            data = tls.recv(_CONTROL_FRAME)
            if not data:
                raise ConnectionCut("it was closed")
            came += data
            continue
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            want = select.POLLOUT
        except (OSError, ssl.SSLError) as error:
            raise ConnectionCut(_reason(error)) from None
        poll = select.poll()
        poll.register(tls, want)
        poll.poll(min(left, 0.2) * 1000)


class Pump:
    """One connection of one carrier. `run` stays until it is over; `stop` is for any thread."""

    def __init__(
        self,
        tls: TlsBatches,
        traffic: Traffic,
        side: Side,
        *,
        alive: float,
        patience: float,
        came: bytes = b"",
        say: Sequence[AnyMessage] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tls`: connected, non-blocking; stays the caller's. `came`: was read already. `say`: first of all."""
        self._tls = tls
        self._traffic = traffic
        self._side = side
        self._clock = clock
        self.keep_alive = KeepAlive(alive, patience, clock())
        self._in = Buffer(2 * (FRAME_MAX + 4) + _CONTROL_FRAME)
        self._in_begin, self._in_end = 0, len(came)
        self._in.view[: len(came)] = came
        self._out = Buffer(_WRITE_BYTES + COLLECT_MIN + _CONTROL_FRAME)
        self._out_begin = self._out_end = 0
        self._messages: list[bytes] = [encode(message) for message in say]
        self._caught_up = 0  # of the mirror's ring: what was read of the control socket goes behind it
        self._readable = True  # the TLS socket may have more
        self._local_readable = False  # the control socket has
        self._idle = False  # nothing happened for a while
        self._network = tls.fileno()
        self._local_fd = traffic.local.fileno()
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        self._stop = False
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watch(self._stop_fd, select.POLLIN)

    def stop(self) -> None:
        """`run` returns soon. Any thread, while it was not closed."""
        self._stop = True
        os.eventfd_write(self._stop_fd, 1)

    def close(self) -> None:
        """After `run` has returned. Safe twice."""
        fd, self._stop_fd = self._stop_fd, -1
        if fd >= 0:
            os.close(fd)

    def say(self, message: AnyMessage) -> None:
        """From the thread that runs."""
        self._messages.append(encode(message))

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Raises ConnectionCut, CarrierEnded, ProtocolViolation (of the other side) and MirrorCorrupt."""
        self._parse()
        while True:
            if self._stop:
                raise ConnectionCut("stopped")
            if self._readable:
                self._read_network()
            if self._local_readable:
                self._read_local()
            self._write_network()
            if not (self._readable or (self._is_written and (self._messages or not self._traffic.stream.is_sent))):
                self._sleep()

    def _sleep(self) -> None:
        traffic, now = self._traffic, self._clock()
        if self.keep_alive.is_lost(now):
            raise ConnectionCut(f"nothing was heard for {now - self.keep_alive.heard:.1f} s")
        if self.keep_alive.is_due(now):
            self.say(Alive(received=traffic.stream.received))
            return
        seconds = self.keep_alive.wait(now)
        wakes = 0
        if traffic.bound and self._is_written:
            assert traffic.mirror is not None
            asks = traffic.mirror.arm()
            if asks == WORK:
                return
            if asks == SOON:
                seconds = min(seconds, _SOON_SECONDS)
            wakes = select.POLLIN
        self._watch(traffic.wake, wakes)
        self._watch(self._network, select.POLLIN if self._is_written else select.POLLIN | select.POLLOUT)
        wants = select.POLLIN if not traffic.local_ended and traffic.stream.has_room else 0
        self._watch(self._local_fd, wants | (select.POLLOUT if traffic.is_unread else 0))
        happened = self._poll.poll(seconds * 1000 + 1)
        self._idle = not happened
        for descriptor, events in happened:
            if descriptor == traffic.wake:
                self._side.woken()
            elif descriptor == self._network:
                self._readable = events & ~select.POLLOUT != 0
            elif descriptor == self._local_fd:
                self._local_readable = wants != 0 and events & ~select.POLLOUT != 0
                if events & select.POLLOUT:
                    self._local(traffic.flush_local)

    def _watch(self, descriptor: int, events: int) -> None:
        if descriptor >= 0 and self._watched.get(descriptor, 0) != events:
            self._watched[descriptor] = events
            if events:
                self._poll.register(descriptor, events)
            else:
                self._poll.unregister(descriptor)

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_network(self) -> None:
        """What has come, up to some TLS records of it. Where it is not sure that all was read, the poll tells."""
        for _ in range(_READS):
            try:
                count = self._tls.recv_into(self._in.view[self._in_end :])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self._readable = False
                return
            except (OSError, ssl.SSLError) as error:
                raise ConnectionCut(_reason(error)) from None
            if count == 0:
                raise ConnectionCut("it was closed")
            self._in_end += count
            self.keep_alive.heard = self._clock()
            self._parse()
            if not self._tls.pending():
                self._readable = False
                return

    def _parse(self) -> None:
        """Handles the whole frames that are there."""
        view, traffic = self._in.view, self._traffic
        while self._in_end - self._in_begin >= FRAME.size:
            length, kind = FRAME.unpack_from(view, self._in_begin)
            if not 1 <= length <= FRAME_MAX:
                raise ProtocolViolation(f"a frame of {length} bytes")
            if kind >= FIRST_TYPE:
                if not traffic.bound or traffic.mirror is None:
                    raise ProtocolViolation("a frame of the rings before the Vnic was attached")
                self._in_begin, other = traffic.mirror.feed(self._in, self._in_begin, self._in_end)
                if not other:
                    break
                continue
            end = self._in_begin + 4 + length
            if end > self._in_end:
                break
            body = view[self._in_begin + FRAME.size : end]
            self._in_begin = end
            self._handle(kind, body)
        if self._in_begin == self._in_end:
            self._in_begin = self._in_end = 0
        elif len(view) - self._in_end < FRAME_MAX + 4:
            rest = bytes(view[self._in_begin : self._in_end])
            view[: len(rest)] = rest
            self._in_begin, self._in_end = 0, len(rest)

    def _handle(self, kind: int, body: memoryview) -> None:
        stream = self._traffic.stream
        match kind:
            case k if k == SOCKET:
                self._to_local(stream.take(body), ())
            case k if k == SOCKET_DESCRIPTORS:
                self._to_local(stream.take(body), self._side.descriptors_for_local())
            case k if k == MESSAGE:
                match decode(body):
                    case Alive(received=received):
                        stream.acknowledge(received)
                    case End(code=code, text=text):
                        raise CarrierEnded(text or "the other side has ended it", code)
                    case message:
                        answer = self._side.told(message)
                        if answer is not None:
                            self.say(answer)
            case _:
                raise ProtocolViolation(f"a frame of type {kind}")

    def _to_local(self, data: bytes, descriptors: Sequence[int]) -> None:
        self._local(lambda: self._traffic.write_local(data, descriptors))
        stream = self._traffic.stream
        if stream.received - stream.acknowledged >= ACKNOWLEDGE_BYTES:
            stream.acknowledged = stream.received
            self.say(Alive(received=stream.received))

    def _local(self, write: Callable[[], None]) -> None:
        try:
            write()
        except LocalEnded:
            self._traffic.local_ended = True

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_local(self) -> None:
        traffic = self._traffic
        self._local_readable = False
        try:
            data, descriptors = traffic.read_local()
        except BlockingIOError:
            return
        except LocalEnded:
            traffic.local_ended = True
            return
        if descriptors:
            self.say(self._side.descriptors_came(descriptors))
        traffic.stream.say(data, descriptors=bool(descriptors))
        if traffic.bound and traffic.mirror is not None:
            self._caught_up = traffic.mirror.place().tail

    @property
    def _is_written(self) -> bool:
        return self._out_begin == self._out_end

    def _write_network(self) -> None:
        if self._is_written:
            self._fill()
        if self._is_written:
            if self._traffic.local_ended and self._traffic.stream.is_sent:
                self._end()
            return
        while not self._is_written:
            try:
                count = self._tls.send(self._out.view[self._out_begin : self._out_end])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            except (OSError, ssl.SSLError) as error:
                raise ConnectionCut(_reason(error)) from None
            self._out_begin += count
            self.keep_alive.said = self._clock()

    def _fill(self) -> None:
        """Puts all that there is to say into the buffer, as far as it goes."""
        traffic, stream = self._traffic, self._traffic.stream
        self._out_begin = self._out_end = 0
        while self._messages:
            self._put(self._messages.pop(0))
        if traffic.bound and traffic.mirror is not None:
            while self._out_end < _WRITE_BYTES:
                count = traffic.mirror.collect(self._out, self._out_end, idle=self._idle)
                self._out_end += count
                if count == 0:
                    break
            if stream.is_sent:
                return
            if traffic.mirror.place().sent < self._caught_up:
                return
        while self._out_end < _WRITE_BYTES and (frame := stream.next_frame()):
            self._put(frame)

    def _put(self, frame: bytes) -> None:
        end = self._out_end + len(frame)
        self._out.view[self._out_end : end] = frame
        self._out_end = end

    def _end(self) -> None:
        """The control socket is closed, and all that was said on it has gone out."""
        frame = encode(End())
        deadline = self._clock() + _LAST_WORDS_SECONDS
        while frame and self._clock() < deadline and not self._stop:
            try:
                frame = frame[self._tls.send(frame) :]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                select.select([], [self._tls], [], 0.1)
            except (OSError, ssl.SSLError):
                break
        raise CarrierEnded("the control socket was closed")


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    return error.strerror or str(error)


def close_tls(tls: TlsBatches) -> None:
    """Closes a connection that may be in any state; says nothing more."""
    try:
        tls.close()
    except OSError:
        pass


__all__ = ["CarrierEnded", "ConnectionCut", "Pump", "Side", "close_all", "close_tls", "first_message"]
