"""What users call things by: topics, aliases, Vnet names, destinations and time-outs, checked where they come in.

Each check returns its argument in the form the rest of the code uses, so that a caller writes
`topic = check_topic(topic)` once and nobody checks again. A wrong type is TypeError, a wrong value ValueError.
"""

from __future__ import annotations

import operator
import re
import sys
from uuid import UUID

from layer8.health_record import HealthRecord

NAME_BYTES = 255
"""Longest topic or alias, in UTF-8 bytes."""

RESERVED = "layer8."
"""Topics, aliases and header names that begin with this belong to layer8 itself."""

OWN_TOPICS = ("layer8.alarms",)
"""Reserved topics that anybody may subscribe to who is allowed to: a Vnet publishes on them."""

_LONGEST = 1e9
"""Seconds; whoever says that he waits longer waits for ever. A clock's number plus this is still exact."""

_VNET_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def check_topic(topic: str, *, to_subscribe: bool = False) -> str:
    """A topic for publish or subscribe: 1 to 255 UTF-8 bytes, taken literally, not beginning with `layer8.`.

    `to_subscribe`: the topics that a Vnet itself publishes on (OWN_TOPICS) are topics, too.
    """
    return _check_name(topic, "topic", reserved=to_subscribe and topic in OWN_TOPICS)


def check_alias(alias: str) -> str:
    """An alias: the same rule as a topic, and not the text of a UUID, so that a destination says what it is."""
    _check_name(alias, "alias")
    if _is_uuid(alias):
        raise ValueError(f"alias {alias!r} reads as a UUID; pass uuid.UUID(...) to mean one Vnic")
    return alias


def check_vnet_name(name: str) -> str:
    """A Vnet's name, which is part of a file name: 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a Vnet is a str, not {type(name).__name__}")
    if not _VNET_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a Vnet: 1 to 64 of the characters A-Z a-z 0-9 . _ - can, not beginning with a dot"
        )
    return name


def check_timeout(timeout: float | None) -> float | None:
    """A time-out in seconds: None (and more than thirty years) is for ever and comes back as None, 0 does not wait."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"a time-out is a number of seconds or None, not {type(timeout).__name__}")
    if not timeout >= 0:  # also catches nan
        raise ValueError(f"a time-out of {timeout} s is not possible: None is for ever, 0 does not wait")
    if timeout > _LONGEST:
        return None  # also a whole number that no float can hold
    return timeout


def check_count(count: int, what: str) -> int:
    """How many, a whole number of at least 1. `what`: the beginning of the error, as in "a stream keeps"."""
    try:
        number = operator.index(count)
    except TypeError:
        raise TypeError(f"{what} a whole number, not {type(count).__name__}") from None
    if number < 1:
        raise ValueError(f"{what} at least 1, not {number}")
    return min(number, sys.maxsize)


def destination(to: UUID | HealthRecord | str) -> UUID | str:
    """What `to` of send and request means: the uuid of one Vnic, or an alias."""
    if isinstance(to, UUID):
        return to
    if isinstance(to, HealthRecord):
        return to.uuid
    if isinstance(to, str):
        return check_alias(to)
    raise TypeError(f"a destination is a UUID, a HealthRecord or an alias (str), not {type(to).__name__}")


def _check_name(name: str, what: str, *, reserved: bool = False) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{_article(what)} is a str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} {name!r} cannot be written as UTF-8") from error
    if not 1 <= size <= NAME_BYTES:
        raise ValueError(f"{_article(what)} has 1 to {NAME_BYTES} bytes of UTF-8, this one has {size}")
    if name.startswith(RESERVED) and not reserved:
        raise ValueError(f"{what} {name!r} begins with {RESERVED!r}, which is reserved")
    return name


def _article(what: str) -> str:
    return f"an {what}" if what == "alias" else f"a {what}"


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
