"""What several hosts are on one machine: loopback addresses, or network namespaces that can be cut from each other."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess

_networks = itertools.count()


class Loopback:
    """Addresses of this machine, one for each host. Nothing can be cut here but by a proxy."""

    cuts = False

    def __init__(self) -> None:
        self._hosts: list[str] = []

    def join(self, host: str) -> tuple[str, tuple[str, ...]]:
        """Where this host listens, and what its Vnet is run by."""
        self._hosts.append(host)
        return f"127.0.1.{len(self._hosts)}:0", ()

    def close(self) -> None:
        pass


class Namespaces:
    """A namespace for each host, and one with the bridge between them."""

    cuts = True

    def __init__(self) -> None:
        self._name = f"l8-{os.getpid()}-{next(_networks)}"
        self._hosts: dict[str, str] = {}
        self._ip("netns", "add", self._name)
        try:
            self._ip("-n", self._name, "link", "add", "bridge", "type", "bridge")
            self._ip("-n", self._name, "link", "set", "bridge", "up")
        except BaseException:
            self.close()
            raise

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)

    def join(self, host: str) -> tuple[str, tuple[str, ...]]:
        number = len(self._hosts) + 1
        space, address = f"{self._name}-{host}", f"10.88.0.{number}"
        self._ip("netns", "add", space)
        self._hosts[host] = address
        self._ip("-n", self._name, "link", "add", f"to{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
        self._ip("-n", self._name, "link", "set", f"to{number}", "master", "bridge", "up")
        self._ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        self._ip("-n", space, "link", "set", "eth0", "up")
        self._ip("-n", space, "link", "set", "lo", "up")
        return f"{address}:8808", ("ip", "netns", "exec", space)

    def cut(self, host: str) -> None:
        """Nothing comes to it or from it."""
        self._ip("-n", self._name, "link", "set", f"to{list(self._hosts).index(host) + 1}", "down")

    def heal(self, host: str) -> None:
        self._ip("-n", self._name, "link", "set", f"to{list(self._hosts).index(host) + 1}", "up")

    def block(self, source: str, destination: str) -> None:
        """What `source` sends to `destination` goes nowhere; the other way is open."""
        self._ip("-n", f"{self._name}-{source}", "route", "add", "blackhole", f"{self._hosts[destination]}/32")

    def unblock(self, source: str, destination: str) -> None:
        self._ip("-n", f"{self._name}-{source}", "route", "del", "blackhole", f"{self._hosts[destination]}/32")

    def close(self) -> None:
        for space in [*(f"{self._name}-{host}" for host in self._hosts), self._name]:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True, timeout=30)


def _can_have_namespaces() -> bool:
    if shutil.which("ip") is None:
        return False
    try:
        Namespaces().close()
    except (subprocess.SubprocessError, OSError):
        return False
    return True


NAMESPACES = _can_have_namespaces()
