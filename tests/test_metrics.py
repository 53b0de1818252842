"""What is counted, and how Prometheus reads it."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cometd_lite.metrics import BUCKETS, Metrics, prometheus


def shown(metrics: Metrics, gauges: dict[str, tuple[str, float]] | None = None) -> dict[str, float]:
    """Return the samples that a scrape finds; labels stand behind the name."""
    text = prometheus(metrics, lambda: gauges or {}).decode()
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
    metrics.observe_push(seconds)
    found = shown(metrics)
    for bound in BUCKETS:
        assert found[f"cometd_lite_push_to_wake_seconds_bucket[{bound}]"] == (bound >= bucket)
    assert found["cometd_lite_push_to_wake_seconds_bucket[+Inf]"] == 1


def test_a_push_slower_than_every_bucket_is_counted_too() -> None:
    metrics = Metrics()
    metrics.observe_push(60.0)
    metrics.observe_push(0.5)
    found = shown(metrics)
    assert found["cometd_lite_push_to_wake_seconds_bucket[1.0]"] == 1
    assert found["cometd_lite_push_to_wake_seconds_bucket[+Inf]"] == 2
    assert found["cometd_lite_push_to_wake_seconds_count"] == 2
    assert found["cometd_lite_push_to_wake_seconds_sum"] == 60.5


def test_buckets_grow() -> None:
    assert list(BUCKETS) == sorted(set(BUCKETS))


def test_every_metric_is_explained() -> None:
    text = prometheus(Metrics(), lambda: {"parked": ("Readers that wait.", 0)}).decode()
    families = list(text_string_to_metric_families(text))
    assert len(families) >= 7
    for family in families:
        assert family.documentation.endswith("."), family.name
        assert family.name.startswith("cometd_lite_")


def test_a_scrape_changes_nothing() -> None:
    metrics = Metrics(pushes=1)
    assert shown(metrics) == shown(metrics)
