"""The list of ports: what stands in it, and who is dropped from it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from layer8.vnet.roster import UNSEEN_SECONDS, Roster, is_same_process, knows_secret

SECRET = bytes(range(32))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "a.state"


def test_an_entry_is_private_and_says_no_secret(directory: Path) -> None:
    roster = Roster(directory)
    roster.load()
    uuid = uuid4()
    roster.note(uuid, 7, SECRET, pid=os.getpid(), alias="store", principal="somebody")
    assert directory.stat().st_mode & 0o777 == 0o700
    (path,) = directory.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert SECRET.hex().encode() not in path.read_bytes()
    assert SECRET not in path.read_bytes()
    roster.forget(uuid, 7)
    assert list(directory.iterdir()) == []
    roster.close()
    assert not directory.exists()


def test_the_next_vnet_awaits_who_lives(directory: Path) -> None:
    roster, uuid = Roster(directory), uuid4()
    roster.load()
    roster.note(uuid, 7, SECRET, pid=os.getpid(), alias=None, principal="somebody")
    roster.close()  # somebody is in it: it stays
    again = Roster(directory)
    again.load()
    entry = again.awaited[uuid]
    assert knows_secret(entry, SECRET)
    assert not knows_secret(entry, bytes(32))
    assert is_same_process(entry, os.getpid())
    assert not is_same_process(entry, os.getppid())
    again.note(uuid, 9, SECRET, pid=os.getpid(), alias=None, principal="somebody")
    assert again.awaited == {}
    again.forget(uuid, 7)  # an earlier port of the same Vnic
    assert len(list(directory.iterdir())) == 1


def test_who_has_died_is_dropped(directory: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    roster = Roster(directory)
    roster.load()
    roster.note(uuid4(), 1, SECRET, pid=child.pid, alias=None, principal="somebody")
    child.communicate(b"\n")
    again = Roster(directory)
    again.load()
    assert again.awaited == {}
    assert list(directory.iterdir()) == []


def test_a_pid_that_is_used_again_is_another_process(directory: Path) -> None:
    roster = Roster(directory)
    roster.load()
    roster.note(uuid4(), 1, SECRET, pid=os.getpid(), alias=None, principal="somebody")
    (path,) = directory.iterdir()
    entry = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**entry, "create_time": entry["create_time"] - 60}))
    again = Roster(directory)
    again.load()
    assert again.awaited == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"uuid": 3}', bytes(range(256))])
def test_what_cannot_be_read_is_dropped(directory: Path, content: bytes) -> None:
    directory.mkdir(mode=0o700)
    (directory / f"{uuid4().hex}.port").write_bytes(content)
    (directory / f"{uuid4().hex}.new").write_bytes(content)  # of a Vnet that was killed while it wrote
    roster = Roster(directory)
    roster.load()
    assert roster.awaited == {}
    assert list(directory.iterdir()) == []


def test_a_process_that_is_not_to_be_seen_is_awaited_for_an_hour(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roster, uuid = Roster(directory), uuid4()
    roster.load()
    roster.note(uuid, 7, SECRET, pid=0, alias=None, principal="somebody")
    roster.mirror(uuid).write_bytes(b"its segment")
    now = time.time()
    for passed in (0.0, UNSEEN_SECONDS / 2, UNSEEN_SECONDS * 0.9):
        monkeypatch.setattr(time, "time", lambda passed=passed: now + passed)
        again = Roster(directory)
        again.load()
        assert uuid in again.awaited
        assert roster.mirror(uuid).exists()
    monkeypatch.setattr(time, "time", lambda: now + UNSEEN_SECONDS + 1)
    again = Roster(directory)
    again.load()
    assert again.awaited == {}
    assert list(directory.iterdir()) == []


def test_who_came_back_is_awaited_anew_the_next_time(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uuid, now = uuid4(), time.time()
    roster = Roster(directory)
    roster.load()
    for start in range(3):
        monkeypatch.setattr(time, "time", lambda start=start: now + start * UNSEEN_SECONDS * 0.9)
        roster.note(uuid, 7, SECRET, pid=0, alias=None, principal="somebody")
        roster = Roster(directory)
        roster.load()
        assert uuid in roster.awaited


def test_a_mirror_goes_with_its_entry(directory: Path) -> None:
    roster, uuid, nobody = Roster(directory), uuid4(), uuid4()
    roster.load()
    roster.note(uuid, 7, SECRET, pid=0, alias=None, principal="somebody")
    for which in (uuid, nobody):
        roster.mirror(which).write_bytes(b"a segment")
    (directory / f"{nobody.hex}.0123.new").write_bytes(b"one that was never attached")
    again = Roster(directory)
    again.load()
    assert again.mirror(uuid).exists()
    assert not again.mirror(nobody).exists()
    again.note(uuid, 8, SECRET, pid=0, alias=None, principal="somebody")
    again.forget(uuid, 8)
    assert list(directory.iterdir()) == []
