"""The handshake of a link as a table: who believes whom, and what ends it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.link import LinkHandshake, LinkRefusal, Self, State
from layer8.protocol.link_messages import (
    Delta,
    Handshake,
    LinkHello,
    LinkProof,
    LinkReady,
    LinkRefused,
    LinkStart,
    body,
    entries,
    handshake,
    linked,
)
from layer8.protocol.statement import Channel, Principal, Role, Statement

LOW, HIGH = UUID(int=1), UUID(int=2)
SEEN = Channel(text="a test")


class Shared:
    """A provider by a shared secret, for proofs alone."""

    def __init__(self, secret: bytes = b"s", role: Role = Role.VNET, name: bytes = b"domain") -> None:
        self._secret = secret
        self._role = role
        self._name = name

    def fingerprint(self) -> bytes:
        return hashlib.sha256(self._name).digest()

    def prove(self, statement: Statement) -> bytes:
        return hmac.digest(self._secret, statement.encode(), "sha256")

    def verify(self, proof: bytes, statement: Statement, seen: Channel) -> Principal:
        if not hmac.compare_digest(proof, self.prove(statement)):
            raise PermissionError("another exchange")
        return Principal(uri="layer8://shop/vnet/x", role=self._role)


def who(vnet: UUID, overlay: str = "shop", epoch: int = 7) -> Self:
    return Self(overlay=overlay, vnet=vnet, epoch=epoch, name="default", host="h", reach=("h:1",))


def pair(
    dialler: Self | None = None,
    acceptor: Self | None = None,
    providers: tuple[Shared, Shared] | None = None,
    bindings: tuple[bytes, bytes] = (b"tls", b"tls"),
) -> tuple[LinkHandshake, LinkHandshake]:
    one, two = providers or (Shared(), Shared())
    knows = {LOW: (5, 6), HIGH: (8, 9)}.__getitem__
    return (
        LinkHandshake(one, dialler or who(LOW), dials=True, binding=bindings[0], seen=SEEN, knows=knows),
        LinkHandshake(two, acceptor or who(HIGH), dials=False, binding=bindings[1], seen=SEEN, knows=knows),
    )


def passed(message: Handshake) -> tuple[Handshake, bytes]:
    """Over the wire."""
    data = body(message)
    return handshake(data), data


def run(dialler: LinkHandshake, acceptor: LinkHandshake) -> None:
    """Until the acceptor has proved and been proved to."""
    to_acceptor = dialler.start()
    while to_acceptor:
        to_dialler = [answer for message in to_acceptor for answer in acceptor.receive(*passed(message))]
        to_acceptor = [answer for message in to_dialler for answer in dialler.receive(*passed(message))]


@pytest.mark.parametrize(("dials", "accepts"), [(LOW, HIGH), (HIGH, LOW)])
def test_both_end_with_the_numbers_of_the_arbiter(dials: UUID, accepts: UUID) -> None:
    dialler, acceptor = pair(who(dials), who(accepts))
    run(dialler, acceptor)
    assert acceptor.principal is not None
    ready = acceptor.proceed(*((70, 71) if accepts == LOW else (0, 0)))
    assert dialler.receive(*passed(ready)) == []
    start = dialler.proceed(*((70, 71) if dials == LOW else (0, 0)))
    acceptor.receive(*passed(start))
    assert dialler.state is acceptor.state is State.DONE
    assert (dialler.session, dialler.serial) == (acceptor.session, acceptor.serial) == (70, 71)
    assert dialler.is_arbiter == (dials == LOW)
    assert acceptor.is_arbiter == (accepts == LOW)
    assert dialler.peer is not None
    assert dialler.peer.vnet == accepts
    assert dialler.theirs == {LOW: (5, 6), HIGH: (8, 9)}[dials]  # what the other knows of the dialler


def refusal(dialler: LinkHandshake, acceptor: LinkHandshake) -> LinkRefusal:
    with pytest.raises(LinkRefusal) as caught:
        run(dialler, acceptor)
    return caught.value


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: pair(providers=(Shared(name=b"a"), Shared(name=b"b"))), "mismatch"),
        (lambda: pair(who(LOW, overlay="x")), "overlay"),
        (lambda: pair(who(HIGH)), "self"),
        (lambda: pair(providers=(Shared(b"1"), Shared(b"2"))), "not-authorized"),
        (lambda: pair(providers=(Shared(), Shared(role=Role.VNIC))), "not-authorized"),
        (lambda: pair(bindings=(b"a", b"b")), "not-authorized"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], tuple[LinkHandshake, LinkHandshake]], code: str) -> None:
    dialler, acceptor = make()
    assert refusal(dialler, acceptor).code == code
    assert State.REFUSED in (dialler.state, acceptor.state)


def test_another_version_is_refused_before_anything_is_proved() -> None:
    dialler, acceptor = pair()
    (hello,) = dialler.start()
    newer = msgspec.structs.replace(hello, oldest=2, newest=3)
    with pytest.raises(LinkRefusal, match="versions 2 to 3"):
        acceptor.receive(*passed(newer))


def test_one_that_speaks_newer_versions_too_is_not_refused() -> None:
    dialler, acceptor = pair()
    (hello,) = dialler.start()
    hello_answer, proof = acceptor.receive(*passed(msgspec.structs.replace(hello, newest=9)))
    assert isinstance(hello_answer, LinkHello)
    assert isinstance(proof, LinkProof)


def test_a_reflected_proof_is_worth_nothing() -> None:
    """An acceptor without the secret sends the dialler's own proof back."""
    dialler, acceptor = pair()
    (hello,) = dialler.start()
    answer, proof = acceptor.receive(*passed(hello))
    dialler.receive(*passed(answer))
    (own,) = dialler.receive(*passed(proof))
    assert isinstance(own, LinkProof)
    other, victim = pair()
    (second,) = other.start()
    victim.receive(*passed(second))
    with pytest.raises(LinkRefusal, match="the proof does not hold"):
        victim.receive(*passed(own))


def test_a_proof_of_another_connection_is_worth_nothing() -> None:
    first = pair(bindings=(b"1", b"1"))
    (hello,) = first[0].start()
    greeting, proof = first[1].receive(*passed(hello))
    again = LinkHandshake(Shared(), who(LOW), dials=True, binding=b"2", seen=SEEN, nonce=first[0]._nonce)
    again.start()
    again.receive(*passed(greeting))
    with pytest.raises(LinkRefusal):
        again.receive(*passed(proof))


def test_the_other_side_may_refuse_at_any_point() -> None:
    dialler, acceptor = pair()
    run(dialler, acceptor)
    with pytest.raises(LinkRefusal) as caught:
        dialler.receive(*passed(acceptor.refuse("duplicate")))
    assert (caught.value.code, caught.value.remote) == ("duplicate", True)
    assert dialler.state is State.REFUSED


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (-1, 1), (1 << 63, 1)])
def test_an_arbiter_must_give_numbers(numbers: tuple[int, int]) -> None:
    dialler, acceptor = pair(who(HIGH), who(LOW))
    run(dialler, acceptor)
    acceptor.proceed(1, 1)
    dialler.receive(*passed(LinkReady(session=numbers[0], serial=numbers[1])))
    with pytest.raises(ProtocolViolation):
        dialler.proceed()


KINDS: list[Handshake] = [
    LinkProof(proof=b"x"),
    LinkReady(session=1, serial=1),
    LinkStart(session=1, serial=1),
]


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), st.booleans())
def test_nothing_but_the_right_message_ever_leads_to_a_link(said: list[Handshake], dials: bool) -> None:
    machine = pair()[0 if dials else 1]
    if dials:
        machine.start()
    with pytest.raises(ProtocolViolation):
        machine.receive(*passed(said[0]))
    for message in said[1:]:
        with pytest.raises(ProtocolViolation):
            machine.receive(*passed(message))
    assert machine.state is State.REFUSED
    assert machine.principal is None


@given(st.binary(max_size=200))
def test_garbage_is_a_violation_and_no_other_error(data: bytes) -> None:
    for read in (handshake, linked):
        try:
            message = read(data)
        except ProtocolViolation:
            continue
        assert message is None or body(message)


def test_a_kind_that_a_newer_vnet_may_send_on_a_link_is_passed_over() -> None:
    assert linked(msgspec.msgpack.encode({"t": "news", "x": 1})) is None
    with pytest.raises(ProtocolViolation):
        linked(msgspec.msgpack.encode({"t": "delta", "sequence": "x"}))
    with pytest.raises(ProtocolViolation):
        linked(body(LinkRefused(code="x")))


@pytest.mark.parametrize("raw", [b"\x00", b"\xc1", msgspec.msgpack.encode([{"uuid": "x"}])])
def test_a_record_of_a_directory_that_is_none_is_a_violation(raw: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        entries(Delta(sequence=1, put=(msgspec.Raw(raw),)))
