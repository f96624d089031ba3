"""How often a Vnet is looked for that cannot be used."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from layer8.errors import VnetNotFound
from layer8.protocol.versions import Incompatible
from layer8.security.local import LocalProvider
from layer8.vnic import search


class Seeker:
    wake_fd = -1
    is_stopped = False


def test_a_vnet_of_another_version_is_asked_ever_more_seldom_until_another_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=lambda: clock.now))
    place = tmp_path / "vnet.sock"
    place.touch()
    one = search.Search(
        uuid4(), None, vnet=str(place), security=LocalProvider(), ring_bytes=None, spin_us=0, chime=False
    )

    def looks(seconds: float) -> int:
        count = 0
        for _ in range(int(seconds / 0.5)):
            clock.now += 0.5
            with contextlib.suppress(VnetNotFound, Incompatible), one.look(Seeker()):
                count += 1
                raise Incompatible("what to do")
        return count

    assert 5 <= looks(60) <= 15
    assert 120 <= looks(3600) <= 240
    assert one.refusal == "what to do"
    place.rename(tmp_path / "before")
    place.touch()  # another one listens there
    with one.look(Seeker()):
        pass
    assert one.refusal == ""
