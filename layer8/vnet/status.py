"""The status segment: what a Vnet lets tools read without asking it, and after it has crashed.

One shared-memory object of a name that follows from the socket's path. The Vnet alone writes; no decision is ever read
from here. Everything is in the machine's byte order: who reads runs on the same host.

    0      header    magic, version, sizes, pid, start; written once, `magic` last
    4096   latch     u64: number of the newest snapshot; its parity says in which of the two places it stands
    8192   place 0   u32 length, u32 CRC-32, msgpack of a Snapshot
    ...    place 1   same
    ...    events    a ring of 256-byte cells: u32 length, u32 CRC-32, msgpack of a StatusEvent

A snapshot is written to the place that is not in use, then the latch moves: a reader that finds the latch where it
was has read a whole snapshot, also when the Vnet was killed in the middle of the next one. (A sequence lock with two
copies, as the `seqcount_latch` of the Linux kernel.) The checksums guard what memory order does not promise to Python.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import mmap
import os
import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict
from uuid import UUID

import msgspec
import posix_ipc

from layer8.errors import Layer8Error
from layer8.health_record import LinkRecord

STATUS_VERSION = 1

_MAGIC = 0x3853544154555338  # "8STATUS8"
_HEADER = struct.Struct("=QIIIIIId")  # magic, version, pid, snapshot bytes, cells, cell bytes, 0, started
_LATCH = struct.Struct("=Q")
_FRAME = struct.Struct("=II")
_PAGE = 4096
_CELL = 256
_BASE_BYTES, _PORT_BYTES = 8192, 512
_TEXT_MAX = 64
_TRIES = 100
_ANOTHER = "written by another version of layer8; use the `layer8` command that is installed with the Vnet"


class StatusError(Layer8Error):
    """There is no usable status segment. `name`: of the object; `reason`: why; `is_missing`: there is none at all."""

    def __init__(self, name: str, reason: str, is_missing: bool = False) -> None:
        super().__init__(name, reason, is_missing)
        self.name = name
        self.reason = reason
        self.is_missing = is_missing

    def __str__(self) -> str:
        return f"status segment {self.name}: {self.reason}"


class PortStatus(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Counters of one port; `fill` is of its receive ring, 0 to 1."""

    uuid: UUID
    alias: str = ""
    pid: int = 0
    messages_in: int = 0
    bytes_in: int = 0
    messages_out: int = 0
    bytes_out: int = 0
    undeliverable: int = 0
    missed: int = 0
    fill: float = 0.0
    state: str = "UP"
    reason: str = ""
    cpu: float = 0.0
    memory: int = 0
    alarms: tuple[str, ...] = ()
    version: str = ""


class Snapshot(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The Vnet at one moment. `state`: running | stopping | stopped. Times are Unix seconds."""

    name: str
    socket: str
    uuid: UUID
    epoch: int
    pid: int
    started: float
    updated: float
    state: str = "running"
    listen: tuple[str, ...] = ()  # "host:port" for other hosts
    switch: dict[str, int] = {}
    ports: tuple[PortStatus, ...] = ()
    more_ports: int = 0  # that the segment has no room for
    host: str = ""
    http: str = ""  # "host:port" of the HTTP port
    alarms: tuple[str, ...] = ()  # that are raised, in words
    links: tuple[LinkRecord, ...] = ()
    version: str = ""  # of layer8


class HealthStatus(TypedDict):
    """Fields of a Snapshot that the health desk knows."""

    host: str
    http: str
    alarms: tuple[str, ...]
    links: tuple[LinkRecord, ...]


class StatusEvent(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One thing that happened. `kind`: started | attached | detached | gone | refused | violation | stopping | …"""

    number: int
    time: float
    kind: str
    uuid: UUID | None = None
    alias: str = ""
    pid: int = 0
    text: str = ""


def status_name(socket_path: Path | str) -> str:
    """Name of the status segment of the Vnet that listens at this path."""
    return "/layer8." + hashlib.sha256(os.fsencode(socket_path)).hexdigest()[:16]


def remove(socket_path: Path | str) -> bool:
    """Takes a left-over segment away. False when there was none."""
    try:
        posix_ipc.unlink_shared_memory(status_name(socket_path))
    except posix_ipc.ExistentialError:
        return False
    return True


@dataclasses.dataclass(frozen=True, slots=True)
class _Layout:
    snapshot_bytes: int
    cells: int

    def place(self, number: int) -> int:
        return 2 * _PAGE + (number & 1) * self.snapshot_bytes

    def cell(self, number: int) -> int:
        return 2 * _PAGE + 2 * self.snapshot_bytes + number % self.cells * _CELL

    @property
    def total(self) -> int:
        return 2 * _PAGE + 2 * self.snapshot_bytes + self.cells * _CELL


class StatusWriter:
    """The Vnet's side; whoever makes one holds the Vnet's lock. One thread. Raises OSError when there is no room."""

    def __init__(self, socket_path: Path | str, *, started: float, ports: int, events: int) -> None:
        self.name = status_name(socket_path)
        size = _BASE_BYTES + ports * _PORT_BYTES
        self._layout = _Layout(-(-size // _PAGE) * _PAGE, max(events, 1))
        self._snapshots = 0
        self._events = 0
        self._encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
        try:
            with contextlib.suppress(posix_ipc.ExistentialError):
                posix_ipc.unlink_shared_memory(self.name)  # of a Vnet that crashed
            memory = posix_ipc.SharedMemory(self.name, posix_ipc.O_CREX, mode=0o600)
        except posix_ipc.Error as error:
            raise OSError(f"{self.name}: {error}") from error
        try:
            os.posix_fallocate(memory.fd, 0, self._layout.total)  # or a full /dev/shm would kill us at a later store
            self._map = mmap.mmap(memory.fd, self._layout.total)
        except BaseException:
            memory.unlink()
            raise
        finally:
            memory.close_fd()
        values = (STATUS_VERSION, os.getpid(), self._layout.snapshot_bytes, self._layout.cells, _CELL, 0, started)
        self._map[_LATCH.size : _HEADER.size] = _HEADER.pack(0, *values)[_LATCH.size :]
        self._map[: _LATCH.size] = _LATCH.pack(_MAGIC)

    def write(self, snapshot: Snapshot) -> None:
        """Shows a snapshot; ports that find no room are only counted."""
        fitting = snapshot
        while len(data := self._encoder.encode(fitting)) > self._layout.snapshot_bytes - _FRAME.size:
            keep = len(fitting.ports) * 3 // 4
            if not fitting.ports:
                return
            fitting = msgspec.structs.replace(
                snapshot, ports=snapshot.ports[:keep], more_ports=len(snapshot.ports) - keep
            )
        self._store(self._layout.place(self._snapshots + 1), data)
        self._snapshots += 1
        self._map[_PAGE : _PAGE + _LATCH.size] = _LATCH.pack(self._snapshots)

    def event(
        self, time: float, kind: str, *, uuid: UUID | None = None, alias: str = "", pid: int = 0, text: str = ""
    ) -> None:
        """Adds an event; the oldest makes room. Long texts are cut."""
        self._events += 1
        short = (_cut(alias), _cut(text))
        event = StatusEvent(
            number=self._events, time=time, kind=kind, uuid=uuid, alias=short[0], pid=pid, text=short[1]
        )
        self._store(self._layout.cell(self._events), self._encoder.encode(event))

    def _store(self, offset: int, data: bytes) -> None:
        frame = _FRAME.pack(len(data), zlib.crc32(data))
        self._map[offset : offset + _FRAME.size + len(data)] = frame + data

    def close(self, *, unlink: bool = True) -> None:
        """Unmaps, and takes the name away. Safe twice."""
        if not self._map.closed:
            self._map.close()
            if unlink:
                with contextlib.suppress(posix_ipc.ExistentialError):
                    posix_ipc.unlink_shared_memory(self.name)


class StatusReader:
    """A tool's side: read-only, needs no daemon. Raises StatusError where there is nothing that can be trusted."""

    def __init__(self, socket_path: Path | str) -> None:
        self.name = status_name(socket_path)
        try:
            memory = posix_ipc.SharedMemory(self.name, flags=0, read_only=True)
        except posix_ipc.ExistentialError:
            raise StatusError(self.name, "there is none: no Vnet runs there", True) from None
        except (posix_ipc.PermissionsError, PermissionError):
            raise StatusError(self.name, f"uid {os.geteuid()} may not read it: only the Vnet's own user may") from None
        except (posix_ipc.Error, OSError) as error:
            raise StatusError(self.name, str(error)) from error
        try:
            about = os.fstat(memory.fd)
            if about.st_uid not in (os.geteuid(), 0):
                raise StatusError(self.name, f"belongs to uid {about.st_uid}")
            if about.st_size < 2 * _PAGE:
                raise StatusError(self.name, "is not complete yet")
            self._map = mmap.mmap(memory.fd, about.st_size, prot=mmap.PROT_READ)
        finally:
            memory.close_fd()
        magic, version, self.pid, snapshot_bytes, cells, cell, _, self.started = _HEADER.unpack_from(self._map)
        self._layout = _Layout(snapshot_bytes, cells)
        if magic != _MAGIC or version != STATUS_VERSION or cell != _CELL or self._layout.total > about.st_size:
            self.close()
            raise StatusError(self.name, f"has another layout ({version}, here {STATUS_VERSION}), {_ANOTHER}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def snapshot(self) -> Snapshot:
        """The newest whole snapshot."""
        why = "shows no whole snapshot"
        for _ in range(_TRIES):
            (number,) = _LATCH.unpack_from(self._map, _PAGE)
            data = self._load(self._layout.place(number), self._layout.snapshot_bytes) if number else None
            if data is not None and _LATCH.unpack_from(self._map, _PAGE) == (number,):
                try:
                    return msgspec.msgpack.decode(data, type=Snapshot)
                except msgspec.DecodeError as error:
                    why = f"cannot be read ({error}), {_ANOTHER}"
        raise StatusError(self.name, why)

    def events(self, after: int = 0) -> list[StatusEvent]:
        """The events still there with a number above `after`, oldest first."""
        found = []
        for cell in range(self._layout.cells):
            data = self._load(self._layout.cell(cell), _CELL)
            if data:
                with contextlib.suppress(msgspec.DecodeError):
                    found.append(msgspec.msgpack.decode(data, type=StatusEvent))
        return sorted((event for event in found if event.number > after), key=lambda event: event.number)

    def _load(self, offset: int, room: int) -> bytes | None:
        length, checksum = _FRAME.unpack_from(self._map, offset)
        if not 0 < length <= room - _FRAME.size:
            return None
        data = self._map[offset + _FRAME.size : offset + _FRAME.size + length]
        return data if zlib.crc32(data) == checksum else None

    def close(self) -> None:
        """Unmaps. Safe twice."""
        self._map.close()


def _cut(text: str) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= _TEXT_MAX else data[: _TEXT_MAX - 3].decode("utf-8", "ignore") + "…"
