"""A Security Provider with a policy and an audit log in front: what the configuration makes of any provider.

Who somebody is, the provider inside decides; whether they may come in by the socket, it and `Admitted`; what they may
do, it and the policy. All must agree. Without a policy the provider decides alone. What the Vnet reports goes to the
audit log when there is one.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable

from layer8.protocol.statement import Channel, Principal, Purpose, Role, Statement
from layer8.security.admitted import Admitted
from layer8.security.audit import AuditLog
from layer8.security.policy import PolicyError, PolicyFile
from layer8.security.provider import Action, AuditEvent, Decision, Resource, SecurityProvider, TlsRole

_LOOK_SECONDS = 1.0

_logger = logging.getLogger("layer8.security")


class GuardedProvider:
    """Owns what it is given. Any thread. `close()` ends its thread, the log and the provider inside."""

    def __init__(
        self,
        inner: SecurityProvider,
        *,
        policy: PolicyFile | None = None,
        log: AuditLog | None = None,
        admitted: Admitted | None = None,
    ) -> None:
        self.inner = inner
        self.admitted = admitted or Admitted()
        self.policy_file = policy
        self._log = log
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._watchers: list[Callable[[], None]] = []

    @property
    def attests_keys(self) -> bool:
        return self.inner.attests_keys

    @property
    def overlay(self) -> str:
        overlay: str = getattr(self.inner, "overlay", "local")
        return overlay

    def fingerprint(self) -> bytes:
        return self.inner.fingerprint()

    def tls(self, role: TlsRole) -> ssl.SSLContext:
        return self.inner.tls(role)

    def prove(self, statement: Statement) -> bytes:
        return self.inner.prove(statement)

    def verify(self, proof: bytes, statement: Statement, seen: Channel) -> Principal:
        who = self.inner.verify(proof, statement, seen)
        by_socket = statement.purpose is Purpose.ATTACH and statement.prover_role is Role.VNIC
        if by_socket and self.admitted.others and not self.admitted.admits(seen, who):
            raise PermissionError(f"{who.uri} of uid {seen.uid} is not admitted here")
        return who

    def authorize(self, who: Principal, action: Action, what: Resource) -> Decision:
        decision = self.inner.authorize(who, action, what)
        if not decision.allowed or self.policy_file is None:
            return decision
        return self.policy_file.policy.decide(who.uri, action, what)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        take_back_inner = self.inner.watch(changed)
        with self._lock:
            self._watchers.append(changed)
            if self._thread is None and self.policy_file is not None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._look, name="layer8-policy", daemon=True)
                self._thread.start()

        def take_back() -> None:
            take_back_inner()
            with self._lock:
                if changed in self._watchers:
                    self._watchers.remove(changed)

        return take_back

    def audit(self, event: AuditEvent) -> None:
        if self._log is not None:
            self._log.append(event)
        else:
            self.inner.audit(event)

    def explain(self, principal: str, action: Action, what: Resource) -> str:
        """Which rule of the policy decides."""
        if self.policy_file is None:
            return "no policy is in force: the Security Provider decides alone"
        return str(self.policy_file.policy.explain(principal, action, what))

    def reload(self) -> None:
        """Looks at all files at once. Raises what is wrong with them; what was good before then stays in force."""
        try:
            self._refresh(force=True)
        finally:
            reload = getattr(self.inner, "reload", None)
            if reload is not None:
                reload()

    def close(self) -> None:
        """Safe twice."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(5.0)
        close = getattr(self.inner, "close", None)
        if close is not None:
            close()
        if self._log is not None:
            self._log.close()

    def __getattr__(self, name: str) -> object:
        """What the provider inside has beyond the operations, as if it were here."""
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __repr__(self) -> str:
        return f"<GuardedProvider {self.inner!r}>"

    def _refresh(self, *, force: bool = False) -> None:
        if self.policy_file is None:
            return
        with self._lock:
            changed = self.policy_file.refresh(force=force)
        if changed:
            file = self.policy_file
            _logger.info("policy %s: %d rules are in force now", file.path, len(file.policy.rules))
            for watcher in list(self._watchers):
                watcher()

    def _look(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            try:
                self._refresh()
            except PolicyError as error:
                _logger.error("THE POLICY WAS NOT TAKEN OVER, the last good one stays in force: %s", error)
