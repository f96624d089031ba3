"""A Vnet for the commands, and a way to run them as their users do: as processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import IO

import pytest

from layer8 import Vnic
from layer8.testing import RunningVnet, running_vnet

PATIENCE = 60.0  # a watchdog, not an expectation


class Command:
    """Runs `layer8` with the environment of one Vnet."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = {**os.environ, **environ}

    def __call__(
        self, *arguments: str, given: bytes = b"", environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs to the end. `given`: its stdin. `environ`: on top of that of the Vnet."""
        return subprocess.run(
            [sys.executable, "-m", "layer8.cli", *arguments],
            input=given,
            capture_output=True,
            env=self._environ | dict(environ or {}),
            timeout=PATIENCE,
            check=False,
        )

    @contextlib.contextmanager
    def started_with(self, environ: Mapping[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """As `started`, on another Vnet."""
        with Command({**self._environ, **environ}).started(*arguments) as process:
            yield process

    @contextlib.contextmanager
    def started(self, *arguments: str, stdout: int | IO[bytes] = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
        """Runs beside the test, which ends it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "layer8.cli", *arguments],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=self._environ,
        )
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    @staticmethod
    def interrupt(process: subprocess.Popen[bytes]) -> int:
        """Ctrl-C; its exit status."""
        process.send_signal(signal.SIGINT)
        return process.wait(PATIENCE)

    @contextlib.contextmanager
    def subscriber(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """`layer8 sub`, when it has subscribed."""
        with self.started("sub", *arguments) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith(b"subscribed"), line + process.stderr.read()
            yield process


@pytest.fixture(scope="module")
def vnet() -> Iterator[RunningVnet]:
    with running_vnet() as vnet:
        yield vnet


@pytest.fixture
def layer8(vnet: RunningVnet) -> Command:
    return Command(vnet.environ)


@pytest.fixture
def make_vnic(vnet: RunningVnet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Vnic]]:
    """Vnics in the test's own process, closed at its end."""
    for name, value in vnet.environ.items():
        monkeypatch.setenv(name, value)
    with contextlib.ExitStack() as vnics:
        yield lambda alias=None: vnics.enter_context(Vnic(alias))


@pytest.fixture
def name() -> str:
    """An alias or a topic that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}."
