"""Who is there: filters that are checked, and a Vnic that takes nothing new."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from layer8 import NotFound, Vnic

MakeVnic = Callable[..., Vnic]


@pytest.mark.parametrize("filters", [{"allias": "x"}, {"alias": 5}, {"pid": "1"}])
def test_a_filter_that_is_none_is_a_type_error(make_vnic: MakeVnic, filters: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        make_vnic().health(**filters)


@pytest.mark.parametrize("filters", [{"state": "foo"}, {"kind": "router"}])
def test_a_value_that_cannot_be_is_a_value_error(make_vnic: MakeVnic, filters: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        make_vnic().health(**filters)


def test_none_stands_for_any(make_vnic: MakeVnic) -> None:
    vnic = make_vnic("seen")
    assert [record.uuid for record in vnic.health(alias="seen", state=None)] == [vnic.uuid]


def test_nobody_new_reaches_a_vnic_that_drains(make_vnic: MakeVnic) -> None:
    other = make_vnic()
    for _ in range(20):
        draining = make_vnic("leaving")
        draining.drain()
        with pytest.raises(NotFound):
            other.send(draining.uuid, b"late")
        with pytest.raises(NotFound):
            other.send("leaving", b"late")
        assert list(draining) == []
