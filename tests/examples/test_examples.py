"""Every example runs as it stands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from layer8.testing import RunningVnet, running_vnet

_PATIENCE = 100.0  # a watchdog for a busy machine: an example takes seconds
pytestmark = pytest.mark.timeout(3 * _PATIENCE)  # with the start of the Vnet

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


def run(command: Sequence[str | Path], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """An example in a process group of its own, which is ended when it hangs."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"it has not ended; so far it said {process.communicate()}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def run_python(example: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    buffered = {"PYTHONUNBUFFERED": ""}  # lines of several processes stay whole
    return run([sys.executable, EXAMPLES / example], {**environ, **buffered})


def run_bash(example: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    scripts = Path(sys.executable).parent  # where the command `layer8` is
    return run(["bash", EXAMPLES / example], {**environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"})


@pytest.fixture(scope="module")
def vnet() -> Iterator[RunningVnet]:
    with running_vnet() as vnet:
        yield vnet


def test_every_example_is_known_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED) | IMPORTED


@pytest.mark.parametrize("example", EXPECTED)
def test_an_example_prints_what_it_promises(vnet: RunningVnet, example: str) -> None:
    result = run_python(example, vnet.environ)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == len(EXPECTED[example])
    for line, expected in zip(sorted(lines), sorted(EXPECTED[example]), strict=True):
        assert line.startswith(expected)


def test_a_followed_log_is_published_line_by_line(vnet: RunningVnet) -> None:
    result = run_bash("follow_log.sh", vnet.environ)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["started", "working", "finished"]


@pytest.mark.parametrize("example", sorted(NEEDS_ITS_VNET))
def test_without_a_vnet_it_says_how_to_start_one(example: str) -> None:
    result = run_python(example, {"LAYER8_VNET": "/nowhere/at-all.sock"})
    assert result.returncode == 1
    assert "layer8 vnet" in result.stderr
