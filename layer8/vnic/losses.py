"""Messages that did not arrive, or may not have: found in what a dead Vnet has left, and logged when nobody is told."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from uuid import UUID

from layer8.dataplane import Flag, Kind, Port, Record
from layer8.message import Undeliverable
from layer8.vnic.refusals import UNKNOWN

_logger = logging.getLogger("layer8.vnic")

_REPORT_EVERY = 5.0  # seconds between two warnings about messages that did not arrive


class Losses:
    """Of one Vnic. `what`: what it is called. `name_of`: the destination that a handle stood for."""

    def __init__(self, what: str, name_of: Callable[[int], UUID | str | None]) -> None:
        self._what = what
        self._name_of = name_of
        self._unreported = 0
        self._reported_at = -math.inf

    def stranded(self, port: Port) -> list[Undeliverable]:
        """The messages that the Vnet may or may not have moved. Requests are not among them: their calls fail."""
        found = []
        for record in port.stranded():
            if record.kind in (Kind.UNICAST, Kind.PUBLISH) and record.flags & Flag.LAST:
                to = self._name_of(record.slot | record.generation << 16)
                found.append(Undeliverable("" if to is None else to, _sequence_of(record), UNKNOWN, _size_of(record)))
        return found

    def report(self, undeliverable: Undeliverable) -> None:
        """No handler is told: it is logged, now and then."""
        self._unreported += 1
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_EVERY:
            self._reported_at = now
            _logger.warning(
                "%s: %d message(s) did not arrive, the last one to %s: %s (on_undeliverable tells of each)",
                self._what,
                self._unreported,
                undeliverable.to,
                undeliverable.reason,
            )
            self._unreported = 0


def _sequence_of(record: Record) -> int:
    """What send returned for the message that this record ends."""
    return record.correlation if record.fragments > 1 else record.sequence


def _size_of(record: Record) -> int:
    """Bytes of its payload; of a message in fragments the last one counts for a whole one."""
    if record.fragments > 1:
        return (record.fragments - 1) * 65536 + record.length
    return record.length - record.headers
