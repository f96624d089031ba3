"""The search for a Vnet: at which places, how often and how thoroughly, and as whom the Vnic comes there."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator, Sequence
from typing import Protocol
from uuid import UUID

from layer8.errors import Layer8Error, VnetNotFound
from layer8.protocol.control import Farewell
from layer8.protocol.versions import Incompatible
from layer8.rendezvous import FarPlace, Place, candidates
from layer8.security.provider import SecurityProvider
from layer8.vnic import farewells
from layer8.vnic.attachment import (
    HANDSHAKE_SECONDS,
    RING_BYTES,
    Attachment,
    Stopped,
    attach,
    attach_again,
    with_nodes,
)
from layer8.vnic.turns import turn

AGAIN_SECONDS = 3.0
"""What a Vnet may take for each step of re-attaching."""

_QUICK_LOOKS = 4  # at a socket; afterwards nobody listens there, most likely
_LOOK_SECONDS = 1.0
_LONGEST_LOOK_SECONDS = 30.0  # while a Vnet is there that is of another version


class Seeker(Protocol):
    """On whose behalf a Vnet is looked for while the Vnic is away; it is the keeper."""

    @property
    def wake_fd(self) -> int: ...
    @property
    def is_stopped(self) -> bool: ...


class Search:
    """Of one Vnic; one thread at a time. Raises what `attach` raises.

    `secret`: by which a later Vnet knows it. `refusal`: why the Vnet that is there does not take it, if one has said.
    """

    def __init__(
        self,
        uuid: UUID,
        alias: str | None,
        *,
        vnet: str,
        security: SecurityProvider,
        ring_bytes: int | None,
        spin_us: int,
        chime: bool,
    ) -> None:
        self._uuid = uuid
        self._alias = alias
        self._security = security
        self._places = with_nodes(candidates(vnet), security)
        self._ring_bytes = ring_bytes or RING_BYTES
        self._spin_us = spin_us
        self._chime = chime
        self.secret = b""
        self._looked_at: tuple[object, ...] = ()
        self._looks = 0
        self._look_at = 0.0
        self._seconds = _LOOK_SECONDS  # between two looks
        self.refusal = ""

    @property
    def _where(self) -> farewells.Where:
        return self._security.fingerprint(), tuple(self._places)

    def leave_word(self) -> None:
        """This Vnic is closed, and no Vnet has been told."""
        if self.secret:
            farewells.leave(self._where, Farewell(id=0, uuid=self._uuid, secret=self.secret))

    def words(self) -> list[Farewell]:
        """What other Vnics of this process have left to be told to the Vnet that was found."""
        return farewells.take(self._where)

    def attach(self, timeout: float | None, seeker: Seeker | None = None) -> Attachment:
        """With a fresh segment. Without a seeker it is the first time, and whoever makes the Vnic waits."""
        return attach(
            self._places,
            self._security,
            uuid=self._uuid,
            alias=self._alias,
            ring_bytes=self._ring_bytes,
            spin_us=self._spin_us,
            timeout=timeout,
            patience=HANDSHAKE_SECONDS if seeker is None else AGAIN_SECONDS,
            wake=None if seeker is None else seeker.wake_fd,
            stopped=lambda: seeker is not None and seeker.is_stopped,
            resume=self.secret,
            chime=self._chime,
        )

    def attach_again(self, kept: Attachment, seeker: Seeker) -> Attachment:
        """With the segment of an earlier attachment. Raises NotAdopted, too."""
        return attach_again(
            kept,
            self._places,
            self._security,
            uuid=self._uuid,
            alias=self._alias,
            chime=self._chime,
            wake=seeker.wake_fd,
            stopped=lambda: seeker.is_stopped,
        )

    @contextlib.contextmanager
    def look(self, seeker: Seeker) -> Iterator[None]:
        """One look; as long as the sockets are what they were, a thorough one now and then only, and ever more seldom
        where a Vnet of another version listens. Raises VnetNotFound when it is not the time for one, and Stopped."""
        places, now = _signatures(self._places), time.monotonic()
        if places != self._looked_at:
            self._looked_at, self._looks, self._seconds, self.refusal = places, 0, _LOOK_SECONDS, ""
        self._looks += 1
        if self._looks > _QUICK_LOOKS and now < self._look_at:
            raise VnetNotFound(tuple(map(str, self._places)))
        self._look_at = now + self._seconds * random.uniform(0.5, 1.0)
        with turn(self._places, lambda: seeker.is_stopped) as mine:
            if not mine:
                raise Stopped
            try:
                yield
            except Incompatible as error:
                self.refusal = str(error)
                self._looks = _QUICK_LOOKS
                self._seconds = min(2 * self._seconds, _LONGEST_LOOK_SECONDS)
                raise
            except VnetNotFound:
                self.refusal = ""
                raise
            except Layer8Error as error:
                self.refusal = str(error)
                raise
            self.refusal, self._seconds = "", _LOOK_SECONDS


def _signatures(places: Sequence[Place]) -> tuple[object, ...]:
    """Another one for each place where another socket stands now."""
    found: list[object] = []
    for place in places:
        if isinstance(place, FarPlace):
            continue
        try:
            about = os.stat(place)
            found.append((about.st_dev, about.st_ino, about.st_ctime_ns))
        except OSError:
            found.append(None)
    return tuple(found)
