"""Times at which something is to be looked at, the first one at hand.

Most entries go before their time: what they are about was deleted, or used again. They are cleared away a few
with each new entry, so that none is a long step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import chain
from math import inf
from typing import Generic, TypeVar

from ..limits import TIDIED_AT_ONCE

K = TypeVar("K")

_TIDIED = 4
"""Entries that are looked at with each new one, while there are some to look at."""

_STALE = 100
"""Entries that are out of date and not worth looking for."""


class Deadlines(Generic[K]):
    """Keys by times; a key may have several. ``is_current`` returns whether an entry is not out of date.

    ``first`` is the earliest time, infinite where there is none.
    """

    def __init__(self, is_current: Callable[[float, K], bool]) -> None:
        self.first = inf
        self._is_current = is_current
        self._heap: list[tuple[float, K]] = []
        self._unsorted: list[tuple[float, K]] = []
        """A heap as well, whose entries are still to be looked at. It loses its last, and remains a heap."""
        self._most = _STALE
        """Entries after which it is looked for those that are out of date."""

    def __len__(self) -> int:
        return len(self._heap) + len(self._unsorted)

    def __iter__(self) -> Iterator[tuple[float, K]]:
        return chain(self._heap, self._unsorted)

    def add(self, at: float, key: K) -> None:
        """Add an entry."""
        heappush(self._heap, (at, key))
        self.first = min(self.first, at)
        if self._unsorted:
            self._tidy(_TIDIED)
        elif len(self._heap) > self._most:
            self._heap, self._unsorted = self._unsorted, self._heap

    def pop(self) -> K:
        """Take out the first entry, whether it is out of date or not, and return its key."""
        is_older = self._unsorted and not (self._heap and self._heap[0] < self._unsorted[0])
        key = heappop(self._unsorted if is_older else self._heap)[1]
        self._set_first()
        return key

    def tidy(self, current: int) -> None:
        """Clear away some entries where many more are there than are current; to be called every second."""
        if not self._unsorted and len(self._heap) > 2 * current + _STALE:
            self._heap, self._unsorted = self._unsorted, self._heap
        self._tidy(TIDIED_AT_ONCE)

    def _tidy(self, count: int) -> None:
        unsorted = self._unsorted
        for _ in range(min(count, len(unsorted))):
            entry = unsorted.pop()
            if self._is_current(*entry):
                heappush(self._heap, entry)
        if not unsorted:
            self._most = 2 * len(self._heap) + _STALE
        self._set_first()

    def _set_first(self) -> None:
        self.first = min([heap[0][0] for heap in (self._heap, self._unsorted) if heap], default=inf)

    def check_invariants(self, current: set[tuple[float, K]], most: int) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests.

        ``current`` are entries that must be there, and ``most`` is how many are current at the most.
        """
        assert self.first == min([at for at, _ in self], default=inf), "the first time is at hand"
        assert current <= set(self), "each current time has its entry"
        assert len(self) <= 4 * most + 2 * _STALE, "few entries are out of date"
