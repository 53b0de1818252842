"""The collector of cycles runs in short steps, however much a server keeps.

With Python's own thresholds it walks along thousands of parked readers and mailboxes again and again. A
parked poll is no garbage and, when it ends, no cycle. Here the collector never walks along what was there at
the start. It walks along each new object once. It walks along all objects only where there are few of them,
or more than a full server has.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from .limits import GC_FEW_BLOCKS, GC_MANY_BLOCKS, GC_OBJECTS

_NEVER = 1_000_000_000
"""Collections of what is new, until Python would walk along what has survived them."""


def settle_collector() -> None:
    """Let the collector ignore what is there now, and walk along new objects only."""
    unquote_to_bytes("%00")  # it makes a table when it is called first
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, _NEVER, _NEVER)


def collect_new() -> None:
    """Collect among the new objects; call it every ``GC_SECONDS``."""
    gc.collect(0)


class Garbage:
    """Finds cycles of objects that were no longer new when they became garbage. There are hardly any."""

    def __init__(
        self, blocks: Callable[[], int] = sys.getallocatedblocks, collect: Callable[[], object] = gc.collect
    ) -> None:
        self._blocks = blocks
        self._collect = collect
        self._most = GC_MANY_BLOCKS

    def collect(self) -> None:
        """Collect among all objects where that is quick or many may be garbage; call it every minute."""
        if GC_FEW_BLOCKS <= self._blocks() <= self._most:
            return
        self._collect()
        self._most = max(GC_MANY_BLOCKS, 2 * self._blocks())
