"""What every test has: no failure is logged unseen, and hypothesis tries the same examples twice."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from redis_server import RedisServer
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

settings.register_profile("fast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# In CI a red test must be red again, with the same example, on anyone's machine.
settings.register_profile("ci", settings.get_profile("fast"), derandomize=True, print_blob=True)
settings.register_profile("long", settings.get_profile("fast"), max_examples=5_000, stateful_step_count=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "fast"))


def pytest_collection_finish() -> None:
    """Leave out of each test's collection what was imported: it takes longer than most tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def expected_failures() -> Iterator[list[type[BaseException]]]:
    """Fail the test where a failure was logged; one that expects some appends their types.

    A Deferred that fails with nobody listening, or a callback that raises, else passes unseen.
    """
    with capturedLogs() as events:
        expected: list[type[BaseException]] = []
        yield expected
        gc.collect()  # the Deferreds that failed unheard say so when they go
        gc.freeze()
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
