"""Numbers by names take little memory, whatever the names are, and the lowest are forgotten first."""

from __future__ import annotations

import time
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from cometd_lite.limits import NUMBERS_IN_PART
from cometd_lite.stores.numbers import PackedNumbers

NAMES = [f"chat/{number}" for number in range(1_000)]


def test_a_name_has_the_number_that_it_was_given_last() -> None:
    table = PackedNumbers(10)
    table.set("a", 7)
    table.set("b", 2**64 - 1)
    table.set("a", 8)
    assert [table.get(name) for name in ("a", "b", "c")] == [8, 2**64 - 1, 0]
    assert "a" in table
    assert "c" not in table
    table.set("a", 0)
    table.set("c", 0)
    assert table.get("a") == 0
    assert len(table) == 1
    table.check_invariants()


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 99)), max_size=200),
    st.integers(1, 40),
)
def test_no_name_has_a_wrong_number_and_what_is_forgotten_lies_at_the_floor_or_below(
    changes: list[tuple[int, int]], most: int
) -> None:
    table = PackedNumbers(most)
    known: dict[str, int] = {}
    for name, number in changes:
        table.set(NAMES[name], number)
        known[NAMES[name]] = number
        table.check_invariants()
        assert len(table) <= most
    for text, number in known.items():
        found = table.get(text)
        assert found == number or (found == 0 and number <= table.floor)
    assert len(table) + table.forgotten >= len([number for number in known.values() if number])


def test_a_large_table_keeps_as_many_as_it_may_and_forgets_the_lowest() -> None:
    most = 10 * NUMBERS_IN_PART
    table = PackedNumbers(most)
    for number in range(most):
        table.set(f"room/{number}", number + 1)
    assert len(table) == most
    assert (table.forgotten, table.floor) == (0, 0)
    for number in range(most, 4 * most):
        table.set(f"room/{number}", number + 1)
    table.check_invariants()
    assert 0.9 * most < len(table) < 1.3 * most
    assert len(table) + table.forgotten == 4 * most
    assert table.floor < 3.3 * most
    assert all(table.get(f"room/{number}") == number + 1 for number in range(int(3.3 * most), 4 * most))


def test_a_name_takes_twenty_bytes_however_long_it_is() -> None:
    tracemalloc.start()
    try:
        table = PackedNumbers(20_000)
        for number in range(20_000):
            table.set(f"{number:07}" + "\N{GRINNING FACE}" * 60, number + 1)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table) == 20_000
    assert taken < 20 * 20_000 + 50_000


def test_a_name_that_comes_to_a_full_table_is_no_step_of_its_own() -> None:
    table = PackedNumbers(100_000)
    for number in range(110_000):
        table.set(str(number), number + 1)
    longest = 0.0
    for number in range(110_000, 112_000):
        began = time.thread_time()
        table.set(str(number), number + 1)
        longest = max(longest, time.thread_time() - began)
    assert longest < 0.02


def test_an_empty_table_takes_little_however_many_names_it_may_have() -> None:
    tracemalloc.start()
    try:
        PackedNumbers(10**9)
        _, taken = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1_000_000
