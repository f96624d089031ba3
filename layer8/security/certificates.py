"""Certificates of an overlay: what may stand in one. No files, no clock; whom to believe stands in trust.py.

    root 1 ──signs──▶ leaf layer8://shop/vnet/host-a        key P-256, depth one: a root signs leaves and nothing else
       └─endorses──▶ root 2 ──signs──▶ leaf layer8://shop/vnic/web

A leaf names one identity, as its one URI SAN, and has no subject. Names are compared whole. A leaf for a Vnic says
clientAuth only, one for a Vnet serverAuth too, and the role stands in the URI: what is made for one is no other.

The revocation list is an X.509 CRL (RFC 5280) of the newest root, whose CRLNumber only grows.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from layer8.errors import Layer8Error
from layer8.protocol.statement import Role

LEAF_SECONDS = 24 * 3600.0
ROOT_SECONDS = 10 * 365 * 24 * 3600.0
BACKDATED_SECONDS = 60.0
"""A leaf is valid from so long before it was made: clocks differ."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_SHA256 = ec.ECDSA(hashes.SHA256())

Key = ec.EllipticCurvePrivateKey


class CertificateError(Layer8Error):
    """A certificate, a request or a list that is not believed. `what`: which; `reason`: why."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


# ── names ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_name(name: str, what: str = "the name") -> str:
    """1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot. Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r} is not 1 to 64 of A-Z a-z 0-9 . _ -, or begins with a dot")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a leaf stands for. `name`: the host of a Vnet, or the name of a Vnic."""

    overlay: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        check_name(self.overlay, "the overlay")
        check_name(self.name)

    @property
    def uri(self) -> str:
        return f"layer8://{self.overlay}/{self.role.value}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """Raises ValueError for everything but exactly what `uri` makes."""
        parts = uri.removeprefix("layer8://").split("/")
        if uri.startswith("layer8://") and len(parts) == 3 and parts[1] in (Role.VNET.value, Role.VNIC.value):
            return cls(overlay=parts[0], role=Role(parts[1]), name=parts[2])
        raise ValueError(f"{uri[:200]!r} is no layer8://OVERLAY/vnet/HOST or layer8://OVERLAY/vnic/NAME")

    def __str__(self) -> str:
        return self.uri


# ── keys ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_pem(data: bytes) -> Key:
    """Raises CertificateError, which says nothing of the content."""
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError):
        raise CertificateError("private key", "it cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError("private key", "it is not of P-256")
    return key


def spki(public: ec.EllipticCurvePublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def sign(key: Key, data: bytes) -> bytes:
    return key.sign(data, _SHA256)


def is_signed(certificate: x509.Certificate, signature: bytes, data: bytes) -> bool:
    """Whether the key of this certificate has signed `data`."""
    public = certificate.public_key()
    if not is_p256(public):
        return False
    assert isinstance(public, ec.EllipticCurvePublicKey)
    try:
        public.verify(signature, data, _SHA256)
    except InvalidSignature:
        return False
    return True


def certificate_from_pem(data: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise CertificateError("certificate", "it cannot be read") from error


def to_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def to_pem(thing: x509.Certificate | x509.CertificateSigningRequest | x509.CertificateRevocationList) -> bytes:
    return thing.public_bytes(serialization.Encoding.PEM)


def is_p256(public: object) -> bool:
    return isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


# ── making ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_root(overlay: str, number: int, key: Key, now: float, lifetime: float = ROOT_SECONDS) -> x509.Certificate:
    """The certificate of an overlay's authority; self-signed, may sign leaves only."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"layer8 {check_name(overlay)} authority {number}")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - BACKDATED_SECONDS))
        .not_valid_after(_utc(now + lifetime))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_leaf(
    root: x509.Certificate,
    root_key: Key,
    identity: Identity,
    public: ec.EllipticCurvePublicKey,
    now: float,
    lifetime: float = LEAF_SECONDS,
) -> x509.Certificate:
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.role is Role.VNET:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    return _sign_leaf(root, root_key, identity.uri, usages, public, now, lifetime)


def service_uri(overlay: str) -> str:
    """The name in the leaf by which the authority itself is known where others enrol. It is no identity."""
    return f"layer8://{overlay}/authority"


def make_service_leaf(
    root: x509.Certificate, root_key: Key, overlay: str, public: ec.EllipticCurvePublicKey, now: float, lifetime: float
) -> x509.Certificate:
    """The authority's own leaf, to listen with; nobody takes it for a Vnet or a Vnic."""
    return _sign_leaf(root, root_key, service_uri(overlay), [ExtendedKeyUsageOID.SERVER_AUTH], public, now, lifetime)


def _sign_leaf(
    root: x509.Certificate,
    root_key: Key,
    uri: str,
    usages: list[x509.ObjectIdentifier],
    public: ec.EllipticCurvePublicKey,
    now: float,
    lifetime: float,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(root.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - BACKDATED_SECONDS))
        .not_valid_after(_utc(min(now + lifetime, root.not_valid_after_utc.timestamp())))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_authority_key_identifier(root), critical=False)
        .sign(root_key, hashes.SHA256())
    )


def _usage(*, sign_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(root: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    found = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def make_request(identity: Identity, key: Key) -> bytes:
    """A signing request (PKCS #10, PEM): proves that its maker has the key, and asks for this identity."""
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return to_pem(builder.add_extension(san, critical=True).sign(key, hashes.SHA256()))


def check_request(data: bytes) -> tuple[Identity, ec.EllipticCurvePublicKey]:
    """What a request asks for, and for which key. Raises CertificateError."""
    what = "signing request"
    if len(data) > 16384:
        raise CertificateError(what, "it is too large")
    try:
        request = x509.load_pem_x509_csr(data)
        if not request.is_signature_valid:
            raise CertificateError(what, "it is not signed by its own key")
        public = request.public_key()
        extensions = request.extensions
    except (ValueError, TypeError) as error:
        raise CertificateError(what, "it cannot be read") from error
    if not is_p256(public):
        raise CertificateError(what, "its key is not of P-256")
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return _identity_in(extensions, what), public


def make_revocations(
    root: x509.Certificate, root_key: Key, serials: Iterable[tuple[int, float]], number: int, now: float
) -> x509.CertificateRevocationList:
    """The list number `number`; `serials` with the time of each."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(root.subject)
        .last_update(_utc(now))
        .next_update(_utc(now + ROOT_SECONDS))
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial, time in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_utc(time)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(root_key, hashes.SHA256())


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


def leaf_identity(certificate: x509.Certificate) -> Identity:
    """The one identity in a leaf; whether it is believed is not asked. Raises CertificateError."""
    what = "certificate"
    try:
        extensions = certificate.extensions
        version, public = certificate.version, certificate.public_key()
    except (ValueError, TypeError, x509.DuplicateExtension) as error:
        raise CertificateError(what, f"it cannot be read: {error}") from error
    if version is not x509.Version.v3 or not is_p256(public):
        raise CertificateError(what, "it is not an X.509 v3 certificate with a key of P-256")
    for extension in extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            raise CertificateError(what, f"it has a critical extension {extension.oid.dotted_string}")
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise CertificateError(what, f"it lacks an extension: {error}") from error
    if constraints.ca or usage.key_cert_sign or not usage.digital_signature:
        raise CertificateError(what, "it is not a leaf that may sign for itself")
    identity = _identity_in(extensions, what)
    if (ExtendedKeyUsageOID.SERVER_AUTH in usages) != (identity.role is Role.VNET):
        raise CertificateError(what, f"it is made for another role than {identity}")
    return identity


_UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)


def _identity_in(extensions: x509.Extensions, what: str) -> Identity:
    try:
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        raise CertificateError(what, "it names nobody: it has no subject alternative name") from None
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise CertificateError(what, "it has other names than one URI")
    try:
        return Identity.parse(names[0].value)
    except ValueError as error:
        raise CertificateError(what, str(error)) from error
