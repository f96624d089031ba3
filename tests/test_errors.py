"""The tree of exceptions, which users catch by."""

from __future__ import annotations

import pickle
from uuid import uuid4

import pytest

from layer8.errors import (
    Backpressure,
    Closed,
    Layer8Error,
    MessageTooLarge,
    NotAuthorized,
    NotFound,
    RequestFailed,
    RequestTimeout,
    SecurityMismatch,
    Unreachable,
    VnetNotFound,
)
from layer8.protocol.codec import ProtocolViolation

ERRORS = [
    VnetNotFound(("/run/layer8/default.sock: no socket there",)),
    SecurityMismatch("aa", "bb"),
    NotAuthorized("layer8://o/vnic/a", "send", "alias b"),
    Unreachable(uuid4(), "gone"),
    NotFound("worker"),
    Backpressure("worker", 5.0),
    RequestTimeout(uuid4(), None),
    RequestFailed("unknown", b"\x00payload"),
    Closed("the Vnic"),
    MessageTooLarge(2, 1),
    ProtocolViolation("nonsense"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_survives_pickling_with_its_fields_and_text(error: Layer8Error) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_text_of_an_error_says_its_fields(error: Layer8Error) -> None:
    for field in vars(error).values():
        for part in field if isinstance(field, tuple) else (field,):
            assert isinstance(part, bytes) or str(part) in str(error)


def test_errors_can_be_caught_by_the_builtin_they_also_are() -> None:
    assert issubclass(NotFound, LookupError)
    assert issubclass(NotFound, Unreachable)
    assert issubclass(Backpressure, TimeoutError)
    assert issubclass(RequestTimeout, TimeoutError)
    assert not issubclass(RequestTimeout, Backpressure)
