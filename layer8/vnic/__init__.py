"""The library: `Vnic`, `AsyncVnic` and what they give back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from layer8.vnic.statistics import VnicStats
from layer8.vnic.subscription import Service, Stream, Subscription
from layer8.vnic.vnic import Vnic

if TYPE_CHECKING:
    from layer8.vnic.async_request import AsyncRequest
    from layer8.vnic.async_subscription import AsyncService, AsyncStream, AsyncSubscription
    from layer8.vnic.async_vnic import AsyncVnic

__all__ = [
    "AsyncRequest",
    "AsyncService",
    "AsyncStream",
    "AsyncSubscription",
    "AsyncVnic",
    "Service",
    "Stream",
    "Subscription",
    "Vnic",
    "VnicStats",
]

_ASYNC = {
    "AsyncRequest": "layer8.vnic.async_request",
    "AsyncService": "layer8.vnic.async_subscription",
    "AsyncStream": "layer8.vnic.async_subscription",
    "AsyncSubscription": "layer8.vnic.async_subscription",
    "AsyncVnic": "layer8.vnic.async_vnic",
}


def __getattr__(name: str) -> object:
    """What needs asyncio is imported when it is first used: a program of threads need not load it."""
    if name not in _ASYNC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_ASYNC[name]), name)
    globals()[name] = value
    return value
