"""Terms on disk: whole or not there, and never lower than they were."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from layer8.vnet.terms import Term, Terms


def test_what_was_written_is_there_for_the_next_vnet(tmp_path: Path) -> None:
    terms = Terms(tmp_path / "default.terms")
    assert terms.load() == []
    first, second = Term(group="g", term=7, member=uuid4()), Term(group="h", term=1, member=uuid4())
    terms.write(first)
    terms.write(second)
    later = Term(group="g", term=8, member=uuid4())
    terms.write(later)
    assert sorted(Terms(tmp_path / "default.terms").load(), key=lambda term: term.group) == [later, second]
    assert stat.S_IMODE((tmp_path / "default.terms").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "default.terms").iterdir()} == {0o600}


def test_a_term_is_never_replaced_by_one_that_is_not_higher(tmp_path: Path) -> None:
    terms = Terms(tmp_path / "terms")
    terms.write(Term(group="g", term=7, member=uuid4()))
    for number in (7, 6):
        with pytest.raises(FileExistsError):
            terms.write(Term(group="g", term=number, member=uuid4()))


def test_a_directory_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "terms").mkdir()
    (tmp_path / "terms").chmod(0o777)
    with pytest.raises(PermissionError):
        Terms(tmp_path / "terms").write(Term(group="g", term=7, member=uuid4()))


def test_damage_is_a_warning_and_leaves_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    terms = Terms(tmp_path / "terms")
    kept = Term(group="h", term=1, member=uuid4())
    terms.write(kept)
    (tmp_path / "terms" / "damaged.term").write_bytes(b"{")
    assert terms.load() == [kept]
    assert "damaged.term" in caplog.text


def test_a_writer_killed_at_any_moment_leaves_a_whole_term_not_lower_than_told(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from uuid import UUID; from layer8.vnet.terms import *\n"
        "terms, number = Terms(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    number += 1\n"
        "    terms.write(Term(group='g', term=number, member=UUID(int=number)))\n"
        "    print(number, flush=True)\n"
    )
    directory = tmp_path / "terms"
    with subprocess.Popen([sys.executable, "-c", script, str(directory)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(50):
            told = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        told = max([told, *map(int, writer.stdout.read().split(b"\n")[:-1])])
    (term,) = Terms(directory).load()
    assert term.term in (told, told + 1)
