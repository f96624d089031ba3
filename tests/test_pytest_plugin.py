"""The pytest plugin, used as its users do: a project of its own, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(400)

PROJECT = Path(__file__).parents[1] / "examples" / "tested_project"


def run_pytest(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "LAYER8_VNET"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=380,  # each of its tests starts a Vnet: a watchdog for a busy machine
        check=False,
    )


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_example_project_passes(arguments: tuple[str, ...]) -> None:
    done = run_pytest(PROJECT, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_everything_is_cleaned_up_whatever_the_test_does(tmp_path: Path) -> None:
    (tmp_path / "test_bad.py").write_text(
        """
import os, signal
import pytest

def test_leaves_all_open(vnet, make_vnic):
    vnics = [make_vnic("many") for _ in range(5)]
    vnics[0].subscribe("t", print)
    (__import__("pathlib").Path(__file__).parent / "place").write_text(str(vnet.directory))
    raise RuntimeError("on purpose")

def test_kills_the_vnet(vnet, make_vnic):
    make_vnic("alone").send("alone", b"x")
    vnet.kill()

def test_stops_it_in_its_tracks(vnet, make_vnic):
    make_vnic()
    os.kill(vnet.pid, signal.SIGSTOP)

def test_uses_the_environment(vnet):
    from layer8 import Vnic
    assert os.environ["LAYER8_VNET"] == str(vnet.socket)
    with Vnic("here", attach_timeout=30.0):
        pass

def test_finds_none_of_the_others(make_vnic):
    assert [record.alias for record in make_vnic("only").health(kind="vnic")] == ["only"]
"""
    )
    done = run_pytest(tmp_path)
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert "error" not in done.stdout.splitlines()[-1]
    assert not Path((tmp_path / "place").read_text()).exists()


def test_a_run_that_does_not_use_it_loads_nothing_of_layer8(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(
        """
import sys

def test_light():
    loaded = {name for name in sys.modules if name.split(".")[0] == "layer8"}
    assert loaded <= {"layer8", "layer8.pytest_plugin"}, loaded
    assert not {"click", "rich", "msgspec", "psutil", "cryptography"} & set(sys.modules)
"""
    )
    done = run_pytest(tmp_path, "-p", "no:hypothesispytest")
    assert done.returncode == 0, done.stdout + done.stderr
