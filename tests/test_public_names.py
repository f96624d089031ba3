"""The public face: these names and no others."""

from __future__ import annotations

import subprocess
import sys

import pytest

import layer8


def test_public_names_are_these() -> None:
    assert sorted(layer8.__all__) == [
        "AsyncRequest",
        "AsyncVnic",
        "Backpressure",
        "Closed",
        "ElectionEvent",
        "HealthEvent",
        "HealthRecord",
        "Layer8Error",
        "LinkRecord",
        "Message",
        "MessageTooLarge",
        "NotAuthorized",
        "NotFound",
        "Request",
        "RequestFailed",
        "RequestTimeout",
        "SecurityMismatch",
        "State",
        "Undeliverable",
        "Unreachable",
        "VnetNotFound",
        "Vnic",
    ]


@pytest.mark.parametrize("name", layer8.__all__)
def test_public_name_is_there(name: str) -> None:
    assert getattr(layer8, name).__name__ == name
    assert name in dir(layer8)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Vnix"):
        getattr(layer8, "Vnix")  # noqa: B009


def test_importing_layer8_loads_nothing_else() -> None:
    script = "import sys, layer8; print(sorted(name for name in sys.modules if name.startswith('layer8')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    loaded = [name for name in done.stdout.strip("[]\n").replace("'", "").split(", ") if "editable" not in name]
    assert loaded == ["layer8"]
