"""The authority: leaves, tokens, revocation and rotation, and what stands in its directory."""

from __future__ import annotations

import base64
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer8.protocol.statement import Role
from layer8.security import certificates, identity
from layer8.security.authority import Authority, JoinError, Token
from layer8.security.certificates import CertificateError, Identity
from layer8.security.files import StateError
from layer8.security.trust import Trust

NOW = 1_800_000_000.0
HOUR = 3600.0
WEB = Identity(overlay="shop", role=Role.VNIC, name="web")
KEY = certificates.new_key()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", "shop", NOW)


def request_for(who: Identity = WEB) -> bytes:
    return certificates.make_request(who, KEY)


def test_what_it_writes_is_its_own_alone(authority: Authority) -> None:
    authority.make_token(Role.VNIC, "web", NOW)
    authority.issue(WEB, KEY.public_key(), NOW)
    assert authority.path.stat().st_mode & 0o777 == 0o700
    for path in authority.path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert not [path for path in authority.path.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def test_a_directory_that_others_may_enter_is_refused(authority: Authority) -> None:
    authority.path.chmod(0o750)
    with pytest.raises(StateError, match="chmod 700"):
        Authority(authority.path)


def test_there_is_one_authority_in_a_directory(authority: Authority) -> None:
    with pytest.raises(StateError, match="already"):
        Authority.create(authority.path, "other", NOW)
    assert Authority(authority.path).overlay == "shop"


def test_a_key_that_others_may_read_is_refused(authority: Authority) -> None:
    (authority.path / "root-1.key").chmod(0o640)
    with pytest.raises(StateError, match="chmod 600"):
        authority.issue(WEB, KEY.public_key(), NOW)


def test_it_signs_what_it_is_asked_for_in_its_own_overlay(authority: Authority) -> None:
    issued = authority.sign(request_for(), NOW)
    certificate = certificates.certificate_from_pem(issued.certificate)
    assert authority.trust().identify(certificate, NOW, None) == WEB
    other = Identity(overlay="other", role=Role.VNIC, name="web")
    with pytest.raises(CertificateError, match="not of the overlay"):
        authority.sign(request_for(other), NOW)
    with pytest.raises(ValueError, match="lifetime"):
        authority.sign(request_for(), NOW, lifetime=0)


# ── joining ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_makes_one_leaf(authority: Authority) -> None:
    token = Token.parse(authority.make_token(Role.VNIC, "web", NOW).text() + "\n")
    assert token.fingerprint == authority.fingerprint
    issued = authority.redeem(token, request_for(), NOW + 1)
    assert issued.identity == WEB
    with pytest.raises(JoinError, match="was used"):
        authority.redeem(token, request_for(), NOW + 2)


def test_a_token_is_stored_as_a_hash(authority: Authority) -> None:
    token = authority.make_token(Role.VNIC, "web", NOW)
    stored = b"".join(path.read_bytes() for path in authority.path.iterdir())
    for secret in (token.secret, token.secret.hex().encode(), base64.b64encode(token.secret)[:40]):
        assert secret not in stored
    assert token.secret.hex() not in repr(token)
    assert token.text() not in repr(token)


@pytest.mark.parametrize(
    "who",
    [
        Identity(overlay="shop", role=Role.VNIC, name="other"),
        Identity(overlay="shop", role=Role.VNIC, name="web2"),
        Identity(overlay="shop", role=Role.VNET, name="web"),
        Identity(overlay="other", role=Role.VNIC, name="web"),
    ],
    ids=str,
)
def test_a_token_is_for_one_role_and_name_and_is_used_up_by_trying_another(authority: Authority, who: Identity) -> None:
    token = authority.make_token(Role.VNIC, "web", NOW)
    with pytest.raises(JoinError, match="it is for layer8://shop/vnic/web"):
        authority.redeem(token, request_for(who), NOW)
    with pytest.raises(JoinError):
        authority.redeem(token, request_for(), NOW)


def test_a_token_is_good_for_its_time_only(authority: Authority) -> None:
    token = authority.make_token(Role.VNIC, "web", NOW, seconds=60)
    with pytest.raises(JoinError, match="expired"):
        authority.redeem(token, request_for(), NOW + 60)
    with pytest.raises(JoinError):
        authority.redeem(token, request_for(), NOW)


def test_a_token_of_another_overlay_is_refused_and_not_used_up(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "shop", NOW)
    token = other.make_token(Role.VNIC, "web", NOW)
    with pytest.raises(JoinError, match="another overlay"):
        authority.redeem(token, request_for(), NOW)
    assert other.redeem(token, request_for(), NOW).identity == WEB


def test_a_token_is_used_up_before_anything_is_signed(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    token = authority.make_token(Role.VNIC, "web", NOW)

    def crash(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(authority, "issue", crash)
    with pytest.raises(ZeroDivisionError):
        authority.redeem(token, request_for(), NOW)
    monkeypatch.undo()
    with pytest.raises(JoinError):
        authority.redeem(token, request_for(), NOW)


@settings(max_examples=150, deadline=None)
@given(bit=st.integers(0, 68 * 8 - 1))
def test_a_token_with_one_bit_changed_is_refused(bit: int) -> None:
    text = Token(b"s" * 32, b"f" * 32).text()
    data = bytearray(base64.urlsafe_b64decode(text.removeprefix("layer8-join-") + "=" * 3))
    assert len(data) == 68
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(JoinError):
        Token.parse("layer8-join-" + base64.urlsafe_b64encode(data).decode())


@given(st.text())
def test_what_is_no_token_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(JoinError) as caught:
        Token.parse(text + "secret")
    assert "secret" not in str(caught.value)


def test_a_guess_with_a_right_check_sum_is_refused(authority: Authority) -> None:
    token = authority.make_token(Role.VNIC, "web", NOW)
    guess = Token(bytes([token.secret[0] ^ 1]) + token.secret[1:], token.fingerprint)
    with pytest.raises(JoinError, match="unknown"):
        authority.redeem(guess, request_for(), NOW)
    assert authority.redeem(token, request_for(), NOW).identity == WEB


def test_a_reusable_token_is_good_so_often_and_for_names_of_its_pattern(authority: Authority) -> None:
    token = authority.make_token(Role.VNET, "node-*", NOW, uses=2)
    node = Identity(overlay="shop", role=Role.VNET, name="node-1")
    other = Identity(overlay="shop", role=Role.VNET, name="master")
    assert authority.redeem(token, request_for(node), NOW).identity == node
    with pytest.raises(JoinError, match="node-"):
        authority.redeem(token, request_for(other), NOW)
    with pytest.raises(JoinError, match="used"):
        authority.redeem(token, request_for(node), NOW)


def test_a_pattern_needs_a_reusable_token(authority: Authority) -> None:
    for name in ("node-*", "*", "", "a/b"):
        with pytest.raises(ValueError):
            authority.make_token(Role.VNET, name, NOW)


def _join(path: str, text: str, answers: multiprocessing.Queue[bool]) -> None:
    try:
        Authority(Path(path)).redeem(Token.parse(text), request_for(), NOW)
    except JoinError:
        answers.put(False)
    else:
        answers.put(True)


def test_of_several_processes_with_one_token_one_joins(authority: Authority) -> None:
    token = authority.make_token(Role.VNIC, "web", NOW)
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[bool] = context.Queue()
    joiners = [context.Process(target=_join, args=(str(authority.path), token.text(), answers)) for _ in range(4)]
    for joiner in joiners:
        joiner.start()
    assert sorted(answers.get(timeout=60) for _ in joiners) == [False, False, False, True]
    for joiner in joiners:
        joiner.join()


# ── revocation and rotation ────────────────────────────────────────────────────────────────────────────────────────


def state_of(authority: Authority, tmp_path: Path, name: str = "web", **options: float) -> Path:
    path = tmp_path / name
    issued = authority.issue(Identity(overlay="shop", role=Role.VNIC, name=name), KEY.public_key(), NOW, **options)
    identity.install(path, issued.certificate, issued.trust, issued.revoked, KEY)
    return path


def test_revoking_a_name_revokes_all_its_leaves_and_the_number_grows(authority: Authority, tmp_path: Path) -> None:
    path = state_of(authority, tmp_path)
    before = identity.load(path, NOW)
    assert len(authority.revoke(WEB.uri, NOW)) == 1
    assert identity.refresh(path, *authority.lists(), NOW)
    after = identity.load(path, NOW)
    assert after.revoked_number > before.revoked_number
    with pytest.raises(CertificateError, match="was revoked"):
        after.trust.identify(after.certificate, NOW, after.revoked)
    with pytest.raises(ValueError, match="no leaf"):
        authority.revoke("layer8://shop/vnic/nobody", NOW)
    state_of(authority, tmp_path, "next")
    assert [revoked for _, _, revoked in authority.leaves().values()] == [True, False]


def test_one_leaf_is_revoked_by_its_serial_number(authority: Authority) -> None:
    first, second = (authority.issue(WEB, KEY.public_key(), NOW) for _ in range(2))
    assert authority.revoke(f"{first.serial:x}", NOW) == [first.serial]
    leaves = authority.leaves()
    assert (leaves[f"{first.serial:x}"][2], leaves[f"{second.serial:x}"][2]) == (True, False)


def test_an_older_revocation_list_is_not_taken_over(authority: Authority, tmp_path: Path) -> None:
    path = state_of(authority, tmp_path)
    old = authority.lists()
    authority.revoke(WEB.uri, NOW)
    assert identity.refresh(path, *authority.lists(), NOW)
    assert not identity.refresh(path, *old, NOW)
    assert identity.load(path, NOW).revoked_number == 2


def test_rotation_is_trusted_first_and_signs_later(authority: Authority, tmp_path: Path) -> None:
    path = state_of(authority, tmp_path, lifetime=100 * HOUR)
    fingerprint = authority.fingerprint
    authority.rotate(NOW, overlap=4 * HOUR)
    assert authority.fingerprint == fingerprint
    with pytest.raises(StateError, match="under way"):
        authority.rotate(NOW)
    early = certificates.certificate_from_pem(authority.issue(WEB, KEY.public_key(), NOW + HOUR).certificate)
    old = identity.load(path, NOW)
    assert old.trust.identify(early, NOW + HOUR, None) == WEB  # also by whoever has not heard of it
    assert identity.refresh(path, *authority.lists(), NOW)
    late = certificates.certificate_from_pem(authority.issue(WEB, KEY.public_key(), NOW + 3 * HOUR).certificate)
    held = identity.load(path, NOW + 3 * HOUR)
    for certificate in (early, late, held.certificate):
        assert held.trust.identify(certificate, NOW + 3 * HOUR, held.revoked) == WEB
    assert held.trust.identify(late, NOW + 5 * HOUR, None) == WEB
    with pytest.raises(CertificateError, match="not signed by an authority"):
        held.trust.identify(held.certificate, NOW + 5 * HOUR, None)


def test_the_revocations_survive_every_rotation(authority: Authority, tmp_path: Path) -> None:
    path = state_of(authority, tmp_path, lifetime=1000 * HOUR)
    authority.revoke(WEB.uri, NOW)
    for turn in range(3):
        authority.rotate(NOW + turn * 10 * HOUR, overlap=4 * HOUR)
        authority.issue(WEB, KEY.public_key(), NOW + turn * 10 * HOUR + 3 * HOUR)
        identity.refresh(path, *authority.lists(), NOW + turn * 10 * HOUR + 3 * HOUR)
    held = identity.load(path, NOW + 25 * HOUR)
    assert held.trust.number == 4
    assert held.revoked.get_revoked_certificate_by_serial_number(held.certificate.serial_number)


def test_lists_of_another_overlay_are_not_taken_over(authority: Authority, tmp_path: Path) -> None:
    path = state_of(authority, tmp_path)
    other = Authority.create(tmp_path / "other", "shop", NOW)
    other.rotate(NOW)
    with pytest.raises(CertificateError, match="another overlay"):
        identity.refresh(path, *other.lists(), NOW)


# ── the state of an identity ───────────────────────────────────────────────────────────────────────────────────────


def test_a_request_is_answered_and_its_key_stays_at_home(authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "web"
    issued = authority.sign(identity.request(path, WEB), NOW)
    identity.install(path, issued.certificate, issued.trust, issued.revoked)
    held = identity.load(path, NOW)
    assert held.identity == WEB
    assert held.key.public_key() == held.certificate.public_key()
    assert not (path / identity.REQUEST_KEY).exists()
    assert "PRIVATE" not in repr(held)


def test_a_leaf_for_another_key_is_not_installed(authority: Authority, tmp_path: Path) -> None:
    path = state_of(authority, tmp_path)
    issued = authority.issue(WEB, certificates.new_key().public_key(), NOW)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(CertificateError, match="another key"):
        identity.install(path, issued.certificate, issued.trust, issued.revoked, KEY)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def _spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])
    path.chmod(0o600)


@pytest.mark.parametrize("name", [identity.IDENTITY, identity.TRUST, identity.REVOKED])
@pytest.mark.parametrize("spoil", [Path.unlink, _spoil, lambda path: path.chmod(0o644)], ids=["gone", "cut", "open"])
def test_a_state_that_is_not_in_order_is_refused(
    authority: Authority, tmp_path: Path, name: str, spoil: Callable[[Path], object]
) -> None:
    path = state_of(authority, tmp_path)
    spoil(path / name)
    with pytest.raises((StateError, CertificateError)) as caught:
        identity.load(path, NOW)
    assert "PRIVATE" not in str(caught.value)


def test_a_link_in_place_of_a_secret_is_refused(authority: Authority, tmp_path: Path) -> None:
    path = state_of(authority, tmp_path)
    (path / identity.IDENTITY).rename(path / "moved")
    (path / identity.IDENTITY).symlink_to(path / "moved")
    with pytest.raises(StateError):
        identity.load(path, NOW)


def test_stored_lists_are_plain_json(authority: Authority) -> None:
    assert Trust.decode(authority.lists()[0]).number == json.loads(authority.lists()[0])["number"] == 1
