"""What is counted, and how it is shown: numbers arrive from the hub and the routes, Prometheus text leaves.

Labels never carry a recipient, a token or an address: their number is not bounded, and they are private.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of the latency histogram, in seconds: from a wake in memory to a store that stalls."""


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
    streams: int = 0
    """Streams that are open."""
    sockets: int = 0
    """WebSockets that are open."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Requests refused, by the kind of their error."""
    push_to_wake: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    """Pushes by the time from their arrival until all who waited were answered; see ``BUCKETS``."""
    push_to_wake_sum: float = 0.0
    """Seconds of all of them together."""

    def observe_push(self, seconds: float) -> None:
        """Count a push that woke its readers within so many seconds."""
        self.push_to_wake[bisect_left(BUCKETS, seconds)] += 1
        self.push_to_wake_sum += seconds


def prometheus(metrics: Metrics, gauges: Callable[[], Mapping[str, tuple[str, float]]]) -> bytes:
    """Return everything counted in Prometheus' text format.

    ``gauges`` tells what stands at this moment: by name, its sentence and its number.
    """
    registry = CollectorRegistry()
    registry.register(_Counted(metrics, gauges))
    return generate_latest(registry)


class _Counted(Collector):
    def __init__(self, metrics: Metrics, gauges: Callable[[], Mapping[str, tuple[str, float]]]) -> None:
        self._metrics = metrics
        self._gauges = gauges

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        metrics = self._metrics
        for name, (sentence, number) in self._gauges().items():
            yield GaugeMetricFamily(f"cometd_lite_{name}", sentence, value=number)
        for name, sentence, count in (
            ("pushes", "Messages accepted, one for each recipient.", metrics.pushes),
            ("deliveries", "Messages given to readers of any kind.", metrics.deliveries),
            ("takes", "Messages given to takes.", metrics.takes),
            ("gaps", "Readers that were told a gap.", metrics.gaps),
        ):
            yield CounterMetricFamily(f"cometd_lite_{name}", sentence, value=count)
        refusals = CounterMetricFamily(
            "cometd_lite_refusals", "Requests refused, by the kind of their problem.", labels=["kind"]
        )
        for kind, count in metrics.refusals.items():
            refusals.add_metric([kind], count)
        yield refusals
        bounds = [*map(str, BUCKETS), "+Inf"]
        yield HistogramMetricFamily(
            "cometd_lite_push_to_wake_seconds",
            "Time from a push's arrival until all who waited for it were answered.",
            buckets=list(zip(bounds, map(float, accumulate(metrics.push_to_wake)), strict=True)),
            sum_value=metrics.push_to_wake_sum,
        )
