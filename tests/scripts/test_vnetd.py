"""The host daemon script: exit statuses of an init script, and nothing that a crash could confuse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from layer8.vnet import status

SCRIPT = Path(__file__).parents[2] / "scripts" / "vnetd"

RUNNING, DEAD, NOT_RUNNING = 0, 1, 3

Vnetd = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d")


@pytest.fixture
def vnetd(directory: Path) -> Iterator[Vnetd]:
    """The script, with directories of its own and this interpreter's layer8; what it started is stopped at the end."""
    environ = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(directory),
        "LAYER8_VNETD_RUN": str(directory / "run"),
        "LAYER8_VNETD_LOGS": str(directory / "logs"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    names: set[str] = set()

    def vnetd(*arguments: str) -> subprocess.CompletedProcess[str]:
        given = arguments.index("--name") + 1 if "--name" in arguments else len(arguments)
        names.update(arguments[given : given + 1] or ("default",))
        return subprocess.run(
            [str(SCRIPT), *arguments], env=environ, cwd=directory, capture_output=True, text=True, timeout=90
        )

    yield vnetd
    for name in names:
        vnetd("stop", "--name", name)
        status.remove(directory / "layer8" / f"{name}.sock")


def pid_in(directory: Path, name: str = "default") -> int:
    return int((directory / "run" / f"{name}.pid").read_text())


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_start_status_stop(vnetd: Vnetd, directory: Path) -> None:
    assert vnetd("status").returncode == NOT_RUNNING
    started = vnetd("start")
    assert started.returncode == 0
    assert "listens at" in started.stdout
    assert (directory / "layer8" / "default.sock").is_socket()
    assert vnetd("status").returncode == RUNNING
    pid = pid_in(directory)
    process = psutil.Process(pid)
    assert process.terminal() is None
    assert os.getsid(pid) == pid
    assert process.cwd() == "/"
    assert vnetd("stop").returncode == 0
    assert not is_running(pid)
    assert vnetd("status").returncode == NOT_RUNNING
    assert not (directory / "layer8" / "default.sock").exists()
    assert list((directory / "run").iterdir()) == []


def test_a_start_while_it_runs_says_so_and_changes_nothing(vnetd: Vnetd, directory: Path) -> None:
    vnetd("start")
    pid = pid_in(directory)
    again = vnetd("start")
    assert again.returncode == 0
    assert f"runs already (pid {pid})" in again.stdout
    assert pid_in(directory) == pid


def test_a_stop_when_nothing_runs_is_no_failure(vnetd: Vnetd) -> None:
    assert vnetd("stop").returncode == 0


def test_a_crash_is_told_and_taken_over(vnetd: Vnetd, directory: Path) -> None:
    vnetd("start")
    pid = pid_in(directory)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30.0
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    dead = vnetd("status")
    assert dead.returncode == DEAD
    assert str(pid) in dead.stdout
    assert vnetd("start").returncode == 0
    assert vnetd("status").returncode == RUNNING
    assert pid_in(directory) != pid


def test_a_pid_file_that_names_another_process_harms_nobody(vnetd: Vnetd, directory: Path) -> None:
    (directory / "run").mkdir(mode=0o700)
    (directory / "run" / "default.pid").write_text(f"{os.getpid()}\n")
    assert vnetd("status").returncode == DEAD
    assert vnetd("stop").returncode == 0  # and we are still here
    assert vnetd("start").returncode == 0


def test_restart_keeps_the_options_of_the_start(vnetd: Vnetd, directory: Path) -> None:
    config = directory / "my vnet.toml"
    config.write_text("[vnet.default]\ngrace = 0.5\n")
    vnetd("start", f"--config={config.name}")
    first = pid_in(directory)
    assert vnetd("restart").returncode == 0
    assert pid_in(directory) != first
    assert str(config) in psutil.Process(pid_in(directory)).cmdline()


def test_a_start_that_fails_says_why(vnetd: Vnetd, directory: Path) -> None:
    (directory / "bad.toml").write_text("[vnet.default]\ncolour = 1\n")
    failed = vnetd("start", "--config", "bad.toml")
    assert failed.returncode == 1
    assert "colour" in failed.stderr
    assert vnetd("status").returncode == NOT_RUNNING
    assert vnetd("start").returncode == 0


def test_names_run_beside_each_other(vnetd: Vnetd, directory: Path) -> None:
    for name in ("a", "b"):
        assert vnetd("start", "--name", name).returncode == 0
    assert vnetd("stop", "--name", "a").returncode == 0
    assert vnetd("status", "--name", "a").returncode == NOT_RUNNING
    assert vnetd("status", "--name", "b").returncode == RUNNING


def test_logs_are_shown(vnetd: Vnetd) -> None:
    assert vnetd("logs").returncode == 1
    vnetd("start")
    shown = vnetd("logs", "--lines", "1")
    assert (shown.returncode, shown.stdout) == (0, "ready\n")


@pytest.mark.parametrize(
    "arguments", [(), ("fly",), ("start", "--bogus"), ("start", "--name"), ("status", "--name", "../x"), ("logs", "x")]
)
def test_wrong_usage_is_2(vnetd: Vnetd, arguments: tuple[str, ...]) -> None:
    assert vnetd(*arguments).returncode == 2
