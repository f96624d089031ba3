"""The tree of exceptions, which users catch by."""

from __future__ import annotations

import importlib
import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

import layer8
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

_SOME: dict[str, object] = {
    "int": 1,
    "float": 1.5,
    "bool": True,
    "bytes": b"x",
    "tuple[str,": ("x",),
    "Path": Path("x"),
}


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


def _all_errors(kind: type[Layer8Error]) -> Iterator[type[Layer8Error]]:
    for error in kind.__subclasses__():
        yield error
        yield from _all_errors(error)


def test_errors_of_the_inside_survive_pickling_too() -> None:
    """They reach users as Layer8Errors: of a wrong configuration, a policy, an identity."""
    package = Path(layer8.__file__).parent
    for path in package.rglob("*.py"):
        if "class " in (text := path.read_text()) and "(Layer8Error)" in text:
            importlib.import_module(".".join(path.relative_to(package.parent).with_suffix("").parts))
    found = {kind for kind in _all_errors(Layer8Error) if kind.__module__.startswith("layer8.")}
    assert len(found) > 20
    for kind in found:
        names = [
            parameter
            for parameter in inspect.signature(kind).parameters.values()
            if parameter.kind != parameter.VAR_POSITIONAL
        ]
        error = kind(
            *(_SOME.get(str(parameter.annotation).partition(" ")[0], f"some {parameter.name}") for parameter in names)
        )
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), vars(copy), str(copy)) == (kind, vars(error), str(error))
