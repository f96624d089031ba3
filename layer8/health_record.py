"""One health record: what the overlay knows of one Vnic or Vnet at one moment."""

from __future__ import annotations

import enum
from uuid import UUID

import msgspec


class State(enum.StrEnum):
    """UP: alive. SUSPECT: silent or not draining. STOPPED: SIGSTOP. UNREACHABLE: its Vnet was given up. DOWN: gone."""

    UP = "UP"
    SUSPECT = "SUSPECT"
    STOPPED = "STOPPED"
    UNREACHABLE = "UNREACHABLE"
    DOWN = "DOWN"


class HealthRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """State and figures of one Vnic or Vnet. Times are Unix seconds, sizes bytes, `cpu` percent of one core."""

    uuid: UUID
    kind: str = "vnic"  # "vnic" | "vnet"
    alias: str | None = None
    host: str = ""
    vnet: str = ""
    principal: str = ""
    topics: tuple[str, ...] = ()
    pid: int = 0
    create_time: float = 0.0
    state: State = State.UP
    reason: str = ""
    since: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    threads: int = 0
    open_files: int = 0
    messages_in: int = 0  # sent by this Vnic, taken by the Vnet
    bytes_in: int = 0
    messages_out: int = 0  # delivered to this Vnic
    bytes_out: int = 0
    undeliverable: int = 0
    missed: int = 0
    fill: float = 0.0  # of its receive ring, 0 to 1

    @property
    def is_up(self) -> bool:
        return self.state is State.UP
