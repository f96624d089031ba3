"""What the numbers mean that the C core takes, returns and writes into records (layout.h, core.cdef.h)."""

from __future__ import annotations

import enum
import os

from layer8.dataplane._core import ffi, lib

SLOTS: int = lib.LAYER8_SLOTS
"""Handles of one Vnic."""

TOPICS: int = lib.LAYER8_TOPICS
"""Subscriptions of one Vnic."""

FRAGMENT_BYTES: int = lib.LAYER8_FRAGMENT_BYTES
"""Header map and payload of one record, at most; the calls for whole messages take no more."""

HEADERS_MAX: int = lib.LAYER8_HEADERS_MAX
"""Bytes of an encoded header map."""

HALF_BYTES: int = lib.LAYER8_HALF_BYTES
GOING_MAX: int = lib.LAYER8_GOING_MAX
HALVES_MAX: int = lib.LAYER8_HALVES_MAX

NO_SOURCE: int = lib.LAYER8_NO_SOURCE
"""The source of an entry when it stands in its record only: of a notice, and when numbers have run out."""


class Status(enum.IntEnum):
    """Result of a call, 0 or negative. FULL: no room in the transmit ring now. XOFF: the destination takes no more
    now. INTERRUPTED: a signal came, or somebody woke the port; look around and call again. AWAY: no Vnet is there
    now."""

    OK = lib.LAYER8_OK
    FULL = lib.LAYER8_FULL
    XOFF = lib.LAYER8_XOFF
    GONE = lib.LAYER8_GONE
    REVOKED = lib.LAYER8_REVOKED
    TOO_LARGE = lib.LAYER8_TOO_LARGE
    CORRUPT = lib.LAYER8_CORRUPT
    INVALID = lib.LAYER8_INVALID
    CLOSED = lib.LAYER8_CLOSED
    SYSTEM = lib.LAYER8_SYSTEM
    INTERRUPTED = lib.LAYER8_INTERRUPTED
    AWAY = lib.LAYER8_AWAY


class Kind(enum.IntEnum):
    """Kind of a record."""

    UNICAST = lib.LAYER8_UNICAST
    PUBLISH = lib.LAYER8_PUBLISH
    REQUEST = lib.LAYER8_REQUEST
    REPLY = lib.LAYER8_REPLY
    FAILED_REPLY = lib.LAYER8_FAILED_REPLY
    CANCEL = lib.LAYER8_CANCEL
    ABORT = lib.LAYER8_ABORT
    NOTICE = lib.LAYER8_NOTICE


class Flag(enum.IntFlag):
    """Flags of a record and, from ENTRY_MISSED on, of an entry in the receive table."""

    FIRST = lib.LAYER8_FIRST
    LAST = lib.LAYER8_LAST
    RETRY = lib.LAYER8_RETRY
    SEALED = lib.LAYER8_SEALED
    HEADERS = lib.LAYER8_HEADERS
    RELIABLE = lib.LAYER8_RELIABLE
    ENTRY_MISSED = lib.LAYER8_ENTRY_MISSED
    ENTRY_LARGE = lib.LAYER8_ENTRY_LARGE


class SlotState(enum.IntEnum):
    """What the Vnet says of a handle."""

    OPEN = 0
    XOFF = 1
    GONE = 2
    REVOKED = 3
    METERED = 4  # open; the library writes in bursts


class Reason(enum.IntEnum):
    """Why a record came back, a request failed or a port was closed."""

    NONE = 0
    GONE = 1
    NOT_FOUND = 2
    REVOKED = 3
    EXPIRED = 4
    ABORTED = 5
    UNANSWERED = 6
    TOO_MANY = 7
    UNREACHABLE = 8
    UNKNOWN = 9
    FAILED = 10
    VIOLATION = 11
    LOST_NOTICES = 12


class Target(enum.IntEnum):
    """What a handle stands for on the switch."""

    PORT = lib.LAYER8_TARGET_PORT
    ALIAS = lib.LAYER8_TARGET_ALIAS
    TOPIC = lib.LAYER8_TARGET_TOPIC
    REFUSED = lib.LAYER8_TARGET_REFUSED  # of a proxy: what comes under the handle goes back


class Allow(enum.IntFlag):
    """What a handle on a Vnic or an alias is for."""

    SEND = lib.LAYER8_ALLOW_SEND
    REQUEST = lib.LAYER8_ALLOW_REQUEST


class Command(enum.IntEnum):
    """What the control plane asks of the switch; core.cdef.h says what a to d mean."""

    ADD_PORT = lib.LAYER8_COMMAND_ADD_PORT
    REMOVE_PORT = lib.LAYER8_COMMAND_REMOVE_PORT
    GRANT = lib.LAYER8_COMMAND_GRANT
    REVOKE = lib.LAYER8_COMMAND_REVOKE
    JOIN_ALIAS = lib.LAYER8_COMMAND_JOIN_ALIAS
    LEAVE_ALIAS = lib.LAYER8_COMMAND_LEAVE_ALIAS
    SUBSCRIBE = lib.LAYER8_COMMAND_SUBSCRIBE
    UNSUBSCRIBE = lib.LAYER8_COMMAND_UNSUBSCRIBE
    QUIESCE = lib.LAYER8_COMMAND_QUIESCE
    STOP = lib.LAYER8_COMMAND_STOP
    RESUME = lib.LAYER8_COMMAND_RESUME
    START = lib.LAYER8_COMMAND_START
    ADD_LINK = lib.LAYER8_COMMAND_ADD_LINK
    LINK_UP = lib.LAYER8_COMMAND_LINK_UP
    LINK_DOWN = lib.LAYER8_COMMAND_LINK_DOWN
    REMOVE_LINK = lib.LAYER8_COMMAND_REMOVE_LINK
    ADD_REMOTE = lib.LAYER8_COMMAND_ADD_REMOTE
    REFUSE_SOURCE = lib.LAYER8_COMMAND_REFUSE_SOURCE


class Event(enum.IntEnum):
    """What the switch says. DONE: a command was carried out. GONE: a port is reaped. VIOLATION: GONE follows. RESOLVE:
    may a Vnic of another host send that? LINK_VIOLATION: nothing more is taken from this connection."""

    DONE = lib.LAYER8_EVENT_DONE
    GONE = lib.LAYER8_EVENT_GONE
    VIOLATION = lib.LAYER8_EVENT_VIOLATION
    RESOLVE = lib.LAYER8_EVENT_RESOLVE
    LINK_VIOLATION = lib.LAYER8_EVENT_LINK_VIOLATION


def error_of_status(status: int, what: str) -> OSError | ValueError:
    """The exception for a call that opens something. Call it before anything else is asked of the C core."""
    if status == Status.SYSTEM:
        number = ffi.errno
        return OSError(number, f"{what}: {os.strerror(number)}")
    return ValueError(f"{what}: {Status(status).name.lower()}")
