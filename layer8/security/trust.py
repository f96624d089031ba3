"""Whom an overlay believes: its list of roots, and what they have signed. No files, no clock.

`Trust` is the list of roots that are believed: signed by the newest, with a number that only grows. Each root but the
first is endorsed by the one before, so whoever holds an older list can check a newer one, and the overlay keeps its
name: the fingerprint is that of the first root's key and of the overlay's name, whichever root signs today. A list
that does not begin with the roots already known is refused, so a root that is no longer believed cannot lead back.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from layer8.protocol.link_messages import LARGEST_LIST
from layer8.security.certificates import (
    CertificateError,
    Identity,
    Key,
    check_name,
    is_p256,
    is_signed,
    leaf_identity,
    service_uri,
    sign,
    spki,
    to_der,
)

MAX_ROOTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A root of the list. `signs_from`: before that the one before it signs. `until`: believed so long, 0.0 for ever.
    `endorsement`: signature of the root before it; empty for the first."""

    certificate: x509.Certificate
    signs_from: float
    until: float
    endorsement: bytes

    def endorsed(self) -> bytes:
        """What the root before it signs."""
        return b"layer8 root 1\0" + to_der(self.certificate)


class Trust:
    """Which roots an overlay believes. Never changes; any thread."""

    def __init__(self, overlay: str, number: int, roots: Iterable[Root], signature: bytes) -> None:
        self.overlay = overlay
        self.number = number
        self.roots = tuple(roots)
        self.signature = signature
        public = self.roots[0].certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        self.fingerprint = hashlib.sha256(b"layer8 x509 1\0" + overlay.encode() + b"\0" + spki(public)).digest()

    @classmethod
    def make(cls, overlay: str, number: int, roots: Iterable[Root], newest_key: Key) -> Trust:
        roots = tuple(roots)
        return cls(overlay, number, roots, sign(newest_key, _list_body(overlay, number, roots)))

    @classmethod
    def decode(cls, data: bytes) -> Trust:
        """Raises CertificateError for a list that is not in order in itself."""
        what = "list of roots"
        try:
            if len(data) > LARGEST_LIST:
                raise ValueError("too large")
            fields = json.loads(data)
            roots = [
                Root(
                    certificate=x509.load_der_x509_certificate(base64.b64decode(root["certificate"], validate=True)),
                    signs_from=float(root["signs_from"]),
                    until=float(root["until"]),
                    endorsement=bytes.fromhex(root["endorsement"]),
                )
                for root in fields["roots"][: MAX_ROOTS + 1]
            ]
            overlay, number = check_name(str(fields["overlay"])), int(fields["number"])
            signature = bytes.fromhex(fields["signature"])
        except (ValueError, KeyError, TypeError, binascii.Error, RecursionError) as error:
            raise CertificateError(what, f"it cannot be read: {error}") from error
        if not 1 <= len(roots) <= MAX_ROOTS:
            raise CertificateError(what, "it has no root, or too many")
        for root in roots:
            if not is_p256(root.certificate.public_key()):
                raise CertificateError(what, "a root's key is not of P-256")
        for before, root in itertools.pairwise(roots):
            if not is_signed(before.certificate, root.endorsement, root.endorsed()):
                raise CertificateError(what, "a root is not endorsed by the one before it")
        if not is_signed(roots[-1].certificate, signature, _list_body(overlay, number, roots)):
            raise CertificateError(what, "it is not signed by its newest root")
        return cls(overlay, number, roots, signature)

    def encode(self) -> bytes:
        fields = json.loads(_list_body(self.overlay, self.number, self.roots))
        return json.dumps(fields | {"signature": self.signature.hex()}, indent=1).encode() + b"\n"

    def follows(self, known: Trust) -> bool:
        """Whether it is a newer list of the same overlay, which begins with the roots that are known."""
        mine = [root.certificate for root in self.roots]
        theirs = [root.certificate for root in known.roots]
        return self.overlay == known.overlay and self.number > known.number and mine[: len(theirs)] == theirs

    def signing(self, now: float) -> int:
        """Which root signs: its index."""
        return max((index for index, root in enumerate(self.roots) if root.signs_from <= now), default=0)

    def believed(self, now: float) -> list[x509.Certificate]:
        """The roots that are good now."""
        return [root.certificate for root in self.roots if not root.until or now < root.until]

    def identify(
        self, certificate: x509.Certificate, now: float, revoked: x509.CertificateRevocationList | None
    ) -> Identity:
        """Whom this leaf stands for. `now`: Unix seconds. Raises CertificateError."""
        what = "certificate"
        identity = leaf_identity(certificate)
        if identity.overlay != self.overlay:
            raise CertificateError(what, f"{identity} is of another overlay than {self.overlay}")
        self._check_signed(certificate, str(identity), now)
        if revoked is not None and revoked.get_revoked_certificate_by_serial_number(certificate.serial_number):
            raise CertificateError(what, f"{identity} was revoked (serial {certificate.serial_number:x})")
        return identity

    def check_service(self, certificate: x509.Certificate, now: float) -> None:
        """Whether this is the authority's own leaf, good now. Raises CertificateError."""
        what = "authority"
        try:
            names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
            usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
            raise CertificateError(what, f"its certificate is not one of an authority: {error}") from error
        mine = x509.UniformResourceIdentifier(service_uri(self.overlay))
        if names != [mine] or list(usages) != [ExtendedKeyUsageOID.SERVER_AUTH]:
            raise CertificateError(what, "who answered is not the authority")
        self._check_signed(certificate, mine.value, now)

    def _check_signed(self, certificate: x509.Certificate, who: str, now: float) -> None:
        what = "certificate"
        issuer = next((root for root in self.believed(now) if _issued(root, certificate)), None)
        if issuer is None:
            raise CertificateError(what, f"{who} is not signed by an authority of {self.overlay}")
        if not issuer.not_valid_before_utc.timestamp() <= now < issuer.not_valid_after_utc.timestamp():
            raise CertificateError(what, f"the authority that signed {who} is not valid now")
        if now < certificate.not_valid_before_utc.timestamp():
            raise CertificateError(what, f"{who} is not valid yet: from {certificate.not_valid_before_utc}")
        if now >= certificate.not_valid_after_utc.timestamp():
            raise CertificateError(what, f"{who} has expired: {certificate.not_valid_after_utc}")

    def check_revocations(self, data: bytes, now: float) -> tuple[x509.CertificateRevocationList, int]:
        """A list (PEM) and its number. Raises CertificateError for one that no root of this overlay has signed."""
        what = "revocation list"
        try:
            found = x509.load_pem_x509_crl(data)
            number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except (ValueError, x509.ExtensionNotFound) as error:
            raise CertificateError(what, f"it cannot be read: {error}") from error
        for root in self.believed(now):
            public = root.public_key()
            assert isinstance(public, ec.EllipticCurvePublicKey)
            if found.issuer == root.subject and found.is_signature_valid(public):
                return found, number
        raise CertificateError(what, f"it is not signed by an authority of {self.overlay}")


def _issued(root: x509.Certificate, certificate: x509.Certificate) -> bool:
    """The signature is the end of the certificate and fills its bytes. How many bits of the last are unused stands
    before it, signed by nobody: another number there would be another certificate with the same signature."""
    if not isinstance(certificate.signature_hash_algorithm, hashes.SHA256):
        return False
    if not to_der(certificate).endswith(b"\0" + certificate.signature):
        return False
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _list_body(overlay: str, number: int, roots: Iterable[Root]) -> bytes:
    """What the newest root signs."""
    fields = {
        "layer8": "roots 1",
        "overlay": overlay,
        "number": number,
        "roots": [
            {
                "certificate": base64.b64encode(to_der(root.certificate)).decode(),
                "signs_from": root.signs_from,
                "until": root.until,
                "endorsement": root.endorsement.hex(),
            }
            for root in roots
        ],
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
