"""What two sides prove to each other: statements, what the verifier saw itself, and who it took the prover to be.

These stand below the Security Provider because the state machines build them and a provider only works on them;
`layer8.security` names them again. `Prover` is the part of a provider that a state machine needs.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from dataclasses import dataclass
from typing import Protocol

import msgspec


class Purpose(enum.StrEnum):
    """What a proof is for; a proof for one purpose is worth nothing for another."""

    ATTACH = "attach"
    LINK = "link"


class Role(enum.StrEnum):
    VNIC = "vnic"
    VNET = "vnet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What exactly is proved. Both sides build it for themselves; it never travels.

    `audience`: who shall believe it. `digest`: SHA-256 of everything both sides have seen of the exchange so far.
    `expires`: Unix seconds, 0.0 where a nonce in the digest bounds it.
    """

    purpose: Purpose
    prover_role: Role
    overlay: str
    audience: str
    digest: bytes
    expires: float = 0.0

    def encode(self) -> bytes:
        """The one byte string that stands for this statement: what a provider signs."""
        return b"layer8 statement 1\0" + msgspec.msgpack.encode(
            (self.purpose.value, self.prover_role.value, self.overlay, self.audience, self.digest, float(self.expires))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """What the verifier saw of the other side with its own eyes; not part of what is proved, since a container sees
    other pids. None: not to be seen here.

    `uid`, `gid`, `pid`: kernel credentials of the peer (SO_PEERCRED), pid 0: another pid namespace.
    `certificate`: DER of the peer's certificate in TLS. `text`: where this is, for messages to people.
    """

    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    certificate: bytes | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who a Vnic or Vnet proved to be. `expires`: Unix seconds after which the core closes what it has; 0.0 never.

    `credential`: by what it was proved, as the provider that verified it calls it: so that it knows again what it has
    revoked since. No secret, and nothing to anybody else.
    """

    uri: str
    role: Role
    expires: float = 0.0
    credential: str = dataclasses.field(default="", compare=False)


class Prover(Protocol):
    """The three operations of a Security Provider that an exchange of proofs needs."""

    def fingerprint(self) -> bytes: ...
    def prove(self, statement: Statement) -> bytes: ...
    def verify(self, proof: bytes, statement: Statement, seen: Channel) -> Principal: ...


def again(digest: bytes, number: int) -> bytes:
    """The digest of a proof on a connection that was proved before. `digest`: of the attach; `number`: 1, 2, …"""
    return hashlib.sha256(b"layer8 again 1\0" + digest + number.to_bytes(8, "little")).digest()


def short(fingerprint: bytes) -> str:
    """A fingerprint for people: its first 12 hex digits."""
    return fingerprint[:6].hex()
