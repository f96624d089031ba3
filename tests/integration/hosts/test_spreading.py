"""Roots and revocations go from Vnet to Vnet, and links end with what their Vnets are believed for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layer8.security import identity
from layer8.security.authority import Authority

PATIENCE = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def test_a_revocation_reaches_vnets_that_do_not_know_the_authority(hosts: Any) -> None:
    hosts.vnet("a", authority=str(hosts.overlay.path))
    hosts.vnet("b", peers=("a",))
    hosts.vnet("c", peers=("b",))
    hosts.until_sees("c", kind="vnet", count=3)
    authority = Authority(hosts.overlay.path)
    web = hosts.vnic("c", "web")
    authority.revoke("layer8://shop/vnic/app", time.time())
    until(lambda: web.state == "closed", "its port is closed")
    for name in ("b", "c"):
        held = identity.load(Path(hosts.overlay.vnet(name)), time.time())
        assert held.revoked_number == 2
    authority.rotate(time.time())
    for name in ("b", "c"):
        place = Path(hosts.overlay.vnet(name))
        until(lambda place=place: len(identity.load(place, time.time()).trust.roots) == 2, "the new root is there")  # type: ignore[misc]


def test_the_link_of_a_revoked_vnet_is_closed_and_it_does_not_come_back(hosts: Any) -> None:
    hosts.vnet("a", authority=str(hosts.overlay.path))
    hosts.vnet("b", peers=("a",))
    hosts.until_sees("a", kind="vnet", count=2)
    Authority(hosts.overlay.path).revoke("layer8://shop/vnet/b", time.time())

    def log() -> str:
        text: str = hosts.vnets["a"].log
        return text

    until(lambda: "the link with layer8://shop/vnet/b is closed: it is believed no more" in log(), "it is closed")
    until(lambda: "was revoked" in log(), "it has tried again, and was refused")
    hosts.until_sees("a", kind="vnet", count=1, state="UP")


def test_a_link_goes_on_with_renewed_certificates(hosts: Any) -> None:
    for name in ("a", "b"):
        hosts.overlay.vnet(name, lifetime=8.0)
    hosts.vnet("a", authority=str(hosts.overlay.path))
    hosts.vnet("b", authority=str(hosts.overlay.path), peers=("a",))
    hosts.until_sees("a", kind="vnet", count=2)
    until(lambda: hosts.vnets["a"].log.count("link with Vnet") >= 3, "the connection is another")  # up, down, up
    hosts.until_sees("a", kind="vnet", count=2, state="UP")
    assert "given up" not in hosts.vnets["a"].log + hosts.vnets["b"].log
