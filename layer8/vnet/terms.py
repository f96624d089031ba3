"""The terms of elections on disk: what must not be forgotten, whichever way a Vnet ends.

One file a group in NAME.terms (0700, files 0600), replaced by rename, with fsync of both: a term is given to a member
only when that has happened. The directory stays after a clean stop; where it is lost with the runtime directory of a
host that was started anew, the time of day that a new store begins with is past all terms there were.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from pathlib import Path
from uuid import UUID

import msgspec

from layer8.rendezvous import ensure_private_directory

_SUFFIX = ".term"
_log = logging.getLogger("layer8.vnet")


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """The highest one of a group, and who has it."""

    group: str
    term: int
    member: UUID


class Terms:
    """The store of one Vnet. `write` may be called from any thread, the rest by whoever holds the Vnet's lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writing = threading.Lock()

    def load(self) -> list[Term]:
        """All that are stored. A file that cannot be read is a warning, and stays."""
        found = []
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Term))
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                _log.warning("a term of an election cannot be read: %s: %s", path, error)
        return found

    def write(self, term: Term) -> None:
        """Returns when it is on disk, never over a higher one. Raises OSError when it cannot be stored."""
        with self._writing:
            ensure_private_directory(self._directory)
            path = self._directory / (hashlib.sha256(term.group.encode()).hexdigest()[:32] + _SUFFIX)
            new = path.with_suffix(".new")
            with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
                if msgspec.json.decode(path.read_bytes(), type=Term).term >= term.term:
                    raise FileExistsError(f"{path} has a term that is not lower than {term.term}")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(new, flags, 0o600), "wb") as file:
                file.write(msgspec.json.encode(term))
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
