"""When records move again after a Vnet took over."""

from __future__ import annotations

from uuid import UUID

from layer8.vnet.returning import LONGEST_SECONDS, Returning

PATIENCE = 5.0

ONE, TWO, THREE = (UUID(int=number) for number in (1, 2, 3))


def over(returning: Returning) -> bool:
    return returning.is_over


def test_nobody_awaited_is_over_at_once() -> None:
    assert Returning((), 10.0, PATIENCE).is_over


def test_it_is_over_when_the_last_one_is_back() -> None:
    returning = Returning((ONE, TWO), 10.0, PATIENCE)
    returning.back(ONE, 11.0)
    assert over(returning) is False
    returning.back(TWO, 12.0)
    assert over(returning) is True


def test_each_return_gives_the_others_time() -> None:
    returning = Returning((ONE, TWO, THREE), 10.0, PATIENCE)
    returning.back(ONE, 14.0)
    returning.tick(10.0 + PATIENCE)
    assert over(returning) is False
    assert returning.deadline == 14.0 + PATIENCE
    returning.tick(14.0 + PATIENCE)
    assert over(returning) is True
    assert returning.missing == {TWO, THREE}


def test_who_was_not_awaited_gives_no_time() -> None:
    returning = Returning((ONE,), 10.0, PATIENCE)
    returning.back(TWO, 14.0)
    assert returning.deadline == 10.0 + PATIENCE


def test_there_is_an_end_to_it() -> None:
    returning = Returning(map(UUID, (f"{number:032x}" for number in range(100))), 0.0, PATIENCE)
    for number in range(100):
        returning.back(UUID(int=number), number * 1.0)
        if returning.is_over:
            break
    assert returning.is_over
    assert returning.deadline == LONGEST_SECONDS
