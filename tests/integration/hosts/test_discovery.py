"""How Vnets find each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from layer8.health_record import State

Until = Callable[[Callable[[], object], str], None]


@pytest.mark.parametrize("group", ["239.255.88.8:8808", "[ff02::8808]:8808"])
def test_vnets_on_one_lan_find_each_other_by_beacons(hosts: Any, group: str, until: Until) -> None:
    if not hosts.network.cuts:
        pytest.skip("needs network namespaces: a beacon on a real network is none of a test's business")
    for name in ("a", "b", "c"):
        listen = "[::]:8808" if group.startswith("[") else "0.0.0.0:8808"
        hosts.vnet(name, beacons=[group], listen=listen)
    looker = hosts.vnic("a")
    until(lambda: len(looker.health(kind="vnet", state=State.UP)) == 3, "all three")
