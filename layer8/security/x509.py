"""The provider for several uids, containers and hosts: everybody has a certificate of the overlay's authority.

    prove     (leaf, ECDSA over the statement)          the statement's digest covers all that both sides have said
    verify    leaf by a believed root, in its time, not revoked, of this role and overlay; then the signature
    tls       bare contexts: TLS 1.3 alone, both sides by certificate, no tickets, no key log

It works on the state directory of one identity (`layer8.security.identity`) and looks every second, in a thread that
`watch` starts, whether something there has changed: a renewed leaf, a newer list of roots or of revocations. Given
where the authority is it takes newer lists from there, and renews its own leaf at half-life with a new key. What is
there already goes on: a leaf is looked at when somebody attaches or links, and again when the lists have changed.

Vnets spread the lists among themselves: `list_numbers`, `lists` and `take_lists` are for links.

Who may do what is not decided here: members of the overlay may do everything, unless a policy stands in front
(`layer8.security.guarded`). Only a Vnet may `host`.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from layer8.errors import Layer8Error
from layer8.protocol.statement import Channel, Principal, Role, Statement
from layer8.security import certificates, identity
from layer8.security.authority_source import DirectorySource, Source
from layer8.security.certificates import CertificateError, Identity, Key
from layer8.security.enrolment import Given, Renew, make_renewal
from layer8.security.identity import Credentials
from layer8.security.provider import Action, AuditEvent, Decision, Resource, TlsRole
from layer8.security.trust import Trust

LARGEST_PROOF = 3072

_LOOK_SECONDS = 1.0
_LEAVE_SECONDS = 0.5  # for the thread that looks; one that asks the authority right now ends by itself, later
_RENEW_AGAIN_SECONDS = 60.0  # after a renewal has failed

_logger = logging.getLogger("layer8.security")
_proofs = msgspec.msgpack.Decoder(tuple[bytes, bytes])


class X509Provider:
    """The identity in `state`. Any thread. `close()` ends the thread that `watch` starts."""

    attests_keys = True
    socket_owners: tuple[int, ...] | None = None  # the certificate says who listens, not the owner of a file

    def __init__(
        self,
        state: Path,
        *,
        authority: Path | Source | None = None,
        clock: Clock = time.time,
    ) -> None:
        """`authority`: its directory, if it is on this host and this user's, or how it is reached. `clock`:
        Unix seconds. Raises StateError or CertificateError, also for a leaf that nobody would believe."""
        self._state = state
        self._source = DirectorySource(authority) if isinstance(authority, Path) else authority
        self._clock = clock
        self._lock = threading.Lock()
        self._watchers: list[Callable[[], None]] = []
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: object = None
        self._complained = ""
        self._renew_after = 0.0
        self._credentials = self._load()
        if self._source is not None:
            try:
                self._ask_authority(self._source)
            except Layer8Error as error:
                if isinstance(authority, Path):
                    raise
                self._complain(error)  # it may be reached later; what is here is good until it expires
        self._check_own(self._credentials)
        self._told = self._state_of_trust()

    @property
    def overlay(self) -> str:
        return self._credentials.trust.overlay

    @property
    def identity(self) -> Identity:
        return self._credentials.identity

    @property
    def credential(self) -> str:
        """Of the own leaf, as in the principals that others make of it."""
        return _credential(self._credentials.certificate)

    @property
    def expires(self) -> float:
        """When the own leaf does; Unix seconds."""
        return self._credentials.expires

    @property
    def renew_at(self) -> float:
        """Half-life of the own leaf; Unix seconds."""
        return self._fresh().renew_at

    def __repr__(self) -> str:
        return f"<X509Provider {self.identity}>"

    # ── the operations of a Security Provider ──────────────────────────────────────────────────────────────────────

    def fingerprint(self) -> bytes:
        return self._credentials.trust.fingerprint

    def prove(self, statement: Statement) -> bytes:
        held = self._fresh()
        if held.identity.overlay != statement.overlay or held.identity.role is not statement.prover_role:
            raise PermissionError(f"{held.identity} is not a {statement.prover_role} of overlay {statement.overlay}")
        signature = certificates.sign(held.key, statement.encode())
        return msgspec.msgpack.encode((held.certificate.public_bytes(serialization.Encoding.DER), signature))

    def verify(self, proof: bytes, statement: Statement, seen: Channel) -> Principal:
        held, now = self._fresh(), self._clock()
        if statement.overlay != held.trust.overlay:
            raise PermissionError(f"it is of overlay {statement.overlay[:64]!r}, this is {held.trust.overlay}")
        if statement.expires and now >= statement.expires:
            raise PermissionError("the proof is too old")
        if len(proof) > LARGEST_PROOF:
            raise PermissionError(f"a proof of {len(proof)} bytes is too large")
        try:
            der, signature = _proofs.decode(proof)
            certificate = x509.load_der_x509_certificate(der)
        except (msgspec.DecodeError, ValueError) as error:
            raise PermissionError("this is no proof by certificate") from error
        if seen.certificate is not None and seen.certificate != der:
            raise PermissionError("the proof is by another certificate than that of the connection")
        who = held.trust.identify(certificate, now, held.revoked)
        if who.role is not statement.prover_role:
            raise PermissionError(f"{who} is not a {statement.prover_role}")
        if not certificates.is_signed(certificate, signature, statement.encode()):
            raise PermissionError(f"the signature of {who} does not fit this exchange")
        return Principal(
            uri=who.uri,
            role=who.role,
            expires=certificate.not_valid_after_utc.timestamp(),
            credential=_credential(certificate),
        )

    def authorize(self, who: Principal, action: Action, what: Resource) -> Decision:
        held = self._credentials
        try:
            found = Identity.parse(who.uri)
        except ValueError as error:
            return Decision(allowed=False, reason=str(error))
        if found.overlay != held.trust.overlay or found.role is not who.role:
            return Decision(allowed=False, reason=f"not a {who.role} of overlay {held.trust.overlay}")
        if self._is_revoked(held, who.credential):
            return Decision(allowed=False, reason="its certificate was revoked", lasting=True)
        if not self._is_good(held, who.credential):
            return Decision(allowed=False, reason="its certificate is believed no more")
        if action is Action.HOST and found.role is not Role.VNET:
            return Decision(allowed=False, reason="only a Vnet may host")
        return Decision(allowed=True, reason=f"a member of {held.trust.overlay}")

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._watchers.append(changed)
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._look, name="layer8-x509", daemon=True)
                self._thread.start()

        def take_back() -> None:
            with self._lock:
                if changed in self._watchers:
                    self._watchers.remove(changed)

        return take_back

    def audit(self, event: AuditEvent) -> None:
        _logger.debug("%s", event)  # the Vnet has logged it, folded: strangers must not fill the log

    def tls(self, role: TlsRole) -> ssl.SSLContext:
        held = self._fresh()
        if role is not TlsRole.DIAL and held.identity.role is not Role.VNET:
            raise Layer8Error(f"{held.identity} is no Vnet and accepts nobody")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if role is TlsRole.DIAL else ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the name is the URI in the leaf, and `verify` looks at it
        context.verify_mode = ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        if role is not TlsRole.DIAL:
            context.num_tickets = 0
        for root in held.trust.believed(self._clock()):
            context.load_verify_locations(cadata=root.public_bytes(serialization.Encoding.DER))
        context.load_cert_chain(self._state / identity.IDENTITY)
        return context

    # ── beyond ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def sign(self, data: bytes) -> bytes:
        """By the leaf's key; for the seals of the audit log."""
        signature = certificates.sign(self._credentials.key, _SEAL + data)
        certificate = self._credentials.certificate.public_bytes(serialization.Encoding.DER)
        return msgspec.msgpack.encode((certificate, signature))

    def check(self, data: bytes, signature: bytes) -> bool:
        """Whether a Vnet of this overlay has signed it; its leaf may have expired since."""
        return is_sealed(self._credentials.trust, data, signature, self._clock())

    def list_numbers(self) -> tuple[int, int]:
        """Of the list of roots and of the revocation list; they only grow. What a link compares."""
        held = self._fresh()
        return held.trust.number, held.revoked_number

    def lists(self) -> tuple[bytes, bytes]:
        """The list of roots (JSON) and the revocation list (PEM), signed by the authority. What a link sends."""
        held = self._fresh()
        return held.trust.encode(), certificates.to_pem(held.revoked)

    def take_lists(self, trust: bytes, revoked: bytes) -> bool:
        """Takes lists over, from wherever they come: they are signed, and older ones change nothing. Whether
        anything was newer; then who watches is told at once. Raises CertificateError for what is not of this overlay.
        """
        if not identity.refresh(self._state, trust, revoked, self._clock()):
            return False
        with self._lock:
            self._credentials = self._load()
        self._tell()
        return True

    def renew(self, question: bytes) -> Given:
        """Passes the renewal of a member on to the authority. Raises Layer8Error, or ValueError for what is none."""
        if self._source is None:
            raise Layer8Error("this Vnet does not know where the authority is (setting authority)")
        return self._source.renew(Renew.decode(question), self._credentials, self._clock())

    def make_renewal(self) -> tuple[Renew, Key] | None:
        """What to ask for when the leaf has reached half-life; None before. For who asks by way of a Vnet."""
        held = self._fresh()
        if self._clock() < held.renew_at:
            return None
        key = certificates.new_key()
        return make_renewal(held, key), key

    def take_renewal(self, certificate: bytes, trust: bytes, revoked: bytes, key: Key) -> None:
        """Puts a renewed leaf to use. Raises StateError or CertificateError, and then nothing has changed."""
        identity.install(self._state, certificate, trust, revoked, key)
        with self._lock:
            self._credentials = self._load()
        self._tell()

    def reload(self) -> None:
        """Looks at the files at once. Raises StateError or CertificateError; what was good before then stays."""
        self._look_once(force=True)

    def close(self) -> None:
        """Safe twice."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_LEAVE_SECONDS)

    # ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _load(self) -> Credentials:
        self._seen = self._signature()
        return identity.load(self._state, self._clock())

    def _fresh(self) -> Credentials:
        """What stands in the directory now, or the last that was good."""
        if self._signature() != self._seen:
            try:
                with self._lock:
                    self._credentials = self._load()
            except Layer8Error as error:
                self._complain(error)
        return self._credentials

    def _signature(self) -> object:
        found = []
        for name in (identity.IDENTITY, identity.TRUST, identity.REVOKED):
            try:
                status = (self._state / name).stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return found

    def _look(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            try:
                self._look_once()
            except Exception as error:
                self._complain(error)

    def _look_once(self, *, force: bool = False) -> None:
        try:
            if self._source is not None:
                self._ask_authority(self._source)
            if force or self._signature() != self._seen:
                with self._lock:
                    self._credentials = self._load()
            self._complained = ""
        finally:
            self._tell()

    def _tell(self) -> None:
        """Those who watch, if what is believed is not what it was when they were told last."""
        state = self._state_of_trust()
        if state != self._told:
            self._told = state
            for changed in list(self._watchers):
                changed()

    def _state_of_trust(self) -> object:
        held = self._credentials
        return id(held), [root.serial_number for root in held.trust.believed(self._clock())]

    def _ask_authority(self, source: Source) -> None:
        try:
            found = source.newer_lists(self._credentials)
            if found is not None and identity.refresh(self._state, *found, self._clock()):
                with self._lock:
                    self._credentials = self._load()
        except Exception:
            source.again()
            raise
        finally:
            self._renew_if_due(source)

    def _renew_if_due(self, source: Source) -> None:
        held, now = self._credentials, self._clock()
        if now < max(held.renew_at, self._renew_after) or not self._is_good(held, _credential(held.certificate)):
            return  # who was revoked does not get another one by itself
        self._renew_after = now + min(_RENEW_AGAIN_SECONDS, max(1.0, (held.expires - now) / 8))  # if this one fails
        key = certificates.new_key()
        given = source.renew(make_renewal(held, key), held, now)
        identity.install(self._state, given.certificate, given.trust, given.revoked, key)
        with self._lock:
            self._credentials = self._load()
        self._renew_after = 0.0
        _logger.info("renewed %s until %s", held.identity, self._credentials.certificate.not_valid_after_utc)

    def _check_own(self, held: Credentials) -> None:
        """Better said at the start than by every other side."""
        held.trust.identify(held.certificate, self._clock(), held.revoked)

    def _is_good(self, held: Credentials, credential: str) -> bool:
        """Whether what somebody was believed for would still be: not revoked, and by a root that is believed."""
        if self._is_revoked(held, credential):
            return False
        issuer = credential.partition(" ")[0]
        return any(issuer == _issuer(root.subject) for root in held.trust.believed(self._clock()))

    def _is_revoked(self, held: Credentials, credential: str) -> bool:
        serial = credential.partition(" ")[2]
        return held.revoked.get_revoked_certificate_by_serial_number(int(serial or "0", 16)) is not None

    def _complain(self, error: Exception) -> None:
        text = str(error)
        if text != self._complained:
            self._complained = text
            _logger.error("the last good state of %s stays in force: %s", self.identity, text)


Clock = Callable[[], float]

_SEAL = b"layer8 seal 1\0"


def is_sealed(trust: Trust, data: bytes, signature: bytes, now: float | None = None) -> bool:
    """Whether a Vnet of this overlay has signed `data` by `X509Provider.sign`; its leaf may have expired since."""
    try:
        der, signed = _proofs.decode(signature)
        certificate = x509.load_der_x509_certificate(der)
        then = min(time.time() if now is None else now, certificate.not_valid_after_utc.timestamp() - 1)
        who = trust.identify(certificate, then, None)
    except (msgspec.DecodeError, ValueError, CertificateError):
        return False
    return who.role is Role.VNET and certificates.is_signed(certificate, signed, _SEAL + data)


def _credential(certificate: x509.Certificate) -> str:
    return f"{_issuer(certificate.issuer)} {certificate.serial_number:x}"


def _issuer(name: x509.Name) -> str:
    return name.public_bytes().hex()
