"""The seam of elections: who is refused, and what an engine of one's own is asked."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from layer8.health.election import Action, Proclaim
from layer8.protocol.control import Done, Elect, Elected
from layer8.vnet.config import VnetConfig, has_several_hosts
from layer8.vnet.elections import Elections
from layer8.vnet.refusal import Refusal
from layer8.vnet.terms import Terms


class Engine:
    """One that decides for several hosts, and always the same."""

    serves_hosts = True
    lease = 1.0
    deadline = float("inf")

    def stand(self, group: str, member: Any, now: float) -> list[Action]:
        return [Proclaim(group=group, term=7, leader=None, members=(member,))]

    def leave(self, group: str, member: Any, now: float, *, surely: bool) -> list[Action]:
        return []

    def renew(self, group: str, member: Any, term: int, now: float) -> tuple[bool, list[Action]]:
        return True, []

    def set_fit(self, member: Any, is_fit: bool, now: float) -> list[Action]:
        return []

    def persisted(self, group: str, term: int, stored: bool, now: float) -> list[Action]:
        return []

    def tick(self, now: float) -> list[Action]:
        return []


def elect(directory: Path, *, several: bool, engine: Engine | None = None) -> list[object]:
    """What a Vnic is told that stands in a group."""
    told: list[object] = []
    session = SimpleNamespace(own_port=lambda: SimpleNamespace(uuid=uuid4()), tell=told.append)

    async def run() -> None:
        elections = Elections(
            cast(Any, SimpleNamespace(require=lambda *arguments: None)),
            cast(Any, SimpleNamespace(call=lambda *arguments: asyncio.sleep(0))),
            Terms(directory),
            asyncio.get_running_loop(),
            lease=1.0,
            several_hosts=lambda: several,
            engine=engine,
        )
        elections.handle(cast(Any, session), Elect(id=1, group="g"))
        elections.close()

    asyncio.run(run())
    return told


def test_in_an_overlay_of_several_hosts_the_engine_of_one_host_refuses_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="several hosts.*ElectionEngine") as caught:  # noqa: RUF043
        elect(tmp_path, several=True)
    assert caught.value.code == "no-engine"
    assert elect(tmp_path, several=False)[0] == Done(id=1)


def test_an_engine_for_several_hosts_decides_there(tmp_path: Path) -> None:
    assert elect(tmp_path, several=True, engine=Engine()) == [Done(id=1), Elected(group="g", term=7)]


def test_whoever_listens_for_other_hosts_may_have_some() -> None:
    assert not has_several_hosts(VnetConfig())
    assert has_several_hosts(dataclasses.replace(VnetConfig(), listen=("127.0.0.1:0",)))
