"""The public face: these names and no others."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def test_library_needs_no_package_that_it_does_not_declare() -> None:
    """The test extras bring more along: what only they bring fails where layer8 is installed by itself."""
    declared = {
        re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-")
        for line in importlib.metadata.requires("layer8") or ()
        if "extra ==" not in line
    }
    homes = importlib.metadata.packages_distributions()
    package = Path(layer8.__file__).parent
    needed = {
        (name, path.name)
        for path in package.rglob("*.py")
        for name in _needed_to_run(ast.parse(path.read_text()))
        if name not in sys.stdlib_module_names and name != "layer8"
    }
    assert len(needed) > 5
    undeclared = {
        (name, path)
        for name, path in needed
        if declared.isdisjoint(home.lower().replace("_", "-") for home in homes.get(name, ()))
    }
    assert undeclared == {("pytest", "pytest_plugin.py"), ("nats", "nats_pair.py")}  # loaded only where they are


def _needed_to_run(node: ast.AST) -> Iterator[str]:
    """The packages that a module imports, but for what only a type checker sees."""
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield str(node.module).partition(".")[0]
    elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        for other in node.orelse:
            yield from _needed_to_run(other)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _needed_to_run(child)
