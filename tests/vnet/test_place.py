"""Lock and socket: one Vnet at a time, leftovers replaced, nothing ever open to others."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from layer8.vnet.place import AlreadyRunning, Place, PlaceError


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("p") / "layer8" / "default.sock"


def test_directory_and_socket_are_private(path: Path) -> None:
    before = os.umask(0)
    try:
        with Place("default", path) as place:
            place.open()
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(place.lock_path.stat().st_mode) == 0o600
            assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_second_start_names_who_runs(path: Path) -> None:
    with Place("default", path) as place:
        place.open()
        with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}") as refused:
            Place("default", path).open()
        assert refused.value.pid == os.getpid()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))  # the first one was not disturbed


def test_nothing_is_left_after_close(path: Path) -> None:
    place = Place("default", path)
    place.open()
    place.close()
    place.close()
    assert list(path.parent.iterdir()) == []


def test_what_a_crash_left_is_replaced(path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from layer8.vnet.place import Place\n"
        "Place('default', Path(sys.argv[1])).open(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False)
    assert {file.name for file in path.parent.iterdir()} == {"default.sock", "default.lock"}
    with Place("default", path) as place:
        place.open()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))


def test_the_lock_survives_a_restart_race(path: Path) -> None:
    """Whoever opened the lock file before its holder took it away does not run beside the next holder."""
    first = Place("default", path)
    first.open()
    stale = os.open(first.lock_path, os.O_RDWR)
    first.close()
    with Place("default", path) as second:
        second.open()
        assert not os.path.samestat(os.fstat(stale), second.lock_path.stat())
        with pytest.raises(AlreadyRunning):
            Place("default", path).open()
    os.close(stale)


def test_another_thing_in_the_sockets_place_is_not_removed(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("mine")
    with pytest.raises(PlaceError, match="not a socket"):
        Place("default", path).open()
    assert path.read_text() == "mine"


def test_a_directory_that_others_may_write_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.parent.chmod(0o777)
    with pytest.raises(PlaceError):
        Place("default", path).open()
    assert list(path.parent.iterdir()) == []


def test_a_lock_that_is_a_link_is_refused(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.with_suffix(".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlaceError):
        Place("default", path).open()
    assert not (tmp_path / "elsewhere").exists()


def test_a_path_that_is_too_long_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match="too long"):
        Place("default", tmp_path / ("x" * 100) / "default.sock").open()
