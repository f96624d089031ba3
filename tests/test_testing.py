"""What people test their programs with: a real Vnet, private, gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layer8.rendezvous import candidates
from layer8.testing import running_vnet
from layer8.vnet.status import status_name


def segment_of(socket: Path) -> Path:
    return Path("/dev/shm" + status_name(socket))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_runs_and_leaves_nothing() -> None:
    with running_vnet() as vnet:
        pid = vnet.pid
        assert pid is not None
        assert vnet.socket.is_socket()
        assert segment_of(vnet.socket).exists()
        assert "ready" in vnet.log
    assert not Path(f"/proc/{pid}").exists()
    assert not vnet.directory.exists()
    assert not segment_of(vnet.socket).exists()
    vnet.close()


def test_its_environment_leads_to_it_and_nowhere_else() -> None:
    with running_vnet("shop") as vnet:
        assert vnet.name == "shop"
        assert candidates("anything", vnet.environ) == (vnet.socket,)
        assert vnet.environ["PATH"] == os.environ["PATH"]


def test_a_killed_one_can_be_started_again_on_the_same_place() -> None:
    with running_vnet() as vnet:
        first = vnet.pid
        vnet.kill()
        assert not Path(f"/proc/{first}").exists()
        vnet.restart()
        second = vnet.pid
        assert second not in (None, first)
        assert vnet.socket.is_socket()


def test_restart_stops_one_that_runs() -> None:
    with running_vnet() as vnet:
        first = vnet.pid
        vnet.restart()
        assert not Path(f"/proc/{first}").exists()
        assert vnet.log.count("has stopped") == 1


def test_a_killed_one_leaves_nothing_after_close() -> None:
    vnet = running_vnet()
    vnet.kill()
    assert segment_of(vnet.socket).exists()
    vnet.close()
    assert not vnet.directory.exists()
    assert not segment_of(vnet.socket).exists()


def test_a_stopped_one_can_be_closed() -> None:
    vnet = running_vnet()
    pid = vnet.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    vnet.close()
    assert not Path(f"/proc/{pid}").exists()


def test_settings_are_given_by_name() -> None:
    with running_vnet(config={"ports_per_uid": 3, "grace": 0.5, "security": "local"}) as vnet:
        assert vnet.pid


def test_settings_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vnet.toml"
    path.write_text("[vnet.shop]\ngrace = 0.5\n")
    with running_vnet("shop", config=path) as vnet:
        assert vnet.pid


def test_one_that_does_not_start_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        monkeypatch.setattr(tempfile, "tempdir", parent)
        with pytest.raises(RuntimeError, match="colour"):
            running_vnet(config={"colour": 1})
        assert list(Path(parent).iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_a_test_that_is_killed(number: int) -> None:
    script = (
        "import sys; from layer8.testing import running_vnet\n"
        "vnet = running_vnet(); print(vnet.pid, vnet.socket, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as test:
        assert test.stdout is not None
        pid, socket = test.stdout.readline().split()
        test.send_signal(number)
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert not Path(socket).parents[1].exists()
    assert not segment_of(Path(socket)).exists()


def test_importing_it_loads_nothing_heavy() -> None:
    script = "import sys, layer8.testing; print(sorted(m for m in sys.modules if m.startswith('layer8')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['layer8', 'layer8.testing']"
