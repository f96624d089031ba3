"""The control socket's bytes over connections that are cut, and when to say that one is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.mirror import (
    FRAME,
    MESSAGE,
    MESSAGE_BYTES,
    SOCKET,
    SOCKET_BYTES,
    SOCKET_DESCRIPTORS,
    UNACKNOWLEDGED_BYTES,
    Begin,
    Bound,
    KeepAlive,
    SocketStream,
    decode,
    encode,
)


def _body(frame: bytes) -> memoryview:
    length, _ = FRAME.unpack_from(frame)
    assert len(frame) == 4 + length
    return memoryview(frame)[FRAME.size :]


def _kind(frame: bytes) -> int:
    kind: int = FRAME.unpack_from(frame)[1]
    return kind


def test_a_message_comes_back_as_it_was() -> None:
    frame = encode(Bound(received=1 << 40, fresh=True))
    assert _kind(frame) == MESSAGE
    assert decode(_body(frame)) == Bound(received=1 << 40, fresh=True)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", b"\x81\xa1t\xa5nobody", bytes(MESSAGE_BYTES + 1)])
def test_what_is_no_message_is_a_violation(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode(body)


def test_fields_of_a_newer_version_are_passed_over() -> None:
    assert decode(b"\x83\xa1t\xa5begin\xa7version\x01\xa3new\xc3") == Begin()


def test_bytes_with_descriptors_begin_a_frame_of_their_own() -> None:
    stream = SocketStream()
    stream.say(b"before")
    stream.say(b"with", descriptors=True)
    stream.say(b"behind")
    frames = [stream.next_frame() for _ in range(2)]
    assert [_kind(frame) for frame in frames] == [SOCKET, SOCKET_DESCRIPTORS]
    assert [bytes(_body(frame)[8:]) for frame in frames] == [b"before", b"withbehind"]
    assert stream.is_sent
    assert stream.next_frame() == b""


@given(
    said=st.lists(st.tuples(st.binary(min_size=1, max_size=3 * SOCKET_BYTES // 2), st.booleans()), max_size=8),
    cuts=st.lists(st.integers(0, 6), max_size=8),
)
def test_bytes_arrive_once_and_in_order_whatever_is_cut(said: list[tuple[bytes, bool]], cuts: list[int]) -> None:
    here, there = SocketStream(), SocketStream()
    taken = b""
    descriptors = []
    for data, marked in said:
        here.say(data, descriptors=marked)
    for arriving in [*cuts, 1000]:
        here.rewind(there.received)
        for _ in range(arriving):
            frame = here.next_frame()
            if not frame:
                break
            if _kind(frame) == SOCKET_DESCRIPTORS:
                descriptors.append(there.received)
            taken += there.take(_body(frame))
        for _ in range(arriving % 3):  # sent, and lost
            here.next_frame()
    assert taken == b"".join(data for data, _ in said)
    positions = [sum(len(data) for data, _ in said[:n]) for n, (_, marked) in enumerate(said) if marked]
    assert descriptors == positions


def test_what_is_acknowledged_makes_room() -> None:
    here, there = SocketStream(), SocketStream()
    here.say(bytes(UNACKNOWLEDGED_BYTES))
    assert not here.has_room
    while frame := here.next_frame():
        there.take(_body(frame))
    assert not here.has_room
    here.acknowledge(there.received)
    assert here.has_room


def test_positions_that_cannot_be_are_violations() -> None:
    here, there = SocketStream(), SocketStream()
    here.say(b"abc")
    with pytest.raises(ProtocolViolation):
        here.acknowledge(1)
    frame = here.next_frame()
    with pytest.raises(ProtocolViolation):
        here.acknowledge(4)
    with pytest.raises(ProtocolViolation):
        here.rewind(4)
    there.take(_body(frame))
    with pytest.raises(ProtocolViolation):
        there.take(_body(frame))
    with pytest.raises(ProtocolViolation):
        there.take(_body(frame)[:8])


def test_silence_is_noticed_and_broken() -> None:
    keep = KeepAlive(2.0, 5.0, 100.0)
    assert not keep.is_due(101.9)
    assert keep.wait(101.0) == pytest.approx(1.0)
    assert keep.is_due(102.0)
    keep.said = 102.0
    assert not keep.is_lost(102.9)
    assert keep.wait(102.5) == pytest.approx(0.5)
    assert keep.is_lost(103.0)
    assert keep.given_up == pytest.approx(105.0)
    keep.heard = 104.0
    assert not keep.is_lost(106.9)
