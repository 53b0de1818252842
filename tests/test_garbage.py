"""The collector of cycles walks along what is new, and seldom along the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cometd_lite.garbage import Garbage
from cometd_lite.limits import GC_FEW_BLOCKS, GC_MANY_BLOCKS

GROWS = """
import gc
from cometd_lite.garbage import settle_collector

settle_collector()
phases = []
gc.callbacks.append(lambda phase, info: phases.append((phase, info["generation"])))
kept = [[] for _ in range(500_000)]
print(sorted({generation for _, generation in phases}), len(phases) >= 40)
cycle = []
cycle.append(cycle)
del cycle
found = []
gc.callbacks.append(lambda phase, info: found.append(info["collected"]))
more = [[] for _ in range(30_000)]
print(max(found) > 0)
"""


def test_a_process_that_grows_is_not_walked_along_as_a_whole_and_new_garbage_is_found() -> None:
    run = subprocess.run([sys.executable, "-c", GROWS], capture_output=True, text=True, check=True)
    assert run.stdout == "[0] True\nTrue\n"


TURNS_OVER = """
import gc
from cometd_lite.garbage import collect_new, settle_collector

settle_collector()
kept = [[] for _ in range(100_000)]
for at in range(100_000):
    kept[at] = None
    kept[at] = []  # as many come as go
before = len(gc.get_objects(generation=0))
collect_new()
print(before > 90_000, len(gc.get_objects(generation=0)) < 100)
"""


def test_what_is_new_is_walked_along_in_time_where_as_much_goes_as_comes() -> None:
    run = subprocess.run([sys.executable, "-c", TURNS_OVER], capture_output=True, text=True, check=True)
    assert run.stdout == "True True\n"


class Process:
    """How many blocks there are, and how often all of them are walked along."""

    def __init__(self) -> None:
        self.blocks = 300_000
        self.garbage = 0
        self.collected = 0
        self.collector = Garbage(lambda: self.blocks, self.collect)

    def collect(self) -> None:
        self.blocks -= self.garbage
        self.garbage = 0
        self.collected += 1

    def collects(self, blocks: int, garbage: int = 0) -> bool:
        """Return whether garbage is looked for where there are so many blocks."""
        self.blocks, self.garbage, before = blocks, garbage, self.collected
        self.collector.collect()
        return self.collected > before


def test_a_small_process_looks_for_garbage_each_time() -> None:
    process = Process()
    assert process.collects(300_000)
    assert process.collects(GC_FEW_BLOCKS - 1)
    assert process.collects(300_000)


def test_a_large_process_looks_for_garbage_once_it_has_doubled() -> None:
    process = Process()
    assert not process.collects(GC_FEW_BLOCKS)
    assert not process.collects(GC_MANY_BLOCKS)
    assert process.collects(GC_MANY_BLOCKS + 1)
    assert not process.collects(2 * GC_MANY_BLOCKS)
    assert process.collects(2 * GC_MANY_BLOCKS + 3)


@pytest.mark.parametrize("lives", [600_000, 1_900_000, 5_000_000])
def test_garbage_never_takes_more_than_what_is_used_or_may_be(lives: int) -> None:
    process = Process()
    process.collects(lives)
    most, garbage = 0, 0
    for _ in range(200):
        garbage += 100_000
        if process.collects(lives + garbage, garbage):
            most, garbage = max(most, garbage), 0
    assert process.collected > 2
    assert most <= max(lives, GC_MANY_BLOCKS) + 100_000
