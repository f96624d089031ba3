"""Whether there is a Vnet to talk to, and the waiting until there is one."""

from __future__ import annotations

import threading

from layer8.errors import Closed
from layer8.vnic.attachment import Attachment
from layer8.vnic.waiting import nap_of


class Presence:
    """The state of one Vnic. Only `layer8.vnic.core` changes it; everybody reads it and waits for it.

    `lock` is the Vnic's own: re-entrant, because a signal handler may close the Vnic that its thread is using, and
    held for a few statements only.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self.attachment: Attachment | None = None  # where new messages go; None while no Vnet takes them
        self.draining = False
        self.ended: str | None = None  # why it is closed, for the text of Closed
        self.refusal = ""  # why the Vnet that is there does not take this Vnic, while it is away

    @property
    def state(self) -> str:
        if self.ended is not None:
            return "closed"
        if self.draining:
            return "draining"
        return "away" if self.attachment is None else "attached"

    @property
    def away(self) -> str:
        """Why nothing can be sent now; "" while something can."""
        return "" if self.attachment is not None else self.refusal or "no Vnet is there"

    def check_open(self) -> None:
        """Raises Closed after close() or in a child made by fork."""
        if self.ended is not None:
            raise Closed(self.ended)

    async def wait_attached(self, deadline: float) -> Attachment | None:
        """The attachment, or None when there was none until the deadline. Raises Closed."""
        while True:
            attachment = self.attachment
            if attachment is not None:
                self.check_open()
                return attachment
            with self.lock:
                self.check_open()
                if self.attachment is None:
                    seconds = nap_of(deadline)
                    if seconds == 0:
                        return None
                    self._changed.wait(seconds)

    async def wait_gone(self, attachment: Attachment, deadline: float) -> bool:
        """Until this attachment, which is known to be ending, is no longer the present one. False: it still was at
        the deadline. Raises Closed."""
        with self.lock:
            while self.attachment is attachment:
                self.check_open()
                seconds = nap_of(deadline)
                if seconds == 0:
                    return False
                self._changed.wait(seconds)
        return True

    # ── transitions, for layer8.vnic.core ──────────────────────────────────────────────────────────────────────────

    def attach(self, attachment: Attachment) -> bool:
        """False: the Vnic was closed meanwhile."""
        with self.lock:
            if self.ended is not None:
                return False
            self.attachment = attachment
            self.refusal = ""
            self._notify()
            return True

    def leave(self) -> None:
        with self.lock:
            self.attachment = None
            self._notify()

    def drain(self) -> None:
        with self.lock:
            self.draining = True

    def end(self, why: str) -> bool:
        """False: it had ended before."""
        with self.lock:
            if self.ended is not None:
                return False
            self.ended = why
            self._notify()
            return True

    def _notify(self) -> None:
        """Whoever waits looks again. Under the lock."""
        self._changed.notify_all()

    def forked(self) -> None:
        """In the child: threads that held the locks do not exist here."""
        self.ended = f"{self.what}, which belongs to the parent process (make a Vnic of your own after the fork),"
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
