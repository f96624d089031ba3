"""The provider that needs no set-up."""

from __future__ import annotations

import os

import pytest

from layer8.errors import Layer8Error
from layer8.security import (
    Action,
    Channel,
    LocalProvider,
    Principal,
    Purpose,
    Resource,
    Role,
    SecurityProvider,
    Statement,
    TlsRole,
)
from layer8.security.provider import AuditEvent, ResourceKind

STATEMENT = Statement(purpose=Purpose.ATTACH, prover_role=Role.VNIC, overlay="o", audience="vnet/1", digest=b"d" * 32)
ALIAS = Resource(kind=ResourceKind.ALIAS, name="worker")


def test_it_is_a_security_provider() -> None:
    provider: SecurityProvider = LocalProvider()
    assert isinstance(provider, SecurityProvider)
    assert provider.attests_keys is False


def test_it_stands_for_the_uid_of_this_process() -> None:
    assert LocalProvider().uid == os.geteuid()
    assert LocalProvider().fingerprint() == LocalProvider(os.geteuid()).fingerprint()


def test_two_uids_are_two_trust_domains() -> None:
    assert LocalProvider(1000).fingerprint() != LocalProvider(1001).fingerprint()
    assert len(LocalProvider(1000).fingerprint()) == 32


@pytest.mark.parametrize("role", list(Role))
def test_the_same_uid_is_believed_in_either_role(role: Role) -> None:
    provider = LocalProvider(1000)
    statement = Statement(purpose=Purpose.ATTACH, prover_role=role, overlay="o", audience="", digest=b"")
    principal = provider.verify(provider.prove(statement), statement, Channel(uid=1000))
    assert principal == Principal(uri="layer8://local/uid/1000", role=role)


@pytest.mark.parametrize("uid", [None, 0, 999, 1001, 65534, -1])
def test_another_uid_is_not_believed_whatever_it_proves(uid: int | None) -> None:
    provider = LocalProvider(1000)
    with pytest.raises(PermissionError):
        provider.verify(provider.prove(STATEMENT), STATEMENT, Channel(uid=uid))


def test_nobody_is_never_trusted() -> None:
    with pytest.raises(Layer8Error, match="65534"):
        LocalProvider(65534)
    provider = LocalProvider(1000)
    provider.uid = 65534
    with pytest.raises(PermissionError):
        provider.verify(provider.prove(STATEMENT), STATEMENT, Channel(uid=65534))


@pytest.mark.parametrize("proof", [b"", b"x" * 32])
def test_a_proof_of_another_exchange_is_not_believed(proof: bytes) -> None:
    with pytest.raises(PermissionError, match="another exchange"):
        LocalProvider(1000).verify(proof, STATEMENT, Channel(uid=1000))


@pytest.mark.parametrize("action", list(Action))
def test_everything_is_allowed_to_the_same_uid_and_nothing_to_others(action: Action) -> None:
    provider = LocalProvider(1000)
    assert provider.authorize(Principal(uri="layer8://local/uid/1000", role=Role.VNIC), action, ALIAS).allowed
    for uri in ("layer8://local/uid/10001", "layer8://local/uid/100", "layer8://o/vnic/x", ""):
        assert not provider.authorize(Principal(uri=uri, role=Role.VNIC), action, ALIAS).allowed


def test_it_never_leaves_the_host() -> None:
    for role in TlsRole:
        with pytest.raises(Layer8Error, match="no TLS"):
            LocalProvider().tls(role)


def test_it_keeps_a_record_by_logging(caplog: pytest.LogCaptureFixture) -> None:
    provider = LocalProvider()
    with caplog.at_level("DEBUG", "layer8.security"):
        provider.audit(AuditEvent(time=1.0, what="grant", action=Action.SEND, resource=ALIAS))
        provider.audit(AuditEvent(time=2.0, what="refuse", allowed=False, reason="another uid"))
    assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG"]
    assert "another uid" in caplog.text


def test_watching_it_can_be_taken_back() -> None:
    LocalProvider().watch(lambda: None)()
