"""`layer8 demo`: everything agrees, and nothing is left behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from layer8.cli.main import main

PATIENCE = 100.0  # a watchdog, not an expectation


class Demo:
    """`layer8 demo` with a directory of its own for everything temporary."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.environ = {name: value for name, value in os.environ.items() if name != "LAYER8_VNET"}
        self.environ |= {
            "TMPDIR": str(directory),
            "XDG_RUNTIME_DIR": str(directory),
            "LAYER8_TEST_DEMO": str(directory),
        }

    def start(self, *arguments: str, options: tuple[str, ...] = (), cwd: Path | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "layer8.cli", *arguments, "demo", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ,
            cwd=cwd,
        )

    def processes(self) -> list[psutil.Process]:
        """Every process that was started by this demo or by one of its own."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def leftovers(self) -> list[str]:
        found = [str(path) for path in self._directory.rglob("*") if path.name != "layer8" or any(path.iterdir())]
        return found + [repr(process) for process in self.processes()]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            ours = process.environ().get("LAYER8_TEST_DEMO") == str(self._directory)
            return ours and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@pytest.fixture
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("d"))
    yield demo
    for process in demo.processes():
        process.kill()


def test_every_count_and_digest_agrees_and_nothing_is_left(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a module of the working directory stood in for ours')")
    output, errors = (process := demo.start("--json", cwd=tmp_path)).communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, b"")
    report = json.loads(output)
    assert report["ok"]
    assert len(report["checks"]) > 10
    assert all(check["ok"] and check["expected"] == check["found"] for check in report["checks"])
    assert report["library"]["messages"] == report["library"]["digests_compared"] > 500
    assert report["metrics"]["delivered"] == 2 * report["metrics"]["messages"] > 0
    assert report["requests"]["messages"] > 0
    assert {record["alias"] for record in report["health"]} >= {"demo-store", "demo-answers", "demo-metrics"}
    assert demo.leftovers() == []


def test_it_reads_well_without_a_terminal(demo: Demo) -> None:
    output, errors = (process := demo.start()).communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, b"")
    text = output.decode()
    assert "\x1b" not in text
    assert "every count and digest agrees" in text
    for word in ("host metrics", "standard library", "requests", "p99", "demo-store"):
        assert word in text


@pytest.mark.timeout(240)
def test_three_hosts_play_it_too_and_only_what_must_crosses_a_link(demo: Demo) -> None:
    process = demo.start("--json", options=("--hosts", "3"))
    output, errors = process.communicate(timeout=2 * PATIENCE)
    assert (process.returncode, errors) == (0, b"")
    report = json.loads(output)
    assert report["ok"]
    assert report["hosts"]
    vnets = {record["host"]: record for record in report["health"] if record["kind"] == "vnet"}
    assert set(vnets) == {"one", "two", "three"}
    crossed = {(name, link["host"]): link["messages_out"] for name, vnet in vnets.items() for link in vnet["links"]}
    assert len(crossed) == 6
    assert crossed["one", "three"] >= report["library"]["messages"]  # the store is there
    assert crossed["three", "one"] == 1  # its one answer; the metrics have no subscriber there
    assert demo.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["starting a Vnet", "starting", "publishing", "sending"])
def test_a_signal_in_the_middle_leaves_nothing_behind(demo: Demo, number: signal.Signals, step: str) -> None:
    with demo.start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.decode().startswith(step):
                break
        process.send_signal(number)
        process.wait(PATIENCE)
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 128 + number
    assert demo.leftovers() == []


def test_a_reader_that_goes_away_ends_it_and_leaves_nothing_behind(demo: Demo) -> None:
    with demo.start() as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
    assert demo.leftovers() == []


@pytest.mark.parametrize("ok", [True, False])
def test_quiet_it_says_nothing_but_its_exit_status(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], ok: bool
) -> None:
    def play(tell: Callable[[str], None], hosts: int) -> SimpleNamespace:
        tell("starting")
        return SimpleNamespace(ok=ok)

    monkeypatch.setattr("layer8.cli.demo.play", play)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    assert main(["-q", "demo"]) == (0 if ok else 1)
    assert capfd.readouterr() == ("", "")


def test_processes_do_not_outlive_a_demo_that_is_killed(demo: Demo) -> None:
    with demo.start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b"sending"):
                break
        process.kill()
    deadline = time.monotonic() + 30
    while (left := demo.processes()) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.1)
    assert left == []
