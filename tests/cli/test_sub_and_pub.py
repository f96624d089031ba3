"""`layer8 pub` and `layer8 sub`, as two processes or one against a Vnic."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layer8 import Vnic

if TYPE_CHECKING:
    from tests.cli.conftest import Command

MakeVnic = Callable[..., Vnic]


def finish(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Status and output of one that ends by itself."""
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_what_is_published_is_printed_line_by_line(layer8: Command, name: str) -> None:
    with layer8.subscriber(name, "--count", "3") as subscriber:
        assert layer8("pub", name, "first").returncode == 0
        assert layer8("pub", name, "--lines", given="zweite\ndritte ü\n".encode()).returncode == 0
        assert finish(subscriber) == (0, "first\nzweite\ndritte ü\n".encode())


def test_several_topics_are_told_apart_with_v(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic()
    with layer8.subscriber(f"{name}a", f"{name}b", "-v", "--count", "2") as subscriber:
        vnic.publish(f"{name}a", b"one", headers={"unit": "m"})
        vnic.publish(f"{name}b", b"two")
        status, output = finish(subscriber)
    assert status == 0
    first, second = output.decode().splitlines()
    assert first.startswith(f"{name}a {vnic.uuid} ")
    assert first.endswith(" unit=m: one")
    assert second.startswith(f"{name}b {vnic.uuid} ")
    assert second.endswith(": two")


def test_control_characters_do_not_reach_the_terminal(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    with layer8.subscriber(name, "--count", "1") as subscriber:
        make_vnic().publish(name, b"\x1b]0;title\x07 and \xff")
        assert finish(subscriber) == (0, b"\\x1b]0;title\\x07 and \\xff\n")


def test_raw_leaves_every_byte_and_adds_none(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    payloads = [bytes(range(256)), b"", b"\n"]
    with layer8.subscriber(name, "--raw", "--count", "3") as subscriber:
        vnic = make_vnic()
        for payload in payloads:
            vnic.publish(name, payload)
        assert finish(subscriber) == (0, b"".join(payloads))


def test_nul_ends_each_message_with_0(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    with layer8.subscriber(name, "-0", "--count", "2") as subscriber:
        vnic = make_vnic()
        vnic.publish(name, b"two\nlines")
        vnic.publish(name, b"\x1b")
        assert finish(subscriber) == (0, b"two\nlines\0\x1b\0")


def test_json_has_every_field(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    with layer8.subscriber(name, "--json", "--count", "2") as subscriber:
        vnic = make_vnic()
        sequence = vnic.publish(name, b"text", headers={"k": "v"})
        vnic.publish(name, b"\xff\x00")
        status, output = finish(subscriber)
    assert status == 0
    first, second = map(json.loads, output.splitlines())
    assert first["topic"] == name
    assert first["source"] == str(vnic.uuid)
    assert (first["sequence"], first["bytes"], first["missed"]) == (sequence, 4, 0)
    assert (first["text"], first["headers"]) == ("text", {"k": "v"})
    assert base64.b64decode(second["base64"]) == b"\xff\x00"


def test_a_file_a_message_numbered_on(layer8: Command, make_vnic: MakeVnic, name: str, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "directory"
    vnic = make_vnic()
    for payloads in ([b"one", b"\x00two"], [b"three"]):
        with layer8.subscriber(name, "--output", str(directory), "--count", str(len(payloads))) as subscriber:
            for payload in payloads:
                vnic.publish(name, payload)
            assert finish(subscriber)[0] == 0
    contents = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert contents == {"000001": b"one", "000002": b"\x00two", "000003": b"three"}


def test_rate_counts_in_place_of_printing(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    with layer8.subscriber(name, "--rate", "--json", "--count", "500") as subscriber:
        vnic = make_vnic()
        for _ in range(500):
            vnic.publish(name, b"x" * 10, reliable=True)
        status, output = finish(subscriber)
    assert status == 0
    lines = [json.loads(line) for line in output.splitlines()]
    assert lines
    assert round(sum(line["messages_per_s"] * line["seconds"] for line in lines)) == 500


def test_a_topic_without_subscribers_is_no_error(layer8: Command, name: str) -> None:
    result = layer8("pub", name, "x")
    assert (result.returncode, result.stderr) == (0, b"")


def test_ctrl_c_ends_a_subscriber_with_130_and_no_traceback(layer8: Command, name: str) -> None:
    with layer8.subscriber(name) as subscriber:
        assert layer8.interrupt(subscriber) == 130
        assert subscriber.stderr is not None
        assert b"Traceback" not in subscriber.stderr.read()


def test_a_reader_that_goes_away_ends_the_subscriber_quietly(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    with layer8.subscriber(name) as subscriber:
        assert subscriber.stdout is not None
        assert subscriber.stderr is not None
        subscriber.stdout.close()
        vnic = make_vnic()
        while subscriber.poll() is None:
            vnic.publish(name, b"x" * 100, reliable=True)
        assert subscriber.returncode == 0
        assert subscriber.stderr.read() == b""


def test_silence_for_the_whole_timeout_is_status_4(layer8: Command, name: str) -> None:
    result = layer8("--timeout", "0.2", "sub", name)
    assert result.returncode == 4
    assert b"0.2 s" in result.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["x", "--count", "0"], ["x", "--raw", "--json"], ["x", "-0", "--raw"], ["layer8.x"]]
)
def test_wrong_usage_is_status_2(layer8: Command, arguments: list[str]) -> None:
    result = layer8("sub", *arguments)
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr
