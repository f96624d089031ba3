"""SECURITY.md names tests that exist, and settings that can be used."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from layer8.cli.security import COMMANDS
from layer8.security import policy
from layer8.vnet import config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.(?:py|c))::(\w+)`", TEXT)))


def test_it_names_tests() -> None:
    assert len(TESTS) > 40


@pytest.mark.parametrize(("file", "name"), TESTS, ids=[f"{Path(file).name}-{name}" for file, name in TESTS])
def test_a_test_that_it_names_exists(file: str, name: str) -> None:
    form = rf"^static void {name}\(" if file.endswith(".c") else rf"^(async )?def {name}\("
    assert re.search(form, (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {name}"


def test_every_promise_has_a_test() -> None:
    for title in ("## What is protected", "## Mistakes of others"):
        section = TEXT.partition(title)[2].partition("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("|")][2:]
        assert len(rows) > 10
        assert [row for row in rows if "`tests/" not in row.rsplit("|", 2)[1]] == []


def test_its_configuration_and_its_policy_can_be_used() -> None:
    (settings,) = re.findall(r"^```toml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    (vnet,) = config.parse(tomllib.loads(settings)).vnets
    assert vnet.security == "x509"
    (rules,) = re.findall(r"^```\n(\[\[allow.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert policy.parse(tomllib.loads(rules)).rules


def test_its_commands_are_there() -> None:
    assert set(re.findall(r"layer8 security (\w+)", TEXT)) <= set(COMMANDS)
