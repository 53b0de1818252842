"""What the core counts. ``metrics.py`` adds what the server counts, and shows all of it.

Code that counts adds to integers. Labels never carry a recipient, a token or an address: their number is not
bounded, and they are private.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Any

from ..memos import renew

BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of what the server itself takes, in seconds: from a wake in memory to a store that stalls."""


class Histogram:
    """Counts of observations, by which of ``bounds`` they do not exceed; and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count something that took so many seconds."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def renew(self) -> None:
        """Make all numbers anew; see ``memos``."""
        self.counts[:] = [count + 0 for count in self.counts]
        renew(self, "total")

    def shown(self) -> tuple[list[tuple[str, float]], float]:
        """Return the cumulative buckets and the sum, as Prometheus has them."""
        bounds = [*map(str, self.bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True)), self.total


def _counted(sentence: str) -> Any:
    """Return the field of a count, which Prometheus shows with the sentence."""
    return field(default=0, metadata={"sentence": sentence})


@dataclass(slots=True)
class Counts:
    """Counts since the process began. Adding to one costs as much as adding two integers."""

    pushes: int = _counted("Messages accepted, one for each recipient.")
    deliveries: int = _counted("Messages given to readers of any kind.")
    takes: int = _counted("Messages given to takes.")
    leases: int = _counted("Messages given to workers by leases, each attempt counted.")
    dead_letters: int = _counted("Messages that were leased too often, and were moved.")
    gaps: int = _counted("Answers with a gap.")
    presence_joins: int = _counted("Names that joined a recipient.")
    presence_leaves: int = _counted("Names that left a recipient.")
    presence_untold: int = _counted("Joins and leaves that could not be published.")
    streams: int = 0
    """Streams that are open."""
    sockets: int = 0
    """WebSockets that are open."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Requests refused, by the kind of their error."""
    push_to_wake: Histogram = field(default_factory=Histogram)
    """Pushes by the time from their arrival until all who waited were answered."""

    def renew(self) -> None:
        """Make all numbers anew; see ``memos``."""
        renew(self, *[name for name, _, _ in self.described()])
        self.push_to_wake.renew()
        for kind in self.refusals:
            self.refusals[kind] += 0

    def described(self) -> Iterator[tuple[str, str, int]]:
        """Yield each count with its name and its sentence."""
        for one in fields(self):
            if one.metadata:
                yield one.name, one.metadata["sentence"], getattr(self, one.name)
