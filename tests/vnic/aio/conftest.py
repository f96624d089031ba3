"""Loops to run the tests in, and AsyncVnics on the file's Vnet."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from layer8 import AsyncVnic
from layer8.testing import RunningVnet, running_vnet

PATIENCE = 300.0  # a watchdog, not an expectation: a loaded machine starts three Vnets one after the other in a minute

Run = Callable[[Coroutine[Any, Any, None]], None]
Make = Callable[..., AsyncVnic]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The watchdog of the whole run comes after the one in here, which says where a scenario stood."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(PATIENCE + 60.0))


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAYER8_VNET", "XDG_RUNTIME_DIR"):
        if name in os.environ:
            monkeypatch.delenv(name)


def _run_with(loop_factory: Callable[[], asyncio.AbstractEventLoop] | None) -> Run:
    def run(scenario: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(asyncio.wait_for(scenario, PATIENCE))

    return run


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario in a fresh loop of each kind."""
    return _run_with(uvloop.new_event_loop if request.param == "uvloop" else None)


@pytest.fixture
def run_asyncio() -> Run:
    """The same for what does not depend on the loop, or takes long."""
    return _run_with(None)


@pytest.fixture(scope="module")
def vnet() -> Iterator[RunningVnet]:
    with running_vnet(config={"max_message_bytes": 8 << 20}) as running:
        yield running


@pytest.fixture
def own_vnet() -> Iterator[RunningVnet]:
    """For a test that kills it."""
    with running_vnet() as running:
        yield running


def _maker(running: RunningVnet) -> Make:
    def make(alias: str | None = None, **arguments: Any) -> AsyncVnic:
        return AsyncVnic(alias, **{"vnet": str(running.socket), "attach_timeout": 30.0, "timeout": 30.0, **arguments})

    return make


@pytest.fixture
def make(vnet: RunningVnet) -> Make:
    return _maker(vnet)


@pytest.fixture
def make_own(own_vnet: RunningVnet) -> Make:
    return _maker(own_vnet)
