"""`layer8 security`: an overlay from nothing, by commands alone."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layer8 import Vnic
from layer8.cli.main import main
from layer8.testing import running_vnet

PATIENCE = 60.0


class Commands:
    """`layer8 security …` with the authority of one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = os.environ | {"LAYER8_AUTHORITY": str(directory / "authority")}

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "layer8.cli", "security", *arguments],
            input=given,
            capture_output=True,
            text=True,
            env=self.environ,
            timeout=PATIENCE,
            check=False,
        )

    def __call__(self, *arguments: str, given: str = "") -> str:
        done = self.run(*arguments, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self(*arguments, "--json"))
        return found


@pytest.fixture
def security(tmp_path: Path) -> Commands:
    commands = Commands(tmp_path)
    commands("init", "shop")
    return commands


def test_nothing_of_it_can_be_read_by_others(security: Commands, tmp_path: Path) -> None:
    security("issue", "vnet/here", "--into", str(tmp_path / "here"))
    security("token", "vnic/web", "--out", str(tmp_path / "token"))
    for directory in (tmp_path / "authority", tmp_path / "here"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_an_overlay_is_made_once(security: Commands) -> None:
    done = security.run("init", "shop")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "there is an authority already" in done.stderr


def test_a_token_is_good_once_and_stands_nowhere(security: Commands, tmp_path: Path) -> None:
    token = security("token", "vnic/web").strip()
    authority = str(tmp_path / "authority")
    joined = security("join", "vnic/web", "--authority", authority, "--identity", str(tmp_path / "web"), given=token)
    assert joined.startswith("layer8://shop/vnic/web in ")
    again = security.run("join", "vnic/web", "--authority", authority, "--identity", str(tmp_path / "x"), given=token)
    assert again.returncode == 1
    assert token[12:40] not in again.stderr + joined
    stored = b"".join(path.read_bytes() for path in (tmp_path / "authority").iterdir())
    assert token.encode()[12:40] not in stored


def test_a_token_on_the_command_line_is_not_taken(security: Commands) -> None:
    token = security("token", "vnic/web").strip()
    assert security.run("join", "vnic/web", token, "--authority", "x").returncode == 2


def test_a_signing_request_goes_there_and_comes_back(security: Commands, tmp_path: Path) -> None:
    place = str(tmp_path / "web")
    request = security("join", "vnic/web", "--overlay", "shop", "--identity", place, "--request")
    assert "PRIVATE" not in request
    answer = security("issue", "--request", "-", given=request)
    security("join", "--identity", place, "--answer", "-", given=answer)
    shown = security.json("show", "--identity", place)
    assert (shown["identity"], shown["good"], shown["revoked"]) == ("layer8://shop/vnic/web", True, False)


@pytest.fixture
def served(security: Commands) -> Iterator[str]:
    """The authority answers on this host; its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "layer8.cli", "security", "serve", "--listen", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=security.environ,
    )
    with process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["addresses"][0]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


def test_joining_over_the_network(security: Commands, served: str, tmp_path: Path) -> None:
    token = security("token", "vnet/host-b").strip()
    joined = security("join", "vnet/host-b", "--at", served, "--identity", str(tmp_path / "b"), given=token)
    assert "layer8://shop/vnet/host-b" in joined
    refused = security.run("join", "vnet/host-b", "--at", served, "--identity", str(tmp_path / "c"), given=token)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "not good" in refused.stderr


def test_revoking_shows_in_what_is_shown(security: Commands, tmp_path: Path) -> None:
    issued = security.json("issue", "vnic/web", "--into", str(tmp_path / "web"))
    assert security.json("revoke", "vnic/web")["serials"] == [issued["serial"]]
    (leaf,) = security.json("show", "--authority", str(tmp_path / "authority"))["certificates"]
    assert (leaf["identity"], leaf["revoked"]) == ("layer8://shop/vnic/web", True)
    assert security.run("revoke", "vnic/nobody").returncode == 2


def test_rotating_keeps_the_fingerprint(security: Commands, tmp_path: Path) -> None:
    authority = str(tmp_path / "authority")
    before = security.json("show", "--authority", authority)["fingerprint"]
    assert security.json("rotate", "--overlap", "3600")["roots"] == 2
    assert security.json("show", "--authority", authority)["fingerprint"] == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("issue",),
        ("issue", "vnic/web"),
        ("issue", "web", "--into", "x"),
        ("issue", "layer8://other/vnic/web", "--into", "x"),
        ("token", "web"),
        ("token", "vnic/"),
        ("token", "vnic/a*"),
        ("token", "vnic/web", "--seconds", "0"),
        ("join",),
        ("join", "--at", "x:1"),
        ("join", "vnic/web", "--request"),
        ("init", "a/b"),
    ],
)
def test_wrong_usage_is_status_2(security: Commands, arguments: tuple[str, ...]) -> None:
    assert security.run(*arguments).returncode == 2


@pytest.mark.parametrize("on", ["listen", "enrol", "a socket"])
def test_a_vnet_beside_the_authority_lets_others_join(security: Commands, tmp_path: Path, on: str) -> None:
    security("issue", "vnet/here", "--into", str(tmp_path / "here"))
    place = str(tmp_path / "j") if on == "a socket" else "127.0.0.1:0"
    config = {
        "security": "x509",
        "identity": str(tmp_path / "here"),
        "authority": str(tmp_path / "authority"),
        ("listen" if on == "listen" else "enrol"): [place],
        "audit": str(tmp_path / "log" / "audit.jsonl"),
    }
    token = security("token", "vnic/web").strip()
    with running_vnet(config=config) as vnet:
        said = "for other hosts at " if on == "listen" else "may join at "
        address = vnet.log.partition(said)[2].split()[0]
        security("join", "vnic/web", "--at", address, "--identity", str(tmp_path / "web"), given=token)
        refused = security.run("join", "vnic/web", "--at", address, "--identity", str(tmp_path / "x"), given=token)
        assert refused.returncode == 1
        with Vnic("web", vnet=str(vnet.socket), security=f"x509:{tmp_path}/web") as vnic:
            vnic.send("web", b"x")
            assert vnic.receive(timeout=30.0).principal == "layer8://shop/vnic/web"
        log = tmp_path / "log" / "audit.jsonl"
        deadline = time.monotonic() + PATIENCE
        while log.read_text().count('"what":"join"') < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        joins = [json.loads(line) for line in log.read_text().splitlines() if '"what":"join"' in line]
        assert [(line["allowed"], line.get("principal")) for line in joins] == [
            (True, "layer8://shop/vnic/web"),
            (False, None),
        ]
        assert token[12:40] not in vnet.log + log.read_text()


# ── a Vnet with a policy ───────────────────────────────────────────────────────────────────────────────────────────

POLICY = """
[[allow]]
name = "the shop"
who = "layer8://shop/vnic/*"
may = "*"
what = "*"

[[deny]]
who = "layer8://shop/vnic/web"
may = ["administer", "send"]
what = "*"
"""


@pytest.fixture
def guarded(security: Commands, tmp_path: Path) -> Iterator[Commands]:
    """The commands with the identity of an administrator, and a Vnet."""
    for who in ("vnet/here", "vnic/admin", "vnic/web"):
        security("issue", who, "--into", str(tmp_path / who.replace("/", "-")))
    (tmp_path / "policy.toml").write_text(POLICY)
    config = {
        "security": "x509",
        "identity": str(tmp_path / "vnet-here"),
        "policy": str(tmp_path / "policy.toml"),
        "audit": str(tmp_path / "log" / "audit.jsonl"),
    }
    with running_vnet(config=config) as vnet:
        security.environ |= vnet.environ | {"LAYER8_IDENTITY": str(tmp_path / "vnic-admin")}
        yield security


def test_explain_names_the_rule_and_says_no_by_its_status(guarded: Commands, tmp_path: Path) -> None:
    for more in ((), ("--policy", str(tmp_path / "policy.toml"))):
        allowed = guarded.run("explain", "layer8://shop/vnic/admin", "publish", "prices", *more)
        assert (allowed.returncode, allowed.stdout) == (0, "allowed by allow rule 1 (the shop)\n")
        denied = guarded.run("explain", "layer8://shop/vnic/web", "send", "alias store", *more, "--json")
        assert denied.returncode == 1
        assert json.loads(denied.stdout)["because"] == "denied by deny rule 1"
    assert guarded.run("explain", "x", "fly", "y").returncode == 2


def test_reload_says_what_is_wrong_and_only_to_who_may(guarded: Commands, tmp_path: Path) -> None:
    assert guarded("reload") == "reloaded\n"
    (tmp_path / "policy.toml").write_text("[[allow]]\nwho = 3\n")
    broken = guarded.run("reload")
    assert (broken.returncode, broken.stderr.count("\n")) == (1, 1)
    assert "what was good before stays in force" in broken.stderr
    guarded.environ["LAYER8_IDENTITY"] = str(tmp_path / "vnic-web")
    assert "may not administer overlay shop" in guarded.run("reload").stderr


def test_the_audit_log_is_checked_by_its_seal(guarded: Commands, tmp_path: Path) -> None:
    written = time.monotonic() + PATIENCE
    while json.loads(guarded.run("audit", "verify", "--json").stdout)["lines"] == 0:  # the Vnet is asked where it is
        assert time.monotonic() < written
    guarded.environ["LAYER8_IDENTITY"] = str(tmp_path / "vnic-web")
    assert "may not administer overlay shop" in guarded.run("audit", "verify").stderr
    assert guarded.run("reload").returncode == 1
    log = tmp_path / "log" / "audit.jsonl"
    deadline = time.monotonic() + PATIENCE
    while '"administer"' not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    refused = json.loads(guarded("audit", "show", str(log), "--refused", "--json").splitlines()[-1])
    assert (refused["principal"], refused["action"]) == ("layer8://shop/vnic/web", "administer")
    assert "administer overlay shop" in guarded("audit", "show", str(log))
    lines = log.read_bytes().splitlines(keepends=True)
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "audit.jsonl"
    copy.write_bytes(lines[0].replace(b'"what":"', b'"what":"un') + b"".join(lines[1:]))
    edited = guarded.run("audit", "verify", str(copy), "--json")
    assert edited.returncode == 1
    assert any("was changed" in finding["what"] for finding in json.loads(edited.stdout)["findings"])


def test_a_log_that_a_vnet_has_closed_is_good_and_sealed_by_it(security: Commands, tmp_path: Path) -> None:
    security("issue", "vnet/here", "--into", str(tmp_path / "here"))
    log = tmp_path / "log" / "audit.jsonl"
    config = {"security": "x509", "identity": str(tmp_path / "here"), "audit": str(log)}
    security("issue", "vnic/web", "--into", str(tmp_path / "web"))
    with running_vnet(config=config) as vnet, Vnic(vnet=str(vnet.socket), security=f"x509:{tmp_path}/web"):
        pass
    trust = str(tmp_path / "authority" / "trust.json")
    good = security.json("audit", "verify", str(log), "--trust", trust)
    assert (good["good"], good["sealed"]) == (True, good["last"])
    stranger = Commands(tmp_path / "other")
    stranger.directory.mkdir()
    stranger("init", "shop")
    bad = security.run("audit", "verify", str(log), "--trust", str(tmp_path / "other" / "authority" / "trust.json"))
    assert bad.returncode == 1
    assert "not signed by whom it should be" in bad.stdout


def test_ps_counts_by_principal(guarded: Commands, tmp_path: Path) -> None:
    with Vnic("store", vnet=guarded.environ["LAYER8_VNET"], security=f"x509:{tmp_path}/vnic-admin") as vnic:
        vnic.send("store", b"12345")
        vnic.receive(timeout=PATIENCE)
        done = subprocess.run(
            [sys.executable, "-m", "layer8.cli", "ps", "--principals", "--json"],
            capture_output=True,
            text=True,
            env=guarded.environ,
            timeout=PATIENCE,
            check=True,
        )
        (line,) = (json.loads(line) for line in done.stdout.splitlines() if "vnic/admin" in line)
        assert (line["sent"], line["received"], line["ports"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("issue", "vnic/web", "--into", "web"), b"layer8 security init"),
        (("token", "vnic/web"), b"layer8 security init"),
        (("show",), b"layer8 security join"),
        (("join", "vnic/web", "--at", "127.0.0.1:1"), b"--token-file"),
        (("audit", "show", __file__), b"layer8 security audit verify"),
    ],
)
def test_whoever_has_nothing_yet_is_told_what_to_do(
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    advice: bytes,
) -> None:
    for name in ("LAYER8_AUTHORITY", "LAYER8_IDENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(["security", *arguments]) in (1, 2)
    assert advice in capfdbinary.readouterr().err
