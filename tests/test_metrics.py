"""What is counted, and how Prometheus reads it."""

from __future__ import annotations

import gc
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from applications import FakeApplication, said
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock

from cometd_lite.access.application import Authorizer
from cometd_lite.metrics import (
    BUCKETS,
    HELD,
    HELD_BUCKETS,
    LAG_SECONDS,
    NO_ROUTE,
    PAGES,
    PAUSE_BUCKETS,
    ROUTES,
    TIMED,
    Metrics,
    ReactorMonitor,
    gc_generations,
    label_of,
    prometheus,
)
from cometd_lite.pages import pages
from cometd_lite.routes.app import Routes
from cometd_lite.testing import MemoryServer
from cometd_lite.webhooks.outbox import WebhookCounts


def shown(metrics: Metrics, gauges: dict[str, tuple[str, float]] | None = None) -> dict[str, float]:
    """Return the samples that a scrape finds; labels stand behind the name."""
    text = prometheus(metrics, lambda: gauges or {}, "1.2.3").decode()
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_are_shown_as_counters() -> None:
    found = shown(Metrics(pushes=3, deliveries=5, takes=2, gaps=1))
    assert found["cometd_lite_pushes_total"] == 3
    assert found["cometd_lite_deliveries_total"] == 5
    assert found["cometd_lite_takes_total"] == 2
    assert found["cometd_lite_gaps_total"] == 1


def test_what_stands_now_is_shown_as_gauges() -> None:
    found = shown(Metrics(), {"parked": ("Readers that wait.", 7), "memory_bytes": ("Memory.", 1.5)})
    assert (found["cometd_lite_parked"], found["cometd_lite_memory_bytes"]) == (7, 1.5)


def test_refusals_are_told_apart_by_their_kind() -> None:
    metrics = Metrics()
    metrics.refusals.update({"bad-cursor": 2, "mailbox-full": 1})
    found = shown(metrics)
    assert found["cometd_lite_refusals_total[bad-cursor]"] == 2
    assert found["cometd_lite_refusals_total[mailbox-full]"] == 1


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, BUCKETS[0]), (BUCKETS[0], BUCKETS[0]), (0.00006, BUCKETS[1]), (1.0, 1.0)],
)
def test_a_push_is_counted_in_every_bucket_that_holds_it(seconds: float, bucket: float) -> None:
    metrics = Metrics()
    metrics.push_to_wake.observe(seconds)
    found = shown(metrics)
    for bound in BUCKETS:
        assert found[f"cometd_lite_push_to_wake_seconds_bucket[{bound}]"] == (bound >= bucket)
    assert found["cometd_lite_push_to_wake_seconds_bucket[+Inf]"] == 1


def test_a_push_slower_than_every_bucket_is_counted_too() -> None:
    metrics = Metrics()
    metrics.push_to_wake.observe(60.0)
    metrics.push_to_wake.observe(0.5)
    found = shown(metrics)
    assert found["cometd_lite_push_to_wake_seconds_bucket[1.0]"] == 1
    assert found["cometd_lite_push_to_wake_seconds_bucket[+Inf]"] == 2
    assert found["cometd_lite_push_to_wake_seconds_count"] == 2
    assert found["cometd_lite_push_to_wake_seconds_sum"] == 60.5


@pytest.mark.parametrize("bounds", [BUCKETS, HELD_BUCKETS, PAUSE_BUCKETS])
def test_buckets_grow(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


def test_every_metric_is_explained() -> None:
    text = prometheus(Metrics(), lambda: {"parked": ("Readers that wait.", 0)}, "1.2.3").decode()
    families = list(text_string_to_metric_families(text))
    assert len(families) >= 7
    for family in families:
        assert family.documentation.endswith("."), family.name
        assert family.name.startswith(("cometd_lite", "process_"))


def test_a_scrape_changes_nothing() -> None:
    metrics = Metrics(pushes=1)
    first, second = shown(metrics), shown(metrics)
    assert own(first) == own(second)


def own(found: dict[str, float]) -> dict[str, float]:
    return {name: number for name, number in found.items() if not name.startswith("process_")}


def test_the_version_is_told() -> None:
    assert shown(Metrics())["cometd_lite_info[1.2.3]"] == 1


def test_the_process_has_files_and_memory_with_their_bounds() -> None:
    found = shown(Metrics())
    assert 0 < found["process_open_fds"] < found["process_max_fds"]
    assert found["process_resident_memory_bytes"] > 1_000_000


# -- requests


@dataclass
class Over:
    code: int
    rule: str
    seconds: float = 0.0

    def age(self) -> float:
        return self.seconds


def test_requests_are_counted_by_route_and_status() -> None:
    metrics = Metrics()
    for rule, code in (
        ("/push", 201),
        ("/push/<path:name>", 201),
        ("/push/<path:name>", 413),
        ("/", 200),
        ("/console.js", 304),
    ):
        metrics.count_request(Over(code, rule))
    metrics.count_request(Over(404, ""))
    found = shown(metrics)
    assert found["cometd_lite_requests_total[/push][201]"] == 2
    assert found["cometd_lite_requests_total[/push][413]"] == 1
    assert found[f"cometd_lite_requests_total[{PAGES}][200]"] == 1
    assert found[f"cometd_lite_requests_total[{PAGES}][304]"] == 1
    assert found[f"cometd_lite_requests_total[{NO_ROUTE}][404]"] == 1


def test_the_time_of_what_may_be_held_is_counted_apart() -> None:
    metrics = Metrics()
    metrics.count_request(Over(200, "/poll/<path:name>", 24.0))
    metrics.count_request(Over(202, "/push/<path:name>", 0.0002))
    found = shown(metrics)
    assert found["cometd_lite_held_seconds_bucket[20.0][/poll]"] == 0
    assert found["cometd_lite_held_seconds_bucket[25.0][/poll]"] == 1
    assert found["cometd_lite_held_seconds_sum[/poll]"] == 24.0
    assert found["cometd_lite_request_seconds_bucket[0.0001][/push]"] == 0
    assert found["cometd_lite_request_seconds_bucket[0.00025][/push]"] == 1
    assert "cometd_lite_request_seconds_count[/poll]" not in found
    assert "cometd_lite_held_seconds_count[/push]" not in found


def test_the_time_is_taken_of_the_first_request_of_a_kind_and_then_of_some() -> None:
    metrics = Metrics()
    for number in range(3 * TIMED):
        for status in (201, 202):
            metrics.count_request(Over(status, "/push", float(number)))
    tally = metrics.requests["/push"]
    assert tally.statuses == {201: 3 * TIMED, 202: 3 * TIMED}
    assert (sum(tally.counts), tally.total) == (6, 2.0 * (0 + TIMED + 2 * TIMED))


def test_every_route_of_the_interface_has_a_label_and_every_label_a_route() -> None:
    beginnings = {f"/{rule.rule.split('/')[1]}" for rule in Routes.app.url_map.iter_rules()}
    assert set(ROUTES) < beginnings
    assert set(ROUTES) > HELD
    for beginning in beginnings - set(ROUTES):
        assert label_of(beginning) == PAGES
        assert beginning.removeprefix("/") in {"", *pages()}


def test_labels_do_not_grow_with_what_clients_ask_for() -> None:
    metrics = Metrics()
    labels = len(metrics.requests)
    for rule in Routes.app.url_map.iter_rules():
        metrics.count_request(Over(200, rule.rule))
    assert len(metrics.requests) == labels


# -- the process


def test_the_reactors_lag_is_how_late_its_timers_are() -> None:
    clock, metrics = Clock(), Metrics()
    pulse = ReactorMonitor(metrics, clock)
    pulse.start()
    clock.advance(LAG_SECONDS)
    clock.advance(LAG_SECONDS + 0.5)
    pulse.stop()
    assert sum(metrics.reactor_lag.counts) == 2
    assert metrics.reactor_lag.total == pytest.approx(0.5)
    assert shown(metrics)["cometd_lite_reactor_lag_seconds_bucket[0.25]"] == 1
    assert clock.getDelayedCalls() == []


def test_the_collectors_pauses_are_counted_by_generation() -> None:
    metrics = Metrics()
    moments = iter([1.0, 1.25])
    before = gc.callbacks.copy()
    pulse = ReactorMonitor(metrics, Clock(), wall=lambda: next(moments))
    gc.disable()
    try:
        pulse.start()
        gc.collect(0)
        pulse.stop()
        gc.collect(0)
    finally:
        gc.enable()
    assert metrics.collections[0].total == 0.25
    found = shown(metrics)
    assert found["cometd_lite_gc_pause_seconds_count[0]"] == 1
    assert [
        found[f"cometd_lite_gc_pause_seconds_count[{other}]"] for other in range(1, gc_generations())
    ] == [0] * (gc_generations() - 1)
    assert gc.callbacks == before


# -- what asks for them

ROOT = Path(__file__).parents[1]
_NAMED = re.compile(r"\b(?:cometd_lite|process)_\w+")
_CHOSEN = re.compile(r'(kind|status|route|le|outcome)=~?"([^"$]+)"')


@pytest.fixture
def there() -> dict[str, list[dict[str, str]]]:
    """Return the labels of all samples, by name, of a server that has been asked for everything."""
    server = MemoryServer(presence=True)
    metrics = server.comet.metrics
    metrics.connections = metrics.unsent = metrics.received = metrics.waiting_events = lambda: 0
    authorizer = Authorizer(FakeApplication(lambda _: said()), "http://app.example", server.comet.hub.clock)
    server.comet.routes.policy.application = authorizer
    metrics.application, metrics.webhooks = authorizer.counts, WebhookCounts()
    for rule in Routes.app.url_map.iter_rules():
        for status in (200, 499, 500):
            metrics.count_request(Over(status, rule.rule))
    found: dict[str, list[dict[str, str]]] = {}
    text = server.result(server.client.request("GET", "metrics")).body.decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def hold(query: str, there: dict[str, list[dict[str, str]]]) -> None:
    """Assert that a query asks for what there is: names, and labels with the values that it chooses."""
    names = _NAMED.findall(query)
    assert names or query.startswith("up{"), query
    for name in names:
        assert name in there, query
    labels = [label for name in names for label in there[name]]
    for label, values in _CHOSEN.findall(query):
        for value in values.split("|"):
            assert any(one.get(label) == value for one in labels), f"{label}={value} in {query}"
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        for label in set(grouped.split(", ")) - {"instance", "job"}:
            assert any(label in one for one in labels), f"{label} in {query}"


def test_the_dashboard_asks_for_what_there_is(there: dict[str, list[dict[str, str]]]) -> None:
    board = msgspec.json.decode((ROOT / "cometd_lite" / "pages" / "grafana.json").read_bytes())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    for query in queries:
        hold(query, there)
    shown = {name for query in queries for name in _NAMED.findall(query)}
    assert {f"cometd_lite_{name}" for name in ("parked", "memory_bytes", "refusals_total")} < shown
    missing = {name for name in there if name.startswith("cometd_lite_")} - shown
    assert {name for name in missing if not name.endswith(("_count", "_sum", "_bucket"))} == set()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_alerts_in_the_documentation_ask_for_what_there_is(there: dict[str, list[dict[str, str]]]) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    (block,) = re.findall(r"^```yaml\n(groups:.*?)^```$", page, re.DOTALL | re.MULTILINE)
    rules = re.split(r"- alert: ", block)[1:]
    assert len(rules) >= 10
    for rule in rules:
        (query,) = re.findall(r"expr: (?:>-\n)?(.*?)(?=\n {8}\w|\n$|\Z)", rule, re.DOTALL)
        hold(query.strip(), there)
