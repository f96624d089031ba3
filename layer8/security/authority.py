"""The authority of an overlay: the one place that signs. A directory, and what is done with it.

    root-1.key …    private keys of the roots           issued.json    serial numbers of leaves that have not expired
    trust.json      the list of roots                   tokens.json    hashes of join tokens, and what they are for
    revoked.pem     the revocation list

Every change is made under a lock and file by file, each whole: several processes may use the directory, and one that is
killed leaves it in order. Whoever can read it is the authority; keep it off the hosts that run programs of others.

**Joining.** A token is 256 random bits and the overlay's fingerprint. It fixes role and name and is good for minutes
and, unless it was made for more, once. Only its hash is stored, and it is used up before anything is signed: a crash in
between costs a token, never gives two leaves.

**Rotation** is trust first, sign later: the new root is believed at once and signs after half of the overlap, when
everybody has renewed and has got the new list with that; at the end of the overlap the old one is believed no more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from layer8.errors import Layer8Error
from layer8.protocol.statement import Role
from layer8.security import certificates
from layer8.security.certificates import LEAF_SECONDS, Identity, Key
from layer8.security.files import StateError, check_directory, locked, make_directory, read_private, write_private
from layer8.security.trust import Root, Trust

TOKEN_SECONDS = 600.0
LONGEST_TOKEN_SECONDS = 30 * 24 * 3600.0
OVERLAP_SECONDS = 4 * LEAF_SECONDS

_TRUST, _REVOKED, _ISSUED, _TOKENS = "trust.json", "revoked.pem", "issued.json", "tokens.json"
_SECRET_BYTES = 32


class JoinError(Layer8Error):
    """A token that is not good. The reason is for the log of the authority: a stranger is told only that it is not."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the join token is not good: {self.reason}"


@dataclass(frozen=True, slots=True)
class Token:
    """What a joiner is given, out of band. `fingerprint`: of the overlay, so that the joiner knows the right one."""

    secret: bytes
    fingerprint: bytes

    def text(self) -> str:
        """The secret in writing: for a file or stdin, never for a command line."""
        content = self.secret + self.fingerprint
        return "layer8-join-" + base64.urlsafe_b64encode(content + _check_sum(content)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises JoinError, which does not repeat the text."""
        text = text.strip()
        try:
            encoded = text.removeprefix("layer8-join-")
            if encoded == text:
                raise ValueError
            data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise JoinError("it does not look like one") from None
        content, check_sum = data[:-4], data[-4:]
        if len(content) != 2 * _SECRET_BYTES or check_sum != _check_sum(content):
            raise JoinError("it was not copied whole")
        return cls(content[:_SECRET_BYTES], content[_SECRET_BYTES:])

    def __repr__(self) -> str:
        return "<Token>"


def _check_sum(content: bytes) -> bytes:
    return hashlib.sha256(b"layer8 join token 1\0" + content).digest()[:4]


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What the authority gives: all PEM or JSON, ready for `identity.install`."""

    identity: Identity
    serial: int
    expires: float
    certificate: bytes
    trust: bytes
    revoked: bytes


class _StoredToken(TypedDict):
    role: str
    name: str  # with `uses` over 1 it may end in a star
    expires: float
    uses: int
    lifetime: float


class _StoredLeaf(TypedDict):
    uri: str
    expires: float
    revoked: float  # 0.0: not


_Stored = TypeVar("_Stored", _StoredLeaf, _StoredToken)


_NONE = (
    "there is no authority; `layer8 security init` makes one there, and --authority or LAYER8_AUTHORITY says where "
    "another one is"
)


class Authority:
    """One authority's directory. Times are Unix seconds. Any thread, any process."""

    def __init__(self, path: Path) -> None:
        """Raises StateError or CertificateError."""
        check_directory(path, _NONE)
        self.path = path
        self.overlay = self.trust().overlay

    @classmethod
    def create(cls, path: Path, overlay: str, now: float) -> Authority:
        """Makes the directory and the first root. Raises StateError when there is one already."""
        certificates.check_name(overlay, "the overlay")
        make_directory(path)
        with locked(path):
            if (path / _TRUST).exists():
                raise StateError(str(path), "there is an authority already")
            key = certificates.new_key()
            root = certificates.make_root(overlay, 1, key, now)
            trust = Trust.make(overlay, 1, [Root(certificate=root, signs_from=0.0, until=0.0, endorsement=b"")], key)
            write_private(path / "root-1.key", certificates.key_to_pem(key))
            write_private(path / _REVOKED, certificates.to_pem(certificates.make_revocations(root, key, [], 1, now)))
            write_private(path / _ISSUED, b"{}")
            write_private(path / _TOKENS, b"{}")
            write_private(path / _TRUST, trust.encode())  # last: with it the authority is there
        return cls(path)

    def __repr__(self) -> str:
        return f"<Authority of {self.overlay} in {self.path}>"

    @property
    def fingerprint(self) -> bytes:
        return self.trust().fingerprint

    def trust(self) -> Trust:
        return Trust.decode(read_private(self.path / _TRUST))

    def lists(self) -> tuple[bytes, bytes]:
        """The list of roots and the revocation list, as they are spread."""
        return read_private(self.path / _TRUST), read_private(self.path / _REVOKED)

    def signature(self) -> object:
        """Changes whenever the lists do."""
        found = []
        for name in (_TRUST, _REVOKED):
            status = (self.path / name).stat()
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return found

    # ── leaves ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def issue(
        self, identity: Identity, public: ec.EllipticCurvePublicKey, now: float, lifetime: float = LEAF_SECONDS
    ) -> Issued:
        """A leaf for this key. Who may ask for it was decided before."""
        if identity.overlay != self.overlay:
            raise ValueError(f"{identity} is not of the overlay {self.overlay}")
        if not 1 <= lifetime <= certificates.ROOT_SECONDS:
            raise ValueError(f"a lifetime of {lifetime} s is not possible")
        with locked(self.path):
            trust = self.trust()
            index = trust.signing(now)
            root, key = trust.roots[index].certificate, self._key(index)
            leaf = certificates.make_leaf(root, key, identity, public, now, lifetime)
            expires = leaf.not_valid_after_utc.timestamp()
            leaves = {serial: stored for serial, stored in self._leaves().items() if stored["expires"] > now}
            leaves[f"{leaf.serial_number:x}"] = {"uri": identity.uri, "expires": expires, "revoked": 0.0}
            self._write(_ISSUED, leaves)  # before anybody has it: every leaf there is can be revoked
            if x509.load_pem_x509_crl(read_private(self.path / _REVOKED)).issuer != root.subject:
                self._make_revocations(trust, leaves, now)  # the root that signed it will not be believed for ever
        trust_list, revoked = self.lists()
        return Issued(
            identity=identity,
            serial=leaf.serial_number,
            expires=expires,
            certificate=certificates.to_pem(leaf),
            trust=trust_list,
            revoked=revoked,
        )

    def service_leaf(self, public: ec.EllipticCurvePublicKey, now: float, lifetime: float) -> bytes:
        """The authority's own leaf (PEM), for the port where others enrol."""
        with locked(self.path):
            trust = self.trust()
            index = trust.signing(now)
            root, key = trust.roots[index].certificate, self._key(index)
        return certificates.to_pem(certificates.make_service_leaf(root, key, self.overlay, public, now, lifetime))

    def sign(self, request: bytes, now: float, lifetime: float = LEAF_SECONDS) -> Issued:
        """A leaf for a signing request (PEM) that the operator vouches for. Raises CertificateError."""
        identity, public = certificates.check_request(request)
        if identity.overlay != self.overlay:
            raise certificates.CertificateError("signing request", f"{identity} is not of the overlay {self.overlay}")
        return self.issue(identity, public, now, lifetime)

    def count(self, identity: Identity) -> int:
        """How many leaves of this identity have not expired, as far as is known."""
        return sum(stored["uri"] == identity.uri for stored in self._leaves().values())

    def leaves(self) -> dict[str, tuple[str, float, bool]]:
        """Serial number (hex) to URI, expiry and whether it is revoked; those that have not expired."""
        return {
            serial: (stored["uri"], stored["expires"], stored["revoked"] > 0)
            for serial, stored in self._leaves().items()
        }

    # ── joining ────────────────────────────────────────────────────────────────────────────────────────────────────

    def make_token(
        self,
        role: Role,
        name: str,
        now: float,
        *,
        seconds: float = TOKEN_SECONDS,
        uses: int = 1,
        lifetime: float = LEAF_SECONDS,
    ) -> Token:
        """Lets one joiner become `name`. `seconds`: how long it is good. `uses` over 1: reusable, and `name` may then
        end in a star, which stands for the rest of a name that the joiner chooses. `lifetime`: of the leaves."""
        prefix = name[:-1] if uses > 1 and name.endswith("*") else name
        if prefix or not name.endswith("*"):
            certificates.check_name(prefix)
        if uses < 1 or not 0 < seconds <= LONGEST_TOKEN_SECONDS:
            raise ValueError(f"a token for {uses} uses within {seconds} s is not possible")
        token = Token(secrets.token_bytes(_SECRET_BYTES), self.fingerprint)
        stored = _StoredToken(role=role.value, name=name, expires=now + seconds, uses=uses, lifetime=lifetime)
        with locked(self.path):
            tokens = {hash_: other for hash_, other in self._tokens().items() if other["expires"] > now}
            tokens[_hash(token.secret)] = stored
            self._write(_TOKENS, tokens)
        return token

    def redeem(self, token: Token, request: bytes, now: float) -> Issued:
        """A leaf for who brings a token. The token is used up first, whatever comes of the request.

        Raises JoinError, or CertificateError for a request that is no good.
        """
        with locked(self.path):
            if token.fingerprint != self.fingerprint:
                raise JoinError("it is of another overlay")
            tokens = self._tokens()
            stored = tokens.get(_hash(token.secret))
            if stored is None:
                raise JoinError("it is unknown, was used, or has expired")
            stored["uses"] -= 1
            if stored["uses"] <= 0 or stored["expires"] <= now:
                del tokens[_hash(token.secret)]
            self._write(_TOKENS, tokens)
        if stored["expires"] <= now:
            raise JoinError("it has expired")
        identity, public = certificates.check_request(request)
        fits = (
            identity.name.startswith(stored["name"][:-1])
            if stored["name"].endswith("*")
            else identity.name == stored["name"]
        )
        if identity.overlay != self.overlay or identity.role.value != stored["role"] or not fits:
            wanted = f"layer8://{self.overlay}/{stored['role']}/{stored['name']}"
            raise JoinError(f"it is for {wanted}, not for {identity}")
        return self.issue(identity, public, now, stored["lifetime"])

    # ── revocation and rotation ────────────────────────────────────────────────────────────────────────────────────

    def revoke(self, who: str, now: float) -> list[int]:
        """Revokes every leaf of a URI, or the one with this serial number (hex). Returns the serial numbers.

        Raises ValueError when there is none that has not expired.
        """
        with locked(self.path):
            leaves = {serial: stored for serial, stored in self._leaves().items() if stored["expires"] > now}
            found = [serial for serial, stored in leaves.items() if who in (stored["uri"], serial)]
            if not found:
                raise ValueError(f"{who} has no leaf that could be revoked")
            for serial in found:
                leaves[serial]["revoked"] = leaves[serial]["revoked"] or now
            self._write(_ISSUED, leaves)
            self._make_revocations(self.trust(), leaves, now)
        return [int(serial, 16) for serial in found]

    def rotate(self, now: float, overlap: float = OVERLAP_SECONDS) -> Trust:
        """A new root beside the present one; see the head of this module."""
        if overlap < 0:
            raise ValueError("an overlap is not negative")
        with locked(self.path):
            trust = self.trust()
            if trust.roots[-1].signs_from > now:
                raise StateError(str(self.path), "a rotation is under way; its new root does not sign yet")
            number = len(trust.roots) + 1
            key, before = certificates.new_key(), self._key(number - 2)
            certificate = certificates.make_root(self.overlay, number, key, now)
            new = Root(certificate=certificate, signs_from=now + overlap / 2, until=0.0, endorsement=b"")
            new = Root(
                certificate=certificate,
                signs_from=new.signs_from,
                until=0.0,
                endorsement=certificates.sign(before, new.endorsed()),
            )
            roots = [
                root
                if root.until
                else Root(
                    certificate=root.certificate,
                    signs_from=root.signs_from,
                    until=now + overlap,
                    endorsement=root.endorsement,
                )
                for root in trust.roots
            ]
            rotated = Trust.make(self.overlay, trust.number + 1, [*roots, new], key)
            write_private(self.path / f"root-{number}.key", certificates.key_to_pem(key))
            write_private(self.path / _TRUST, rotated.encode())
            self._make_revocations(rotated, self._leaves(), now)
        return rotated

    # ── what stands in the directory ───────────────────────────────────────────────────────────────────────────────

    def _make_revocations(self, trust: Trust, leaves: dict[str, _StoredLeaf], now: float) -> None:
        """Signed by the root that signs now: everybody believes it, who has renewed in time."""
        old = x509.load_pem_x509_crl(read_private(self.path / _REVOKED))  # its root may be past its time
        number = old.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        revoked = [(int(serial, 16), stored["revoked"]) for serial, stored in leaves.items() if stored["revoked"]]
        index = trust.signing(now)
        made = certificates.make_revocations(trust.roots[index].certificate, self._key(index), revoked, number + 1, now)
        write_private(self.path / _REVOKED, certificates.to_pem(made))

    def _key(self, index: int) -> Key:
        return certificates.key_from_pem(read_private(self.path / f"root-{index + 1}.key"))

    def _leaves(self) -> dict[str, _StoredLeaf]:
        return self._read(_ISSUED, _StoredLeaf)

    def _tokens(self) -> dict[str, _StoredToken]:
        return self._read(_TOKENS, _StoredToken)

    def _read(self, name: str, kind: type[_Stored]) -> dict[str, _Stored]:
        try:
            return msgspec.json.decode(read_private(self.path / name), type=dict[str, kind])  # type: ignore[valid-type]
        except msgspec.DecodeError as error:
            raise StateError(str(self.path / name), "it cannot be read") from error

    def _write(self, name: str, content: object) -> None:
        write_private(self.path / name, json.dumps(content, indent=1).encode())


def _hash(secret: bytes) -> str:
    """What is stored of a token. It is as random as the hash is long, so a plain hash gives nothing away."""
    return hashlib.sha256(b"layer8 join secret 1\0" + secret).hexdigest()
