"""The command's frame: global options, lazy commands, exit statuses."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import click
import pytest

from layer8 import errors
from layer8.cli import main as cli
from layer8.cli.context import Settings, pass_settings

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `layer8 ...` with one command, `probe`, that calls the given function with its settings."""

    def run(body: Callable[[Settings], object], *arguments: str) -> int:
        @click.command()
        @pass_settings
        def command(settings: Settings) -> object:
            return body(settings)

        module = types.ModuleType("layer8.cli.probe")
        module.command = command  # type: ignore[attr-defined]
        module.__spec__ = importlib.util.spec_from_loader("layer8.cli.probe", None)
        monkeypatch.setitem(sys.modules, "layer8.cli.probe", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", "Only here.")
        return cli.main(arguments)

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("--vnet", "other", "--timeout", "2", "--json", "-q", "probe"),
        ("probe", "--vnet", "other", "--timeout", "2", "--json", "-q"),
        ("--vnet", "first", "--timeout", "9", "probe", "--vnet", "other", "--timeout", "2", "--json", "--quiet"),
    ],
)
def test_global_options_may_stand_before_or_after_the_command(run: Run, arguments: tuple[str, ...]) -> None:
    seen: list[Settings] = []
    assert run(seen.append, *arguments) == 0
    assert seen == [Settings(vnet="other", timeout=2.0, json=True, quiet=True)]


def test_a_timeout_that_was_not_given_is_the_commands_own(run: Run) -> None:
    seen: list[float] = []
    run(lambda settings: seen.append(settings.seconds(7.0)), "probe")
    run(lambda settings: seen.append(settings.seconds(7.0)), "probe", "--timeout", "0")
    assert seen == [7.0, 0.0]


@pytest.mark.parametrize("timeout", ["-1", "nan", "inf", "soon"])
def test_a_timeout_that_is_no_duration_is_wrong_usage(run: Run, timeout: str) -> None:
    assert run(lambda settings: None, "probe", "--timeout", timeout) == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.VnetNotFound(("/run/x: no such file",)), 3),
        (errors.NotFound("worker"), 3),
        (errors.Unreachable(uuid4(), "gone"), 3),
        (errors.Backpressure("worker", 5.0), 4),
        (errors.RequestTimeout("worker", 5.0), 4),
        (TimeoutError("late"), 4),
        (errors.RequestFailed("no"), 1),
        (errors.NotAuthorized("me", "send", "you"), 1),
        (errors.MessageTooLarge(2, 1), 1),
        (OSError("disk full"), 1),
        (RuntimeError("a bug"), 1),
        (ValueError("no such topic"), 2),
        (click.UsageError("no"), 2),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
    ],
)
def test_every_error_has_its_exit_status(error: BaseException, status: int) -> None:
    assert cli.exit_status(error) == status


def test_an_error_is_one_line_on_stderr(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def body(settings: Settings) -> None:
        raise errors.RequestFailed("the disk is full")

    assert run(body, "probe") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "layer8: the request failed: the disk is full\n"


def test_a_command_may_return_its_status(run: Run) -> None:
    assert run(lambda settings: 3, "probe") == 3


def test_ctrl_c_ends_quietly_with_130(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def body(settings: Settings) -> None:
        raise KeyboardInterrupt

    assert run(body, "probe") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["no-such-command"]) == 2
    assert "no-such-command" in capsys.readouterr().err


def test_help_and_version_load_no_command() -> None:
    script = (
        "import sys; from layer8.cli.main import main; main(['--help']); main(['--version']);"
        "print(sorted(m for m in sys.modules if m.startswith('layer8.cli.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "vnet" in done.stdout and "layer8 " in done.stdout
    assert done.stderr.strip() == "['layer8.cli.context', 'layer8.cli.main']"


def test_a_reader_that_goes_away_is_no_failure() -> None:
    script = (
        "import sys, click, types, importlib.util; from layer8.cli import main as cli\n"
        "module = types.ModuleType('layer8.cli.probe'); sys.modules['layer8.cli.probe'] = module\n"
        "module.__spec__ = importlib.util.spec_from_loader('layer8.cli.probe', None); cli.COMMANDS['probe'] = ''\n"
        "@click.command()\n"
        "def command():\n"
        "    while True: click.echo('x' * 1000)\n"
        "module.command = command\n"
        "sys.exit(cli.main(['probe']))\n"
    )
    read, write = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    os.read(read, 10)
    os.close(read)
    _, complaint = child.communicate(timeout=60)
    assert (child.returncode, complaint) == (0, b"")


_COMPLETE = r"""
eval "$(_LAYER8_COMPLETE=bash_source layer8)"
[[ $(complete -p layer8) =~ -F\ ([^ ]+) ]]
for line in "layer8 hea" "layer8 --json sub --ra"; do
    COMP_WORDS=($line) COMPREPLY=()
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    "${BASH_REMATCH[1]}" layer8
    echo "${COMPREPLY[@]}"
done
"""


def test_bash_completes_commands_and_options_as_the_readme_says() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = subprocess.run(
        ["bash", "--norc", "-c", _COMPLETE],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (shell.stdout.splitlines(), shell.stderr) == (["health", "--raw --rate"], "")


def test_an_unknown_command_that_is_nearly_one_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["snd"]) == 2
    assert "Did you mean 'send'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (errors.NotFound("worker"), {"error": "NotFound", "status": 3, "to": "worker"}),
        (errors.MessageTooLarge(2, 1), {"error": "MessageTooLarge", "status": 1, "size": 2, "limit": 1}),
        (errors.RequestFailed("no", b"\xff"), {"error": "RequestFailed", "status": 1, "payload": "\\xff"}),
        (errors.VnetNotFound(("/x: gone",)), {"error": "VnetNotFound", "status": 3, "tried": ["/x: gone"]}),
        (errors.Backpressure("worker", None), {"error": "Backpressure", "status": 4, "timeout": None}),
        (OSError(28, "disk full"), {"error": "OSError", "status": 1}),
        (click.UsageError("not so"), {"error": "UsageError", "status": 2, "message": "not so"}),
    ],
)
def test_with_json_an_error_is_json_too(
    run: Run, capsys: pytest.CaptureFixture[str], error: Exception, fields: dict[str, object]
) -> None:
    def body(settings: Settings) -> None:
        raise error

    assert run(body, "probe", "--json") == fields["status"]
    captured = capsys.readouterr()
    assert captured.out == ""
    told = json.loads(captured.err)
    assert told["message"]
    assert {name: told.get(name) for name in fields} == fields


def test_with_json_arguments_that_cannot_be_read_are_json_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda settings: None, "probe", "--timeout", "soon", "--json") == 2
    assert json.loads(capsys.readouterr().err)["status"] == 2


def test_a_name_in_an_error_does_not_steer_the_terminal(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def body(settings: Settings) -> None:
        raise errors.NotFound("a\x1b[2Jb")

    assert run(body, "probe") == 3
    assert "a\\x1b[2Jb was not found" in capsys.readouterr().err


def test_closed_standard_streams_are_nowhere() -> None:
    line = f"exec {sys.executable} -m layer8.cli --version <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], timeout=60, check=False).returncode == 0


def test_what_the_encoding_of_stdout_does_not_have_is_spelled_out() -> None:
    script = "from layer8.cli import main; main._prepare_streams(); print('grün')"
    environ = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environ, timeout=60, check=True)
    assert done.stdout == b"gr\\xfcn\n"
