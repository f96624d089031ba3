"""What the overlay sees of processes that die, stop, go mad or get stuck: real ones, and records of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from layer8 import Backpressure, HealthRecord, State, Vnic
from layer8.testing import RunningVnet, running_vnet

Run = Callable[..., Any]
MakeVnic = Callable[..., Vnic]
PATIENCE = 60.0  # a watchdog, not an expectation


@pytest.fixture
def vnet() -> Iterator[RunningVnet]:
    """One that looks often."""
    with running_vnet(config={"look_interval": 0.1, "statistics_interval": 0.3, "suspect_after": 0.5}) as running:
        yield running


def until(vnic: Vnic, uuid: UUID, fits: Callable[[HealthRecord], bool]) -> HealthRecord:
    """The record, once it fits."""
    deadline = time.monotonic() + PATIENCE
    while True:
        (record,) = vnic.health(uuid=uuid)
        if fits(record):
            return record
        assert time.monotonic() < deadline, record
        time.sleep(0.02)


def fill(sender: Vnic, to: UUID) -> None:
    """Sends until it takes no more."""
    with contextlib.suppress(Backpressure):
        while True:
            sender.send(to, bytes(32 << 10), timeout=0.2)


def is_state(state: State) -> Callable[[HealthRecord], bool]:
    return lambda record: record.state is state


def start(run: Run, name: str = "patient") -> tuple[Any, UUID]:
    patient = run("patient", name)
    return patient, UUID(patient.wait_for("ready"))


def test_a_record_says_everything(run: Run, make_vnic: MakeVnic, vnet: RunningVnet) -> None:
    observer = make_vnic("observer")
    patient, uuid = start(run)
    observer.send(uuid, b"12345")
    record = until(observer, uuid, lambda record: record.messages_out == 1 and record.memory > 0)
    assert (record.alias, record.kind, record.state, record.reason) == ("patient", "vnic", State.UP, "")
    assert record.pid == patient.pid
    assert record.host == os.uname().nodename
    assert record.vnet == "default"
    assert record.principal
    assert "patient.py" in record.program
    assert record.threads >= 2
    assert record.open_files >= 3
    assert 0 < record.fill < 1
    assert record.create_time <= record.started <= record.heard
    assert record.since == record.started
    (own,) = observer.health(kind="vnet")
    assert (own.pid, own.state, own.started > 0, own.memory > 0) == (vnet.pid, State.UP, True, True)


def test_who_is_killed_is_down_and_says_by_what(run: Run, make_vnic: MakeVnic) -> None:
    observer = make_vnic()
    patient, uuid = start(run)
    os.kill(patient.pid, signal.SIGKILL)
    record = until(observer, uuid, is_state(State.DOWN))
    assert record.reason == "killed by signal 9 (SIGKILL)"
    assert record.since >= record.started


def test_who_exits_without_a_word_is_down_with_its_status(run: Run, make_vnic: MakeVnic) -> None:
    observer = make_vnic()
    patient, uuid = start(run)
    patient.tell("exit 7")
    assert until(observer, uuid, is_state(State.DOWN)).reason == "exited with status 7"


def test_a_zombie_is_dead(run: Run, make_vnic: MakeVnic) -> None:
    """It is reaped at the end of the test only."""
    observer = make_vnic()
    patient, uuid = start(run)
    os.kill(patient.pid, signal.SIGTERM)
    os.waitid(os.P_PID, patient.pid, os.WEXITED | os.WNOWAIT)
    assert until(observer, uuid, is_state(State.DOWN)).reason == "killed by signal 15 (SIGTERM)"


def test_who_leaves_in_order_is_down_as_detached(make_vnic: MakeVnic) -> None:
    observer, leaver = make_vnic(), make_vnic("leaver")
    leaver.close()
    assert until(observer, leaver.uuid, is_state(State.DOWN)).reason == "detached"


def test_a_stopped_process_is_stopped_until_it_goes_on(run: Run, make_vnic: MakeVnic) -> None:
    observer = make_vnic()
    patient, uuid = start(run)
    before = time.time()
    with patient.stopped():
        record = until(observer, uuid, is_state(State.STOPPED))
        assert record.reason == "stopped"
        assert record.since >= before
        assert record.started < before
        assert observer.health(state="STOPPED", alias="patient") != ()
    assert until(observer, uuid, is_state(State.UP)).reason == ""


def test_who_does_not_read_is_suspect_until_it_reads(run: Run, make_vnic: MakeVnic) -> None:
    observer = make_vnic()
    patient, uuid = start(run)
    fill(observer, uuid)
    record = until(observer, uuid, is_state(State.SUSPECT))
    assert "does not read" in record.reason
    assert record.fill >= 0.4
    patient.tell("read")
    assert until(observer, uuid, is_state(State.UP)).fill < 0.5


def test_a_busy_loop_shows_and_is_no_illness(run: Run, make_vnic: MakeVnic) -> None:
    observer = make_vnic()
    patient, uuid = start(run)
    patient.tell("busy")
    assert until(observer, uuid, lambda record: record.cpu > 10).state is State.UP
    patient.tell("sane")


def test_a_leak_shows(run: Run, make_vnic: MakeVnic) -> None:
    observer = make_vnic()
    patient, uuid = start(run)
    before = until(observer, uuid, lambda record: record.memory > 0).memory
    patient.tell("leak 64")
    until(observer, uuid, lambda record: record.memory >= before + (60 << 20))


def test_the_record_of_who_is_gone_goes_after_a_while(make_vnic: MakeVnic) -> None:
    with running_vnet(config={"keep_down": 0.2}) as forgetful:
        observer, leaver = make_vnic(vnet=str(forgetful.socket)), make_vnic(vnet=str(forgetful.socket))
        leaver.close()
        deadline = time.monotonic() + PATIENCE
        while observer.health(uuid=leaver.uuid):
            assert time.monotonic() < deadline, "it is still there"
            time.sleep(0.02)
        observer.close()
        leaver.close()
