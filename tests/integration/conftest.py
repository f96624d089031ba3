"""Real processes on a real Vnet. Whatever happens, none of them outlives its test."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from layer8 import Vnic
from layer8.testing import RunningVnet, running_vnet

PROGRAMS = Path(__file__).parent / "programs"


@contextlib.contextmanager
def standing_still(pid: int | None) -> Iterator[None]:
    """SIGSTOP, from the moment the process really stands still; SIGCONT at the end, if it lives."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        while any(_state(task) != "T" for task in Path(f"/proc/{pid}/task").iterdir()):
            time.sleep(0.001)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Program:
    """One running program of `programs/`. It speaks in lines on stdout, and ends when its stdin does."""

    def __init__(self, name: str, *arguments: str, environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / f"{name}.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environ, "PYTHONUNBUFFERED": "1"},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> str:
        """The next line it says; AssertionError at its end."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline().decode()
        assert said, f"{self.process.args!r} ended with {self.process.wait(30)}"
        return said.strip()

    def wait_for(self, word: str) -> str:
        """Up to the line that begins with `word`: its rest."""
        while not (said := self.line()).startswith(word):
            pass
        return said.removeprefix(word).strip()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        return standing_still(self.pid)

    def close(self) -> None:
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGCONT)
            self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


Run = Callable[..., Program]
MakeVnic = Callable[..., Vnic]


@pytest.fixture
def vnet(request: pytest.FixtureRequest) -> Iterator[RunningVnet]:
    """A parameter is its configuration."""
    with running_vnet(config=getattr(request, "param", None)) as running:
        yield running


@pytest.fixture
def stopped() -> Callable[[int | None], contextlib.AbstractContextManager[None]]:
    """`with stopped(pid)`: that process stands still."""
    return standing_still


@pytest.fixture
def run(vnet: RunningVnet) -> Iterator[Run]:
    """Starts a program; the test's Vnet is the one it finds."""
    started: list[Program] = []

    def start(name: str, *arguments: object) -> Program:
        program = Program(name, *map(str, arguments), environ=vnet.environ)
        started.append(program)
        return program

    yield start
    for program in started:
        program.close()


@pytest.fixture
def run_on() -> Iterator[Callable[..., Program]]:
    """As `run`, on a Vnet of the test's own: `run_on(vnet, name, …)`."""
    programs: list[Program] = []

    def start(vnet: RunningVnet, name: str, *arguments: object) -> Program:
        programs.append(Program(name, *map(str, arguments), environ=vnet.environ))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


@pytest.fixture
def make_vnic(vnet: RunningVnet) -> Iterator[MakeVnic]:
    made: list[Vnic] = []

    def make(alias: str | None = None, **arguments: object) -> Vnic:
        arguments = {"vnet": str(vnet.socket), "attach_timeout": 30.0, "timeout": 30.0, **arguments}
        vnic = Vnic(alias, **arguments)  # type: ignore[arg-type]
        made.append(vnic)
        return vnic

    yield make
    for vnic in made:
        vnic.close()


@pytest.fixture
def nothing_stays(vnet: RunningVnet, make_vnic: MakeVnic) -> Callable[[], None]:
    """Call it when all other Vnics are gone: the Vnet has then no port, descriptor and mapping more than at first."""
    watcher = make_vnic("watcher")
    watcher.send("watcher", b"")
    watcher.receive(30)
    assert vnet.pid is not None
    daemon = psutil.Process(vnet.pid)

    def held() -> tuple[int, int, int]:
        maps = Path(f"/proc/{vnet.pid}/maps").read_text().count("memfd:layer8")
        return len(watcher.health(kind="vnic", state="UP")), daemon.num_fds(), maps

    before = held()

    def check() -> None:
        deadline = time.monotonic() + 30
        while (now := held()) != before:
            assert time.monotonic() < deadline, f"ports, descriptors, segments: {now}, at first {before}"
            time.sleep(0.02)

    return check


@pytest.fixture(scope="session")
def kill_points() -> str:
    """A directory for the search path of a Vnet that shall die at a certain point."""
    root = Path(__file__).parents[2]
    directory = root / "build" / "kill-points"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:  # several workers may want it at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        build = f'source "{root}/scripts/environment.sh" && layer8_kill_points "{directory}"'
        subprocess.run(["bash", "-euc", build], check=True)
    return str(directory)
