"""Memory that was freed goes back to the system: what a burst took does not stay with the process.

The C library keeps the pages that were freed between blocks that are still in use. glibc gives them back
where it is asked to. Where there is another library, nothing is done.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

from .limits import HEAP_SHARE


def malloc_trim() -> Callable[[], object]:
    """Return a function that gives free pages back to the system: glibc's malloc_trim."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda: None
    return lambda: trim(0)


class Heap:
    """The heap of the C library. ``trim`` is to be called a few times a second."""

    def __init__(
        self, give_back: Callable[[], object] | None = None, seconds: Callable[[], float] = time.perf_counter
    ) -> None:
        self._give_back = give_back or malloc_trim()
        self._seconds = seconds
        self._due = seconds()

    def trim(self) -> None:
        """Give free pages back, but less often where that takes long.

        glibc walks along all large blocks that are free, whether their pages were given back or not. To count
        first what is free takes longer: that walk goes along the small ones, too.
        """
        began = self._seconds()
        if began >= self._due:
            self._give_back()
            self._due = began + (self._seconds() - began) / HEAP_SHARE
