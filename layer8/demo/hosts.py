"""Where several Vnets of the demo stand: a network namespace for each where that can be made, else loopback addresses.

Everything is inside namespaces of our making; nothing of the machine is changed, and all goes at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess

NAMES = ("one", "two", "three", "four", "five", "six", "seven", "eight")


class Hosts:
    """`kind`: what they are, for people. `listen`, `launcher`: of each, in order."""

    def __init__(self, count: int) -> None:
        self.listen: list[str] = []
        self.launcher: list[tuple[str, ...]] = []
        self._spaces: list[str] = []
        try:
            self._make_namespaces(count)
            self.kind = "network namespaces"
        except (OSError, subprocess.SubprocessError):
            self.close()
            self.kind = "loopback addresses (network namespaces cannot be made here)"
            self.listen = [f"127.0.8.{number}:0" for number in range(1, count + 1)]
            self.launcher = [()] * count

    def close(self) -> None:
        """Safe twice."""
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True, timeout=30)
        self._spaces.clear()

    def _make_namespaces(self, count: int) -> None:
        if shutil.which("ip") is None:
            raise OSError("there is no ip command")
        between = f"l8-demo-{os.getpid()}"
        self._ip("netns", "add", between)
        self._spaces.append(between)
        self._ip("-n", between, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", between, "link", "set", "bridge", "up")
        for number in range(1, count + 1):
            space = f"{between}-{number}"
            self._ip("netns", "add", space)
            self._spaces.append(space)
            peer = ("type", "veth", "peer", "name", "eth0", "netns", space)
            self._ip("-n", between, "link", "add", f"to{number}", *peer)
            self._ip("-n", between, "link", "set", f"to{number}", "master", "bridge", "up")
            self._ip("-n", space, "addr", "add", f"10.88.0.{number}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                self._ip("-n", space, "link", "set", device, "up")
            self.listen.append(f"10.88.0.{number}:8808")
            self.launcher.append(("ip", "netns", "exec", space))

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)
