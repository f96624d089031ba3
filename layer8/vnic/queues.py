"""Queues of what was read from the ring and not yet taken by the program.

What stands here counts as fill of the receive ring, so that a program that does not keep up holds its senders back
wherever its messages happen to lie. Counting every byte at every taking would cost more than the taking; a queue knows
how many bytes it had at the last put, and counts the share of the messages that are left.

Putting and taking are steps that neither a signal handler nor another thread can come between: CPython looks at both
only after calls and at jumps back. So a message is always either in its queue or with the program.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Generic, TypeVar

from layer8.errors import Closed, Layer8Error

T = TypeVar("T")

OVERHEAD = 64
"""Bytes counted for a message beside its payload: its record's header."""


def _closed() -> Layer8Error:
    return Closed("this stream")


class Queue(Generic[T]):
    """A deque with an estimate of its bytes. Messages are put in by whoever reads the ring, with `items.append` or
    `items.extend`.

    `keep`: the newest so many stay, older ones are dropped. `offered`: how many were put in, ever. `is_long`: whoever
    takes from it says so to the inbox (`Inbox.taking`), because the switch has been told that much is unread. `ended`:
    nothing will come any more, so nobody shall wait; what stands here is still taken. `why`: makes what taking raises
    then.
    """

    __slots__ = ("_bytes", "_count", "ended", "is_long", "items", "keep", "offered", "why")

    def __init__(self, keep: int | None = None) -> None:
        self.items: deque[T] = deque(maxlen=keep)
        self.keep = keep
        self.is_long = False
        self.ended = False
        self.why: Callable[[], Layer8Error] = _closed
        self.offered = 0
        self._bytes = 0
        self._count = 0

    def take(self) -> T | None:
        """The next message, None when nothing is there."""
        items = self.items
        try:
            item = items[0]
            del items[0]  # one step with the line before, see above
        except IndexError:
            return None
        return item

    def take_into(self, found: list[T], limit: int) -> None:
        """Moves up to `limit` messages over, in one step."""
        try:
            found.extend(islice(iter(self.items.popleft, None), limit))
        except IndexError:
            pass  # all that was there

    def ready(self) -> bool:
        """Whether it makes no sense to wait."""
        return bool(self.items) or self.ended

    def expect(self, count: int, size: int) -> None:
        """So many messages of so many bytes in all are about to be put in."""
        self.offered += count
        self._bytes = self.unread() + size + count * OVERHEAD
        self._count = len(self.items) + count

    def unread(self, leaving: int = 0) -> int:
        """Bytes that stand here, about, without `leaving` messages. A queue that drops holds nobody back."""
        if not self._count or self.keep is not None:
            return 0
        return self._bytes * max(0, len(self.items) - leaving) // self._count


class Sink:
    """Where the messages of one subscription or service go: a queue and, for the dispatcher's, the handler with it."""

    __slots__ = ("closed", "handler", "queue")

    def __init__(self, queue: Queue[Any], handler: Callable[[Any], object] | None = None) -> None:
        self.queue = queue
        self.handler = handler
        self.closed = False

    def item(self, message: object) -> object:
        """What is put into the queue for `message`."""
        return message if self.handler is None else (self, message)
