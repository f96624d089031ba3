"""Another version of layer8, made of this one by another_version/sitecustomize.py: Vnets, programs, commands of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from layer8.dataplane import LAYOUT_VERSION
from layer8.testing import RunningVnet

ROOT = Path(__file__).parents[2]
PLACE = Path(__file__).parent / "another_version"


class Version:
    """`environ`: what a process of it has in its environment, besides the rest."""

    def __init__(self, release: str, *, more: bool = False, **numbers: object) -> None:
        self.release = release
        self._another = json.dumps({"release": release, "more": more, **numbers})

    @property
    def environ(self) -> dict[str, str]:
        return {"LAYER8_ANOTHER": self._another, "PYTHONPATH": str(PLACE)}

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """A Vnet that is started meanwhile is of this version."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(PLACE), *sys.path])  # the Vnet's alone: ours is loaded
            patch.setenv("LAYER8_ANOTHER", self._another)
            yield


def replace(vnet: RunningVnet, version: Version | None, *, kill: bool = False) -> None:
    """The Vnet is stopped, and one of this version started in its place; None: of the version of the tests."""
    if kill:
        vnet.kill()
    else:
        vnet.stop()
    with version.starting() if version is not None else contextlib.nullcontext():
        vnet.restart()


def command(vnet: RunningVnet, version: Version | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`layer8 …` of this version."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "layer8.cli", *arguments],
        env={**vnet.environ, **(version.environ if version is not None else {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def core_of_another_layout(number: int = LAYOUT_VERSION + 1) -> str:
    """The C core with another number for its layout; built when it has changed."""
    directory = ROOT / "build" / f"layout-{number}"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:  # several workers may want it at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = f"-DLAYER8_LAYOUT_VERSION={number}"
        build = f'source "{ROOT}/scripts/environment.sh" && layer8_core "{directory}" {options}'
        subprocess.run(["bash", "-euc", build], check=True, env={**os.environ, "PYTHONPATH": ""})
    return str(directory / "_core.abi3.so")
