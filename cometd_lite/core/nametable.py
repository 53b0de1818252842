"""A table by names that clients choose: bounded in entries and in bytes, the oldest entry goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

from ..limits import NAME_OVERHEAD
from ..sizes import names_size, text_size

V = TypeVar("V")


class NameTable(Generic[V]):
    """Numbers and other small values by names, those that were set longest ago first.

    At most ``most`` entries are kept, and at most ``most_bytes`` of names with their overhead.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self._most_bytes = most_bytes
        self._size = 0
        self._entries: OrderedDict[str, V] = OrderedDict()  # of a dict the first would be searched for

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def get(self, name: str, default: V) -> V:
        """Return the value of a name."""
        return self._entries.get(name, default)

    def values(self) -> list[V]:
        """Return all values, the oldest first."""
        return list(self._entries.values())

    def set(self, name: str, value: V) -> list[tuple[str, V]]:
        """Set the value of a name, which is the newest then; return the entries that had to go for it."""
        entries = self._entries
        if name in entries:
            entries[name] = value
            entries.move_to_end(name)
            return []
        entries[name] = value
        self._size += NAME_OVERHEAD + text_size(name)
        forgotten = []
        while len(entries) > self.most or self._size > self._most_bytes:
            oldest = entries.popitem(last=False)
            self._size -= NAME_OVERHEAD + text_size(oldest[0])
            forgotten.append(oldest)
        return forgotten

    def pop(self, name: str, default: V) -> V:
        """Take a name out, and return its value."""
        value = self._entries.pop(name, None)
        if value is None:
            return default
        self._size -= NAME_OVERHEAD + text_size(name)
        if not self._entries:
            self._entries.clear()  # else it stays as large as it was
        return value

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` where more is kept than may be, or the bytes are miscounted."""
        assert len(self._entries) <= self.most, "names are bounded in number"
        assert self._size == names_size(self._entries, NAME_OVERHEAD), "the bytes of names are those counted"
        assert self._size <= self._most_bytes, "names are bounded in bytes"
