"""Small numbers for what the switch keeps in tables: taken, given back, never mistaken for what they were before."""

from __future__ import annotations

import collections


class Numbers:
    """Indices from 0 to `limit` - 1, each with a generation that counts how often it was given out.

    One that was given back is given out again as late as possible, and with the next generation.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._generations: list[int] = []
        self._free: collections.deque[int] = collections.deque()

    def take(self) -> int | None:
        """index | generation << 16, or None when all are out."""
        if len(self._generations) < self._limit and len(self._free) < 64:
            self._generations.append(0)
            index = len(self._generations) - 1
        elif self._free:
            index = self._free.popleft()
        else:
            return None
        self._generations[index] = self._generations[index] % 0xFFFF + 1  # 1 to 65535: 0 is nobody's
        return index | self._generations[index] << 16

    def give(self, number: int) -> None:
        index = number & 0xFFFF
        if self._generations[index] != number >> 16:
            raise ValueError(f"number {number:#x} is not out")
        self._free.append(index)


class Names:
    """Numbers for names, each for as long as somebody holds the name."""

    def __init__(self, limit: int) -> None:
        self._numbers = Numbers(limit)
        self._held: dict[str, tuple[int, int]] = {}  # name: number, holders

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, name: str) -> int | None:
        """The number of the name, an index; None when there are too many names. Each hold ends with one `drop`."""
        number, holders = self._held.get(name, (-1, 0))
        if not holders:
            taken = self._numbers.take()
            if taken is None:
                return None
            number = taken
        self._held[name] = number, holders + 1
        return number & 0xFFFF

    def drop(self, name: str) -> None:
        number, holders = self._held[name]
        if holders > 1:
            self._held[name] = number, holders - 1
        else:
            del self._held[name]
            self._numbers.give(number)
