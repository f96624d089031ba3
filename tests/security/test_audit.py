"""The audit log: what stands in it, and that nothing can be changed in it without showing."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer8.security.audit import AuditError, AuditLog, Folding, Head, head_of, verify
from layer8.security.provider import Action, AuditEvent, Resource, ResourceKind

KEY = b"k" * 32


def sign(data: bytes) -> bytes:
    return hmac.digest(KEY, data, "sha256")


def check(data: bytes, signature: bytes) -> bool:
    return hmac.compare_digest(sign(data), signature)


def event(number: int = 0, **fields: object) -> AuditEvent:
    return AuditEvent(**{"time": 1000.0 + number, "what": "grant", "principal": f"p{number}"} | fields)  # type: ignore[arg-type]


def refusal(time: float, reason: str = "no rule") -> AuditEvent:
    topic = Resource(kind=ResourceKind.TOPIC, name="t")
    return AuditEvent(
        time=time, what="refuse", principal="p", action=Action.SEND, resource=topic, allowed=False, reason=reason
    )


def written(path: Path, count: int, **options: object) -> Path:
    log = AuditLog(path, seal=sign, **options)  # type: ignore[arg-type]
    for number in range(count):
        log.append(event(number))
        if "max_bytes" in options:
            assert log.flush()
    log.close()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_every_event_is_a_line_with_the_hash_of_the_one_before(path: Path) -> None:
    written(path, 3)
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [1, 2, 3]
    assert json.loads(lines[0])["prev"] == "0" * 64
    assert json.loads(lines[2])["prev"] == hashlib.sha256(lines[1]).hexdigest()
    assert json.loads(lines[1])["principal"] == "p1"
    assert path.stat().st_mode & 0o777 == 0o600
    report = verify(path, check)
    assert (report.ok, report.lines, report.first, report.last, report.sealed) == (True, 3, 1, 3, 3)


def test_it_goes_on_where_it_ended(path: Path) -> None:
    written(path, 2)
    written(path, 2)
    report = verify(path, check)
    assert (report.ok, report.last) == (True, 4)


def test_the_chain_runs_through_the_files_of_a_rotation(path: Path) -> None:
    written(path, 30, max_bytes=600)
    assert len(list(path.parent.glob("audit.jsonl.*[0-9]"))) > 2
    report = verify(path, check)
    assert (report.ok, report.first, report.last) == (True, 1, 30)
    written(path, 1)
    assert verify(path, check).last == 31


def test_only_so_many_files_are_kept_and_the_rest_still_verifies(path: Path) -> None:
    written(path, 60, max_bytes=600, keep=2)
    assert len(list(path.parent.glob("audit.jsonl.*[0-9]"))) == 2
    report = verify(path, check)
    assert report.ok
    assert report.first > 1
    assert report.last == 60


Change = Callable[[list[bytes]], object]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines.__setitem__(3, lines[3].replace(b"p3", b"p9")), "was changed"),
        (lambda lines: lines.pop(3), "removed"),
        (lambda lines: lines.insert(3, lines[3]), "removed, added or exchanged"),
        (lambda lines: lines.__setitem__(slice(3, 5), [lines[4], lines[3]]), "exchanged"),
        (lambda lines: lines.pop(), "the end was cut"),
        (lambda lines: lines.__setitem__(9, lines[9].replace(b"p9", b"p1")), "not the one that was sealed"),
        (lambda lines: lines.__setitem__(3, b"nonsense"), "not a line"),
        (lambda lines: lines.__setitem__(3, b""), "not a line"),
        (lambda lines: lines.clear(), "the end was cut"),
    ],
    ids=["edited", "removed", "doubled", "exchanged", "end cut", "last edited", "nonsense", "emptied", "all gone"],
)
def test_what_was_changed_shows(path: Path, change: Change, said: str) -> None:
    written(path, 10)
    lines = path.read_bytes().splitlines()
    change(lines)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    report = verify(path, check)
    assert not report.ok
    assert any(said in str(finding) for finding in report.findings), report.findings


def test_a_chain_made_anew_does_not_fit_its_seal(path: Path) -> None:
    written(path, 10)
    seal = head_of(path).read_bytes()
    path.unlink()
    forged = AuditLog(path)  # whoever writes this has no key
    for number in range(10):
        forged.append(event(number, principal="innocent"))
    forged.close()
    assert any("not signed" in str(finding) for finding in verify(path, check).findings)
    head_of(path).write_bytes(seal)
    assert any("not the one that was sealed" in str(finding) for finding in verify(path, check).findings)


def test_a_seal_taken_away_shows_and_a_published_one_finds_an_older_log(path: Path) -> None:
    published: list[Head] = []
    log = AuditLog(path, seal=sign, publish=published.append)
    log.append(event())
    log.close()
    old, old_seal = path.read_bytes(), head_of(path).read_bytes()
    log = AuditLog(path, seal=sign, publish=published.append)
    log.append(event(1))
    log.close()
    assert [head.count for head in published] == [1, 2]
    path.write_bytes(old)
    head_of(path).write_bytes(old_seal)  # both set back: only what was published elsewhere tells
    assert verify(path, check).ok
    assert not verify(path, check, known=published[-1]).ok
    head_of(path).unlink()
    assert any("no seal" in str(finding) for finding in verify(path, check).findings)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_single_byte_can_be_changed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    global _sample
    if _sample is None:
        _sample = written(tmp_path_factory.mktemp("audit") / "audit.jsonl", 8)
        assert verify(_sample, check).ok
    content = _sample.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
    try:
        _sample.write_bytes(content[:at] + bytes([other]) + content[at + 1 :])
        assert not verify(_sample, check).ok
    finally:
        _sample.write_bytes(content)


_sample: Path | None = None


def test_equal_refusals_are_folded() -> None:
    folding = Folding(60.0)
    said = [one for time in range(10) for one in folding.add(refusal(float(time)))]
    assert said == [refusal(0.0)]
    assert list(folding.add(refusal(5.0, "another")))
    assert list(folding.due(59.0)) == []
    (folded,) = folding.due(60.0)
    assert (folded.count, folded.time, folded.reason) == (9, 0.0, "no rule")
    assert list(folding.add(refusal(70.0)))
    assert list(folding.due(float("inf"))) == []  # nothing was counted


def test_what_was_allowed_is_never_folded() -> None:
    folding = Folding()
    assert len([one for _ in range(5) for one in folding.add(event())]) == 5


def test_a_flood_of_kinds_of_refusals_is_bounded() -> None:
    folding = Folding()
    for number in range(10_000):
        assert list(folding.add(refusal(1.0, f"reason {number}")))
    assert len(folding._open) <= 4096


def test_folded_refusals_are_written_at_the_end(path: Path) -> None:
    log = AuditLog(path, seal=sign)
    for _ in range(1000):
        log.append(refusal(time.time()))  # the log compares it with the clock
    log.close()
    counts = [json.loads(line).get("count", 1) for line in path.read_bytes().splitlines()]
    assert counts == [1, 999]


def test_a_line_cut_in_the_middle_by_a_crash_is_taken_away_and_said(path: Path) -> None:
    written(path, 3)
    with path.open("ab") as file:
        file.write(b'{"n":4,"prev"')
    written(path, 1)
    report = verify(path, check)
    assert (report.ok, report.last) == (True, 5)
    assert b'"what":"torn"' in path.read_bytes()


def test_one_process_writes_a_log(path: Path) -> None:
    log = AuditLog(path)
    try:
        with pytest.raises(AuditError, match="another process"):
            AuditLog(path)
    finally:
        log.close()
    AuditLog(path).close()


def test_a_long_word_of_a_stranger_is_cut(path: Path) -> None:
    log = AuditLog(path)
    log.append(event(principal="x" * 100_000, reason="y" * 100_000))
    log.close()
    assert len(path.read_bytes()) < 4096


def test_a_disk_that_takes_nothing_loses_events_and_says_how_many(path: Path) -> None:
    """In a process of its own, whose files may have 4 KiB."""
    script = f"""
import resource, signal
from pathlib import Path
from layer8.security.audit import AuditLog
from layer8.security.provider import AuditEvent
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AuditLog(Path({str(path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for number in range(100):
    log.append(AuditEvent(time=1.0, what="grant", principal=f"p{{number}}"))
    log.flush()
assert log.lost > 0, log.lost
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append(AuditEvent(time=2.0, what="grant", principal="after"))
log.close()
"""
    ran = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    report = verify(path)
    assert report.ok, report.findings
    text = path.read_text()
    assert '"what":"lost"' in text
    assert '"principal":"after"' in text


def test_verifying_nothing_is_an_error(path: Path) -> None:
    with pytest.raises(AuditError, match="no log"):
        verify(path)
