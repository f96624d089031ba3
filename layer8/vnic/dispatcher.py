"""The thread that runs handlers: one at a time, in the order in which their messages came.

It starts with the first handler and waits like any other reader; when nobody else waits, it is the one that reads.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from layer8.errors import Closed
from layer8.vnic.queues import Queue, Sink
from layer8.vnic.waiting import FOREVER

if TYPE_CHECKING:
    from layer8.vnic.inbox import Inbox

Job = tuple[Sink, object]

_logger = logging.getLogger("layer8.vnic")


class Dispatcher:
    """Runs what stands in `jobs`. `failures`: exceptions that handlers let through, each logged with its traceback."""

    def __init__(self, name: str) -> None:
        self.jobs: Queue[Job] = Queue()
        self.failures = 0
        self._name = name
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()

    def start(self, inbox: Inbox) -> None:
        """Safe twice."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self.work, args=(inbox, self.jobs), name=self._name, daemon=True)
                self._thread.start()

    def work(self, inbox: Inbox, jobs: Queue[Job]) -> None:
        """Until the Vnic is closed, or the queue has ended."""
        while not jobs.ended:
            try:
                inbox.wait(jobs, FOREVER)
            except Closed:
                return
            self._take_and_run(inbox, jobs)  # a call of its own: no message is kept alive by the wait for the next

    def _take_and_run(self, inbox: Inbox, jobs: Queue[Job]) -> None:
        if jobs.is_long:
            inbox.taking(jobs, 1)
        job = jobs.take()
        if job is not None:
            self._run(*job)

    def _run(self, sink: Sink, item: object) -> None:
        if sink.closed or sink.handler is None:
            return
        try:
            sink.handler(item)
        except BaseException:  # even SystemExit: it would end this thread and nothing else
            self.failures += 1
            _logger.exception("a handler failed on %r (%d so far)", item, self.failures)

    def join(self, seconds: float) -> None:
        """Waits until the handler that runs has returned; not when it is this handler that asks."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    def forked(self) -> None:
        """In the child: the thread does not exist here."""
        self._thread = None
        self.jobs.items.clear()
