"""Memory that was freed goes back to the system: what a burst took does not stay with the process.

The C library keeps the pages that were freed between blocks that are still in use. glibc gives them back
where it is asked to. Where there is another library, nothing is done.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .limits import HEAP_FREED_BYTES, HEAP_SHARE

_FIELDS = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


class _Usage(ctypes.Structure):
    """``struct mallinfo2``; see mallinfo(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


def _function(name: str, result: Any) -> Callable[..., Any] | None:
    """Return a function of the C library; None where it has none of that name."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    function.restype = result
    return function  # type: ignore[no-any-return]  # ctypes' functions have no type


def freed_bytes() -> Callable[[], int]:
    """Return a function that returns the bytes that are free in the heap, 0 where that cannot be known."""
    usage = _function("mallinfo2", _Usage)
    return (lambda: 0) if usage is None else (lambda: int(usage().fordblks))


def give_back() -> Callable[[], object]:
    """Return a function that gives free pages back to the system; nothing where there is no such function."""
    trim = _function("malloc_trim", ctypes.c_int)
    return (lambda: None) if trim is None else (lambda: trim(0))


def resident_bytes() -> Callable[[], int]:
    """Return a function that returns the bytes that the process has, 0 where that cannot be known."""
    pages, size = Path("/proc/self/statm"), mmap.PAGESIZE
    return (lambda: int(pages.read_bytes().split()[1]) * size) if pages.exists() else (lambda: 0)


@dataclass(frozen=True)
class Library:
    """What the C library and the system say and do."""

    free: Callable[[], int] = field(default_factory=freed_bytes)
    give_back: Callable[[], object] = field(default_factory=give_back)
    resident: Callable[[], int] = field(default_factory=resident_bytes)
    seconds: Callable[[], float] = time.perf_counter


class Heap:
    """The heap of the C library. ``look`` is to be called a few times a second."""

    def __init__(self, library: Library | None = None) -> None:
        self._library = library or Library()
        self._due = self._library.seconds()
        self._note()

    def _note(self) -> None:
        self._free = self._library.free()
        """The fewest bytes that were free at a look since pages were last given back."""
        self._resident = self._library.resident()
        """The fewest bytes that the process had at a look since then."""

    def look(self) -> None:
        """Trim, but less often where that takes long: glibc walks all blocks that are free."""
        began = self._library.seconds()
        self._resident = min(self._resident, self._library.resident())
        if began >= self._due:
            self.trim()
            self._due = began + (self._library.seconds() - began) / HEAP_SHARE

    def trim(self, least: int = HEAP_FREED_BYTES) -> None:
        """Give pages back where so many bytes were freed.

        What was used and freed between two looks is free as before, but the process has grown by it.
        """
        free = self._library.free()
        self._free = min(self._free, free)
        grown = min(self._library.resident() - self._resident, free)
        if max(free - self._free, grown) >= least:
            self._library.give_back()
            self._note()  # the heap may end sooner now, and what was free there is no more
