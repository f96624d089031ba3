"""A Vnet and Vnics with certificates, end to end over the local socket, each Vnet in a process of its own."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from layer8 import Layer8Error, NotAuthorized, SecurityMismatch, VnetNotFound, Vnic
from layer8.security.local import LocalProvider
from layer8.security.x509 import X509Provider
from layer8.testing import Overlay, RunningVnet, make_overlay, running_vnet

STRANGER = 12345  # a uid that nobody has


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    return make_overlay(tmp_path, "shop")


Start = Callable[..., RunningVnet]


@pytest.fixture
def start(overlay: Overlay) -> Iterator[Start]:
    """A Vnet by certificate with these settings."""
    with ExitStack() as stack:

        def start(**config: Any) -> RunningVnet:
            settings = {"security": "x509", "identity": overlay.vnet("here")} | config
            return stack.enter_context(running_vnet(config=settings))

        yield start


def test_two_vnics_talk_and_know_each_other_by_certificate(start: Start, overlay: Overlay) -> None:
    vnet = str(start().socket)
    with (
        Vnic("store", vnet=vnet, security=f"x509:{overlay.vnic('store')}") as store,
        Vnic(vnet=vnet, security=f"x509:{overlay.vnic('web')}") as web,
    ):
        web.send("store", b"hello")
        message = store.receive(timeout=30.0)
        assert (message.payload, message.principal) == (b"hello", "layer8://shop/vnic/web")
        record = web.find("store", timeout=30.0)
        assert record.principal == "layer8://shop/vnic/store"


def test_the_environment_gives_programs_and_commands_their_identity(start: Start, overlay: Overlay) -> None:
    vnet = start()
    environ = vnet.environ | {"LAYER8_IDENTITY": overlay.vnic("tool")}
    ps = [sys.executable, "-m", "layer8.cli", "ps", "--json"]
    listed = subprocess.run(ps, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert '"kind":"vnet"' in listed.stdout
    refused = subprocess.run(ps, env=vnet.environ, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert "another Security Provider" in refused.stderr


def test_another_provider_is_a_mismatch_that_names_both(start: Start, overlay: Overlay, tmp_path: Path) -> None:
    vnet = str(start().socket)
    others = make_overlay(tmp_path / "others", "shop")
    theirs = X509Provider(Path(overlay.vnic("web"))).fingerprint()
    for security, ours in (
        (f"x509:{others.vnic('web')}", X509Provider(Path(others.vnic("web"))).fingerprint()),
        ("local", LocalProvider().fingerprint()),
    ):
        with pytest.raises(SecurityMismatch) as caught:
            Vnic(vnet=vnet, security=security)
        assert (caught.value.ours, caught.value.theirs) == (ours[:6].hex(), theirs[:6].hex())


def test_a_vnets_certificate_opens_no_vnics_port(start: Start, overlay: Overlay) -> None:
    vnet = str(start().socket)
    with pytest.raises(Layer8Error, match="is not a vnic of overlay"):
        Vnic(vnet=vnet, security=f"x509:{overlay.vnet('elsewhere')}")


def test_a_vnet_needs_the_certificate_of_a_vnet(overlay: Overlay) -> None:
    config = {"security": "x509", "identity": overlay.vnic("web")}
    with pytest.raises(RuntimeError, match="is a Vnic"):
        running_vnet(config=config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"security": "x509"}, "needs the key identity"),
        ({"security": "x509", "identity": "/nowhere/at-all"}, "/nowhere/at-all"),
        ({"identity": "/nowhere"}, 'with security = "x509" only'),
        ({"admit_identities": ["layer8://shop/vnic/*"]}, "proves identities"),
        ({"policy": "/nowhere/policy.toml"}, "cannot be read"),
        ({"admit_uids": [65534]}, "nobody in particular"),
        ({"admit_uids": ["nobody-has-this-name"]}, "no user"),
        ({"admit_gids": [True]}, "neither a number nor a name"),
    ],
)
def test_settings_that_cannot_be_kept_start_no_vnet(config: dict[str, object], says: str) -> None:
    with pytest.raises(RuntimeError, match=says):
        running_vnet(config=config)


# ── who may connect ────────────────────────────────────────────────────────────────────────────────────────────────


def _modes(vnet: RunningVnet) -> tuple[int, int]:
    return stat.S_IMODE(vnet.socket.stat().st_mode), stat.S_IMODE(vnet.socket.parent.stat().st_mode)


def test_the_socket_is_private_unless_others_are_admitted(start: Start) -> None:
    assert _modes(start()) == (0o600, 0o700)
    assert _modes(start(admit_identities=["layer8://shop/vnic/web"])) == (0o666, 0o755)


@pytest.mark.parametrize("config", [{"admit_uids": [STRANGER]}, {"admit_gids": [STRANGER]}])
def test_the_socket_is_open_when_a_uid_or_a_gid_is_admitted(config: dict[str, object]) -> None:
    with running_vnet(config=config) as vnet:
        assert _modes(vnet) == (0o666, 0o755)


def _as_stranger(script: str, vnet: RunningVnet, *arguments: str) -> str:
    """What a process of another uid prints."""
    for place in (vnet.socket.parent.parent, vnet.socket.parent.parent.parent):
        place.chmod(0o755)
    child = subprocess.run(
        [sys.executable, "-c", _BECOME + script, str(vnet.socket), *arguments],
        env=vnet.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


_BECOME = f"""
import os, sys
import layer8, layer8.vnic.vnic, secrets, uuid, random
from layer8.security.loader import load_provider
def become():
    os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})
"""
_SAY = """
become()
try:
    with layer8.Vnic("guest", vnet=sys.argv[1], security=sys.argv[2]) as vnic:
        vnic.send("host", b"hello")
        print("sent")
except (layer8.Layer8Error, OSError) as error:
    print(type(error).__name__, error)
"""

root_alone = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@root_alone
@pytest.mark.parametrize("admitted", ["admit_uids", "admit_gids"])
def test_an_admitted_uid_or_gid_attaches_and_others_do_not(admitted: str) -> None:
    with running_vnet(config={admitted: [STRANGER]}) as vnet, Vnic("host", vnet=str(vnet.socket)) as host:
        assert _as_stranger(_SAY, vnet, "local:0") == "sent"
        assert host.receive(timeout=30.0).principal == f"layer8://local/uid/{STRANGER}"
        mismatch = _as_stranger(_SAY, vnet, "local")
        assert mismatch.startswith("SecurityMismatch")
    with running_vnet(config={admitted: [STRANGER + 1]}) as vnet:
        refused = _as_stranger(_SAY, vnet, "local:0")
        assert refused.startswith("NotAuthorized")
        assert "may not attach" in refused


_BY_CERTIFICATE = """
provider = load_provider("x509:" + sys.argv[2])
become()
provider._signature = lambda: provider._seen  # the directory is not this uid's any more; what was read is enough here
try:
    with layer8.Vnic("guest", vnet=sys.argv[1], security=provider) as vnic:
        vnic.send("host", b"hello")
        print("sent")
except (layer8.Layer8Error, OSError) as error:
    print(type(error).__name__, error)
"""


@root_alone
def test_identities_are_admitted_by_certificate_whatever_their_uid(start: Start, overlay: Overlay) -> None:
    vnet = start(admit_identities=["layer8://shop/vnic/guest*"])
    with Vnic("host", vnet=str(vnet.socket), security=f"x509:{overlay.vnic('host')}") as host:
        assert _as_stranger(_BY_CERTIFICATE, vnet, overlay.vnic("guest-1")) == "sent"
        assert host.receive(timeout=30.0).principal == "layer8://shop/vnic/guest-1"
        assert _as_stranger(_BY_CERTIFICATE, vnet, overlay.vnic("web")).startswith("NotAuthorized")


def test_who_is_refused_learns_no_more_than_that(start: Start, overlay: Overlay, tmp_path: Path) -> None:
    expired = overlay.vnic("late", lifetime=2.0)
    provider = X509Provider(Path(expired))
    while time.time() < provider.expires:
        time.sleep(0.05)
    with pytest.raises(NotAuthorized) as caught:
        Vnic(vnet=str(start().socket), security=provider)
    assert "expired" not in str(caught.value)


_LISTEN = f"""
import os, socket, sys
os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})
trap = socket.socket(socket.AF_UNIX)
trap.bind(sys.argv[1])
trap.listen()
print("listens", flush=True)
sys.stdin.readline()
"""


@root_alone
def test_a_socket_at_which_another_uid_listens_is_not_asked() -> None:
    place = Path(tempfile.mkdtemp(prefix="l8-", dir="/tmp"))
    try:
        os.chown(place, STRANGER, STRANGER)
        trap = place / "default.sock"
        child = subprocess.Popen(
            [sys.executable, "-c", _LISTEN, str(trap)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == "listens\n"
                with pytest.raises(VnetNotFound, match=f"belongs to uid {STRANGER}"):
                    Vnic(vnet=str(trap), attach_timeout=0)
                os.chown(trap, 0, 0)  # as if a name could be made to look right
                with pytest.raises(VnetNotFound, match=f"uid {STRANGER} listens at a socket of uid 0"):
                    Vnic(vnet=str(trap), attach_timeout=0)
            finally:
                child.kill()
    finally:
        shutil.rmtree(place)
