"""layer8: a network for processes. A program creates a Vnic and talks to any other by uuid, alias or topic.

These are the public names; everything else is private. Each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layer8.errors import (
        Backpressure,
        Closed,
        Layer8Error,
        MessageTooLarge,
        NotAuthorized,
        NotFound,
        RequestFailed,
        RequestTimeout,
        SecurityMismatch,
        Unreachable,
        VnetNotFound,
    )
    from layer8.health_record import ElectionEvent, HealthEvent, HealthRecord, LinkRecord, State
    from layer8.message import Message, Request, Undeliverable
    from layer8.vnic import AsyncRequest, AsyncVnic, Vnic

__all__ = [
    "Vnic",
    "AsyncVnic",
    "Message",
    "Request",
    "AsyncRequest",
    "Undeliverable",
    "HealthRecord",
    "HealthEvent",
    "LinkRecord",
    "ElectionEvent",
    "State",
    "Layer8Error",
    "VnetNotFound",
    "SecurityMismatch",
    "NotAuthorized",
    "Unreachable",
    "NotFound",
    "Backpressure",
    "RequestTimeout",
    "RequestFailed",
    "Closed",
    "MessageTooLarge",
]

_HOMES = {
    "Vnic": "layer8.vnic",
    "AsyncVnic": "layer8.vnic",
    "AsyncRequest": "layer8.vnic",
    "Message": "layer8.message",
    "Request": "layer8.message",
    "Undeliverable": "layer8.message",
    "HealthRecord": "layer8.health_record",
    "State": "layer8.health_record",
    "ElectionEvent": "layer8.health_record",
    "HealthEvent": "layer8.health_record",
    "LinkRecord": "layer8.health_record",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES.get(name, "layer8.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
