"""Where a Vnic finds its Vnet: socket paths, and whether they can be trusted; addresses of other hosts.

    LAYER8_VNET                              when set, the only place: a path (it has a slash), tls://HOST[:PORT], or
                                             the name of a Vnet
    $XDG_RUNTIME_DIR/layer8/NAME.sock        the user's Vnet; else, without such a directory,
    /tmp/layer8-UID/NAME.sock
    /run/layer8/NAME.sock                    the system's Vnet
    tls://$NODE_IP, else the gateway         in a container that has none of these sockets, by TLS

Beside the socket stand NAME.lock (an flock on it, not the socket, proves that a Vnet runs) and NAME.state (what a
restarted Vnet needs to know its Vnics again; worthless after a reboot, so it lives where a reboot clears).

Everybody may write in /tmp, so nothing there is believed by its name: a directory counts only if it is a real one, no
link, that belongs to this user (or root) and that nobody else may write.

All errors are OSError with a text that says what to do; the functions look at the file system and connect to nothing.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from layer8.names import check_vnet_name

VARIABLE = "LAYER8_VNET"
VNET_PORT = 8808
"""Where a Vnet listens for other hosts when nobody says otherwise."""
DEFAULT_VNET = "default"
SYSTEM_DIRECTORY = Path("/run/layer8")
SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket: sun_path has 108 bytes and ends with a zero (unix(7))."""

_RTF_GATEWAY = 0x0002  # linux/route.h


FAR = "tls://"
"""How the address of a Vnet on another host begins."""


@dataclass(frozen=True, slots=True)
class FarPlace:
    """The TLS port of a Vnet. `found`: how it was, when nobody named it."""

    host: str
    port: int
    found: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{FAR}{host}:{self.port}" + (f" ({self.found})" if self.found else "")


Place = Path | FarPlace


def candidates(vnet: str = DEFAULT_VNET, environ: Mapping[str, str] | None = None) -> tuple[Place, ...]:
    """Where a Vnic looks for this Vnet, in order. `vnet`: a name, the path of a socket (it has a slash), or
    tls://HOST[:PORT].

    LAYER8_VNET, when set and not empty, stands in for `vnet`. Raises ValueError for an impossible name or address.
    """
    if not isinstance(vnet, str):
        raise TypeError(f"vnet is a name, a path or an address, as str, not {type(vnet).__name__}")
    environ = os.environ if environ is None else environ
    wanted = environ.get(VARIABLE) or vnet
    if wanted.startswith(FAR):
        host, port = split_address(wanted.removeprefix(FAR).removesuffix("/"))
        if not host or port == 0:
            raise ValueError(f"{wanted!r} names no host")
        return (FarPlace(host, port),)
    if "/" in wanted:
        return (Path(os.path.abspath(wanted)),)
    return own_socket(wanted, environ=environ), own_socket(wanted, system=True, environ=environ)


def own_socket(name: str = DEFAULT_VNET, system: bool = False, environ: Mapping[str, str] | None = None) -> Path:
    """Where the Vnet of this name listens: in the runtime directory of this user, or of the system."""
    check_vnet_name(name)
    environ = os.environ if environ is None else environ
    return (SYSTEM_DIRECTORY if system else user_directory(environ)) / f"{name}.sock"


def user_directory(environ: Mapping[str, str]) -> Path:
    """The runtime directory of this user. $XDG_RUNTIME_DIR counts if it is a directory of this user (not, for
    instance, that of the user who called sudo), else it is /tmp/layer8-UID."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        try:
            found = os.stat(runtime)
        except OSError:
            pass
        else:
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                return Path(runtime, "layer8")
    return Path(f"/tmp/layer8-{os.geteuid()}")


def lock_file(socket: Path) -> Path:
    """The file whose flock the running Vnet holds."""
    return socket.with_name(_stem(socket) + ".lock")


def state_directory(socket: Path) -> Path:
    """Where the Vnet at `socket` keeps what its next start needs. Make it with ensure_private_directory."""
    return socket.with_name(_stem(socket) + ".state")


def http_token_file(socket: Path) -> Path:
    """The token that whoever asks the Vnet at `socket` over HTTP has to give."""
    return socket.with_name(_stem(socket) + ".http-token")


def terms_directory(socket: Path) -> Path:
    """Where the Vnet at `socket` keeps the terms of elections, which outlive a clean stop too."""
    return socket.with_name(_stem(socket) + ".terms")


def links_file(socket: Path) -> Path:
    """Where the Vnet at `socket` notes who it is and with which Vnets it has sessions."""
    return socket.with_name(_stem(socket) + ".links")


def ensure_private_directory(path: Path) -> Path:
    """Makes the directory with mode 0700 if it is missing, and checks it. Its parent must exist.

    Refused, with PermissionError or NotADirectoryError: a link, another owner, group or others may write, or a parent
    in which others could exchange it.
    """
    path = Path(os.path.abspath(path))
    _check_parent(path)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    _check_directory(path, owners=(os.geteuid(),))
    return path


def check_socket_path(path: Path) -> Path:
    """Refuses a path that is too long for a Unix socket, before the kernel does with less to say."""
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES:
        raise OSError(
            errno.ENAMETOOLONG,
            f"a socket path of {size} bytes is too long ({SOCKET_PATH_BYTES} at most); "
            "use a shorter name or a shorter XDG_RUNTIME_DIR",
            str(path),
        )
    return path


def check_socket(path: Path, trusted: tuple[int, ...] | None = ()) -> int:
    """Whether a Vnic may connect to `path`: a socket, no link, of this user, root or one that is `trusted` (None:
    anybody), where nobody else may write. Returns the uid of its owner.

    Who really listens there is proved by the attach; this keeps a stranger's trap in /tmp from being asked at all.
    Raises FileNotFoundError when nothing is there, and other OSErrors.
    """
    check_socket_path(path)
    owners = (os.geteuid(), 0, *(trusted or ()))
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no socket there", str(path)) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.ENOTSOCK, "this is not a socket", str(path))
    if trusted is not None and found.st_uid not in owners:
        who = found.st_uid
        hint = f'this socket belongs to uid {who}; not asked (security="local:{who}" trusts that user)'
        raise PermissionError(errno.EPERM, hint, str(path))
    _check_parent(path)
    return found.st_uid


def _check_directory(path: Path, owners: tuple[int, ...]) -> None:
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        what = "a link, which is never followed" if stat.S_ISLNK(found.st_mode) else "not a directory"
        raise NotADirectoryError(errno.ENOTDIR, f"the private directory is {what}; remove it", str(path))
    if found.st_uid not in owners:
        raise PermissionError(
            errno.EPERM, f"the private directory belongs to uid {found.st_uid}, not to uid {owners[0]}", str(path)
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            errno.EPERM,
            f"others may write in the private directory (mode {stat.S_IMODE(found.st_mode):04o}); chmod 700 it",
            str(path),
        )


def _check_parent(path: Path) -> None:
    """Where others may write, only the sticky bit keeps them from renaming what is ours."""
    parent = path.parent
    found = os.stat(parent)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        raise PermissionError(
            errno.EPERM,
            f"others may exchange what stands in this directory (mode {stat.S_IMODE(found.st_mode):04o}, not sticky)",
            str(parent),
        )


def _stem(socket: Path) -> str:
    return socket.name.removesuffix(".sock")


def split_address(text: str, port: int = VNET_PORT) -> tuple[str, int]:
    """Host and port of "host:port", "host", "[v6]:port", "[v6]" or a bare IPv6 address. `port`: without one.

    The host may be empty (":8808": all addresses). Raises ValueError.
    """
    host, colon, number = text.strip().rpartition(":")
    if text.startswith("[") and text.rstrip().endswith("]"):
        host, colon, number = text.strip(), "", ""
    elif not colon or (":" in host and not host.startswith("[")):
        host, number = text.strip(), ""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if any(sign.isspace() or sign in "[]/" for sign in host) or (colon and not number and not host.count(":")):
        raise ValueError(f'{text[:64]!r} is no "host:port"')
    if number:
        if not (number.isascii() and number.isdigit()) or int(number) > 65535:
            raise ValueError(f"{text[:64]!r} has a port that is none")
        port = int(number)
    return host, port


# ── a container ────────────────────────────────────────────────────────────────────────────────────────────────────


def nodes(
    places: tuple[Place, ...], environ: Mapping[str, str] | None = None, root: Path = Path("/")
) -> tuple[Place, ...]:
    """Where else to look, in a container that has none of the sockets in `places`: the Vnet of its node, at $NODE_IP,
    else at the default gateway. Only for who has an identity to show there. `root`: of the file system."""
    environ = os.environ if environ is None else environ
    if environ.get(VARIABLE) or not all(isinstance(place, Path) and not place.exists() for place in places):
        return ()
    if len(places) < 2:
        return ()  # a path was named, and no other place is meant
    if not _is_container(environ, root):
        return ()
    node = environ.get("NODE_IP", "").strip()
    if node:
        try:
            return (FarPlace(str(ipaddress.ip_address(node)), VNET_PORT, "NODE_IP"),)
        except ValueError:
            return ()
    return tuple(FarPlace(gateway, VNET_PORT, "the default gateway") for gateway in _gateways(root))


def _is_container(environ: Mapping[str, str], root: Path) -> bool:
    """As the runtimes mark it: Docker and Podman by a file, systemd and LXC by a variable, Kubernetes by another."""
    marks = (root / ".dockerenv", root / "run" / ".containerenv")
    return any(name in environ for name in ("KUBERNETES_SERVICE_HOST", "container")) or any(map(os.path.exists, marks))


def _gateways(root: Path) -> list[str]:
    """Of the default routes, by metric: proc_net_route(5), and the table of IPv6, which has another form."""
    found: list[tuple[int, str]] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/net/route").read_text().splitlines()[1:]:
            _, destination, gateway, flags, _, _, metric, mask = line.split()[:8]
            if int(destination, 16) == int(mask, 16) == 0 and int(flags, 16) & _RTF_GATEWAY:
                found.append((int(metric), socket.inet_ntoa(int(gateway, 16).to_bytes(4, "little"))))
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/net/ipv6_route").read_text().splitlines():
            destination, length, _, _, gateway, metric, _, _, flags, device = line.split()
            if int(destination, 16) == int(length, 16) == 0 and int(flags, 16) & _RTF_GATEWAY:
                address = ipaddress.IPv6Address(int(gateway, 16))
                found.append((int(metric, 16), f"{address}%{device}" if address.is_link_local else str(address)))
    return [address for _, address in sorted(found, key=lambda route: route[0])]
