"""Certificates: what may stand in one, and which are believed."""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from layer8.protocol.statement import Role
from layer8.security import certificates
from layer8.security.certificates import CertificateError, Identity
from layer8.security.trust import Root, Trust

NOW = 1_800_000_000.0
HOUR = 3600.0
WEB = Identity(overlay="shop", role=Role.VNIC, name="web")
HOST = Identity(overlay="shop", role=Role.VNET, name="host-a")

ROOT_KEY = certificates.new_key()
ROOT = certificates.make_root("shop", 1, ROOT_KEY, NOW)
TRUST = Trust.make("shop", 1, [Root(certificate=ROOT, signs_from=0.0, until=0.0, endorsement=b"")], ROOT_KEY)
KEY = certificates.new_key()


def leaf(identity: Identity = WEB, **options: Any) -> x509.Certificate:
    return certificates.make_leaf(ROOT, ROOT_KEY, identity, KEY.public_key(), NOW, **options)


def odd_leaf(
    names: list[x509.GeneralName] | None = None,
    *,
    issuer: x509.Name = ROOT.subject,
    signer: ec.EllipticCurvePrivateKey = ROOT_KEY,
    public: Any = None,
    ca: bool = False,
    usages: list[x509.ObjectIdentifier] | None = None,
    hash_: Any = None,
    extra: x509.ExtensionType | None = None,
    without: type[Any] | None = None,
    may_sign: bool = True,
) -> x509.Certificate:
    """What no authority of ours makes."""
    usage = x509.KeyUsage(may_sign, False, False, False, False, ca, False, False, False)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName(names or [x509.UniformResourceIdentifier(WEB.uri)]), True),
        (x509.BasicConstraints(ca=ca, path_length=None), True),
        (usage, True),
        (x509.ExtendedKeyUsage(usages or [ExtendedKeyUsageOID.CLIENT_AUTH]), False),
    ]
    if extra is not None:
        extensions.append((extra, True))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer)
        .public_key(public or KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(NOW - 60, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(NOW + HOUR, datetime.UTC))
    )
    for value, critical in extensions:
        if without is None or not isinstance(value, without):
            builder = builder.add_extension(value, critical)
    return builder.sign(signer, hash_ or hashes.SHA256())


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


# ── names ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    overlay=st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", fullmatch=True),
    role=st.sampled_from(Role),
    name=st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", fullmatch=True),
)
def test_an_identity_is_its_uri(overlay: str, role: Role, name: str) -> None:
    identity = Identity(overlay=overlay, role=role, name=name)
    assert Identity.parse(identity.uri) == identity


@given(st.text())
def test_nothing_else_is_an_identity(text: str) -> None:
    for written in (text, f"layer8://shop/vnic/{text}", f"layer8://{text}/vnic/web"):
        try:
            identity = Identity.parse(written)
        except ValueError:
            continue
        assert identity.uri == written


@pytest.mark.parametrize(
    "text",
    [
        "layer8://shop/vnic/web/",
        "layer8://shop/vnic/web?x",
        "layer8://shop/vnic/",
        "layer8://shop/admin/web",
        "LAYER8://shop/vnic/web",
        "layer8://shop/VNIC/web",
        "layer8://shop/vnic/../vnet/a",
        "layer8://shop/vnic/%77eb",
        "layer8://shop/vnic/web\0",
        "layer8://shop/vnic/web\n",
        "layer8:///vnic/web",
        "https://shop/vnic/web",
    ],
)
def test_a_uri_that_is_nearly_one_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        Identity.parse(text)


# ── leaves ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("identity", [WEB, HOST])
def test_a_leaf_of_the_authority_is_believed(identity: Identity) -> None:
    assert TRUST.identify(leaf(identity), NOW, None) == identity


def test_a_leaf_has_exactly_one_name_and_no_subject() -> None:
    certificate = leaf()
    assert not list(certificate.subject)
    names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    assert names == [uri("layer8://shop/vnic/web")]


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (odd_leaf([uri(WEB.uri), uri(HOST.uri)]), "other names than one URI"),
        (odd_leaf([uri(WEB.uri), uri(WEB.uri)]), "other names than one URI"),
        (odd_leaf([uri(WEB.uri), x509.DNSName("web")]), "other names than one URI"),
        (odd_leaf([x509.DNSName("web")]), "other names than one URI"),
        (odd_leaf(without=x509.SubjectAlternativeName), "names nobody"),
        (odd_leaf([uri("layer8://shop/vnic/web/x")]), "is no layer8://"),
        (odd_leaf([uri("https://shop/vnic/web")]), "is no layer8://"),
        (odd_leaf([uri("layer8://other/vnic/web")]), "of another overlay"),
        (odd_leaf([uri(HOST.uri)]), "for another role"),
        (odd_leaf(usages=[ExtendedKeyUsageOID.SERVER_AUTH]), "for another role"),
        (odd_leaf(without=x509.ExtendedKeyUsage), "lacks an extension"),
        (odd_leaf(without=x509.BasicConstraints), "lacks an extension"),
        (odd_leaf(ca=True), "not a leaf"),
        (odd_leaf(may_sign=False), "not a leaf"),
        (odd_leaf(signer=KEY), "not signed by an authority"),  # by itself, in the authority's name
        (odd_leaf(issuer=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])), "not signed by an authority"),
        (odd_leaf(hash_=hashes.SHA384()), "not signed by an authority"),
        (odd_leaf(public=rsa.generate_private_key(65537, 2048).public_key()), "key of P-256"),
        (odd_leaf(public=ec.generate_private_key(ec.SECP384R1()).public_key()), "key of P-256"),
        (odd_leaf(extra=x509.NameConstraints(None, [x509.DNSName("x")])), "critical extension"),
        (ROOT, "lacks an extension"),
    ],
)
def test_what_is_not_exactly_such_a_leaf_is_refused(certificate: x509.Certificate, reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        TRUST.identify(certificate, NOW, None)


def test_a_leaf_of_which_one_bit_was_changed_is_refused_also_where_nobody_has_signed() -> None:
    while (good := leaf()).signature[-1] & 1:  # so that one bit of it can be called unused
        pass
    der = certificates.to_der(good)
    at = len(der) - len(good.signature) - 1
    changed = x509.load_der_x509_certificate(der[:at] + b"\1" + der[at + 1 :])
    assert changed.signature == good.signature
    assert TRUST.identify(good, NOW, None) == WEB
    with pytest.raises(CertificateError, match="not signed by an authority"):
        TRUST.identify(changed, NOW, None)


def test_a_leaf_signs_no_leaf() -> None:
    below = odd_leaf(issuer=leaf().subject, signer=KEY)
    with pytest.raises(CertificateError, match="not signed by an authority"):
        TRUST.identify(below, NOW, None)


def test_another_overlays_leaf_is_refused_also_if_it_has_the_same_name() -> None:
    key = certificates.new_key()
    root = certificates.make_root("shop", 1, key, NOW)
    other = certificates.make_leaf(root, key, WEB, KEY.public_key(), NOW)
    with pytest.raises(CertificateError, match="not signed by an authority of shop"):
        TRUST.identify(other, NOW, None)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (NOW - certificates.BACKDATED_SECONDS - 1, "not valid"),
        (NOW + HOUR, "has expired"),
        (NOW + HOUR + 1, "has expired"),
        (NOW + certificates.ROOT_SECONDS + 1, "not valid now"),
    ],
)
def test_a_leaf_is_believed_in_its_time_only(now: float, reason: str) -> None:
    certificate = leaf(lifetime=HOUR)
    TRUST.identify(certificate, NOW + HOUR - 1, None)
    with pytest.raises(CertificateError, match=reason):
        TRUST.identify(certificate, now, None)


def test_a_leaf_does_not_outlive_its_root() -> None:
    certificate = leaf(lifetime=2 * certificates.ROOT_SECONDS)
    assert certificate.not_valid_after_utc == ROOT.not_valid_after_utc


# ── revocation ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_revoked_leaf_is_refused_and_others_are_not() -> None:
    one, other = leaf(), leaf()
    made = certificates.make_revocations(ROOT, ROOT_KEY, [(one.serial_number, NOW)], 7, NOW)
    revoked, number = TRUST.check_revocations(certificates.to_pem(made), NOW)
    assert number == 7
    with pytest.raises(CertificateError, match="was revoked"):
        TRUST.identify(one, NOW, revoked)
    assert TRUST.identify(other, NOW, revoked) == WEB


def test_a_revocation_list_of_somebody_else_is_refused() -> None:
    made = certificates.make_revocations(ROOT, KEY, [], 9, NOW)
    with pytest.raises(CertificateError, match="not signed by an authority"):
        TRUST.check_revocations(certificates.to_pem(made), NOW)
    with pytest.raises(CertificateError, match="cannot be read"):
        TRUST.check_revocations(b"nonsense", NOW)


# ── the list of roots ──────────────────────────────────────────────────────────────────────────────────────────────


def rotated(trust: Trust = TRUST, key: ec.EllipticCurvePrivateKey = ROOT_KEY) -> tuple[Trust, Any]:
    new_key = certificates.new_key()
    new = Root(
        certificate=certificates.make_root("shop", len(trust.roots) + 1, new_key, NOW),
        signs_from=NOW + HOUR,
        until=0.0,
        endorsement=b"",
    )
    new = dataclasses.replace(new, endorsement=certificates.sign(key, new.endorsed()))
    old = [dataclasses.replace(root, until=root.until or NOW + 2 * HOUR) for root in trust.roots]
    return Trust.make("shop", trust.number + 1, [*old, new], new_key), new_key


def test_both_roots_are_good_in_the_overlap_and_the_name_stays() -> None:
    trust, key = rotated()
    old = leaf(lifetime=10 * HOUR)
    new = certificates.make_leaf(trust.roots[1].certificate, key, WEB, KEY.public_key(), NOW)
    assert trust.fingerprint == TRUST.fingerprint
    assert (trust.signing(NOW), trust.signing(NOW + HOUR)) == (0, 1)
    assert trust.identify(old, NOW + HOUR, None) == trust.identify(new, NOW + HOUR, None) == WEB
    with pytest.raises(CertificateError, match="not signed by an authority"):
        trust.identify(old, NOW + 2 * HOUR, None)
    assert trust.identify(new, NOW + 2 * HOUR, None) == WEB


def test_a_list_is_what_was_written() -> None:
    trust, _ = rotated()
    again = Trust.decode(trust.encode())
    assert again.encode() == trust.encode()
    assert again.fingerprint == TRUST.fingerprint
    assert again.follows(TRUST)
    assert not TRUST.follows(again)
    assert not again.follows(again)


def test_a_root_that_is_believed_no_more_cannot_lead_back() -> None:
    trust, _ = rotated()
    forked, _ = rotated()  # by whoever has stolen the first key
    assert forked.follows(TRUST)
    further = Trust.make("shop", 99, forked.roots, certificates.new_key())
    assert not further.follows(trust)


@pytest.mark.parametrize(
    "change",
    [
        {"number": 3},
        {"overlay": "other"},
        {"signature": "00"},
        {"roots": []},
        {"overlay": "../x"},
        {"number": None},
    ],
    ids=str,
)
def test_a_list_that_was_changed_is_refused(change: dict[str, object]) -> None:
    trust, _ = rotated()
    fields = json.loads(trust.encode()) | change
    with pytest.raises(CertificateError):
        Trust.decode(json.dumps(fields).encode())


def test_a_root_that_nobody_endorsed_is_refused() -> None:
    trust, key = rotated()
    stranger = dataclasses.replace(trust.roots[1], endorsement=certificates.sign(KEY, trust.roots[1].endorsed()))
    made = Trust.make("shop", 2, [trust.roots[0], stranger], key)
    with pytest.raises(CertificateError, match="not endorsed"):
        Trust.decode(made.encode())


@given(st.binary(max_size=200))
def test_garbage_is_refused_everywhere(data: bytes) -> None:
    for read in (
        Trust.decode,
        certificates.check_request,
        certificates.certificate_from_pem,
        certificates.key_from_pem,
    ):
        with pytest.raises(CertificateError):
            read(data)


# ── requests and keys ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_asks_for_one_identity_with_the_key_that_signed_it() -> None:
    identity, public = certificates.check_request(certificates.make_request(WEB, KEY))
    assert identity == WEB
    assert public == KEY.public_key()


def test_a_key_of_another_kind_or_an_encrypted_one_is_refused_without_repeating_it() -> None:
    pem = certificates.key_to_pem(KEY)
    assert certificates.key_from_pem(pem).public_key() == KEY.public_key()
    broken = pem.replace(pem[40:60], b"A" * 20)
    with pytest.raises(CertificateError) as caught:
        certificates.key_from_pem(broken)
    assert "AAAA" not in str(caught.value)
    assert caught.value.__cause__ is None
