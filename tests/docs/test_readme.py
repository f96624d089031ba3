"""The README's Python blocks run, one after the other in one process, as a reader would type them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from layer8.cli.main import COMMANDS
from layer8.testing import running_vnet
from layer8.vnet import config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_it_opens_with_the_two_commands_and_five_lines_of_python() -> None:
    shell, python = re.findall(r"^```\w+\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[:2]
    assert [line.split()[0] for line in shell.splitlines()] == ["scripts/demo", "scripts/test"]
    assert len([line for line in python.splitlines() if line.strip()]) == 5


def test_the_first_block_is_the_hello_example() -> None:
    example = (ROOT / "examples" / "hello.py").read_text()
    assert BLOCKS[0].strip() == example.split('"""')[2].strip()


def test_every_python_block_runs(tmp_path: Path) -> None:
    program = tmp_path / "readme.py"
    program.write_text("\n".join(BLOCKS))
    with running_vnet() as vnet:
        result = subprocess.run(
            [sys.executable, program],
            capture_output=True,
            text=True,
            env=vnet.environ,
            timeout=100,
            check=False,
        )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("hello, world\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_described(command: str) -> None:
    assert f"`layer8 {command}" in README


def test_the_configuration_can_be_used() -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        assert config.parse(tomllib.loads(block)).vnets


def test_the_limits_are_those_of_the_code() -> None:
    defaults = config.VnetConfig()
    for setting in ("max_message_bytes", "max_requests_per_port", "max_ports", "ports_per_uid"):
        row = next(line for line in README.splitlines() if line.startswith("|") and f"`{setting}`" in line)
        value = getattr(defaults, setting)
        assert f"{value:,}" in row or f"{value >> 20} MiB" in row
