"""Who was attached: the list that lets the next Vnet know its Vnics again, whichever way this one ends.

One file a port in the state directory (0700, files 0600), written before the attach is answered and removed when the
switch has nothing left of the port. A Vnic proves that a place in the list is its own with the secret that its first
attach gave it; only the hash stands in the file. At the next start entries of processes that are gone are dropped; the
others are *awaited*.

    (attach) ──note──▶ present ──(reaped)──▶ forgotten
                          └──(this Vnet ends)──▶ awaited ──(the Vnic is back)──▶ present
                                                    └──(its process has gone: `awaited.py`)──▶ forgotten
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import msgspec

from layer8.health.process import Identity, identify
from layer8.rendezvous import ensure_private_directory

_SUFFIX = ".port"
_MIRROR = ".mirror"
UNSEEN_SECONDS = 3600.0
"""So long a process of which nothing is to be seen stays in the list without coming back."""

_CLOCK_SECONDS = 2.0  # two readings of one create time may differ by an adjustment of the clock

_log = logging.getLogger("layer8.vnet")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One port. `secret`: SHA-256 of the resume secret. `pid` 0: a process of another pid namespace, or host.
    `awaited_since`: of such a process, since when one Vnet after the other awaits it (Unix seconds), else 0.0."""

    uuid: UUID
    pid: int
    create_time: float
    secret: str
    alias: str | None
    principal: str
    awaited_since: float = 0.0


class Roster:
    """The list of one Vnet. `awaited`: by uuid, who was attached before this start and has not come back. `dead`: whose
    process has ended meanwhile. `left`: is told of each that leaves the list."""

    def __init__(self, directory: Path) -> None:
        self.awaited: dict[UUID, Entry] = {}
        self.dead: dict[UUID, None] = {}  # in order
        self.left: Callable[[UUID], None] = lambda uuid: None
        self._names: Counter[str] = Counter()  # uuids and aliases of those who are awaited
        self._directory = directory
        self._found: dict[int, Identity | None] = {}  # processes, as `load` has found them
        self._present: dict[UUID, int] = {}  # number of the port that the entry is of

    def load(self) -> None:
        """Reads what an earlier Vnet left; once, with the lock held. Raises OSError for an unusable directory."""
        ensure_private_directory(self._directory)
        for path in sorted(self._directory.iterdir(), key=lambda path: (path.suffix == _MIRROR, path)):
            if path.suffix == _MIRROR and any(path == self.mirror(uuid) for uuid in self.awaited):
                continue
            entry = _read(path) if path.suffix == _SUFFIX else None
            if entry is not None and path == self._path(entry.uuid) and self._lives(entry):
                self.awaited[entry.uuid] = entry if entry.pid > 0 else self._put(_awaited(entry))
                self._names.update(_names(entry))
            else:
                if entry is not None:
                    self.dead[entry.uuid] = None
                with contextlib.suppress(OSError):
                    path.unlink()
        self._found.clear()

    def note(self, uuid: UUID, number: int, secret: bytes, *, pid: int, alias: str | None, principal: str) -> None:
        """Puts a port in the list. Raises OSError when it cannot be written."""
        known = self.awaited.get(uuid)
        as_it_was = known is not None and known.pid == pid and known.alias == alias and not known.awaited_since
        if known is not None and as_it_was and knows_secret(known, secret):
            self._take(uuid)  # it stands there as it is
            self._present[uuid] = number
            return
        identity = identify(pid) or Identity(pid, 0.0)
        entry = Entry(
            uuid=uuid,
            pid=pid,
            create_time=identity.create_time,
            secret=_hash(secret),
            alias=alias,
            principal=principal,
        )
        self._put(entry)
        self._take(uuid)
        self._present[uuid] = number

    def awaits(self, name: str) -> bool:
        """Whether somebody with this uuid or alias is awaited."""
        return self._names[name] > 0

    def _take(self, uuid: UUID) -> bool:
        """Out of those who are awaited. Whether it was among them."""
        entry = self.awaited.pop(uuid, None)
        if entry is not None:
            self._names.subtract(_names(entry))
        return entry is not None

    def _put(self, entry: Entry) -> Entry:
        path = self._path(entry.uuid)
        new = path.with_suffix(".new")
        with open(
            os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb"
        ) as file:
            file.write(msgspec.json.encode(entry))
        new.replace(path)
        return entry

    def forget(self, uuid: UUID, number: int) -> None:
        """The switch has nothing left of this port. A later port of the same Vnic keeps its entry."""
        if self._present.get(uuid) == number:
            del self._present[uuid]
            self._remove(uuid)

    def _remove(self, uuid: UUID) -> None:
        for path in (self._path(uuid), self.mirror(uuid)):
            with contextlib.suppress(OSError):
                path.unlink()
        self.left(uuid)

    def __contains__(self, uuid: UUID) -> bool:
        return uuid in self._present or uuid in self.awaited

    def mirror(self, uuid: UUID) -> Path:
        """Where the mirror of a far Vnic's segment is, for as long as the Vnic is in the list."""
        return self._directory / f"{uuid.hex}{_MIRROR}"

    def give_up(self, uuid: UUID) -> None:
        """Who is awaited will not come: its process has ended, or it was closed."""
        if self._take(uuid):
            self.dead[uuid] = None
            self._remove(uuid)

    def take_leave(self, uuid: UUID, secret: bytes) -> Entry | None:
        """Who is awaited will not come: somebody says so who has its secret. None: it is not awaited, or not so."""
        entry = self.awaited.get(uuid)
        if entry is None or not knows_secret(entry, secret):
            return None
        self.give_up(uuid)
        return entry

    @property
    def present(self) -> bool:
        """Whether anybody is in the list."""
        return bool(self._present or self.awaited)

    def close(self) -> None:
        """A clean end. The directory goes if nobody is in the list."""
        with contextlib.suppress(OSError):
            self._directory.rmdir()

    def _lives(self, entry: Entry) -> bool:
        if entry.pid not in self._found:
            self._found[entry.pid] = identify(entry.pid)
        if entry.pid <= 0:
            return not entry.awaited_since or time.time() - entry.awaited_since < UNSEEN_SECONDS
        return _is(entry, self._found[entry.pid])

    def _path(self, uuid: UUID) -> Path:
        return self._directory / f"{uuid.hex}{_SUFFIX}"


def _names(entry: Entry) -> tuple[str, ...]:
    return (str(entry.uuid),) if entry.alias is None else (str(entry.uuid), entry.alias)


def _awaited(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, awaited_since=entry.awaited_since or time.time())


def knows_secret(entry: Entry, secret: bytes) -> bool:
    return hmac.compare_digest(entry.secret, _hash(secret))


def is_same_process(entry: Entry, pid: int) -> bool:
    """Whether `pid` is, beyond doubt, the process that the entry is of."""
    return _is(entry, identify(pid))


def _is(entry: Entry, identity: Identity | None) -> bool:
    return (
        identity is not None
        and identity.pid == entry.pid
        and abs(identity.create_time - entry.create_time) < _CLOCK_SECONDS
    )


def _hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _read(path: Path) -> Entry | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Entry)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        if path.suffix == _SUFFIX:
            _log.warning("an entry of the list of ports cannot be read: %s: %s", path, error)
        return None
