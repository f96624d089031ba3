"""The second job of the demo: which files are sent, where they are stored, and that a difference shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from layer8.demo import library
from layer8.demo.show import Outcome


def test_every_source_file_is_found_and_nothing_else(tmp_path: Path) -> None:
    for name in (
        "a.py",
        "package/b.py",
        "package/deep/c.py",
        "a.txt",
        "site-packages/x.py",
        "package/__pycache__/b.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [name for name, _ in library.source_files(tmp_path)] == ["a.py", "package/b.py", "package/deep/c.py"]


def test_the_standard_library_is_there() -> None:
    names = {name for name, _ in library.source_files(library.source_directory())}
    assert {"os.py", "json/__init__.py", "asyncio/base_events.py"} <= names
    assert len(names) > 500


@pytest.mark.parametrize("name", ["../outside.py", "/etc/outside.py", "a/../../outside.py", ""])
def test_a_name_that_leads_out_of_the_store_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="store"):
        library.place(tmp_path, name)


def test_digests_differ_when_one_byte_does(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for directory in (one, other):
        directory.mkdir()
        (directory / "same.py").write_bytes(b"same")
        (directory / "changed.py").write_bytes(b"content")
    assert library.digests(one) == library.digests(other)
    (other / "changed.py").write_bytes(b"c0ntent")
    (other / "extra.py").write_bytes(b"")
    assert library.differences(library.digests(one), library.digests(other)) == ["changed.py", "extra.py"]


def outcome_of(*pairs: tuple[object, object]) -> Outcome:
    outcome = Outcome()
    for expected, found in pairs:
        outcome.check("something", expected, found)
    return outcome


def test_one_failed_check_fails_the_demo() -> None:
    assert outcome_of(("a", "a"), (1, 1)).ok
    assert not outcome_of(("a", "a"), ("a", "b"), (1, 1)).ok
    assert not outcome_of().ok, "a demo that compared nothing has shown nothing"
