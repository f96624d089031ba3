"""The status segment of a Vnet, for commands that must work when it hangs or has crashed."""

from __future__ import annotations

from pathlib import Path

import psutil

from layer8.errors import VnetNotFound
from layer8.rendezvous import candidates
from layer8.vnet.status import StatusError, StatusReader


def open_segment(vnet: str) -> StatusReader:
    """The segment of the first place where one is. Raises VnetNotFound when there is none anywhere, StatusError for
    one that may not be read or makes no sense."""
    failed: StatusError | None = None
    paths = [place for place in candidates(vnet) if isinstance(place, Path)]
    for path in paths:
        try:
            return StatusReader(path)
        except StatusError as error:
            if not error.is_missing:
                failed = failed or error
    if failed is not None:
        raise failed
    raise VnetNotFound(tuple(f"{path}: no status segment" for path in paths))


def process_text(pid: int, started: float) -> str:
    """What the Vnet's process does, whether or not it answers: running, stopped, gone."""
    try:
        process = psutil.Process(pid)
        if process.create_time() > started + 1.0:  # another one with its pid
            return "gone"
        status: str = process.status()
    except psutil.NoSuchProcess:
        return "gone"
    except psutil.Error:
        return "not to be looked at"
    if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return "gone"
    return "stopped" if status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP) else "running"
