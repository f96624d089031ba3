"""`layer8 send`, and the ways of giving a payload that `pub` and `request` share with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layer8 import Vnic

if TYPE_CHECKING:
    from tests.cli.conftest import Command

MakeVnic = Callable[..., Vnic]


def test_text_arrives_as_it_stands(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)
    result = layer8("send", name, "grüße  to\tyou")
    assert (result.returncode, result.stderr) == (0, b"")
    assert vnic.receive(timeout=10).payload == "grüße  to\tyou".encode()


def test_a_uuid_is_one_vnic(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnics = [make_vnic(name), make_vnic(name)]
    assert layer8("send", str(vnics[1].uuid), "you").returncode == 0
    assert vnics[1].receive(timeout=10).payload == b"you"
    assert vnics[0].try_receive() is None


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_stdin_is_read_to_its_end(layer8: Command, make_vnic: MakeVnic, name: str, arguments: list[str]) -> None:
    vnic = make_vnic(name)
    assert layer8("send", name, *arguments, given=b"\x00\xff\nall of it\n").returncode == 0
    assert vnic.receive(timeout=10).payload == b"\x00\xff\nall of it\n"


def test_a_file_is_sent_whole(layer8: Command, make_vnic: MakeVnic, name: str, tmp_path: Path) -> None:
    vnic = make_vnic(name)
    content = bytes(range(256)) * 1024
    (tmp_path / "file").write_bytes(content)
    assert layer8("send", name, "--file", str(tmp_path / "file")).returncode == 0
    assert vnic.receive(timeout=10).payload == content


def test_every_line_is_a_message_in_order(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)
    result = layer8("send", name, "--lines", given=b"one\n\ntwo \r\nlast without newline")
    assert result.returncode == 0
    assert b"4 messages" in result.stdout
    received = [vnic.receive(timeout=10).payload for _ in range(4)]
    assert received == [b"one", b"", b"two \r", b"last without newline"]


def test_headers_arrive(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)
    assert layer8("send", name, "x", "-H", "kind=text", "-H", "equation=a=b").returncode == 0
    assert dict(vnic.receive(timeout=10).headers) == {"kind": "text", "equation": "a=b"}


def test_json_tells_each_message(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    make_vnic(name)
    result = layer8("--json", "send", name, "--lines", given=b"one\nthree\n")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["to"], line["bytes"]) for line in lines] == [(name, 3), (name, 5)]
    assert lines[0]["sequence"] < lines[1]["sequence"]


def test_quiet_prints_nothing(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    make_vnic(name)
    result = layer8("-q", "send", name, "x")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_nobody_there_is_status_3_and_one_line(layer8: Command, name: str) -> None:
    result = layer8("send", name, "x")
    assert result.returncode == 3
    assert result.stdout == b""
    assert name.encode() in result.stderr
    assert result.stderr.count(b"\n") == 1


def test_no_vnet_is_status_3_and_says_where_it_looked(layer8: Command) -> None:
    result = layer8("--vnet", "default", "send", "somebody", "x", environ={"LAYER8_VNET": "/nowhere/at-all.sock"})
    assert result.returncode == 3
    assert b"/nowhere/at-all.sock" in result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["name", "text", "--file", __file__],
        ["name", "--file", "/nowhere/at-all"],
        ["name", "x", "-H", "no equals sign"],
        ["name", "x", "-H", "=no key"],
        ["name", "text", "more text"],
        ["layer8.reserved", "x"],
        ["", "x"],
    ],
)
def test_wrong_usage_is_status_2(layer8: Command, arguments: list[str]) -> None:
    result = layer8("send", *arguments)
    assert result.returncode == 2
    assert result.stderr
    assert b"Traceback" not in result.stderr


def test_text_that_begins_with_a_dash_follows_two_dashes(layer8: Command, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)
    assert layer8("send", name, "--", "-5").returncode == 0
    assert vnic.receive(timeout=10).payload == b"-5"
