"""What is counted: plain numbers that the hub and the routes add to, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Metrics:
    """Counts since the process began. Adding to one costs as much as adding two integers."""

    pushes: int = 0
    """Messages accepted, one for each recipient."""
    deliveries: int = 0
    """Messages given to readers of any kind."""
    takes: int = 0
    """Messages given to takes."""
    gaps: int = 0
    """Readers that were told a gap."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Requests refused, by the kind of their error."""
