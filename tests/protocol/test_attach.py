"""The attach, both sides against each other, and against somebody in between who can do anything but prove."""

from __future__ import annotations

import hashlib
import hmac
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer8.errors import Layer8Error, NotAuthorized, SecurityMismatch
from layer8.protocol.attach import ATTACH_SECONDS, VnetAttach, VnetState, VnicAttach, VnicState, unsigned
from layer8.protocol.codec import UNPROVEN_BYTES, Decoder, Frame, ProtocolViolation, Unknown, encode
from layer8.protocol.control import (
    PROTOCOL_VERSION,
    Attach,
    Attached,
    Challenge,
    Done,
    FromVnet,
    FromVnic,
    Hello,
    Ping,
    Refused,
    Wire,
)
from layer8.protocol.statement import Channel, Principal, Role, Statement, short
from layer8.protocol.versions import Incompatible
from layer8.version import VERSION

VNIC, VNET = UUID(int=1), UUID(int=2)
SEEN = Channel(uid=1000, gid=1000, pid=7, text="pid 7")


@dataclass
class SharedSecret:
    """A provider whose evidence is an HMAC over the statement: only who has the key can make or check it."""

    key: bytes = b"a key"
    name: bytes = b"the trust domain"
    proved: list[Statement] = field(default_factory=list)
    error: Exception | None = None
    role: Role | None = None

    def fingerprint(self) -> bytes:
        return hashlib.sha256(self.name).digest()

    def prove(self, statement: Statement) -> bytes:
        if self.error is not None:
            raise self.error
        self.proved.append(statement)
        return hmac.digest(self.key, statement.encode(), "sha256")

    def verify(self, proof: bytes, statement: Statement, seen: Channel) -> Principal:
        if self.error is not None:
            raise self.error
        if not hmac.compare_digest(proof, hmac.digest(self.key, statement.encode(), "sha256")):
            raise PermissionError("another statement or another key")
        return Principal(uri=f"layer8://o/{statement.prover_role}/x", role=self.role or statement.prover_role)


class Session:
    """Both sides and what went between them. `nonce`: makes sessions differ from each other, as fresh ones do."""

    def __init__(
        self, vnic: SharedSecret | None = None, vnet: SharedSecret | None = None, *, nonce: int = 1, overlay: str = "o"
    ) -> None:
        self.vnic_provider = vnic or SharedSecret()
        self.vnet_provider = vnet or SharedSecret()
        self.vnic = VnicAttach(
            self.vnic_provider, uuid=VNIC, alias="a", pid=5, program="p", seen=SEEN, nonce=bytes([nonce, 1] * 16)
        )
        self.vnet = VnetAttach(
            self.vnet_provider,
            overlay=overlay,
            vnet_uuid=VNET,
            name="default",
            epoch=3,
            seen=SEEN,
            now=100.0,
            nonce=bytes([nonce, 2] * 16),
        )
        self.from_vnic = Decoder(FromVnic, UNPROVEN_BYTES)
        self.from_vnet = Decoder(FromVnet, UNPROVEN_BYTES)

    def to_vnet(self, frame: Frame) -> list[Wire]:
        """What the Vnet sends back; it admits whoever proved himself."""
        answers: list[Wire] = []
        for message, raw in self.from_vnic.feed_frames(frame):
            answer = self.vnet.receive(message, raw, 100.5)
            if isinstance(answer, Attach):
                answers.append(self.vnet.accept(port=4, resume=b"r", max_message_bytes=1 << 20, max_requests=9))
            else:
                answers.append(answer)
        return answers

    def to_vnic(self, frame: Frame) -> list[Wire]:
        answers = [self.vnic.receive(message, raw) for message, raw in self.from_vnet.feed_frames(frame)]
        return [answer for answer in answers if answer is not None]

    def frames(self) -> list[Frame]:
        """A whole attach without anybody in between: Hello, Challenge, Attach, Attached."""
        sent = [encode(self.vnic.start())]
        sent += map(encode, self.to_vnet(sent[-1]))
        sent += map(encode, self.to_vnic(sent[-1]))
        sent += map(encode, self.to_vnet(sent[-1]))
        self.to_vnic(sent[-1])
        return sent

    def run(self, between: Callable[[int, Frame], list[Frame]]) -> None:
        """The attach, with whatever `between` makes of the frame number 0 to 3 in its place. Ends when a side ends."""
        frame = encode(self.vnic.start())
        for number in range(4):
            receive = self.to_vnet if number % 2 == 0 else self.to_vnic
            answers: list[Wire] = []
            for changed in between(number, frame):
                answers += receive(changed)
            if not answers:
                return
            frame = encode(answers[0])


def test_both_sides_prove_themselves_and_the_vnic_is_attached() -> None:
    session = Session()
    attach = session.frames()[2]
    assert session.vnic.state is VnicState.ATTACHED
    assert session.vnet.state is VnetState.ATTACHED
    assert session.vnet.principal == Principal(uri="layer8://o/vnic/x", role=Role.VNIC)
    assert session.vnic.vnet_principal == Principal(uri="layer8://o/vnet/x", role=Role.VNET)
    assert session.vnic.challenge is not None
    assert session.vnic.challenge.vnet == VNET
    assert session.vnic.attached == Attached(
        port=4, resume=b"r", principal="layer8://o/vnic/x", max_message_bytes=1 << 20, max_requests=9
    )
    [sent] = Decoder(FromVnic).feed(attach)
    assert isinstance(sent, Attach)
    assert (sent.uuid, sent.alias, sent.pid, sent.program, sent.observer, sent.resume) == (
        VNIC,
        "a",
        5,
        "p",
        False,
        b"",
    )


def test_what_is_proved_is_the_frames_as_they_were_sent() -> None:
    session = Session()
    hello, challenge, attach, _ = session.frames()
    [vnet_said], [vnic_said] = session.vnet_provider.proved, session.vnic_provider.proved
    assert vnet_said.digest == hashlib.sha256(hello + unsigned(challenge)).digest()
    assert vnic_said.digest == hashlib.sha256(hello + challenge + unsigned(attach)).digest()
    assert (vnet_said.prover_role, vnic_said.prover_role) == (Role.VNET, Role.VNIC)
    assert vnet_said.audience == "vnic/" + bytes([1, 1] * 16).hex()
    assert vnic_said.audience == f"vnet/{VNET}/3"
    assert vnet_said.overlay == vnic_said.overlay == "o"


def test_nonces_are_fresh_by_default() -> None:
    hellos = [VnicAttach(SharedSecret(), uuid=VNIC, seen=SEEN).start() for _ in range(2)]
    assert hellos[0].nonce != hellos[1].nonce
    assert len(hellos[0].nonce) == 32


def test_an_observer_says_so() -> None:
    session = Session()
    session.vnic = VnicAttach(session.vnic_provider, uuid=VNIC, observer=True, seen=SEEN)
    [sent] = Decoder(FromVnic).feed(session.frames()[2])
    assert isinstance(sent, Attach)
    assert sent.observer


# ── somebody in between ───────────────────────────────────────────────────────────────────────────────────────────

OTHERS = Session(nonce=9).frames()
"""An attach of before, with the same keys and other nonces."""


def nobody_was_fooled(session: Session) -> None:
    assert session.vnet.state is not VnetState.ATTACHED
    assert session.vnic.state is not VnicState.ATTACHED


@pytest.mark.parametrize("number", range(4))
def test_a_dropped_message_leaves_both_sides_waiting(number: int) -> None:
    session = Session()
    session.run(lambda at, frame: [] if at == number else [frame])
    assert session.vnic.state is not VnicState.ATTACHED
    if number < 3:
        nobody_was_fooled(session)
        assert session.vnet.receive(Ping(id=1), b"", session.vnet.deadline) == session.vnet.expire()


@pytest.mark.parametrize("number", [1, 3])
def test_a_message_repeated_to_the_vnic_ends_the_attach(number: int) -> None:
    session = Session()
    with pytest.raises(ProtocolViolation):
        session.run(lambda at, frame: [frame, frame] if at == number else [frame])
    assert session.vnic.state is VnicState.FAILED


def test_a_hello_repeated_to_the_vnet_ends_the_attach() -> None:
    session = Session()
    hello = encode(session.vnic.start())
    [challenge, refused] = session.to_vnet(hello + hello)
    assert isinstance(challenge, Challenge)
    assert isinstance(refused, Refused)
    assert session.vnet.state is VnetState.REFUSED


def test_an_attach_repeated_before_it_was_admitted_is_refused() -> None:
    session = Session()
    [sent] = session.to_vnet(encode(session.vnic.start()))
    [attach] = session.to_vnic(encode(sent))
    assert session.vnet.receive(attach, encode(attach), 101.0) is attach
    refused = session.vnet.receive(attach, encode(attach), 101.0)
    assert isinstance(refused, Refused)
    with pytest.raises(RuntimeError):
        session.vnet.accept(port=1, resume=b"", max_message_bytes=1, max_requests=1)


def test_an_accepted_attach_takes_no_more_messages() -> None:
    session = Session()
    frames = session.frames()
    with pytest.raises(RuntimeError):
        session.to_vnet(frames[2])


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("other", range(4))
def test_a_message_of_an_earlier_attach_in_its_place_attaches_nobody(number: int, other: int) -> None:
    session = Session()
    try:
        session.run(lambda at, frame: [OTHERS[other]] if at == number else [frame])
    except Layer8Error:
        assert session.vnic.state is VnicState.FAILED
    if number == 3 and other == 3:  # by then both have proved themselves; Attached is only data
        assert session.vnic.state is VnicState.ATTACHED
    else:
        assert session.vnic.state is not VnicState.ATTACHED
    if number < 3:
        assert session.vnet.state is not VnetState.ATTACHED


@pytest.mark.parametrize("order", [(2, 0), (0, 0), (2,), (0, 2)])
def test_an_earlier_attach_played_again_to_the_vnet_attaches_nobody(order: tuple[int, ...]) -> None:
    session = Session()
    for number in order:
        session.to_vnet(OTHERS[number])
    assert session.vnet.state in (VnetState.REFUSED, VnetState.PROOF)
    assert session.vnet.principal is None


@pytest.mark.parametrize("number", range(4))
def test_a_message_sent_back_to_its_sender_ends_the_attach(number: int) -> None:
    session = Session()
    frames: list[Frame] = []

    def between(at: int, frame: Frame) -> list[Frame]:
        frames.append(frame)
        return [] if at == number else [frame]

    session.run(between)
    if number % 2 == 0:
        with pytest.raises(ProtocolViolation):
            session.to_vnic(frames[number])
    elif number == 1:
        [answer] = session.to_vnet(frames[number])
        assert isinstance(answer, Refused)
    else:
        with pytest.raises(RuntimeError):
            session.to_vnet(frames[number])
    assert session.vnic.state is not VnicState.ATTACHED


def test_a_hello_with_the_nonce_of_the_vnet_is_refused() -> None:
    session = Session()
    hello = session.vnic.start()
    [answer] = session.to_vnet(encode(msgspec.structs.replace(hello, nonce=bytes([1, 2] * 16))))
    assert isinstance(answer, Refused)
    assert answer.code == "invalid"


def test_a_proof_of_the_vnet_is_worth_nothing_as_the_proof_of_a_vnic() -> None:
    session = Session()
    [challenge] = session.to_vnet(encode(session.vnic.start()))
    assert isinstance(challenge, Challenge)
    [answer] = session.to_vnet(encode(Attach(uuid=VNIC, proof=challenge.proof)))
    assert isinstance(answer, Refused)
    assert answer.code == "not-authorized"


@given(st.integers(0, 2), st.data())
def test_any_changed_byte_before_the_proof_attaches_nobody(number: int, data: st.DataObject) -> None:
    def between(at: int, frame: Frame) -> list[Frame]:
        if at != number:
            return [frame]
        changed = bytearray(frame)
        changed[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
        return [bytes(changed)]

    session = Session()
    with suppress(Layer8Error):
        session.run(between)
    nobody_was_fooled(session)


@given(st.integers(0, 3), st.data())
def test_a_message_cut_short_attaches_nobody(number: int, data: st.DataObject) -> None:
    session = Session()
    with suppress(Layer8Error):
        session.run(lambda at, frame: [frame[: data.draw(st.integers(0, len(frame) - 1))]] if at == number else [frame])
    assert session.vnic.state is not VnicState.ATTACHED


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=8))
def test_no_order_of_true_messages_old_and_new_fools_anybody(deliveries: list[tuple[bool, int]]) -> None:
    """Messages of this attach and of an earlier one, to either side, in any order, any number of times."""
    session = Session()
    known = dict(enumerate(OTHERS))
    known[4] = encode(session.vnic.start())
    for vnet, number in deliveries:
        frame = known.get(number)
        if frame is None or session.vnet.state is VnetState.ATTACHED:
            continue
        try:
            answers = session.to_vnet(frame) if vnet else session.to_vnic(frame)
        except Layer8Error:
            continue
        for answer in answers:
            match answer:
                case Challenge():
                    known[5] = encode(answer)
                case Attach():
                    known[6] = encode(answer)
                case Attached():
                    known[7] = encode(answer)
    true_order = [number for vnet, number in deliveries if vnet or number in (5, 7)]
    if session.vnet.state is VnetState.ATTACHED:
        assert true_order[0] == 4
        assert 6 in true_order
        assert session.vnic.state is not VnicState.START
    if session.vnic.state is VnicState.ATTACHED:
        assert session.vnic.challenge is not None
        assert session.vnic.challenge.nonce == bytes([1, 2] * 16)


@given(st.text(min_size=1), st.binary())
def test_fields_of_a_later_version_are_proved_too(name: str, value: bytes) -> None:
    """A field that this version does not know changes the digest, though the message decodes to the same."""

    def between(at: int, frame: Frame) -> list[Frame]:
        if at != 1:
            return [frame]
        fields = msgspec.msgpack.decode(frame[4:])
        fields["new " + name] = value
        body = msgspec.msgpack.encode(fields)
        return [len(body).to_bytes(4, "little") + body]

    session = Session()
    with pytest.raises(NotAuthorized):
        session.run(between)


def test_unsigned_keeps_everything_but_the_proof() -> None:
    attach = Attach(uuid=VNIC, proof=b"x" * 300, alias="a")
    frame = encode(attach)
    assert unsigned(frame) == encode(msgspec.structs.replace(attach, proof=b""))
    assert unsigned(unsigned(frame)) == unsigned(frame)
    with pytest.raises(ProtocolViolation):
        unsigned(b"\x01\0\0\0\x91")


# ── who does not fit together ─────────────────────────────────────────────────────────────────────────────────────


def test_another_security_provider_is_a_mismatch_with_both_fingerprints() -> None:
    ours, theirs = SharedSecret(name=b"ours"), SharedSecret(name=b"theirs")
    session = Session(vnic=ours, vnet=theirs)
    with pytest.raises(SecurityMismatch) as raised:
        session.frames()
    assert (raised.value.ours, raised.value.theirs) == (short(ours.fingerprint()), short(theirs.fingerprint()))
    assert session.vnet.state is VnetState.REFUSED
    assert session.vnic.refused is not None
    assert session.vnic.refused.code == "mismatch"
    assert not ours.proved
    assert not theirs.proved


def test_the_vnic_compares_fingerprints_itself() -> None:
    ours, theirs = SharedSecret(name=b"ours"), SharedSecret(name=b"theirs")
    session = Session(vnic=ours)
    session.vnic.start()
    with pytest.raises(SecurityMismatch) as raised:
        session.to_vnic(encode(challenge(fingerprint=theirs.fingerprint())))
    assert raised.value.theirs == short(theirs.fingerprint())
    assert not ours.proved


def challenge(**changes: object) -> Challenge:
    fields = {
        "version": PROTOCOL_VERSION,
        "fingerprint": SharedSecret().fingerprint(),
        "overlay": "o",
        "vnet": VNET,
        "name": "default",
        "epoch": 3,
        "nonce": bytes(range(32)),
        "proof": b"",
    }
    return msgspec.convert({"t": "challenge", **fields, **changes}, Challenge)


def test_another_version_is_told_apart_from_everything_else_by_both() -> None:
    session = Session()
    hello = msgspec.structs.replace(session.vnic.start(), version=PROTOCOL_VERSION + 1, fingerprint=b"new kind")
    [refused] = session.to_vnet(encode(hello))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.fields) == ("version", (str(PROTOCOL_VERSION), VERSION))
    assert "restart the Vnet with the newer layer8" in refused.text
    session = Session()
    session.vnic.start()
    with pytest.raises(Incompatible, match=f"has control protocol {PROTOCOL_VERSION + 1}"):
        session.to_vnic(encode(challenge(version=PROTOCOL_VERSION + 1, fingerprint=b"new kind")))


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (Refused(code="version", fields=("2", "7.0")), ("runs layer8 7.0 with control protocol 2", "newer library")),
        (Refused(code="version", fields=("0", "0.0")), (f"library, layer8 {VERSION}, has 1", "restart the Vnet")),
        (Refused(code="version", fields=("2",)), ("has control protocol 2", "restart this program")),
        (Refused(code="version", text="what it says"), ("what it says",)),
        (Refused(code="version", fields=("²",), text="what it says"), ("what it says",)),
        (Refused(code="layout", text="what it says"), ("what it says",)),
    ],
)
def test_who_is_refused_for_its_version_hears_what_to_do(refused: Refused, said: tuple[str, ...]) -> None:
    session = Session()
    session.vnic.start()
    with pytest.raises(Incompatible) as raised:
        session.to_vnic(encode(refused))
    for words in said:
        assert words in str(raised.value)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.parametrize("nonce", [b"", b"short", b"x" * 33])
def test_a_nonce_of_another_length_is_refused_by_both(nonce: bytes) -> None:
    session = Session()
    hello = msgspec.structs.replace(session.vnic.start(), nonce=nonce)
    [refused] = session.to_vnet(encode(hello))
    assert isinstance(refused, Refused)
    with pytest.raises(ProtocolViolation):
        session.to_vnic(encode(challenge(nonce=nonce)))


def test_a_vnet_with_another_key_is_not_believed() -> None:
    session = Session(vnet=SharedSecret(key=b"another"))
    with pytest.raises(NotAuthorized) as raised:
        session.frames()
    assert (raised.value.action, raised.value.resource) == ("host", "overlay o")
    assert not session.vnic_provider.proved


def test_a_vnic_with_another_key_is_not_believed() -> None:
    session = Session()
    session.to_vnet(encode(session.vnic.start()))
    session.vnic_provider.key = b"another"
    session.vnet_provider.key = b"another"
    [refused] = session.to_vnet(encode(Attach(uuid=VNIC, proof=b"made up")))
    assert isinstance(refused, Refused)
    assert refused.code == "not-authorized"
    with pytest.raises(NotAuthorized) as raised:
        session.to_vnic(encode(refused))
    assert raised.value.principal == "pid 7"


@pytest.mark.parametrize("error", [PermissionError("no"), TimeoutError(), RuntimeError("a bug"), ZeroDivisionError()])
def test_whatever_a_provider_raises_is_a_refusal(error: Exception) -> None:
    session = Session(vnet=SharedSecret(error=error))  # the Vnet cannot prove
    with pytest.raises(NotAuthorized):
        session.frames()
    session = Session(vnic=SharedSecret(error=error))  # the Vnic cannot verify
    with pytest.raises(NotAuthorized):
        session.frames()
    session = Session()  # the Vnet cannot verify
    [sent] = session.to_vnet(encode(session.vnic.start()))
    [attach] = session.to_vnic(encode(sent))
    session.vnet_provider.error = error
    [refused] = session.to_vnet(encode(attach))
    assert isinstance(refused, Refused)
    assert refused.code == "not-authorized"
    assert refused.text == "the proof does not hold"


def test_a_vnic_that_cannot_prove_says_so() -> None:
    session = Session()
    [sent] = session.to_vnet(encode(session.vnic.start()))

    def prove(statement: Statement) -> bytes:
        raise OSError("the key is gone")

    session.vnic_provider.prove = prove  # type: ignore[method-assign]
    with pytest.raises(Layer8Error, match="the key is gone"):
        session.to_vnic(encode(sent))


@pytest.mark.parametrize("proof", [bytes(UNPROVEN_BYTES), "text", None])
def test_a_proof_that_the_other_side_would_not_read_is_not_sent(proof: bytes) -> None:
    session = Session()
    [sent] = session.to_vnet(encode(session.vnic.start()))
    session.vnic_provider.prove = lambda statement: proof  # type: ignore[method-assign]
    with pytest.raises(Layer8Error, match="could not prove"):
        session.to_vnic(encode(sent))
    session = Session()
    session.vnet_provider.prove = lambda statement: proof  # type: ignore[method-assign]
    with pytest.raises(NotAuthorized):
        session.frames()


@pytest.mark.parametrize("fingerprint", [b"short", bytes(65), "text"])
def test_a_provider_without_a_proper_fingerprint_attaches_nobody(fingerprint: bytes) -> None:
    session = Session()
    session.vnic_provider.fingerprint = lambda: fingerprint  # type: ignore[method-assign]
    with pytest.raises(Layer8Error, match="no fingerprint"):
        session.vnic.start()
    session = Session()
    session.vnet_provider.fingerprint = lambda: fingerprint  # type: ignore[method-assign]
    with pytest.raises(NotAuthorized):
        session.frames()


def test_a_provider_that_verifies_to_nothing_has_not_verified() -> None:
    session = Session()
    session.vnet_provider.verify = lambda proof, statement, seen: None  # type: ignore[assignment,method-assign,return-value]
    with pytest.raises(NotAuthorized):
        session.frames()
    assert session.vnet.principal is None


def test_who_proved_to_be_something_else_is_refused() -> None:
    with pytest.raises(NotAuthorized):
        Session(vnic=SharedSecret(role=Role.VNIC)).frames()  # a Vnic's identity behind a Vnet
    session = Session(vnet=SharedSecret(role=Role.VNET))
    with pytest.raises(NotAuthorized):
        session.frames()
    assert session.vnet.state is VnetState.REFUSED


# ── the Vnet's decisions ──────────────────────────────────────────────────────────────────────────────────────────


def test_what_comes_too_late_is_refused() -> None:
    session = Session()
    assert session.vnet.deadline == 100.0 + ATTACH_SECONDS
    refused = session.vnet.receive(session.vnic.start(), b"", session.vnet.deadline)
    assert isinstance(refused, Refused)
    assert refused.code == "limit"


@pytest.mark.parametrize("message", [Ping(id=1), Unknown(1, "new"), Attach(uuid=VNIC, proof=b"")])
def test_what_is_no_hello_is_refused_and_stays_refused(message: Wire | Unknown) -> None:
    session = Session()
    refused = session.vnet.receive(message, b"", 100.0)
    assert isinstance(refused, Refused)
    assert refused.code == "invalid"
    assert session.vnet.receive(session.vnic.start(), b"", 100.0) is refused
    with pytest.raises(RuntimeError):
        session.vnet.accept(port=1, resume=b"", max_message_bytes=1, max_requests=1)


@pytest.mark.parametrize(
    "message",
    [
        Done(id=1),
        Unknown(None, "new"),
        Attached(port=1, resume=b"", principal="", max_message_bytes=1, max_requests=1),
    ],
)
def test_the_vnic_takes_nothing_but_a_challenge_first(message: Wire | Unknown) -> None:
    session = Session()
    session.vnic.start()
    with pytest.raises(ProtocolViolation, match="CHALLENGE"):
        session.vnic.receive(message, b"")
    assert session.vnic.state is VnicState.FAILED
    with pytest.raises(ProtocolViolation):
        session.vnic.receive(challenge(), encode(challenge()))


def test_an_attach_starts_once() -> None:
    session = Session()
    session.vnic.start()
    with pytest.raises(RuntimeError):
        session.vnic.start()


@pytest.mark.parametrize(
    ("code", "fields", "error", "text"),
    [
        ("not-authorized", ("me", "attach", "overlay o"), NotAuthorized, "me may not attach overlay o"),
        ("not-authorized", (), NotAuthorized, "may not"),
        ("mismatch", (), SecurityMismatch, "unknown"),
        ("limit", (), Layer8Error, "too many"),
        ("stopping", (), Layer8Error, "stopping"),
        ("a later code", (), Layer8Error, "a later code"),
    ],
)
def test_a_refusal_becomes_the_error_that_a_user_catches(
    code: str, fields: tuple[str, ...], error: type[Layer8Error], text: str
) -> None:
    session = Session()
    [sent] = session.to_vnet(encode(session.vnic.start()))
    session.to_vnic(encode(sent))
    with pytest.raises(error, match=text) as raised:
        session.to_vnic(encode(Refused(code=code, text="too many", fields=fields)))
    assert type(raised.value) is error
    assert session.vnic.refused is not None
    assert session.vnic.refused.code == code


def test_an_admission_that_says_no_is_told_to_the_vnic() -> None:
    session = Session()
    [sent] = session.to_vnet(encode(session.vnic.start()))
    [attach] = session.to_vnic(encode(sent))
    [(message, frame)] = session.from_vnic.feed_frames(encode(attach))
    assert session.vnet.receive(message, frame, 101.0) == attach
    refused = session.vnet.refuse("limit", "64 ports of uid 1000 are in use")
    with pytest.raises(Layer8Error, match="64 ports"):
        session.to_vnic(encode(refused))


def test_hello_says_which_version_and_which_provider() -> None:
    provider = SharedSecret()
    hello = VnicAttach(provider, uuid=VNIC, seen=SEEN, nonce=b"x" * 32).start()
    assert hello == Hello(version=PROTOCOL_VERSION, fingerprint=provider.fingerprint(), nonce=b"x" * 32)
