"""`--json` everywhere: every command takes it, and says its result in lines of JSON."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest

from layer8 import Vnic
from layer8.cli import main as cli

MakeVnic = Callable[..., Vnic]
Fields = Callable[..., dict[str, Any]]


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_every_command_takes_the_global_options() -> None:
    commands = dict(_commands(cli.layer8))
    assert {"vnet", "wait", "security join", "security audit verify"} < set(commands)
    for name, command in commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--vnet", "-q"} <= options, name
        assert "--timeout" in options or name.startswith("security audit"), name


@pytest.fixture
def fields(capfdbinary: pytest.CaptureFixture[bytes], make_vnic: MakeVnic) -> Fields:
    """Runs a command here: the one line that it prints."""

    def run(*arguments: str) -> dict[str, Any]:
        status = cli.main([*arguments, "--json"])
        out, err = capfdbinary.readouterr()
        assert status == 0, err
        (line,) = out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    return run


def test_pub_tells_what_it_published(fields: Fields, name: str) -> None:
    assert fields("pub", name, "five!") == {"topic": name, "sequence": 1, "bytes": 5}


def test_wait_tells_whom_it_waited_for(fields: Fields, make_vnic: MakeVnic, name: str) -> None:
    vnic = make_vnic(name)
    found = fields("wait", name)
    assert (found["uuid"], found["alias"], found["state"]) == (str(vnic.uuid), name, "UP")


def test_reply_tells_whom_it_answered(fields: Fields, make_vnic: MakeVnic, name: str) -> None:
    client = make_vnic()
    answers: list[bytes] = []

    def ask() -> None:
        client.find(name, timeout=30.0)
        answers.append(client.request(name, b"hello", timeout=30.0).payload)

    asking = threading.Thread(target=ask)
    asking.start()
    assert fields("reply", name, "--echo", "--count", "1") == {"from": str(client.uuid), "bytes": 5, "failed": None}
    asking.join()
    assert answers == [b"hello"]


def test_a_probe_tells_how_long_the_answer_took(fields: Fields) -> None:
    found = fields("vnet", "--probe")
    assert found["vnet"] == "default"
    assert found["seconds"] > 0
