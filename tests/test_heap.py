"""Memory that was freed goes back to the system."""

from __future__ import annotations

import platform
import random

import pytest
from resident import resident
from twisted.internet.task import Clock

from cometd_lite.heap import Heap

MEGABYTE = 1024 * 1024


@pytest.mark.parametrize(("takes", "times"), [(0.0, 100), (0.002, 100), (0.025, 10)])
def test_pages_are_given_back_less_often_where_that_takes_long(takes: float, times: int) -> None:
    clock = Clock()
    given = []

    def give_back() -> None:
        given.append(clock.seconds())
        clock.advance(takes)

    heap = Heap(give_back, clock.seconds)
    for look in range(100):
        clock.advance(max(0.0, look * 0.25 - clock.seconds()))
        heap.trim()
    assert len(given) == times


def test_pages_are_given_back_as_often_as_before_once_that_is_short_again() -> None:
    clock = Clock()
    given = []
    takes = [1.0, 0.0]

    def give_back() -> None:
        given.append(clock.seconds())
        clock.advance(takes.pop(0) if takes else 0.0)

    heap = Heap(give_back, clock.seconds)
    for _ in range(5):
        heap.trim()
        clock.advance(0.25)
    assert given == [0.0]
    clock.advance(100)
    for count in range(2, 6):
        heap.trim()
        clock.advance(0.25)
        assert len(given) == count


@pytest.mark.skipif(not platform.libc_ver()[0], reason="there is no glibc")
def test_pages_between_what_is_still_used_are_given_back() -> None:
    blocks = [bytes(random.randrange(600, 16_000)) for _ in range(10_000)]
    kept = blocks[::50]
    before = resident()
    del blocks
    Heap().trim()
    assert resident() < before - 40 * MEGABYTE
    assert len(kept) == 200
