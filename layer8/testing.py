"""For people who test their own programs: a real Vnet in its own process, private to the test and gone afterwards.

    with running_vnet() as vnet:
        subprocess.run([...], env=vnet.environ)
        vnet.kill()
        vnet.restart()

    overlay = make_overlay(directory)                                      # certificates of an authority of their own
    with running_vnet(config={"security": "x509", "identity": overlay.vnet("here")}) as vnet:
        Vnic(security=f"x509:{overlay.vnic('web')}")

Nothing is left behind: not by `close()`, not when the Vnet is killed, and not when the test itself is killed (the Vnet
ends with the process that started it). Importing this module loads nothing else of layer8.
"""

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
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 30.0
STOP_SECONDS = 15.0

_SHORT = 40  # bytes of a directory that leave room for the socket's name in the 107 of its path


def running_vnet(
    name: str | None = None,
    config: Mapping[str, object] | str | os.PathLike[str] | None = None,
    *,
    launcher: Sequence[str] = (),
) -> RunningVnet:
    """Starts a Vnet and returns when Vnics can attach. Use it with `with`, or call `close()`.

    `name`: of the Vnet. `config`: settings of this Vnet by name, as {"ports_per_uid": 3}, or the path of a TOML file.
    `launcher`: a command that runs it, as ["ip", "netns", "exec", "one"]; it must become the Vnet's process itself.
    Raises RuntimeError with the Vnet's log when it does not start.
    """
    vnet = RunningVnet(name, config, launcher)
    try:
        vnet.restart()
    except BaseException:
        vnet.close()
        raise
    return vnet


class RunningVnet:
    """A Vnet's process and its private runtime directory. `socket`: where it listens. Not thread-safe."""

    def __init__(
        self,
        name: str | None,
        config: Mapping[str, object] | str | os.PathLike[str] | None,
        launcher: Sequence[str] = (),
    ) -> None:
        self._launcher = launcher
        self.name = name if name is not None else "default"
        self.directory = _private_directory()
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)
        self.socket = self.directory / "layer8" / f"{self.name}.sock"
        self._log = self.directory / "vnet.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._config = self._write(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def environ(self) -> dict[str, str]:
        """The environment of this process, in which every Vnic finds this Vnet and no other."""
        return {**os.environ, "XDG_RUNTIME_DIR": str(self.directory), "LAYER8_VNET": str(self.socket)}

    @property
    def pid(self) -> int | None:
        """Of the Vnet's process; None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def log(self) -> str:
        """What the Vnet has written so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def kill(self) -> None:
        """SIGKILL: the Vnet dies without a word, and leaves what it leaves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int | None:
        """SIGTERM: a clean stop. Returns the exit status, None when it did not run."""
        if self._process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)  # a stopped one could not hear it
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode

    def restart(self) -> None:
        """Starts it on the same place, again or for the first time; one that runs is stopped before."""
        from layer8.undisturbed import undisturbed

        self.stop()
        ready, write = os.pipe()
        arguments = ["--name", self.name, "--ready-fd", str(write), "--parent", str(os.getpid())]
        if self._config is not None:
            arguments += ["--config", str(self._config)]
        try:
            with self._log.open("ab") as log, undisturbed():
                self._process = subprocess.Popen(
                    # -P and our own search path: a module in the working directory must not stand in for one of ours
                    [
                        *self._launcher,
                        sys.executable,
                        "-P",
                        "-m",
                        "layer8.cli",
                        "vnet",
                        *arguments,
                        "--scratch",
                        str(self.directory),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[write],
                    env=self.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                )
            os.close(write)
            write = -1
            if not _says_ready(ready):
                self.kill()
                raise RuntimeError(f"the Vnet did not start (exit status {self._process.returncode}):\n{self.log}")
        finally:
            os.close(ready)
            if write >= 0:
                os.close(write)

    def close(self) -> None:
        """Stops the Vnet and removes everything it had. Safe twice."""
        self.stop()
        self._process = None
        if self._finalizer.alive:
            from layer8.vnet import status  # of a Vnet that was killed

            status.remove(self.socket)
            self._finalizer()

    def _write(self, config: Mapping[str, object] | str | os.PathLike[str] | None) -> Path | None:
        if config is None:
            return None
        if not isinstance(config, Mapping):
            return Path(config)
        path = self.directory / "vnet.toml"
        lines = [f"{key} = {_toml(value)}" for key, value in config.items()]
        path.write_text("\n".join([f"[vnet.{json.dumps(self.name)}]", *lines, ""]))
        return path


class Overlay:
    """An overlay with an authority of its own, for tests. `path`: the authority's directory."""

    def __init__(self, directory: Path, name: str) -> None:
        import time

        from layer8.security.authority import Authority

        self.name = name
        self.path = directory / "authority"
        self._directory = directory
        self._authority = Authority.create(self.path, name, time.time())

    def vnet(self, name: str = "host", lifetime: float = 86400.0) -> str:
        """The directory of a Vnet's identity; the same one when it was asked for before."""
        return self._member("vnet", name, lifetime)

    def vnic(self, name: str = "app", lifetime: float = 86400.0) -> str:
        """The directory of a Vnic's identity; the same one when it was asked for before."""
        return self._member("vnic", name, lifetime)

    def _member(self, role: str, name: str, lifetime: float) -> str:
        import time

        from layer8.security import certificates, identity

        path = self._directory / f"{role}-{name}"
        if not path.exists():
            key = certificates.new_key()
            who = certificates.Identity.parse(f"layer8://{self.name}/{role}/{name}")
            issued = self._authority.issue(who, key.public_key(), time.time(), lifetime)
            identity.install(path, issued.certificate, issued.trust, issued.revoked, key)
        return str(path)


def make_overlay(directory: str | os.PathLike[str], name: str = "test") -> Overlay:
    """An authority in `directory`, which makes identities there. With the settings `{"security": "x509", "identity":
    overlay.vnet()}` a Vnet is of it, with `Vnic(security=f"x509:{overlay.vnic()}")` a Vnic."""
    return Overlay(Path(directory), name)


def _toml(value: object) -> str:
    """A value as TOML spells it: JSON does, but for tables."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(part)}" for key, part in value.items()) + " }"
    return json.dumps(value)


def _private_directory() -> Path:
    """A directory with a short name: a socket's path has 107 bytes at most."""
    for parent in (tempfile.gettempdir(), "/tmp", "/dev/shm"):
        if len(os.fsencode(parent)) <= _SHORT and os.access(parent, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix="layer8-", dir=parent))
    raise RuntimeError("there is no temporary directory with a short enough path; set TMPDIR to one")


def _says_ready(ready: int) -> bool:
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    said = b""
    while poll.poll(START_SECONDS * 1000):
        data = os.read(ready, 64)
        if not data:
            return said != b""  # its end, after the word
        said += data
    return False
