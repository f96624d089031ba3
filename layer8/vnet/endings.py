"""Who hears that a Vnic is there no more: those at whom a message of it stood half when an earlier Vnet died.

    asked ──(its port is reaped | its process ended, or was not seen for too long, while it was awaited)──▶ told

A Vnic that is still awaited may go on with what it had begun, however late. One of which there is neither a port nor an
entry in the list will not, unless it is on another host: of those only their own Vnets know.
"""

from __future__ import annotations

import itertools
from typing import Protocol
from uuid import UUID

from layer8.dataplane import HALF_BYTES
from layer8.protocol.control import Ended, Wire
from layer8.vnet.roster import Roster

_DEAD_TOLD = 3000  # uuids in one message


class Asker(Protocol):
    def tell(self, message: Wire) -> None: ...


class Endings:
    """Of one Vnet. `alone`: there are no other hosts. One thread."""

    def __init__(self, roster: Roster, *, alone: bool) -> None:
        self._roster = roster
        self._alone = alone
        self._asked: dict[UUID, set[Asker]] = {}
        roster.left = self._left

    def dead(self) -> tuple[bytes, ...]:
        """For a library that does not ask about those whom it means: as many as a message takes."""
        return tuple(uuid.bytes for uuid in itertools.islice(self._roster.dead, _DEAD_TOLD))

    def ask(self, asker: Asker, halves: bytes) -> tuple[bytes, ...]:
        """Those sources (uuids) of these messages (as Resume has them) that are there no more; of the others it hears
        with Ended. Of those that it asked about before it does not."""
        self.forget(asker)
        over = []
        for source in dict.fromkeys(halves[at : at + 16] for at in range(0, len(halves), HALF_BYTES)):
            uuid = UUID(bytes=source)
            if uuid not in self._roster and (self._alone or uuid in self._roster.dead):
                over.append(source)
            else:
                self._asked.setdefault(uuid, set()).add(asker)
        return tuple(over)

    def _left(self, uuid: UUID) -> None:
        for asker in self._asked.pop(uuid, ()):
            asker.tell(Ended(sources=(uuid.bytes,)))

    def forget(self, asker: Asker) -> None:
        """It needs to hear of nothing more."""
        for uuid, askers in list(self._asked.items()):
            askers.discard(asker)
            if not askers:
                del self._asked[uuid]
