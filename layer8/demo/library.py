"""Second job of the demo: every source file of the standard library, sent to a process that stores it.

The sender gives each file's SHA-256 in the headers, the store computes its own from what arrived. Neither is
believed in the end: `compare` reads both directories again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from layer8 import Request
from layer8.demo.part import Part

STORE = "demo-store"
_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}


def source_directory() -> Path:
    """Where the standard library of this Python stands."""
    return Path(sysconfig.get_path("stdlib"))


def source_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Every .py file below `directory`: its relative path with slashes, and where it is; in order of the paths."""
    found = []
    for folder, below, names in os.walk(directory):
        below[:] = [name for name in below if name not in _NOT_THE_LIBRARY]
        for name in names:
            path = Path(folder, name)
            if name.endswith(".py") and path.is_file():
                found.append((path.relative_to(directory).as_posix(), path))
    yield from sorted(found)


def send(part: Part) -> None:
    """Sends every file to the store, then asks it what it has."""
    store = part.vnic.find(STORE, timeout=10.0)
    part.say("ready")
    part.wait_for("go")
    count = size = 0
    begun = time.monotonic()
    for name, path in source_files(Path(part.settings["source"])):
        content = path.read_bytes()
        headers = {"path": name, "sha256": hashlib.sha256(content).hexdigest()}
        part.vnic.send(store, content, headers=headers, timeout=30.0)
        count += 1
        size += len(content)
    # One sender's messages to one receiver keep their order: this request comes after the last file.
    stored = json.loads(part.vnic.request(store, b"", timeout=30.0).payload)
    seconds = time.monotonic() - begun
    part.say("result", messages=count, bytes=size, seconds=seconds, stored=stored)


def store(part: Part) -> None:
    """Writes every file that arrives and compares its SHA-256, until it is asked what it has."""
    directory = Path(part.settings["directory"])
    count = size = equal = 0
    part.say("ready")
    for message in part.vnic:
        if isinstance(message, Request):
            message.reply(json.dumps({"messages": count, "bytes": size, "equal": equal}).encode())
            break
        target = place(directory, str(message.headers["path"]))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(message.payload)
        count += 1
        size += len(message.payload)
        equal += hashlib.sha256(message.payload).hexdigest() == message.headers["sha256"]
    part.say("result", messages=count, bytes=size, equal=equal)


def place(directory: Path, name: str) -> Path:
    """Where `name` is stored; a name that leads out of `directory` is refused, whoever sent it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is not a path inside the store")
    return directory / path


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every source file below `directory`, by relative path."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in source_files(directory)}


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names that only one side has, or that have another digest there."""
    return sorted({name for name, _ in one.items() ^ other.items()})
