"""Control messages as bytes: msgpack behind a little-endian u32 that counts the bytes after it.

What is wrong with the bytes is told apart by whether the connection can go on. A kind of message that this version
does not know is an `Unknown` in its place: answer it with Failed(id, "unsupported"). Everything else that cannot be
understood is a ProtocolViolation, after which the connection is over.
"""

from __future__ import annotations

import functools
from types import UnionType
from typing import get_args

import msgspec

from layer8.errors import Layer8Error
from layer8.protocol.control import Wire

CONTROL_BYTES = 64 * 1024
"""Largest control message, without its length."""

UNPROVEN_BYTES = 4 * 1024
"""Largest message of a peer that has not proved who it is."""

LENGTH_BYTES = 4

Frame = bytes
"""One message exactly as it stands on the wire, length and all."""


class ProtocolViolation(Layer8Error):
    """The other side sent what this protocol does not allow; close the connection. `reason`: what it was."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the other side broke the control protocol: {self.reason}"


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """A message of a kind that this version does not know. `id`: of the request, None if it has none."""

    id: int | None
    kind: str


class _Envelope(msgspec.Struct, gc=False):
    t: str
    id: int | None = None


_encoder = msgspec.msgpack.Encoder()
_envelopes = msgspec.msgpack.Decoder(_Envelope)


def encode(message: Wire) -> Frame:
    """The message as it goes on the wire. Raises ValueError if it is larger than the other side would take."""
    body = _encoder.encode(message)
    if len(body) > CONTROL_BYTES:
        raise ValueError(f"a {type(message).__name__} of {len(body)} bytes is over the limit of {CONTROL_BYTES}")
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


@functools.cache
def _decoder(types: type[Wire] | UnionType) -> tuple[msgspec.msgpack.Decoder[Wire], frozenset[object]]:
    """What decodes these kinds, and their tags; made once."""
    kinds = get_args(types) if isinstance(types, UnionType) else (types,)
    return msgspec.msgpack.Decoder(types), frozenset(kind.__struct_config__.tag for kind in kinds)


class Decoder:
    """Messages from a stream of bytes, however it is cut. Belongs to one connection; not thread-safe.

    `types`: the union of the kinds that may come. `limit`: largest message in bytes; assign to it once the other side
    has proved itself. After a ProtocolViolation every further call raises the same one.
    """

    def __init__(self, types: type[Wire] | UnionType, limit: int = CONTROL_BYTES) -> None:
        self.limit = limit
        self._messages, self._kinds = _decoder(types)
        self._buffer = bytearray()
        self._violation: ProtocolViolation | None = None

    @property
    def pending(self) -> int:
        """Bytes of a message whose end has not come. Not 0 at the end of the stream: it was cut."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Wire | Unknown]:
        """The messages that end in `data`, in order. What precedes a violation in the same call is lost with it."""
        return [message for message, _ in self.feed_frames(data)]

    def feed_frames(self, data: bytes) -> list[tuple[Wire | Unknown, Frame]]:
        """As `feed`, each message with its exact bytes: what the two sides of an attach prove that they have seen."""
        if self._violation is not None:
            raise self._violation
        buffer = self._buffer
        buffer += data
        found: list[tuple[Wire | Unknown, Frame]] = []
        start = 0
        try:
            while len(buffer) - start >= LENGTH_BYTES:
                length = int.from_bytes(buffer[start : start + LENGTH_BYTES], "little")
                if not 0 < length <= self.limit:
                    raise ProtocolViolation(f"a message of {length} bytes, where 1 to {self.limit} are possible")
                end = start + LENGTH_BYTES + length
                if len(buffer) < end:
                    break
                frame = bytes(buffer[start:end])
                found.append((self._decode(frame[LENGTH_BYTES:]), frame))
                start = end
        except ProtocolViolation as violation:
            self._violation = violation
            buffer.clear()
            raise
        del buffer[:start]
        return found

    def _decode(self, body: bytes) -> Wire | Unknown:
        try:
            return self._messages.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            unknown = self._unknown(body)
            if unknown is None:
                raise ProtocolViolation(f"not a message: {error}") from None
            return unknown

    def _unknown(self, body: bytes) -> Unknown | None:
        try:
            envelope = _envelopes.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return None if envelope.t in self._kinds else Unknown(envelope.id, envelope.t[:64])
