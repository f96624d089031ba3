"""Alarms on a real Vnet: raised about real processes, told everywhere, by whoever takes it and whoever hangs."""

from __future__ import annotations

import http.server
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from layer8 import Layer8Error, Message, NotFound, Vnic
from layer8.protocol.control import ReadReport
from layer8.testing import RunningVnet, running_vnet
from layer8.vnet.status import StatusReader
from layer8.vnic.control import ControlClient

Run = Callable[..., Any]
PATIENCE = 60.0
OFTEN = {"look_interval": 0.1, "statistics_interval": 0.2, "suspect_after": 0.3}


class Hook(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted."""

    got: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    got: list[dict[str, Any]] = []
    handler = type("OneHook", (Hook,), {"got": got})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", got
        server.shutdown()
        thread.join()


def alarms(*tables: tuple[str, dict[str, object]], **more: object) -> dict[str, object]:
    return {**OFTEN, "alarms": {**dict(tables), **more}}


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def started(vnet: RunningVnet, run_on: Callable[..., Any]) -> tuple[Any, UUID]:
    patient = run_on(vnet, "patient", "patient")
    return patient, UUID(patient.wait_for("ready"))


def next_alarm(stream: Any, state: str, alarm: str) -> dict[str, Any]:
    while True:
        message: Message = stream.receive(PATIENCE)
        said: dict[str, Any] = json.loads(message.payload)
        if (said["state"], said["alarm"]) == (state, alarm):
            return said


def test_a_busy_process_raises_an_alarm_and_everybody_is_told(
    run_on: Callable[..., Any], hook: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    command = [sys.executable, "-c", f"import sys; open({str(told)!r}, 'a').write(sys.stdin.read() + chr(10))"]
    cpu = {"raise": 15, "clear": 8, "alias": "patient"}
    with running_vnet(config=alarms(("cpu", cpu), command=command, webhook=hook[0])) as vnet:
        patient, uuid = started(vnet, run_on)
        with Vnic(vnet=str(vnet.socket)) as observer, observer.stream("layer8.alarms") as stream:
            patient.tell("busy")
            said = next_alarm(stream, "raised", "cpu")
            assert (said["uuid"], said["alias"], said["pid"]) == (str(uuid), "patient", patient.pid)
            assert said["value"] >= 15
            until(lambda: observer.health(uuid=uuid)[0].alarms == ("cpu",), "the record says so")
            until(lambda: hook[1] and hook[1][0] == said, "the webhook is told")
            until(lambda: told.exists() and told.read_text().endswith("\n"), "the command is told")
            assert json.loads(told.read_text().splitlines()[0]) == said
            with StatusReader(vnet.socket) as reader:
                assert "alarm-raised" in [event.kind for event in reader.events()]
            assert "cpu raised: cpu of vnic patient" in vnet.log
            patient.tell("sane")
            next_alarm(stream, "cleared", "cpu")
            until(lambda: observer.health(uuid=uuid)[0].alarms == (), "the record says so")


def test_a_leak_and_a_ring_that_is_not_read_raise_alarms(run_on: Callable[..., Any]) -> None:
    config = alarms(
        ("memory_growth", {"raise": 10 << 20, "window": 1.0, "alias": "patient"}),
        ("fill", {"raise": 0.4, "clear": 0.2}),
    )
    with running_vnet(config=config) as vnet:
        patient, uuid = started(vnet, run_on)
        with Vnic(vnet=str(vnet.socket)) as observer, observer.stream("layer8.alarms") as stream:
            until(lambda: observer.health(uuid=uuid)[0].memory > 0, "looked at")
            growing = threading.Event()

            def grow() -> None:
                while not growing.wait(0.1):
                    patient.tell("leak 8")

            thread = threading.Thread(target=grow)
            thread.start()
            try:
                assert next_alarm(stream, "raised", "memory_growth")["uuid"] == str(uuid)
            finally:
                growing.set()
                thread.join()
            while observer.try_send(uuid, bytes(32 << 10)):
                pass
            assert next_alarm(stream, "raised", "fill")["uuid"] == str(uuid)
            patient.kill()
            assert next_alarm(stream, "cleared", "fill")["reason"] == "gone"


def test_a_webhook_and_a_command_that_hang_hold_nobody_up(run_on: Callable[..., Any], tmp_path: Path) -> None:
    mark = tmp_path / "runs"
    command = [sys.executable, "-c", f"open({str(mark)!r}, 'a').write('x'); import time; time.sleep(3600)"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        busy = {"raise": 15, "clear": 8, "alias": "patient"}
        with running_vnet(config=alarms(("cpu", busy), command=command, webhook=url, timeout=1.0)) as vnet:
            patient, _ = started(vnet, run_on)
            with Vnic(vnet=str(vnet.socket)) as observer, observer.stream("layer8.alarms") as stream:
                for _ in range(3):
                    patient.tell("busy")
                    next_alarm(stream, "raised", "cpu")
                    observer.health()
                    patient.tell("sane")
                    next_alarm(stream, "cleared", "cpu")
                until(lambda: "webhook of alarms was not told" in vnet.log, "it is said that nobody took it")
                until(lambda: "command of alarms took over" in vnet.log, "the command was ended")
                assert mark.read_text()


def test_only_the_vnet_speaks_on_its_topics(run_on: Callable[..., Any]) -> None:
    with running_vnet() as vnet, Vnic(vnet=str(vnet.socket)) as vnic:
        with pytest.raises(ValueError, match="reserved"):
            vnic.publish("layer8.alarms", b"{}")
        vnic.subscribe("layer8.alarms").close()


def test_nobody_can_send_to_the_vnets_own_voice(run_on: Callable[..., Any]) -> None:
    config = alarms(("memory", {"raise": 1}))
    with (
        running_vnet(config=config) as vnet,
        Vnic(vnet=str(vnet.socket)) as vnic,
        vnic.stream("layer8.alarms") as stream,
    ):
        message = stream.receive(PATIENCE)
        assert message.principal.startswith("layer8://local/vnet/")
        (own,) = vnic.health(kind="vnet")
        assert message.source == own.uuid
        with pytest.raises(NotFound):
            vnic.send(message.source, b"x")


def read_report(client: ControlClient, uuid: UUID, ask: str = "", number: int = 0) -> dict[str, Any]:
    done = client.request(ReadReport(id=0, uuid=uuid, ask=ask, number=number))
    report: dict[str, Any] = msgspec.json.decode(done.text)
    return report


def test_who_has_agreed_reports_its_stacks_and_its_memory(run_on: Callable[..., Any]) -> None:
    config = alarms(("cpu", {"raise": 15, "alias": "open"}))
    with running_vnet(config=config) as vnet, ControlClient(str(vnet.socket), timeout=30) as client:
        patient = run_on(vnet, "patient", "open")
        uuid = UUID(patient.wait_for("ready"))
        with pytest.raises(Layer8Error, match="has not agreed"):
            read_report(client, uuid, "stack")
        patient.tell("report")
        patient.wait_for("did report")
        with pytest.raises(LookupError):
            read_report(client, uuid)
        memory = read_report(client, uuid, "memory")
        assert (memory["kind"], memory["cause"], memory["uuid"]) == ("memory", "asked", str(uuid))
        assert "Objects that the collector knows" in memory["text"]
        patient.tell("busy")

        def reported() -> bool:
            report = read_report(client, uuid)
            return bool(report["kind"] == "stack" and report["cause"] == "cpu")

        until(reported, "the alarm asks for the stacks")
        report = read_report(client, uuid)
        assert "in turn" in report["text"]
        assert "patient.py" in report["text"]
        assert read_report(client, uuid, number=1)["kind"] == "memory"
        patient.tell("sane")
