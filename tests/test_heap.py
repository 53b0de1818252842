"""Memory that was freed goes back to the system, where there is much of it."""

from __future__ import annotations

import random

import pytest
from resident import resident
from twisted.internet.task import Clock

from cometd_lite.heap import Heap, Library, freed_bytes

MEGABYTE = 1024 * 1024


class Machine:
    """What the C library says is free, and how often it was asked to give that back."""

    def __init__(self) -> None:
        self.free = 10 * MEGABYTE
        self.resident = 50 * MEGABYTE
        self.given = 0
        self.at_end = 0
        """How much of it is at the end of the heap, which then ends sooner."""
        self.clock = Clock()
        self.takes = 0.0
        """Seconds until it says what is free."""
        self.asked = 0
        self.heap = Heap(Library(self.freed, self.give_back, lambda: self.resident, self.clock.seconds))

    def freed(self) -> int:
        self.asked += 1
        self.clock.advance(self.takes)
        return self.free

    def give_back(self) -> None:
        self.given += 1
        self.free -= self.at_end  # glibc goes on to call free what else it has given back

    def trimmed(self, megabytes: int) -> bool:
        """Return whether pages are given back where so many megabytes are free."""
        self.free, before = megabytes * MEGABYTE, self.given
        self.heap.trim()
        return self.given > before


def test_pages_are_given_back_once_where_many_were_freed() -> None:
    machine = Machine()
    assert not machine.trimmed(17)
    assert machine.trimmed(18)
    assert not machine.trimmed(18)
    assert not machine.trimmed(25)
    assert machine.trimmed(26)
    assert machine.trimmed(500)


def test_little_is_given_back_where_that_is_asked_for() -> None:
    machine = Machine()
    machine.free += 1
    machine.heap.trim(least=1)
    machine.heap.trim(least=1)
    assert machine.given == 1


def test_what_was_used_again_and_freed_again_is_given_back_again() -> None:
    machine = Machine()
    assert machine.trimmed(100)
    assert not machine.trimmed(20)
    assert machine.trimmed(100)


def test_what_is_freed_after_the_heap_was_cut_off_at_its_end_is_given_back_too() -> None:
    machine = Machine()
    machine.at_end = 50 * MEGABYTE
    assert machine.trimmed(100)
    assert machine.trimmed(100)


def test_what_is_used_and_freed_between_two_looks_is_given_back() -> None:
    machine = Machine()
    machine.resident += 8 * MEGABYTE
    machine.heap.look()
    assert machine.given == 1
    machine.heap.look()
    assert machine.given == 1


def test_a_process_that_grows_by_what_is_used_gives_nothing_back() -> None:
    machine = Machine()
    machine.free = 7 * MEGABYTE
    machine.resident += 100 * MEGABYTE
    machine.heap.look()
    assert machine.given == 0


def test_that_python_has_freed_memory_hides_nothing() -> None:
    machine = Machine()
    machine.resident -= 40 * MEGABYTE
    machine.heap.look()
    machine.resident += 8 * MEGABYTE
    machine.heap.look()
    assert machine.given == 1


def test_where_it_takes_long_to_say_what_is_free_that_is_asked_for_seldom() -> None:
    machine = Machine()
    machine.takes = 0.025
    asked = machine.asked
    for _ in range(100):
        machine.heap.look()
        machine.clock.advance(0.25)
    assert machine.asked - asked == pytest.approx(25 / 2.5, abs=1)
    machine.takes = 0.0
    machine.clock.advance(2.5)
    for _ in range(10):
        asked = machine.asked
        machine.heap.look()
        assert machine.asked > asked
        machine.clock.advance(0.25)


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
