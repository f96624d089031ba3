"""The header map in front of a payload: msgpack, str to str or bytes, at most 4096 bytes.

Meant for trace context, content type and services: a few short entries. The Vnet does not look into it, so what a
receiver finds there is the sender's word, and may be garbage: a `HeaderMap` decodes itself when it is first asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from layer8.message import NO_HEADERS
from layer8.names import RESERVED
from layer8.protocol.codec import ProtocolViolation

HEADERS_BYTES = 4096
"""LAYER8_HEADERS_MAX of the layout."""

_decoder = msgspec.msgpack.Decoder(dict[str, object])
_encoder = msgspec.msgpack.Encoder()


def encode_headers(headers: Mapping[str, str | bytes], *, reserved: bool = False) -> bytes:
    """The header map as it travels; b"" for an empty one. `reserved`: names that begin with `layer8.` may be in it.

    Raises TypeError for what is not str to str or bytes, ValueError for a reserved or empty name, for text that is
    not UTF-8, or for more than 4096 bytes.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers are a mapping, not {type(headers).__name__}")
    if not headers:
        return b""
    for name, value in headers.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a header is a str, not {type(name).__name__}")
        if not isinstance(value, (str, bytes)):
            raise TypeError(f"header {name!r} is str or bytes, not {type(value).__name__}")
        if not name:
            raise ValueError("the name of a header is empty")
        if name.startswith(RESERVED) and not reserved:
            raise ValueError(f"header {name!r} begins with {RESERVED!r}, which is reserved")
    try:
        encoded = _encoder.encode(dict(headers))
    except UnicodeEncodeError as error:
        raise ValueError(f"a header cannot be written as UTF-8: {error}") from error
    if len(encoded) > HEADERS_BYTES:
        raise ValueError(f"headers of {len(encoded)} bytes are over the limit of {HEADERS_BYTES}; use the payload")
    return encoded


def decode_headers(encoded: bytes) -> dict[str, str | bytes]:
    """The header map of a message, b"" gives {}. Raises ProtocolViolation for what no encode_headers made."""
    if not encoded:
        return {}
    if len(encoded) > HEADERS_BYTES:
        raise ProtocolViolation(f"headers of {len(encoded)} bytes, where {HEADERS_BYTES} are possible")
    try:
        entries = _decoder.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"headers that cannot be read: {error}") from None
    headers: dict[str, str | bytes] = {}
    for name, value in entries.items():
        if not isinstance(value, (str, bytes)):
            raise ProtocolViolation(f"header {name!r} is neither text nor bytes")
        headers[name] = value
    return headers


def header_map(encoded: bytes) -> Mapping[str, str | bytes]:
    """What a Message gets as `headers`: the shared empty mapping, or one that decodes itself."""
    return HeaderMap(encoded) if encoded else NO_HEADERS


class HeaderMap(Mapping[str, str | bytes]):
    """Read-only headers, decoded at the first look and kept. That look raises ProtocolViolation if they are garbage."""

    __slots__ = ("_encoded", "_headers")

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self._headers: dict[str, str | bytes] | None = None

    def _decoded(self) -> dict[str, str | bytes]:
        if self._headers is None:
            self._headers = decode_headers(self._encoded)
        return self._headers

    def __getitem__(self, name: str) -> str | bytes:
        return self._decoded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    def __len__(self) -> int:
        return len(self._decoded())

    def __repr__(self) -> str:
        return f"HeaderMap({self._decoded()!r})"
