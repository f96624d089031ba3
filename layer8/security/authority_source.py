"""Where a provider by certificate gets newer lists and renews: the authority's directory, or its port."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from layer8.security import enrolment_client
from layer8.security.authority import Authority
from layer8.security.enrolment import Given, Renew, renewed
from layer8.security.identity import Credentials

Lists = tuple[bytes, bytes]

ASK_SECONDS = 3.0
"""How often an authority elsewhere is asked for newer lists: what it has revoked is closed within 5 s."""


class Source(Protocol):
    """One thread at a time, except for `renew`."""

    def newer_lists(self, held: Credentials) -> Lists | None:
        """The list of roots and the revocation list, or None when there is nothing new. Raises Layer8Error."""

    def again(self) -> None:
        """What `newer_lists` gave last could not be put to use: it shall give it again."""

    def renew(self, question: Renew, held: Credentials, now: float) -> Given:
        """What was asked proves itself: it may be another's. `held`: our own. Raises Layer8Error."""


class DirectorySource:
    """The authority's own directory."""

    def __init__(self, path: Path) -> None:
        self._authority = Authority(path)
        self._seen: object = None

    def newer_lists(self, held: Credentials) -> Lists | None:
        seen = self._authority.signature()
        if seen == self._seen:
            return None
        lists = self._authority.lists()
        self._seen = seen
        return lists

    def again(self) -> None:
        self._seen = None

    def renew(self, question: Renew, held: Credentials, now: float) -> Given:
        issued = renewed(self._authority, question, now)
        return Given(certificate=issued.certificate, trust=issued.trust, revoked=issued.revoked)


class RemoteSource:
    """An authority at HOST:PORT, or at a Unix socket."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._next = 0.0

    def newer_lists(self, held: Credentials) -> Lists | None:
        if time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + ASK_SECONDS
        return enrolment_client.fetch_lists(held, self._address)

    def again(self) -> None:
        pass  # it asks every few seconds

    def renew(self, question: Renew, held: Credentials, now: float) -> Given:
        return enrolment_client.pass_on(question, held.trust, self._address)
