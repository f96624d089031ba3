"""How somebody gets a certificate who does not have the authority's directory: what is said, without any I/O.

    joiner                                    authority                        inside TLS 1.3; ALPN "layer8-join/1"
              ◀── Roots(trust, certificate, signature) ──                      who the authority is, on this connection
    Join(token, request)       ──▶                                             a newcomer, with a token
    Renew(request, signature)  ──▶                                             a member, by the key it has
    Lists()                    ──▶                                             a member, by its certificate in TLS
              ◀── Given(certificate, trust, revoked) ── or Denied(text)        and the end

The joiner believes nothing until it knows the authority: the list of roots has the fingerprint that stands in its
token (or that it has known for long), the certificate is the authority's own, by a root of that list, and its key has
signed what this TLS connection alone has (`tls_binding`), whoever's certificate TLS itself was made with. Only then the
token leaves it: who stands in between, a Vnet that passes the connection on, say, sees nothing. A Renew proves itself,
so a Vnet may pass on those of its Vnics and has no right to ask in their name.

A stranger learns whether its token was good and nothing else; why it was not stands in the authority's log.
`layer8.security.enrolment_service` and `enrolment_client` bring the bytes to and fro.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec
from cryptography import x509

from layer8.errors import Layer8Error
from layer8.protocol.link_messages import LARGEST_LIST
from layer8.security import certificates
from layer8.security.authority import Authority, Issued, JoinError, Token
from layer8.security.certificates import BACKDATED_SECONDS, CertificateError, Identity, Key
from layer8.security.identity import Credentials
from layer8.security.trust import Trust

ALPN = "layer8-join/1"
LARGEST_QUESTION = 16384  # bytes; a signing request has about 400
LARGEST_ANSWER = 3 * LARGEST_LIST

SEAL_SECONDS = 3600.0
MOST_LEAVES = 256
"""Of one identity at a time, by renewal: a member must not fill the authority's disk."""

_RENEW = b"layer8 renew 1\0"
_HERE = b"layer8 authority 1\0"


class EnrolmentRefused(Layer8Error):
    """The authority gives nothing. `reason`: what it said."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the authority refused: {self.reason}"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the authority answers to a signing request: a leaf and the lists that go with it. No secret: it is of use
    only where the key is. As a file it is JSON; `install` in `layer8.security.identity` puts it to use."""

    certificate: str
    trust: str
    revoked: str

    @classmethod
    def of(cls, issued: Issued) -> Answer:
        return cls(
            certificate=issued.certificate.decode(), trust=issued.trust.decode(), revoked=issued.revoked.decode()
        )

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """Raises CertificateError."""
        try:
            if len(data) > LARGEST_ANSWER:
                raise ValueError("it is too large")
            return msgspec.json.decode(data, type=cls)
        except (ValueError, msgspec.DecodeError) as error:
            raise CertificateError("answer of the authority", f"it cannot be read: {error}") from error

    def encode(self) -> bytes:
        return msgspec.json.encode(self) + b"\n"


# ── messages ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Message(msgspec.Struct, frozen=True, tag_field="t", kw_only=True):
    pass


class Roots(_Message, frozen=True, tag="roots"):
    """`certificate`: the authority's own (DER). `signature`: by its key, over this connection's binding."""

    trust: bytes
    certificate: bytes
    signature: bytes


class Join(_Message, frozen=True, tag="join"):
    """`token`: its text."""

    token: str
    request: bytes

    def __repr__(self) -> str:
        return "<Join>"


class Renew(_Message, frozen=True, tag="renew"):
    """`certificate`: the present leaf (DER). `signature`: by its key, over the request."""

    request: bytes
    certificate: bytes
    signature: bytes

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Renew:
        """Raises ValueError."""
        try:
            if len(data) > LARGEST_QUESTION:
                raise ValueError("it is too large")
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"this is no renewal: {error}") from None


class Lists(_Message, frozen=True, tag="lists"):
    pass


class Given(_Message, frozen=True, tag="given"):
    """`certificate`: empty when only the lists were asked for."""

    certificate: bytes
    trust: bytes
    revoked: bytes


class Denied(_Message, frozen=True, tag="denied"):
    text: str


_questions = msgspec.msgpack.Decoder(Join | Renew | Lists)
_answers = msgspec.msgpack.Decoder(Roots | Given | Denied)


def make_renewal(held: Credentials, key: Key) -> Renew:
    """Asks for a leaf for `key`, in the name of who holds the present one."""
    request = certificates.make_request(held.identity, key)
    signature = certificates.sign(held.key, _RENEW + request)
    return Renew(request=request, certificate=certificates.to_der(held.certificate), signature=signature)


def renewed(authority: Authority, question: Renew, now: float) -> Issued:
    """A leaf as good as the one before. Raises CertificateError or StateError."""
    what = "renewal"
    try:
        before = x509.load_der_x509_certificate(question.certificate)
    except ValueError as error:
        raise CertificateError(what, "its certificate cannot be read") from error
    member = _member(authority, before, now)
    if not certificates.is_signed(before, question.signature, _RENEW + question.request):
        raise CertificateError(what, f"it is not signed by {member}")
    wanted, public = certificates.check_request(question.request)
    if wanted != member:
        raise CertificateError(what, f"{member} asks for {wanted}")
    if authority.count(member) >= MOST_LEAVES:
        raise CertificateError(what, f"{member} has {MOST_LEAVES} certificates already that have not expired")
    validity = before.not_valid_after_utc - before.not_valid_before_utc
    return authority.issue(member, public, now, max(1.0, validity.total_seconds() - BACKDATED_SECONDS))


def _member(authority: Authority, certificate: x509.Certificate, now: float) -> Identity:
    """Who it is, if it is one. Raises CertificateError."""
    trust, revoked = authority.lists()
    roots = Trust.decode(trust)
    return roots.identify(certificate, now, roots.check_revocations(revoked, now)[0])


class _Frames:
    """Messages behind a big-endian u32. Raises ValueError for a length that is too large."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        found = []
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if not 0 < length <= self._limit:
                raise ValueError(f"a message of {length} bytes")
            if len(self._buffer) < 4 + length:
                break
            found.append(bytes(self._buffer[4 : 4 + length]))
            del self._buffer[: 4 + length]
        return found


def _frame(message: _Message) -> bytes:
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


# ── the authority's side ───────────────────────────────────────────────────────────────────────────────────────────


class What(enum.StrEnum):
    """What came of it, for the audit log."""

    JOIN = "join"
    RENEW = "renew"
    LISTS = "lists"


Told = Callable[[What, str, bool, str], None]
"""Is told what was asked, by whom (a URI, or empty), whether it was granted, and why not."""


class Seal:
    """By what the authority is known on a connection: a short-lived leaf of its own. Any thread."""

    def __init__(self, authority: Authority, now: float) -> None:
        self.key = certificates.new_key()
        self.leaf = authority.service_leaf(self.key.public_key(), now, SEAL_SECONDS)
        self.trust = authority.lists()[0]
        self._made = now
        self._roots = authority.trust().believed(now)

    def is_fresh(self, authority: Authority, now: float) -> bool:
        """Whether it should still be used."""
        return abs(now - self._made) < SEAL_SECONDS / 2 and self.trust == authority.lists()[0]

    def roots(self, binding: bytes) -> Roots:
        certificate = certificates.to_der(certificates.certificate_from_pem(self.leaf))
        return Roots(trust=self.trust, certificate=certificate, signature=certificates.sign(self.key, _HERE + binding))


class Registrar:
    """One connection's end at the authority. Send `greeting`, then what `receive` returns; `done` ends it."""

    def __init__(
        self, authority: Authority, seal: Seal, binding: bytes, peer: bytes | None, told: Told = lambda *_: None
    ) -> None:
        """`binding`: of the connection (`tls_binding`). `peer`: the certificate (DER) that the other side has shown in
        TLS, if any."""
        self._authority = authority
        self._greeting = seal.roots(binding)
        self._peer = peer
        self._told = told
        self._frames = _Frames(LARGEST_QUESTION)
        self.done = False

    def greeting(self) -> bytes:
        return _frame(self._greeting)

    def receive(self, data: bytes, now: float) -> bytes:
        """`now`: Unix seconds. Never raises for what a stranger sent."""
        if self.done:
            return b""
        try:
            messages = self._frames.feed(data)
            if not messages:
                return b""
            question = _questions.decode(messages[0])
        except (ValueError, msgspec.DecodeError, RecursionError):
            self.done = True
            return _frame(Denied(text="this is no question"))
        self.done = True
        return _frame(self._answer(question, now))

    def _answer(self, question: Join | Renew | Lists, now: float) -> Given | Denied:
        match question:
            case Join():
                return self._join(question, now)
            case Renew():
                return self._renew(question, now)
            case Lists():
                return self._lists(now)

    def _join(self, question: Join, now: float) -> Given | Denied:
        try:
            issued = self._authority.redeem(Token.parse(question.token), question.request, now)
        except (JoinError, CertificateError) as error:
            self._told(What.JOIN, "", False, str(error))
            return Denied(text="the join token, or what it was brought with, is not good")
        except Layer8Error as error:
            self._told(What.JOIN, "", False, str(error))
            return Denied(text="the authority failed; its log says more")
        self._told(What.JOIN, issued.identity.uri, True, "")
        return _given(issued)

    def _renew(self, question: Renew, now: float) -> Given | Denied:
        try:
            issued = renewed(self._authority, question, now)
        except Layer8Error as error:
            self._told(What.RENEW, "", False, str(error))
            return Denied(text="only who is a member may renew, and only its own")
        self._told(What.RENEW, issued.identity.uri, True, "")
        return _given(issued)

    def _lists(self, now: float) -> Given | Denied:
        try:
            if self._peer is None:
                raise CertificateError("certificate", "there is none")
            _member(self._authority, x509.load_der_x509_certificate(self._peer), now)
        except (Layer8Error, ValueError) as error:
            self._told(What.LISTS, "", False, str(error))
            return Denied(text="only a member is told")
        trust, revoked = self._authority.lists()
        return Given(certificate=b"", trust=trust, revoked=revoked)


def _given(issued: Issued) -> Given:
    return Given(certificate=issued.certificate, trust=issued.trust, revoked=issued.revoked)


# ── the other side ─────────────────────────────────────────────────────────────────────────────────────────────────


class Applicant:
    """One connection's end at who wants something. `answer` is there when `receive` has had it all.

    `known`: how the authority is known: the fingerprint of the overlay, or the list of roots.
    `ask`: makes the question, once the overlay is known.
    """

    def __init__(self, known: bytes | Trust, ask: Callable[[str], Join | Renew | Lists]) -> None:
        self._known = known
        self._ask = ask
        self._frames = _Frames(LARGEST_ANSWER)
        self._asked = False
        self.answer: Given | None = None

    def receive(self, data: bytes, binding: bytes, now: float) -> bytes:
        """What to send next. `binding`: of the connection.

        Raises CertificateError for who is not the authority, EnrolmentRefused, or ValueError for what makes no sense.
        """
        out = b""
        for body in self._frames.feed(data):
            try:
                message = _answers.decode(body)
            except (msgspec.DecodeError, RecursionError) as error:
                raise ValueError(f"this is no authority's answer: {error}") from None
            match message:
                case Roots() if not self._asked:
                    self._asked = True
                    out += _frame(self._ask(self._check(message, binding, now)))
                case Given() if self._asked:
                    self.answer = message
                case Denied():
                    raise EnrolmentRefused(message.text[:500])
                case _:
                    raise ValueError("this is no authority's answer: it is out of order")
        return out

    def _check(self, roots: Roots, binding: bytes, now: float) -> str:
        offered = Trust.decode(roots.trust)
        fingerprint = self._known if isinstance(self._known, bytes) else self._known.fingerprint
        if offered.fingerprint != fingerprint:
            raise CertificateError("authority", "it is of another overlay")
        if isinstance(self._known, Trust) and not offered.follows(self._known):
            offered = self._known  # what is known already is as new, or newer
        try:
            certificate = x509.load_der_x509_certificate(roots.certificate)
        except ValueError as error:
            raise CertificateError("authority", f"its certificate cannot be read: {error}") from error
        offered.check_service(certificate, now)
        if not certificates.is_signed(certificate, roots.signature, _HERE + binding):
            raise CertificateError("authority", "who answered is not the authority on this connection")
        return offered.overlay
