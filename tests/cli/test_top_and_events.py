"""`layer8 top`, `events` and `health`: also of a Vnet that stands still, and of one that has crashed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from layer8 import Vnic
from layer8.testing import RunningVnet, running_vnet
from layer8.version import VERSION

if TYPE_CHECKING:
    from tests.cli.conftest import Command

MakeVnic = Callable[..., Vnic]
PATIENCE = 60.0


@pytest.fixture
def own_vnet() -> Iterator[RunningVnet]:
    with running_vnet(config={"status_interval": 0.1, "look_interval": 0.1}) as running:
        yield running


@contextmanager
def standing_still(pid: int | None) -> Iterator[None]:
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        while any(
            (task / "stat").read_text().rpartition(")")[2].split()[0] != "T"
            for task in Path(f"/proc/{pid}/task").iterdir()
        ):
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def frames(result: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_top_shows_who_does_how_much(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)
    with layer8.started("top", "--json", "--interval", "0.3", "--alias", name) as top:
        assert top.stdout is not None
        deadline = time.monotonic() + PATIENCE
        rate = 0.0
        while not rate:
            for _ in range(20):
                vnic.send(name, b"x")
                vnic.receive(30)
            frame = json.loads(top.stdout.readline())
            assert frame["source"] == "directory"
            (record,) = frame["records"]
            assert (record["uuid"], record["state"]) == (str(vnic.uuid), "UP")
            rate = frame["rates"].get(str(vnic.uuid), [0])[0]
            assert time.monotonic() < deadline
    text = layer8("top", "--count", "1").stdout.decode()
    assert name in text
    assert "FILL%" in text
    assert f"layer8 {VERSION}" in text


def test_top_ends_with_ctrl_c_and_without_a_vnet_at_once(layer8: Command) -> None:
    with layer8.started("top", "--interval", "0.2") as top:
        assert top.stdout is not None
        top.stdout.readline()
        assert layer8.interrupt(top) == 130
    result = layer8("top", environ={"LAYER8_VNET": "/nowhere/at-all.sock"})
    assert (result.returncode, result.stdout) == (3, b"")


def test_top_goes_on_from_the_status_segment_while_the_vnet_stands_still(
    layer8: Command, own_vnet: RunningVnet
) -> None:
    with Vnic("seen", vnet=str(own_vnet.socket)) as vnic:
        environ = own_vnet.environ
        with layer8.started_with(environ, "top", "--json", "--interval", "0.2") as top:
            assert top.stdout is not None
            assert json.loads(top.stdout.readline())["source"] == "directory"
            time.sleep(0.3)
            with standing_still(own_vnet.pid):
                frame = json.loads(top.stdout.readline())
                deadline = time.monotonic() + PATIENCE
                while frame["source"] != "status segment":
                    assert time.monotonic() < deadline
                    frame = json.loads(top.stdout.readline())
                assert frame["vnet"] == "stopped"
                assert str(vnic.uuid) in [record["uuid"] for record in frame["records"]]
                once = layer8("top", "--count", "1", environ=environ)
                assert b"does not answer (stopped)" in once.stdout
                assert f"layer8 {VERSION}".encode() in once.stdout
                assert {record["version"] for record in frame["records"]} == {VERSION}
            while frame["source"] != "directory":
                frame = json.loads(top.stdout.readline())


def test_events_tell_what_happened_also_after_a_crash(layer8: Command, own_vnet: RunningVnet) -> None:
    vnic = Vnic("brief", vnet=str(own_vnet.socket))
    vnic.close()
    environ = own_vnet.environ
    events = frames(layer8("events", "--json", environ=environ))
    assert [event["kind"] for event in events if event["alias"] == "brief"] == ["attached", "detached"]
    own_vnet.kill()
    result = layer8("events", "--kind", "attached", environ=environ)
    assert result.returncode == 0
    assert b"is gone; these are its last events" in result.stderr
    assert b"brief" in result.stdout
    assert b"detached" not in result.stdout
    assert layer8("events", "-n", "1", environ=environ).stdout.count(b"\n") == 1
    top = layer8("top", "--count", "1", environ=environ)
    assert b"does not answer (gone)" in top.stdout


def test_events_go_on(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    make_vnic(name)
    with layer8.started("events", "--follow", "--json") as events:
        assert events.stdout is not None
        while json.loads(events.stdout.readline())["alias"] != name:
            pass  # what happened before comes first
        make_vnic(f"{name}late")
        while (event := json.loads(events.stdout.readline()))["alias"] != f"{name}late":
            pass
        assert event["kind"] == "attached"


def test_changes_of_state_and_alarms_are_events(layer8: Command, own_vnet: RunningVnet) -> None:
    code = "from layer8 import Vnic; vnic = Vnic('sleeper'); print('ready', flush=True); input()"
    environ = own_vnet.environ
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as sleeper:
        assert sleeper.stdout is not None
        sleeper.stdout.readline()
        with standing_still(sleeper.pid):
            deadline = time.monotonic() + PATIENCE
            while not frames(layer8("events", "--json", "--kind", "stopped", environ=environ)):
                assert time.monotonic() < deadline
        sleeper.kill()


def test_whoever_may_not_read_the_segment_is_told_so(layer8: Command, own_vnet: RunningVnet) -> None:
    code = (
        "import os, sys\n"
        "from layer8.vnet.status import StatusError, StatusReader\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: StatusReader(sys.argv[1])\n"
        "except StatusError as error: print(error)\n"
    )
    if os.geteuid() != 0:
        from layer8.vnet.status import status_name

        Path("/dev/shm" + status_name(own_vnet.socket)).chmod(0)
    command = [sys.executable, "-c", code, str(own_vnet.socket)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "may not read it: only the Vnet's own user may" in said.stdout, said.stderr


def test_health_of_one_by_uuid_and_alias(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic, _ = make_vnic(name), make_vnic()
    for who in (name, str(vnic.uuid)):
        (record,) = frames(layer8("health", who, "--json"))
        assert record["uuid"] == str(vnic.uuid)
    assert layer8("health", "nobody-of-that-name").returncode == 3
    assert layer8("health", "a", "b").returncode == 2


def test_health_follows_changes(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    with layer8.started("health", "--follow", "--json", "--alias", name) as health:
        assert health.stdout is not None
        vnic = make_vnic(name)
        event = json.loads(health.stdout.readline())
        assert (event["kind"], event["record"]["uuid"]) == ("joined", str(vnic.uuid))
        vnic.close()
        event = json.loads(health.stdout.readline())
        assert (event["kind"], event["record"]["reason"]) == ("left", "detached")


def test_health_report_shows_what_a_vnic_says_of_itself(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)
    refused = layer8("health", "report", name, "--ask", "stack")
    assert refused.returncode == 1
    assert b"has not agreed" in refused.stderr
    vnic.allow_reports()
    assert b"no report" in layer8("health", "report", name).stderr
    stack = layer8("health", "report", name, "--ask", "stack")
    assert stack.returncode == 0, stack.stderr
    assert b"stack of" in stack.stdout
    assert b"test_top_and_events.py" in stack.stdout
    assert json.loads(layer8("health", "report", str(vnic.uuid), "--json").stdout)["kind"] == "stack"
