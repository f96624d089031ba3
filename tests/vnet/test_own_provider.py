"""The example of a provider of one's own, on a real Vnet: chosen by name, with and without a policy in front."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from layer8 import NotAuthorized, SecurityMismatch, Vnic
from layer8.testing import running_vnet

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def psk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the provider, with a key in its file."""
    key = tmp_path / "psk"
    key.write_bytes(secrets.token_bytes(32))
    monkeypatch.setenv("PSK_FILE", str(key))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return "psk_provider:make"


def test_members_talk_and_others_are_a_mismatch(psk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_vnet(config={"security": psk}) as vnet, Vnic("a", vnet=str(vnet.socket), security=psk) as a:
        a.send("a", b"x")
        assert a.receive(timeout=30.0).principal == "layer8://psk/vnic/member"
        with pytest.raises(SecurityMismatch):
            Vnic(vnet=str(vnet.socket))
        other = tmp_path / "other"
        other.write_bytes(secrets.token_bytes(32))
        monkeypatch.setenv("PSK_FILE", str(other))
        with pytest.raises(SecurityMismatch):
            Vnic(vnet=str(vnet.socket), security=psk)


def test_a_policy_stands_in_front_of_any_provider(psk: str, tmp_path: Path) -> None:
    policy, log = tmp_path / "policy.toml", tmp_path / "audit" / "audit.jsonl"
    policy.write_text('[[allow]]\nwho = "layer8://psk/vnic/member"\nmay = ["attach", "serve"]\nwhat = "*"\n')
    config = {"security": psk, "policy": str(policy), "audit": str(log)}
    with (
        running_vnet(config=config) as vnet,
        Vnic("a", vnet=str(vnet.socket), security=psk) as a,
        pytest.raises(NotAuthorized),
    ):
        a.send("a", b"x")
    assert '"action":"send","resource":"alias a","allowed":false' in log.read_text()
