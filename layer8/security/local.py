"""The provider that needs no set-up: who has my uid is me, and the kernel says who has.

The evidence is not in the proof but in what the verifier sees: SO_PEERCRED of the Unix socket, which the kernel took
when the peer connected or listened. The proof repeats the statement's digest, so that two sides that saw different
bytes notice. Both sides check: the Vnic the Vnet's uid, the Vnet the Vnic's.

It is one trust domain with everything allowed in it: a process can read the memory of every other of its uid anyway.
It is not for a socket that several uids reach, and there is no TLS: it never leaves the host.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import ssl
from collections.abc import Callable

from layer8.errors import Layer8Error
from layer8.security.provider import (
    Action,
    AuditEvent,
    Channel,
    Decision,
    Principal,
    Resource,
    Statement,
    TlsRole,
)

NOBODY = 65534
"""The uid that the kernel shows for everybody it cannot map into this user namespace: many, so nobody."""

_logger = logging.getLogger("layer8.security")


class LocalProvider:
    """Same uid, kernel-checked. A principal is `layer8://local/uid/UID`. Holds nothing; any thread may call it."""

    attests_keys = False

    def __init__(self, uid: int | None = None) -> None:
        """`uid`: whom to trust; by default the effective uid of this process, which is what its peers see of it."""
        self.uid = os.geteuid() if uid is None else uid
        if self.uid == NOBODY:
            raise Layer8Error(f"uid {NOBODY} is nobody in particular and not to be trusted: configure a provider")

    def fingerprint(self) -> bytes:
        return hashlib.sha256(f"layer8 local uid {self.uid}".encode()).digest()

    def tls(self, role: TlsRole) -> ssl.SSLContext:
        raise Layer8Error("the local Security Provider has no TLS: configure another one to reach other hosts")

    def prove(self, statement: Statement) -> bytes:
        return hashlib.sha256(statement.encode()).digest()

    def verify(self, proof: bytes, statement: Statement, seen: Channel) -> Principal:
        if seen.uid is None:
            raise PermissionError("the kernel does not say who the other side is")
        if seen.uid == NOBODY or seen.uid != self.uid:
            raise PermissionError(f"the other side has uid {seen.uid}, this is uid {self.uid}")
        if not hmac.compare_digest(proof, hashlib.sha256(statement.encode()).digest()):
            raise PermissionError("the other side proved another exchange than this one")
        return Principal(uri=self._uri, role=statement.prover_role)

    def authorize(self, who: Principal, action: Action, what: Resource) -> Decision:
        if who.uri != self._uri:
            return Decision(allowed=False, reason=f"{who.uri} is not of uid {self.uid}")
        return Decision(allowed=True, reason="same uid")

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        return lambda: None  # nothing here ever changes

    def audit(self, event: AuditEvent) -> None:
        _logger.log(logging.DEBUG if event.allowed else logging.INFO, "%s", event)

    @property
    def _uri(self) -> str:
        return f"layer8://local/uid/{self.uid}"

    def __repr__(self) -> str:
        return f"LocalProvider(uid={self.uid})"
