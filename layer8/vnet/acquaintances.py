"""Who a Vnet is, and with whom it has sessions: the little that must outlive it, so that its sessions can.

One file, NAME.links in the runtime directory, written by rename: the Vnet's uuid and those of the adjacent Vnets. It
is there as long as the list of ports is: a Vnet that ended cleanly with nobody attached begins as somebody new. A
restarted Vnet is known by its uuid; it awaits those whom it knew before it says of any far name that it is not there.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from uuid import UUID, uuid4

import msgspec

_log = logging.getLogger("layer8.vnet")


class _Content(msgspec.Struct, frozen=True):
    vnet: UUID
    adjacent: tuple[UUID, ...] = ()


class Acquaintances:
    """`vnet`: this Vnet's uuid. `awaited`: with whom an earlier life had sessions; a life that ends before they are
    back leaves them to the next. `adjacent`: those of this one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.vnet = uuid4()
        self.awaited: frozenset[UUID] = frozenset()
        self.adjacent: set[UUID] = set()

    @classmethod
    def load(cls, path: Path) -> Acquaintances:
        """What an earlier Vnet left, or somebody new."""
        self = cls(path)
        with contextlib.suppress(FileNotFoundError):
            try:
                content = msgspec.json.decode(path.read_bytes(), type=_Content)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                _log.warning("%s cannot be read, so this Vnet is a new one: %s", path, error)
            else:
                self.vnet, self.awaited = content.vnet, frozenset(content.adjacent)
        return self

    def add(self, vnet: UUID) -> None:
        """A session is there."""
        if vnet not in self.adjacent:
            self.adjacent.add(vnet)
            self.write()

    def remove(self, vnet: UUID) -> None:
        """It is no more."""
        if vnet in self.adjacent:
            self.adjacent.discard(vnet)
            self.write()

    def await_no_longer(self) -> None:
        """All are back, or have had their time."""
        if self.awaited:
            self.awaited = frozenset()
            self.write()

    def write(self) -> None:
        new = self._path.with_name(self._path.name + ".new")
        content = msgspec.json.encode(_Content(self.vnet, tuple(sorted(self.adjacent | self.awaited))))
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(new, flags, 0o600), "wb") as file:
                file.write(content)
            new.replace(self._path)
        except OSError as error:
            _log.warning("this Vnet cannot note whom it knows: %s", error)

    def close(self, *, forget: bool) -> None:
        """A clean end. `forget`: nobody is in the list of ports."""
        if forget:
            with contextlib.suppress(OSError):
                self._path.unlink()
