"""What every test has: no failure is logged unseen, and Hypothesis tries the same examples in CI."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import signal
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from redis_server import RedisServer
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

# Keep the tests as pytest compiles them, where the environment says otherwise too: to compile them is most of
# what a collection takes, and each process collects.
sys.dont_write_bytecode = False

# A shell lets what it starts in the background ignore SIGINT, and so would every program that a test starts:
# .ci/run is such a shell.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# pytest asks for the version of Twisted before each test: the package's metadata would be read 5,000 times.
importlib.metadata.version = cache(importlib.metadata.version)

settings.register_profile(
    "fast", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=30
)
# In CI more examples are tried, the same ones each time: a red test is red again, on any machine.
settings.register_profile(
    "ci", settings.get_profile("fast"), max_examples=100, derandomize=True, print_blob=True
)
settings.register_profile("long", settings.get_profile("fast"), max_examples=5_000, stateful_step_count=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "fast"))

LIVE = {Path(__file__).with_name(name) for name in ("clients", "live", "soak")}
"""Directories of tests that start servers."""


def _only_fast(config: pytest.Config) -> bool:
    return bool(config.getoption("markexpr") == "fast")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return how many processes run the tests: as many as there are cores, one for what waits now and then,
    and one more for the live tests, which wait most of the time.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return None  # xdist reads it, or counts
    return len(os.sched_getaffinity(0)) + (1 if _only_fast(config) else 2)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no live tests where only the fast ones are asked for: each process would."""
    return True if collection_path in LIVE and _only_fast(config) else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while tests are collected, as all stays, and leave what is there out of each test's.

    To walk what was imported would take longer than most tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the live tests and the fast ones. Two processes begin with the live ones, while others work."""
    is_live = cache(lambda path: not LIVE.isdisjoint(path.parents))
    for item in items:
        if is_live(item.path):
            item.add_marker("live")
        elif not (
            item.get_closest_marker("filling")
            or item.get_closest_marker("repeated")
            or item.get_closest_marker("slow")
            or getattr(item.obj, "is_hypothesis_test", False)
        ):
            item.add_marker("fast")
    waiting = [item for item in items if item.get_closest_marker("live")]
    working = [item for item in items if not item.get_closest_marker("live")]
    # xdist gives each process an equal share of the tests, in this order.
    half = len(waiting) // 2
    share = len(items) // getattr(config, "workerinput", {"workercount": 1})["workercount"]
    rest = max(0, share - half)
    items[:] = waiting[:half] + working[:rest] + waiting[half:] + working[rest:]


@pytest.fixture(autouse=True)
def expected_failures(request: pytest.FixtureRequest) -> Iterator[list[type[BaseException]]]:
    """Fail the test where a failure was logged; a test that expects some appends their types.

    A Deferred that fails with no errback, or a callback that raises, else passes unseen.
    """
    with capturedLogs() as events:
        expected: list[type[BaseException]] = []
        yield expected
        request.node.funcargs.clear()  # what the fixtures have made goes now, not after this
        gc.collect()  # a Deferred logs its failure when it is collected
        gc.freeze()  # what is left, the next collections need not walk
    failures = [event["log_failure"] for event in events if "log_failure" in event]
    assert [failure for failure in failures if not failure.check(*expected)] == []


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that keeps nothing; tests share it, and each uses a prefix of its own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server.start()
    server.kill()


@pytest.fixture
def clock() -> Clock:
    """A clock that only tests move; it does not begin at 0, because no clock does."""
    clock = Clock()
    clock.advance(1_000)
    return clock
