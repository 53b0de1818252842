"""A flood leaves nothing in the midst of the memory that it took."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import pytest

from cometd_lite.core.counts import Counts
from cometd_lite.memos import forget_all, memo, renew, shrink
from cometd_lite.metrics import Metrics


class Holder:
    def __init__(self) -> None:
        self.count = 10**6
        self.seconds = 1.5


def test_a_memo_is_forgotten_with_all_others() -> None:
    asked = []

    @memo(10)
    def ask(what: str) -> str:
        asked.append(what)
        return what

    assert [ask("a"), ask("a")] == ["a", "a"]
    forget_all()
    assert ask("a") == "a"
    assert asked == ["a", "a"]


def test_renewed_numbers_are_equal_and_other_objects() -> None:
    holder = Holder()
    count, seconds = holder.count, holder.seconds
    renew(holder, "count", "seconds")
    assert (holder.count, holder.seconds) == (count, seconds)
    assert holder.count is not count
    assert holder.seconds is not seconds


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_an_empty_table_takes_no_room_however_large_it_was(kind: type[dict[int, int]]) -> None:
    empty, full = kind(), kind.fromkeys(range(1_000), 0)
    for key in range(1_000):
        del full[key]
    assert sys.getsizeof(full) > 10 * sys.getsizeof({})
    shrink(empty, full)
    assert sys.getsizeof(full) <= sys.getsizeof(kind())


def test_a_table_that_is_not_empty_stays_as_it_is() -> None:
    table = {"a": 1}
    shrink(table)
    assert table == {"a": 1}


def numbers(counted: Any) -> list[float]:
    """Return all numbers that are counted, apart from those that Python makes once for all."""
    if isinstance(counted, int | float):
        return [counted] if counted not in range(-5, 257) else []
    if isinstance(counted, dict):
        return numbers([*counted.values()])
    if isinstance(counted, list):
        return [number for one in counted for number in numbers(one)]
    names = [name for kind in type(counted).__mro__ for name in getattr(kind, "__slots__", ())]
    return [number for name in names for number in numbers(getattr(counted, name))]


class Ended:
    rule = "/push/<path:name>"
    code = 201

    def age(self) -> float:
        return 0.3


@pytest.mark.parametrize("counts", [Counts(), Metrics()], ids=["core", "server"])
def test_all_that_is_counted_is_made_anew(counts: Counts) -> None:
    counts.pushes = counts.deliveries = 10**6
    counts.refusals["server-full"] = 10**6
    for _ in range(10_000):
        counts.push_to_wake.observe(0.1)
        if isinstance(counts, Metrics):
            counts.count_request(Ended())
            counts.reactor_lag.observe(0.1)
    before = numbers(counts)
    counts.renew()
    after = numbers(counts)
    assert after == before
    assert not {id(number) for number in before} & {id(number) for number in after}
