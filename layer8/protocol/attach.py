"""How a Vnic and its Vnet come to trust each other: two state machines, one for each side.

    Vnic                                         Vnet                                 what is proved, by SHA-256 over
    START ── Hello ────────────────────────────▶ HELLO
    CHALLENGE ◀──────────────────── Challenge ── PROOF      Vnet proves itself        Hello, Challenge without proof
    REPLY ── Attach ───────────────────────────▶ VERIFIED   then the Vnic             Hello, Challenge, Attach without
    ATTACHED ◀─────────────────────── Attached ── ATTACHED                            proof
    FAILED ◀───────────── Refused at any point ── REFUSED

Frames enter the digest as they stood on the wire, length and unknown fields included, one after the other; each ends
where its length says, so no two exchanges have the same digest. "Without proof" is the frame with the value of its
field `proof` replaced by an empty one and the length set accordingly (`unsigned`).

Each proof is for a Statement with purpose "attach", the prover's role, the overlay, the digest, and an audience: the
Vnet's is for `vnic/NONCE` (the Vnic has no name yet; NONCE is its nonce in hex), the Vnic's for `vnet/UUID/EPOCH`.
Both nonces are 32 fresh random bytes and stand in the digest, so nothing can be replayed and `expires` is 0. Another
version or another Security Provider is found out before anything is proved. A reflected proof has the wrong role.

The machines own no socket and no clock. Feed them every message together with its frame (Decoder.feed_frames), send
what comes back, and close the connection when it is Refused or an error was raised. Descriptors, limits, and asking
whether this principal may attach are the Vnet's, between `receive` returning the Attach and `accept` or `refuse`.
A machine belongs to one connection; its calls, which call the provider, may come from any one thread at a time.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import logging
import secrets
from typing import TypeVar
from uuid import UUID

import msgspec

from layer8.errors import Layer8Error, NotAuthorized, SecurityMismatch
from layer8.protocol.codec import LENGTH_BYTES, UNPROVEN_BYTES, Frame, ProtocolViolation, Unknown, encode
from layer8.protocol.control import PROTOCOL_VERSION, Attach, Attached, Challenge, Hello, Refused, Wire
from layer8.protocol.statement import Channel, Principal, Prover, Purpose, Role, Statement, short
from layer8.protocol.versions import Incompatible, difference
from layer8.version import VERSION

ATTACH_SECONDS = 3.0
"""How long a Vnet waits for the proof of whoever connects."""

NONCE_BYTES = 32

_PROTOCOL = "control protocol"

_Proved = TypeVar("_Proved", Challenge, Attach)

_logger = logging.getLogger("layer8.protocol")


class VnicState(enum.Enum):
    START = enum.auto()
    CHALLENGE = enum.auto()
    REPLY = enum.auto()
    ATTACHED = enum.auto()
    FAILED = enum.auto()


class VnetState(enum.Enum):
    HELLO = enum.auto()
    PROOF = enum.auto()
    VERIFIED = enum.auto()
    ATTACHED = enum.auto()
    REFUSED = enum.auto()


class VnicAttach:
    """The Vnic's side of one attach.

    `attached`: the Attached once it has come. `challenge`: who the Vnet is, once it has proved itself. `digest`: of
    what the Vnic has proved.
    `refused`: the Refused, when that is what ended it: its `code` says whether trying again makes sense.
    """

    def __init__(
        self,
        provider: Prover,
        *,
        uuid: UUID,
        alias: str | None = None,
        observer: bool = False,
        resume: bytes = b"",
        adopt: bool = False,
        pid: int = 0,
        program: str = "",
        chime: bool = False,
        seen: Channel,
        nonce: bytes | None = None,
    ) -> None:
        """`seen`: what the kernel says of the Vnet. `nonce`: fresh random bytes by default; tests give their own."""
        self._provider = provider
        self._attach = Attach(
            uuid=uuid,
            proof=b"",
            alias=alias,
            observer=observer,
            resume=resume,
            adopt=adopt,
            pid=pid,
            program=program,
            chime=chime,
            release=VERSION,
        )
        self._seen = seen
        self._nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._fingerprint = b""
        self._transcript = b""
        self.state = VnicState.START
        self.digest = b""
        self.proved_until = 0.0  # Unix seconds; 0.0: nothing that runs out
        self.vnet_principal: Principal | None = None
        self.challenge: Challenge | None = None
        self.attached: Attached | None = None
        self.refused: Refused | None = None

    def start(self) -> Hello:
        """The first message to send."""
        if self.state is not VnicState.START:
            raise RuntimeError("an attach starts once")
        try:
            fingerprint = _fingerprint(self._provider)
        except Exception as error:
            raise Layer8Error(f"the Security Provider has no fingerprint: {error!r}") from error
        hello = Hello(version=PROTOCOL_VERSION, fingerprint=fingerprint, nonce=self._nonce)
        self._fingerprint = fingerprint
        self._transcript = encode(hello)
        self.state = VnicState.CHALLENGE
        return hello

    def receive(self, message: Wire | Unknown, frame: Frame) -> Attach | None:
        """What to send next: the Attach (with the segment's descriptor), or None when `attached` is there.

        Raises SecurityMismatch, NotAuthorized, ProtocolViolation or another Layer8Error; the attach has then failed.
        """
        try:
            match self.state, message:
                case ((VnicState.CHALLENGE | VnicState.REPLY), Refused()):
                    self.refused = message
                    raise _refusal(message, self._fingerprint)
                case VnicState.CHALLENGE, Challenge():
                    reply = self._answer(message, frame)
                    self.state = VnicState.REPLY
                    return reply
                case VnicState.REPLY, Attached():
                    self.attached = message
                    self.state = VnicState.ATTACHED
                    return None
                case _:
                    raise ProtocolViolation(f"{_name(message)} in the state {self.state.name} of an attach")
        except BaseException:
            self.state = VnicState.FAILED
            raise

    def _answer(self, challenge: Challenge, frame: Frame) -> Attach:
        if challenge.version != PROTOCOL_VERSION:
            raise _version_error(challenge.version)
        if not hmac.compare_digest(challenge.fingerprint, self._fingerprint):
            raise SecurityMismatch(short(self._fingerprint), short(challenge.fingerprint))
        if len(challenge.nonce) != NONCE_BYTES or hmac.compare_digest(challenge.nonce, self._nonce):
            raise ProtocolViolation("a Challenge without a nonce of its own")
        statement = _vnet_statement(challenge.overlay, self._nonce, self._transcript + unsigned(frame))
        self.vnet_principal, _ = _verified(self._provider, challenge.proof, statement, self._seen)
        if self.vnet_principal is None:
            raise NotAuthorized(self._seen.text or "the Vnet that answered", "host", f"overlay {challenge.overlay}")
        self.challenge = challenge
        self._transcript += frame
        statement = _vnic_statement(challenge, self._transcript + encode(self._attach))
        self.digest = statement.digest
        self.proved_until = getattr(self._provider, "expires", 0.0)
        try:
            return _with_proof(self._attach, self._provider, statement)
        except Exception as error:
            raise Layer8Error(f"the Security Provider could not prove who this is: {error!r}") from error


class VnetAttach:
    """The Vnet's side of one attach.

    `principal`: who the Vnic proved to be, once `receive` has returned its Attach. `digest`: of what it has proved.
    `doubt`: why a proof did not hold; for the log and the audit, not for who brought it. `deadline`: when to give up
    (monotonic seconds): call `expire` then, unless the state is ATTACHED.
    """

    def __init__(
        self,
        provider: Prover,
        *,
        overlay: str,
        vnet_uuid: UUID,
        name: str,
        epoch: int,
        seen: Channel,
        now: float,
        nonce: bytes | None = None,
    ) -> None:
        """`seen`: what the kernel says of the Vnic. `now`: monotonic seconds."""
        self._provider = provider
        self._overlay = overlay
        self._vnet_uuid = vnet_uuid
        self._vnet_name = name
        self._epoch = epoch
        self._seen = seen
        self._nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._transcript = b""
        self._challenge: Challenge | None = None
        self._refused: Refused | None = None
        self.state = VnetState.HELLO
        self.deadline = now + ATTACH_SECONDS
        self.digest = b""
        self.doubt = ""
        self.principal: Principal | None = None

    def receive(self, message: Wire | Unknown, frame: Frame, now: float) -> Challenge | Refused | Attach:
        """A Challenge or Refused to send, or the Attach: its proof holds, now admit it with `accept` or `refuse`.

        After a Refused every call returns that again. What comes between the Attach and its admission is against the
        protocol too: it turns into a Refused, and `accept` is then no longer possible. After `accept` nothing more
        belongs here (RuntimeError).
        """
        if self._refused is not None:
            return self._refused
        if now >= self.deadline:
            return self.expire()
        match self.state, message:
            case VnetState.HELLO, Hello():
                return self._challenged(message, frame)
            case VnetState.PROOF, Attach():
                return self._proved(message, frame)
            case _:
                if self.state is VnetState.ATTACHED:
                    raise RuntimeError("this attach is over: its messages go elsewhere now")
                return self.refuse("invalid", f"{_name(message)} in the state {self.state.name} of an attach")

    def accept(
        self, *, port: int, resume: bytes, max_message_bytes: int, max_requests: int, adopted: bool = False
    ) -> Attached:
        """The Vnic is admitted. Arguments as in Attached."""
        if self.state is not VnetState.VERIFIED or self.principal is None:
            raise RuntimeError(f"nobody can be accepted in the state {self.state.name}")
        self.state = VnetState.ATTACHED
        return Attached(
            port=port,
            resume=resume,
            principal=self.principal.uri,
            max_message_bytes=max_message_bytes,
            max_requests=max_requests,
            adopted=adopted,
        )

    def refuse(self, code: str, text: str = "", fields: tuple[str, ...] = ()) -> Refused:
        """The attach is over. `code`: as in Refused; for "not-authorized" `fields` are principal, action, resource."""
        if self.state is VnetState.ATTACHED:
            raise RuntimeError("this Vnic was accepted already")
        if self._refused is None:
            self.state = VnetState.REFUSED
            self._refused = Refused(code=code, text=text, fields=fields)
        return self._refused

    def expire(self) -> Refused:
        """The deadline has passed."""
        return self.refuse("limit", f"the attach took longer than {ATTACH_SECONDS:g} s")

    def _challenged(self, hello: Hello, frame: Frame) -> Challenge | Refused:
        if hello.version != PROTOCOL_VERSION:
            text = difference(_PROTOCOL, PROTOCOL_VERSION, hello.version, vnet_release=VERSION)
            return self.refuse("version", text, (str(PROTOCOL_VERSION), VERSION))
        unproven = ("the Vnet", "host", f"overlay {self._overlay}")
        try:
            ours = _fingerprint(self._provider)
        except Exception:
            _logger.warning("the Security Provider has no fingerprint; a Vnic was refused", exc_info=True)
            return self.refuse("not-authorized", "this Vnet cannot prove itself", unproven)
        if not hmac.compare_digest(hello.fingerprint, ours):
            return self.refuse("mismatch", "another Security Provider", (short(ours),))
        if len(hello.nonce) != NONCE_BYTES or hmac.compare_digest(hello.nonce, self._nonce):
            return self.refuse("invalid", "a Hello without a nonce of its own")
        challenge = Challenge(
            version=PROTOCOL_VERSION,
            fingerprint=ours,
            overlay=self._overlay,
            vnet=self._vnet_uuid,
            name=self._vnet_name,
            epoch=self._epoch,
            nonce=self._nonce,
            proof=b"",
        )
        statement = _vnet_statement(self._overlay, hello.nonce, frame + encode(challenge))
        try:
            self._challenge = _with_proof(challenge, self._provider, statement)
        except Exception:
            _logger.warning("the Security Provider could not prove the Vnet; a Vnic was refused", exc_info=True)
            return self.refuse("not-authorized", "this Vnet cannot prove itself", unproven)
        self._transcript = frame + encode(self._challenge)
        self.state = VnetState.PROOF
        return self._challenge

    def _proved(self, attach: Attach, frame: Frame) -> Attach | Refused:
        assert self._challenge is not None
        try:
            statement = _vnic_statement(self._challenge, self._transcript + unsigned(frame))
        except ProtocolViolation as violation:
            return self.refuse("invalid", violation.reason)
        self.digest = statement.digest
        self.principal, self.doubt = _verified(self._provider, attach.proof, statement, self._seen)
        if self.principal is None:
            who = self._seen.text or "this Vnic"
            return self.refuse("not-authorized", "the proof does not hold", (who, "attach", f"overlay {self._overlay}"))
        self.state = VnetState.VERIFIED
        return attach


def unsigned(frame: Frame) -> Frame:
    """The frame with its `proof` emptied, everything else as it was, also fields that this version does not know."""
    try:
        fields = msgspec.msgpack.decode(frame[LENGTH_BYTES:], type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"a message whose fields cannot be told apart: {error}") from None
    fields["proof"] = msgspec.Raw(msgspec.msgpack.encode(b""))
    body = msgspec.msgpack.encode(fields)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def _vnet_statement(overlay: str, vnic_nonce: bytes, transcript: bytes) -> Statement:
    return Statement(
        purpose=Purpose.ATTACH,
        prover_role=Role.VNET,
        overlay=overlay,
        audience=f"vnic/{vnic_nonce.hex()}",
        digest=hashlib.sha256(transcript).digest(),
    )


def _vnic_statement(challenge: Challenge, transcript: bytes) -> Statement:
    return Statement(
        purpose=Purpose.ATTACH,
        prover_role=Role.VNIC,
        overlay=challenge.overlay,
        audience=f"vnet/{challenge.vnet}/{challenge.epoch}",
        digest=hashlib.sha256(transcript).digest(),
    )


def _fingerprint(provider: Prover) -> bytes:
    fingerprint: object = provider.fingerprint()
    if not isinstance(fingerprint, bytes) or not 16 <= len(fingerprint) <= 64:
        raise ValueError("a fingerprint has 16 to 64 bytes")
    return fingerprint


def _with_proof(message: _Proved, provider: Prover, statement: Statement) -> _Proved:
    """The message with its proof, if the other side would read it. Raises what the provider raises."""
    proof = provider.prove(statement)
    if not isinstance(proof, bytes):
        raise TypeError(f"a proof is bytes, not {type(proof).__name__}")
    proved = msgspec.structs.replace(message, proof=proof)
    if len(encode(proved)) - LENGTH_BYTES > UNPROVEN_BYTES:
        raise ValueError(f"a proof of {len(proof)} bytes is too large: the message has {UNPROVEN_BYTES} bytes at most")
    return proved


def _verified(provider: Prover, proof: bytes, statement: Statement, seen: Channel) -> tuple[Principal | None, str]:
    """Who proved it, or None and why: whatever a provider raises is a refusal."""
    try:
        principal = provider.verify(proof, statement, seen)
        if principal.role is not statement.prover_role:
            raise PermissionError(f"{principal.uri} is a {principal.role}, not a {statement.prover_role}")
    except Exception as error:
        _logger.warning("the proof of a %s does not hold (%s): %r", statement.prover_role.value, seen.text, error)
        return None, str(error) or type(error).__name__
    return principal, ""


def _refusal(refused: Refused, fingerprint: bytes) -> Layer8Error:
    fields = refused.fields
    match refused.code:
        case "mismatch":
            return SecurityMismatch(short(fingerprint), fields[0] if fields else "unknown")
        case "not-authorized":
            who, action, resource = fields if len(fields) == 3 else ("this process", "attach to", "the Vnet")
            return NotAuthorized(who, action, resource)
        case "version" if fields and fields[0].isdecimal():
            return _version_error(int(fields[0][:9]), *fields[1:2])
        case "version" | "layout":
            return Incompatible(refused.text)
        case _:
            return Layer8Error(f"the Vnet refused the attach ({refused.code}): {refused.text}")


def _version_error(theirs: int, release: str = "") -> Incompatible:
    text = difference(_PROTOCOL, theirs, PROTOCOL_VERSION, vnet_release=release[:64], library_release=VERSION)
    return Incompatible(text)


def _name(message: Wire | Unknown) -> str:
    return f"unknown kind {message.kind!r}" if isinstance(message, Unknown) else type(message).__name__
