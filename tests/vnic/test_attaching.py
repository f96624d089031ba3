"""Attaching and ending: no Vnet, a Vnet that says no, limits, close, forgetting, fork, exit."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import socket
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from layer8 import Closed, Layer8Error, SecurityMismatch, Unreachable, VnetNotFound, Vnic
from layer8.rendezvous import own_socket
from layer8.security import LocalProvider
from layer8.testing import RunningVnet, running_vnet
from layer8.vnic.control import ControlClient

MakeVnic = Callable[..., Vnic]
Stopped = Callable[[int | None], AbstractContextManager[None]]


def test_without_a_vnet_the_error_lists_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(VnetNotFound) as caught:
        Vnic(vnet="not-running", attach_timeout=0.2)
    assert len(caught.value.tried) == 2
    assert str(own_socket("not-running")) in caught.value.tried[0]
    assert "no socket there" in caught.value.tried[0]
    assert "/run/layer8/not-running.sock" in str(caught.value)


def test_the_variable_is_the_only_place_when_it_is_set(vnet: RunningVnet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYER8_VNET", str(vnet.socket))
    with Vnic(vnet="something-else", attach_timeout=30.0) as vnic:
        assert vnic.state == "attached"
    monkeypatch.setenv("LAYER8_VNET", "/nowhere/x.sock")
    with pytest.raises(VnetNotFound) as caught:
        Vnic(vnet=str(vnet.socket), attach_timeout=0)
    assert len(caught.value.tried) == 1
    assert caught.value.tried[0].startswith("/nowhere/x.sock")


def test_a_socket_where_nobody_answers_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(VnetNotFound, match="did not answer in time"):
            Vnic(vnet=str(path), attach_timeout=0.3)
    with pytest.raises(VnetNotFound, match="refused"):
        Vnic(vnet=str(path), attach_timeout=0)


def test_a_server_that_talks_nonsense_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "nonsense.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" * 10)
                connection.recv(1000)

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(VnetNotFound, match="control protocol"):
            Vnic(vnet=str(path), attach_timeout=0)
        thread.join()


def test_another_security_provider_is_a_mismatch(vnet: RunningVnet) -> None:
    class Other(LocalProvider):
        def fingerprint(self) -> bytes:
            return b"another provider"

    with pytest.raises(SecurityMismatch) as caught:
        Vnic(vnet=str(vnet.socket), security=Other())
    assert caught.value.ours != caught.value.theirs


def test_attach_waits_for_a_vnet_that_is_about_to_start(own_vnet: RunningVnet) -> None:
    own_vnet.stop()
    vnics: list[Vnic] = []
    thread = threading.Thread(target=lambda: vnics.append(Vnic(vnet=str(own_vnet.socket), attach_timeout=60)))
    thread.start()
    own_vnet.restart()
    thread.join()
    vnics[0].close()


def test_over_a_limit_the_attach_is_refused_and_the_vnet_goes_on() -> None:
    with running_vnet(config={"ports_per_uid": 2}) as vnet:
        one, other = (
            Vnic(vnet=str(vnet.socket), attach_timeout=30.0),
            Vnic("other", vnet=str(vnet.socket), attach_timeout=30.0),
        )
        with pytest.raises(Layer8Error, match="limit"):
            Vnic(vnet=str(vnet.socket), attach_timeout=30.0)
        one.send("other", b"goes on")
        assert other.receive(30).payload == b"goes on"
        one.close()
        Vnic(vnet=str(vnet.socket), attach_timeout=10).close()
        other.close()


@pytest.mark.parametrize(
    ("limit", "value"), [(resource.RLIMIT_FSIZE, 4096), (resource.RLIMIT_NOFILE, None)], ids=["memory", "descriptors"]
)
def test_without_memory_or_descriptors_attach_says_so(make_vnic: MakeVnic, limit: int, value: int | None) -> None:
    make_vnic("still-there")
    before = resource.getrlimit(limit)
    if value is None:
        value = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        used = [os.open("/dev/null", os.O_RDONLY) for _ in range(value - len(os.listdir("/proc/self/fd")))]
    else:
        used = []
    resource.setrlimit(limit, (value, before[1]))
    try:
        with pytest.raises((Layer8Error, OSError)) as caught:
            make_vnic()
    finally:
        resource.setrlimit(limit, before)
        for fd in used:
            os.close(fd)
    assert isinstance(caught.value, Layer8Error)
    make_vnic().send("still-there", b"x")


def test_without_another_thread_attach_leaves_nothing(make_vnic: MakeVnic, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = make_vnic()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "layer8-threadless-keeper":
            raise RuntimeError("can't start new thread")
        start(thread)

    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            make_vnic("threadless")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    while watcher.health(alias="threadless", state="UP"):
        time.sleep(0.001)


def test_wrong_arguments_are_refused_before_anything_is_asked(vnet: RunningVnet) -> None:
    for arguments in (
        {"timeout": -1},
        {"attach_timeout": -1},
        {"ring_bytes": 1000},
        {"ring_bytes": 600 << 10},
        {"security": "nonsense"},
        {"vnet": "a b"},
        {"spin_us": -1},
    ):
        with pytest.raises(ValueError):
            Vnic(**{"vnet": str(vnet.socket), **arguments})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Vnic(5)  # type: ignore[arg-type]


def test_rings_of_another_size_and_spinning_are_possible(make_vnic: MakeVnic) -> None:
    small, large = make_vnic("small", ring_bytes=512 << 10, spin_us=20), make_vnic("large", ring_bytes=4 << 20)
    assert small.stats().port.receive_capacity == 512 << 10  # type: ignore[union-attr]
    assert large.stats().port.receive_capacity == 4 << 20  # type: ignore[union-attr]
    small.send("large", bytes(1 << 20))  # fits into its half ring
    assert len(large.receive(30).payload) == 1 << 20
    large.send("small", b"x")
    assert small.receive(30).payload == b"x"


def test_find_waits_until_somebody_is_there(make_vnic: MakeVnic) -> None:
    vnic = make_vnic("finder")
    assert vnic.find("finder").uuid == vnic.uuid
    assert vnic.find(vnic.uuid).alias == "finder"
    later: list[Vnic] = []
    timer = threading.Timer(0.2, lambda: later.append(make_vnic("later")))
    timer.start()
    found = vnic.find("later", timeout=30)
    timer.join()
    assert found.uuid == later[0].uuid
    for name in ("nobody", uuid.uuid4()):
        with pytest.raises(LookupError):
            vnic.find(name, timeout=0.05)


def test_health_lists_every_vnic_with_its_figures(make_vnic: MakeVnic) -> None:
    one, other = make_vnic("healthy"), make_vnic()
    one.send(other.uuid, b"four")
    assert other.receive(30).payload == b"four"
    records = {record.uuid: record for record in one.health()}
    mine = records[one.uuid]
    assert (mine.alias, mine.pid, mine.is_up) == ("healthy", os.getpid(), True)
    assert mine.create_time == pytest.approx(psutil.Process().create_time(), abs=0.1)
    assert (mine.messages_in, mine.bytes_in) == (1, 4)
    assert (records[other.uuid].messages_out, records[other.uuid].bytes_out) == (1, 4)
    assert [record.uuid for record in one.health(alias="healthy")] == [one.uuid]


def test_a_control_client_asks_without_being_a_vnic(vnet: RunningVnet, make_vnic: MakeVnic) -> None:
    vnic = make_vnic("watched")
    vnic.subscribe("watched.topic")
    with ControlClient(str(vnet.socket)) as client:
        assert client.find("watched").uuid == vnic.uuid
        assert [record.uuid for record in client.health(alias="watched")] == [vnic.uuid]
        assert dict(client.topics())["watched.topic"] == 1
        with pytest.raises(LookupError):
            client.find("not-there", timeout=0.05)
    client.close()
    with pytest.raises(Closed):
        client.health()


def test_a_control_client_says_when_the_vnet_is_gone(own_vnet: RunningVnet) -> None:
    with ControlClient(str(own_vnet.socket)) as client:
        own_vnet.kill()
        with pytest.raises(Unreachable):
            client.health()


def test_a_vnic_cannot_be_pickled(make_vnic: MakeVnic) -> None:
    with pytest.raises(TypeError, match="each process"):
        pickle.dumps(make_vnic())


def test_a_forgotten_vnic_warns_and_leaves(vnet: RunningVnet, make_vnic: MakeVnic) -> None:
    watcher = make_vnic()
    threads = threading.active_count()
    vnic = Vnic("forgotten", vnet=str(vnet.socket), attach_timeout=30.0)
    name = vnic.uuid
    with pytest.warns(ResourceWarning, match="unclosed <Vnic 'forgotten'"):
        del vnic
    deadline = time.monotonic() + 30
    while any(record.is_up for record in watcher.health(uuid=name)) or threading.active_count() > threads:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_hundred_vnics_one_after_the_other_leave_nothing(vnet: RunningVnet, make_vnic: MakeVnic) -> None:
    other = make_vnic("constant")
    assert vnet.pid is not None
    me, daemon = psutil.Process(), psutil.Process(vnet.pid)

    def once() -> None:
        with Vnic("passing", vnet=str(vnet.socket), attach_timeout=30.0) as vnic:
            vnic.subscribe("passing", lambda message: None)
            vnic.send("constant", bytes(100_000))
            assert vnic.request("constant", b"x", timeout=30).payload == b"x"
        while other.try_receive() is not None:
            pass

    other.serve(lambda request: request.payload)
    for _ in range(10):
        once()
    gc.collect()
    fds, threads, maps = me.num_fds(), me.num_threads(), len(me.memory_maps(grouped=False))
    daemon_fds = daemon.num_fds()
    shared = _shared_bytes()
    for _ in range(100):
        once()
    gc.collect()
    assert me.num_fds() == fds
    assert me.num_threads() == threads
    assert len(me.memory_maps(grouped=False)) <= maps + 5
    assert _shared_bytes() == shared
    deadline = time.monotonic() + 30
    while daemon.num_fds() > daemon_fds:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _shared_bytes() -> int:
    """Bytes of segments mapped by this process."""
    return sum(
        int(end, 16) - int(begin, 16)
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "memfd:" in line
        for begin, end in [line.split()[0].split("-")]
    )


def test_messages_kept_after_close_keep_no_memory_of_the_port(vnet: RunningVnet) -> None:
    before = _shared_bytes()
    with Vnic("keeper", vnet=str(vnet.socket), attach_timeout=30.0) as vnic:
        vnic.send("keeper", b"x")
        kept = vnic.receive(30)
    assert kept.payload == b"x"
    deadline = time.monotonic() + 10
    while _shared_bytes() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert kept.source == vnic.uuid
    with pytest.raises(Layer8Error):
        assert kept.principal


def test_a_child_made_by_fork_finds_the_vnic_closed_and_the_parent_goes_on(make_vnic: MakeVnic) -> None:
    parent, other = make_vnic("forking"), make_vnic("bystander")
    parent.subscribe("forked", lambda message: None)
    parent.send("bystander", b"before")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        outcome = b""
        try:
            calls: list[Callable[[], object]] = [
                lambda: parent.send("bystander", b"child"),
                lambda: parent.publish("forked", b"child"),
                lambda: parent.request("bystander", b"child"),
                parent.receive,
                parent.try_receive,
                parent.health,
                lambda: parent.subscribe("x"),
                lambda: next(iter(other)),
            ]
            for call in calls:
                try:
                    call()
                    outcome += b"0"
                except Closed:
                    outcome += b"1"
                except StopIteration:
                    outcome += b"1"
            parent.close()
            outcome += parent.state.encode()
            sockets = sum("socket" in os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors())
            outcome += str(sockets).encode()
        finally:
            os.write(write, outcome)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    assert said.startswith(b"11111111closed"), said
    assert [other.receive(30).payload for _ in range(1)] == [b"before"]
    parent.send("bystander", b"after")
    assert other.receive(30).payload == b"after"
    assert parent.state == "attached"


def _descriptors() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        found.append(int(name))
    return found


def test_a_child_may_make_a_vnic_of_its_own(vnet: RunningVnet, make_vnic: MakeVnic) -> None:
    parent = make_vnic("mother")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with Vnic(vnet=str(vnet.socket), attach_timeout=30.0) as own:
                own.send("mother", b"hello from the child")
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert parent.receive(30).payload == b"hello from the child"


@pytest.mark.parametrize("how", ["fall off the end", "sys.exit", "exception", "unclosed in a global", "in a handler"])
def test_a_program_that_ends_without_close_ends(vnet: RunningVnet, make_vnic: MakeVnic, how: str) -> None:
    receiver = make_vnic("last-words")
    ends = {
        "fall off the end": "",
        "sys.exit": "sys.exit(3)",
        "exception": "raise KeyError('on purpose')",
        "unclosed in a global": "keep = {'vnic': vnic, 'stream': vnic.stream('x')}",
        "in a handler": "vnic.subscribe('self', lambda m: time.sleep(60)); vnic.publish('self', b''); time.sleep(0.2)",
    }
    program = f"""
import sys, time
from layer8 import Vnic
vnic = Vnic(vnet={str(vnet.socket)!r}, attach_timeout=30.0)
vnic.send("last-words", b"arrives")
{ends[how]}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert done.returncode == {"sys.exit": 3, "exception": 1}.get(how, 0), done.stderr
    assert receiver.receive(30).payload == b"arrives"


def test_the_state_is_told(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    vnic = make_own("told")
    assert vnic.state == "attached"
    assert repr(vnic) == f"<Vnic 'told' {vnic.uuid} attached>"
    own_vnet.kill()
    deadline = time.monotonic() + 30
    while vnic.state != "away":
        assert time.monotonic() < deadline
    vnic.close()
    assert vnic.state == "closed"


def test_close_does_not_wait_for_a_vnet_that_stands_still(
    own_vnet: RunningVnet, make_own: MakeVnic, stopped: Stopped
) -> None:
    vnic = make_own()
    with stopped(own_vnet.pid):
        vnic.close(timeout=0.2)
    assert vnic.state == "closed"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del vnic
        gc.collect()
