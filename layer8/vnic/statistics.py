"""What `Vnic.stats()` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from layer8.dataplane import PortStats

if TYPE_CHECKING:
    from layer8.vnic.core import Core


@dataclass(frozen=True, slots=True, kw_only=True)
class VnicStats:
    """Figures of one Vnic. `port`: of the present port, since it was attached; None while away.

    `attachments`: how often it has attached. `queued`: messages that were read and not yet taken by the program.
    `outstanding`: own requests without an answer yet. `unanswered`: requests of others not answered yet.
    `handles`: names it can send to without asking. `undeliverable`: messages reported as "unknown" when a Vnet died.
    `handler_failures`: exceptions that handlers let through.
    """

    state: str
    port: PortStats | None
    attachments: int
    queued: int
    outstanding: int
    unanswered: int
    handles: int
    undeliverable: int
    handler_failures: int


def read_stats(core: Core) -> VnicStats:
    attachment = core.presence.attachment
    replies = core.replies
    return VnicStats(
        state=core.presence.state,
        port=None if attachment is None else attachment.port.stats(),
        attachments=core.attachments,
        queued=sum(len(queue.items) for queue in core.inbox.queues),
        outstanding=len(core.calls),
        unanswered=0 if replies is None else len(replies),
        handles=len(core.outbox.handles),
        undeliverable=core.undeliverable,
        handler_failures=core.dispatcher.failures,
    )
