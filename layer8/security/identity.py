"""The state directory of one identity: who a Vnet or a Vnic is, and whom it believes.

    identity.pem       its private key, which never leaves this directory, and its leaf; one file, so they always fit
    request.key        the key of a signing request that has not been answered yet
    trust.json         the roots of the overlay (Trust)
    revoked.pem        the revocation list

All files are 0600 in a directory of 0700, and are replaced whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from layer8.security import certificates
from layer8.security.certificates import CertificateError, Identity, Key
from layer8.security.files import check_directory, locked, make_directory, read_private, write_private
from layer8.security.trust import Trust

IDENTITY, REQUEST_KEY, TRUST, REVOKED = "identity.pem", "request.key", "trust.json", "revoked.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a directory holds. `revoked_number`: of the revocation list. A `repr` has no secret in it."""

    identity: Identity
    key: Key
    certificate: x509.Certificate
    trust: Trust
    revoked: x509.CertificateRevocationList
    revoked_number: int

    @property
    def expires(self) -> float:
        """Unix seconds."""
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def renew_at(self) -> float:
        """Half-life, Unix seconds. Counted from when it was made: it is valid from a little before that."""
        made = self.certificate.not_valid_before_utc.timestamp() + certificates.BACKDATED_SECONDS
        return (made + self.expires) / 2

    def __repr__(self) -> str:
        return f"<Credentials {self.identity} until {self.certificate.not_valid_after_utc}>"


_NONE = (
    "there is no identity; `layer8 security join`, or `issue --into`, makes one there, and LAYER8_IDENTITY says where "
    "another one is"
)


def load(path: Path, now: float) -> Credentials:
    """Raises StateError or CertificateError. A leaf that has expired is no error here: it may be renewed yet."""
    check_directory(path, _NONE)
    pem = read_private(path / IDENTITY)
    certificate = certificates.certificate_from_pem(pem)
    trust = Trust.decode(read_private(path / TRUST))
    revoked, number = trust.check_revocations(read_private(path / REVOKED), now)
    return Credentials(
        identity=certificates.leaf_identity(certificate),
        key=certificates.key_from_pem(pem),
        certificate=certificate,
        trust=trust,
        revoked=revoked,
        revoked_number=number,
    )


def request(path: Path, identity: Identity) -> bytes:
    """A signing request (PEM) for a new key, which is kept until `install` brings the answer."""
    make_directory(path)
    key = certificates.new_key()
    with locked(path):
        write_private(path / REQUEST_KEY, certificates.key_to_pem(key))
    return certificates.make_request(identity, key)


def install(path: Path, certificate: bytes, trust: bytes, revoked: bytes, key: Key | None = None) -> None:
    """Puts a leaf and what belongs to it there. `key`: of the leaf; by default that of the request.

    Raises StateError or CertificateError, and then has changed nothing.
    """
    make_directory(path)
    leaf = certificates.certificate_from_pem(certificate)
    certificates.leaf_identity(leaf)
    with locked(path):
        ours = key if key is not None else certificates.key_from_pem(read_private(path / REQUEST_KEY))
        if leaf.public_key() != ours.public_key():
            raise CertificateError("certificate", "it is for another key than the one in this directory")
        _put_trust(path, trust, revoked)
        write_private(path / IDENTITY, certificates.key_to_pem(ours) + certificates.to_pem(leaf))
        if key is None:
            (path / REQUEST_KEY).unlink(missing_ok=True)


def refresh(path: Path, trust: bytes, revoked: bytes, now: float) -> bool:
    """Takes newer lists over, from wherever they come: they are signed. Whether anything was newer.

    Raises CertificateError for lists that are not of this overlay or not in order.
    """
    with locked(path):
        known = Trust.decode(read_private(path / TRUST))
        offered = Trust.decode(trust)
        newer = offered.follows(known)
        if not newer and offered.encode() != known.encode():
            if offered.fingerprint != known.fingerprint:
                raise CertificateError("list of roots", "it is of another overlay")
            if offered.number > known.number:
                raise CertificateError("list of roots", "it does not begin with the roots that are known")
        used = offered if newer else known
        _, number = used.check_revocations(revoked, now)
        try:
            _, have = used.check_revocations(read_private(path / REVOKED), now)
        except CertificateError:
            have = -1  # of a root that is no longer believed
        if newer:
            write_private(path / TRUST, trust)
        if number > have:
            write_private(path / REVOKED, revoked)
        return newer or number > have


def _put_trust(path: Path, trust: bytes, revoked: bytes) -> None:
    offered = Trust.decode(trust)
    if (path / TRUST).exists():
        known = Trust.decode(read_private(path / TRUST))
        if not offered.follows(known) and offered.encode() != known.encode():
            raise CertificateError("list of roots", f"it is older than, or of another overlay than, the one in {path}")
    write_private(path / TRUST, trust)
    write_private(path / REVOKED, revoked)
