"""What every Security Provider has to keep, run over those that come with layer8 and over the example of one's own.

A provider to be tested here is a `Domain`: its two sides, and a stranger of the same kind from another domain.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layer8.errors import Layer8Error, NotAuthorized, SecurityMismatch
from layer8.protocol.attach import VnetAttach, VnicAttach
from layer8.protocol.codec import Decoder, Frame, Unknown, encode
from layer8.protocol.control import Attach, Challenge, FromVnet, FromVnic, Hello, Refused, Wire
from layer8.security import (
    Action,
    AuditEvent,
    Channel,
    Decision,
    LocalProvider,
    Principal,
    Purpose,
    Resource,
    Role,
    SecurityProvider,
    Statement,
    TlsRole,
    certificates,
    identity,
)
from layer8.security.authority import Authority
from layer8.security.certificates import Identity
from layer8.security.guarded import GuardedProvider
from layer8.security.provider import ResourceKind
from layer8.security.x509 import X509Provider

ME = os.geteuid()
TOPIC = Resource(kind=ResourceKind.TOPIC, name="t")


@dataclasses.dataclass
class Domain:
    vnet: SecurityProvider
    vnic: SecurityProvider
    stranger: SecurityProvider  # as a Vnic
    overlay: str
    strangers_uid: int = ME
    secrets: tuple[bytes, ...] = ()

    def statement(self, role: Role = Role.VNIC, **fields: object) -> Statement:
        made = Statement(
            purpose=Purpose.ATTACH, prover_role=role, overlay=self.overlay, audience="vnet/1", digest=b"d" * 32
        )
        return dataclasses.replace(made, **fields)  # type: ignore[arg-type]

    def side(self, role: Role) -> tuple[SecurityProvider, SecurityProvider]:
        """Who proves, who verifies."""
        return (self.vnet, self.vnic) if role is Role.VNET else (self.vnic, self.vnet)


def _local(directory: Path) -> Domain:
    return Domain(LocalProvider(ME), LocalProvider(ME), LocalProvider(ME + 1), "local", strangers_uid=ME + 1)


def _x509(directory: Path) -> Domain:
    now = time.time()

    def member(authority: Authority, role: Role, name: str) -> X509Provider:
        key = certificates.new_key()
        issued = authority.issue(Identity(overlay="shop", role=role, name=name), key.public_key(), now)
        path = directory / f"{authority.path.name}-{name}"
        identity.install(path, issued.certificate, issued.trust, issued.revoked, key)
        return X509Provider(path)

    ours = Authority.create(directory / "ours", "shop", now)
    theirs = Authority.create(directory / "theirs", "shop", now)
    key = (directory / "ours" / "root-1.key").read_bytes().splitlines()[1]
    vnet, vnic = member(ours, Role.VNET, "host"), member(ours, Role.VNIC, "web")
    return Domain(vnet, vnic, member(theirs, Role.VNIC, "web"), "shop", secrets=(key,))


def _guarded(directory: Path) -> Domain:
    inside = _x509(directory)
    return dataclasses.replace(inside, vnet=GuardedProvider(inside.vnet))


def _psk_module() -> ModuleType:
    place = Path(__file__).parents[3] / "examples" / "psk_provider.py"
    assert len(place.read_text().splitlines()) < 60
    spec = importlib.util.spec_from_file_location("psk_provider", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _psk(directory: Path) -> Domain:
    make = _psk_module().PskProvider
    key = secrets.token_bytes(32)
    return Domain(make(key), make(key), make(secrets.token_bytes(32)), "psk", secrets=(key, key.hex().encode()))


@pytest.fixture(scope="module", params=[_local, _x509, _guarded, _psk], ids=["local", "x509", "guarded", "psk"])
def domain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Domain:
    make: Callable[[Path], Domain] = request.param
    return make(tmp_path_factory.mktemp("domain"))


SEEN = Channel(uid=ME, gid=os.getegid(), pid=1, text="a test")


def test_it_has_all_operations(domain: Domain) -> None:
    for provider in (domain.vnet, domain.vnic):
        assert isinstance(provider, SecurityProvider)
        assert isinstance(provider.attests_keys, bool)


def test_the_fingerprint_is_the_domains_and_stays(domain: Domain) -> None:
    print_ = domain.vnet.fingerprint()
    assert 16 <= len(print_) <= 64
    assert print_ == domain.vnet.fingerprint() == domain.vnic.fingerprint()
    assert print_ != domain.stranger.fingerprint()


@pytest.mark.parametrize("role", list(Role))
def test_what_one_side_proves_the_other_believes(domain: Domain, role: Role) -> None:
    prover, verifier = domain.side(role)
    statement = domain.statement(role)
    principal = verifier.verify(prover.prove(statement), statement, SEEN)
    assert principal.role is role
    assert principal.uri
    assert principal.expires == 0 or principal.expires > time.time()
    assert len(prover.prove(statement)) <= 3072


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    "change",
    [{"purpose": Purpose.LINK}, {"overlay": "other"}, {"audience": "vnet/2"}, {"digest": b"e" * 32}, {"expires": 9e9}],
    ids=lambda change: next(iter(change)),
)
def test_a_proof_is_for_one_statement_alone(domain: Domain, role: Role, change: dict[str, object]) -> None:
    prover, verifier = domain.side(role)
    proof = prover.prove(domain.statement(role))
    with pytest.raises(Exception):  # noqa: B017  whatever it raises is a refusal
        verifier.verify(proof, domain.statement(role, **change), SEEN)


def test_a_proof_is_for_one_role(domain: Domain) -> None:
    proof = domain.vnic.prove(domain.statement(Role.VNIC))
    with pytest.raises(Exception):  # noqa: B017
        domain.vnic.verify(proof, domain.statement(Role.VNET), SEEN)


def test_a_stranger_is_not_believed(domain: Domain) -> None:
    statement = domain.statement()
    proof = domain.stranger.prove(statement)
    with pytest.raises(Exception):  # noqa: B017
        domain.vnet.verify(proof, statement, dataclasses.replace(SEEN, uid=domain.strangers_uid))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), more=st.binary(min_size=1, max_size=100))
def test_a_proof_that_was_changed_is_refused(domain: Domain, where: float, bit: int, more: bytes) -> None:
    statement = domain.statement()
    proof = domain.vnic.prove(statement)  # differs from time to time: signatures are random
    at = int(where * len(proof))
    flipped = proof[:at] + bytes([proof[at] ^ 1 << bit]) + proof[at + 1 :]
    for changed in (proof[:at], flipped, proof + more, more, b"", proof * 100):
        with pytest.raises(Exception):  # noqa: B017
            domain.vnet.verify(changed, statement, SEEN)


@pytest.mark.parametrize("action", list(Action))
def test_it_decides_at_once_and_knows_its_own(domain: Domain, action: Action) -> None:
    statement = domain.statement()
    member = domain.vnet.verify(domain.vnic.prove(statement), statement, SEEN)
    assert isinstance(domain.vnet.authorize(member, action, TOPIC), Decision)
    for uri in ("", "layer8://elsewhere/vnic/x", member.uri + "0", member.uri[:-1], "\0", "x" * 10_000):
        stranger = Principal(uri=uri, role=Role.VNIC)
        assert not domain.vnet.authorize(stranger, action, TOPIC).allowed


def test_watching_can_be_taken_back(domain: Domain) -> None:
    take_back = domain.vnet.watch(lambda: None)
    take_back()
    take_back()


def test_it_takes_every_event(domain: Domain) -> None:
    for event in (
        AuditEvent(time=1.0, what="attach", principal="p"),
        AuditEvent(time=2.0, what="refuse", action=Action.SEND, resource=TOPIC, allowed=False, reason="\0\n", count=3),
    ):
        domain.vnet.audit(event)


@pytest.mark.parametrize("role", list(TlsRole))
def test_its_tls_is_1_3_by_both_sides_or_none(domain: Domain, role: TlsRole) -> None:
    try:
        context = domain.vnet.tls(role)
    except (Layer8Error, NotImplementedError):
        return
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not context.keylog_filename
    assert context is not domain.vnet.tls(role)


def test_no_secret_stands_in_its_name_or_in_an_error(domain: Domain) -> None:
    said = [repr(domain.vnet), str(domain.vnet), repr(vars(domain.vnic)) if domain.overlay == "shop" else ""]
    for proof in (b"", b"x" * 100, b"\x92\xc4\x00\xc4\x00"):
        with pytest.raises(Exception) as caught:
            domain.vnet.verify(proof, domain.statement(), SEEN)
        said.append(str(caught.value))
    for secret in domain.secrets:
        assert not any(secret in text.encode() for text in said)
    assert "PRIVATE" not in "".join(said)


def test_several_threads_may_use_it_at_once(domain: Domain) -> None:
    failed: list[BaseException] = []

    def use() -> None:
        try:
            for _ in range(20):
                statement = domain.statement(digest=secrets.token_bytes(32))
                domain.vnet.verify(domain.vnic.prove(statement), statement, SEEN)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# ── in an attach ───────────────────────────────────────────────────────────────────────────────────────────────────


def _vnet(domain: Domain, **fields: object) -> VnetAttach:
    arguments = {"vnet_uuid": uuid4(), "name": "default", "epoch": 1, "seen": SEEN, "now": 0.0} | fields
    return VnetAttach(domain.vnet, overlay=domain.overlay, **arguments)  # type: ignore[arg-type]


def _vnic(provider: SecurityProvider) -> VnicAttach:
    return VnicAttach(provider, uuid=uuid4(), seen=SEEN)


def _sent(message: Wire, types: object) -> tuple[Wire | Unknown, Frame]:
    (one,) = Decoder(types).feed_frames(encode(message))  # type: ignore[arg-type]
    return one


def _challenged(domain: Domain, vnet: VnetAttach, vnic: VnicAttach) -> tuple[Hello, Challenge, Attach]:
    hello = vnic.start()
    challenge = vnet.receive(*_sent(hello, FromVnic), now=0.0)
    assert isinstance(challenge, Challenge)
    attach = vnic.receive(*_sent(challenge, FromVnet))
    assert isinstance(attach, Attach)
    return hello, challenge, attach


def test_both_sides_of_an_attach_come_to_trust_each_other(domain: Domain) -> None:
    vnet, vnic = _vnet(domain), _vnic(domain.vnic)
    *_, attach = _challenged(domain, vnet, vnic)
    assert isinstance(vnet.receive(*_sent(attach, FromVnic), now=0.0), Attach)
    assert vnet.principal is not None
    assert vnic.vnet_principal is not None and vnic.vnet_principal.role is Role.VNET


def test_another_domain_is_found_out_before_anything_is_proved(domain: Domain) -> None:
    vnet, stranger = _vnet(domain), _vnic(domain.stranger)
    refused = vnet.receive(*_sent(stranger.start(), FromVnic), now=0.0)
    assert isinstance(refused, Refused)
    assert refused.code == "mismatch"
    with pytest.raises(SecurityMismatch):
        stranger.receive(*_sent(refused, FromVnet))


def test_a_recorded_attach_is_worth_nothing_again(domain: Domain) -> None:
    hello, _, attach = _challenged(domain, _vnet(domain), _vnic(domain.vnic))
    again = _vnet(domain)
    assert isinstance(again.receive(*_sent(hello, FromVnic), now=0.0), Challenge)
    refused = again.receive(*_sent(attach, FromVnic), now=0.0)
    assert isinstance(refused, Refused)
    assert refused.code == "not-authorized"


def test_an_attach_that_is_relayed_to_another_vnet_is_worth_nothing_there(domain: Domain) -> None:
    first, second, vnic = _vnet(domain), _vnet(domain), _vnic(domain.vnic)
    hello, _, attach = _challenged(domain, first, vnic)
    assert isinstance(second.receive(*_sent(hello, FromVnic), now=0.0), Challenge)
    assert isinstance(second.receive(*_sent(attach, FromVnic), now=0.0), Refused)


def test_a_challenge_from_another_exchange_is_not_believed(domain: Domain) -> None:
    _, challenge, _ = _challenged(domain, _vnet(domain), _vnic(domain.vnic))
    victim = _vnic(domain.vnic)
    victim.start()
    with pytest.raises(NotAuthorized):
        victim.receive(*_sent(challenge, FromVnet))


def test_a_vnet_is_not_believed_for_what_a_vnic_proves(domain: Domain) -> None:
    """Reflected: the Vnet's own proof comes back as the Vnic's."""
    vnet, vnic = _vnet(domain), _vnic(domain.vnic)
    _, challenge, attach = _challenged(domain, vnet, vnic)
    reflected = Attach(uuid=attach.uuid, proof=challenge.proof)
    refused = vnet.receive(*_sent(reflected, FromVnic), now=0.0)
    assert isinstance(refused, Refused)
