"""A Security Provider of one's own: who knows the key of a file is a member, and members may do everything.

export PSK_FILE=/path/of/32-random-bytes PYTHONPATH=examples
layer8 vnet --config vnet.toml           # with: [vnet.default]   security = "psk_provider:make"
Vnic("worker", security="psk_provider:make")
"""

import hashlib
import hmac
import os
import ssl
from collections.abc import Callable
from pathlib import Path

from layer8.security import Action, AuditEvent, Channel, Decision, Principal, Resource, Statement, TlsRole


class PskProvider:
    attests_keys = False  # whoever has the key could pretend to be any other member
    overlay = "psk"

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("a key has 32 bytes at least")
        self._key = key

    def fingerprint(self) -> bytes:
        return hmac.digest(self._key, b"fingerprint", "sha256")

    def prove(self, statement: Statement) -> bytes:
        return hmac.digest(self._key, b"proof" + hashlib.sha256(statement.encode()).digest(), "sha256")

    def verify(self, proof: bytes, statement: Statement, seen: Channel) -> Principal:
        if not hmac.compare_digest(proof, self.prove(statement)):
            raise PermissionError("the other side does not know the key")
        return Principal(uri=f"layer8://psk/{statement.prover_role.value}/member", role=statement.prover_role)

    def authorize(self, who: Principal, action: Action, what: Resource) -> Decision:
        return Decision(allowed=who.uri == f"layer8://psk/{who.role.value}/member", reason="members may do everything")

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def audit(self, event: AuditEvent) -> None:
        pass

    def tls(self, role: TlsRole) -> ssl.SSLContext:
        raise NotImplementedError("this provider stays on its host")


def make() -> PskProvider:
    return PskProvider(Path(os.environ["PSK_FILE"]).read_bytes())
