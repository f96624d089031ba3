"""The process: how it starts, who it refuses, what it leaves, and how it ends."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from layer8.protocol.control import Attached, Find, Grant, Health, Ping, Refused, Stopping, Subscribe
from layer8.testing import RunningVnet, running_vnet
from layer8.vnet.status import StatusError, StatusReader, status_name

Connect = Callable[..., Any]
Until = Callable[[Callable[[], object], str], None]
Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runtime directory with a path short enough for a socket."""
    return tmp_path_factory.mktemp("r")


@pytest.fixture
def command(runtime: Path) -> Iterator[Command]:
    """`layer8 ...` as a person would call it; stopped at the end."""
    children: list[subprocess.Popen[str]] = []

    def command(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "layer8.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
            **options,
        )
        children.append(child)
        return child

    yield command
    for child in children:
        child.terminate()
        child.communicate(timeout=60)


def until_ready(child: subprocess.Popen[str]) -> list[str]:
    """What it printed up to and with `ready`."""
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line.strip())
        if lines[-1] == "ready":
            return lines
    raise AssertionError(f"it ended: {lines}, {child.stderr.read() if child.stderr else ''}")


def left_in(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir())


# ── start ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_says_where_it_listens_and_when_it_is_ready(command: Command, runtime: Path, connect: Connect) -> None:
    child = command("vnet", "--name", "shop")
    path = runtime / "layer8" / "shop.sock"
    assert until_ready(child) == [f"Vnet shop (pid {child.pid}) listens at {path}", "ready"]
    assert isinstance(connect(path).attach(), Attached)


def test_json_says_the_same(command: Command, runtime: Path) -> None:
    child = command("--json", "vnet")
    assert child.stdout is not None
    said = json.loads(child.stdout.readline())
    assert said == {"vnet": "default", "socket": str(runtime / "layer8" / "default.sock"), "pid": child.pid}


def test_a_second_start_is_refused_in_one_line(command: Command, runtime: Path, connect: Connect) -> None:
    first = command("vnet")
    until_ready(first)
    second = command("vnet")
    _, complaint = second.communicate(timeout=60)
    assert second.returncode == 1
    assert re.fullmatch(rf"layer8: Vnet 'default' runs already \(process {first.pid}, at \S+\).*\n", complaint)
    assert isinstance(connect(runtime / "layer8" / "default.sock").attach(), Attached)


def test_another_name_runs_beside_it(command: Command) -> None:
    for name in ("a", "b"):
        until_ready(command("vnet", "--name", name))


def test_a_crash_is_taken_over_without_cleaning(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    raw.attach()
    vnet.kill()
    assert raw.ends()
    assert vnet.socket.exists()
    with StatusReader(vnet.socket) as reader:
        crashed = reader.pid
    vnet.restart()
    assert isinstance(connect(vnet).attach(uuid=raw.uuid), Attached)
    with StatusReader(vnet.socket) as reader:
        assert reader.snapshot().pid == reader.pid == vnet.pid != crashed


def test_a_name_that_cannot_be_is_wrong_usage(command: Command) -> None:
    child = command("vnet", "--name", "../x")
    _, complaint = child.communicate(timeout=60)
    assert child.returncode == 2
    assert "../x" in complaint


def test_a_key_that_is_not_known_is_one_line(command: Command, runtime: Path) -> None:
    path = runtime / "vnet.toml"
    path.write_text("[vnet.default]\ncolour = 'red'\n")
    child = command("vnet", "--config", str(path))
    _, complaint = child.communicate(timeout=60)
    assert child.returncode == 1
    assert complaint.count("\n") == 1
    assert "colour" in complaint


def test_a_provider_that_is_not_there_is_one_line(command: Command, runtime: Path) -> None:
    path = runtime / "vnet.toml"
    path.write_text("[vnet.default]\nsecurity = 'no.such:thing'\n")
    child = command("vnet", "--config", str(path))
    _, complaint = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "no.such:thing" in complaint
    assert left_in(runtime) == ["vnet.toml"]


# ── several ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_daemon_runs_several_vnets_that_do_not_know_each_other(
    command: Command, runtime: Path, connect: Connect
) -> None:
    config = runtime / "vnet.toml"
    config.write_text(f"[vnet.a]\nports_per_uid = 1\n[vnet.b]\nsocket = '{runtime}/layer8/elsewhere.sock'\n")
    child = command("vnet", "--config", str(config))
    lines = until_ready(child)
    assert [line.split()[1] for line in lines[:-1]] == ["a", "b"]
    a, b = connect(runtime / "layer8" / "a.sock"), connect(runtime / "layer8" / "elsewhere.sock")
    assert isinstance(a.attach(alias="only-here"), Attached)
    assert isinstance(b.attach(), Attached)
    assert b.ask(Find, to="only-here", is_uuid=False).code == "not-found"
    assert connect(runtime / "layer8" / "a.sock").attach().code == "limit"
    assert isinstance(connect(runtime / "layer8" / "elsewhere.sock").attach(), Attached)
    child.terminate()
    assert child.wait(60) == 0
    left = left_in(runtime)  # one entry for each Vnic that lives, for the next Vnet
    assert [os.path.dirname(name) for name in left] == ["layer8/a.state", *["layer8/elsewhere.state"] * 2, ""]


def test_one_of_several_may_be_chosen(command: Command, runtime: Path) -> None:
    config = runtime / "vnet.toml"
    config.write_text("[vnet.a]\n[vnet.b]\n")
    assert until_ready(command("vnet", "--config", str(config), "--name", "b"))[0].startswith("Vnet b ")


def test_when_one_of_several_cannot_start_none_runs(command: Command, runtime: Path) -> None:
    config = runtime / "vnet.toml"
    config.write_text("[vnet.a]\n[vnet.b]\n")
    until_ready(command("vnet", "--name", "b"))
    child = command("vnet", "--config", str(config))
    _, complaint = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "'b' runs already" in complaint
    assert left_in(runtime) == ["layer8/b.lock", "layer8/b.sock", "vnet.toml"]


# ── stop ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(command: Command, runtime: Path, connect: Connect, number: int) -> None:
    child = command("vnet")
    until_ready(child)
    path = runtime / "layer8" / "default.sock"
    attached, observer, stranger = connect(path), connect(path), connect(path)
    attached.attach()
    observer.attach(observer=True)
    child.send_signal(number)
    assert attached.expect(Stopping).grace == 5.0
    observer.expect(Stopping)
    assert attached.ends()
    assert observer.ends()
    assert stranger.ends()
    assert child.wait(60) == 0
    assert [Path(name).parent.name for name in left_in(runtime)] == ["default.state"]  # it lives, and may come back
    with pytest.raises(StatusError):
        StatusReader(path)
    assert not Path("/dev/shm" + status_name(path)).exists()


def stuck_pair(vnet: RunningVnet, connect: Connect) -> tuple[Any, Any, int]:
    """A sender and a receiver that has not read what was sent; some of it is still held for it. How many were sent."""
    sender, receiver = connect(vnet), connect(vnet)
    sender.attach()
    receiver.attach(alias="slow")
    sender.ask(Grant, slot=0, generation=1, kind="alias", name="slow")
    receiver.ask(Subscribe, topic="t", number=0)
    sender.ask(Grant, slot=1, generation=1, kind="topic", name="t", action="publish")
    count = 0
    while True:
        if sender.port.publish(1 | 1 << 16, bytes(4096), 4096, 1) > 0:  # reliable: held in place of dropped
            count += 1
        elif sender.port.wait_room(1, 8192, 0.2) != 1:
            break
    return sender, receiver, count


def test_what_was_accepted_is_delivered_before_it_stops(vnet: RunningVnet, connect: Connect, until: Until) -> None:
    _, receiver, count = stuck_pair(vnet, connect)
    assert vnet.pid is not None
    os.kill(vnet.pid, signal.SIGTERM)
    receiver.expect(Stopping)
    arrived = 0
    while arrived < count:
        assert receiver.port.wait_arrived(30.0) == 1
        arrived += receiver.port.receive(256, 0)
    until(lambda: vnet.pid is None, "it ended by itself")
    assert "has stopped" in vnet.log
    assert "still on their way" not in vnet.log


def test_the_grace_is_bounded(make_vnet: Callable[..., RunningVnet], connect: Connect) -> None:
    vnet = make_vnet(grace=0.1)
    stuck_pair(vnet, connect)
    assert vnet.stop() == 0
    assert "still on their way" in vnet.log


def test_a_second_signal_stops_it_at_once(make_vnet: Callable[..., RunningVnet], connect: Connect) -> None:
    vnet = make_vnet(grace=3600.0)
    _, receiver, _ = stuck_pair(vnet, connect)
    assert vnet.pid is not None
    os.kill(vnet.pid, signal.SIGTERM)
    receiver.expect(Stopping)
    assert vnet.stop() == 0


def test_nobody_attaches_to_a_vnet_that_stops(make_vnet: Callable[..., RunningVnet], connect: Connect) -> None:
    vnet = make_vnet(grace=3600.0)
    under_way = connect(vnet)
    attach = under_way.proof()
    sender, _, _ = stuck_pair(vnet, connect)
    assert vnet.pid is not None
    os.kill(vnet.pid, signal.SIGTERM)
    sender.expect(Stopping)
    assert under_way.expect(Refused).code == "stopping"
    assert attach
    with pytest.raises(OSError):
        connect(vnet)
    assert sender.ask(Grant, slot=9, generation=1, kind="topic", name="t", action="publish").code == "stopping"
    assert sender.ask(Ping)


# ── want ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_out_of_descriptors_is_a_clear_error_and_it_goes_on(
    command: Command, runtime: Path, connect: Connect, until: Until
) -> None:
    child = command("vnet", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)))
    until_ready(child)
    path = runtime / "layer8" / "default.sock"
    first = connect(path)
    assert isinstance(first.attach(), Attached)
    attached = []
    while True:
        raw = connect(path)
        answer = raw.try_attach()
        if isinstance(answer, Refused):
            break
        attached.append(raw)
    assert answer.code == "limit"
    assert "descriptors" in answer.text or "Too many open files" in answer.text
    assert first.ask(Ping)
    assert 3 <= len(attached) <= 12
    for raw in attached:
        raw.close()
    until(lambda: isinstance(connect(path).try_attach(), Attached), "there is room again")
    assert first.ask(Health).records


def test_silent_connections_give_way_when_descriptors_run_out(
    command: Command, runtime: Path, connect: Connect
) -> None:
    child = command("vnet", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)))
    until_ready(child)
    path = runtime / "layer8" / "default.sock"
    silent = [connect(path) for _ in range(100)]
    assert isinstance(connect(path).try_attach(), Attached)
    assert silent


def test_a_full_shm_costs_the_status_and_nothing_else(
    command: Command, runtime: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = command("vnet", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)))
    until_ready(child)
    path = runtime / "layer8" / "default.sock"
    assert isinstance(connect(path).attach(), Attached)
    with pytest.raises(StatusError):
        StatusReader(path)
    child.terminate()
    _, log = child.communicate(timeout=60)
    assert "has no status segment" in log


# ── the status segment ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_status_is_read_without_asking_and_after_a_crash(
    make_vnet: Callable[..., RunningVnet], connect: Connect, until: Until
) -> None:
    vnet = make_vnet(status_interval=0.1)
    raw = connect(vnet)
    raw.attach(alias="worker")
    with StatusReader(vnet.socket) as reader:
        until(lambda: reader.snapshot().ports, "the port was shown")
        (port,) = reader.snapshot().ports
        assert (port.uuid, port.alias, port.pid) == (raw.uuid, "worker", os.getpid())
        raw.close()
        until(lambda: reader.events()[-1].kind == "gone", "the end was shown")
        assert [event.kind for event in reader.events()] == ["started", "attached", "gone"]
        vnet.kill()
        assert reader.snapshot().state == "running"  # its last word
    with StatusReader(vnet.socket) as reader:  # nobody runs
        assert [event.kind for event in reader.events()] == ["started", "attached", "gone"]
        assert reader.events()[1].uuid == raw.uuid


def test_a_vnet_ends_with_whoever_asked_for_it(tmp_path: Path, until: Until) -> None:
    script = (
        "import sys; from layer8.testing import running_vnet\n"
        "vnet = running_vnet(); print(vnet.pid, vnet.directory, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().split()
        parent.kill()
    until(lambda: not Path(f"/proc/{pid}").exists() and not Path(directory).exists(), "nothing was left")


def test_two_at_once_run_apart(connect: Connect) -> None:
    with running_vnet() as one, running_vnet() as two:
        assert one.socket != two.socket
        assert "cryptography" not in Path(f"/proc/{one.pid}/maps").read_text()  # a quarter of a start
        assert isinstance(connect(one).attach(), Attached)
        assert isinstance(connect(two).attach(), Attached)
