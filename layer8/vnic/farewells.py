"""Vnics of this process that were closed while no Vnet was there. They are in the Vnet's list all the same, and the
next one would wait for them; so whoever of this process attaches there next says that they do not come.

Only to a Vnet of the same trust domain: the secret of an earlier attach is what proves it. A word may be lost, for
nothing is locked where a signal handler may close a Vnic: then that one is awaited.
"""

from __future__ import annotations

import os
from collections import deque

from layer8.protocol.control import Farewell
from layer8.rendezvous import Place

Where = tuple[bytes, tuple[Place, ...]]
"""Fingerprint of the trust domain, and the places where the Vnet is looked for."""

_MOST = 1024  # Vnics at one place; of more the next Vnet waits for the oldest

_said: dict[Where, deque[Farewell]] = {}


def leave(where: Where, farewell: Farewell) -> None:
    """Keeps it for whoever attaches there next. Any thread."""
    _said.setdefault(where, deque(maxlen=_MOST)).append(farewell)


def take(where: Where) -> list[Farewell]:
    """What is to be said there; the caller says it. Any thread."""
    return list(_said.pop(where, ()))


os.register_at_fork(after_in_child=_said.clear)  # they were the parent's
