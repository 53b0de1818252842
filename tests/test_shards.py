"""The two designs of several Redis in docs/scale.md: nothing is lost or doubled, and order is as they say.

That of a number for each shard is the prototype, ``bench/shards.py``, on stores in memory. That of one order
is a model: shards whose clocks differ, and a reader whose looks at them lie between pushes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

sys.path.insert(0, str(Path(__file__).parent / "bench"))

from shards import Places, Shards

from cometd_lite.core.message import Content, Cursor, Push
from cometd_lite.limits import Limits
from cometd_lite.stores.memory import MemoryStore

NAMES = ("a", "b", "room/1", "room/2", "room/3", "x", "y", "z")
PUSHES = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True), max_size=30)


def ended(coroutine):
    """Return what a coroutine returns that waits for nothing."""
    results = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


def spread(count: int) -> Shards:
    return Shards([MemoryStore(Limits()) for _ in range(count)])


@given(
    count=st.integers(1, 4),
    pushes=PUSHES,
    names=st.lists(st.sampled_from([*NAMES, "room/*", "**"]), min_size=1, max_size=4, unique=True),
    limit=st.integers(1, 10),
    read_after=st.integers(1, 5),
)
def test_a_reader_of_several_shards_is_given_each_message_once_and_those_of_a_recipient_in_order(
    count, pushes, names, limit, read_after
):
    shards, places = spread(count), Places()
    found: dict[str, list[int]] = {}

    def read_all() -> None:
        nonlocal places
        more = True
        while more:
            messages, places, more = ended(shards.read(names, Places.parse(str(places)), limit, 0.0))
            for message in messages:
                found.setdefault(message.recipient, []).append(int(message.content.body))

    for number, recipients in enumerate(pushes):
        ended(shards.append(Push(tuple(recipients), (Content.of(str(number)),)), 0.0))
        if number % read_after == 0:
            read_all()
    read_all()
    is_read = {
        name
        for name in NAMES
        if name in names or "**" in names or ("room/*" in names and name.startswith("room/"))
    }
    wanted = {
        name: [number for number, recipients in enumerate(pushes) if name in recipients] for name in is_read
    }
    assert found == {name: numbers for name, numbers in wanted.items() if numbers}


def test_places_are_a_text_for_a_request_and_back():
    places = Places({0: Cursor("abcdefghij", 7), 3: Cursor("oldest", 0)})
    assert str(places) == "0:abcdefghij-7.3:oldest"
    assert Places.parse(str(places)) == places
    assert Places.parse("") == Places()
    with pytest.raises(ValueError, match="is not a cursor"):
        Places.parse("0:abcdefghij")


def test_recipients_are_spread_evenly():
    shards = spread(4)
    counts = [0] * 4
    for number in range(10_000):
        counts[shards.shard_of(f"user/{number}")] += 1
    assert max(counts) < 1.1 * 10_000 / 4


# One order, by hybrid logical clocks.


class ClockedShard:
    """A shard that gives numbers by its clock, each larger than all that it gave or was sent.

    ``place`` is the rest of each of its numbers, modulo the number of shards.
    """

    def __init__(self, place: int, shards: int) -> None:
        self.place, self.shards = place, shards
        self.time = self.last = 0
        self.messages: list[tuple[int, int]] = []

    def append(self, body: int) -> int:
        ticks = max(self.time, self.last // self.shards + 1)
        self.last = ticks * self.shards + self.place
        self.messages.append((self.last, body))
        return self.last

    def read(self, after: int, newest: int) -> tuple[list[tuple[int, int]], int]:
        """Return what lies after a number, and the number below which nothing can come any more."""
        self.last = max(self.last, newest)
        return [message for message in self.messages if message[0] > after], self.last


class ClockedReader:
    """Reads all shards, one after the other, by one cursor."""

    def __init__(self, shards: list[ClockedShard]) -> None:
        self.shards = shards
        self.cursor = 0
        self.found: list[tuple[int, int]] = []
        self.answers: list[tuple[list[tuple[int, int]], int]] = []

    def look(self, newest: int) -> None:
        """Read the next shard; when all are read, take what is complete."""
        self.answers.append(self.shards[len(self.answers)].read(self.cursor, newest))
        if len(self.answers) == len(self.shards):
            least = min(last for _, last in self.answers)
            complete = [
                message for messages, _ in self.answers for message in messages if message[0] <= least
            ]
            self.found += sorted(complete)
            self.cursor = max(self.cursor, least)
            self.answers.clear()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 2)),
        st.tuples(st.just("tick"), st.integers(0, 2)),
        st.tuples(st.just("look"), st.booleans()),
    ),
    max_size=60,
)


@given(count=st.integers(1, 3), steps=STEPS)
def test_numbers_of_hybrid_clocks_are_one_order_in_which_a_cursor_loses_nothing(count, steps):
    shards = [ClockedShard(place, count) for place in range(count)]
    reader = ClockedReader(shards)
    pushed: list[tuple[int, int]] = []
    for number, (step, what) in enumerate(steps):
        if step == "push":
            pushed.append((shards[what % count].append(number), number))
        elif step == "tick":
            shards[what % count].time += 5
        else:  # the process of the reader may have heard of the newest message, or not yet
            reader.look(pushed[-1][0] if what and pushed else 0)
    newest = max((number for number, _ in pushed), default=0)
    for _ in range(2 * count):  # what is under way ends, and one more look
        reader.look(newest)
    assert reader.found == sorted(pushed)


def test_a_reader_gets_the_newest_message_at_once_though_another_clock_is_behind():
    ahead, behind = shards = [ClockedShard(place, 2) for place in range(2)]
    ahead.time = 1_000_000
    number = ahead.append(1)
    reader = ClockedReader(shards)
    for _ in shards:
        reader.look(number)
    assert reader.found == [(number, 1)]
    assert behind.append(2) > number
