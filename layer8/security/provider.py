"""The Security Provider: the one object that decides authentication, authorization, accounting and encryption.

Two components interact only if they have the same provider, which they find out first by its fingerprint. A provider
is a table of operations, as follows; any object that has them is one.

    operation       called by                             when                          must take
    ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
    attests_keys    the Vnic                              before end-to-end sealing     no time
    fingerprint     both sides                            at every attach and link      no time
    tls             the thread that dials or listens      once a connection             memory only
    prove           the attaching or linking thread       at attach and link            up to 1 s
    verify          the same, at the other end            at attach and link            up to 1 s
    authorize       the Vnet's control plane              at every grant                microseconds: no I/O, no lock
    watch           the Vnet                              at its start                  no time
    audit           the Vnet's control plane              after a decision              no waiting: queue it

Threads. All operations may be called from several threads at once, and from threads of the core; a provider keeps
none of its arguments. The callable given to `watch` may be called from any thread of the provider, also at once, also
after it was taken back.

Errors. An exception from any operation is a refusal of what was asked, never more: it is logged with its class, the
other side learns only that it was refused. `verify` raises to say no (PermissionError with a text for the log is
usual); `authorize` returns a Decision. A time-out and a full worker pool count as exceptions. `audit` that raises is
counted and logged; the decision stands.

A provider may have more, which the core uses when it is there: `overlay` (str), the name of the overlay whose Vnet it
speaks for, else "local"; `reload()`, which looks at its files at once (SIGHUP) and raises what is wrong with them;
`close()`, when the Vnet has stopped; `socket_owners` (uids, or None for anybody), whose sockets a Vnic may ask because
the proof says who listens there.

What the core does and no provider has to: size and time limits, nonces, the transcript that a Statement's digest
stands for, stamping sources, closing what has failed or expired, asking again when the policy has changed.
"""

from __future__ import annotations

import enum
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from layer8.protocol.statement import Channel, Principal, Purpose, Role, Statement

__all__ = [
    "Action",
    "AuditEvent",
    "Channel",
    "Decision",
    "Principal",
    "Purpose",
    "Resource",
    "ResourceKind",
    "Role",
    "SecurityProvider",
    "Statement",
    "TlsRole",
]


class TlsRole(enum.StrEnum):
    """LINK: a Vnet's end that accepts another Vnet. SERVE_VNIC: its end for far Vnics. DIAL: the end that calls either
    of them."""

    LINK = "link"
    SERVE_VNIC = "serve_vnic"
    DIAL = "dial"


class Action(enum.StrEnum):
    """What may be allowed. SERVE covers taking an alias: names are rights."""

    ATTACH = "attach"
    HOST = "host"
    SEND = "send"
    REQUEST = "request"
    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    SERVE = "serve"
    READ_HEALTH = "read-health"
    ADMINISTER = "administer"


class ResourceKind(enum.StrEnum):
    """OVERLAY: attach, read-health, administer. PRINCIPAL: host. VNIC: send or request by uuid, whose principal is
    the name. ALIAS: send, request, serve. TOPIC: publish, subscribe."""

    OVERLAY = "overlay"
    PRINCIPAL = "principal"
    VNIC = "vnic"
    ALIAS = "alias"
    TOPIC = "topic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """On what. `name`: literal, never a pattern."""

    kind: ResourceKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`reason`: for the log and the audit, not for who asked. `generation`: of the policy that decided; a grant is
    installed only while that policy is in force. `lasting`: a no that nothing will turn into a yes, as for a revoked
    certificate; whoever is attached with it is told so, with the reason, and does not try again."""

    allowed: bool
    reason: str = ""
    generation: int = 0
    lasting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One decision or happening, for the record. No payloads, no secrets.

    `time`: Unix seconds. `what`: attach, detach, grant, refuse, revoke, violation, … `count`: equal events folded.
    """

    time: float
    what: str
    principal: str = ""
    action: Action | None = None
    resource: Resource | None = None
    allowed: bool = True
    reason: str = ""
    count: int = 1


@runtime_checkable
class SecurityProvider(Protocol):
    """See the head of this module for who calls what, when, and what an error means."""

    @property
    def attests_keys(self) -> bool:
        """Whether it may prove an end-to-end key; False for a shared secret or a uid."""

    def fingerprint(self) -> bytes:
        """The name of the trust domain, 16 to 64 bytes: stable while keys rotate, and no secret."""

    def tls(self, role: TlsRole) -> ssl.SSLContext:
        """A context for one connection, TLS 1.3, both sides authenticated. Raises if it has none for this role."""

    def prove(self, statement: Statement) -> bytes:
        """Evidence for exactly this statement, at most 3 KiB."""

    def verify(self, proof: bytes, statement: Statement, seen: Channel) -> Principal:
        """Who proved `statement`. Raises if the evidence does not hold. `proof` is input of a stranger."""

    def authorize(self, who: Principal, action: Action, what: Resource) -> Decision:
        """Whether `who` may do `action` on `what`."""

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls `changed` whenever an earlier answer of `authorize` or `verify` may have become wrong. The result
        takes it back."""

    def audit(self, event: AuditEvent) -> None:
        """Keeps the event."""
