"""Metrics: what the hub and the server count, and the text that Prometheus reads.

Counting adds to integers. The text for Prometheus is made of them when it is asked for. Labels never
carry a recipient, a token or an address: their number is not bounded, and they are private.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from .access.application import ApplicationCounts
from .core.counts import BUCKETS, Counts, Histogram
from .webhooks.outbox import WebhookCounts

HELD_BUCKETS = (0.001, 0.01, 0.1, 1.0, 5.0, 10.0, 20.0, 25.0, 30.0, 60.0, 120.0, 600.0, 3_600.0)
"""Upper bounds of how long a request was held: the steps are usual time-outs of proxies."""

PAUSE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of how long the reactor was blocked, by the garbage collector or by a handler."""

ROUTES = (
    "/push",
    "/poll",
    "/ack",
    "/stream",
    "/ws",
    "/cometd",
    "/register",
    "/listeners",
    "/presence",
    "/recipients",
    "/healthz",
    "/metrics",
    "/openapi.json",
)
"""The labels of requests: the first segments of HTTP.md's paths."""

PAGES = "pages"
"""The label of all other routes: the console, and its parts."""

NO_ROUTE = "none"
"""The label of requests that no route served: unknown paths and methods, preflights, malformed heads."""

HELD = frozenset({"/poll", "/stream", "/cometd"})
"""The labels of requests that may be held. Their time is counted apart, because a long one is not slow."""

TIMED = 16
"""Of so many requests of one route and status the time of one is taken, beginning with the first: to count
a request costs 0.2 µs, and to put its time into a bucket twice as much besides."""
_UNTIMED = TIMED - 1

LAG_SECONDS = 0.25
"""How often the reactor is looked at: a stop of this length is always seen."""


class Tally(Histogram):
    """The requests of one route, by their time and by the status of their answers."""

    __slots__ = ("statuses",)

    def __init__(self, label: str) -> None:
        super().__init__(HELD_BUCKETS if label in HELD else BUCKETS)
        self.statuses: dict[int, int] = {}

    def renew(self) -> None:
        """Make all numbers anew; see ``memos``."""
        super().renew()
        for status in self.statuses:
            self.statuses[status] += 0


class _Observed(Protocol):
    @property
    def code(self) -> int: ...

    @property
    def rule(self) -> str: ...

    def age(self) -> float: ...


@dataclass(slots=True)
class Metrics(Counts):
    """The counts of the core, and those of the server."""

    requests: dict[str, Tally] = field(
        default_factory=lambda: {label: Tally(label) for label in (*ROUTES, PAGES, NO_ROUTE)}
    )
    """Requests, by their label."""
    reactor_lag: Histogram = field(default_factory=lambda: Histogram(PAUSE_BUCKETS))
    """Looks at the reactor, by how late it was."""
    collections: list[Histogram] = field(
        default_factory=lambda: [Histogram(PAUSE_BUCKETS) for _ in range(gc_generations())]
    )
    """The garbage collector's runs, by generation and by how long they have blocked the reactor."""
    connections: Callable[[], int] | None = None
    """Returns how many connections are open; None over a twisted.web site, which does not count them."""
    application: ApplicationCounts | None = None
    """The answers of the application that is asked who may do what; None where none is asked."""
    webhooks: WebhookCounts | None = None
    """The events of which an application is notified; None where none is."""
    waiting_events: Callable[[], int] | None = None
    """Returns how many events are pending; None where there are none."""
    unsent: Callable[[], int] | None = None
    """Returns how many bytes are unsent; None over a twisted.web site, which does not count them."""
    received: Callable[[], int] | None = None
    """Returns how many bytes are kept of what arrived; None as above."""
    _by_rule: dict[str, Tally] = field(default_factory=dict)
    """The same tallies as in ``requests``; those of rules that begin alike are one."""

    def count_request(self, request: _Observed) -> None:
        """Count a request that is over."""
        rule = request.rule
        try:
            tally = self._by_rule[rule]
        except KeyError:
            tally = self._by_rule[rule] = self.requests[label_of(rule)]
        code = request.code
        tally.statuses[code] = count = tally.statuses.get(code, 0) + 1
        if count & _UNTIMED == 1:
            tally.observe(request.age())

    def renew(self) -> None:
        """Make all numbers anew; see ``memos``."""
        Counts.renew(self)  # a dataclass with slots is another class than the one that ``super`` knows
        for histogram in (self.reactor_lag, *self.collections, *self.requests.values()):
            histogram.renew()


def label_of(rule: str) -> str:
    """Return the label of a route, by its rule; empty for none."""
    if not rule:
        return NO_ROUTE
    beginning = f"/{rule.split('/')[1]}"
    return beginning if beginning in ROUTES else PAGES


def gc_generations() -> int:
    """Return how many generations of objects Python's collector has."""
    return len(gc.get_stats())


class ReactorMonitor:
    """Measures how late the reactor's timers are, and how long the garbage collector runs.

    It measures the process, so a process has one, from ``start`` to ``stop``.
    """

    def __init__(self, metrics: Metrics, clock: Any, wall: Callable[[], float] = time.perf_counter) -> None:
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._began = 0.0
        self._due = 0.0
        self._timer: Any = None

    def start(self) -> None:
        """Begin to measure."""
        gc.callbacks.append(self._collected)
        self._wait()

    def stop(self) -> None:
        """End the timer and the callback of the collector."""
        if self._timer is not None:
            gc.callbacks.remove(self._collected)
            timer, self._timer = self._timer, None
            timer.cancel()

    def _wait(self) -> None:
        self._due = self._clock.seconds() + LAG_SECONDS
        self._timer = self._clock.callLater(LAG_SECONDS, self._beat)

    def _beat(self) -> None:
        self._metrics.reactor_lag.observe(max(0.0, self._clock.seconds() - self._due))
        self._wait()

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = self._wall()
        else:
            self._metrics.collections[info["generation"]].observe(self._wall() - self._began)


Gauges = Callable[[], Mapping[str, tuple[str, float]]]


def prometheus(metrics: Metrics, gauges: Gauges, version: str, *, as_openmetrics: bool = False) -> bytes:
    """Return everything counted, and what the system knows of the process.

    The format is OpenMetrics where ``as_openmetrics``, else Prometheus' own text. ``gauges`` returns what
    stands at this moment: by name, its sentence and its number.
    """
    registry = CollectorRegistry()
    registry.register(_Counted(metrics, gauges, version))
    ProcessCollector(registry=registry)
    if as_openmetrics:
        return openmetrics.generate_latest(registry)  # type: ignore[no-any-return,no-untyped-call]  # untyped
    return generate_latest(registry)


class _Counted(Collector):
    def __init__(self, metrics: Metrics, gauges: Gauges, version: str) -> None:
        self._metrics = metrics
        self._gauges = gauges
        self._version = version

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield InfoMetricFamily("cometd_lite", "The program.", value={"version": self._version})
        for name, (sentence, number) in self._gauges().items():
            yield GaugeMetricFamily(f"cometd_lite_{name}", sentence, value=number)
        for name, sentence, count in metrics.described():
            yield _counter(name, sentence, {(): count})
        refusals: dict[tuple[str, ...], int] = {(kind,): count for kind, count in metrics.refusals.items()}
        yield _counter("refusals", "Requests refused, by the kind of their problem.", refusals, "kind")
        yield from _requests(metrics.requests)
        if metrics.application is not None:
            yield from _answers(metrics.application)
        if metrics.webhooks is not None:
            yield from _events(metrics.webhooks)
        yield _histogram(
            "push_to_wake_seconds",
            "Time from a push's arrival until the readers that it woke were answered.",
            {(): metrics.push_to_wake},
        )
        yield _histogram(
            "reactor_lag_seconds", "How late the reactor was, at each look at it.", {(): metrics.reactor_lag}
        )
        yield _histogram(
            "gc_pause_seconds",
            "How long the garbage collector has blocked the reactor, by generation.",
            {(str(number),): times for number, times in enumerate(metrics.collections)},
            "generation",
        )


def _answers(counts: ApplicationCounts) -> Iterator[Metric]:
    yield _counter(
        "application_answers",
        "Questions to the application, by outcome; failed: no answer that decides.",
        {(name,): getattr(counts, name) for name in ("allowed", "refused", "failed", "remembered")},
        "outcome",
    )
    yield _histogram(
        "application_answer_seconds", "Time that the application took to answer.", {(): counts.seconds}
    )


def _events(counts: WebhookCounts) -> Iterator[Metric]:
    yield _counter(
        "webhook_events",
        "Events for the application, by outcome.",
        {(name,): getattr(counts, name) for name in ("sent", "refused", "expired", "dropped")},
        "outcome",
    )
    yield _counter(
        "webhook_untracked",
        "Recipients whose unread messages are not reported, because too many wait.",
        {(): counts.untracked},
    )
    yield _counter(
        "webhook_failures",
        "Attempts to post events to the application that failed, and are made again.",
        {(): counts.failed},
    )


def _requests(tallies: Mapping[str, Tally]) -> Iterator[Metric]:
    yield _counter(
        "requests",
        "Requests that have ended, by route and status; 499: the client disconnected before its answer.",
        {
            (label, str(status)): count
            for label, tally in tallies.items()
            for status, count in sorted(tally.statuses.items())
        },
        "route",
        "status",
    )
    times = {(label,): tally for label, tally in tallies.items() if tally.statuses}
    yield _histogram(
        "request_seconds",
        f"Time from a request's head to the end of its answer, of one in {TIMED}, where none is held.",
        {label: time for label, time in times.items() if label[0] not in HELD},
        "route",
    )
    yield _histogram(
        "held_seconds",
        f"Time from a request's head to the end of its answer, of one in {TIMED}, where they may be held.",
        {label: time for label, time in times.items() if label[0] in HELD},
        "route",
    )


def _histogram(name: str, sentence: str, by: Mapping[tuple[str, ...], Histogram], *labels: str) -> Metric:
    family = HistogramMetricFamily(f"cometd_lite_{name}", sentence, labels=labels)
    for label, times in by.items():
        family.add_metric(label, *times.shown())
    return family


def _counter(name: str, sentence: str, by: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    family = CounterMetricFamily(f"cometd_lite_{name}", sentence, labels=labels)
    for label, count in by.items():
        family.add_metric(label, count)
    return family
