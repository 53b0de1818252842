"""Cyclic garbage is looked for in short steps, however much a server keeps.

With Python's own thresholds the collector walks along thousands of parked readers and mailboxes again and
again. A parked poll is no garbage and, when it ends, no cycle. So what was there at the start is never walked
along, what is new is walked along once, and all of it where there is little, or more than a server keeps.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

NEW_SECONDS = 0.5
"""How often what is new is walked along: 5,000 mailboxes that come in that time take some 5 ms. Python does
that only where more objects come than go, and then it walks along all that came since: up to 60 ms."""

NEW_OBJECTS = 20_000
"""Objects that come, beyond those that go, until what is new is walked along sooner, in 4 to 16 ms. A fan-out
to 1,000 polls makes 12,000; with Python's 700 a quarter of its time was the collector's."""

NEVER = 1_000_000_000

FEW_BLOCKS = 500_000
"""Blocks of Python's memory, 290,000 of them modules, in which all garbage is found in some 10 ms."""

MANY_BLOCKS = 4_000_000
"""A server whose tables are full at default bounds has 3,600,000, and to find all garbage takes 170 ms."""


def settle_collector() -> None:
    """Keep the collector away from what is there, and let it walk along what is new alone."""
    unquote_to_bytes("%00")  # it makes a table when it is called first
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, NEVER, NEVER)


def collect_new() -> None:
    """Walk along what is new; to be called once in ``NEW_SECONDS``."""
    gc.collect(0)


class Garbage:
    """Finds the garbage that was no longer new when it became garbage; there is hardly any."""

    def __init__(
        self, blocks: Callable[[], int] = sys.getallocatedblocks, collect: Callable[[], object] = gc.collect
    ) -> None:
        self._blocks = blocks
        self._collect = collect
        self._most = MANY_BLOCKS

    def collect(self) -> None:
        """Collect where that is quick, or where much of what there is may be garbage; once a minute."""
        if FEW_BLOCKS <= self._blocks() <= self._most:
            return
        self._collect()
        self._most = max(MANY_BLOCKS, 2 * self._blocks())
