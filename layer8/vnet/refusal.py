"""How the parts of the Vnet say no."""

from __future__ import annotations


class Refusal(Exception):
    """A request is refused, the connection goes on. `code`, `text`, `fields`: as in Failed and Refused."""

    def __init__(self, code: str, text: str = "", fields: tuple[str, ...] = ()) -> None:
        super().__init__(code, text, fields)
        self.code = code
        self.text = text
        self.fields = fields


class Violation(Exception):
    """A Vnic asked for what no correct library asks for; its port is closed. `reason`: what it was."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
