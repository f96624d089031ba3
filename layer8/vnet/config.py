"""What a Vnet may be told: one TOML file with a table for each Vnet, checked as a whole before anything starts.

    log_level = "info"

    [vnet.default]
    grace = 5.0
    ports_per_uid = 256

Every key has a default, so no file is needed. A key that is not known is an error that names it: a limit that was
misspelt must not be a limit that is not there.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path

from layer8.errors import Layer8Error
from layer8.names import check_vnet_name
from layer8.rendezvous import split_address
from layer8.vnet.config_alarms import AlarmConfig, parse_alarms
from layer8.vnet.config_http import check_http, read_http, read_switch, read_text
from layer8.vnet.engine import read_engine
from layer8.vnet.security_keys import READERS

LOG_LEVELS = ("debug", "info", "warning", "error")

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


class ConfigError(Layer8Error):
    """The configuration cannot be used. `where`: the file, or file and key; `what`: what is wrong with it."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(where, what)
        self.where = where
        self.what = what

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VnetConfig:
    """Settings of one Vnet. Sizes are bytes, times seconds unless the name says otherwise."""

    name: str = "default"
    socket: Path | None = None  # where to listen, in place of the runtime directory
    listen: tuple[str, ...] = ()  # "host:port", where other hosts reach this Vnet by TLS; nowhere by default
    advertise: tuple[str, ...] = ()  # where others shall dial, if `listen` does not say it
    peers: tuple[str, ...] = ()  # "host:port" of other Vnets; a name counts with all its addresses, again and again
    beacons: tuple[str, ...] = ()  # "group:port" of multicast groups on the LAN, where Vnets find each other
    host: str = ""  # the name of this host in health records; by default what the system says
    security: str = "local"  # this and what follows: see layer8.vnet.security_keys
    identity: Path | None = None
    authority: str = ""
    enrol: tuple[str, ...] = ()
    policy: Path | None = None
    audit: Path | None = None
    admit_uids: tuple[int, ...] = ()
    admit_gids: tuple[int, ...] = ()
    admit_identities: tuple[str, ...] = ()
    http: str = ""  # "host:port" for metrics, signs of life and the page; off by default
    http_beyond_loopback: bool = False  # `http` may name an address that other hosts reach, in plain text
    http_as: str = ""  # the principal whose right to read-health decides; by default the Vnet's own
    alarms: AlarmConfig = dataclasses.field(default_factory=AlarmConfig)  # [vnet.NAME.alarms]: vnet/config_alarms.py
    max_message_bytes: int = 64 * _MIB
    max_ring_bytes: int = 64 * _MIB  # of a Vnic's receive ring
    max_ports: int = 1024
    max_aliases: int = 4096
    max_topics: int = 16384
    max_requests: int = 65536  # outstanding, of all ports together
    max_requests_per_port: int = 1024
    ports_per_uid: int = 1024
    bytes_per_uid: int = 4 * _GIB  # of all segments of one uid
    silent_per_uid: int = 1024  # connections that have said nothing yet
    pending_per_uid: int = 256  # attaches under way
    observers_per_uid: int = 256  # control connections without a port (tools)
    finds_per_port: int = 1024  # that wait at one time
    watches_per_port: int = 64
    pending_per_address: int = 64  # connections from one address of the network that have not proved anything yet
    pending_connections: int = 512  # the same, of all addresses
    far_alive: float = 2.0  # a far Vnic and its Vnet say at least so often that they are there
    far_patience: float = 5.0  # that a far Vnic, or its connection, may be silent or gone before its port is closed
    max_far: int = 8192  # Vnics of other hosts that somebody here has to do with, and their Vnets
    keep_alive: float = 2.0  # something is sent on every link at least so often
    give_up: float = 5.0  # after the last thing heard of another Vnet
    resolve_interval: float = 10.0  # between two looks at the addresses of a name
    attach_timeout: float = 3.0
    provider_timeout: float = 2.0
    provider_workers: int = 4
    return_patience: float = 5.0  # after a Vnet's death: that the next waits for each of those who had been attached
    grace: float = 5.0  # that a clean stop waits for what is on its way
    hold: float = 5.0  # that what a dead Vnic had sent may still wait for a stuck destination
    spin_us: int = 0  # the switch spins so long before it sleeps
    visit_records: int = 64
    visit_bytes: int = 64 * _KIB
    status_ports: int = 1024  # that the status segment has room for
    status_events: int = 4096
    status_interval: float = 1.0  # between two looks at the counters while they move
    look_interval: float = 1.5  # between two looks at each process and ring
    statistics_interval: float = 10.0  # between two readings of all figures
    suspect_after: float = 5.0  # that a Vnic leaves a ring unread which holds its senders back
    election_lease: float = 2.0  # that a leader leads without being heard of
    election_engine: str = ""  # "module:factory", who decides elections; by default this Vnet, for one host
    keep_down: float = 60.0  # that the record of who is gone stays visible

    @property
    def admits_others(self) -> bool:
        """Whether anybody but this user may attach."""
        return bool(self.admit_uids or self.admit_gids or self.admit_identities)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of one daemon."""

    vnets: tuple[VnetConfig, ...] = (VnetConfig(),)
    log_level: str = "info"


_READERS = {
    **READERS,
    "alarms": parse_alarms,
    "http": read_http,
    "http_beyond_loopback": read_switch,
    "http_as": read_text,
    "election_engine": read_engine,
}
"""Keys whose value has a form of its own: what reads it, and raises ValueError."""

_ADDRESSES = ("listen", "advertise", "peers", "beacons")

# Smallest and largest value of each number.
_RANGES: Mapping[str, tuple[float, float]] = {
    "max_message_bytes": (1, _GIB),
    "max_ring_bytes": (512 * _KIB, _GIB),
    "max_ports": (1, 65535),
    "max_aliases": (1, 65535),
    "max_topics": (1, 65535),
    "max_requests": (1, 1 << 24),
    "max_requests_per_port": (1, 1 << 20),
    "ports_per_uid": (0, 65535),
    "bytes_per_uid": (0, 1 << 46),
    "silent_per_uid": (1, 65535),
    "pending_per_uid": (1, 65535),
    "observers_per_uid": (0, 65535),
    "finds_per_port": (0, 1 << 20),
    "watches_per_port": (0, 1 << 20),
    "pending_per_address": (1, 65535),
    "pending_connections": (1, 65535),
    "far_alive": (0.05, 600),
    "far_patience": (0.1, 3600),
    "max_far": (1, 65535),
    "keep_alive": (0.05, 60),
    "give_up": (0.1, 600),
    "resolve_interval": (0.1, 3600),
    "attach_timeout": (0.01, 60),
    "provider_timeout": (0.01, 60),
    "provider_workers": (1, 256),
    "return_patience": (0.1, 30),
    "grace": (0, 3600),
    "hold": (0, 3600),
    "spin_us": (0, 100_000),
    "visit_records": (1, 4096),
    "visit_bytes": (4 * _KIB, 16 * _MIB),
    "status_ports": (0, 65535),
    "status_events": (0, 65536),
    "status_interval": (0.1, 3600),
    "look_interval": (0.05, 60),
    "statistics_interval": (0.1, 3600),
    "suspect_after": (0.1, 3600),
    "election_lease": (0.2, 60),
    "keep_down": (0, 86400),
}


def has_several_hosts(config: VnetConfig) -> bool:
    """Whether the overlay has, or may have, other hosts: whatever says where they are or where they reach this one."""
    return bool(config.listen or config.peers)  # beacons need `listen`


def read(path: Path, only: str | None = None) -> Config:
    """Reads a file. `only`: this Vnet of those in it. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(str(path), str(reason)) from error
    config = parse(document, str(path))
    if only is None:
        return config
    chosen = tuple(vnet for vnet in config.vnets if vnet.name == only)
    if not chosen:
        names = ", ".join(vnet.name for vnet in config.vnets)
        raise ConfigError(str(path), f"it has no table [vnet.{only}]; it has {names}")
    return dataclasses.replace(config, vnets=chosen)


def parse(document: Mapping[str, object], where: str = "configuration") -> Config:
    """Checks a whole document. Raises ConfigError for the first thing wrong."""
    for key in document:
        if key not in ("vnet", "log_level"):
            raise ConfigError(where, f"unknown key {key!r}; known are log_level and the tables [vnet.NAME]")
    level = document.get("log_level", "info")
    if level not in LOG_LEVELS:
        raise ConfigError(f"{where}: log_level", f"{level!r} is none of {', '.join(LOG_LEVELS)}")
    tables = document.get("vnet", {"default": {}})
    if not isinstance(tables, Mapping) or not tables:
        raise ConfigError(f"{where}: vnet", "give a table for each Vnet, as [vnet.default]")
    return Config(vnets=tuple(_vnet(name, table, where) for name, table in tables.items()), log_level=str(level))


def _vnet(name: str, table: object, where: str) -> VnetConfig:
    place = f"{where}: vnet.{name}"
    try:
        check_vnet_name(name)
    except ValueError as error:
        raise ConfigError(place, str(error)) from error
    if not isinstance(table, Mapping):
        raise ConfigError(place, f"give a table, as [vnet.{name}]; a Vnet needs a name of its own")
    values: dict[str, object] = {}
    for key, value in table.items():
        if key == "socket":
            if not isinstance(value, str) or not Path(value).is_absolute():
                raise ConfigError(f"{place}.{key}", f"{value!r} is not an absolute path")
            values[key] = Path(value)
        elif key in _READERS:
            try:
                values[key] = _READERS[key](value)
            except ValueError as error:
                raise ConfigError(f"{place}.{key}", str(error)) from error
        elif key == "host":
            if not isinstance(value, str) or not 0 < len(value) <= 253 or not value.isprintable():
                raise ConfigError(f"{place}.{key}", f"{value!r} is no name of a host")
            values[key] = value
        elif key in _ADDRESSES:
            values[key] = _addresses(value, f"{place}.{key}")
        elif key in _RANGES:
            values[key] = _number(key, value, f"{place}.{key}")
        else:
            known = ", ".join(("socket", "host", *_READERS, *_ADDRESSES, *_RANGES))
            raise ConfigError(place, f"unknown key {key!r}; known are {known}")
    try:
        check_http(str(values.get("http", "")), bool(values.get("http_beyond_loopback", False)))
    except ValueError as error:
        raise ConfigError(f"{place}.http", str(error)) from error
    return dataclasses.replace(VnetConfig(name=name), **values)  # type: ignore[arg-type]


def _addresses(value: object, place: str) -> tuple[str, ...]:
    """One "host:port" or a list of them."""
    addresses = [value] if isinstance(value, str) else value
    if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
        raise ConfigError(place, f'{value!r} is no "host:port" and no list of them')
    for address in addresses:
        try:
            split_address(address)
        except ValueError as error:
            raise ConfigError(place, str(error)) from error
    return tuple(addresses)


def _number(key: str, value: object, place: str) -> float:
    least, most = _RANGES[key]
    whole = isinstance(VnetConfig.__dataclass_fields__[key].default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ConfigError(place, f"{value!r} is not a {'whole number' if whole else 'number'}")
    assert isinstance(value, int | float)
    if not least <= value <= most:  # also what is not a number
        raise ConfigError(place, f"{value} is not within {least:g} and {most:g}")
    return value
