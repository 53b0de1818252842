"""The log of a store: every kept message in the one order, for the readers of patterns.

It is a list of short lists. A message is found by two bisections and leaves at the cost of moving a few
hundred references, so that a log with holes is read as fast as one without.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain, islice
from operator import attrgetter

from ..core.message import Message

_sequence = attrgetter("sequence")
_created_at = attrgetter("created_at")

_PART = 512
"""Messages in one part at the most."""


class Log:
    """Messages by their numbers. Each message that is added has the highest number so far."""

    def __init__(self) -> None:
        self._parts: list[list[Message]] = []
        self._firsts: list[int] = []
        """For each part a number that is at most its first, and above all numbers of the part before."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Message]:
        return chain.from_iterable(self._parts)

    def add(self, message: Message) -> None:
        """Add the newest message."""
        parts = self._parts
        if not parts or len(parts[-1]) >= _PART:
            parts.append([])
            self._firsts.append(message.sequence)
        parts[-1].append(message)
        self._count += 1

    def remove(self, message: Message) -> bool:
        """Remove a message; return whether it was there."""
        number = message.sequence
        at = bisect_right(self._firsts, number) - 1
        if at < 0:
            return False
        part = self._parts[at]
        place = bisect_left(part, number, key=_sequence)
        if place == len(part) or part[place] is not message:
            return False
        del part[place]
        self._count -= 1
        if not part:
            del self._parts[at], self._firsts[at]
        return True

    def after(self, number: int, most: int) -> list[Message]:
        """Return the messages above a number, oldest first, up to ``most`` of them."""
        parts = self._parts
        at = max(0, bisect_right(self._firsts, number) - 1)
        if at == len(parts):
            return []
        part = parts[at]
        found = part[bisect_right(part, number, key=_sequence) :][:most]
        while len(found) < most and (at := at + 1) < len(parts):
            found += islice(parts[at], most - len(found))
        return found

    def before(self, number: float, most: int) -> list[Message]:
        """Return the messages below a number, newest first, up to ``most`` of them."""
        at = bisect_left(self._firsts, number) - 1
        found: list[Message] = []
        while at >= 0 and len(found) < most:
            part = self._parts[at]
            end = bisect_left(part, number, key=_sequence)
            found += part[max(0, end - most + len(found)) : end][::-1]
            at -= 1
        return found

    def accepted_from(self, created_at: float) -> int | None:
        """Return the number of the first message accepted at a time or later; None where there is none."""
        parts = self._parts
        at = bisect_left(parts, created_at, key=lambda part: part[-1].created_at)
        if at == len(parts):
            return None
        part = parts[at]
        return part[bisect_left(part, created_at, key=_created_at)].sequence

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests."""
        parts, firsts = self._parts, self._firsts
        numbers = [message.sequence for message in self]
        assert numbers == sorted(set(numbers)), "the numbers of the log ascend"
        assert all(0 < len(part) <= _PART for part in parts), "no part of the log is empty or too long"
        assert len(firsts) == len(parts), "the log has an index entry for each part"
        assert all(first <= part[0].sequence for first, part in zip(firsts, parts, strict=True)), (
            "a part of the log begins at or above its index entry"
        )
        assert all(part[-1].sequence < first for part, first in zip(parts, firsts[1:], strict=False)), (
            "a part of the log ends below the index entry of the next"
        )
        assert self._count == len(numbers), "the log counts its messages"
