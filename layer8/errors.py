"""The exceptions of layer8, all below `Layer8Error`.

    Layer8Error
      VnetNotFound(tried)
      SecurityMismatch(ours, theirs)
      NotAuthorized(principal, action, resource)
      Unreachable(to, reason)
        NotFound(to)                      also LookupError
      Backpressure(to, timeout, reason)   also TimeoutError: surely not sent
      RequestTimeout(to, timeout)         also TimeoutError: the request may have been carried out
      RequestFailed(reason, payload)
      Closed(what)
      MessageTooLarge(size, limit)

Every error carries its fields, builds its text from them and says what to do next. All can be pickled. Misuse of the
library (a wrong type, a negative time-out) is TypeError or ValueError and not listed here.
"""

from __future__ import annotations

from uuid import UUID

Destination = UUID | str


class Layer8Error(Exception):
    """Base of all layer8 errors. The fields of a subclass are its positional arguments, in order."""

    def __init__(self, *fields: object) -> None:
        super().__init__(*fields)


class VnetNotFound(Layer8Error):
    """No Vnet answered. `tried`: every place looked at, with what was found there."""

    def __init__(self, tried: tuple[str, ...]) -> None:
        super().__init__(tried)
        self.tried = tried

    def __str__(self) -> str:
        places = "".join(f"\n  - {place}" for place in self.tried)
        return f"no Vnet answered; start one with `layer8 vnet`. Tried:{places}"


class SecurityMismatch(Layer8Error):
    """The other side has another Security Provider. `ours`, `theirs`: their fingerprints, shortened hex."""

    def __init__(self, ours: str, theirs: str) -> None:
        super().__init__(ours, theirs)
        self.ours = ours
        self.theirs = theirs

    def __str__(self) -> str:
        return (
            f"the Vnet has another Security Provider (ours {self.ours}, theirs {self.theirs}); "
            "two components interact only if theirs is the same: give both the same `security`"
        )


class NotAuthorized(Layer8Error):
    """The Security Provider refused. `principal`: who asked, `action`: what for, `resource`: on what."""

    def __init__(self, principal: str, action: str, resource: str) -> None:
        super().__init__(principal, action, resource)
        self.principal = principal
        self.action = action
        self.resource = resource

    def __str__(self) -> str:
        return f"{self.principal} may not {self.action} {self.resource}; the Vnet's policy decides this"


class Unreachable(Layer8Error):
    """The destination cannot be reached (any more). `to`: the name used, `reason`: one word or a short phrase."""

    def __init__(self, to: Destination, reason: str) -> None:
        super().__init__(to, reason)
        self.to = to
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.to} is unreachable: {self.reason}"


class NotFound(Unreachable, LookupError):
    """Nobody has this uuid or alias (or this Vnic may not know)."""

    def __init__(self, to: Destination, reason: str = "nobody there has this name") -> None:
        super().__init__(to, reason)

    def __str__(self) -> str:
        return (
            f"{self.to} was not found: {self.reason}; "
            "`layer8 ps` lists who is there, `layer8 wait` and find(to, timeout=…) wait"
        )


class Backpressure(Layer8Error, TimeoutError):
    """The destination took nothing more within the time-out; surely not sent. `timeout`: seconds waited. `reason`: why
    no Vnet takes messages now; empty where it is the destination that takes none."""

    def __init__(self, to: Destination, timeout: float | None, reason: str = "") -> None:
        super().__init__(to, timeout, reason)
        self.to = to
        self.timeout = timeout
        self.reason = reason

    def __str__(self) -> str:
        if self.reason:
            return f"nothing could be sent to {self.to} within {self.timeout} s: {self.reason}"
        return f"{self.to} took nothing more within {self.timeout} s; not sent: try again, or give a longer timeout"


class RequestTimeout(Layer8Error, TimeoutError):
    """No reply in time; the request may have been carried out. `timeout`: seconds waited."""

    def __init__(self, to: Destination, timeout: float | None) -> None:
        super().__init__(to, timeout)
        self.to = to
        self.timeout = timeout

    def __str__(self) -> str:
        return f"{self.to} did not reply within {self.timeout} s; it may have carried the request out"


class RequestFailed(Layer8Error):
    """The callee answered that it failed, or the outcome is `unknown`. `payload`: bytes the callee gave with it."""

    def __init__(self, reason: str, payload: bytes = b"") -> None:
        super().__init__(reason, payload)
        self.reason = reason
        self.payload = payload

    def __str__(self) -> str:
        return f"the request failed: {self.reason}"


class Closed(Layer8Error):
    """Used after close(), or in a child made by fork. `what`: the object, and why it is closed."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} is closed"


class MessageTooLarge(Layer8Error):
    """Nothing was sent. `size`, `limit`: bytes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"a message of {self.size} bytes is over the limit of {self.limit}; nothing was sent "
            "(Vnet setting max_message_bytes)"
        )
