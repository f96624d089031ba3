"""Who is awaited no longer, and when that is known."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from layer8.vnet import awaited
from layer8.vnet.awaited import AwaitedProcesses
from layer8.vnet.roster import Entry, Roster

SECRET = bytes(32)


def left_by_an_earlier_vnet(directory: Path, pids: dict[UUID, int]) -> Roster:
    roster = Roster(directory)
    roster.load()
    for number, (uuid, pid) in enumerate(pids.items()):
        roster.note(uuid, number, SECRET, pid=pid, alias=None, principal="somebody")
    again = Roster(directory)
    again.load()
    assert set(again.awaited) == set(pids)
    return again


def watched(roster: Roster, use: Callable[[AwaitedProcesses], object], count: int) -> list[UUID]:
    """Until that many have died: who has, in order."""
    died: list[UUID] = []

    async def run() -> None:
        enough = asyncio.Event()

        def note(entry: Entry) -> None:
            died.append(entry.uuid)
            if len(died) == count:
                enough.set()

        processes = AwaitedProcesses(roster, asyncio.get_running_loop(), note)
        try:
            processes.watch()
            use(processes)
            if count:
                await asyncio.wait_for(enough.wait(), 30)
        finally:
            processes.close()

    asyncio.run(run())
    return died


@pytest.fixture
def child() -> Callable[[], subprocess.Popen[bytes]]:
    return lambda: subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def test_all_of_a_process_that_ends_are_given_up(tmp_path: Path, child: Callable[[], subprocess.Popen[bytes]]) -> None:
    mortal, here, gone = child(), uuid4(), [uuid4() for _ in range(3)]
    roster = left_by_an_earlier_vnet(tmp_path / "a.state", {here: os.getpid(), **dict.fromkeys(gone, mortal.pid)})
    died = watched(roster, lambda processes: mortal.communicate(b"\n"), 3)
    assert set(died) == set(gone) == set(roster.dead)
    assert set(roster.awaited) == {here}


def test_of_more_processes_than_are_watched_at_a_time_all_are_looked_at_in_the_end(
    tmp_path: Path, child: Callable[[], subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaited, "_MOST", 1)
    first, second, here = child(), child(), UUID(int=1)  # the first in the list
    pids = {here: os.getpid(), uuid4(): first.pid, uuid4(): second.pid}
    roster = left_by_an_earlier_vnet(tmp_path / "a.state", pids)

    def end(processes: AwaitedProcesses) -> None:
        first.communicate(b"\n")
        second.communicate(b"\n")
        roster.note(here, 7, SECRET, pid=os.getpid(), alias=None, principal="somebody")
        processes.back(os.getpid())

    assert set(watched(roster, end, 2)) == set(pids) - {here}


def test_a_process_whose_vnics_are_back_is_not_watched_here(tmp_path: Path) -> None:
    here = [uuid4(), uuid4()]
    roster = left_by_an_earlier_vnet(tmp_path / "a.state", dict.fromkeys(here, os.getpid()))

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    def come_back(processes: AwaitedProcesses) -> None:
        before = descriptors()
        for number, uuid in enumerate(here):
            assert descriptors() == before
            roster.note(uuid, number, SECRET, pid=os.getpid(), alias=None, principal="somebody")
            processes.back(os.getpid())
        assert descriptors() == before - 1

    assert watched(roster, come_back, 0) == []


def test_who_cannot_be_seen_is_given_up_when_it_has_been_away_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this Vnet runs: it need not be started again for that."""
    monkeypatch.setattr(awaited, "_SOONEST", 0.0)
    unseen, here = uuid4(), uuid4()
    roster = left_by_an_earlier_vnet(tmp_path / "a.state", {unseen: 0, here: os.getpid()})
    roster.mirror(unseen).write_bytes(b"its segment")
    monkeypatch.setattr(awaited, "UNSEEN_SECONDS", 0.05)
    left: list[UUID] = []
    roster.left = left.append
    assert watched(roster, lambda processes: None, 1) == [unseen] == left
    assert not roster.mirror(unseen).exists()
    assert set(roster.awaited) == {here}
