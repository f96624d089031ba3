"""What each uid has on this Vnet, so that no user can take it all."""

from __future__ import annotations

import collections
import dataclasses

from layer8.vnet.config import VnetConfig
from layer8.vnet.refusal import Refusal


@dataclasses.dataclass(slots=True)
class Account:
    """Of one uid: connections not attached yet, ports, bytes of their segments, observers."""

    pending: int = 0
    ports: int = 0
    bytes: int = 0
    observers: int = 0


class Accounts:
    """Every `take_…` raises Refusal("limit") or is undone by its `give_…`."""

    def __init__(self, config: VnetConfig) -> None:
        self._config = config
        self._of: collections.defaultdict[int, Account] = collections.defaultdict(Account)

    def __len__(self) -> int:
        return len(self._of)

    def of(self, uid: int) -> Account:
        return dataclasses.replace(self._of[uid]) if uid in self._of else Account()

    def take_pending(self, uid: int, awaited: int = 0) -> None:
        """`awaited`: Vnics that come back all at once after a Vnet's death."""
        limit = self._config.pending_per_uid + awaited
        if self._of[uid].pending >= limit:
            raise Refusal("limit", f"uid {uid} has {limit} attaches under way already (setting pending_per_uid)")
        self._of[uid].pending += 1

    def give_pending(self, uid: int) -> None:
        self._of[uid].pending -= 1
        self._clear(uid)

    def take_observer(self, uid: int) -> None:
        limit = self._config.observers_per_uid
        if self._of[uid].observers >= limit:
            raise Refusal("limit", f"uid {uid} has {limit} observers already (setting observers_per_uid)")
        self._of[uid].observers += 1

    def give_observer(self, uid: int) -> None:
        self._of[uid].observers -= 1
        self._clear(uid)

    def take_port(self, uid: int, size: int) -> None:
        """`size`: bytes of the segment."""
        account, config = self._of[uid], self._config
        if account.ports >= config.ports_per_uid:
            raise Refusal("limit", f"uid {uid} has {config.ports_per_uid} ports already (setting ports_per_uid)")
        if account.bytes + size > config.bytes_per_uid:
            raise Refusal(
                "limit",
                f"the segments of uid {uid} have {account.bytes} bytes, {size} more are over the limit of "
                f"{config.bytes_per_uid} (setting bytes_per_uid)",
            )
        account.ports += 1
        account.bytes += size

    def give_port(self, uid: int, size: int) -> None:
        self._of[uid].ports -= 1
        self._of[uid].bytes -= size
        self._clear(uid)

    def _clear(self, uid: int) -> None:
        if self._of[uid] == Account():
            del self._of[uid]
