"""Memory that was freed goes back to the system, where there is much of it."""

from __future__ import annotations

import random

import pytest
from resident import resident

from cometd_lite.heap import Heap, freed_bytes

MEGABYTE = 1024 * 1024


class Library:
    """What the C library says is free, and how often it was asked to give that back."""

    def __init__(self) -> None:
        self.free = 10 * MEGABYTE
        self.given = 0
        self.at_end = 0
        """How much of it is at the end of the heap, which then ends sooner."""
        self.heap = Heap(lambda: self.free, self.give_back)

    def give_back(self) -> None:
        self.given += 1
        self.free -= self.at_end  # glibc goes on to call free what else it has given back

    def trimmed(self, megabytes: int) -> bool:
        """Return whether pages are given back where so many megabytes are free."""
        self.free, before = megabytes * MEGABYTE, self.given
        self.heap.trim()
        return self.given > before


def test_pages_are_given_back_once_where_many_were_freed() -> None:
    library = Library()
    assert not library.trimmed(17)
    assert library.trimmed(18)
    assert not library.trimmed(18)
    assert not library.trimmed(25)
    assert library.trimmed(26)
    assert library.trimmed(500)


def test_little_is_given_back_where_that_is_asked_for() -> None:
    library = Library()
    library.free += 1
    library.heap.trim(least=1)
    library.heap.trim(least=1)
    assert library.given == 1


def test_what_was_used_again_and_freed_again_is_given_back_again() -> None:
    library = Library()
    assert library.trimmed(100)
    assert not library.trimmed(20)
    assert library.trimmed(100)


def test_what_is_freed_after_the_heap_was_cut_off_at_its_end_is_given_back_too() -> None:
    library = Library()
    library.at_end = 50 * MEGABYTE
    assert library.trimmed(100)
    assert library.trimmed(100)


@pytest.mark.skipif(freed_bytes()() == 0, reason="there is no glibc")
def test_pages_between_what_is_still_used_are_given_back() -> None:
    blocks = [bytes(random.randrange(600, 16_000)) for _ in range(10_000)]
    heap = Heap()
    kept = blocks[::50]
    before = resident()
    del blocks
    heap.trim()
    assert resident() < before - 40 * MEGABYTE
    assert len(kept) == 200
