"""Reports of what this process does, for whoever operates it: given only after `Vnic.allow_reports`.

    stack     where each thread stands (faulthandler)
    memory    what is allocated where (tracemalloc, while it traces), and how many objects of each type there are

They hold names of functions, files and types, and no values. The keeper's thread hears the question and a thread of
its own answers; a process that never lets go of the interpreter cannot answer.
"""

from __future__ import annotations

import collections
import faulthandler
import gc
import logging
import os
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING

from layer8.protocol.control import Report, ReportWanted, Wire
from layer8.vnic.attachment import Attachment

if TYPE_CHECKING:
    from layer8.vnic.core import Core

LARGEST = 40 << 10  # characters
_LINES = 25

_logger = logging.getLogger("layer8.vnic")


class Reporter:
    """Answers ReportWanted for one Vnic."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._busy = threading.Lock()

    def heard(self, attachment: Attachment, message: Wire) -> None:
        if isinstance(message, ReportWanted) and self._busy.acquire(blocking=False):
            threading.Thread(
                target=self._answer, args=(attachment, message.kind), name="layer8-report", daemon=True
            ).start()

    def _answer(self, attachment: Attachment, kind: str) -> None:
        try:
            text = stack_report() if kind == "stack" else memory_report()
            self._core.questions.say(attachment, Report(id=0, kind=kind, text=text[:LARGEST]))
        except Exception:
            _logger.exception("a %s report could not be made", kind)
        finally:
            self._busy.release()


def allow_reports(core: Core, allowed: bool, trace_memory: bool) -> None:
    """From now on, or no more. Raises Closed, TypeError."""
    core.presence.check_open()
    if not isinstance(allowed, bool):
        raise TypeError(f"allowed is True or False, not {type(allowed).__name__}")
    if trace_memory and allowed and not tracemalloc.is_tracing():
        tracemalloc.start()
    core.announcement.report(allowed)


def stack_report() -> str:
    """Where each thread of this process stands."""
    file = os.memfd_create("layer8-stacks", os.MFD_CLOEXEC)
    try:
        faulthandler.dump_traceback(file, all_threads=True)
        stacks = os.pread(file, LARGEST, 0).decode("utf-8", "replace")
    finally:
        os.close(file)
    names = "\n".join(f"  0x{thread.ident or 0:016x} {thread.name}" for thread in threading.enumerate())
    return f"{_head()}\n\nThreads:\n{names}\n\n{stacks}"


def memory_report() -> str:
    """What this process has allocated."""
    parts = [_head()]
    if tracemalloc.is_tracing():
        now, peak = tracemalloc.get_traced_memory()
        parts.append(f"tracemalloc: {now:,} bytes now, {peak:,} at most. The places with most:")
        snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)])
        parts.append("\n".join(f"  {statistic}" for statistic in snapshot.statistics("lineno")[:_LINES]))
    else:
        parts.append(
            "tracemalloc does not trace: call allow_reports(trace_memory=True), or set PYTHONTRACEMALLOC=1, to see "
            "where memory was allocated."
        )
    counts = collections.Counter(type(one).__qualname__ for one in gc.get_objects())
    lines = (f"  {count:>12,} {name}" for name, count in counts.most_common(_LINES))
    parts.append("Objects that the collector knows, by type:\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _head() -> str:
    moment = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return f"pid {os.getpid()}, {moment}, {threading.active_count()} threads"
