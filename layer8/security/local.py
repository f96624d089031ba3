"""The provider that needs no set-up: who has my uid is me, and the kernel says who has.

The evidence is not in the proof but in what the verifier sees: SO_PEERCRED of the Unix socket, which the kernel took
when the peer connected or listened. The proof repeats the statement's digest, so that two sides that saw different
bytes notice. Both sides check: the Vnic the Vnet's uid, the Vnet the Vnic's.

It is one trust domain: a process can read the memory of every other of its uid anyway, and so everything is allowed in
it unless a policy stands in front. A Vnet may admit other uids and gids (`Admitted`), whose processes then name the uid
that they trust: `Vnic(security="local:UID")`. There is no TLS: it never leaves the host.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import ssl
from collections.abc import Callable

from layer8.errors import Layer8Error
from layer8.security.admitted import NOBODY, Admitted
from layer8.security.provider import (
    Action,
    AuditEvent,
    Channel,
    Decision,
    Principal,
    Resource,
    Role,
    Statement,
    TlsRole,
)

_URI = "layer8://local/uid/"

_logger = logging.getLogger("layer8.security")


class LocalProvider:
    """Same uid, kernel-checked. A principal is `layer8://local/uid/UID`. Holds nothing; any thread may call it.

    `socket_owners`: whose sockets a Vnic may ask, besides its own and the system's.
    """

    attests_keys = False

    def __init__(self, uid: int | None = None, admitted: Admitted | None = None) -> None:
        """`uid`: whose Vnet this is; by default that of the effective uid of this process, which is what its peers see
        of it. `admitted`: who else may attach, for a Vnet."""
        self.uid = os.geteuid() if uid is None else uid
        self._admitted = admitted or Admitted()
        self.socket_owners: tuple[int, ...] | None = (self.uid,)
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
        if seen.uid == NOBODY or (seen.uid != self.uid and not self._lets_in(statement, seen)):
            raise PermissionError(f"the other side has uid {seen.uid}, this is uid {self.uid}")
        if not hmac.compare_digest(proof, hashlib.sha256(statement.encode()).digest()):
            raise PermissionError("the other side proved another exchange than this one")
        return Principal(uri=_uri(seen.uid), role=statement.prover_role)

    def authorize(self, who: Principal, action: Action, what: Resource) -> Decision:
        if who.uri == _uri(self.uid):
            return Decision(allowed=True, reason="same uid")
        if self._admitted.others and who.role is Role.VNIC and who.uri.removeprefix(_URI).isdecimal():
            return Decision(allowed=True, reason="an admitted uid")  # `verify` let it in
        return Decision(allowed=False, reason=f"{who.uri} is not of uid {self.uid}")

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        return lambda: None  # nothing here ever changes

    def audit(self, event: AuditEvent) -> None:
        _logger.debug("%s", event)  # the Vnet has logged it, folded: strangers must not fill the log

    def _lets_in(self, statement: Statement, seen: Channel) -> bool:
        return statement.prover_role is Role.VNIC and self._admitted.names(seen)

    def __repr__(self) -> str:
        return f"LocalProvider(uid={self.uid})"


def _uri(uid: int) -> str:
    return f"{_URI}{uid}"
