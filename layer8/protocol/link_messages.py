"""What two Vnets say to each other over a link, apart from the records themselves, and how it stands on the wire.

A link is a TLS stream of frames: u32 length of what follows, little-endian, then u8 type. Type 0 is a control frame,
and what follows is one of the messages here as msgpack, or nothing: an empty control frame only says that its sender
is alive. All other types are data and the switch's. Fields are only ever added; unknown fields and unknown kinds of
message are passed over, so that a newer Vnet may say more than an older one understands.
"""

from __future__ import annotations

from typing import get_args
from uuid import UUID

import msgspec

from layer8.health_record import HealthRecord
from layer8.protocol.codec import ProtocolViolation

LINK_VERSION = 1

CONTROL = 0
HEADER_BYTES = 5
CONTROL_BYTES = 64 << 10  # of the message in a control frame
FRAME_BYTES = (128 << 10) + 256  # of any frame, its length not counted
UNPROVEN_BYTES = 4 << 10
LARGEST_LIST = 1 << 20  # of roots, or of revocations

EVERYTHING = 0xFFFFFFFF

ALIVE = b"\x01\x00\x00\x00\x00"
"""The whole empty control frame."""


# ── until the link stands: see layer8.protocol.link ───────────────────────────────────────────────────────────────────


class LinkHello(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="hello", omit_defaults=True, kw_only=True):
    """Who speaks. `oldest`, `newest`: versions of this protocol. `reach`: where it can be dialled, "host:port"."""

    oldest: int
    newest: int
    fingerprint: bytes
    overlay: str
    vnet: UUID
    epoch: int
    nonce: bytes
    name: str = ""
    host: str = ""
    reach: tuple[str, ...] = ()


class LinkProof(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="proof", omit_defaults=True, kw_only=True):
    """That it is so. `session`, `serial`: what it knows of a session with the other; 0 nothing, or no connection."""

    proof: bytes
    session: int = 0
    serial: int = 0


class LinkReady(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="ready", omit_defaults=True, kw_only=True):
    """The acceptor believes the dialler. Numbers of the arbiter, 0 of the other."""

    session: int = 0
    serial: int = 0


class LinkStart(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="start", omit_defaults=True, kw_only=True):
    """The dialler begins to use the connection; the acceptor does when it reads this."""

    session: int = 0
    serial: int = 0


class LinkRefused(
    msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="refused", omit_defaults=True, kw_only=True
):
    """No link on this connection. `code`: version | mismatch | overlay | self | duplicate | not-authorized | invalid |
    stopping."""

    code: str
    text: str = ""


# ── afterwards ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Bye(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="bye", omit_defaults=True, kw_only=True):
    """The session is over, not only this connection. `code`: stopping | given-up | not-authorized | violation."""

    code: str
    text: str = ""


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One record of the directory, and what its principal was believed for at its home. In messages it stands as its
    home wrote it: a newer Vnet may say more than can be read here, and what both compare are the bytes."""

    record: HealthRecord
    credential: str = ""
    expires: float = 0.0


class Open(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="open", omit_defaults=True, kw_only=True):
    """Records may come: whoever is to have them is here. Without it nothing but control frames is sent."""


class Have(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="have", omit_defaults=True, kw_only=True):
    """What I have of your part of the directory: `sequence` 0 nothing."""

    epoch: int = 0
    sequence: int = 0


class Part(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="part", omit_defaults=True, kw_only=True):
    """A part of my whole state as of `sequence`, the parts in order from 0; after the `last` one, what was in none of
    them is no more."""

    sequence: int
    number: int
    last: bool
    entries: tuple[msgspec.Raw, ...] = ()


class Delta(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="delta", omit_defaults=True, kw_only=True):
    """What has changed between `sequence` - 1 and `sequence`."""

    sequence: int
    put: tuple[msgspec.Raw, ...] = ()
    dropped: tuple[UUID, ...] = ()


class Digest(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="digest", omit_defaults=True, kw_only=True):
    """What you should have of mine at `sequence`."""

    sequence: int
    count: int
    digest: bytes


class Repair(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="repair", omit_defaults=True, kw_only=True):
    """I have not what I should have: send everything."""


class Fresh(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="fresh", omit_defaults=True, kw_only=True):
    """Somebody here wants figures: look at your processes and counters, and tell."""


class Interest(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="interest", omit_defaults=True, kw_only=True):
    """There is a subscriber to this topic here. `number`: by which records of the topic shall name it."""

    topic: str
    number: int


class Interests(
    msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="interests", omit_defaults=True, kw_only=True
):
    """All topics with subscribers here, and their numbers, in one message or several. What is in none of them is a
    Disinterest; the answer to the last one is Forgot(EVERYTHING)."""

    topics: tuple[tuple[str, int], ...] = ()
    first: bool = False
    last: bool = False


class Disinterest(
    msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="disinterest", omit_defaults=True, kw_only=True
):
    """There is none any more."""

    number: int


class Forgot(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="forgot", omit_defaults=True, kw_only=True):
    """The answer to Disinterest: no record will name this number any more. EVERYTHING: nor any that was given up
    before the list of interests that this answers."""

    number: int


class Reach(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="reach", omit_defaults=True, kw_only=True):
    """Where other Vnets of the overlay are said to be; a hint."""

    addresses: tuple[str, ...] = ()


class TrustNumbers(
    msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="trust-numbers", omit_defaults=True, kw_only=True
):
    """Which list of roots and which revocation list I have: of two, the higher number is the newer."""

    roots: int
    revocations: int


class TrustPart(
    msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="trust-part", omit_defaults=True, kw_only=True
):
    """A piece of the two lists, as the authority has signed them; from 0, in order."""

    number: int
    last: bool
    data: bytes


Handshake = LinkHello | LinkProof | LinkReady | LinkStart | LinkRefused
Trust = TrustNumbers | TrustPart
Linked = (
    Bye
    | Open
    | Have
    | Part
    | Delta
    | Digest
    | Repair
    | Fresh
    | Interest
    | Interests
    | Disinterest
    | Forgot
    | Reach
    | Trust
)
Message = Handshake | Linked

_encoder = msgspec.msgpack.Encoder()
_handshakes: msgspec.msgpack.Decoder[Handshake] = msgspec.msgpack.Decoder(Handshake)
_linked: msgspec.msgpack.Decoder[Linked] = msgspec.msgpack.Decoder(Linked)
_entries: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)
_tags = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_KNOWN = {kind.__struct_config__.tag for kind in get_args(Handshake | Linked)}


def body(message: Message) -> bytes:
    """The message as it stands in a control frame. Raises ValueError when it is too large."""
    data = _encoder.encode(message)
    if len(data) > CONTROL_BYTES:
        raise ValueError(f"a {type(message).__name__} of {len(data)} bytes is over the limit of {CONTROL_BYTES}")
    return data


def frame(data: bytes) -> bytes:
    """The control frame around a message."""
    return (len(data) + 1).to_bytes(4, "little") + b"\0" + data


def handshake(data: bytes) -> Handshake:
    """Raises ProtocolViolation for everything else, also for kinds that a link knows later."""
    try:
        return _handshakes.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"not a message of a handshake: {error}") from None


def linked(data: bytes) -> Linked | None:
    """None: a kind that this version does not know. Raises ProtocolViolation."""
    try:
        return _linked.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            tag = msgspec.msgpack.decode(_tags.decode(data)["t"], type=str)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
            tag = ""
        if tag and tag not in _KNOWN:
            return None
        raise ProtocolViolation(f"not a message of a link: {error}") from None


def entries(message: Part | Delta) -> list[tuple[Entry, bytes]]:
    """What a message tells of, each with its bytes. Raises ProtocolViolation."""
    told = [bytes(raw) for raw in (message.entries if isinstance(message, Part) else message.put)]
    try:
        return [(_entries.decode(data), data) for data in told]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"not a record of a directory: {error}") from None
