"""`layer8 request` and `layer8 reply`, and the small commands beside them: `topics`, `wait`, `health`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layer8 import NotFound, Request, Vnic

if TYPE_CHECKING:
    from tests.cli.conftest import Command

MakeVnic = Callable[..., Vnic]

PATIENCE = 60.0  # a watchdog, not an expectation


@contextmanager
def answering(layer8: Command, alias: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`layer8 reply`, when it has its alias."""
    with layer8.started("reply", alias, *arguments) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith(b"answering as"), line + process.stderr.read()
        yield process


def has(vnic: Vnic, alias: str) -> bool:
    try:
        vnic.find(alias)
    except NotFound:
        return False
    return True


def test_an_echo_replies_with_every_byte(layer8: Command, name: str) -> None:
    with answering(layer8, name, "--echo"):
        result = layer8("request", name, given=b"\x00\xff\n")
        assert (result.returncode, result.stdout) == (0, b"\x00\xff\n")
        lines = layer8("request", name, "--lines", given=b"one\ntwo\n")
        assert lines.stdout == b"one\ntwo\n"


def test_a_program_answers_and_its_failure_is_a_failed_reply(layer8: Command, name: str) -> None:
    code = "import sys; text = sys.stdin.read(); print(text.upper(), end=str()); sys.exit(text == str(1))"
    program = f"{sys.executable} -c '{code}'"
    with answering(layer8, name, "--command", program):
        assert layer8("request", name, "yes").stdout == b"YES"
        result = layer8("request", name, "1")
        assert (result.returncode, result.stdout) == (1, b"")
        assert b"status 1" in result.stderr


def test_sigterm_lets_it_answer_what_has_come(layer8: Command, make_vnic: MakeVnic, name: str, tmp_path: Path) -> None:
    opened, program = tmp_path / "opened", tmp_path / "program"
    program.write_text(f"until test -e {opened}; do sleep 0.01; done; cat")
    vnic = make_vnic()
    with ThreadPoolExecutor() as threads, answering(layer8, name, "--command", f"sh {program}") as process:
        replies = [threads.submit(vnic.request, name, payload, timeout=None) for payload in (b"one", b"two")]
        while (port := vnic.stats().port) is None or port.sent_messages < 2 or port.transmit_fill:
            time.sleep(0.001)
        process.terminate()
        while has(vnic, name):
            time.sleep(0.001)
        opened.touch()
        assert sorted(reply.result(PATIENCE).payload for reply in replies) == [b"one", b"two"]
        assert process.wait(PATIENCE) == 0


def test_a_request_nobody_answers_is_status_4(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    make_vnic(name)
    assert layer8("--timeout", "0.3", "request", name, "x").returncode == 4


def test_a_request_to_nobody_is_status_3(layer8: Command, name: str) -> None:
    assert layer8("request", name, "x").returncode == 3


def test_request_speaks_json(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)

    def answer() -> None:
        message = vnic.receive(timeout=30)
        assert isinstance(message, Request)
        message.reply(b"you said " + message.payload)

    thread = threading.Thread(target=answer)
    thread.start()
    result = layer8("--json", "request", name, "x")
    thread.join()
    reply = json.loads(result.stdout)
    assert (reply["text"], reply["from"]) == ("you said x", str(vnic.uuid))


@pytest.mark.parametrize("arguments", [["x"], ["x", "--echo", "--command", "cat"], ["x", "--command", ""]])
def test_reply_wants_one_way_to_answer(layer8: Command, arguments: list[str]) -> None:
    assert layer8("reply", *arguments).returncode == 2


def test_topics_lists_subscribers(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    with make_vnic().subscribe(name), make_vnic().subscribe(name):
        topics = [json.loads(line) for line in layer8("--json", "topics").stdout.splitlines()]
        assert {"topic": name, "subscribers": 2} in topics
        assert f"{name} ".encode() in layer8("topics").stdout


def test_wait_ends_when_somebody_comes(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    with layer8.started("wait", name) as process:
        vnic = make_vnic(name)
        output, _ = process.communicate(timeout=60)
        assert (process.returncode, output.decode().strip()) == (0, str(vnic.uuid))


def test_wait_in_vain_is_status_4(layer8: Command, name: str) -> None:
    assert layer8("--timeout", "0.2", "wait", name).returncode == 4


def test_health_shows_every_field(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)
    result = layer8("--json", "health", "--alias", name)
    assert result.returncode == 0
    record = json.loads(result.stdout)
    assert (record["uuid"], record["state"]) == (str(vnic.uuid), "UP")
    text = layer8("health", "--alias", name).stdout.decode()
    for field in ("uuid", "create_time", "memory", "fill"):
        assert field in text
