"""ARCHITECTURE.md speaks of what is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
ROOMS = re.search(r"^## Rooms\n(.*?)^## ", TEXT, re.DOTALL | re.MULTILINE)


def test_every_room_of_the_package_is_in_it() -> None:
    assert ROOMS is not None
    packages = {path.parent.name for path in (ROOT / "layer8").glob("*/__init__.py")}
    assert packages
    assert [name for name in packages if f"{name}/" not in ROOMS[1]] == []


def test_every_file_it_names_in_a_room_exists() -> None:
    assert ROOMS is not None
    for row in re.findall(r"^\|(.*)\|$", ROOMS[1], re.MULTILINE):
        cells = row.split("|")
        if len(cells) != 4 or "---" in row:
            continue
        for cell, room in ((cells[0], "vnic"), (cells[2], "vnet")):
            for name in re.findall(r"`([\w.]+\.py)`", cell):
                assert (ROOT / "layer8" / room / name).is_file(), f"{room}/{name}"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for dependency in project["dependencies"]:
        assert re.split("[<>=]", dependency)[0] in TEXT
