"""Files that hold secrets, or that a decision rests on: never half written, and nobody else's.

A file is written beside its place, with mode 0600 from its first moment, and renamed, so that a reader and a crash see
the old content or the new, and nothing else. A directory is 0700 and this user's; one that is not is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from layer8.errors import Layer8Error


class StateError(Layer8Error):
    """The state directory cannot be used. `path`, `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def make_directory(path: Path) -> None:
    """Makes it, 0700, if it is missing, and checks it. Raises StateError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
    except OSError as error:
        raise StateError(str(path), f"the directory cannot be made: {error.strerror}") from error
    check_directory(path)


def check_directory(path: Path, missing: str = "there is no such directory") -> None:
    """Raises StateError unless it is a directory of this user's, no link, that nobody else may enter. `missing`: what
    is said, and to be done, when there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise StateError(str(path), missing) from None
    except OSError as error:
        raise StateError(str(path), error.strerror or str(error)) from error
    if not stat.S_ISDIR(found.st_mode):
        raise StateError(str(path), "this is not a directory")
    if found.st_uid != os.geteuid():
        raise StateError(str(path), f"it belongs to uid {found.st_uid}, not to uid {os.geteuid()}")
    if found.st_mode & 0o077:
        raise StateError(str(path), f"others may enter it (mode {stat.S_IMODE(found.st_mode):04o}); chmod 700 it")


def write_private(path: Path, data: bytes) -> None:
    """Replaces the file by one with this content and mode 0600, or leaves it as it was. Raises OSError."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            written = 0
            while written < len(data):
                written += os.write(file, memoryview(data)[written:])
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_private(path: Path) -> bytes:
    """The content of a file that holds a secret. Raises StateError for one that others may read, or a link."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise StateError(str(path), error.strerror or str(error)) from error
    with open(file, "rb") as opened:
        found = os.fstat(opened.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise StateError(str(path), "it holds a secret and must be a file of this user's alone; chmod 600 it")
        return opened.read()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Nobody else changes what stands in `directory` meanwhile. Waits."""
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
