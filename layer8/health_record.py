"""One health record: what the overlay knows of one Vnic or Vnet at one moment; and what a change of one is called."""

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


class LinkRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One link of a Vnet, as that Vnet sees it. `vnet`: uuid of the adjacent one. Times are Unix seconds."""

    vnet: UUID
    name: str = ""
    host: str = ""
    address: str = ""
    state: State = State.UP
    reason: str = ""
    since: float = 0.0
    heard: float = 0.0
    round_trip: float = 0.0  # seconds, as the kernel has smoothed it; 0: not known
    messages_in: int = 0  # come over the link
    bytes_in: int = 0  # both ways of all frames: what Vnets tell each other and signs of life count, TLS does not
    messages_out: int = 0  # gone over it
    bytes_out: int = 0
    queued: int = 0  # bytes that wait to be written to it


class HealthRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """State and figures of one Vnic or Vnet. Times are Unix seconds, sizes bytes, `cpu` percent of one core."""

    uuid: UUID
    kind: str = "vnic"  # "vnic" | "vnet"
    alias: str | None = None
    host: str = ""
    vnet: str = ""
    principal: str = ""
    program: str = ""
    version: str = ""  # of layer8 that its process runs; "": it does not say
    services: tuple[str, ...] = ()  # names under which it answers requests
    topics: tuple[str, ...] = ()
    pid: int = 0
    create_time: float = 0.0  # of its process
    started: float = 0.0  # attached to this Vnet; of a Vnet: its start
    state: State = State.UP
    reason: str = ""
    since: float = 0.0  # in this state
    heard: float = 0.0  # when it last did something
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
    alarms: tuple[str, ...] = ()  # that are raised about it
    links: tuple[LinkRecord, ...] = ()  # of a Vnet

    @property
    def is_up(self) -> bool:
        """Whether it is there and well."""
        return self.state is State.UP


class ElectionEvent(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Who leads a group now. `leader`: None while nobody does. `is_leader`: it is the Vnic that hears this."""

    group: str
    term: int
    leader: UUID | None = None
    is_leader: bool = False


class HealthEvent(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One change of what a watch sees. `kind`: "joined", "changed" (state, reason, names, place or alarms) or "left".

    `record`: as it is now; of one that left as it was last, with the state and the reason it left with. `before`: what
    it was, None when it joined. `present`: it was there when the watch began.
    """

    kind: str
    record: HealthRecord
    before: HealthRecord | None = None
    present: bool = False

    @property
    def reason(self) -> str:
        """Why the record's state is what it is."""
        return self.record.reason
