"""What may be called what."""

from __future__ import annotations

import math
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer8.health_record import HealthRecord
from layer8.names import check_alias, check_timeout, check_topic, check_vnet_name, destination


@pytest.mark.parametrize("name", ["a", "prices.eur", "with space", "ü" * 127, "x" * 255, "layer8", "LAYER8.x", "*"])
def test_a_topic_or_alias_is_any_literal_text_of_1_to_255_bytes(name: str) -> None:
    assert check_topic(name) == name
    assert check_alias(name) == name


def test_what_a_vnet_publishes_may_be_subscribed_to_and_nothing_else_of_layer8s() -> None:
    assert check_topic("layer8.alarms", to_subscribe=True) == "layer8.alarms"
    for topic, to_subscribe in (("layer8.alarms", False), ("layer8.alarm", True), ("layer8.", True)):
        with pytest.raises(ValueError, match="reserved"):
            check_topic(topic, to_subscribe=to_subscribe)


@pytest.mark.parametrize("name", ["", "x" * 256, "ü" * 128, "layer8.internal", "layer8.", "half a pair \ud800"])
def test_a_topic_or_alias_out_of_the_rule_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError):
        check_topic(name)
    with pytest.raises(ValueError):
        check_alias(name)


@pytest.mark.parametrize("name", [b"bytes", None, 7])
def test_a_name_that_is_not_text_is_a_type_error(name: str) -> None:
    for check in (check_topic, check_alias, check_vnet_name):
        with pytest.raises(TypeError):
            check(name)


@given(st.uuids(), st.sampled_from(["{}", "urn:uuid:{}", "{{{}}}"]), st.booleans())
def test_an_alias_that_reads_as_a_uuid_is_refused(uuid: UUID, form: str, hyphens: bool) -> None:
    text = form.format(uuid if hyphens else uuid.hex)
    with pytest.raises(ValueError, match="UUID"):
        check_alias(text)
    assert check_topic(text) == text


@pytest.mark.parametrize("name", ["default", "a", "A-1_b.c", "x" * 64])
def test_the_name_of_a_vnet(name: str) -> None:
    assert check_vnet_name(name) == name


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "x" * 65, "ü", "a b", "a\n", "a\0"])
def test_what_cannot_stand_in_a_file_name_cannot_name_a_vnet(name: str) -> None:
    with pytest.raises(ValueError):
        check_vnet_name(name)


def test_a_timeout_is_seconds_and_none_is_for_ever() -> None:
    assert check_timeout(None) is None
    assert check_timeout(math.inf) is None
    assert check_timeout(0) == 0
    assert check_timeout(2.5) == 2.5


@pytest.mark.parametrize("timeout", [-1, -0.001, -math.inf, math.nan])
def test_a_negative_timeout_is_a_value_error(timeout: float) -> None:
    with pytest.raises(ValueError):
        check_timeout(timeout)


@pytest.mark.parametrize("timeout", ["5", True, b"1", 1j])
def test_a_timeout_that_is_no_number_is_a_type_error(timeout: float) -> None:
    with pytest.raises(TypeError):
        check_timeout(timeout)


def test_a_destination_is_a_uuid_a_record_or_an_alias() -> None:
    uuid = uuid4()
    assert destination(uuid) == uuid
    assert destination(HealthRecord(uuid=uuid, alias="a")) == uuid
    assert destination("worker") == "worker"
    with pytest.raises(ValueError, match="UUID"):
        destination(str(uuid))
    with pytest.raises(TypeError):
        destination(b"worker")  # type: ignore[arg-type]
