"""How two Vnets come to trust a connection: one state machine, which plays the dialler or the acceptor.

    dialler                              acceptor                         proved, over binding and both hellos
    HELLO  ── LinkHello ───────────────▶ HELLO
    HELLO  ◀────────────── LinkHello ─── PROOF
    PROOF  ◀────────────── LinkProof ───                                  the acceptor proves itself first
           ── LinkProof ───────────────▶ PROVED   permission, session     then the dialler
    READY  ◀────────────── LinkReady ─── START    (`ready`)
    PROVED   permission, session
    DONE   ── LinkStart ───────────────▶ DONE     (`start`)
    either ── LinkRefused ─────────────▶ REFUSED

The statement's purpose is "link", the prover's role a Vnet's, its audience `vnet/UUID/EPOCH` of the other, and the
digest says also which of the two proves, so no proof is worth anything reflected. `binding` is what only the ends of
this very TLS connection have in common. Which connection of a session stays is layer8.protocol.sessions' to say.

The machine owns no socket and no clock. `receive` calls the provider and may come from a worker thread, one call at a
time. Whoever drives it bounds its time and closes the connection when `state` is REFUSED or an error was raised.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from layer8.errors import Layer8Error
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.link_messages import (
    LINK_VERSION,
    Handshake,
    LinkHello,
    LinkProof,
    LinkReady,
    LinkRefused,
    LinkStart,
    body,
)
from layer8.protocol.statement import Channel, Principal, Prover, Purpose, Role, Statement, short

NONCE_BYTES = 32
_LARGEST_PROOF = 3 << 10
_MOST_REACH = 8

_logger = logging.getLogger("layer8.protocol")


class State(enum.Enum):
    HELLO = enum.auto()
    PROOF = enum.auto()
    PROVED = enum.auto()
    READY = enum.auto()
    START = enum.auto()
    DONE = enum.auto()
    REFUSED = enum.auto()


class LinkRefusal(Layer8Error):
    """There is no link on this connection. `code`, `text`: as in LinkRefused; `remote`: the other side said so;
    `peer`: the Vnet that it would have been with, if that is known."""

    peer: UUID | None = None

    def __init__(self, code: str, text: str, remote: bool) -> None:
        super().__init__(code, text, remote)
        self.code = code
        self.text = text
        self.remote = remote

    def __str__(self) -> str:
        by = "the other Vnet refused a link" if self.remote else "a link was refused here"
        return f"{by}: {self.text or self.code} ({self.code})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Self:
    """Who this Vnet is. `reach`: where it can be dialled."""

    overlay: str
    vnet: UUID
    epoch: int
    name: str
    host: str
    reach: tuple[str, ...] = ()


class LinkHandshake:
    """`peer`: what the other said, once it has; believed when `principal` is there. `session`, `serial`: as the arbiter
    has decided, once DONE; the other's `theirs` are what it knew before. `hello`: this side's, for the other's log."""

    def __init__(
        self,
        provider: Prover,
        own: Self,
        *,
        dials: bool,
        binding: bytes,
        seen: Channel,
        knows: Callable[[UUID], tuple[int, int]] = lambda peer: (0, 0),
        nonce: bytes | None = None,
    ) -> None:
        """`knows(peer)`: session and serial that this side has with it. `nonce`: tests give their own."""
        self._provider = provider
        self._own = own
        self._dials = dials
        self._binding = binding
        self._seen = seen
        self._knows = knows
        self._nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._hellos: dict[bool, bytes] = {}  # by "is the dialler's"
        self._fingerprint = b""
        self.state = State.HELLO
        self.peer: LinkHello | None = None
        self.principal: Principal | None = None
        self.theirs = (0, 0)
        self.session = 0
        self.serial = 0

    @property
    def is_arbiter(self) -> bool:
        """Whether this side decides which connection stays: the Vnet of the lower uuid does."""
        return self.peer is not None and self._own.vnet < self.peer.vnet

    def start(self) -> list[Handshake]:
        """The dialler's first message. Raises LinkRefusal."""
        return [self._hello()]

    def receive(self, message: Handshake, data: bytes) -> list[Handshake]:
        """What to send. `data`: the message exactly as it came. Raises LinkRefusal when it is over, with its answer
        in `farewell`, or ProtocolViolation."""
        try:
            return self._receive(message, data)
        except BaseException:
            self.state = State.REFUSED
            raise

    def _receive(self, message: Handshake, data: bytes) -> list[Handshake]:
        match self.state, message:
            case State.REFUSED | State.DONE, _:
                raise ProtocolViolation(f"{type(message).__name__} after the end of a handshake")
            case _, LinkRefused(code=code, text=text):
                raise LinkRefusal(code[:32], text[:256], remote=True)
            case State.HELLO, LinkHello():
                return self._greeted(message, data)
            case State.PROOF, LinkProof():
                return self._proved(message)
            case State.READY, LinkReady(session=session, serial=serial) if self._dials:
                self.session, self.serial = session, serial
                self.state = State.PROVED
                return []
            case State.START, LinkStart(session=session, serial=serial) if not self._dials:
                if not self.is_arbiter:
                    self.session, self.serial = session, serial
                self._check_numbers()
                self.state = State.DONE
                return []
        raise ProtocolViolation(f"{type(message).__name__} in the state {self.state.name} of a handshake")

    def proceed(self, session: int = 0, serial: int = 0) -> Handshake:
        """After PROVED: this Vnet wants the link. The numbers are the arbiter's. What to send."""
        if self.state is not State.PROVED:
            raise RuntimeError(f"nothing to go on with in the state {self.state.name}")
        if self.is_arbiter:
            self.session, self.serial = session, serial
        if self._dials:
            self._check_numbers()
            self.state = State.DONE
            return LinkStart(session=session, serial=serial) if self.is_arbiter else LinkStart()
        self.state = State.START
        return LinkReady(session=session, serial=serial) if self.is_arbiter else LinkReady()

    def refuse(self, code: str, text: str = "") -> LinkRefused:
        """This Vnet does not want the link. What to send."""
        self.state = State.REFUSED
        return LinkRefused(code=code, text=text)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _hello(self) -> LinkHello:
        own = self._own
        try:
            self._fingerprint = self._provider.fingerprint()
        except Exception as error:
            raise LinkRefusal("mismatch", f"the Security Provider has no fingerprint: {error!r}", False) from error
        hello = LinkHello(
            oldest=LINK_VERSION,
            newest=LINK_VERSION,
            fingerprint=self._fingerprint,
            overlay=own.overlay,
            vnet=own.vnet,
            epoch=own.epoch,
            nonce=self._nonce,
            name=own.name,
            host=own.host,
            reach=own.reach,
        )
        self._hellos[self._dials] = body(hello)
        return hello

    def _greeted(self, hello: LinkHello, data: bytes) -> list[Handshake]:
        answers: list[Handshake] = [] if self._dials else [self._hello()]
        if not hello.oldest <= LINK_VERSION <= hello.newest:
            text = f"it speaks versions {hello.oldest} to {hello.newest} of the link protocol, this is {LINK_VERSION}"
            raise LinkRefusal("version", text, False)
        if not hmac.compare_digest(hello.fingerprint, self._fingerprint):
            ours, other = short(self._fingerprint), short(hello.fingerprint)
            raise LinkRefusal("mismatch", f"another Security Provider: {other}, this is {ours}", False)
        if hello.overlay != self._own.overlay:
            raise LinkRefusal("overlay", f"overlay {hello.overlay[:64]!r}, this is {self._own.overlay!r}", False)
        if hello.vnet == self._own.vnet:
            raise LinkRefusal("self", "this Vnet has reached itself", False)
        if len(hello.nonce) != NONCE_BYTES or hmac.compare_digest(hello.nonce, self._nonce):
            raise ProtocolViolation("a LinkHello without a nonce of its own")
        if not 0 < hello.epoch < 1 << 63 or len(hello.reach) > _MOST_REACH or len(hello.name + hello.host) > 512:
            raise ProtocolViolation("a LinkHello with values that cannot be")
        self.peer = hello
        self._hellos[not self._dials] = data
        self.state = State.PROOF
        if not self._dials:
            answers.append(self._proof())
        return answers

    def _proof(self) -> LinkProof:
        assert self.peer is not None
        try:
            proof = self._provider.prove(self._statement(self._dials, self.peer.vnet, self.peer.epoch))
        except Exception as error:
            raise LinkRefusal("not-authorized", f"this Vnet cannot prove itself: {error!r}", False) from error
        if len(proof) > _LARGEST_PROOF:
            raise LinkRefusal("not-authorized", f"this Vnet's proof of {len(proof)} bytes is too large", False)
        session, serial = self._knows(self.peer.vnet)
        return LinkProof(proof=proof, session=session, serial=serial)

    def _proved(self, message: LinkProof) -> list[Handshake]:
        statement = self._statement(not self._dials, self._own.vnet, self._own.epoch)
        try:
            principal = self._provider.verify(message.proof, statement, self._seen)
            if principal.role is not Role.VNET:
                raise PermissionError(f"{principal.uri} is a {principal.role}, not a Vnet")
        except Exception as error:
            _logger.warning("the proof of a Vnet does not hold (%s): %r", self._seen.text, error)
            raise LinkRefusal("not-authorized", "the proof does not hold", False) from error
        self.principal = principal
        self.theirs = (message.session, message.serial)
        if self._dials:
            self.state = State.READY
            return [self._proof()]
        self.state = State.PROVED
        return []

    def _statement(self, by_dialler: bool, audience: UUID, epoch: int) -> Statement:
        digest = hashlib.sha256(b"layer8 link 1\0" + (b"dialler\0" if by_dialler else b"acceptor\0"))
        for part in (self._binding, self._hellos[True], self._hellos[False]):
            digest.update(len(part).to_bytes(4, "little") + part)
        return Statement(
            purpose=Purpose.LINK,
            prover_role=Role.VNET,
            overlay=self._own.overlay,
            audience=f"vnet/{audience}/{epoch}",
            digest=digest.digest(),
        )

    def _check_numbers(self) -> None:
        if not (0 < self.session < 1 << 63 and 0 < self.serial < 1 << 63):
            raise ProtocolViolation("the arbiter of a link gave it no number")
