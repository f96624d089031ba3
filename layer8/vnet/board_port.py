"""One port as the switchboard knows it, and what it may reach. Only the switchboard changes these."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from uuid import UUID

from layer8.dataplane import SwitchPort, Target
from layer8.security.provider import Action, Principal, Resource


class PortState(enum.Enum):
    UP = enum.auto()
    DRAINING = enum.auto()  # has left its alias
    CLOSING = enum.auto()  # the switch moves what it had sent
    GONE = enum.auto()


_UP = (PortState.UP, PortState.DRAINING)


@dataclasses.dataclass(slots=True, eq=False)
class Handle:
    """One destination that a port may reach. `name`: of the alias or topic whose number it holds, else None.

    `resource`: as the policy sees it. `allows`: what may be done with it, of the actions that its kind has."""

    generation: int
    target: Target
    name: str | None
    resource: Resource
    allows: frozenset[Action]


@dataclasses.dataclass(slots=True, eq=False)
class BoardPort:
    """One port as the switchboard knows it. `number`: index | generation << 16."""

    number: int
    uuid: UUID
    alias: str | None
    principal: Principal
    switch_port: SwitchPort
    state: PortState = PortState.UP
    handles: dict[int, Handle] = dataclasses.field(default_factory=dict)
    generations: dict[int, int] = dataclasses.field(default_factory=dict)  # of each slot, the last one granted
    topics: dict[int, str] = dataclasses.field(default_factory=dict)  # by the subscriber's own number
    services: tuple[str, ...] = ()  # as its Vnic has announced
    reports: bool = False  # it answers ReportWanted
    removed: asyncio.Future[int] | None = None  # done: nobody can reach it any more
    reaped: asyncio.Future[None] | None = None

    @property
    def is_up(self) -> bool:
        return self.state in _UP
