"""The pytest plugin: fixtures `vnet` and `make_vnic`, for whoever has layer8 installed beside pytest.

It imports nothing of layer8 at start-up, so it costs a test run that does not use it nothing. Each test that asks for
`vnet` gets a Vnet of its own, in a process of its own with a private directory, so neither tests nor the workers of
pytest-xdist meet. Whatever the test does, everything is closed and removed at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from layer8.testing import RunningVnet
    from layer8.vnic import Vnic

ATTACH_SECONDS = 30.0  # on a busy machine


@pytest.fixture
def vnet(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningVnet]:
    """A real Vnet, private to this test, that every Vnic of the test and of its child processes finds by itself.

    `vnet.kill()`, `vnet.restart()` and `vnet.stop()` do what they say; `vnet.log` is what it has written.
    """
    from layer8.testing import running_vnet

    with running_vnet() as running:
        for name in ("XDG_RUNTIME_DIR", "LAYER8_VNET"):
            monkeypatch.setenv(name, running.environ[name])
        yield running


@pytest.fixture
def make_vnic(vnet: RunningVnet) -> Iterator[Callable[..., Vnic]]:
    """`make_vnic(alias=None, **arguments)`: as `Vnic(...)`, on the test's Vnet, closed at the end of the test."""
    from layer8.vnic import Vnic

    made: list[Vnic] = []

    def make(alias: str | None = None, **arguments: Any) -> Vnic:
        arguments.setdefault("vnet", str(vnet.socket))
        arguments.setdefault("attach_timeout", ATTACH_SECONDS)
        vnic = Vnic(alias, **arguments)
        made.append(vnic)
        return vnic

    yield make
    for vnic in reversed(made):
        vnic.close(timeout=5.0 if vnet.pid else 0.0)  # without a Vnet nobody answers
