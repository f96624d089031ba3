"""What each uid, or each far principal, has on this Vnet, so that nobody can take it all."""

from __future__ import annotations

import collections
import dataclasses

from layer8.vnet.config import VnetConfig
from layer8.vnet.refusal import Refusal

Owner = int | str
"""A uid, or the principal that a far Vnic's certificate names."""


def whose(owner: Owner) -> str:
    return f"uid {owner}" if isinstance(owner, int) else owner


@dataclasses.dataclass(slots=True)
class Account:
    """Of one owner: connections not attached yet, ports, bytes of their segments, observers."""

    pending: int = 0
    ports: int = 0
    bytes: int = 0
    observers: int = 0


class Accounts:
    """Every `take_…` raises Refusal("limit") or is undone by its `give_…`."""

    def __init__(self, config: VnetConfig) -> None:
        self._config = config
        self._of: collections.defaultdict[Owner, Account] = collections.defaultdict(Account)

    def __len__(self) -> int:
        return len(self._of)

    def of(self, owner: Owner) -> Account:
        return dataclasses.replace(self._of[owner]) if owner in self._of else Account()

    def take_pending(self, owner: Owner, awaited: int = 0) -> None:
        """`awaited`: Vnics that come back all at once after a Vnet's death."""
        limit = self._config.pending_per_uid + awaited
        if self._of[owner].pending >= limit:
            raise Refusal("limit", f"{whose(owner)} has {limit} attaches under way already (setting pending_per_uid)")
        self._of[owner].pending += 1

    def give_pending(self, owner: Owner) -> None:
        self._of[owner].pending -= 1
        self._clear(owner)

    def take_observer(self, owner: Owner) -> None:
        limit = self._config.observers_per_uid
        if self._of[owner].observers >= limit:
            raise Refusal("limit", f"{whose(owner)} has {limit} observers already (setting observers_per_uid)")
        self._of[owner].observers += 1

    def give_observer(self, owner: Owner) -> None:
        self._of[owner].observers -= 1
        self._clear(owner)

    def take_port(self, owner: Owner, size: int) -> None:
        """`size`: bytes of the segment."""
        account, config = self._of[owner], self._config
        if account.ports >= config.ports_per_uid:
            raise Refusal("limit", f"{whose(owner)} has {config.ports_per_uid} ports already (setting ports_per_uid)")
        if account.bytes + size > config.bytes_per_uid:
            raise Refusal(
                "limit",
                f"the segments of {whose(owner)} have {account.bytes} bytes, {size} more are over the limit of "
                f"{config.bytes_per_uid} (setting bytes_per_uid)",
            )
        account.ports += 1
        account.bytes += size

    def give_port(self, owner: Owner, size: int) -> None:
        self._of[owner].ports -= 1
        self._of[owner].bytes -= size
        self._clear(owner)

    def _clear(self, owner: Owner) -> None:
        if self._of[owner] == Account():
            del self._of[owner]
