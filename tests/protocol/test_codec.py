"""The codec of control messages: any cut of the bytes, any bytes."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer8.health_record import HealthRecord, State
from layer8.protocol.codec import CONTROL_BYTES, UNPROVEN_BYTES, Decoder, ProtocolViolation, Unknown, encode
from layer8.protocol.control import (
    Attach,
    Done,
    Failed,
    FromVnet,
    FromVnic,
    Grant,
    Hello,
    Ping,
    PortClosed,
    Refused,
    Stopping,
    Wire,
)

names = st.text(max_size=40)
ids = st.integers(0, 2**63 - 1)
messages: st.SearchStrategy[Wire] = st.one_of(
    st.builds(Hello, version=st.integers(0, 99), fingerprint=st.binary(max_size=64), nonce=st.binary(max_size=32)),
    st.builds(Attach, uuid=st.uuids(), proof=st.binary(max_size=99), alias=st.none() | names, resume=st.binary()),
    st.builds(Grant, id=ids, slot=ids, generation=ids, kind=names, name=names),
    st.builds(Ping, id=ids),
)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


def wire(fields: object) -> bytes:
    return framed(msgspec.msgpack.encode(fields))


@given(st.lists(messages, max_size=8), st.data())
def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut(sent: list[Wire], data: st.DataObject) -> None:
    frames = [encode(message) for message in sent]
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    decoder = Decoder(FromVnic)
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed_frames(stream[start:end])
    assert [message for message, _ in received] == sent
    assert [frame for _, frame in received] == frames
    assert decoder.pending == 0


@given(messages)
def test_a_message_cut_short_is_pending_and_nothing_else(message: Wire) -> None:
    frame = encode(message)
    decoder = Decoder(FromVnic)
    for end in range(len(frame)):
        assert decoder.feed(frame[end : end + 1]) == ([message] if end + 1 == len(frame) else [])
        assert decoder.pending == (end + 1) % len(frame)


@given(st.binary(max_size=200))
def test_garbage_is_a_violation_or_waits_but_nothing_else_happens(garbage: bytes) -> None:
    with suppress(ProtocolViolation):
        for message in Decoder(FromVnic).feed(garbage):
            assert isinstance(message, (Wire, Unknown))


def test_after_a_violation_nothing_is_decoded_any_more() -> None:
    decoder = Decoder(FromVnic)
    with pytest.raises(ProtocolViolation) as first:
        decoder.feed(framed(b"garbage"))
    with pytest.raises(ProtocolViolation) as again:
        decoder.feed(encode(Ping(id=1)))
    assert again.value is first.value
    assert decoder.pending == 0


@given(st.binary(min_size=1, max_size=200))
def test_a_framed_body_of_garbage_is_a_violation_or_unknown(garbage: bytes) -> None:
    try:
        [message] = Decoder(FromVnic).feed(framed(garbage))
    except ProtocolViolation:
        return
    assert isinstance(message, (Wire, Unknown))


@given(messages, st.data())
def test_a_flipped_byte_never_raises_anything_but_a_violation(message: Wire, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(ProtocolViolation):
        Decoder(FromVnic).feed(bytes(frame))


@pytest.mark.parametrize("limit", [UNPROVEN_BYTES, CONTROL_BYTES])
def test_a_length_over_the_limit_is_a_violation_before_the_body_has_come(limit: int) -> None:
    Decoder(FromVnic, limit).feed(limit.to_bytes(4, "little"))
    with pytest.raises(ProtocolViolation, match=str(limit + 1)):
        Decoder(FromVnic, limit).feed((limit + 1).to_bytes(4, "little"))


def test_an_empty_body_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        Decoder(FromVnic).feed(b"\0\0\0\0")


def test_the_limit_rises_once_the_other_side_has_proved_itself() -> None:
    decoder = Decoder(FromVnic, UNPROVEN_BYTES)
    large = encode(Grant(id=1, slot=0, generation=1, kind="alias", name="x" * 5000))
    decoder.limit = CONTROL_BYTES
    assert len(decoder.feed(large)) == 1


def test_the_sender_is_told_that_its_message_is_too_large() -> None:
    with pytest.raises(ValueError, match="Done of"):
        encode(Done(id=1, text="x" * CONTROL_BYTES))


@given(st.integers(0, 2**64 - 1), st.text(max_size=100), st.dictionaries(st.text(), st.integers(0, 9)))
def test_an_unknown_kind_keeps_its_id_and_the_stream_goes_on(id_: int, kind: str, more: dict[str, int]) -> None:
    fields = {**more, "t": "new-" + kind, "id": id_}
    assert Decoder(FromVnic).feed(wire(fields) + encode(Ping(id=2))) == [Unknown(id_, ("new-" + kind)[:64]), Ping(id=2)]


def test_an_unknown_kind_without_an_id_has_none() -> None:
    assert Decoder(FromVnet).feed(wire({"t": "new"})) == [Unknown(None, "new")]


def test_a_kind_of_the_other_direction_is_unknown() -> None:
    assert Decoder(FromVnic).feed(encode(Done(id=4))) == [Unknown(4, "done")]


@given(messages, st.text(min_size=1), st.recursive(st.none() | st.integers(0, 9) | st.text(), st.lists, max_leaves=5))
def test_unknown_fields_are_ignored(message: Wire, name: str, value: object) -> None:
    fields = msgspec.msgpack.decode(encode(message)[4:])
    fields["new " + name] = value
    assert Decoder(FromVnic).feed(wire(fields)) == [message]


@pytest.mark.parametrize(
    "fields",
    [
        {"t": "ping"},  # a field is missing
        {"t": "ping", "id": "one"},  # of another type
        {"t": "ping", "id": None},
        {"t": 7, "id": 1},
        {"id": 1},
        {},
        [],
        None,
        7,
        "text",
        {"t": "attach", "uuid": "no uuid", "proof": b""},
    ],
)
def test_a_known_kind_with_wrong_fields_is_a_violation(fields: object) -> None:
    with pytest.raises(ProtocolViolation):
        Decoder(FromVnic).feed(wire(fields))


@pytest.mark.parametrize(
    "body",
    [
        b"\x91" * 60000,
        b"\x82\xa1t\xa4ping\xa1z" + b"\x91" * 60000,
        b"\x82\xa1t\xa3new\xa1z" + b"\x81\xa1a" * 20000,
        b"\xdf\xff\xff\xff\xff",
        b"\x82\xa1t\xa4ping\xa2id\xdb\xff\xff\xff\xff",
        b"\xc1",
    ],
)
def test_what_is_built_to_exhaust_the_decoder_is_a_violation(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Decoder(FromVnic).feed(framed(body))


def test_every_answer_and_event_of_the_vnet_survives_the_wire() -> None:
    record = HealthRecord(uuid=uuid4(), alias="a", topics=("x",), state=State.STOPPED, cpu=1.5, pid=4)
    sent: list[Wire] = [
        Done(id=1, uuid=UUID(int=1), record=record, records=(record,), topics=(("t", 2),), more=True),
        Failed(id=2, code="not-authorized", text="no", fields=("a", "b", "c")),
        Refused(code="version", fields=("1",)),
        Stopping(grace=5.0),
        PortClosed(reason="violation"),
    ]
    assert Decoder(FromVnet).feed(b"".join(map(encode, sent))) == sent
