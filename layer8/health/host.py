"""What about this host would hurt: limits, namespaces, cores, clock; and what to do about it.

Each check reads a file or asks the kernel once, and says what it found, also when all is well. `root` stands in for /
in tests.
"""

from __future__ import annotations

import enum
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_MIB = 1 << 20
_GIB = 1 << 30

_PORTS = 1024  # Vnics on one Vnet, by default
_DESCRIPTORS_A_PORT = 5  # of a Vnet: control socket, pidfd, doorbell, and two more for an AsyncVnic
_DESCRIPTORS_WANTED = 4096
_SEGMENT_BYTES = 5 * _MIB // 2 + (32 << 10)  # shared memory of a Vnic, by default
_SHM_WANTED = 16 * _MIB
_KERNEL_NEEDED = (5, 3)  # pidfd_open; memfd seals and preadv2(RWF_NOWAIT) are older
_KERNEL_WANTED = (6, 5)  # SO_PEERPIDFD
_CLOCK_WANTED_NS = 500.0  # of one reading; with a slow clock source it is a system call
_FAST_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "xen")


class Level(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`what` was looked at, what was `found`, and, unless it is well, what to do: `advice`."""

    what: str
    level: Level
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """Where the checks look. The limits are pairs of soft and hard, as `resource.getrlimit` has them."""

    root: Path = Path("/")
    release: str = field(default_factory=platform.release)
    files: tuple[int, int] = field(default_factory=lambda: resource.getrlimit(resource.RLIMIT_NOFILE))
    locked: tuple[int, int] = field(default_factory=lambda: resource.getrlimit(resource.RLIMIT_MEMLOCK))
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    def read(self, path: str) -> str | None:
        """The text of a file of the kernel's, None when there is none."""
        try:
            return (self.root / path).read_text().strip()
        except OSError:
            return None


def examine(host: Host | None = None) -> Iterator[Finding]:
    """All checks of this process's host, one after the other."""
    host = host or Host()
    for check in CHECKS:
        yield check(host)


def kernel(host: Host) -> Finding:
    parts = host.release.split("-")[0].split(".")
    version = tuple(int(part) for part in parts[:2] if part.isdecimal())
    found = f"Linux {host.release}"
    if version < _KERNEL_NEEDED:
        return Finding(
            what="kernel",
            level=Level.BAD,
            found=found,
            advice="layer8 watches processes by pidfd: use Linux 5.3 or newer",
        )
    if version < _KERNEL_WANTED:
        return Finding(
            what="kernel",
            level=Level.OK,
            found=f"{found}; before 6.5 an attach needs one round trip more to be sure of its peer",
        )
    return Finding(what="kernel", level=Level.OK, found=found)


def python(host: Host) -> Finding:
    build = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else ", without the GIL"
    return Finding(what="python", level=Level.OK, found=f"Python {platform.python_version()}{build}")


def cores(host: Host) -> Finding:
    usable = float(host.cores)
    quota = (host.read("sys/fs/cgroup/cpu.max") or "max").split()
    found = f"{host.cores} usable"
    if len(quota) == 2 and quota[0].isdecimal() and int(quota[1]) > 0:
        usable = min(usable, int(quota[0]) / int(quota[1]))
        found += f", limited to {usable:g} by the container (cpu.max)"
    if usable < 2:
        return Finding(
            what="cores",
            level=Level.WARNING,
            found=found,
            advice="sender, Vnet and receiver take turns on one core: give it 2, and leave spin_us at 0",
        )
    return Finding(what="cores", level=Level.OK, found=found)


def clock(host: Host) -> Finding:
    source = host.read("sys/devices/system/clocksource/clocksource0/current_clocksource") or "unknown"
    cost = _clock_cost()
    found = f"{source}, {cost:.0f} ns a reading"
    if source not in _FAST_CLOCKS and cost > _CLOCK_WANTED_NS:
        return Finding(
            what="clock source",
            level=Level.WARNING,
            found=found,
            advice="each look at the clock is a system call: boot with clocksource=tsc if the machine's is stable",
        )
    return Finding(what="clock source", level=Level.OK, found=found)


def _clock_cost() -> float:
    """Nanoseconds of one reading, the best of some rounds."""
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter_ns()
        for _ in range(200):
            time.monotonic()
        best = min(best, (time.perf_counter_ns() - begun) / 200)
    return best


def memory(host: Host) -> Finding:
    limit = _number(host.read("sys/fs/cgroup/memory.max"))
    used = _number(host.read("sys/fs/cgroup/memory.current")) or 0
    free = _available(host)
    where = "free"
    if limit is not None and (free is None or limit - used < free):
        free, where = max(0, limit - used), f"left of the container's {_size(limit)} (memory.max)"
    if free is None:
        return Finding(what="memory", level=Level.OK, found="unknown: /proc/meminfo cannot be read")
    found = f"{_size(free)} {where}: about {free // _SEGMENT_BYTES:,} Vnics of {_size(_SEGMENT_BYTES)}"
    if free < 64 * _SEGMENT_BYTES:
        return Finding(
            what="memory",
            level=Level.WARNING,
            found=found,
            advice="every Vnic reserves its rings in shared memory: raise the limit, or use a smaller ring_bytes",
        )
    return Finding(what="memory", level=Level.OK, found=found)


def _available(host: Host) -> int | None:
    for line in (host.read("proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def shared_memory(host: Host) -> Finding:
    place = host.root / "dev/shm"
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding(
            what="/dev/shm",
            level=Level.BAD,
            found=f"not usable: {error.strerror}",
            advice="mount a tmpfs there: a Vnet keeps its status segment in it",
        )
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding(
            what="/dev/shm", level=Level.BAD, found="not writable", advice="give it mode 1777: a Vnet writes there"
        )
    if free < _SHM_WANTED:
        return Finding(
            what="/dev/shm",
            level=Level.WARNING,
            found=f"{_size(free)} free",
            advice="free some, or start the container with a larger one (docker run --shm-size=64m)",
        )
    return Finding(what="/dev/shm", level=Level.OK, found=f"{_size(free)} free; messages are not there, but in memfds")


def descriptors(host: Host) -> Finding:
    soft, hard = host.files
    vnics = (soft - 32) // _DESCRIPTORS_A_PORT
    found = f"{_limit(soft)} (hard limit {_limit(hard)}): a Vnet started from here has room for {_vnics(soft, vnics)}"
    if 0 <= soft < _DESCRIPTORS_WANTED and vnics < _PORTS:
        return Finding(
            what="descriptors",
            level=Level.WARNING,
            found=found,
            advice=f"ulimit -n {min(hard, 65536) if hard > 0 else 65536} before it starts (systemd: LimitNOFILE=)",
        )
    return Finding(what="descriptors", level=Level.OK, found=found)


def _vnics(soft: int, vnics: int) -> str:
    return "as many Vnics as it is told" if soft == resource.RLIM_INFINITY else f"about {max(0, vnics):,} Vnics"


def locked_memory(host: Host) -> Finding:
    soft, _ = host.locked
    return Finding(what="memlock", level=Level.OK, found=f"{_limit(soft, size=True)}; layer8 locks no memory")


def container(host: Host) -> Finding:
    signs = [
        name
        for name, path in (("Docker", ".dockerenv"), ("Podman", "run/.containerenv"))
        if (host.root / path).exists()
    ]
    if host.read("proc/1/cgroup") and "kubepods" in (host.read("proc/1/cgroup") or ""):
        signs.append("Kubernetes")
    if not signs:
        return Finding(what="container", level=Level.OK, found="none seen")
    return Finding(
        what="container",
        level=Level.OK,
        found=f"{', '.join(signs)}: to reach the host's Vnet, mount its socket and set LAYER8_VNET to the path",
    )


def pid_namespace(host: Host) -> Finding:
    for line in (host.read("proc/self/status") or "").splitlines():
        if line.startswith("NSpid:"):
            depth = len(line.split()) - 1
            if depth > 1:
                return Finding(
                    what="pid namespace",
                    level=Level.WARNING,
                    found=f"nested, {depth} deep",
                    advice="a Vnet outside sees this process die only when its socket closes, unless it shares the"
                    " namespace or the kernel is 6.5 or newer",
                )
    first = host.read("proc/1/comm") or "unknown"
    return Finding(what="pid namespace", level=Level.OK, found=f"process 1 is {first}")


def runtime_directory(host: Host) -> Finding:
    told = os.environ.get("XDG_RUNTIME_DIR")
    if not told:
        return Finding(
            what="runtime directory",
            level=Level.OK,
            found=f"XDG_RUNTIME_DIR is not set: /tmp/layer8-{os.getuid()}/ is used",
        )
    place = Path(told)
    try:
        about = place.stat()
    except OSError as error:
        return Finding(
            what="runtime directory",
            level=Level.WARNING,
            found=f"{told}: {error.strerror}",
            advice="make it, with mode 0700, or unset XDG_RUNTIME_DIR",
        )
    if about.st_uid != os.getuid() or about.st_mode & 0o077:
        return Finding(
            what="runtime directory",
            level=Level.WARNING,
            found=f"{told}: of uid {about.st_uid}, mode {about.st_mode & 0o777:04o}",
            advice="it is to be yours, with mode 0700",
        )
    return Finding(what="runtime directory", level=Level.OK, found=told)


CHECKS: tuple[Callable[[Host], Finding], ...] = (
    kernel,
    python,
    cores,
    clock,
    memory,
    shared_memory,
    descriptors,
    locked_memory,
    container,
    pid_namespace,
    runtime_directory,
)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _limit(limit: int, size: bool = False) -> str:
    if limit == resource.RLIM_INFINITY:
        return "unlimited"
    return _size(limit) if size else f"{limit:,}"


def _size(size: int) -> str:
    if size >= _GIB:
        return f"{size / _GIB:.1f} GiB"
    return f"{size / _MIB:.1f} MiB" if size >= _MIB else f"{size // 1024} KiB"
