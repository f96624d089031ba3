"""A key or a token never stands in a log, an error, the title of a process, or a repr."""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layer8 import Layer8Error, Vnic
from layer8.protocol.statement import Role
from layer8.security import certificates, enrolment_client, identity
from layer8.security.authority import Authority, Token
from layer8.security.x509 import X509Provider
from layer8.testing import make_overlay, running_vnet


def _forms(key: bytes) -> set[str]:
    """A private key (PEM) as it might be written: its lines, its secret number in hex, in base64 and in decimal."""
    private = certificates.key_from_pem(key).private_numbers().private_value
    raw = private.to_bytes(32, "big")
    lines = [line for line in key.decode().splitlines() if len(line) > 40 and "-----" not in line]
    return {lines[0], raw.hex(), base64.b64encode(raw).decode().rstrip("="), str(private), repr(raw)[2:-1]}


def _keys(*directories: Path) -> set[str]:
    found: set[str] = set()
    for directory in directories:
        for path in directory.iterdir():
            data = path.read_bytes()
            if b"PRIVATE KEY" in data:
                found |= _forms(data)
    return found


def test_no_secret_leaves_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    overlay = make_overlay(tmp_path, "shop")
    authority = Authority(overlay.path)
    here, web = Path(overlay.vnet("here")), Path(overlay.vnic("web"))
    socket = str(tmp_path / "j")
    log = tmp_path / "log" / "audit.jsonl"
    config = {
        "security": "x509",
        "identity": str(here),
        "authority": str(overlay.path),
        "enrol": [socket],
        "audit": str(log),
    }
    said: list[str] = []
    good, used = (authority.make_token(Role.VNIC, name, time.time()) for name in ("app", "old"))
    with running_vnet(config=config) as vnet:
        enrolment_client.join(tmp_path / "app", ("vnic", "app"), good, socket)
        for token, name in ((good, "app"), (used, "another"), (Token(b"x" * 32, authority.fingerprint), "app")):
            with pytest.raises(Layer8Error) as caught:
                enrolment_client.join(tmp_path / "no", ("vnic", name), token, socket)
            said += [str(caught.value), repr(caught.value), repr(token)]
        with Vnic("web", vnet=str(vnet.socket), security=f"x509:{web}") as vnic:
            said += [repr(vnic), repr(vars(vnic))]
            authority.revoke("layer8://shop/vnic/web", time.time())
            deadline = time.monotonic() + 30.0
            while vnic.state == "attached" and time.monotonic() < deadline:
                time.sleep(0.05)
        with pytest.raises(Layer8Error) as caught:
            Vnic("web", vnet=str(vnet.socket), security=f"x509:{web}")
        said.append(str(caught.value))
        for process in (vnet.pid, os.getpid()):
            for name in ("cmdline", "comm", "environ"):
                said.append(Path(f"/proc/{process}/{name}").read_bytes().decode(errors="replace"))
        shown = [sys.executable, "-m", "layer8.cli", "security", "show", "--authority", str(overlay.path)]
        said.append(subprocess.run(shown, capture_output=True, text=True, timeout=60, check=True).stdout)
    provider = X509Provider(tmp_path / "app")
    held = identity.load(tmp_path / "app", time.time())
    said += [
        repr(provider),
        repr(vars(provider)),
        repr(held),
        repr(authority),
        repr(vars(authority)),
        repr(vars(held.trust)),
    ]
    said += [vnet.log, log.read_text(), caplog.text]
    secrets = _keys(overlay.path, here, web, tmp_path / "app")
    secrets |= {
        form for token in (good, used) for form in (token.text()[12:50], token.secret.hex(), repr(token.secret)[2:-1])
    }
    assert len(secrets) > 20
    everything = "\n".join(said)
    assert "layer8://shop/vnic/app" in everything  # it was all looked at
    assert [secret for secret in secrets if secret in everything] == []


def test_a_spoilt_key_is_an_error_that_does_not_repeat_it(tmp_path: Path) -> None:
    overlay = make_overlay(tmp_path, "shop")
    place = Path(overlay.vnic("web")) / "identity.pem"
    line = place.read_text().splitlines()[1]
    place.write_text(place.read_text().replace(line, line[:-8] + "AAAAAAAA"))
    with pytest.raises(Layer8Error) as caught:
        X509Provider(place.parent)
    assert line[:20] not in str(caught.value) + repr(caught.value) + repr(caught.value.__cause__)
