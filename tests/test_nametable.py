from __future__ import annotations

import time
import tracemalloc

import pytest

from cometd_lite.core.nametable import NameTable
from cometd_lite.jsontext import dumps
from cometd_lite.sizes import text_size


def test_the_entry_that_was_set_longest_ago_goes_first() -> None:
    table: NameTable[int] = NameTable(3, 10**6)
    for number, name in enumerate("abc"):
        assert table.set(name, number) == []
    assert table.set("a", 7) == []
    assert table.set("d", 8) == [("b", 1)]
    assert list(table) == ["c", "a", "d"]
    assert table.get("a", 0) == 7
    assert table.get("b", 0) == 0
    assert table.pop("a", 0) == 7
    assert "a" not in table
    table.check_invariants()


def test_a_long_name_makes_several_short_ones_go() -> None:
    table: NameTable[int] = NameTable(1_000, 2_000)
    for number in range(1_000):
        table.set(f"name{number}", number)
        table.check_invariants()
    kept = len(table)
    assert 5 <= kept < 10
    forgotten = table.set("\N{GRINNING FACE}" * 100, 0)
    assert len(forgotten) > 2
    assert len(table) == kept + 1 - len(forgotten)
    table.check_invariants()


@pytest.mark.filling
@pytest.mark.parametrize(
    "name", ["{0:07}", "{0:07}/*", "{0:07}" + "\N{GRINNING FACE}" * 50, "{0:07}" + "é" * 100]
)
def test_a_full_table_takes_no_more_than_its_bound(name: str) -> None:
    most = 512 * 1024
    table: NameTable[tuple[int, bool]] = NameTable(10**6, most)
    tracemalloc.start()
    try:
        for number in range(3_000):
            one = name.format(number)
            dumps(one)
            table.set(one, (10**6 + number, False))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.6 * most < taken < 1.1 * most


def test_the_oldest_of_a_large_table_is_found_at_once() -> None:
    table: NameTable[int] = NameTable(100_000, 10**9)
    for number in range(100_000):
        table.set(str(number), number)
    began = time.perf_counter()
    for number in range(100_000, 120_000):
        table.set(str(number), number)
    assert time.perf_counter() - began < 0.4  # a dict, whose first entry is searched for, takes 0.8 s


@pytest.mark.parametrize("text", ["x", "a" * 256, "é" * 128, "語" * 85, "\N{GRINNING FACE}" * 64, "a\udc80"])
def test_a_text_is_counted_with_what_it_takes(text: str) -> None:
    tracemalloc.start()
    try:
        copies = [text + f"{number:03}" for number in range(300)]
        before, _ = tracemalloc.get_traced_memory()
        fresh = [one[:-3] + one[-3:] for one in copies]
        taken = (tracemalloc.get_traced_memory()[0] - before) / 300 - 8
    finally:
        tracemalloc.stop()
    assert len(fresh) == 300
    utf8 = 0 if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    assert taken + utf8 <= text_size(copies[0]) + 16
    assert text_size(copies[0]) <= taken + utf8 + 64
