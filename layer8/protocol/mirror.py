"""What a Vnic without a local Vnet and its Vnet say to each other over TLS, beside the mirrored segment (ALPN_VNIC).

    Vnic's carrier                                   Vnet's carrier
      Begin(version)                           ──▶              a new session
                                               ◀──  Begun(session, secret, alive, patience)
      SOCKET bytes: Hello …                    ──▶              the bytes of the control socket, in both directions
      Segment(…), SOCKET with descriptors      ──▶              behind the Vnic's Attach: the Vnet makes a mirror
                                               ◀──  Bound(…), SOCKET with descriptors    behind its Attached
      RING, HEAD                              ◀──▶  RING, HEAD, PAGES                    from then on (mirror.c)
      Alive                                   ◀──▶  Alive                                when nothing else was said
      End                                     ◀──▶  End                                  the control socket was closed

A connection that is cut ends nothing: the Vnic's carrier makes another one and begins it with

      Continue(session, secret, received, segment)  ──▶
                                               ◀──  Continued(received, bound, …)        or End: the session is no more

and each side sends again what the other has not: of the control socket's bytes (kept by `SocketStream` until they are
acknowledged) and of the rings (where they stand until the other side has moved its head past them).

Frames are a u32 length of what follows, a u8 type and a body: MESSAGE (a msgspec struct as msgpack), SOCKET and
SOCKET_DESCRIPTORS (u64 position and bytes), and those of the mirror, which are made and taken in C. This module owns no
socket and no clock.
"""

from __future__ import annotations

import struct
from uuid import UUID

import msgspec

from layer8.protocol.codec import ProtocolViolation

ALPN_VNIC = "layer8-vnic/1"
MIRROR_VERSION = 1
STALE = "stale"  # the code of an End in answer to Continue: the session is no more, whatever became of its segment

FRAME = struct.Struct("<IB")
MESSAGE, SOCKET, SOCKET_DESCRIPTORS = 0, 1, 2

MESSAGE_BYTES = 4096
"""Largest body of a MESSAGE."""

SOCKET_BYTES = 32 << 10
"""Bytes of the control socket in one frame, at most."""

UNACKNOWLEDGED_BYTES = 256 << 10
"""That may be under way; then the control socket is not read."""

ACKNOWLEDGE_BYTES = 64 << 10
"""Received since the last acknowledgement: time for another one."""

_POSITION = struct.Struct("<Q")


class MirrorMessage(msgspec.Struct, frozen=True, gc=False, tag_field="t", kw_only=True, omit_defaults=True):
    """Base; `t` names the kind. Fields are only ever added, with defaults."""


class Segment(MirrorMessage, frozen=True, tag="segment"):
    """The Vnic's segment. `used`: it has had a port. Positions of its end: `received` of the receive ring; the Vnet has
    something of the transmit ring between `head` and `tail`. `layout`: its version; the mirror must have the same, for
    rings and pages are copied as they are."""

    uuid: UUID
    ring_bytes: int
    used: bool
    received: int
    head: int
    tail: int
    layout: int = 2  # of the first ones, which did not say


class Begin(MirrorMessage, frozen=True, tag="begin"):
    version: int = MIRROR_VERSION


class Begun(MirrorMessage, frozen=True, tag="begun"):
    """`secret`: who knows it may continue the session. `alive`: somebody who has said nothing for so long says Alive;
    `patience`: who has heard nothing for so long, on whatever connection, gives the session up (seconds)."""

    session: bytes
    secret: bytes
    alive: float
    patience: float


class Continue(MirrorMessage, frozen=True, tag="continue"):
    """`received`: bytes of the control socket. `segment`: as now, once there is one."""

    session: bytes
    secret: bytes
    received: int
    segment: Segment | None = None
    version: int = MIRROR_VERSION


class Continued(MirrorMessage, frozen=True, tag="continued"):
    """`bound`: up to where the Vnet has the transmit ring, None while the Vnic is not attached."""

    received: int
    bound: int | None = None


class Bound(MirrorMessage, frozen=True, tag="bound"):
    """The Vnic is attached; what comes behind it are its descriptors. `received`: of the transmit ring. `fresh`: the
    Vnet begins with an empty segment too."""

    received: int
    fresh: bool


class Alive(MirrorMessage, frozen=True, tag="alive"):
    """`received`: bytes of the control socket so far."""

    received: int


class End(MirrorMessage, frozen=True, tag="end"):
    """The session is over. `code`: as in Refused, when that is why."""

    code: str = ""
    text: str = ""


FromVnicCarrier = Begin | Continue | Segment | Alive | End
FromVnetCarrier = Begun | Continued | Bound | Alive | End

AnyMessage = Begin | Continue | Segment | Begun | Continued | Bound | Alive | End

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """As a frame."""
    body = _encoder.encode(message)
    return FRAME.pack(len(body) + 1, MESSAGE) + body


def decode(body: bytes | memoryview) -> AnyMessage:
    """Raises ProtocolViolation."""
    if len(body) > MESSAGE_BYTES:
        raise ProtocolViolation(f"a message of {len(body)} bytes")
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"not a message: {error}") from None


class SocketStream:
    """The bytes of the control socket, both ways. What was said is kept until the other side has acknowledged it, so a
    new connection can go on where the other side stands."""

    def __init__(self) -> None:
        self.received = 0
        self.acknowledged = 0
        """What the other side was told of `received`."""
        self._kept = bytearray()  # from `_base` on
        self._base = 0
        self._sent = 0  # position
        self._marks: list[int] = []  # positions at which bytes with descriptors begin; each takes one frame

    @property
    def has_room(self) -> bool:
        return len(self._kept) < UNACKNOWLEDGED_BYTES

    @property
    def is_sent(self) -> bool:
        """Whether all that was said has gone out once on this connection."""
        return self._sent == self._base + len(self._kept)

    def say(self, data: bytes, *, descriptors: bool = False) -> None:
        if descriptors and data:
            self._marks.append(self._base + len(self._kept))
        self._kept += data

    def next_frame(self) -> bytes:
        """The next one to send; empty when there is none."""
        begin, end = self._sent - self._base, min(self._sent - self._base + SOCKET_BYTES, len(self._kept))
        if begin == end:
            return b""
        marked = self._sent in self._marks
        for mark in self._marks:
            if mark > self._sent:
                end = min(end, mark - self._base)
        position, self._sent = self._sent, self._base + end
        kind = SOCKET_DESCRIPTORS if marked else SOCKET
        return FRAME.pack(1 + 8 + end - begin, kind) + _POSITION.pack(position) + self._kept[begin:end]

    def take(self, body: memoryview) -> bytes:
        """The bytes in a frame, which must be the next ones. Raises ProtocolViolation."""
        if not 8 < len(body) <= 8 + SOCKET_BYTES:
            raise ProtocolViolation("a frame of the control socket without bytes, or with too many")
        (position,) = _POSITION.unpack_from(body)
        if position != self.received:
            raise ProtocolViolation(f"bytes of the control socket from {position} on, where {self.received} is next")
        data = bytes(body[8:])
        self.received += len(data)
        return data

    def acknowledge(self, received: int) -> None:
        """The other side has so much. Raises ProtocolViolation for what cannot be."""
        if not self._base <= received <= self._sent:
            raise ProtocolViolation(f"{received} bytes of the control socket were never sent")
        del self._kept[: received - self._base]
        self._base = received
        self._marks = [mark for mark in self._marks if mark >= received]

    def rewind(self, received: int) -> None:
        """A new connection: the other side has so much, and gets the rest again. Raises ProtocolViolation."""
        if not self._base <= received <= self._base + len(self._kept):
            raise ProtocolViolation(f"the other side cannot have {received} bytes of the control socket")
        self._sent = max(self._sent, received)
        self.acknowledge(received)
        self._sent = received
        self.acknowledged = self.received


SILENCE = 0.6
"""Of the patience: who has heard nothing for so long takes the connection for lost; the rest is for another one."""


class KeepAlive:
    """When to say that one is there, and when to take a connection for lost. Seconds, monotonic. `given_up`: when the
    session is."""

    def __init__(self, alive: float, patience: float, now: float) -> None:
        self.alive = alive
        self.patience = patience
        self.said = now
        self.heard = now

    def is_due(self, now: float) -> bool:
        return now - self.said >= self.alive

    def is_lost(self, now: float) -> bool:
        return now - self.heard >= SILENCE * self.patience

    def wait(self, now: float) -> float:
        """How long nothing has to be done."""
        return max(0.0, min(self.said + self.alive, self.heard + SILENCE * self.patience) - now)

    @property
    def given_up(self) -> float:
        return self.heard + self.patience
