"""A request as an AsyncVnic receives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from layer8.message import Request, Right
from layer8.vnic.replies import Replies

if TYPE_CHECKING:
    from typing_extensions import Buffer


class AsyncRequest(Request, frozen=True, gc=False, eq=False, kw_only=True):
    """A request that an AsyncVnic received: as `Request`, with `reply` and `fail` to be awaited.

    Both act at once. Awaiting waits until the answer is accepted, which takes time only when the caller is slow. They
    belong to the event loop of the Vnic.
    """

    def reply(self, payload: Buffer) -> Awaitable[None]:  # type: ignore[override]
        """Answers with `payload` (bytes-like). If the caller no longer waits, nothing happens.

        Raises ValueError when it was answered before, Backpressure when the caller takes nothing, MessageTooLarge,
        Closed.
        """
        right, replies = self._right, _replies(self._right)
        names = right.take()
        try:
            if replies.reply_at_once(*names, payload):
                return _DONE
        except BaseException:
            right.give_back()
            raise
        return asyncio.ensure_future(_finish(right, replies.reply_later(*names, payload)))

    def fail(self, reason: str, payload: bytes = b"") -> Awaitable[None]:  # type: ignore[override]
        """Answers that it failed: the caller gets RequestFailed(reason, payload). Raises as `reply` does."""
        if not isinstance(reason, str):
            raise TypeError(f"a reason is a str, not {type(reason).__name__}")
        right, replies = self._right, _replies(self._right)
        names = right.take()
        return asyncio.ensure_future(_finish(right, replies.fail_later(*names, reason, payload)))


def _replies(right: Right) -> Replies:
    replies = right.replier
    assert isinstance(replies, Replies)
    return replies


async def _finish(right: Right, answering: Coroutine[Any, Any, None]) -> None:
    try:
        await answering
    except BaseException:
        right.give_back()  # nothing was sent: it can be tried again
        raise


class _Done:
    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


_DONE = _Done()
