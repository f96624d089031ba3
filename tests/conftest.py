"""What every test runs in: a runtime directory of its own, and at the end a look at what was left behind.

Each xdist worker has its own directory, so the Vnet named "default" of one is not that of another. The temporary
directory is inside it, which makes everything that a test leaves in either findable.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from _pytest.logging import caplog_records_key
from hypothesis import HealthCheck, settings

_MARK = "LAYER8_TEST_RUN"
_PATIENCE = 15.0  # seconds that something may take to vanish after the last test
_SHARED_MEMORY = Path("/dev/shm")
_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # Python's own; they end with us

# A loaded machine is slow: that says nothing of what is tested, and the watchdog is pytest-timeout's.
settings.register_profile("layer8", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("layer8")


# A run that was started in the background of a shell ignores Ctrl-C, and so would every program that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _private_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    tmp_path_factory.getbasetemp()  # before TMPDIR changes: it outlives the run, for whoever looks into a failure
    directory = Path(tempfile.mkdtemp(prefix="l8-", dir="/tmp"))  # short: a socket's path has 107 bytes
    runtime = directory / "run"
    runtime.mkdir(mode=0o700)
    mark = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_MARK, mark)
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        patch.setenv("TMPDIR", str(directory))
        patch.setattr(tempfile, "tempdir", None)
        for name in ("LAYER8_VNET", "NODE_IP", "LAYER8_SECURITY", "LAYER8_IDENTITY", "LAYER8_AUTHORITY"):
            patch.delenv(name, raising=False)
        yield
    for item in request.session.items:  # the last test still holds what its fixtures have closed
        (getattr(item, "funcargs", None) or {}).clear()
        for records in item.stash.get(caplog_records_key, {}).values():
            records.clear()  # a traceback in one of them holds all that its frames have
    try:
        for what, find in (
            ("processes", lambda: _processes(mark)),
            ("shared memory", lambda: _shared_memory(directory)),
            ("sockets", lambda: _sockets(directory)),
            ("segments", _segments),
        ):
            left = _vanished(find)
            assert not left, f"{what} left behind: {left}"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _vanished(find: Callable[[], list[str]]) -> list[str]:
    """What is still there after it had time to go."""
    deadline = time.monotonic() + _PATIENCE
    while (left := find()) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    return left


def _processes(mark: str) -> list[str]:
    """Children of this process, and whoever else was started with its environment."""
    found = {child.pid: child for child in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(_MARK) == mark:
                found[process.pid] = process
        except (psutil.Error, OSError):
            continue
    lines = []
    for process in found.values():
        try:
            line = " ".join(process.cmdline()) or process.name()
            if process.status() != psutil.STATUS_ZOMBIE or process.ppid() == os.getpid():
                lines.append(f"{process.pid}: {line}")
        except psutil.Error:
            continue
    return [line for line in lines if not any(helper in line for helper in _HELPERS)]


def _shared_memory(directory: Path) -> list[str]:
    """Objects that name a socket of this run."""
    found = []
    for path in _SHARED_MEMORY.glob("layer8.*"):
        try:
            if str(directory).encode() in path.read_bytes():
                found.append(str(path))
        except OSError:
            continue
    return found


def _sockets(directory: Path) -> list[str]:
    found = []
    for place, _, names in os.walk(directory):
        for name in names:
            path = Path(place, name)
            try:
                if stat.S_ISSOCK(path.lstat().st_mode):
                    found.append(str(path))
            except OSError:
                continue
    return found


def _segments() -> list[str]:
    """Mappings and descriptors of segments in this process."""
    gc.collect()
    found = [line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:layer8" in line]
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if "memfd:layer8" in target:
            found.append(f"descriptor {entry.name}: {target}")
    return found
