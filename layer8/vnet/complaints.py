"""Warnings that cannot flood the log: the first of a kind is written at once, what follows in a second is counted."""

from __future__ import annotations

import asyncio
import logging

_SECONDS = 1.0


class Complaints:
    """Folds equal warnings. One thread: the loop's."""

    def __init__(self, log: logging.Logger, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._loop = loop
        self._folded: dict[str, int] = {}

    def warn(self, kind: str, text: str, *arguments: object) -> bool:
        """`kind`: warnings of one kind are folded. Whether this one was written."""
        if kind in self._folded:
            self._folded[kind] += 1
            return False
        self._folded[kind] = 0
        self._log.warning(text, *arguments)
        self._loop.call_later(_SECONDS, self._tell, kind)
        return True

    def _tell(self, kind: str) -> None:
        count = self._folded.pop(kind)
        if count:
            self._log.warning("%s: %d more of this kind within %g s", kind, count, _SECONDS)
