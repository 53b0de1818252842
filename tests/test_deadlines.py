"""Times are told in their order, and those that are out of date are cleared away, never many at once."""

from __future__ import annotations

import random
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from cometd_lite.core.deadlines import Deadlines
from cometd_lite.limits import TIDIED_AT_ONCE


class Due:
    """Deadlines, and what they should tell."""

    def __init__(self) -> None:
        self.times: dict[int, float] = {}
        self.deadlines: Deadlines[int] = Deadlines(lambda at, key: self.times.get(key) == at)

    def add(self, key: int, at: float) -> None:
        self.times[key] = at
        self.deadlines.add(at, key)

    def check(self, most: int) -> None:
        self.deadlines.check_invariants({(at, key) for key, at in self.times.items()}, most)

    def pop(self) -> int:
        """Take out the first that is not out of date."""
        while True:
            at, key = self.deadlines.first, self.deadlines.pop()
            if self.times.get(key) == at:
                del self.times[key]
                return key


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "drop", "pop", "tidy"]), st.integers(0, 20), st.integers(0, 50))
    )
)
def test_keys_come_in_the_order_of_their_times(acts: list[tuple[str, int, int]]) -> None:
    due = Due()
    for act, key, at in acts:
        if act == "add":
            due.add(key, float(at))
        elif act == "drop":
            due.times.pop(key, None)
        elif act == "tidy":
            due.deadlines.tidy(-500)  # so that it has something to do
        elif due.times:
            first = min(due.times.values())
            before = due.times.copy()
            assert before[due.pop()] == first
        due.check(10**6)


def test_what_is_out_of_date_is_cleared_away_as_new_entries_come() -> None:
    due = Due()
    for number in range(100_000):
        due.add(number % 5_000, random.random())
        if number % 9_973 == 0:
            due.check(5_000)
    assert len(due.deadlines) < 25_000
    order = [due.times[key] for key in sorted(due.times, key=lambda key: due.times[key])]
    popped = []
    while due.times:
        before = due.times.copy()
        popped.append(before[due.pop()])
    assert popped == order


def test_what_is_out_of_date_is_cleared_away_where_nothing_comes() -> None:
    due = Due()
    for number in range(20_000):
        due.add(number, random.random())
    due.times.clear()
    for _ in range(20):
        due.deadlines.tidy(0)
    assert len(due.deadlines) <= 1_000
    while len(due.deadlines):
        due.deadlines.pop()
    assert due.deadlines.first == inf


def test_no_entry_of_a_large_table_costs_a_long_step() -> None:
    # A heap of 200,000 entries that was made anew took 40 ms.
    due = Due()
    looked = []

    def is_current(at: float, key: int) -> bool:
        looked[-1] += 1
        return due.times.get(key) == at

    due.deadlines = Deadlines(is_current)
    for number in range(80_000):
        looked.append(0)
        due.add(number % 20_000, random.random())
    assert sum(looked) > 40_000
    assert max(looked) < 10
    for _ in range(20):
        looked.append(0)
        due.deadlines.tidy(0)
        assert looked[-1] <= TIDIED_AT_ONCE
    assert len(due.deadlines) < 50_000
