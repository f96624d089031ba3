"""Joining and renewing: the exchange as a table, then over TLS by sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layer8.errors import Layer8Error
from layer8.protocol.statement import Role
from layer8.security import certificates, enrolment, enrolment_client, identity
from layer8.security.authority import Authority, JoinError, Token
from layer8.security.certificates import CertificateError, Identity
from layer8.security.enrolment import (
    LARGEST_QUESTION,
    Answer,
    Applicant,
    EnrolmentRefused,
    Given,
    Join,
    Lists,
    Registrar,
    Renew,
    Roots,
    Seal,
    Told,
    What,
    make_renewal,
)
from layer8.security.enrolment_client import AuthorityUnreachable
from layer8.security.enrolment_service import Door, EnrolmentService, Passage

NOW = 1_800_000_000.0
BINDING = b"of this connection"
_RENEW = b"layer8 renew 1\0"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", "shop", NOW)


def _service_leaf(authority: Authority, now: float = NOW) -> bytes:
    return certificates.to_der(certificates.certificate_from_pem(Seal(authority, now).leaf))


def _registrar(authority: Authority, shown: bytes | None = None, told: Told = lambda *_: None) -> Registrar:
    return Registrar(authority, Seal(authority, NOW), BINDING, shown, told)


def _request(name: str = "web", role: Role = Role.VNIC, overlay: str = "shop") -> bytes:
    return certificates.make_request(Identity(overlay=overlay, role=role, name=name), certificates.new_key())


def _exchange(authority: Authority, applicant: Applicant, *, shown: bytes | None = None) -> Given:
    """Both machines, without a socket. `shown`: by the applicant."""
    registrar = _registrar(authority, shown)
    question = applicant.receive(registrar.greeting(), BINDING, NOW)
    applicant.receive(registrar.receive(question, NOW), BINDING, NOW)
    assert registrar.done
    assert applicant.answer is not None
    return applicant.answer


def _joining(token: Token, request: bytes) -> Applicant:
    return Applicant(token.fingerprint, lambda overlay: Join(token=token.text(), request=request))


def test_a_token_gives_a_certificate_once(authority: Authority) -> None:
    token = authority.make_token(Role.VNIC, "web", NOW)
    given = _exchange(authority, _joining(token, _request()))
    leaf = certificates.certificate_from_pem(given.certificate)
    assert certificates.leaf_identity(leaf).uri == "layer8://shop/vnic/web"
    with pytest.raises(EnrolmentRefused, match="not good") as caught:
        _exchange(authority, _joining(token, _request()))
    assert "unknown" not in str(caught.value)  # a stranger is not told why


@pytest.mark.parametrize("request_", [_request("other"), _request(role=Role.VNET), _request(overlay="else"), b"no PEM"])
def test_a_token_for_another_or_with_nonsense_gives_nothing_and_is_used_up(
    authority: Authority, request_: bytes
) -> None:
    token = authority.make_token(Role.VNIC, "web", NOW)
    for request in (request_, _request()):
        with pytest.raises(EnrolmentRefused):
            _exchange(authority, _joining(token, request))


def test_what_was_refused_stands_with_its_reason_in_the_authoritys_log(authority: Authority) -> None:
    told: list[tuple[What, str, bool, str]] = []
    registrar = _registrar(authority, None, lambda *what: told.append(what))
    token = Token(b"x" * 32, authority.fingerprint)
    applicant = _joining(token, _request())
    question = applicant.receive(registrar.greeting(), BINDING, NOW)
    with pytest.raises(EnrolmentRefused):
        applicant.receive(registrar.receive(question, NOW), BINDING, NOW)
    ((what, who, granted, why),) = told
    assert (what, who, granted) == (What.JOIN, "", False)
    assert "unknown" in why
    assert token.text() not in why


def test_the_token_leaves_the_joiner_for_the_authority_alone(authority: Authority, tmp_path: Path) -> None:
    token = authority.make_token(Role.VNIC, "web", NOW)
    other = Authority.create(tmp_path / "other", "shop", NOW)
    key = certificates.new_key()
    vnet = authority.issue(Identity(overlay="shop", role=Role.VNET, name="evil"), key.public_key(), NOW)
    vnets = certificates.to_der(certificates.certificate_from_pem(vnet.certificate))
    good = Seal(authority, NOW).roots(BINDING)
    asked: list[str] = []

    def ask(overlay: str) -> Join:
        asked.append(overlay)
        return Join(token=token.text(), request=_request())

    for roots in (
        Seal(other, NOW).roots(BINDING),  # another overlay of the same name
        Roots(trust=good.trust, certificate=vnets, signature=certificates.sign(key, b"layer8 authority 1\0" + BINDING)),
        Seal(authority, NOW).roots(b"of another connection"),
        msgspec.structs.replace(good, certificate=_service_leaf(other)),
        msgspec.structs.replace(good, certificate=_service_leaf(authority)),  # of the authority, and not this key's
        Seal(authority, NOW - 7200).roots(BINDING),  # it has expired
        msgspec.structs.replace(good, certificate=b"nonsense"),
        msgspec.structs.replace(good, signature=b""),
    ):
        body = msgspec.msgpack.encode(roots)
        with pytest.raises(CertificateError):
            Applicant(token.fingerprint, ask).receive(len(body).to_bytes(4, "big") + body, BINDING, NOW)
    assert asked == []


def test_a_member_renews_for_itself_and_for_nobody_else(authority: Authority) -> None:
    key = certificates.new_key()
    issued = authority.issue(Identity(overlay="shop", role=Role.VNIC, name="web"), key.public_key(), NOW, 1000.0)
    shown = certificates.to_der(certificates.certificate_from_pem(issued.certificate))

    def renewing(by: certificates.Key = key, **changed: bytes) -> Applicant:
        request = _request()
        question = Renew(request=request, certificate=shown, signature=certificates.sign(by, _RENEW + request))
        return Applicant(authority.trust(), lambda overlay: msgspec.structs.replace(question, **changed))

    given = _exchange(authority, renewing())
    leaf = certificates.certificate_from_pem(given.certificate)
    assert (leaf.not_valid_after_utc.timestamp(), certificates.leaf_identity(leaf).name) == (NOW + 1000, "web")
    root = _request("root")
    for bad in (
        renewing(certificates.new_key()),
        renewing(request=_request()),  # another one than was signed
        renewing(request=root, signature=certificates.sign(key, _RENEW + root)),
        renewing(signature=b""),
        renewing(certificate=b"nonsense"),
        renewing(certificate=_service_leaf(authority)),
    ):
        with pytest.raises(EnrolmentRefused):
            _exchange(authority, bad)
    _exchange(authority, Applicant(authority.trust(), lambda overlay: Lists()), shown=shown)
    authority.revoke("layer8://shop/vnic/web", NOW)
    with pytest.raises(EnrolmentRefused):
        _exchange(authority, renewing())
    with pytest.raises(EnrolmentRefused):
        _exchange(authority, Applicant(authority.trust(), lambda overlay: Lists()), shown=shown)


@pytest.mark.parametrize(
    "data", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1\x00", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x05\x81\xa1t\xa1x"]
)
def test_nonsense_is_refused_in_one_word(authority: Authority, data: bytes) -> None:
    registrar = _registrar(authority)
    assert b"no question" in registrar.receive(data, NOW)
    assert registrar.done
    assert registrar.receive(data, NOW) == b""


def test_a_question_that_is_too_large_is_not_read(authority: Authority) -> None:
    registrar = _registrar(authority)
    assert b"no question" in registrar.receive((LARGEST_QUESTION + 1).to_bytes(4, "big"), NOW)


def test_questions_may_come_byte_by_byte(authority: Authority) -> None:
    token = authority.make_token(Role.VNIC, "web", NOW)
    registrar, applicant = _registrar(authority), _joining(token, _request())
    question = applicant.receive(registrar.greeting(), BINDING, NOW)
    answers = [registrar.receive(question[at : at + 1], NOW) for at in range(len(question))]
    assert [bool(answer) for answer in answers] == [False] * (len(question) - 1) + [True]


def test_an_answer_is_a_file_that_can_be_read_again(authority: Authority) -> None:
    answer = Answer.of(authority.sign(_request(), NOW))
    assert Answer.decode(answer.encode()) == answer
    for data in (b"", b"{}", b'{"certificate":1}', answer.encode()[:-5]):
        with pytest.raises(CertificateError):
            Answer.decode(data)


def test_no_token_stands_in_a_repr_or_an_error(authority: Authority) -> None:
    token = authority.make_token(Role.VNIC, "web", NOW)
    assert token.text() not in repr(Join(token=token.text(), request=b"")) + repr(token)
    with pytest.raises(JoinError) as caught:
        Token.parse(token.text()[:-3])
    assert token.text()[20:40] not in str(caught.value)


def test_a_member_does_not_fill_the_authority_with_certificates(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "MOST_LEAVES", 3)
    key = certificates.new_key()
    issued = authority.issue(Identity(overlay="shop", role=Role.VNIC, name="web"), key.public_key(), NOW)
    certificate = certificates.to_der(certificates.certificate_from_pem(issued.certificate))

    def ask(overlay: str) -> Renew:
        request = _request()
        return Renew(request=request, certificate=certificate, signature=certificates.sign(key, _RENEW + request))

    for _ in range(2):
        _exchange(authority, Applicant(authority.trust(), ask))
    with pytest.raises(EnrolmentRefused):
        _exchange(authority, Applicant(authority.trust(), ask))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.binary(max_size=200), max_size=5), framed=st.booleans())
def test_no_words_of_a_stranger_harm_either_side(authority: Authority, data: list[bytes], framed: bool) -> None:
    registrar = _registrar(authority)
    applicant = Applicant(authority.fingerprint, lambda overlay: Lists())
    for piece in data:
        said = len(piece).to_bytes(4, "big") + piece if framed else piece
        assert b"given" not in registrar.receive(said, NOW)
        with contextlib.suppress(ValueError, Layer8Error):
            applicant.receive(said, BINDING, NOW)
    assert applicant.answer is None


# ── over sockets ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def living(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "living", "shop", time.time())


@pytest.fixture
def service(living: Authority, tmp_path: Path) -> Iterator[EnrolmentService]:
    service = EnrolmentService(["127.0.0.1:0", str(tmp_path / "join.sock")], Door(living))
    yield service
    service.close()


@pytest.mark.parametrize("which", [0, 1], ids=["tcp", "unix"])
def test_joining_and_renewing_over_a_socket(
    living: Authority, service: EnrolmentService, tmp_path: Path, which: int
) -> None:
    address = service.addresses[which]
    token = living.make_token(Role.VNET, "host-b", time.time())
    made = enrolment_client.join(tmp_path / "identity", ("vnet", "host-b"), token, address)
    held = identity.load(tmp_path / "identity", time.time())
    assert made.uri == held.identity.uri == "layer8://shop/vnet/host-b"
    assert not (tmp_path / "identity" / "request.key").exists()
    key = certificates.new_key()
    given = enrolment_client.pass_on(make_renewal(held, key), held.trust, address)
    identity.install(tmp_path / "identity", given.certificate, given.trust, given.revoked, key)
    again = identity.load(tmp_path / "identity", time.time())
    assert again.certificate.serial_number != held.certificate.serial_number
    living.revoke(again.identity.uri, time.time())
    with pytest.raises(EnrolmentRefused):
        enrolment_client.fetch_lists(again, address)


def test_a_vnet_in_between_passes_it_on(living: Authority, service: EnrolmentService, tmp_path: Path) -> None:
    between = EnrolmentService(["127.0.0.1:0"], Passage(service.addresses[0]))
    try:
        token = living.make_token(Role.VNIC, "web", time.time())
        made = enrolment_client.join(tmp_path / "identity", ("vnic", "web"), token, between.addresses[0])
        assert made.name == "web"
    finally:
        between.close()


def test_who_is_not_there_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    token = Token(b"x" * 32, b"y" * 32)
    for address in (str(tmp_path / "nothing.sock"), "127.0.0.1:1"):
        with pytest.raises(AuthorityUnreachable, match=address.rpartition("/")[2]):
            enrolment_client.join(tmp_path / "identity", ("vnic", "web"), token, address)


def test_garbage_does_not_end_the_service(living: Authority, service: EnrolmentService, tmp_path: Path) -> None:
    host, _, port = service.addresses[0].rpartition(":")
    for data in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 5000):
        with socket.create_connection((host, int(port)), 10.0) as stranger:
            stranger.sendall(data)
    token = living.make_token(Role.VNIC, "web", time.time())
    assert enrolment_client.join(tmp_path / "identity", ("vnic", "web"), token, service.addresses[0]).name == "web"
