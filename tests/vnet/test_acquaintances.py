"""What a Vnet remembers of itself and of others over its own death."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from layer8.vnet.acquaintances import Acquaintances


def test_a_vnet_that_died_is_the_same_one_again_and_awaits_whom_it_knew(tmp_path: Path) -> None:
    path = tmp_path / "default.links"
    first = Acquaintances.load(path)
    one, two = uuid4(), uuid4()
    first.add(one)
    first.add(two)
    first.remove(one)
    again = Acquaintances.load(path)
    assert (again.vnet, again.awaited) == (first.vnet, frozenset({two}))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_life_that_ends_before_they_are_back_leaves_them_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "default.links"
    one, two = uuid4(), uuid4()
    Acquaintances.load(path).add(one)
    short = Acquaintances.load(path)
    short.write()
    short.add(two)
    longer = Acquaintances.load(path)
    assert longer.awaited == {one, two}
    longer.await_no_longer()
    assert Acquaintances.load(path).awaited == frozenset()


def test_one_that_ended_with_nobody_attached_begins_as_somebody_new(tmp_path: Path) -> None:
    path = tmp_path / "default.links"
    first = Acquaintances.load(path)
    first.write()
    first.close(forget=True)
    assert not path.exists()
    assert Acquaintances.load(path).vnet != first.vnet


@pytest.mark.parametrize("content", [b"", b"{", b'{"vnet": 3}', b"\xff"])
def test_a_file_that_cannot_be_read_is_no_obstacle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "default.links"
    path.write_bytes(content)
    assert Acquaintances.load(path).awaited == frozenset()
