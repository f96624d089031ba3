"""The keys of a Vnet's table that say who it is, whom it lets in, and who may do what.

security = "x509"                               which Security Provider (layer8.security.loader)
identity = "/var/lib/layer8/shop/host-a"        directory of this Vnet's certificate
authority = "/var/lib/layer8/shop/authority"    where leaves are renewed: a directory on this host, or HOST:PORT
enrol = ["0.0.0.0:7443"]                        where others join and renew: HOST:PORT, or a Unix socket
policy = "/etc/layer8/policy.toml"              who may do what; without this key the provider decides alone
audit = "/var/log/layer8/audit.jsonl"           where every decision is written
admit_uids = [1001, "web"]                      whose processes may attach besides this user's: then, and only
admit_gids = ["www-data"]                       then, the socket is open for everybody (0666 in a 0755 directory)
admit_identities = ["layer8://shop/vnic/*"]     and it is proofs that decide
"""

from __future__ import annotations

import grp
from collections.abc import Callable, Mapping
from pathlib import Path

from layer8.security.loader import FORMS, uid_of
from layer8.security.policy import Pattern


def _security(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not {FORMS}")
    return value


def _path(value: object) -> Path:
    if not isinstance(value, str) or not Path(value).is_absolute():
        raise ValueError(f"{value!r} is not an absolute path")
    return Path(value)


def _place(value: object) -> str:
    if isinstance(value, str) and (Path(value).is_absolute() or value.rpartition(":")[2].isdecimal()):
        return value
    raise ValueError(f"{value!r} is neither an absolute path nor HOST:PORT")


def _numbers(named: Callable[[str], int]) -> Callable[[object], tuple[int, ...]]:
    def read(value: object) -> tuple[int, ...]:
        if not isinstance(value, list):
            raise ValueError("give a list of numbers or names")
        found = []
        for item in value:
            if isinstance(item, bool) or not isinstance(item, int | str) or (isinstance(item, int) and item < 0):
                raise ValueError(f"{item!r} is neither a number nor a name")
            found.append(item if isinstance(item, int) else named(item))
        return tuple(found)

    return read


def _gid_of(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {text!r}") from None


def _identities(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError('give a list of principals, as ["layer8://shop/vnic/*"]')
    for item in value:
        Pattern.parse(item)
    return tuple(value)


def _places(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError('give a list, as ["0.0.0.0:7443"]')
    return tuple(_place(item) for item in value)


READERS: Mapping[str, Callable[[object], object]] = {
    "security": _security,
    "identity": _path,
    "authority": _place,
    "enrol": _places,
    "policy": _path,
    "audit": _path,
    "admit_uids": _numbers(uid_of),
    "admit_gids": _numbers(_gid_of),
    "admit_identities": _identities,
}
"""For each key what makes its value; raises ValueError."""
