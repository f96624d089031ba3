"""Every example runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from layer8.testing import RunningVnet, running_vnet

pytestmark = pytest.mark.timeout(300)  # watchdogs for a busy machine

EXAMPLES = Path(__file__).parents[2] / "examples"
EXPECTED = {
    "hello.py": ["hello, world"],
    "publish_subscribe.py": [
        f"subscriber {number}: example.prices is {price}"
        for number in (1, 2)
        for price in ("101.5", "101.75", "101.25")
    ],
    "asyncio_tasks.py": ["sum of squares: 2646700", "tick 0", "tick 1", "tick 2"],
    "camera_frames.py": ["fast: saw the last frame, and ", "slow: saw the last frame, and some of those before"],
    "fork_and_spawn.py": [
        "fork: the parent's Vnic is closed here",
        "fork: a Vnic of its own",
        "spawn: a Vnic of its own",
    ],
    "notebook_session.py": [
        "attached",
        "['example.notebook']",
        "<Subscription of 'example.notebook.prices', 0 missed>",
        "HELLO",
        "['1.0', '1.1']",
        "Hello Again",
        "closed",
    ],
    "supervisor.py": ["up: it answers", "gone: another one is started"] * 2 + ["up: it answers"],
    "worker_pool.py": ["a worker stopped with status 0"] * 2 + ["100 requests answered by several workers: True"],
    "request_reply.py": ["3 -> 9 ", "4 -> 16 ", "5 -> 25 ", "twelve -> the request failed: not a number"],
}

IMPORTED = {  # modules to use, not programs
    "psk_provider.py",  # tests/security/conformance and tests/vnet use it
    "web_app.py",  # test_web_app.py
}
NEEDS_ITS_VNET = set(EXPECTED) - {"notebook_session.py"}  # in a session the error is shown as it is


def run(example: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / example],
        capture_output=True,
        text=True,
        env={**os.environ, **environ, "PYTHONUNBUFFERED": ""},  # lines of several processes stay whole
        timeout=280,
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


def test_a_followed_log_is_published_line_by_line(vnet: RunningVnet) -> None:
    scripts = Path(sys.executable).parent  # where the command `layer8` is
    result = subprocess.run(
        ["bash", EXAMPLES / "follow_log.sh"],
        capture_output=True,
        text=True,
        env={**os.environ, **vnet.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
        timeout=280,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["started", "working", "finished"]


@pytest.mark.parametrize("example", sorted(NEEDS_ITS_VNET))
def test_without_a_vnet_it_says_how_to_start_one(example: str) -> None:
    result = run(example, {"LAYER8_VNET": "/nowhere/at-all.sock"})
    assert result.returncode == 1
    assert "layer8 vnet" in result.stderr
