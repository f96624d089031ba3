"""Reports of Vnics: what was asked of them when an alarm was raised, or by somebody, and what they said.

Only a Vnic that has agreed is asked. The last few reports of the last few Vnics are kept, here and nowhere else.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from typing import Literal
from uuid import UUID

import msgspec

from layer8.health.alarms import Alarm
from layer8.protocol.control import ReportWanted
from layer8.vnet.refusal import Refusal
from layer8.vnet.session import Session

LARGEST = 40 << 10
"""Characters of one report; it travels in one control message."""

_PER_VNIC = 4
_VNICS = 64
_AGAIN_SECONDS = 10.0  # one Vnic is asked for one kind at most so often by alarms
_OF_FIGURE: dict[str, Literal["stack", "memory"]] = {"cpu": "stack", "memory": "memory", "memory_growth": "memory"}

_log = logging.getLogger("layer8.vnet")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`kind`: stack | memory. `cause`: the alarm, or "asked". `time`: Unix seconds."""

    uuid: UUID
    kind: str
    cause: str
    time: float
    text: str


class Reports:
    """In the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._kept: collections.OrderedDict[UUID, collections.deque[Report]] = collections.OrderedDict()
        self._asked: dict[tuple[UUID, str], tuple[float, str]] = {}
        self._waiting: dict[UUID, set[asyncio.Future[None]]] = {}

    def on_alarm(self, alarm: Alarm, session: Session | None) -> None:
        """Asks for what would explain it."""
        kind = _OF_FIGURE.get(alarm.figure)
        if kind is not None and alarm.state == "raised" and session is not None:
            before, _ = self._asked.get((alarm.uuid, kind), (float("-inf"), ""))
            if self._loop.time() - before >= _AGAIN_SECONDS:
                self._ask(session, kind, alarm.alarm)

    def _ask(self, session: Session, kind: str, cause: str) -> bool:
        port = session.port
        if port is None or not port.reports:
            return False
        self._asked[port.uuid, kind] = self._loop.time(), cause
        session.tell(ReportWanted(kind=kind, cause=cause))
        return True

    def keep(self, session: Session, kind: str, text: str) -> None:
        """What a Vnic said. Raises Refusal for what nobody asked for."""
        uuid = session.own_port().uuid
        asked = self._asked.pop((uuid, kind), None)
        if asked is None:
            raise Refusal("invalid", "nobody asked for that report")
        self._asked[uuid, kind] = asked[0], asked[1]
        report = Report(uuid=uuid, kind=kind, cause=asked[1], time=time.time(), text=text[:LARGEST])
        self._kept.setdefault(uuid, collections.deque(maxlen=_PER_VNIC)).appendleft(report)
        self._kept.move_to_end(uuid)
        while len(self._kept) > _VNICS:
            self._kept.popitem(last=False)
        _log.info("%s has reported its %s (%s)", uuid, kind, asked[1])
        for waiting in self._waiting.pop(uuid, ()):
            if not waiting.done():
                waiting.set_result(None)

    def get(self, uuid: UUID, number: int) -> tuple[Report | None, bool]:
        """The report before `number` later ones, and whether there are older ones."""
        kept = self._kept.get(uuid, ())
        if not 0 <= number < len(kept):
            return None, False
        return kept[number], number + 1 < len(kept)

    async def want(self, session: Session, kind: str, timeout: float) -> None:
        """Asks now and waits for the report. Raises Refusal."""
        port = session.own_port()
        if not port.reports:
            raise Refusal("invalid", "this Vnic has not agreed to give reports (Vnic.allow_reports)")
        came: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(port.uuid, set()).add(came)
        self._ask(session, kind, "asked")
        done, _ = await asyncio.wait([came], timeout=timeout)
        if not done:
            self._waiting.get(port.uuid, set()).discard(came)
            raise Refusal("timeout", f"the Vnic did not report within {timeout:g} s")

    def forget(self, uuid: UUID) -> None:
        """It is gone; what it said stays."""
        for kind in ("stack", "memory"):
            self._asked.pop((uuid, kind), None)
