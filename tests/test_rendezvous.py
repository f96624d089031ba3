"""Where Vnic and Vnet meet, and whom they do not follow there."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from layer8 import rendezvous
from layer8.rendezvous import (
    FarPlace,
    candidates,
    check_socket,
    check_socket_path,
    ensure_private_directory,
    lock_file,
    nodes,
    own_socket,
    split_address,
    state_directory,
)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private directory; sockets are bound relative to it, since its own path may be long."""
    return tmp_path_factory.mktemp("r")


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)
        listener.bind(path.name)
    finally:
        os.fchdir(before)
        os.close(before)
    listener.listen()
    return listener


def test_a_vnic_looks_in_the_users_directory_and_then_in_the_systems(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert candidates("shop", environ) == (tmp_path / "layer8/shop.sock", Path("/run/layer8/shop.sock"))
    assert candidates("shop", environ)[0] == own_socket("shop", environ=environ)
    assert candidates("shop", environ)[1] == own_socket("shop", system=True, environ=environ)


@pytest.mark.parametrize("runtime", ["", "relative/dir", "/nonexistent/dir"])
def test_without_a_usable_runtime_directory_it_is_one_in_tmp(runtime: str) -> None:
    environ = {"XDG_RUNTIME_DIR": runtime}
    assert candidates(environ=environ)[0] == Path(f"/tmp/layer8-{os.geteuid()}/default.sock")
    assert candidates(environ={})[0] == Path(f"/tmp/layer8-{os.geteuid()}/default.sock")


def test_the_runtime_directory_of_another_user_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert own_socket(environ={"XDG_RUNTIME_DIR": str(tmp_path)}).parent.parent == Path("/tmp")


def test_layer8_vnet_is_the_only_place_when_it_is_set(tmp_path: Path) -> None:
    environ = {"LAYER8_VNET": str(tmp_path / "x.sock"), "XDG_RUNTIME_DIR": str(tmp_path)}
    assert candidates("shop", environ) == (tmp_path / "x.sock",)
    environ["LAYER8_VNET"] = "other"
    assert candidates("shop", environ) == candidates("other", {"XDG_RUNTIME_DIR": str(tmp_path)})
    environ["LAYER8_VNET"] = ""
    assert candidates("shop", environ)[0] == tmp_path / "layer8/shop.sock"


def test_layer8_vnet_is_read_from_the_environment_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYER8_VNET", "/somewhere/a.sock")
    assert candidates() == (Path("/somewhere/a.sock"),)


def test_a_vnet_may_be_named_by_the_path_of_its_socket() -> None:
    assert candidates("/somewhere/a.sock", {}) == (Path("/somewhere/a.sock"),)
    assert candidates("./a.sock", {}) == (Path.cwd() / "a.sock",)


@pytest.mark.parametrize("name", ["", "..", "a b"])
def test_an_impossible_name_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError):
        candidates(name, {})
    with pytest.raises(ValueError):
        own_socket(name, environ={})


def test_what_belongs_to_a_vnet_stands_beside_its_socket() -> None:
    path = Path("/run/layer8/a.b.sock")
    assert lock_file(path) == Path("/run/layer8/a.b.lock")
    assert state_directory(path) == Path("/run/layer8/a.b.state")


def test_a_private_directory_is_made_with_mode_0700_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = ensure_private_directory(tmp_path / "private")
    finally:
        os.umask(before)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert ensure_private_directory(made) == made


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_directory_in_which_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(PermissionError, match="chmod 700"):
        ensure_private_directory(directory)


def test_a_link_to_a_good_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "good")
    with pytest.raises(NotADirectoryError, match="link"):
        ensure_private_directory(tmp_path / "link")


def test_a_dangling_link_is_refused_and_not_filled(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    with pytest.raises(NotADirectoryError, match="link"):
        ensure_private_directory(tmp_path / "link")
    assert not (tmp_path / "missing").exists()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="not a directory"):
        ensure_private_directory(tmp_path / "file")


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = ensure_private_directory(tmp_path / "theirs")
    monkeypatch.setattr(os, "geteuid", lambda: directory.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to uid"):
        ensure_private_directory(directory)


def test_a_directory_that_others_could_exchange_is_refused(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    parent.chmod(0o777)
    with pytest.raises(PermissionError, match="not sticky"):
        ensure_private_directory(parent / "private")
    assert not (parent / "private").exists()
    parent.chmod(0o1777)
    ensure_private_directory(parent / "private")


def test_a_missing_parent_is_an_error_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ensure_private_directory(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_a_socket_path_has_at_most_107_bytes() -> None:
    longest = Path("/" + "x" * 106)
    assert check_socket_path(longest) == longest
    with pytest.raises(OSError, match="107 at most"):
        check_socket_path(Path("/" + "x" * 107))
    with pytest.raises(OSError, match="107 at most"):
        check_socket_path(Path("/" + "ü" * 60))


@pytest.fixture
def _any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "SOCKET_PATH_BYTES", 1000)


@pytest.mark.usefixtures("_any_length")
def test_a_socket_of_ours_in_a_private_directory_may_be_asked(short: Path) -> None:
    with listening(short / "a.sock"):
        assert check_socket(short / "a.sock") == os.geteuid()


@pytest.mark.usefixtures("_any_length")
def test_what_is_no_socket_of_ours_is_not_asked(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no socket there"):
        check_socket(short / "missing.sock")
    (short / "file.sock").touch()
    with pytest.raises(OSError, match="not a socket"):
        check_socket(short / "file.sock")
    with listening(short / "a.sock"):
        (short / "link.sock").symlink_to(short / "a.sock")
        with pytest.raises(OSError, match="not a socket"):
            check_socket(short / "link.sock")
        short.chmod(0o777)
        with pytest.raises(PermissionError, match="not sticky"):
            check_socket(short / "a.sock")
        short.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(short / "a.sock", 1234, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: short.stat().st_uid + 1)
        with pytest.raises(PermissionError, match="not asked"):
            check_socket(short / "a.sock")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("host:80", ("host", 80)),
        ("10.0.0.1", ("10.0.0.1", rendezvous.VNET_PORT)),
        ("[::1]:5", ("::1", 5)),
        ("[fe80::1%eth0]", ("fe80::1%eth0", rendezvous.VNET_PORT)),
        ("2001:db8::7", ("2001:db8::7", rendezvous.VNET_PORT)),
        (":9", ("", 9)),
        ("::", ("::", rendezvous.VNET_PORT)),
    ],
)
def test_an_address_is_host_and_port(text: str, found: tuple[str, int]) -> None:
    assert split_address(text) == found


@pytest.mark.parametrize(
    "text", ["host:", "host:port", "host:70000", "a b:1", "tls://host:1", "[::1", "[::1]x:5", "h:-1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        split_address(text)


# ── another host ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("tls://10.0.0.1", FarPlace("10.0.0.1", rendezvous.VNET_PORT)),
        ("tls://vnet.example:99/", FarPlace("vnet.example", 99)),
        ("tls://[::1]:5", FarPlace("::1", 5)),
    ],
)
def test_an_address_is_the_only_place(text: str, place: FarPlace) -> None:
    assert candidates(text, {}) == (place,)
    assert candidates("default", {"LAYER8_VNET": text}) == (place,)
    assert candidates(str(place), {}) == (place,)


@pytest.mark.parametrize("text", ["tls://", "tls://:80", "tls://host:0", "tls://host:x", "tls://a/b"])
def test_an_address_that_names_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        candidates(text, {})


ROUTES = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth1	00000000	0102A8C0	0003	0	0	200	00000000	0	0	0
eth0	00000000	010011AC	0003	0	0	100	00000000	0	0	0
eth0	000011AC	00000000	0001	0	0	0	0000FFFF	0	0	0
"""
ROUTES_6 = (
    "00000000000000000000000000000000 00 00000000000000000000000000000000 00 "
    "fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0\n"
    "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 "
    "00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n"
)


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """The root of a file system, as a container has it."""
    (tmp_path / ".dockerenv").touch()
    (tmp_path / "proc" / "net").mkdir(parents=True)
    (tmp_path / "proc" / "net" / "route").write_text(ROUTES)
    (tmp_path / "proc" / "net" / "ipv6_route").write_text(ROUTES_6)
    return tmp_path


MISSING = (Path("/nonexistent/layer8/default.sock"), Path("/nonexistent/run/default.sock"))


def test_a_container_without_a_socket_looks_at_its_node(container: Path) -> None:
    (place,) = nodes(MISSING, {"NODE_IP": "192.0.2.7"}, container)
    assert place == FarPlace("192.0.2.7", rendezvous.VNET_PORT, "NODE_IP")
    assert str(place) == "tls://192.0.2.7:8808 (NODE_IP)"


def test_without_a_node_the_default_gateways_are_asked_the_nearest_first(container: Path) -> None:
    found = [place.host for place in nodes(MISSING, {}, container) if isinstance(place, FarPlace)]
    assert found == ["172.17.0.1", "192.168.2.1", "fe80::1%eth0"]


def test_who_is_in_no_container_or_has_a_socket_or_was_told_where_looks_nowhere_else(
    container: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("host")
    assert nodes(MISSING, {"NODE_IP": "192.0.2.7"}, elsewhere) == ()
    assert nodes((MISSING[0], container), {"NODE_IP": "192.0.2.7"}, container) == ()
    assert nodes(MISSING, {"NODE_IP": "192.0.2.7", "LAYER8_VNET": "default"}, container) == ()
    assert nodes(MISSING[:1], {"NODE_IP": "192.0.2.7"}, container) == ()
    assert nodes((FarPlace("a", 1),), {"NODE_IP": "192.0.2.7"}, container) == ()


@pytest.mark.parametrize("variable", ["KUBERNETES_SERVICE_HOST", "container"])
def test_a_container_is_known_by_its_variables_too(variable: str, tmp_path: Path) -> None:
    assert nodes(MISSING, {variable: "x", "NODE_IP": "192.0.2.7"}, tmp_path)
    assert nodes(MISSING, {variable: "x", "NODE_IP": "no address"}, tmp_path) == ()


def test_tables_of_routes_that_make_no_sense_are_passed_over(container: Path) -> None:
    (container / "proc" / "net" / "route").write_text("Iface\nnonsense\n")
    (container / "proc" / "net" / "ipv6_route").unlink()
    assert nodes(MISSING, {}, container) == ()
