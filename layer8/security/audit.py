"""The audit log: JSON lines, each with the hash of the one before, so that nothing can be changed without showing.

    audit.jsonl       {"n":7,"prev":"3f…","time":…,"what":"refuse","principal":…,"action":…,"resource":…,…}
    audit.jsonl.1 …   older ones, the highest number the latest; the chain runs through all of them
    audit.head        how far the log had come at the last seal: {"n":7,"hash":"a0…","time":…,"signature":"…"}

`prev` is SHA-256 of the line before, without its end of line; the first line of all has zeros. So an edited, removed or
inserted line, and a changed order, break the chain. A cut end does not: that is what the seals are for. Every minute,
and at the end, count and hash are signed (`seal`, a hook), written to audit.head, and given to `publish`, for a place
that whoever could cut the log cannot reach. Whoever can write the log and has no key can rewrite it all, but
not so that it fits a seal. Lines after the last seal can be cut without a trace: a minute's worth.

Equal refusals are folded: the first is a line at once, those that follow within a minute are one line with a count.
Fields are what AuditEvent has, and nothing else: no payload, no proof, no secret ever comes here.

`AuditLog.append` never waits: one thread writes. When more comes than it can write, events are lost, which is counted
and stands in the log as "lost". A Vnet that is killed loses what was queued, and nothing else: a line cut in the
middle is taken away at the next start, which the log says too.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from layer8.errors import Layer8Error
from layer8.security.files import write_private
from layer8.security.provider import AuditEvent

MAX_BYTES = 16 << 20
KEEP_FILES = 16
SEAL_SECONDS = 60.0
FOLD_SECONDS = 60.0

_ZEROS = "0" * 64
_QUEUED = 65536
_FOLDED_KINDS = 4096
_LONGEST = 1024  # signs of one field: a stranger's words must not fill the disk

_logger = logging.getLogger("layer8.security")


class AuditError(Layer8Error):
    """The audit log cannot be written. `path`, `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"audit log {self.path}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far a log had come: `count` lines, of which the last has this hash (hex). `time`: Unix seconds.

    `signature`: of `signed()`, empty when nobody signs.
    """

    count: int
    hash: str
    time: float
    signature: bytes = b""

    def signed(self) -> bytes:
        """The bytes that are signed."""
        return f"layer8 audit 1\n{self.count}\n{self.hash}\n{self.time!r}\n".encode()

    def encode(self) -> bytes:
        fields = {"n": self.count, "hash": self.hash, "time": self.time, "signature": self.signature.hex()}
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Raises ValueError."""
        try:
            fields = json.loads(data)
            signature = bytes.fromhex(fields["signature"])
            return cls(
                count=int(fields["n"]), hash=str(fields["hash"]), time=float(fields["time"]), signature=signature
            )
        except (KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError("this is no head of an audit log") from error


def line_of(event: AuditEvent, number: int, previous: str) -> bytes:
    """The line of one event, without its end."""
    fields: dict[str, object] = {"n": number, "prev": previous, "time": round(event.time, 6), "what": event.what}
    if event.principal:
        fields["principal"] = event.principal[:_LONGEST]
    if event.action is not None:
        fields["action"] = event.action.value
    if event.resource is not None:
        fields["resource"] = str(event.resource)[:_LONGEST]
    fields["allowed"] = event.allowed
    if event.reason:
        fields["reason"] = event.reason[:_LONGEST]
    if event.count != 1:
        fields["count"] = event.count
    return json.dumps(fields, separators=(",", ":")).encode()


class Folding:
    """Makes one event of many equal refusals. Time comes in with the events and with `due`."""

    def __init__(self, seconds: float = FOLD_SECONDS) -> None:
        self._seconds = seconds
        self._open: dict[tuple[object, ...], list[AuditEvent | int]] = {}

    def add(self, event: AuditEvent) -> Iterator[AuditEvent]:
        """What is to be written now: this event, or nothing when it was counted."""
        if event.allowed:
            yield event
            return
        key = (event.what, event.principal, event.action, event.resource, event.reason)
        standing = self._open.get(key)
        if standing is not None:
            standing[1] += event.count  # type: ignore[operator]
            return
        if len(self._open) >= _FOLDED_KINDS:
            yield from self._close(next(iter(self._open)))
        self._open[key] = [event, 0]
        yield event

    def due(self, now: float) -> Iterator[AuditEvent]:
        """The counts whose time is over. `now`: Unix seconds, infinity for all."""
        for key in list(self._open):
            first = self._open[key][0]
            assert isinstance(first, AuditEvent)
            if first.time + self._seconds > now:
                continue
            yield from self._close(key)

    def _close(self, key: tuple[object, ...]) -> Iterator[AuditEvent]:
        first, count = self._open.pop(key)
        assert isinstance(first, AuditEvent) and isinstance(count, int)
        if count:
            yield AuditEvent(
                time=first.time,
                what=first.what,
                principal=first.principal,
                action=first.action,
                resource=first.resource,
                allowed=False,
                reason=first.reason,
                count=count,
            )


class AuditLog:
    """Writes one log. `append` from any thread; a thread of its own does the rest. `close()` seals and ends it."""

    def __init__(
        self,
        path: Path,
        *,
        seal: Callable[[bytes], bytes] | None = None,
        publish: Callable[[Head], None] | None = None,
        max_bytes: int = MAX_BYTES,
        keep: int = KEEP_FILES,
        seal_seconds: float = SEAL_SECONDS,
        fold_seconds: float = FOLD_SECONDS,
    ) -> None:
        """`seal`: signs the bytes of a head. Raises AuditError, also when another process writes this log."""
        self.path = path
        self.lost = 0
        self._seal = seal
        self._publish = publish
        self._max_bytes = max_bytes
        self._keep = keep
        self._seal_seconds = seal_seconds
        self._folding = Folding(fold_seconds)
        self._queue: collections.deque[AuditEvent] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._written = 0  # events taken from the queue and on the file
        self._taken = 0  # events that append accepted
        self._unsaid = 0
        self._failing = False
        self._count, self._hash = 0, _ZEROS
        self._sealed = 0
        self._lock = self._take_lock()
        try:
            torn = self._resume()
            self._file = self._open()
            self._size = os.fstat(self._file).st_size
        except (OSError, ValueError) as error:
            os.close(self._lock)
            raise AuditError(str(path), str(error)) from error
        if torn:
            self.append(AuditEvent(time=time.time(), what="torn", allowed=False, reason=f"{torn} bytes taken away"))
        self._thread = threading.Thread(target=self._run, name="layer8-audit", daemon=True)
        self._thread.start()

    def append(self, event: AuditEvent) -> None:
        """Queues the event. Never waits for the disk, never raises."""
        with self._changed:
            if self._closed or len(self._queue) >= _QUEUED:
                self.lost += 1
                self._unsaid += 1
                return
            self._queue.append(event)
            self._taken += 1
            self._changed.notify_all()

    def flush(self, timeout: float = 5.0) -> bool:
        """Until what was appended before stands in the file. False: not within `timeout` seconds."""
        with self._changed:
            wanted = self._taken
            return self._changed.wait_for(lambda: self._written >= wanted or not self._thread.is_alive(), timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Writes what is queued and folded, seals, and ends. Safe twice."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)

    # ── the writing thread ─────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        next_seal = time.monotonic() + self._seal_seconds
        while True:
            with self._changed:
                if not self._queue and not self._closed:
                    self._changed.wait(min(1.0, max(0.01, next_seal - time.monotonic())))
                events = [self._queue.popleft() for _ in range(min(len(self._queue), 1024))]
                unsaid, self._unsaid = self._unsaid, 0
                ending = self._closed and not self._queue
            ready = [folded for event in events for folded in self._folding.add(event)]
            ready += self._folding.due(float("inf") if ending else time.time())
            if unsaid:
                ready.append(AuditEvent(time=time.time(), what="lost", allowed=False, count=unsaid))
            self._guarded(lambda ready=ready: self._write(ready))  # type: ignore[misc]
            with self._changed:
                self._written += len(events)
                self._changed.notify_all()
            if ending or time.monotonic() >= next_seal:
                next_seal = time.monotonic() + self._seal_seconds
                self._guarded(self._put_seal)
            if ending:
                os.close(self._file)
                os.close(self._lock)
                return

    def _guarded(self, work: Callable[[], None]) -> None:
        """A full disk must not end the log for good; it is said once."""
        try:
            work()
        except Exception as error:
            if not self._failing:
                _logger.error("the audit log %s cannot be written: %s", self.path, error)
            self._failing = True
        else:
            self._failing = False

    def _write(self, events: list[AuditEvent]) -> None:
        lines = bytearray()
        count, last = self._count, self._hash
        for event in events:
            line = line_of(event, count + 1, last)
            count, last = count + 1, hashlib.sha256(line).hexdigest()
            lines += line + b"\n"
        if not lines:
            return
        if self._size and self._size + len(lines) > self._max_bytes:
            self._rotate()
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._file, memoryview(lines)[written:])
        except OSError:
            os.ftruncate(self._file, self._size)  # half a line would break the chain
            self.lost += len(events)
            with self._changed:
                self._unsaid += len(events)
            raise
        self._size += len(lines)
        self._count, self._hash = count, last

    def _rotate(self) -> None:
        numbers = [number for number, _ in _archives(self.path)]
        os.fdatasync(self._file)
        os.rename(self.path, self.path.with_name(f"{self.path.name}.{max(numbers, default=0) + 1}"))
        os.close(self._file)
        self._file = self._open()
        self._size = 0
        for _, archive in _archives(self.path)[: -self._keep]:
            archive.unlink(missing_ok=True)

    def _put_seal(self) -> None:
        if self._count == self._sealed:
            return
        os.fdatasync(self._file)
        head = Head(count=self._count, hash=self._hash, time=time.time())
        if self._seal is not None:
            head = Head(count=head.count, hash=head.hash, time=head.time, signature=self._seal(head.signed()))
        write_private(head_of(self.path), head.encode())
        self._sealed = self._count
        if self._publish is not None:
            self._publish(head)

    # ── the beginning ──────────────────────────────────────────────────────────────────────────────────────────────

    def _take_lock(self) -> int:
        lock = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(self.path.with_name(self.path.name + ".lock"), flags, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if lock >= 0:
                os.close(lock)
            busy = isinstance(error, BlockingIOError)
            raise AuditError(str(self.path), "another process writes it" if busy else str(error)) from error
        return lock

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self.path, flags, 0o600)

    def _resume(self) -> int:
        """Where the chain stands. Returns how many bytes of a line cut in the middle were taken away."""
        torn = 0
        with contextlib.suppress(FileNotFoundError), self.path.open("r+b") as file:
            data = file.read()
            whole = data.rfind(b"\n") + 1
            torn = len(data) - whole
            if torn:
                file.truncate(whole)
        for path in [self.path, *(path for _, path in reversed(_archives(self.path)))]:
            last = _last_line(path)
            if last is not None:
                try:
                    self._count = int(json.loads(last)["n"])
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"its last line is not one of an audit log: {error!r}") from error
                self._hash = hashlib.sha256(last).hexdigest()
                break
        self._sealed = self._count
        return torn


def _last_line(path: Path) -> bytes | None:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    return lines[-1] if lines else None


def _archives(path: Path) -> list[tuple[int, Path]]:
    """The older files, oldest first."""
    found = []
    for other in path.parent.glob(f"{path.name}.*"):
        suffix = other.name[len(path.name) + 1 :]
        if suffix.isdigit():
            found.append((int(suffix), other))
    return sorted(found)


def head_of(path: Path) -> Path:
    """Where the last seal of this log stands."""
    return path.with_name(path.name.removesuffix(".jsonl") + ".head")


# ── looking at a log ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with a log. `where`: file and line."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`lines`: looked at; `first`: number of the first one (over 1: older files were given up). `last`: of the last
    one. `sealed`: how many lines the last seal speaks of, None without one. `findings`: what is wrong, none if nothing.
    """

    lines: int
    first: int
    last: int
    sealed: int | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.findings


def verify(path: Path, check: Callable[[bytes, bytes], bool] | None = None, known: Head | None = None) -> Report:
    """Looks at the whole chain, older files included.

    `check(signed, signature)`: whether a seal is genuine. `known`: a head that was published elsewhere; the log must
    contain it. Raises AuditError when there is nothing to look at.
    """
    findings: list[Finding] = []
    hashes: dict[int, str] = {}
    previous: tuple[int, str] | None = None
    first = lines = 0
    paths = [other for _, other in _archives(path)] + ([path] if path.exists() else [])
    if not paths:
        raise AuditError(str(path), "there is no log")
    for file in paths:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise AuditError(str(file), error.strerror or str(error)) from error
        for row, line in enumerate(data.split(b"\n"), 1):
            if not line and row > data.count(b"\n"):
                continue
            lines += 1
            where = f"{file.name} line {row}"
            try:
                fields = json.loads(line)
                number, prev = fields["n"], fields["prev"]
                if type(number) is not int or type(prev) is not str:
                    raise TypeError
            except (ValueError, KeyError, TypeError):
                findings.append(Finding(where=where, what="not a line of an audit log"))
                previous = None if previous is None else (previous[0] + 1, hashlib.sha256(line).hexdigest())
                continue
            if previous is None:
                first = first or number
                if number == 1 and prev != _ZEROS:
                    findings.append(Finding(where=where, what="the first line names one before it"))
            elif number != previous[0] + 1:
                what = f"line {number} stands after line {previous[0]}: lines were removed, added or exchanged"
                findings.append(Finding(where=where, what=what))
            elif prev != previous[1]:
                findings.append(Finding(where=where, what=f"line {number - 1} or this one was changed"))
            previous = number, hashlib.sha256(line).hexdigest()
            hashes[number] = previous[1]
        if data and not data.endswith(b"\n"):
            findings.append(Finding(where=file.name, what="its last line is cut"))
    last = previous[0] if previous is not None else 0
    sealed = _check_head(path, hashes, last, check, findings)
    if known is not None:
        _compare(known, "the published head", hashes, last, findings)
    return Report(lines=lines, first=first, last=last, sealed=sealed, findings=tuple(findings))


def _check_head(
    path: Path,
    hashes: dict[int, str],
    last: int,
    check: Callable[[bytes, bytes], bool] | None,
    findings: list[Finding],
) -> int | None:
    place = head_of(path)
    try:
        head = Head.decode(place.read_bytes())
    except FileNotFoundError:
        findings.append(Finding(where=place.name, what="there is no seal: whether the end was cut cannot be known"))
        return None
    except (OSError, ValueError) as error:
        findings.append(Finding(where=place.name, what=f"the seal cannot be read: {error}"))
        return None
    if check is not None and not check(head.signed(), head.signature):
        findings.append(Finding(where=place.name, what="the seal is not signed by whom it should be"))
    _compare(head, place.name, hashes, last, findings)
    return head.count


def _compare(head: Head, where: str, hashes: dict[int, str], last: int, findings: list[Finding]) -> None:
    if head.count > last:
        findings.append(Finding(where=where, what=f"{head.count} lines were sealed, {last} are left: the end was cut"))
    elif head.count in hashes and hashes[head.count] != head.hash:
        findings.append(Finding(where=where, what=f"line {head.count} is not the one that was sealed"))
    elif head.count not in hashes and head.count > 0:
        findings.append(Finding(where=where, what=f"line {head.count}, which was sealed, is not there"))
