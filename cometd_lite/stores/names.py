"""The names of all mailboxes, sorted, so that those which a pattern covers stand next to each other.

``chat/**`` covers all names from ``chat/`` to ``chat0`` (``0`` follows ``/``). For ``chat/*`` everything
below ``chat/room1/`` is skipped in one step. A name takes eight bytes here, however many segments it has.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import islice

from ..core.recipient import is_hidden, is_pattern

_PART = 512
"""Names in one part; a part with twice as many is split."""

_AFTER_SLASH = chr(ord("/") + 1)


class SortedNames:
    """A sorted set of names, as a list of short lists."""

    def __init__(self) -> None:
        self._parts: list[list[str]] = []
        self._lasts: list[str] = []
        """The last name of each part."""

    def __iter__(self) -> Iterator[str]:
        return (name for part in self._parts for name in part)

    def add(self, name: str) -> None:
        """Add a name, which must not be there."""
        parts, lasts = self._parts, self._lasts
        at = bisect_left(lasts, name)
        if at == len(parts):
            if not parts:
                parts.append([name])
                lasts.append(name)
                return
            at -= 1
            lasts[at] = name
        part = parts[at]
        insort(part, name)
        if len(part) > 2 * _PART:
            parts.insert(at, part[:_PART])
            lasts.insert(at, part[_PART - 1])
            del part[:_PART]

    def remove(self, name: str) -> None:
        """Remove a name, which must be there."""
        at = bisect_left(self._lasts, name)
        part = self._parts[at]
        del part[bisect_left(part, name)]
        if not part:
            del self._parts[at], self._lasts[at]
        else:
            self._lasts[at] = part[-1]

    def beginning(self, first: str, most: int) -> list[str]:
        """Return the names from ``first`` on, up to ``most`` of them."""
        return list(islice(self._from(first), most))

    def covered(self, recipients: Iterable[str], most: int) -> set[str] | None:
        """Return the names, and those that the patterns cover; None where that takes more looks."""
        found: set[str] = set()
        for recipient in recipients:
            if not is_pattern(recipient):
                found.add(recipient)
                continue
            for name in self._below(recipient):
                most -= 1
                if most < 0:
                    return None
                if name is not None:
                    found.add(name)
        return found

    def _below(self, pattern: str) -> Iterator[str | None]:
        """Yield the names that a pattern covers; None for each name that is looked at besides."""
        prefix = pattern.rstrip("*")
        is_deep = pattern.endswith("**")
        first: str | None = prefix
        while first is not None:
            names, first = self._from(first), None
            for name in names:
                if not name.startswith(prefix):
                    return
                child, slash, _ = name[len(prefix) :].partition("/")
                if not prefix and is_hidden(name):
                    yield None
                elif is_deep or not slash:
                    yield name
                else:
                    yield None
                    first = prefix + child + _AFTER_SLASH
                    break

    def _from(self, first: str) -> Iterator[str]:
        """Yield all names from ``first`` on."""
        at = bisect_left(self._lasts, first)
        if at < len(self._parts):
            part = self._parts[at]
            yield from part[bisect_left(part, first) :]
            for later in range(at + 1, len(self._parts)):
                yield from self._parts[later]

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` where the names are not sorted, or the index is not that of the parts."""
        names = list(self)
        assert names == sorted(set(names)), "the names are sorted"
        assert all(len(part) <= 2 * _PART for part in self._parts), "no part of the names is too long"
        assert self._lasts == [part[-1] for part in self._parts], "the index has the last name of each part"
