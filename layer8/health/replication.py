"""The directory between Vnets: each tells every other what lives with it, and keeps what it is told.

    Home     what lives here: a table with a sequence number that counts its changes, and the last of these
    Mirror   what lives with one adjacent Vnet, as far as it has said

    connection begins     Mirror ──Have(epoch, sequence)──▶ Home: the changes since, if it still has them, else all
    something changes     Home ──Delta(sequence)──▶ Mirror: applied if it is the next one, else Repair
    now and then          Home ──Digest(sequence, count, digest)──▶ Mirror: equal, or Repair
    Repair                Home ──Part, Part, … last──▶ Mirror: everything, and what was in no part is no more

Nothing is ever merged: a record has one home, and only that speaks of it. So two tables agree as soon as one whole
exchange gets through, whatever was lost before. The digest is the exclusive or of the entries' hashes: it costs one
hash a change, whatever the size of the table. What is hashed are the bytes that the home has sent: a mirror of another
version reads less of them, or finds less in them, and agrees all the same.

Sans-IO, without a clock: what a call returns is to be sent or shown. One thread.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

import msgspec

from layer8.protocol.link_messages import Delta, Digest, Entry, Have, Part, Repair

BATCH_BYTES = 48 << 10
"""Of entries in one message; a control frame has 64 KiB."""

LOG_CHANGES = 4096
LARGEST_ENTRY = 20 << 10

Told = list[tuple[Entry, bytes]]
"""Entries, each as its home wrote it."""

_encoder = msgspec.msgpack.Encoder()
_ZERO = bytes(16)


def _hash(encoded: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=16).digest(), "little")


@dataclass(frozen=True, slots=True)
class Changes:
    """What is new in a mirror."""

    put: tuple[Entry, ...]
    dropped: tuple[UUID, ...]


class Home:
    """What lives here. `sequence`: of the last change; 0 before the first."""

    def __init__(self, epoch: int, *, log: int = LOG_CHANGES) -> None:
        self.epoch = epoch
        self.sequence = 0
        self._entries: dict[UUID, tuple[Entry, bytes]] = {}  # as it is and as it is sent
        self._digest = 0
        self._log: collections.deque[Delta] = collections.deque(maxlen=log)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entry, _ in self._entries.values())

    def change(self, put: Iterable[Entry] = (), dropped: Iterable[UUID] = ()) -> list[Delta]:
        """Makes changes; what to tell every mirror. What is as it was is no change."""
        deltas: list[Delta] = []
        gone = [uuid for uuid in dropped if self._remove(uuid)]
        batch: list[bytes] = []
        size = 0
        for entry in put:
            encoded = _encoder.encode(entry)
            if len(encoded) > LARGEST_ENTRY:
                raise ValueError(f"a record of {len(encoded)} bytes is too large to be told")
            known = self._entries.get(entry.record.uuid)
            if known is not None and known[1] == encoded:
                continue
            self._remove(entry.record.uuid)
            self._entries[entry.record.uuid] = entry, encoded
            self._digest ^= _hash(encoded)
            if size + len(encoded) > BATCH_BYTES:
                deltas.append(self._note(batch, gone))
                batch, gone, size = [], [], 0
            batch.append(encoded)
            size += len(encoded)
        if batch or gone:
            deltas.append(self._note(batch, gone))
        return deltas

    def _remove(self, uuid: UUID) -> bool:
        known = self._entries.pop(uuid, None)
        if known is not None:
            self._digest ^= _hash(known[1])
        return known is not None

    def _note(self, put: list[bytes], dropped: list[UUID]) -> Delta:
        self.sequence += 1
        delta = Delta(sequence=self.sequence, put=tuple(map(msgspec.Raw, put)), dropped=tuple(dropped))
        self._log.append(delta)
        return delta

    def answer(self, have: Have) -> list[Delta] | list[Part]:
        """What a mirror that says this lacks."""
        missing = self.sequence - have.sequence
        if have.epoch == self.epoch and 0 <= missing <= len(self._log) and have.sequence > 0:
            return list(self._log)[len(self._log) - missing :]
        return self.everything()

    def everything(self) -> list[Part]:
        parts: list[list[bytes]] = []
        batch: list[bytes] = []
        size = 0
        for _, encoded in self._entries.values():
            if size + len(encoded) > BATCH_BYTES:
                parts.append(batch)
                batch, size = [], 0
            batch.append(encoded)
            size += len(encoded)
        parts.append(batch)
        last = len(parts) - 1
        return [
            Part(sequence=self.sequence, number=number, last=number == last, entries=tuple(map(msgspec.Raw, each)))
            for number, each in enumerate(parts)
        ]

    def digest(self) -> Digest:
        """For every mirror, now and then."""
        return Digest(
            sequence=self.sequence, count=len(self._entries), digest=self._digest.to_bytes(len(_ZERO), "little")
        )


class Mirror:
    """What lives with one adjacent Vnet. `sequence`: up to which change; 0: nothing whole yet.

    `told`: what `entries` has found in the message.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.sequence = 0
        self._entries: dict[UUID, tuple[Entry, int]] = {}  # with its hash
        self._digest = 0
        self._parts: Told | None = None  # of a whole state that is coming
        self._number = 0  # of its next part
        self._state = 0  # the sequence of all its parts
        self._asked = False

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entry, _ in self._entries.values())

    def get(self, uuid: UUID) -> Entry | None:
        found = self._entries.get(uuid)
        return found[0] if found is not None else None

    def connected(self, epoch: int) -> Have:
        """A connection begins, to a Vnet of this epoch. What to send."""
        if epoch != self.epoch:
            self.epoch, self.sequence = epoch, 0
        self._parts = None
        self._asked = False
        return Have(epoch=self.epoch, sequence=self.sequence)

    def delta(self, delta: Delta, told: Told) -> Changes | Repair | None:
        """None: nothing to do."""
        if self._parts is not None or self._asked or delta.sequence <= self.sequence:
            return None if self._asked or delta.sequence <= self.sequence else self._repair()
        if delta.sequence != self.sequence + 1 or self.sequence == 0:
            return self._repair()
        self.sequence = delta.sequence
        return self._apply(told, delta.dropped)

    def part(self, part: Part, told: Told) -> Changes | Repair | None:
        if part.number == 0:
            self._parts, self._number, self._state = [], 0, part.sequence
        if self._parts is None:
            return None  # the beginning was lost; the digest will tell
        if (part.number, part.sequence) != (self._number, self._state):
            return self._repair()
        self._parts += told
        self._number += 1
        if not part.last:
            return None
        whole = self._parts
        self._parts, self._asked = None, False
        self.sequence = part.sequence
        there = {entry.record.uuid for entry, _ in whole}
        return self._apply(whole, [uuid for uuid in self._entries if uuid not in there])

    def digest(self, digest: Digest) -> Repair | None:
        if digest.sequence < self.sequence:
            return None  # from before what was told since
        same = (digest.sequence, digest.count, digest.digest) == (
            self.sequence,
            len(self._entries),
            self._digest.to_bytes(len(_ZERO), "little"),
        )
        return None if same else self._repair()

    def _repair(self) -> Repair:
        self._parts = None
        self._asked = True
        return Repair()

    def _apply(self, told: Told, dropped: Iterable[UUID]) -> Changes:
        changed: list[Entry] = []
        gone: list[UUID] = []
        for uuid in dropped:
            known = self._entries.pop(uuid, None)
            if known is not None:
                self._digest ^= known[1]
                gone.append(uuid)
        for entry, encoded in told:
            hashed = _hash(encoded)
            known = self._entries.get(entry.record.uuid)
            if known is not None:
                if known[1] == hashed:
                    continue
                self._digest ^= known[1]
            self._entries[entry.record.uuid] = entry, hashed
            self._digest ^= hashed
            changed.append(entry)
        return Changes(tuple(changed), tuple(gone))
