"""What `layer8 doctor` finds, on hosts made of files."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from layer8.health import host
from layer8.health.host import Finding, Host, Level

_UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dev/shm").mkdir(parents=True)
    return tmp_path


def _host(root: Path, **fields: Any) -> Host:
    usual: dict[str, Any] = {"release": "6.8.0", "files": (65536, 65536), "locked": _UNLIMITED, "cores": 8}
    return Host(root=root, **{**usual, **fields})


def _write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_every_check_says_something_of_this_host() -> None:
    found = list(host.examine())
    assert [finding.what for finding in found] == [
        "kernel",
        "python",
        "cores",
        "clock source",
        "memory",
        "/dev/shm",
        "descriptors",
        "memlock",
        "container",
        "pid namespace",
        "runtime directory",
    ]
    assert all(finding.found for finding in found)
    assert all(bool(finding.advice) == (finding.level is not Level.OK) for finding in found)


@pytest.mark.parametrize(
    ("release", "level"),
    [("5.2.21", Level.BAD), ("4.19.0-amd64", Level.BAD), ("5.15.0-91-generic", Level.OK), ("6.8", Level.OK)],
)
def test_old_kernels_are_in_the_way(root: Path, release: str, level: Level) -> None:
    assert host.kernel(_host(root, release=release)).level is level


@pytest.mark.parametrize(
    ("cores", "quota", "level"),
    [
        (8, "max 100000", Level.OK),
        (1, None, Level.WARNING),
        (8, "50000 100000", Level.WARNING),
        (8, "400000 100000", Level.OK),
    ],
)
def test_one_core_is_said_also_when_a_container_limits_it(
    root: Path, cores: int, quota: str | None, level: Level
) -> None:
    if quota is not None:
        _write(root, "sys/fs/cgroup/cpu.max", quota)
    assert host.cores(_host(root, cores=cores)).level is level


def test_small_memory_of_a_container_is_said(root: Path) -> None:
    _write(root, "proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    16000000 kB\n")
    assert host.memory(_host(root)).level is Level.OK
    _write(root, "sys/fs/cgroup/memory.max", str(100 << 20))
    _write(root, "sys/fs/cgroup/memory.current", str(60 << 20))
    finding = host.memory(_host(root))
    assert finding.level is Level.WARNING
    assert "40.0 MiB left of the container's 100.0 MiB" in finding.found


def test_missing_shared_memory_is_in_the_way(tmp_path: Path) -> None:
    assert host.shared_memory(_host(tmp_path)).level is Level.BAD
    (tmp_path / "dev/shm").mkdir(parents=True)
    assert host.shared_memory(_host(tmp_path)).level in (Level.OK, Level.WARNING)


@pytest.mark.parametrize(
    ("limits", "level"),
    [((1024, 524288), Level.WARNING), ((65536, 65536), Level.OK), (_UNLIMITED, Level.OK), ((256, 256), Level.WARNING)],
)
def test_few_descriptors_are_said_with_what_to_do(root: Path, limits: tuple[int, int], level: Level) -> None:
    finding = host.descriptors(_host(root, files=limits))
    assert finding.level is level
    assert ("ulimit -n" in finding.advice) == (level is Level.WARNING)


def test_container_and_nested_pids_are_seen(root: Path) -> None:
    assert host.container(_host(root)).found == "none seen"
    _write(root, ".dockerenv", "")
    _write(root, "proc/1/cgroup", "0::/kubepods/burstable/pod1")
    assert host.container(_host(root)).found.startswith("Docker, Kubernetes")
    _write(root, "proc/self/status", "Name:\tx\nNSpid:\t4711\n")
    assert host.pid_namespace(_host(root)).level is Level.OK
    _write(root, "proc/self/status", "Name:\tx\nNSpid:\t4711\t12\n")
    assert host.pid_namespace(_host(root)).level is Level.WARNING


def test_runtime_directory_of_others_is_said(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> Finding:
        return host.runtime_directory(_host(root))

    place = tmp_path / "run"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    assert look().level is Level.WARNING
    place.mkdir(mode=0o700)
    assert look().level is Level.OK
    place.chmod(0o755)
    assert look().level is Level.WARNING
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert look().level is Level.OK
