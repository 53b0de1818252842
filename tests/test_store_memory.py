"""What only the store in memory does: long work in steps, while pushes and reads go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from helpers import Outcome, data, numbers, push
from twisted.internet.defer import CancelledError, Deferred

from cometd_lite.core.message import OLDEST, Batch, Cursor
from cometd_lite.limits import GOING_AT_ONCE, PATTERN_LOOK, PATTERN_MAILBOXES, Limits
from cometd_lite.stores.memory import MemoryStore

MANY = GOING_AT_ONCE * 3
AFTER = PATTERN_LOOK * 3
CAPACITY = 10_000


class Stepping:
    """A store of which each turn does one step, and the time."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        limits = Limits(capacity=CAPACITY, ttl=1_000, max_memory=10**9)
        self.store = MemoryStore(limits, soon=self.calls.append)
        self.now = 0.0

    def push(self, name: str, count: int = 1, **words: object) -> None:
        self.store.append(push(name, body=["hi"] * count, **words), self.now, 1.7e9)

    def read(self, *names: str, after: Cursor = OLDEST, limit: int = 100) -> Outcome:
        return Outcome(self.store.read(names, after, limit, self.now))

    def at(self, number: int) -> Cursor:
        return Cursor(self.store.epoch, number)

    def turn(self) -> None:
        assert len(self.calls) == 1
        self.calls.pop()()
        self.store.check_invariants()

    def turns(self) -> int:
        count = 0
        while self.calls:
            self.turn()
            count += 1
        return count


@pytest.fixture
def stepping(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stepping]:
    seconds = iter(range(1_000_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))
    made = Stepping()
    yield made
    assert made.turns() == 0
    made.store.check_invariants()


# -- leases


def test_leases_that_end_earlier_and_earlier_leave_few_ends_behind(stepping: Stepping) -> None:
    for number in range(1_100):
        stepping.push("jobs")
        assert stepping.store.lease(("jobs",), 1, 2_000.0 - number, stepping.now)
    stepping.store.check_invariants()
    assert stepping.store.usage().leased == 1_100


# -- what is read


def test_a_reader_that_asks_what_another_one_asked_finds_what_came_in_between(stepping: Stepping) -> None:
    names, there = ("bob",), stepping.at(1)
    stepping.push("bob")
    for ack in (False, True, True):
        assert not stepping.store.read(names, there, 100, stepping.now, ack)
    assert stepping.store.describe("bob", stepping.now).queued == 0
    stepping.push("eve")
    stepping.push("bob")
    found = stepping.store.read(names, there, 100, stepping.now)
    assert isinstance(found, Batch)
    assert numbers(found) == [3]
    stepping.push("bob", 2)
    stepping.store.delete("bob", stepping.now)
    found = stepping.store.read(names, stepping.at(3), 100, stepping.now)
    assert isinstance(found, Batch)
    assert found.gap


# -- what expires


def test_mailboxes_that_expire_at_one_moment_go_in_steps(stepping: Stepping) -> None:
    for number in range(MANY):
        stepping.push(f"box{number}", ttl=10)
    stepping.push("other")
    stepping.now = 10.0
    stepping.store.expire(stepping.now)
    assert stepping.store.usage().mailboxes == MANY + 1 - GOING_AT_ONCE
    assert stepping.turns() == 2
    assert stepping.store.usage().mailboxes == 1
    assert stepping.read("box0", after=stepping.at(0)).value.gap


def test_a_mailbox_that_expires_before_its_turn_expires_in_time_later_too(stepping: Stepping) -> None:
    for number in range(MANY):
        stepping.push(f"box{number}", ttl=10)
    for ttl in (10, 500):
        stepping.push("zoe", ttl=ttl)
    stepping.now = 10.0
    assert numbers(stepping.read("zoe").value) == [MANY + 2]
    stepping.store.check_invariants()
    stepping.turns()
    stepping.now = 500.0
    stepping.store.expire(stepping.now)
    assert stepping.store.usage().mailboxes == 0


def test_a_mailbox_of_which_much_expires_goes_in_steps(stepping: Stepping) -> None:
    stepping.push("bob", MANY, ttl=10)
    stepping.push("bob", ttl=20)
    stepping.now = 10.0
    stepping.store.expire(stepping.now)
    assert stepping.store.usage().messages == MANY + 1 - GOING_AT_ONCE
    assert stepping.turns() > 0
    assert numbers(stepping.read("bob").value) == [MANY + 1]


def test_what_is_pushed_and_read_meanwhile_adds_no_step(stepping: Stepping) -> None:
    # Forty requests on one connection, each with a step of 10 ms, kept all others waiting for 0.4 s.
    for number in range(MANY):
        stepping.push(f"box{number}", ttl=10)
    stepping.now = 10.0
    stepping.push("other")
    assert stepping.store.usage().mailboxes == MANY + 1 - GOING_AT_ONCE
    for _ in range(40):
        assert data(stepping.read("other").value) == ["hi"]
    assert stepping.store.usage().mailboxes == MANY + 1 - GOING_AT_ONCE
    stepping.turns()
    assert stepping.store.usage().mailboxes == 1


def test_mailboxes_with_deep_names_expire_in_smaller_steps(stepping: Stepping) -> None:
    for number in range(MANY):
        stepping.push(f"box{number}" + "/x" * 15, ttl=10)
    stepping.now = 10.0
    stepping.push("other")
    gone = MANY + 1 - stepping.store.usage().mailboxes
    assert GOING_AT_ONCE / 20 < gone < GOING_AT_ONCE / 10
    stepping.turns()
    assert stepping.store.usage().mailboxes == 1


def test_a_push_is_not_refused_for_what_has_expired_and_has_still_to_go(stepping: Stepping) -> None:
    for number in range(MANY):
        stepping.push(f"box{number}", ttl=10)
    stepping.push("full", CAPACITY, ttl=10)
    stepping.now = 10.0
    stepping.push("full", 100)  # it held as many as it may
    stepping.turns()
    assert len(stepping.read("full", limit=1_000).value.messages) == 100


def test_a_push_finds_the_memory_of_what_has_expired(stepping: Stepping) -> None:
    store = MemoryStore(Limits(max_recipients=MANY, ttl=10), soon=stepping.calls.append)
    for number in range(MANY):
        store.append(push(f"box{number}"), 0.0, 0.0)
    store.append(push("new", "other"), 10.0, 0.0)
    assert store.usage().mailboxes == MANY + 2 - GOING_AT_ONCE
    stepping.calls.pop()()
    stepping.calls.clear()


def test_a_push_finds_the_room_that_the_last_step_of_an_expiry_has_made(stepping: Stepping) -> None:
    most = GOING_AT_ONCE * 2
    store = MemoryStore(Limits(max_recipients=most, ttl=10), soon=stepping.calls.append)
    for number in range(most):
        store.append(push(f"box{number}"), 0.0, 0.0)
    names = [f"more{number}" for number in range(GOING_AT_ONCE + 1)]
    store.append(push(*names), 10.0, 0.0)
    assert store.usage().mailboxes == len(names)
    stepping.calls.pop()()


def test_what_has_expired_is_not_read_though_it_has_still_to_go(stepping: Stepping) -> None:
    for number in range(MANY):
        stepping.push(f"box{number}", ttl=10)
    stepping.now = 10.0
    last = f"box{MANY - 1}"
    found = stepping.read(last, after=stepping.at(0)).value
    assert (found.messages, found.gap) == ((), True)
    stepping.turns()


# -- what is deleted


def test_a_large_mailbox_is_deleted_in_steps_without_what_is_pushed_meanwhile(stepping: Stepping) -> None:
    stepping.push("bob", MANY)
    deleted = Outcome(stepping.store.delete("bob", 0.0))
    assert deleted.parked
    stepping.push("bob")
    assert stepping.turns() == 2
    assert deleted.value is None
    left = stepping.read("bob", after=stepping.at(0)).value
    assert (numbers(left), left.gap) == ([MANY + 1], True)


def test_a_mailbox_may_be_deleted_twice_at_once(stepping: Stepping) -> None:
    stepping.push("bob", MANY)
    deleted = [Outcome(stepping.store.delete("bob", 0.0)) for _ in range(2)]
    stepping.turns()
    assert [one.value for one in deleted] == [None, None]
    assert stepping.store.usage().mailboxes == 0


# -- readers of patterns


def covered(stepping: Stepping, mailboxes: int) -> Cursor:
    """Push to mailboxes of a pattern, then much to another one; return where that began."""
    for number in range(mailboxes):
        stepping.push(f"old/{number}")
    stepping.push("noise", AFTER)
    return stepping.at(mailboxes)


def test_a_pattern_of_few_mailboxes_reads_those_and_not_the_log(stepping: Stepping) -> None:
    place = covered(stepping, 3)
    stepping.push("old/1", 2)
    assert numbers(stepping.read("old/*", after=place).value) == [AFTER + 4, AFTER + 5]
    assert numbers(stepping.read("old/*", "old/2").value) == [1, 2, 3, AFTER + 4, AFTER + 5]
    found: Batch = stepping.read("nosuch/**", after=place).value
    assert (found.messages, found.cursor, found.gap) == ((), stepping.at(AFTER + 5), False)


def test_a_pattern_of_many_mailboxes_reads_the_log_in_steps(stepping: Stepping) -> None:
    mailboxes = PATTERN_MAILBOXES + 1
    place = covered(stepping, mailboxes)
    stepping.push("old/0")
    last = mailboxes + AFTER + 1
    found = stepping.read("old/*", after=place)
    assert found.parked
    assert stepping.turns() == 3
    assert (numbers(found.value), found.value.gap, found.value.more) == ([last], False, False)
    few = stepping.read("old/*", after=stepping.at(mailboxes - 1), limit=1)
    stepping.turns()
    assert (numbers(few.value), few.value.more) == ([mailboxes], True)


def test_readers_that_ask_the_same_share_the_steps(stepping: Stepping) -> None:
    place = covered(stepping, PATTERN_MAILBOXES + 1)
    found = [stepping.read("old/*", after=place) for _ in range(3)]
    found[0].cancel()
    assert stepping.turns() == 3
    assert found[1].value is not found[2].value
    assert [one.value.cursor for one in found[1:]] == [stepping.at(stepping.store.sequence)] * 2


def test_a_reader_that_is_answered_may_cancel_others_that_asked_the_same(stepping: Stepping) -> None:
    place = covered(stepping, PATTERN_MAILBOXES + 1)
    first, second, third = [stepping.store.read(("old/*",), place, 100, 0.0, acks=False) for _ in range(3)]
    assert isinstance(first, Deferred)
    assert isinstance(second, Deferred)
    first.addCallback(lambda _: second.cancel())
    outcomes = [Outcome(one) for one in (first, second, third)]
    stepping.turns()
    assert outcomes[0].value is None
    with pytest.raises(CancelledError):
        _ = outcomes[1].value
    assert outcomes[2].value.cursor == stepping.at(stepping.store.sequence)


def test_nothing_is_looked_at_for_readers_that_have_all_disconnected(stepping: Stepping) -> None:
    place = covered(stepping, PATTERN_MAILBOXES + 1)
    found = [stepping.read("old/*", after=place) for _ in range(2)]
    for one in found:
        one.cancel()
    assert stepping.turns() == 1
    again = stepping.read("old/*", after=place)
    assert stepping.turns() == 3
    assert again.value.messages == ()


def test_what_is_pushed_while_a_reader_goes_through_the_log_is_found(stepping: Stepping) -> None:
    found = stepping.read("old/*", after=covered(stepping, PATTERN_MAILBOXES + 1))
    stepping.turn()
    stepping.push("old/7")
    stepping.turns()
    assert numbers(found.value) == [stepping.store.sequence]


def test_what_is_lost_before_a_reader_has_come_to_it_is_a_gap(stepping: Stepping) -> None:
    place = covered(stepping, PATTERN_MAILBOXES + 1)
    stepping.push("old/0", ttl=5)
    found = stepping.read("old/*", after=place)
    stepping.turn()
    stepping.now = 5.0
    stepping.store.expire(stepping.now)
    stepping.turns()
    assert (numbers(found.value), found.value.gap) == ([], True)


def test_the_readers_of_patterns_that_came_back_longest_ago_are_forgotten_first() -> None:
    store = MemoryStore(Limits(capacity=2, max_recipients=2))

    def keep(name: str) -> None:
        store.append(push(name), 0.0, 1.7e9)

    def come_back(pattern: str) -> None:
        store.read((pattern,), Cursor(store.epoch, store.sequence), 100, 0.0)

    for name in ("a/1", "a/1", "b/1", "b/1"):
        keep(name)
    come_back("a/*")
    come_back("b/*")
    store.delete("b/1", 0.0)
    keep("c/1")
    come_back("a/*")
    come_back("c/*")
    keep("a/1")  # the mailbox is full, but what its reader had makes room
    store.check_invariants()
