"""Where the demo plays: one directory, a Vnet a host, one process a part. Leaving it ends and removes them all."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from layer8.demo.hosts import NAMES, Hosts
from layer8.testing import Overlay, RunningVnet, make_overlay, running_vnet
from layer8.undisturbed import undisturbed
from layer8.vnet.status import StatusReader
from layer8.vnic.control import ControlClient

PATIENCE = 60.0
"""Seconds that a process may stay silent when the stage waits for it: a watchdog, not a limit on its work."""
_GRACE = 5.0  # seconds in which a process that was told to stop may end


class PartFailed(Exception):
    """A process of the demo ended or fell silent. `alias`: which; `text`: what it wrote last."""

    def __init__(self, alias: str, happened: str, text: str) -> None:
        super().__init__(alias, happened, text)
        self.alias = alias
        self.happened = happened
        self.text = text

    def __str__(self) -> str:
        return f"{self.alias} {self.happened}" + (f":\n{self.text}" if self.text else "")


class Actor:
    """One process. `alias`: of its Vnic. `pid`: its process id."""

    def __init__(self, role: str, alias: str, settings: dict[str, Any], environ: dict[str, str], log: Path) -> None:
        self.alias = alias
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "layer8.demo.worker", role, alias, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environ,
                start_new_session=True,  # a Ctrl-C is for the stage, which ends the others in order
            )
        self._unread = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, order: str) -> None:
        """Gives an order; one who has died is noticed at the next `expect`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(order.encode() + b"\n")
            self._process.stdin.flush()

    def expect(self, kind: str) -> dict[str, Any]:
        """The next line, which must be of this kind. PartFailed when there is none."""
        line: dict[str, Any] = json.loads(self._read_line())
        if line["kind"] != kind:
            raise PartFailed(self.alias, f"said {line['kind']!r} in place of {kind!r}", self._last_words())
        return line

    def join(self) -> int:
        """Waits for the end that it was told of; its exit status."""
        try:
            return self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            raise PartFailed(self.alias, "does not stop", self._last_words()) from None

    def close(self) -> None:
        """Ends the process whatever it does. Safe twice."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._unread:
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise PartFailed(self.alias, f"said nothing for {PATIENCE:.0f} s", self._last_words())
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                status = self._process.wait()
                raise PartFailed(self.alias, f"ended with status {status}", self._last_words())
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-4000:].strip()


class Stage:
    """The Vnet, the directory and the processes. `directory`: for whatever the parts store."""

    def __init__(self, hosts: int = 1) -> None:
        """`hosts`: how many Vnets, each on a host of its own as far as that can be."""
        self._count = hosts
        self._root: Path | None = None
        self._actors: list[Actor] = []
        self._hosts: Hosts | None = None
        self._overlay: Overlay | None = None
        self.vnets: list[RunningVnet] = []
        self._pids: list[int] = []

    def __enter__(self) -> Self:
        try:
            with _undisturbed():
                self._root = Path(tempfile.mkdtemp(prefix="layer8-demo-"))
            self.directory.mkdir()
            if self._count == 1:
                self.vnets.append(running_vnet())
            else:
                self._start_several()
            self._pids += [vnet.pid or 0 for vnet in self.vnets]
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def directory(self) -> Path:
        assert self._root is not None, "the stage is not open"
        return self._root / "store"

    @property
    def hosts_kind(self) -> str:
        """What the hosts are; empty where there is one."""
        return self._hosts.kind if self._hosts is not None else ""

    def client(self, host: int) -> ControlClient:
        """Asks the Vnet of this host; whoever makes it closes it."""
        return ControlClient(str(self.vnets[host].socket), security=self._security(), attach_timeout=PATIENCE)

    def _security(self) -> str:
        return f"x509:{self._overlay.vnic('demo')}" if self._overlay is not None else "local"

    def _start_several(self) -> None:
        assert self._root is not None
        self._hosts = Hosts(self._count)
        self._overlay = make_overlay(self._root, "demo")
        reach: list[str] = []
        for name, listen, launcher in zip(NAMES, self._hosts.listen, self._hosts.launcher, strict=False):
            config = {
                "security": "x509",
                "identity": self._overlay.vnet(name),
                "host": name,
                "listen": listen,
                "peers": list(reach),
            }
            vnet = running_vnet(config=config, launcher=launcher)
            self.vnets.append(vnet)
            with StatusReader(vnet.socket) as reader:
                reach += reader.snapshot().listen

    def until_all_see(self, vnics: int, topics: int) -> None:
        """Until every Vnet knows so many Vnics, and so many subscriptions of theirs. Raises PartFailed."""
        deadline = time.monotonic() + PATIENCE
        for host in range(len(self.vnets)):
            with self.client(host) as client:
                while True:
                    found = client.health(kind="vnic", state="UP")
                    if len(found) == vnics and sum(len(record.topics) for record in found) == topics:
                        break
                    if time.monotonic() > deadline:
                        raise PartFailed(NAMES[host], "does not see everybody", self.vnets[host].log)
                    time.sleep(0.02)

    def start(self, role: str, alias: str, host: int = 0, **settings: Any) -> Actor:
        """A process of its own for one part, on this host (as often as there are hosts, then from the first again)."""
        log = self.directory.with_name(f"{alias}.{len(self._actors)}.log")
        with undisturbed():
            actor = Actor(role, alias, settings, self._environ(host % len(self.vnets)), log)
            self._actors.append(actor)
            self._pids.append(actor.pid)
        return actor

    def stop(self) -> list[tuple[str, int]]:
        """Asks every process to stop; who ended with which status."""
        for actor in self._actors:
            actor.tell("stop")
        return [(actor.alias, actor.join()) for actor in self._actors]

    def close(self) -> None:
        """Ends every process and removes every file. A second signal does not stop this. Safe twice."""
        signals = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for actor in self._actors:
                actor.close()
            for vnet in self.vnets:
                vnet.close()
            if self._hosts is not None:
                self._hosts.close()
            if self._root is not None:
                shutil.rmtree(self._root, ignore_errors=True)
        finally:
            for number, handler in signals.items():
                signal.signal(number, handler)

    def leftovers(self) -> list[str]:
        """What is still there after `close`: nothing, if all is well."""
        paths = [self.directory.parent, *(path for vnet in self.vnets for path in (vnet.directory, vnet.socket))]
        found = [str(path) for path in paths if path.exists()]
        found += [f"process {pid}" for pid in self._pids if _lives(pid)]
        return found

    def _environ(self, host: int) -> dict[str, str]:
        """Of the processes: the Vnet of their host, and modules from where we have ours."""
        search = os.pathsep.join(path or os.getcwd() for path in sys.path)
        return {**self.vnets[host].environ, "PYTHONPATH": search, "LAYER8_SECURITY": self._security()}


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that would end us wait until this is over. Start no process in it: it would never hear them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
