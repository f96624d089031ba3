"""The keys of the HTTP port: where it listens, and what has to be said aloud before other hosts reach it."""

from __future__ import annotations

import ipaddress
import re

from layer8.rendezvous import split_address


def read_http(value: object) -> str:
    """ "host:port", with an address in place of a name. Raises ValueError."""
    if not isinstance(value, str) or (value and not re.search(r":\d+$", value)):
        raise ValueError(f'{value!r} is no "address:port", as "127.0.0.1:9464"')
    if value:
        host, _ = split_address(value)
        ipaddress.ip_address(host)
    return value


def check_http(where: str, beyond: bool) -> None:
    """Raises ValueError for an address that other hosts reach, unless that was said."""
    if where and not beyond and not ipaddress.ip_address(split_address(where)[0]).is_loopback:
        raise ValueError(
            f"{where} can be reached by other hosts, and what they ask for goes in plain text: use 127.0.0.1, "
            "or say http_beyond_loopback = true"
        )


def read_switch(value: object) -> bool:
    """true or false. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def read_text(value: object) -> str:
    """Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value
