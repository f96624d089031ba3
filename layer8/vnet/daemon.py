"""The process around the Vnets: one loop for all of them, the signals, and what ends it.

SIGTERM, SIGINT           a clean stop; a second one ends every wait
SIGHUP                    the Vnets look at their policy and identity anew
the parent's death        the same without grace, where that was asked for
a switch that fails       a clean stop of the others, and exit status 1
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from layer8.rendezvous import own_socket
from layer8.vnet.config import Config, VnetConfig
from layer8.vnet.engine import make_engine
from layer8.vnet.notify import Notifier
from layer8.vnet.provision import make_provider
from layer8.vnet.server import Vnet, VnetFailed

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_DESCRIPTORS = 1 << 20

_log = logging.getLogger("layer8.vnet")


class Daemon:
    """Runs the Vnets of `config` until it is told to stop.

    `ready` is called once, when all of them accept. `parent`: pid of the process to end with. `scratch`: a directory
    to remove when the parent is gone and cannot do it.
    """

    def __init__(
        self,
        config: Config,
        *,
        ready: Callable[[Sequence[Vnet]], None] = lambda vnets: None,
        parent: int | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._config = config
        self._ready = ready
        self._parent = parent
        self._scratch = scratch
        self._vnets: list[Vnet] = []
        self._signals = 0
        self._orphaned = False
        self._reloads: set[asyncio.Task[None]] = set()
        self._notifier = Notifier()

    def run(self) -> int:
        """Exit status. Raises Layer8Error when a Vnet cannot start; none runs then."""
        _raise_descriptor_limit()
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, signal.Signals(number))
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            with contextlib.ExitStack() as stack:
                self._follow_parent(stack)
                for config in self._config.vnets:
                    self._vnets.append(_start(config))
                self._notifier.ready(self._summary())
                self._notifier.watch(loop, lambda: not any(vnet.failed.done() for vnet in self._vnets))
                self._ready(self._vnets)
                failures = [loop.create_task(self._watch(vnet)) for vnet in self._vnets]
                await self._end.wait()
                for failure in failures:
                    failure.cancel()
        finally:
            self._notifier.stopping()
            await self._stop()
            self._notifier.close()
        return 1 if any(vnet.failed.done() for vnet in self._vnets) else 0

    async def _watch(self, vnet: Vnet) -> None:
        await asyncio.shield(vnet.failed)
        self._end.set()

    async def _stop(self) -> None:
        grace = 0.0 if self._orphaned or self._signals > 1 else None
        stops = [asyncio.ensure_future(vnet.stop(grace)) for vnet in self._vnets]
        for stopped in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(stopped, BaseException):
                _log.error("a Vnet did not stop cleanly", exc_info=stopped)
        if self._orphaned and self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _signalled(self, number: signal.Signals) -> None:
        self._signals += 1
        _log.info("%s: %s", number.name, "stopping" if self._signals == 1 else "stopping at once")
        self._end.set()
        if self._signals > 1:
            for vnet in self._vnets:
                vnet.hurry()

    def _reload(self) -> None:
        _log.info("SIGHUP: reloading")
        self._notifier.reloading()
        loop = asyncio.get_running_loop()
        for vnet in self._vnets:
            task = loop.create_task(vnet.reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloaded)
        if not self._reloads:
            self._notifier.ready(self._summary())

    def _reloaded(self, task: asyncio.Task[None]) -> None:
        self._reloads.discard(task)
        if not self._reloads:
            self._notifier.ready(self._summary())

    def _summary(self) -> str:
        return "; ".join(f"Vnet {vnet.config.name} at {vnet.path()}" for vnet in self._vnets)

    def _follow_parent(self, stack: contextlib.ExitStack) -> None:
        """Ends with the parent, whichever way that ends."""
        if self._parent is None:
            return
        with contextlib.suppress(ProcessLookupError):
            parent = os.pidfd_open(self._parent)
            stack.callback(os.close, parent)
            if os.getppid() == self._parent:  # the pid was still its own
                loop = asyncio.get_running_loop()
                loop.add_reader(parent, self._orphan)
                stack.callback(loop.remove_reader, parent)
                return
        self._orphan()

    def _orphan(self) -> None:
        self._orphaned = True
        self._end.set()
        for vnet in self._vnets:
            vnet.hurry()


def _start(config: VnetConfig) -> Vnet:
    try:
        provider = make_provider(config)
    except Exception as error:
        raise VnetFailed(config.name, f"the Security Provider {config.security!r} cannot be used: {error}") from error
    try:
        path = config.socket if config.socket is not None else own_socket(config.name)
    except OSError as error:
        raise VnetFailed(config.name, str(error)) from error
    try:
        engine = make_engine(config.election_engine, config.election_lease)
    except Exception as error:
        raise VnetFailed(config.name, f"election_engine {config.election_engine!r} cannot be used: {error}") from error
    vnet = Vnet(config, path, provider, engine)
    vnet.start()
    return vnet


def _raise_descriptor_limit() -> None:
    """Each Vnic takes three descriptors here; a soft limit of 1024 is for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, _DESCRIPTORS) if hard != resource.RLIM_INFINITY else _DESCRIPTORS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
