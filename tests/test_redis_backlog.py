"""What is written once Redis takes writes again: in steps, and what was refused meanwhile comes later."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from cometd_lite.core.message import Cursor
from cometd_lite.limits import REDIS_WRITTEN_AT_ONCE
from cometd_lite.stores.redis.backlog import Backlog
from cometd_lite.stores.redis.link import RedisLink, WritesRefused


class Link:
    """A link that counts the records of a step, and ends the step when the test says so."""

    epoch = "e"

    def __init__(self) -> None:
        self.written = 0
        self.steps: list[int] = []
        self.waiting: list[Deferred[None]] = []

    def write(self) -> None:
        self.written += 1

    def flush(self) -> Deferred[None]:
        self.steps.append(self.written)
        self.written = 0
        self.waiting.append(Deferred())
        return self.waiting[-1]


@pytest.fixture
def link() -> Link:
    return Link()


def backlog(link: Link, records: int) -> Backlog:
    made = Backlog(cast(RedisLink, link))
    for number in range(records):
        made.put_record("kind", str(number), None, link.write)
    return made


def test_records_are_written_so_many_in_a_turn(link: Link) -> None:
    waiting = backlog(link, REDIS_WRITTEN_AT_ONCE * 2 + 1)
    waiting.write()
    assert link.steps == [REDIS_WRITTEN_AT_ONCE]
    while link.waiting:
        link.waiting.pop().callback(None)
    assert link.steps == [REDIS_WRITTEN_AT_ONCE, REDIS_WRITTEN_AT_ONCE, 1]
    assert waiting.record("kind", "0") is None
    waiting.check_invariants()


def test_what_is_left_of_them_waits_where_redis_refuses_writes_again(link: Link) -> None:
    waiting = backlog(link, REDIS_WRITTEN_AT_ONCE + 1)
    waiting.write()
    waiting.acknowledge(("bob",), Cursor("e", 7))
    link.waiting.pop().errback(WritesRefused())
    assert waiting.record("kind", "0") is None
    assert waiting.record("kind", str(REDIS_WRITTEN_AT_ONCE)) == (None,)
    waiting.check_invariants()
    asked: list[Any] = []
    link.run = lambda *words: asked.append(words) or Deferred()  # type: ignore[attr-defined]
    waiting.write()
    assert asked == [(0.0, "acknowledge", ["bob"], 7)]
