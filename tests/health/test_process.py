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

from layer8.health.process import Figures, Identity, ProcessReader, Stat, identify, parse_stat
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


def line(state: str, *, name: str = "python3", threads: int = 1, exit_code: int = 0) -> bytes:
    fields = [state, "1", *["0"] * 9, "150", "50", *["0"] * 4, str(threads), "0", "777", "0", "10", *["0"] * 27]
    return f"42 ({name}) {' '.join(fields)} {exit_code}\n".encode()


def test_a_line_of_the_kernel_is_understood_whatever_the_name_of_the_program() -> None:
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    for name in ("python3", "a) Z 1 (b", ")) R"):
        stat = parse_stat(line("S", name=name, threads=3, exit_code=9))
        assert stat == Stat(state="S", cpu=200 / ticks, threads=3, memory=10 * page, exit_code=9)


@pytest.mark.parametrize(
    ("state", "threads", "dead"), [("Z", 1, True), ("X", 0, True), ("Z", 3, False), ("T", 1, False)]
)
def test_a_zombie_is_dead_unless_only_its_main_thread_ended(state: str, threads: int, dead: bool) -> None:
    assert parse_stat(line(state, threads=threads)).is_dead is dead


@pytest.mark.parametrize("said", [b"", b"nonsense", b"1 (x) S", b"1 (x) S a b"])
def test_what_is_no_such_line_is_an_error(said: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        parse_stat(said)


def test_a_look_sees_the_state_and_leaves_the_figures(child: subprocess.Popen[bytes]) -> None:
    reader = ProcessReader(child.pid)
    memory = reader.read(1.0).memory
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert reader.look() is State.STOPPED
    assert (reader.last.memory, reader.last.reason) == (memory, "stopped")
    child.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, child.pid, os.WCONTINUED | os.WNOWAIT)
    assert reader.look() is State.UP
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert reader.look() is State.DOWN
    assert reader.last.reason == "zombie"


def test_a_reader_speaks_of_its_process_and_never_of_the_next_one_with_its_pid() -> None:
    """In a pid namespace of its own the kernel gives the same pid out again at once."""
    script = """
import os, sys
from layer8.health.process import ProcessReader, identify
from layer8.health_record import State

def child(pid):
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(pid - 1))
    read, write = os.pipe()
    made = os.fork()
    if not made:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    assert made == pid, (made, pid)
    return write

def end(write, pid):
    os.close(write)
    os.waitpid(pid, 0)

first = child(100)
reader, identity = ProcessReader(100), identify(100)
assert reader.read(1.0).state is State.UP and reader.identity == identity
end(first, 100)
import time; time.sleep(0.05)  # a tick of the clock that the kernel counts starts by
second = child(100)
assert identify(100) is not None and identify(100) != identity
assert reader.look() is State.DOWN and reader.read(2.0).reason == "no such process"
assert ProcessReader(100).read(1.0).state is State.UP
end(second, 100)
print("done")
"""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no pid namespace of one's own")
    done = subprocess.run([*unshare, sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr


def test_another_process_of_the_same_pid_has_another_create_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of the test's own, where no namespace can be made."""
    known = identify(os.getpid())
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 5.0)
    assert known != identify(os.getpid()) == Identity(os.getpid(), 5.0)


def test_an_identity_can_be_compared() -> None:
    assert Identity(1, 2.0) == Identity(1, 2.0) != Identity(1, 3.0)
