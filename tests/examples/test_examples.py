"""Every example runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from layer8.testing import RunningVnet, running_vnet

EXAMPLES = Path(__file__).parents[2] / "examples"
EXPECTED = {
    "hello.py": ["hello, world"],
    "publish_subscribe.py": [
        f"subscriber {number}: example.prices is {price}"
        for number in (1, 2)
        for price in ("101.5", "101.75", "101.25")
    ],
    "request_reply.py": ["3 -> 9 ", "4 -> 16 ", "5 -> 25 ", "twelve -> the request failed: not a number"],
}

IMPORTED = {"psk_provider.py"}  # modules to use, not programs; tests/security/conformance and tests/vnet use it


def run(example: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / example],
        capture_output=True,
        text=True,
        env={**os.environ, **environ, "PYTHONUNBUFFERED": ""},  # lines of several processes stay whole
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def vnet() -> Iterator[RunningVnet]:
    with running_vnet() as vnet:
        yield vnet


def test_every_example_is_known_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED) | IMPORTED


@pytest.mark.parametrize("example", EXPECTED)
def test_an_example_prints_what_it_promises(vnet: RunningVnet, example: str) -> None:
    result = run(example, vnet.environ)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == len(EXPECTED[example])
    for line, expected in zip(sorted(lines), sorted(EXPECTED[example]), strict=True):
        assert line.startswith(expected)


@pytest.mark.parametrize("example", EXPECTED)
def test_without_a_vnet_it_says_how_to_start_one(example: str) -> None:
    result = run(example, {"LAYER8_VNET": "/nowhere/at-all.sock"})
    assert result.returncode == 1
    assert "layer8 vnet" in result.stderr
