"""The status segment: whole snapshots only, the last events, and nothing that needs the Vnet alive."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import msgspec
import posix_ipc
import pytest

from layer8.vnet import status
from layer8.vnet.status import PortStatus, Snapshot, StatusError, StatusReader, StatusWriter


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "default.sock"
    yield path
    status.remove(path)


def snapshot(**fields: object) -> Snapshot:
    base = Snapshot(name="default", socket="/x", uuid=uuid4(), epoch=1, pid=2, started=3.0, updated=4.0)
    return msgspec.structs.replace(base, **fields)


def test_a_snapshot_is_read_as_it_was_written(path: Path) -> None:
    written = snapshot(switch={"visits": 7}, ports=(PortStatus(uuid4(), "worker", 9, 1, 2, 3, 4, 5, 6, 0.5),))
    writer = StatusWriter(path, started=3.0, ports=8, events=8)
    with StatusReader(path) as reader:
        with pytest.raises(StatusError, match="no whole snapshot"):
            reader.snapshot()
        for state in ("running", "stopping", "stopped"):
            writer.write(msgspec.structs.replace(written, state=state))
            assert reader.snapshot() == msgspec.structs.replace(written, state=state)
        assert (reader.pid, reader.started) == (os.getpid(), 3.0)
    writer.close()


def test_only_the_owner_may_read_it(path: Path) -> None:
    writer = StatusWriter(path, started=0.0, ports=1, events=1)
    assert stat.S_IMODE(Path("/dev/shm" + writer.name).stat().st_mode) == 0o600
    writer.close()


def test_more_ports_than_room_are_counted(path: Path) -> None:
    ports = tuple(PortStatus(uuid4(), "a" * 200, 9) for _ in range(200))
    writer = StatusWriter(path, started=0.0, ports=1, events=1)
    writer.write(snapshot(ports=ports))
    with StatusReader(path) as reader:
        read = reader.snapshot()
    assert read.ports == ports[: len(read.ports)]
    assert 0 < len(read.ports) < 200
    assert read.more_ports == 200 - len(read.ports)
    writer.close()


def test_the_oldest_events_make_room(path: Path) -> None:
    writer = StatusWriter(path, started=0.0, ports=1, events=16)
    who = uuid4()
    for number in range(40):
        writer.event(float(number), "attached", uuid=who, alias="ä" * 300, pid=number, text="x" * 300)
    with StatusReader(path) as reader:
        events = reader.events()
        assert [event.number for event in events] == list(range(25, 41))
        assert [event.number for event in reader.events(after=38)] == [39, 40]
        assert events[-1].uuid == who
        assert events[-1].alias.startswith("ää")
        assert events[-1].text.endswith("…")
    writer.close()


def test_a_left_over_segment_is_replaced_and_a_closed_one_is_gone(path: Path) -> None:
    crashed = StatusWriter(path, started=1.0, ports=1, events=1)
    crashed.write(snapshot())
    crashed.close(unlink=False)
    writer = StatusWriter(path, started=2.0, ports=1, events=1)
    with StatusReader(path) as reader:
        assert reader.started == 2.0
    writer.close()
    writer.close()
    with pytest.raises(StatusError):
        StatusReader(path)
    assert not status.remove(path)


def test_a_writer_killed_at_any_moment_leaves_a_whole_snapshot(path: Path) -> None:
    script = (
        "import sys; from uuid import uuid4; from layer8.vnet.status import *\n"
        "writer = StatusWriter(sys.argv[1], started=0.0, ports=64, events=64)\n"
        "ports = tuple(PortStatus(uuid4(), 'x' * 100) for _ in range(64))\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    now = dict(epoch=number, pid=1, started=0.0, updated=0.0)\n"
        "    writer.write(Snapshot(name='n', socket='s', uuid=uuid4(), ports=ports, **now))\n"
        "    writer.event(0.0, 'attached', pid=number)\n"
        "    if number == 3: print(flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with StatusReader(path) as reader:
            epochs = [reader.snapshot().epoch for _ in range(50)]
            assert epochs == sorted(epochs)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            assert len(reader.snapshot().ports) == 64
            assert reader.events()


def test_damage_is_an_error_and_not_a_wrong_answer(path: Path) -> None:
    writer = StatusWriter(path, started=0.0, ports=1, events=1)
    writer.write(snapshot())
    with StatusReader(path) as reader, Path("/dev/shm" + writer.name).open("r+b") as raw:
        raw.seek(8192 + reader._layout.snapshot_bytes + 20)
        raw.write(b"\xff\xff")
        raw.flush()
        with pytest.raises(StatusError):
            reader.snapshot()
        raw.seek(0)
        raw.write(bytes(64))
    with pytest.raises(StatusError, match="another layout"):
        StatusReader(path)
    writer.close()


class NewerSnapshot(Snapshot, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """As a later version of layer8 has it."""

    news: str = ""


class NewerPort(PortStatus, frozen=True, gc=False, array_like=True):
    news: int = 0


def test_what_a_newer_vnet_says_more_is_passed_over(path: Path) -> None:
    port = NewerPort(uuid=uuid4(), alias="a", news=7)
    fields = {name: getattr(snapshot(), name) for name in Snapshot.__struct_fields__} | {"ports": (port,)}
    writer = StatusWriter(path, started=0.0, ports=1, events=1)
    writer.write(NewerSnapshot(**fields, news="unheard of"))
    with StatusReader(path) as reader:
        assert reader.snapshot().ports == (PortStatus(uuid=port.uuid, alias="a"),)
    writer.close()


def test_a_segment_of_another_version_says_which_command_reads_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(status, "STATUS_VERSION", status.STATUS_VERSION + 1)
        writer = StatusWriter(path, started=0.0, ports=1, events=1)
    with pytest.raises(StatusError, match=r"layout \(2, here 1\).* installed with the Vnet"):
        StatusReader(path)
    writer.close()
    writer = StatusWriter(path, started=0.0, ports=1, events=1)
    writer.write(msgspec.structs.replace(snapshot(), started="yesterday"))  # of another type
    with StatusReader(path) as reader, pytest.raises(StatusError, match=r"installed with the Vnet"):
        reader.snapshot()
    writer.close()


def test_a_segment_of_no_size_is_refused(path: Path) -> None:
    memory = posix_ipc.SharedMemory(status.status_name(path), posix_ipc.O_CREX, mode=0o600)
    memory.close_fd()
    with pytest.raises(StatusError, match="not complete"):
        StatusReader(path)


def test_reading_while_it_is_written_never_shows_a_mixture(path: Path) -> None:
    writer = StatusWriter(path, started=0.0, ports=16, events=4)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            writer.write(snapshot(epoch=number, ports=tuple(PortStatus(uuid4(), "", number) for _ in range(16))))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with StatusReader(path) as reader:
            seen = 0
            while seen < 200:
                try:
                    read = reader.snapshot()
                except StatusError:
                    continue
                assert {port.pid for port in read.ports} == {read.epoch}
                seen += 1
    finally:
        stop.set()
        thread.join()
        writer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to somebody else")
def test_a_segment_that_another_uid_made_beforehand_is_neither_believed_nor_kept(path: Path) -> None:
    trap = posix_ipc.SharedMemory(status.status_name(path), posix_ipc.O_CREX, mode=0o666, size=1 << 20)
    trap.close_fd()
    place = Path("/dev/shm" + status.status_name(path))
    os.chown(place, 12345, 12345)
    place.chmod(0o666)
    with pytest.raises(StatusError, match="belongs to uid 12345"):
        StatusReader(path)
    writer = StatusWriter(path, started=3.0, ports=1, events=1)
    assert (place.stat().st_uid, stat.S_IMODE(place.stat().st_mode)) == (0, 0o600)
    writer.close()
