"""The provider by certificate: its files, its time, and its TLS."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layer8.protocol.statement import Channel, Principal, Purpose, Role, Statement
from layer8.security import Action, Resource, TlsRole, authority_source, certificates, identity, x509
from layer8.security.authority import Authority
from layer8.security.certificates import CertificateError, Identity
from layer8.security.files import StateError
from layer8.security.provider import ResourceKind
from layer8.security.trust import Trust
from layer8.security.x509 import X509Provider

NOW = float(int(time.time()))  # TLS looks at the real clock
HOUR = 3600.0
OVERLAY = Resource(kind=ResourceKind.OVERLAY, name="shop")
SEEN = Channel(text="a test")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class World:
    """An authority and members of its overlay."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.authority = Authority.create(path / "authority", "shop", NOW)
        self.providers: list[X509Provider] = []

    def state(self, role: Role, name: str, **options: float) -> Path:
        key = certificates.new_key()
        who = Identity(overlay="shop", role=role, name=name)
        issued = self.authority.issue(who, key.public_key(), self.clock.now, **options)
        identity.install(self.path / name, issued.certificate, issued.trust, issued.revoked, key)
        return self.path / name

    def provider(self, role: Role, name: str, *, renews: bool = False, **options: float) -> X509Provider:
        authority = self.authority.path if renews else None
        made = X509Provider(self.state(role, name, **options), authority=authority, clock=self.clock)
        self.providers.append(made)
        return made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for provider in world.providers:
        provider.close()


def statement(role: Role = Role.VNIC) -> Statement:
    return Statement(purpose=Purpose.ATTACH, prover_role=role, overlay="shop", audience="vnet/1", digest=b"d" * 32)


def verified(vnet: X509Provider, vnic: X509Provider) -> Principal:
    return vnet.verify(vnic.prove(statement()), statement(), SEEN)


def test_a_principal_is_the_name_in_the_leaf_and_ends_with_it(world: World) -> None:
    vnet, vnic = world.provider(Role.VNET, "host"), world.provider(Role.VNIC, "web", lifetime=HOUR)
    principal = verified(vnet, vnic)
    assert (principal.uri, principal.role, principal.expires) == ("layer8://shop/vnic/web", Role.VNIC, NOW + HOUR)


def test_a_vnics_leaf_opens_no_port_of_a_vnet(world: World) -> None:
    vnic = world.provider(Role.VNIC, "web")
    with pytest.raises(PermissionError, match="is not a vnet"):
        vnic.prove(statement(Role.VNET))
    with pytest.raises(Exception, match="accepts nobody"):
        vnic.tls(TlsRole.LINK)


def test_an_expired_leaf_is_not_believed_and_does_not_start(world: World) -> None:
    vnet, vnic = world.provider(Role.VNET, "host"), world.provider(Role.VNIC, "web", lifetime=HOUR)
    proof = vnic.prove(statement())
    world.clock.now += HOUR
    with pytest.raises(CertificateError, match="has expired"):
        vnet.verify(proof, statement(), SEEN)
    with pytest.raises(CertificateError, match="has expired"):
        X509Provider(world.path / "web", clock=world.clock)


def test_a_leaf_of_the_future_is_not_believed(world: World) -> None:
    vnet = world.provider(Role.VNET, "host")
    world.clock.now += HOUR
    vnic = world.provider(Role.VNIC, "web")
    proof = vnic.prove(statement())
    world.clock.now -= HOUR
    with pytest.raises(CertificateError, match="not valid yet"):
        vnet.verify(proof, statement(), SEEN)


def test_who_is_revoked_is_neither_believed_nor_allowed_any_more(world: World) -> None:
    vnet, vnic = world.provider(Role.VNET, "host", renews=True), world.provider(Role.VNIC, "web")
    other = world.provider(Role.VNIC, "other")
    principal, stays = verified(vnet, vnic), verified(vnet, other)
    assert vnet.authorize(principal, Action.ATTACH, OVERLAY).allowed
    changed = threading.Event()
    vnet.watch(changed.set)
    world.authority.revoke("layer8://shop/vnic/web", NOW)
    assert changed.wait(30)  # it finds out by itself
    assert not vnet.authorize(principal, Action.ATTACH, OVERLAY).allowed
    assert vnet.authorize(stays, Action.ATTACH, OVERLAY).allowed
    with pytest.raises(CertificateError, match="was revoked"):
        verified(vnet, vnic)


def test_only_a_revocation_is_for_good(world: World) -> None:
    """A renewal mends what a rotation leaves behind; nothing mends a revoked leaf."""
    host = world.provider(Role.VNET, "host", renews=True)
    web, other = (verified(host, world.provider(Role.VNIC, name)) for name in ("web", "other"))
    world.authority.revoke(web.uri, NOW)
    world.authority.rotate(NOW, overlap=HOUR)
    host.reload()
    assert host.authorize(web, Action.ATTACH, OVERLAY).lasting
    world.clock.now += 2 * HOUR
    left_behind = host.authorize(other, Action.ATTACH, OVERLAY)
    assert (left_behind.allowed, left_behind.lasting) == (False, False)


def test_what_is_revoked_is_known_within_five_seconds() -> None:
    """A question to an authority elsewhere, and the look that puts its answer to use; links tell it on at once."""
    assert authority_source.ASK_SECONDS + x509._LOOK_SECONDS < 5.0


def test_a_new_leaf_for_a_revoked_name_is_good(world: World) -> None:
    vnet, vnic = world.provider(Role.VNET, "host", renews=True), world.provider(Role.VNIC, "web")
    old = verified(vnet, vnic)
    world.authority.revoke("layer8://shop/vnic/web", NOW)
    again = world.provider(Role.VNIC, "web")
    vnet.reload()
    assert vnet.authorize(verified(vnet, again), Action.ATTACH, OVERLAY).allowed
    assert not vnet.authorize(old, Action.ATTACH, OVERLAY).allowed


def test_it_renews_at_half_life_with_a_new_key_and_the_fingerprint_stays(world: World) -> None:
    vnet = world.provider(Role.VNET, "host", renews=True)
    before, fingerprint = identity.load(world.path / "host", NOW), vnet.fingerprint()
    world.clock.now = before.renew_at - 1
    vnet.reload()
    assert vnet.expires == before.expires
    world.clock.now = before.renew_at + 1
    vnet.reload()
    after = identity.load(world.path / "host", NOW)
    assert vnet.expires == after.expires > before.expires
    assert after.key.public_key() != before.key.public_key()
    assert vnet.fingerprint() == fingerprint


def test_who_was_revoked_does_not_renew(world: World) -> None:
    vnet = world.provider(Role.VNET, "host", renews=True)
    expires = vnet.expires
    world.authority.revoke("layer8://shop/vnet/host", NOW)
    world.clock.now = NOW + 20 * HOUR
    vnet.reload()
    assert vnet.expires == expires


def test_a_leaf_renewed_by_somebody_else_is_taken_up(world: World) -> None:
    vnet, vnic = world.provider(Role.VNET, "host"), world.provider(Role.VNIC, "web", lifetime=HOUR)
    assert verified(vnet, vnic).expires == NOW + HOUR
    world.state(Role.VNIC, "web", lifetime=2 * HOUR)
    assert verified(vnet, vnic).expires == NOW + 2 * HOUR


def test_rotation_keeps_old_and_new_leaves_good_in_the_overlap(world: World) -> None:
    vnet, vnic = world.provider(Role.VNET, "host", renews=True), world.provider(Role.VNIC, "web", lifetime=99 * HOUR)
    fingerprint, old = vnet.fingerprint(), verified(vnet, vnic)
    world.authority.rotate(NOW, overlap=8 * HOUR)
    world.clock.now += 5 * HOUR
    vnet.reload()
    new = world.provider(Role.VNIC, "new")
    for principal in (old, verified(vnet, vnic), verified(vnet, new)):
        assert vnet.authorize(principal, Action.ATTACH, OVERLAY).allowed
    assert vnet.fingerprint() == fingerprint == new.fingerprint()
    world.clock.now += 4 * HOUR
    assert not vnet.authorize(old, Action.ATTACH, OVERLAY).allowed
    with pytest.raises(CertificateError, match="not signed by an authority"):
        verified(vnet, vnic)


def test_only_a_vnet_may_host(world: World) -> None:
    vnet, vnic = world.provider(Role.VNET, "host"), world.provider(Role.VNIC, "web")
    assert not vnet.authorize(verified(vnet, vnic), Action.HOST, OVERLAY).allowed


def test_a_state_that_is_spoilt_leaves_the_last_good_one(world: World) -> None:
    vnet, vnic = world.provider(Role.VNET, "host"), world.provider(Role.VNIC, "web")
    (world.path / "host" / identity.TRUST).write_bytes(b"{}")
    with pytest.raises((StateError, CertificateError)):
        vnet.reload()
    assert verified(vnet, vnic).uri == "layer8://shop/vnic/web"


def test_the_certificate_of_the_connection_must_be_the_one_of_the_proof(world: World) -> None:
    vnet, vnic = world.provider(Role.VNET, "host"), world.provider(Role.VNIC, "web")
    with pytest.raises(PermissionError, match="another certificate"):
        vnet.verify(vnic.prove(statement()), statement(), Channel(certificate=b"another"))


def test_seals_are_checked_by_any_member_and_forged_by_none(world: World) -> None:
    vnet, vnic = world.provider(Role.VNET, "host"), world.provider(Role.VNIC, "web")
    signature = vnet.sign(b"head")
    assert vnic.check(b"head", signature)
    assert not vnic.check(b"other", signature)
    assert not vnic.check(b"head", b"nonsense")
    assert not vnic.check(b"head", vnic.prove(statement()))  # a proof is no seal


# ── TLS ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Both ends of a connection, after the handshake and a word each way; an SSLError of either is raised."""
    ours, theirs = socket.socketpair()
    failed: list[BaseException] = []
    accepted: list[ssl.SSLSocket] = []

    def accept() -> None:
        try:
            accepted.append(server.wrap_socket(ours, server_side=True))
            accepted[0].send(b"x" + accepted[0].recv(1))
        except BaseException as error:
            failed.append(error)
            ours.close()

    thread = threading.Thread(target=accept)
    thread.start()
    dialled = None
    try:
        dialled = client.wrap_socket(theirs)
        dialled.send(b"y")
        assert dialled.recv(2) in (b"xy", b"x")
    except (ssl.SSLError, OSError) as error:
        failed.append(error)
        theirs.close()
    thread.join()
    if failed or dialled is None:
        for end in (*accepted, dialled):
            if end is not None:
                end.close()
        raise failed[0]
    return accepted[0], dialled


def test_two_members_speak_tls_1_3_and_see_each_others_leaf(world: World) -> None:
    vnet, far = world.provider(Role.VNET, "host"), world.provider(Role.VNET, "far")
    ours, theirs = shake(vnet.tls(TlsRole.LINK), far.tls(TlsRole.DIAL))
    with ours, theirs:
        assert ours.version() == "TLSv1.3"
        link = Statement(
            purpose=Purpose.LINK, prover_role=Role.VNET, overlay="shop", audience="vnet/1", digest=b"d" * 32
        )
        seen = Channel(certificate=ours.getpeercert(binary_form=True))
        assert vnet.verify(far.prove(link), link, seen).uri == "layer8://shop/vnet/far"
        assert theirs.session is None or not theirs.session.has_ticket


def test_a_vnics_leaf_does_not_stand_for_the_accepting_end(world: World, tmp_path: Path) -> None:
    vnic, dialler = world.provider(Role.VNIC, "web"), world.provider(Role.VNIC, "other")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(world.path / "web" / identity.IDENTITY)
    with pytest.raises((ssl.SSLError, OSError)):
        shake(server, dialler.tls(TlsRole.DIAL))
    assert vnic.identity.role is Role.VNIC


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_stranger_gets_no_connection(world: World, tmp_path: Path, side: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    elsewhere = World(tmp_path / "elsewhere")
    vnet, stranger = world.provider(Role.VNET, "host"), elsewhere.provider(Role.VNET, "host")
    server, client = (stranger, vnet) if side == "server" else (vnet, stranger)
    with pytest.raises((ssl.SSLError, OSError)):
        shake(server.tls(TlsRole.LINK), client.tls(TlsRole.DIAL))


def test_older_tls_and_a_peer_without_a_certificate_are_refused(world: World) -> None:
    vnet = world.provider(Role.VNET, "host")
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    with pytest.raises((ssl.SSLError, OSError)):
        shake(vnet.tls(TlsRole.LINK), bare)
    old = world.provider(Role.VNET, "old").tls(TlsRole.DIAL)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, OSError)):
        shake(vnet.tls(TlsRole.LINK), old)


def test_no_key_log_is_written(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    vnet, far = world.provider(Role.VNET, "host"), world.provider(Role.VNET, "far")
    for end in shake(vnet.tls(TlsRole.LINK), far.tls(TlsRole.DIAL)):
        end.close()
    assert not (tmp_path / "keys").exists()


def test_lists_that_could_not_be_written_are_written_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = world.provider(Role.VNET, "host", renews=True)
    world.authority.rotate(NOW)
    with monkeypatch.context() as patch:
        patch.setattr(identity, "refresh", _full)
        with pytest.raises(OSError, match="no space"):
            provider.reload()
    provider.reload()
    assert len(Trust.decode(provider.lists()[0]).roots) == 2


def _full(*arguments: object) -> bool:
    raise OSError("no space left on device")
