"""What the core counts. ``metrics.py`` adds what the server counts, and shows all of it.

Code that counts adds to integers. Labels never carry a recipient, a token or an address: their number is not
bounded, and they are private.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate

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

    def shown(self) -> tuple[list[tuple[str, float]], float]:
        """Return the cumulative buckets and the sum, as Prometheus has them."""
        bounds = [*map(str, self.bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True)), self.total


@dataclass(slots=True)
class Counts:
    """Counts since the process began. Adding to one costs as much as adding two integers."""

    pushes: int = 0
    """Messages accepted, one for each recipient."""
    deliveries: int = 0
    """Messages given to readers of any kind."""
    takes: int = 0
    """Messages given to takes."""
    leases: int = 0
    """Messages given to workers by leases, each attempt counted."""
    dead_letters: int = 0
    """Messages that were leased too often, and were moved to their dead letters."""
    gaps: int = 0
    """Readers that were told a gap."""
    streams: int = 0
    """Streams that are open."""
    sockets: int = 0
    """WebSockets that are open."""
    presence_joins: int = 0
    """Names that joined a recipient."""
    presence_leaves: int = 0
    """Names that left one."""
    presence_untold: int = 0
    """Joins, leaves and counts of which no message could be made."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Requests refused, by the kind of their error."""
    push_to_wake: Histogram = field(default_factory=Histogram)
    """Pushes by the time from their arrival until all who waited were answered."""
