"""The seam of elections: who is refused, and what an engine of one's own is asked."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from layer8.health.election import Action, ElectionEngine, OneHost, Proclaim
from layer8.protocol.control import Done, Elect, Elected, Failed, Lead
from layer8.vnet.config import ConfigError, VnetConfig, has_several_hosts, parse
from layer8.vnet.elections import Elections
from layer8.vnet.engine import make_engine
from layer8.vnet.refusal import Refusal
from layer8.vnet.terms import Terms

STANDS = Elect(id=1, group="g")


class Engine:
    """One that decides always the same, for several hosts perhaps."""

    serves_hosts = True
    lease = 1.0
    deadline = float("inf")

    def start(self, stored: Any, later: Any, now: float) -> None:
        self.later = later

    def close(self) -> None:
        pass

    def has_room(self, group: str) -> bool:
        return True

    def forget(self, member: Any) -> None:
        pass

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


def elect(directory: Path, *, several: bool, engine: ElectionEngine, message: Elect | Lead = STANDS) -> list[object]:
    """What a Vnic is told that stands in a group, or says something else."""
    told: list[object] = []
    session = SimpleNamespace(own_port=lambda: SimpleNamespace(uuid=uuid4()), tell=told.append)

    async def run() -> None:
        elections = Elections(
            cast(Any, SimpleNamespace(require=lambda *arguments: None)),
            cast(Any, SimpleNamespace(call=lambda *arguments: asyncio.sleep(0))),
            Terms(directory),
            asyncio.get_running_loop(),
            engine,
            several_hosts=lambda: several,
        )
        elections.start()
        elections.handle(cast(Any, session), message)
        await asyncio.sleep(0)  # what an engine says later
        elections.close()

    asyncio.run(run())
    return told


def test_in_an_overlay_of_several_hosts_the_engine_of_one_host_refuses_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="several hosts.*ElectionEngine") as caught:  # noqa: RUF043
        elect(tmp_path, several=True, engine=OneHost(first_term=1))
    assert caught.value.code == "no-engine"
    assert elect(tmp_path, several=False, engine=OneHost(first_term=1))[0] == Done(id=1)


def test_an_engine_for_several_hosts_decides_there(tmp_path: Path) -> None:
    assert elect(tmp_path, several=True, engine=Engine()) == [Done(id=1), Elected(group="g", term=7)]


class Broken(Engine):
    """One that raises at everything it is asked, once it has started."""

    def stand(self, group: str, member: Any, now: float) -> list[Action]:
        raise OSError("the store does not answer")

    def renew(self, group: str, member: Any, term: int, now: float) -> tuple[bool, list[Action]]:
        raise OSError("the store does not answer")


def test_an_engine_that_raises_leads_nobody_and_keeps_nobody_waiting(tmp_path: Path, caplog: Any) -> None:
    assert elect(tmp_path, several=False, engine=Broken()) == [Done(id=1)]
    answers = elect(tmp_path, several=False, engine=Broken(), message=Lead(id=1, group="g", term=7))
    assert [(type(answer), getattr(answer, "code", "")) for answer in answers] == [(Failed, "stale")]
    assert caplog.text.count("the ElectionEngine failed") == 2


def test_an_engine_says_later_and_from_its_own_thread_what_others_decided(tmp_path: Path) -> None:
    class Late(Engine):
        def stand(self, group: str, member: Any, now: float) -> list[Action]:
            says = [Proclaim(group=group, term=8, leader=None, members=(member,))]
            thread = threading.Thread(target=self.later, args=(says,))
            thread.start()
            thread.join()
            return []

    assert elect(tmp_path, several=True, engine=Late()) == [Done(id=1), Elected(group="g", term=8)]


def test_the_setting_names_an_engine_or_says_what_is_wrong_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(Engine=lambda lease, first_term: Engine(), nothing=lambda lease, first_term: object())
    monkeypatch.setitem(sys.modules, "an_engine", cast(Any, module))
    assert isinstance(make_engine("an_engine:Engine", 2.0), Engine)
    assert isinstance(make_engine("", 2.0), OneHost)
    with pytest.raises(TypeError, match="lacks serves_hosts, lease"):
        make_engine("an_engine:nothing", 2.0)
    with pytest.raises(ConfigError, match="election_engine.*module:factory"):  # noqa: RUF043
        parse({"vnet": {"default": {"election_engine": "etcd"}}})


def test_whoever_listens_for_other_hosts_may_have_some() -> None:
    assert not has_several_hosts(VnetConfig())
    assert has_several_hosts(dataclasses.replace(VnetConfig(), listen=("127.0.0.1:0",)))
