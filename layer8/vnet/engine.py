"""Which ElectionEngine decides for a Vnet: the embedded one, or what the setting election_engine names."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable

from layer8.health.election import ElectionEngine, OneHost

_OPERATIONS = (
    *("serves_hosts", "lease", "deadline", "start", "close", "has_room", "stand"),
    *("leave", "renew", "set_fit", "forget", "persisted", "tick"),
)


def read_engine(value: object) -> str:
    """ "module:factory", or empty. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is no "module:factory"')
    module, colon, factory = value.partition(":")
    if value and not (module and colon and factory):
        raise ValueError(f'{value!r} is no "module:factory"')
    return value


def make_engine(spec: str, lease: float) -> ElectionEngine:
    """The engine that `spec` names, with leases of `lease` seconds; empty: the embedded one.

    Raises whatever the import or the factory raises, TypeError for what lacks operations.
    """
    first_term = int(time.time())
    if not spec:
        return OneHost(lease=lease, first_term=first_term)
    module, _, factory = spec.partition(":")
    make: object = importlib.import_module(module)
    for name in factory.split("."):
        make = getattr(make, name)
    if not isinstance(make, Callable):  # type: ignore[arg-type]
        raise TypeError(f"{spec} is not callable, so it makes no ElectionEngine")
    engine: ElectionEngine = make(lease=lease, first_term=first_term)  # type: ignore[operator]
    missing = ", ".join(name for name in _OPERATIONS if not hasattr(engine, name))
    if missing:
        raise TypeError(f"what {spec} returned is no ElectionEngine; it lacks {missing}")
    return engine
