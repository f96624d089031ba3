"""Statements: what a provider signs, byte for byte."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from layer8.protocol.statement import Purpose, Role, Statement, short
from layer8.security.provider import Resource, ResourceKind

statements = st.builds(
    Statement,
    purpose=st.sampled_from(Purpose),
    prover_role=st.sampled_from(Role),
    overlay=st.text(max_size=8),
    audience=st.text(max_size=8),
    digest=st.binary(max_size=8),
    expires=st.floats(0, 1e10) | st.integers(0, 10**10),
)


@given(statements, statements)
def test_two_statements_have_the_same_bytes_only_if_they_are_the_same(one: Statement, other: Statement) -> None:
    assert (one.encode() == other.encode()) == (one == other)


@given(statements, st.sampled_from(["overlay", "audience"]))
def test_moving_a_byte_from_one_field_to_the_next_changes_the_statement(one: Statement, name: str) -> None:
    longer = dataclasses.replace(one, **{name: getattr(one, name) + "x"})
    assert longer.encode() != one.encode()


def test_the_bytes_of_a_statement_do_not_change_from_version_to_version() -> None:
    statement = Statement(
        purpose=Purpose.ATTACH, prover_role=Role.VNET, overlay="o", audience="a", digest=b"\x01", expires=1
    )
    parts = (b"layer8 statement 1\0", b"\x96", b"\xa6attach", b"\xa4vnet", b"\xa1o", b"\xa1a", b"\xc4\x01\x01")
    assert statement.encode() == b"".join(parts) + bytes.fromhex("cb3ff0000000000000")


def test_a_fingerprint_for_people_is_short() -> None:
    assert short(bytes(range(32))) == "000102030405"


def test_a_resource_says_what_it_is() -> None:
    assert str(Resource(kind=ResourceKind.TOPIC, name="prices.eur")) == "topic prices.eur"
