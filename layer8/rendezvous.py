"""Where a Vnic and its Vnet find each other on one host: socket paths, and whether they can be trusted.

    LAYER8_VNET                              when set, the only place: a path (it has a slash) or the name of a Vnet
    $XDG_RUNTIME_DIR/layer8/NAME.sock        the user's Vnet; else, without such a directory,
    /tmp/layer8-UID/NAME.sock
    /run/layer8/NAME.sock                    the system's Vnet

Beside the socket stand NAME.lock (an flock on it, not the socket, proves that a Vnet runs) and NAME.state (what a
restarted Vnet needs to know its Vnics again; worthless after a reboot, so it lives where a reboot clears).

Everybody may write in /tmp, so nothing there is believed by its name: a directory counts only if it is a real one, no
link, that belongs to this user (or root) and that nobody else may write. A place in a container's node or behind TLS
will be one more kind of candidate after these.

All errors are OSError with a text that says what to do; the functions look at the file system and connect to nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from layer8.names import check_vnet_name

VARIABLE = "LAYER8_VNET"
VNET_PORT = 8808
"""Where a Vnet listens for other hosts when nobody says otherwise."""
DEFAULT_VNET = "default"
SYSTEM_DIRECTORY = Path("/run/layer8")
SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket: sun_path has 108 bytes and ends with a zero (unix(7))."""


def candidates(vnet: str = DEFAULT_VNET, environ: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Where a Vnic looks for this Vnet, in order. `vnet`: a name, or the path of a socket (it has a slash).

    LAYER8_VNET, when set and not empty, stands in for `vnet`. Raises ValueError for an impossible name.
    """
    environ = os.environ if environ is None else environ
    wanted = environ.get(VARIABLE) or vnet
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


def terms_directory(socket: Path) -> Path:
    """Where the Vnet at `socket` keeps the terms of elections, which outlive a clean stop too."""
    return socket.with_name(_stem(socket) + ".terms")


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
        raise PermissionError(errno.EPERM, f"this socket belongs to uid {found.st_uid}; not asked", str(path))
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
