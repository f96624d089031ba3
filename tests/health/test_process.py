"""What is read of processes: of this one, of a child in each state, of one that is not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest

from layer8.health.process import Figures, Identity, ProcessReader, identify
from layer8.health_record import State


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has started and waits until its standard input ends."""
    code = "import sys; sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        yield process
        process.kill()


def test_this_process_has_figures() -> None:
    figures = ProcessReader(os.getpid()).read(1.0)
    assert figures.state is State.UP
    assert figures.memory > 1_000_000
    assert figures.threads >= threading.active_count()
    assert figures.open_files >= 3


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def test_cpu_is_percent_of_one_core_between_two_readings() -> None:
    reader = ProcessReader(os.getpid())
    before = cpu_seconds()
    assert reader.read(100.0).cpu == 0.0
    first = cpu_seconds()
    while cpu_seconds() < first + 0.2:
        pass
    second = cpu_seconds()
    cpu = reader.read(102.0).cpu
    after = cpu_seconds()
    tick = 100.0 / 2.0 / os.sysconf("SC_CLK_TCK") + 0.01
    assert (second - first) / 2.0 * 100.0 - tick <= cpu <= (after - before) / 2.0 * 100.0 + tick
    assert reader.read(102.0).cpu == 0.0  # no time has passed: nothing can be said


def test_an_identity_is_pid_and_create_time(child: subprocess.Popen[bytes]) -> None:
    identity = identify(child.pid)
    assert identity is not None
    assert identity.pid == child.pid
    assert identity == identify(child.pid) == ProcessReader(child.pid).identity
    child.kill()
    child.wait()
    assert identify(child.pid) is None


def test_a_stopped_process_is_stopped_until_it_goes_on(child: subprocess.Popen[bytes]) -> None:
    reader = ProcessReader(child.pid)
    assert reader.read(1.0).state is State.UP
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    figures = reader.read(2.0)
    assert (figures.state, figures.reason) == (State.STOPPED, "stopped")
    assert figures.memory > 0
    child.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, child.pid, os.WCONTINUED | os.WNOWAIT)
    assert reader.read(3.0).state is State.UP


def test_a_zombie_is_down(child: subprocess.Popen[bytes]) -> None:
    reader = ProcessReader(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert reader.read(1.0) == Figures(state=State.DOWN, reason="zombie")


def test_a_process_that_is_gone_is_down_and_stays_down(child: subprocess.Popen[bytes]) -> None:
    reader = ProcessReader(child.pid)
    reader.read(1.0)
    child.kill()
    child.wait()
    for now in (2.0, 3.0):
        assert reader.read(now) == Figures(state=State.DOWN, reason="no such process")
    late = ProcessReader(child.pid)
    assert late.identity is None
    assert late.read(1.0).state is State.DOWN


@pytest.mark.parametrize("pid", [0, -1])
def test_a_process_of_another_pid_namespace_has_no_figures(pid: int) -> None:
    reader = ProcessReader(pid)
    assert reader.identity is None
    assert reader.read(1.0) == Figures()
    assert identify(pid) is None


@pytest.mark.parametrize("error", [psutil.NoSuchProcess(1), ProcessLookupError(), FileNotFoundError(), ValueError()])
def test_whatever_happens_while_it_vanishes_it_is_down(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ProcessReader(os.getpid())

    def gone(self: object) -> None:
        raise error

    monkeypatch.setattr(psutil.Process, "status", gone)
    assert reader.read(1.0).state is State.DOWN


def test_what_may_not_be_read_keeps_the_figures_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ProcessReader(os.getpid())
    before = reader.read(1.0)

    def denied(self: object) -> None:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil.Process, "num_fds", denied)
    assert reader.read(2.0) is before


def test_a_process_whose_main_thread_ended_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "status", lambda self: psutil.STATUS_ZOMBIE)
    monkeypatch.setattr(psutil.Process, "num_threads", lambda self: 3)
    assert ProcessReader(os.getpid()).read(1.0).state is State.UP


def test_an_identity_can_be_compared() -> None:
    assert Identity(1, 2.0) == Identity(1, 2.0) != Identity(1, 3.0)
