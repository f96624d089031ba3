"""Who may come in by the socket besides this user: uids and gids that the kernel vouches for, identities that the
provider proves. As long as nobody else is named, the socket is this user's alone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

from layer8.protocol.statement import Channel, Principal
from layer8.security.policy import Pattern

NOBODY = 65534
"""The uid that the kernel shows for everybody it cannot map into this user namespace: many, so nobody."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """`uids`, `gids`: by the kernel's word. `identities`: principals, literal or with a star at the end."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    identities: tuple[Pattern, ...] = ()

    def __post_init__(self) -> None:
        if NOBODY in self.uids or NOBODY in self.gids:
            raise ValueError(f"{NOBODY} is nobody in particular and cannot be admitted")

    @classmethod
    def of(cls, uids: Iterable[int] = (), gids: Iterable[int] = (), identities: Iterable[str] = ()) -> Admitted:
        """Raises ValueError."""
        patterns = tuple(Pattern.parse(text) for text in identities)
        return cls(uids=frozenset(uids), gids=frozenset(gids), identities=patterns)

    @property
    def others(self) -> bool:
        """Whether anybody besides this user may come in."""
        return bool(self.uids or self.gids or self.identities)

    def names(self, seen: Channel) -> bool:
        """Whether the uid or gid at the other end of a Unix socket is one of ours to admit."""
        return seen.uid is not None and seen.uid != NOBODY and (seen.uid in self.uids or seen.gid in self.gids)

    def admits(self, seen: Channel, who: Principal) -> bool:
        """`seen` with `uid` None did not come by a Unix socket and is not judged here."""
        if seen.uid is None or seen.uid == os.geteuid() or self.names(seen):
            return True
        return any(pattern.matches(who.uri) for pattern in self.identities)
