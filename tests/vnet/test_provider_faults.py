"""A Security Provider that fails, hangs or says no: always a refusal, never the end of the Vnet."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from layer8.protocol.control import Attached, Grant, Health, Ping, Refused, Subscribe
from layer8.protocol.statement import Channel, Principal, Statement
from layer8.security import Action, AuditEvent, Decision, LocalProvider, Resource
from layer8.vnet.config import VnetConfig
from layer8.vnet.server import Vnet

Connect = Callable[..., Any]


class Faulty(LocalProvider):
    """Does as it should until a test tells otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.hangs = self.fails = ""
        self.denies: Action | None = None
        self.audited: list[AuditEvent] = []

    def _at(self, operation: str) -> None:
        if self.hangs == operation:
            self.release.wait()
        if self.fails == operation:
            raise RuntimeError("broken")

    def prove(self, statement: Statement) -> bytes:
        self._at("prove")
        return super().prove(statement)

    def verify(self, proof: bytes, statement: Statement, seen: Channel) -> Principal:
        self._at("verify")
        return super().verify(proof, statement, seen)

    def authorize(self, who: Principal, action: Action, what: Resource) -> Decision:
        self._at("authorize")
        return Decision(allowed=action is not self.denies, reason="as the test says")

    def audit(self, event: AuditEvent) -> None:
        self.audited.append(event)
        self._at("audit")


@dataclasses.dataclass
class Running:
    provider: Faulty
    path: Path


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A Vnet in a thread of this process, so that its provider can be reached."""
    running = Running(Faulty(), tmp_path_factory.mktemp("r") / "layer8" / "default.sock")
    started = threading.Event()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def main() -> None:
        config = VnetConfig(provider_timeout=0.1, provider_workers=1, attach_timeout=10.0)
        vnet = Vnet(config, running.path, running.provider)
        vnet.start()
        started.set()
        await ended.wait()
        await vnet.stop(0.0)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert started.wait(30.0)
    yield running
    running.provider.release.set()
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()


@pytest.mark.parametrize("operation", ["prove", "verify", "authorize"])
def test_an_exception_is_a_refusal(running: Running, connect: Connect, operation: str) -> None:
    running.provider.fails = operation
    assert connect(running.path).try_attach().code == "not-authorized"
    running.provider.fails = ""
    assert isinstance(connect(running.path).attach(), Attached)


@pytest.mark.parametrize("operation", ["prove", "verify"])
def test_a_provider_that_hangs_refuses_and_others_go_on(running: Running, connect: Connect, operation: str) -> None:
    other = connect(running.path)
    other.attach()
    running.provider.hangs = operation
    for _ in range(3):  # also while its only worker is still taken
        assert connect(running.path).try_attach().code == "limit"
        assert other.ask(Ping)
    running.provider.hangs = ""
    running.provider.release.set()
    assert isinstance(connect(running.path).attach(), Attached)


@pytest.mark.parametrize(
    ("denied", "alias", "resource"),
    [(Action.ATTACH, None, "overlay local"), (Action.SERVE, "store", "alias store")],
)
def test_who_may_not_attach_is_told_what_it_may_not(
    running: Running, connect: Connect, denied: Action, alias: str | None, resource: str
) -> None:
    running.provider.denies = denied
    refused = connect(running.path).attach(alias=alias)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.fields[1:]) == ("not-authorized", (denied.value, resource))
    assert [(event.action, event.allowed) for event in running.provider.audited] == [(denied, False)]


@pytest.mark.parametrize(
    ("denied", "request_", "fields"),
    [
        (Action.SEND, Grant, {"slot": 0, "generation": 1, "kind": "alias", "name": "nobody"}),
        (Action.REQUEST, Grant, {"slot": 0, "generation": 1, "kind": "alias", "name": "me", "action": "request"}),
        (Action.PUBLISH, Grant, {"slot": 0, "generation": 1, "kind": "topic", "name": "t", "action": "publish"}),
        (Action.SUBSCRIBE, Subscribe, {"topic": "t", "number": 0}),
        (Action.READ_HEALTH, Health, {}),
    ],
)
def test_a_request_that_is_not_allowed_is_refused_and_changes_nothing(
    running: Running, connect: Connect, denied: Action, request_: Any, fields: dict[str, Any]
) -> None:
    raw = connect(running.path)
    raw.attach(alias="me")
    running.provider.denies = denied
    answer = raw.ask(request_, **fields)
    assert (answer.code, answer.fields[1]) == ("not-authorized", denied.value)
    running.provider.denies = None
    if fields.get("name") != "nobody":
        assert type(raw.ask(request_, **fields)).__name__ == "Done"


def test_an_audit_that_fails_changes_no_decision(running: Running, connect: Connect) -> None:
    running.provider.fails = "audit"
    assert isinstance(connect(running.path).attach(), Attached)
