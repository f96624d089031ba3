"""Numbers and names of the switch's tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer8.vnet.numbers import Names, Numbers


def test_no_more_than_the_limit_are_given_out() -> None:
    numbers = Numbers(3)
    assert {(numbers.take() or 0) & 0xFFFF for _ in range(3)} == {0, 1, 2}
    assert numbers.take() is None


def test_a_number_comes_back_with_another_generation() -> None:
    numbers = Numbers(1)
    seen = set()
    for _ in range(100):
        number = numbers.take()
        assert number is not None
        numbers.give(number)
        seen.add(number)
    assert len(seen) == 100


def test_what_is_not_out_cannot_be_given_back() -> None:
    numbers = Numbers(1)
    first = numbers.take()
    assert first is not None
    numbers.give(first)
    numbers.take()
    with pytest.raises(ValueError):
        numbers.give(first)


@given(st.lists(st.one_of(st.none(), st.integers(0, 7)), max_size=200))
def test_a_number_belongs_to_one_at_a_time(steps: list[int | None]) -> None:
    """None takes one; an integer gives back the one that is out for so long."""
    numbers = Numbers(5)
    out: list[int] = []
    for step in steps:
        if step is None:
            number = numbers.take()
            assert (number is None) == (len(out) == 5)
            if number is not None:
                assert number & 0xFFFF not in {other & 0xFFFF for other in out}
                assert number >> 16
                out.append(number)
        elif step < len(out):
            numbers.give(out.pop(step))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), max_size=200))
def test_a_name_keeps_its_number_while_somebody_holds_it(steps: list[tuple[bool, str]]) -> None:
    names = Names(3)
    held: dict[str, list[int]] = {}
    for takes, name in steps:
        if takes:
            number = names.hold(name)
            if number is None:
                assert name not in held
                assert len(held) == 3
                continue
            held.setdefault(name, []).append(number)
            assert set(held[name]) == {number}
        elif name in held:
            names.drop(name)
            held[name].pop()
            if not held[name]:
                del held[name]
        assert len(names) == len(held)
        assert len({numbers[0] for numbers in held.values()}) == len(held)
