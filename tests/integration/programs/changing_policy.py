"""A Security Provider whose policy is the file in $DENIED: lines "action name", read at its start."""

from __future__ import annotations

import os
from pathlib import Path

from layer8.security import Action, Decision, LocalProvider, Principal, Resource


class ChangingPolicy(LocalProvider):
    def __init__(self) -> None:
        super().__init__()
        self._denied = set(Path(os.environ["DENIED"]).read_text().splitlines())

    def authorize(self, who: Principal, action: Action, what: Resource) -> Decision:
        return Decision(allowed=f"{action.value} {what.name}" not in self._denied, reason="as the file says")
