"""`layer8 ps` and `layer8 ping`: what they see is what is there."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

import pytest

from layer8 import Vnic
from layer8.testing import running_vnet
from layer8.version import VERSION

from .conftest import PATIENCE, Command

MakeVnic = Callable[..., Vnic]


def test_ps_lists_a_vnic_with_its_process(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)
    result = layer8("ps")
    assert (result.returncode, result.stderr) == (0, b"")
    header, *rows = result.stdout.decode().splitlines()
    assert header.split()[:5] == ["ALIAS", "UUID", "KIND", "PID", "STATE"]
    row = next(row.split() for row in rows if name in row)
    assert row[:5] == [name, str(vnic.uuid), "vnic", str(os.getpid()), "UP"]
    at = header.index("VERSION")
    assert {row[at:].split()[0] for row in rows} == {VERSION}  # of the Vnet's too


def test_ps_speaks_json(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)
    records = [json.loads(line) for line in layer8("ps", "--json").stdout.splitlines()]
    mine = next(record for record in records if record["uuid"] == str(vnic.uuid))
    assert mine["alias"] == name
    assert mine["pid"] == os.getpid()
    assert mine["state"] == "UP"
    assert mine["messages_in"] == 0  # fields that are 0 are there too


def test_ps_forgets_who_has_closed(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    make_vnic(name).close()
    assert all(
        json.loads(line)["state"] != "UP" for line in layer8("ps", "--json").stdout.splitlines() if name in str(line)
    )


def test_ps_and_the_log_show_who_is_not_back_yet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "layer8.vnic")
    with running_vnet() as vnet, Vnic("late", vnet=str(vnet.socket), attach_timeout=PATIENCE) as vnic:
        sleeper = subprocess.Popen(
            [sys.executable, "-c", "import layer8; vnic = layer8.Vnic('asleep'); print(flush=True); vnic.receive()"],
            stdout=subprocess.PIPE,
            env=vnet.environ,
        )
        try:
            assert sleeper.stdout is not None and sleeper.stdout.readline()
            sleeper.send_signal(signal.SIGSTOP)
            vnet.kill()
            while vnic.state != "away":
                time.sleep(0.002)
            vnet.restart()
            lines = Command(vnet.environ)("ps", "--json").stdout.splitlines()
            (record,) = (record for record in map(json.loads, lines) if record["alias"] == "asleep")
            assert (record["state"], record["reason"]) == ("UNREACHABLE", "not back yet")
        finally:
            sleeper.kill()
            sleeper.communicate()
        while vnic.state != "attached":
            time.sleep(0.002)
    assert "has lost its Vnet" in caplog.text


def test_ps_without_a_vnet_is_status_3(layer8: Command) -> None:
    assert layer8("ps", environ={"LAYER8_VNET": "/nowhere/at-all.sock"}).returncode == 3


def test_ping_reaches_the_vnet(layer8: Command) -> None:
    result = layer8("ping", "--count", "3", "--interval", "0")
    assert (result.returncode, result.stderr) == (0, b"")
    assert len(result.stdout.splitlines()) == 3


def test_ping_finds_an_alias_and_a_uuid(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)
    for to in (name, str(vnic.uuid)):
        result = layer8("--json", "ping", to)
        assert result.returncode == 0
        answer = json.loads(result.stdout)
        assert (answer["uuid"], answer["alias"], answer["state"]) == (str(vnic.uuid), name, "UP")
        assert answer["seconds"] > 0


def test_ping_nobody_is_status_3(layer8: Command, name: str) -> None:
    for to in (name, str(uuid.uuid4())):
        result = layer8("ping", to)
        assert (result.returncode, result.stdout) == (3, b"")
        assert to.encode() in result.stderr
