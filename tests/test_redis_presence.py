"""What one process reports of presence to Redis, and what becomes of a report that Redis does not take."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cometd_lite.core.counts import Counts
from cometd_lite.errors import StoreDown
from cometd_lite.stores.redis.presence import RedisAnnouncer


class FakeLink:
    """A connection to Redis: each run of the script waits in ``runs`` for a test to answer it."""

    is_up = True

    def __init__(self) -> None:
        self.runs: list[tuple[tuple[Any, ...], Deferred[list[Any]]]] = []

    def run(self, now: float, *words: Any) -> Deferred[list[Any]]:
        answer: Deferred[list[Any]] = Deferred()
        self.runs.append((words, answer))
        return answer


class FakeWakes:
    process = "here"


class FakeReaders:
    """The readers of one process: alice reads the lobby."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.counts = Counts()

    def wall(self) -> float:
        return self.clock.seconds()

    def names(self) -> list[tuple[str, str | None]]:
        return []

    def count(self, recipient: str, name: str | None) -> int:
        return 1


class Reporting:
    """An announcer that has connected, and reported that there are no readers."""

    def __init__(self) -> None:
        self.link, self.readers = FakeLink(), FakeReaders()
        self.announcer = RedisAnnouncer(self.link, FakeWakes(), self.readers)  # type: ignore[arg-type]  # parts of each
        self.announcer.entered()
        self.pass_by(0)
        self.answer()

    def pass_by(self, seconds: float) -> None:
        self.readers.clock.advance(seconds)

    def answer(self) -> None:
        self.link.runs.pop(0)[1].callback([1, 0, 0])

    @property
    def timers(self) -> int:
        return len(self.readers.clock.getDelayedCalls())


@pytest.fixture
def reporting() -> Reporting:
    return Reporting()


def test_a_name_that_said_that_it_leaves_is_reported_so_though_redis_refuses_and_it_comes_back(
    reporting: Reporting,
) -> None:
    reporting.announcer.left("lobby", "alice")
    reporting.pass_by(1)
    words, answer = reporting.link.runs.pop()
    assert "dismissed 0" in words
    reporting.announcer.changed("lobby", "alice", 0)
    answer.errback(StoreDown())
    reporting.pass_by(1)
    assert "dismissed 0" in reporting.link.runs.pop()[0]


@pytest.mark.parametrize("is_reported", [True, False])
def test_a_name_that_said_that_it_leaves_is_reported_so_over_the_next_connection(
    reporting: Reporting, is_reported: bool
) -> None:
    reporting.announcer.left("lobby", "alice")
    reporting.announcer.changed("lobby", "bob", 0)
    if is_reported:
        reporting.pass_by(1)
        reporting.link.runs.pop()[1].errback(StoreDown())
    reporting.announcer.entered()
    reporting.pass_by(0)
    reporting.answer()  # all that are there
    reporting.pass_by(1)
    (words, _) = reporting.link.runs.pop()
    assert words[-3:] == ('lobby\n"alice"', "dismissed 0", 1)
    assert not any("bob" in str(word) for word in words)


def test_a_description_reports_before_and_leaves_one_timer(reporting: Reporting) -> None:
    reporting.announcer.changed("lobby", "alice", 0)
    reporting.announcer.describe("lobby").addErrback(lambda _: None)
    assert [words[0] for words, _ in reporting.link.runs] == ["attend", "present"]
    assert reporting.timers == 0
    reporting.answer()
    assert reporting.timers == 1
    reporting.announcer.changed("lobby", "alice", 1)
    reporting.announcer.stop()
    reporting.announcer.describe("lobby").addErrback(lambda _: None)
    assert reporting.timers == 0
