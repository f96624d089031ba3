"""How long a measurement goes on, the same for every carrier."""

from __future__ import annotations

import time
from collections.abc import Iterator

PATIENCE = 60.0  # seconds that anything may take before a benchmark has failed
_WARM_UP = 0.2  # of the time, before anything is counted


def paced(seconds: float) -> Iterator[bool]:
    """True from the end of the warm-up on, until the time is over; on a slow machine once after that."""
    begun = time.perf_counter()
    counts = False
    while (spent := time.perf_counter() - begun) < seconds or not counts:
        counts = spent >= seconds * _WARM_UP
        yield counts
