"""A table of numbers by names that clients choose: 16 bytes for each name, however long it is.

A name is known by its hash, which differs from process to process. Two names with one hash, which are not
to be expected, share a number.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

from ..limits import NUMBERS_IN_PART, NUMBERS_KEPT
from ..memos import renew

_FILL = 0.8
"""How full the parts are on average where the table is full: then none of them is full by chance."""


class PackedNumbers:
    """Positive numbers below 2^64 by names, some ``most`` of them; where there are more, the lowest go first.

    ``most`` is ``NUMBERS_KEPT`` at the most: the parts are made at the start.

    ``floor`` is the highest number that had to go. It is a list of sorted arrays, so that a name which comes
    or goes moves some thousand bytes, and no object of its own lies between those of others.
    """

    def __init__(self, most: int) -> None:
        most = min(most, NUMBERS_KEPT)
        self.floor = 0
        self.forgotten = 0
        """How many have had to go."""
        self._most_in_part = min(most, NUMBERS_IN_PART)
        parts = 1 + int(most / (NUMBERS_IN_PART * _FILL)) if most > NUMBERS_IN_PART else 1
        self._parts = [(array("Q"), array("Q")) for _ in range(parts)]
        """The hashes, which ascend, and the numbers."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, name: str) -> bool:
        return self.get(name) > 0

    def numbers(self) -> list[int]:
        """Return all numbers."""
        return [number for _, numbers in self._parts for number in numbers]

    def renew(self) -> None:
        """Make the numbers of its own anew; see ``memos``."""
        renew(self, "floor", "forgotten", "_count")

    def get(self, name: str) -> int:
        """Return the number of a name, 0 where there is none."""
        key = hash(name) & 0xFFFF_FFFF_FFFF_FFFF
        keys, numbers = self._parts[key % len(self._parts)]
        at = bisect_left(keys, key)
        return numbers[at] if at < len(keys) and keys[at] == key else 0

    def set(self, name: str, number: int) -> None:
        """Set the number of a name; 0 takes the name out."""
        key = hash(name) & 0xFFFF_FFFF_FFFF_FFFF
        keys, numbers = self._parts[key % len(self._parts)]
        at = bisect_left(keys, key)
        is_known = at < len(keys) and keys[at] == key
        if is_known and number:
            numbers[at] = number
        elif is_known:
            del keys[at], numbers[at]
            self._count -= 1
        elif number:
            keys.insert(at, key)
            numbers.insert(at, number)
            self._count += 1
            if len(keys) > self._most_in_part:
                self._forget_lowest(keys, numbers)

    def _forget_lowest(self, keys: array[int], numbers: array[int]) -> None:
        """Let an eighth of a part go, and what has the same number as the highest of them."""
        highest = sorted(numbers)[len(numbers) // 8]
        kept = [at for at, number in enumerate(numbers) if number > highest]
        self._count -= len(keys) - len(kept)
        self.forgotten += len(keys) - len(kept)
        keys[:] = array("Q", [keys[at] for at in kept])
        numbers[:] = array("Q", [numbers[at] for at in kept])
        self.floor = max(self.floor, highest)

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests."""
        for place, (keys, numbers) in enumerate(self._parts):
            assert list(keys) == sorted(set(keys)), "the hashes of names ascend"
            assert all(key % len(self._parts) == place for key in keys), "a name is in its part"
            assert len(keys) == len(numbers) <= self._most_in_part, "a part has few names, each with a number"
        assert all(self.numbers()), "no name has the number 0"
        assert self._count == len(self.numbers()), "the names are counted"
