"""Memory that was freed goes back to the system: what a burst took does not stay with the process.

The C library keeps the pages that were freed between blocks that are still in use. glibc gives them back
where it is asked to. Where there is another library, nothing is done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from .limits import HEAP_FREED_BYTES

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


class Heap:
    """The heap of the C library. ``trim`` is to be called a few times a second.

    ``free`` returns the bytes that are free in it, ``give_back`` gives the pages back that are.
    """

    def __init__(
        self, free: Callable[[], int] | None = None, give_back_pages: Callable[[], object] | None = None
    ) -> None:
        self._free = free or freed_bytes()
        self._give_back = give_back_pages or give_back()
        self._least = self._free()
        """The bytes that were free when the least were, since pages were last given back."""

    def trim(self, least: int = HEAP_FREED_BYTES) -> None:
        """Give pages back where so many bytes were freed."""
        free = self._free()
        self._least = min(self._least, free)
        if free - self._least >= least:
            self._give_back()
            self._least = self._free()  # the heap may end sooner now, and what was free there is no more
