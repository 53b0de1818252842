"""What a run measured, and the errors that end one without a result."""

from __future__ import annotations

import math
from dataclasses import dataclass

FULL = 0.9
"""Above this share of a core, the generator itself is what limits rate and latency."""

FINE_MICROSECONDS = 1_000_000
"""Longer latencies are counted by the millisecond, so that the counts stay few."""


class BenchError(Exception):
    """The run has no result; its text is one sentence for the user who started it."""

    exit_code = 1


class NotThere(BenchError):
    """No server that can be measured answers at the URL."""

    exit_code = 2


class UnexpectedAnswer(BenchError):
    """The server gave an answer that the interface does not have."""


class Lost(BenchError):
    """A message was lost, doubled, changed or out of order."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run measured. ``None``: it was not asked for, or the server's process was not given."""

    scenario: str
    dialect: str
    url: str
    """Where the server is; its addresses with commas between them, where there were several."""
    readers: int
    parked: int
    """Polls that waited all the time, besides the readers."""
    mailboxes: int
    pushers: int
    seconds: float
    """How long the measured phase took, to its last delivery."""
    messages: int
    deliveries: int
    """Messages that arrived at readers, each compared with what was pushed; none is missing."""
    per_second: float
    """Deliveries per second; pushes per second where there are no readers."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    """From the push's sending to its delivery; to its answer where there are no readers."""
    cpu_us: float | None
    """CPU time of the server's processes per delivery (per push without readers), in microseconds."""
    server_cpu: float | None
    """The same as a share of one core."""
    own_cpu: float
    """The generator's own CPU time as a share of one core."""
    kb_per_reader: float | None
    """Memory that each parked poll or stream added to the server's processes, in units of 1,024 bytes."""

    @property
    def own_cpu_full(self) -> bool:
        """Whether rate and latency are the generator's limit rather than the server's."""
        return self.own_cpu > FULL


class Latencies:
    """Latencies, counted by the microsecond, long ones by the millisecond: bounded however many there are."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        microseconds = int(seconds * 1e6)
        if microseconds >= FINE_MICROSECONDS:
            microseconds -= microseconds % 1000
        self._counts[microseconds] = self._counts.get(microseconds, 0) + 1

    def quantiles(self, *shares: float) -> list[float]:
        """Return the latency in milliseconds that each of ``shares`` (0 to 1, rising) of all stays within."""
        ranks = [max(1, math.ceil(share * sum(self._counts.values()))) for share in shares]
        found: list[float] = []
        counted = 0
        for microseconds, count in sorted(self._counts.items()):
            counted += count
            found += [microseconds / 1000 for rank in ranks[len(found) :] if rank <= counted]
        return found or [0.0] * len(shares)
