"""What the Vnet's codes and the records' reasons are called in Python: the one place where they become errors."""

from __future__ import annotations

from uuid import UUID

from layer8.dataplane import Reason
from layer8.errors import (
    Backpressure,
    Layer8Error,
    NotAuthorized,
    NotFound,
    RequestFailed,
    RequestTimeout,
    Unreachable,
)
from layer8.protocol.control import Failed

UNKNOWN = "unknown"
"""The reason when it cannot be known whether a message arrived or a request was carried out."""

_WORDS = {
    Reason.GONE: "gone",
    Reason.NOT_FOUND: "not found",
    Reason.REVOKED: "revoked",
    Reason.EXPIRED: "expired",
    Reason.ABORTED: "aborted",
    Reason.UNANSWERED: "unanswered",
    Reason.TOO_MANY: "too many",
    Reason.UNREACHABLE: "unreachable",
    Reason.UNKNOWN: UNKNOWN,
    Reason.FAILED: "failed",
    Reason.VIOLATION: "violation",
    Reason.LOST_NOTICES: "reports lost",
}


def word(reason: int) -> str:
    """The reason in a record, for people."""
    try:
        return _WORDS[Reason(reason)]
    except (ValueError, KeyError):
        return f"reason {reason}"


def error_of_failed(failed: Failed, to: UUID | str, principal: str, action: str = "use") -> Layer8Error:
    """What a caller gets for a control request about `to` that the Vnet refused. `principal` asked to `action`."""
    match failed.code:
        case "not-found" | "timeout":
            return NotFound(to)
        case "not-authorized":
            who, action, resource = failed.fields if len(failed.fields) == 3 else (principal, action, str(to))
            return NotAuthorized(who, action, resource)
        case "stopping":
            return Unreachable(to, "the Vnet is stopping")
        case _:
            return Layer8Error(f"the Vnet refused ({failed.code}): {failed.text or to}")


def error_of_slot(reason: int, to: UUID | str, principal: str, action: str) -> Layer8Error:
    """What a sender gets when its handle is no longer open."""
    match reason:
        case Reason.REVOKED:
            return NotAuthorized(principal, action, str(to))
        case Reason.NOT_FOUND:
            return NotFound(to)
        case _:
            return NotFound(to) if isinstance(to, str) else Unreachable(to, word(reason))


def error_of_notice(reason: int, to: UUID | str, principal: str, timeout: float | None) -> Layer8Error:
    """What a caller gets when its request came to nothing and the Vnet says why."""
    match reason:
        case Reason.EXPIRED:
            return RequestTimeout(to, timeout)
        case Reason.TOO_MANY:
            return Backpressure(to, timeout)
        case Reason.GONE | Reason.UNREACHABLE:
            return Unreachable(to, word(reason))
        case Reason.NOT_FOUND | Reason.REVOKED:
            return error_of_slot(reason, to, principal, "request")
        case _:
            return RequestFailed(word(reason))
