"""Who may do what: the Security Provider's interface, and the providers that come with layer8."""

from layer8.security.loader import load_provider
from layer8.security.local import LocalProvider
from layer8.security.provider import (
    Action,
    AuditEvent,
    Channel,
    Decision,
    Principal,
    Purpose,
    Resource,
    Role,
    SecurityProvider,
    Statement,
    TlsRole,
)

__all__ = [
    "Action",
    "AuditEvent",
    "Channel",
    "Decision",
    "LocalProvider",
    "Principal",
    "Purpose",
    "Resource",
    "Role",
    "SecurityProvider",
    "Statement",
    "TlsRole",
    "load_provider",
]
