"""Header maps: what a sender may give and what a receiver may find."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer8.message import NO_HEADERS
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.headers import HEADERS_BYTES, decode_headers, encode_headers, header_map

maps = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda name: not name.startswith("layer8.")),
    st.text(max_size=40) | st.binary(max_size=40),
    max_size=8,
)


@given(maps)
def test_headers_come_out_as_they_went_in(headers: dict[str, str | bytes]) -> None:
    encoded = encode_headers(headers)
    assert decode_headers(encoded) == headers
    assert header_map(encoded) == headers
    assert list(header_map(encoded)) == list(headers)


def test_no_headers_are_no_bytes_and_the_shared_mapping() -> None:
    assert encode_headers({}) == b""
    assert decode_headers(b"") == {}
    assert header_map(b"") is NO_HEADERS


@pytest.mark.parametrize("headers", [{1: "a"}, {"a": 1}, {"a": None}, {b"a": "b"}, {"a": ["b"]}, [("a", "b")], "text"])
def test_what_is_not_text_to_text_or_bytes_is_a_type_error(headers: Mapping[str, str]) -> None:
    with pytest.raises(TypeError):
        encode_headers(headers)


@pytest.mark.parametrize("headers", [{"": "a"}, {"a": "\ud800"}, {"\ud800": "a"}, {"a": b"x" * HEADERS_BYTES}])
def test_headers_that_cannot_travel_are_a_value_error(headers: Mapping[str, str | bytes]) -> None:
    with pytest.raises(ValueError):
        encode_headers(headers)


def test_the_largest_headers_fit_and_one_byte_more_does_not() -> None:
    room = HEADERS_BYTES - len(encode_headers({"a": b"x" * 300})) + 300
    assert len(encode_headers({"a": b"x" * room})) == HEADERS_BYTES
    with pytest.raises(ValueError, match="over the limit"):
        encode_headers({"a": b"x" * (room + 1)})


def test_reserved_names_are_for_layer8_itself() -> None:
    with pytest.raises(ValueError, match="reserved"):
        encode_headers({"layer8.reason": "x"})
    assert decode_headers(encode_headers({"layer8.reason": "x"}, reserved=True)) == {"layer8.reason": "x"}


@given(st.binary(min_size=1, max_size=100))
def test_garbage_is_a_violation_or_a_proper_map(garbage: bytes) -> None:
    try:
        headers = decode_headers(garbage)
    except ProtocolViolation:
        return
    assert {type(part) for entry in headers.items() for part in entry} <= {str, bytes}


@pytest.mark.parametrize("value", [{"a": 1}, {"a": {"b": "c"}}, {1: "a"}, ["a"], {"a": None}, "text"])
def test_another_shape_is_a_violation(value: object) -> None:
    with pytest.raises(ProtocolViolation):
        decode_headers(msgspec.msgpack.encode(value))


@pytest.mark.parametrize(
    "encoded", [b"\x81\xa1a" + b"\x91" * 4000, b"x" * (HEADERS_BYTES + 1), b"\xdf\xff\xff\xff\xff"]
)
def test_what_is_built_to_exhaust_the_decoder_is_a_violation(encoded: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_headers(encoded)


def test_garbage_is_found_out_at_the_first_look_and_not_before() -> None:
    headers = header_map(b"garbage")
    for _ in range(2):
        with pytest.raises(ProtocolViolation):
            headers.get("a")


def test_a_header_map_is_a_mapping_to_read() -> None:
    headers = header_map(encode_headers({"a": "b", "c": b"d"}))
    assert headers["a"] == "b"
    assert headers.get("z") is None
    assert "c" in headers
    assert len(headers) == 2
    assert "'a': 'b'" in repr(headers)
    with pytest.raises(TypeError):
        headers["a"] = "x"  # type: ignore[index]
