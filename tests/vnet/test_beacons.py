"""Beacons: what is believed, and how little of it is looked at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from layer8.security.provider import SecurityProvider
from layer8.security.x509 import X509Provider
from layer8.testing import Overlay, make_overlay
from layer8.vnet.beacons import Beacons, Limits
from layer8.vnet.dialling import Address
from layer8.vnet.workers import Workers

SOURCE = ("192.0.2.7", 5000)


class Host:
    overlay = "shop"

    def __init__(self, identity: str, loop: asyncio.AbstractEventLoop) -> None:
        self.provider: SecurityProvider = X509Provider(Path(identity))
        self.providers = Workers("provider", 1, loop)
        self.uuid = uuid4()


def heard(
    overlay: Overlay,
    make: Callable[[Beacons], bytes],
    *,
    speaker: str = "",
    knows: Callable[[UUID], bool] = lambda vnet: False,
    times: int = 1,
) -> list[Address]:
    """The hints that a beacon leads to. `make`: the packet, by who speaks."""

    async def run() -> list[Address]:
        loop = asyncio.get_running_loop()
        hints: list[Address] = []

        def of(identity: str) -> Beacons:
            host = Host(identity, loop)
            return Beacons(host, (), port=8808, knows=knows, hint=hints.append, loop=loop)

        packet = make(of(speaker or overlay.vnet("one")))
        hearer = of(overlay.vnet("two"))
        for _ in range(times):
            hearer._look(packet, SOURCE)
        while hearer._tasks:
            await asyncio.wait(hearer._tasks)
        return hints

    return asyncio.run(run())


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    return make_overlay(tmp_path, "shop")


def test_a_beacon_of_this_overlay_is_a_hint_to_where_it_came_from(overlay: Overlay) -> None:
    assert heard(overlay, Beacons._packet) == [("192.0.2.7", 8808)]


def test_one_that_is_linked_already_is_not_looked_at(overlay: Overlay) -> None:
    assert heard(overlay, Beacons._packet, knows=lambda vnet: True) == []


def test_a_beacon_of_a_vnic_or_of_another_authority_leads_nowhere(overlay: Overlay, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_overlay(tmp_path / "other", "shop")
    assert heard(overlay, Beacons._packet, speaker=other.vnet("one")) == []

    def forged(speaker: Beacons) -> bytes:
        packet = msgspec.msgpack.decode(speaker._packet())
        packet[4] = 1  # another port than was proved
        return msgspec.msgpack.encode(packet)

    assert heard(overlay, forged) == []


@pytest.mark.parametrize("packet", [b"", b"\xff" * 100, msgspec.msgpack.encode([1, b"", "x"])])
def test_garbage_leads_nowhere(overlay: Overlay, packet: bytes) -> None:
    assert heard(overlay, lambda speaker: packet) == []


def test_an_old_beacon_leads_nowhere(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    def old(speaker: Beacons) -> bytes:
        with monkeypatch.context() as patch:
            now = time.time()
            patch.setattr("layer8.vnet.beacons.time.time", lambda: now - 1000)
            return speaker._packet()

    assert heard(overlay, old) == []


def test_one_source_is_looked_at_only_so_often(overlay: Overlay) -> None:
    assert len(heard(overlay, Beacons._packet, times=50)) == 3


def test_all_sources_together_have_a_limit() -> None:
    limits = Limits(of_all=5, of_source=2)
    assert [limits.take(f"host-{number}", 0.0) for number in range(7)] == [True] * 5 + [False] * 2
    assert limits.take("host-0", 1.0)
    assert limits.take("host-0", 1.5)
    assert not limits.take("host-0", 1.9)
