"""Who is present: the table of one process, its bounds, and what is told of its changes."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import Any

import pytest
from helpers import SlowStore, now
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from resident import measure, needs_proc
from twisted.internet.task import Clock

from cometd_lite.core.announcers import LocalAnnouncer
from cometd_lite.core.hub import Hub
from cometd_lite.core.message import Batch, Cursor
from cometd_lite.core.observers import observe
from cometd_lite.core.presence import PresenceTracker
from cometd_lite.core.present import PresenceChange
from cometd_lite.core.registry import Registry
from cometd_lite.errors import StoreDown
from cometd_lite.limits import (
    ONLINE_SECONDS,
    PRESENCE_COUNT_SECONDS,
    PRESENCE_FAREWELL_SECONDS,
    PRESENCE_MEMBER_OVERHEAD,
    PRESENCE_PLACE_OVERHEAD,
    PRESENCE_PUSHES,
    PRESENCE_READER_OVERHEAD,
    Limits,
)
from cometd_lite.sizes import text_size
from cometd_lite.stores.memory import MemoryStore

OLDEST = Cursor.parse("oldest")
NOW = Cursor.parse("now")


class House:
    """A hub with presence on a clock."""

    def __init__(self, store: Any = None, **words: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1_000)
        self.limits = Limits()
        self.changes: list[PresenceChange] = []
        self.hub = Hub(
            store or MemoryStore(self.limits),
            Registry(self.clock, self.limits.max_parked),
            self.clock,
            wall=lambda: 1.7e9 + self.clock.seconds(),
        )
        self.tracker = PresenceTracker(self.hub, LocalAnnouncer, **words)
        self.tracker.announcer.on_change = self.changes.append
        observe(self.hub, presence=self.tracker)

    def park(self, *recipients: str, name: str | None = None) -> Any:
        poll = self.hub.poll(recipients, NOW, 100_000, name=name)
        poll.addErrback(lambda failure: None)
        return poll

    def readers(self, recipient: str, name: str | None) -> int:
        return self.tracker.count(recipient, name)

    def present(self, recipient: str) -> dict[str, int]:
        return {one.name: one.readers for one in self.tracker.describe(recipient).members}

    def told(self, recipient: str) -> list[tuple[str | None, Any]]:
        found: Batch = now(self.hub.poll((f"$presence/{recipient}",), OLDEST, 0, 1_000))
        return [(message.event, message.data) for message in found.messages]

    def stop(self) -> None:
        self.tracker.check_invariants()
        self.hub.stop()
        self.tracker.stop()
        assert self.clock.getDelayedCalls() == []


# -- the bound


def room_for(*names: str, recipient: str = "lobby") -> int:
    """Return the bytes that these names take at one recipient, with a reader each."""
    each = PRESENCE_MEMBER_OVERHEAD + PRESENCE_READER_OVERHEAD
    size = PRESENCE_PLACE_OVERHEAD + text_size(recipient)
    return size + sum([each + text_size(name) for name in names])


def test_a_full_table_serves_new_readers_and_does_not_count_them() -> None:
    house = House(most=room_for("alice", "bob"))
    house.park("lobby", name="alice")
    house.park("lobby", name="bob")
    eve = house.park("lobby", name="eve")
    assert house.present("lobby") == {"alice": 1, "bob": 1}
    assert (house.tracker.uncounted, house.hub.registry.parked) == (1, 3)
    house.tracker.check_invariants()
    eve.cancel()
    assert house.present("lobby") == {"alice": 1, "bob": 1}
    house.stop()


def test_a_reader_that_was_not_counted_takes_none_of_its_name_away() -> None:
    house = House(most=room_for("alice", "bob"))
    alice = house.park("lobby", name="alice")
    house.park("lobby", name="bob")
    uncounted = house.park("lobby", name="eve")
    alice.cancel()
    house.park("lobby", name="eve")  # there is room for it now: alice has left
    assert house.present("lobby") == {"bob": 1, "eve": 1}
    uncounted.cancel()
    assert house.present("lobby") == {"bob": 1, "eve": 1}
    assert house.tracker.count("lobby", "eve") == 1
    house.stop()


def test_names_whose_readers_have_left_make_room_those_that_left_first_before_others() -> None:
    house = House(most=room_for("alice", "bob", "eve"))
    for name in ("alice", "bob"):
        house.park("lobby", name=name).cancel()
        house.clock.advance(2)
    house.park("lobby", name="eve")
    house.park("lobby", name="zoe")
    assert house.present("lobby") == {"bob": 1, "eve": 1, "zoe": 1}
    house.clock.advance(0)
    assert [(change.event, change.name) for change in house.changes][-2:] == [
        ("leave", "alice"),
        ("join", "zoe"),
    ]
    house.stop()


def test_a_place_that_makes_room_for_itself_is_made_again() -> None:
    house = House(most=room_for("alice"))
    house.park("lobby", name="alice").cancel()
    house.park("lobby", name="carol")
    assert house.present("lobby") == {"carol": 1}
    house.stop()


def test_a_listener_of_many_names_is_counted_where_there_is_room() -> None:
    house = House(most=room_for("alice", recipient="a"))
    poll = house.park("a", "b", name="alice")
    assert (house.present("a"), house.present("b")) == ({"alice": 1}, {})
    poll.cancel()
    house.clock.advance(ONLINE_SECONDS + 1)
    assert (house.present("a"), house.tracker.bytes) == ({}, 0)
    house.stop()


MEASURE = """
import json, sys
from twisted.internet.task import Clock
from cometd_lite.core.hub import Hub
from cometd_lite.core.parked import ParkedReader
from cometd_lite.core.presence import PresenceTracker
from cometd_lite.core.present import PresenceChange
from cometd_lite.core.registry import Registry
from cometd_lite.limits import Limits
from cometd_lite.stores.memory import MemoryStore
from resident import fill, resident

places, members, readers = map(int, sys.argv[1:])

class Silent:
    def __init__(self, tracker): pass
    def changed(self, recipient, name, before): pass

clock = Clock()
tracker = PresenceTracker(Hub(MemoryStore(Limits()), Registry(clock, 10), clock), Silent, most=10**12)

def fresh(text):
    return text.encode().decode()

filled, before = fill(), resident()
for place in range(places):
    recipient = f"recipient{place:08}"
    for member in range(members):
        group = []
        for _ in range(readers):
            reader = ParkedReader((fresh(recipient),))
            reader.name = fresh(f"member{member:08}")
            tracker.arrived(reader)
            group.append(reader)
        clock.rightNow += 0.0001
        for reader in group:
            clock.rightNow += 0.000001
            tracker.departed(reader)
        del reader, group
print(json.dumps([resident() - before, tracker.bytes]))
"""


@pytest.mark.filling
@needs_proc
@pytest.mark.parametrize(("places", "members", "readers"), [(8_000, 1, 1), (10, 1_000, 1), (20, 20, 300)])
def test_what_the_table_takes_is_what_is_counted(places: int, members: int, readers: int) -> None:
    taken, counted = measure(MEASURE, places, members, readers)
    assert 0.6 * counted < taken < 1.25 * counted


# -- what is told


def test_presence_is_kept_of_those_recipients_for_which_it_is_on() -> None:
    house = House(is_on=lambda name: name.startswith("chat/"))
    house.park("chat/a", "other", "chat/*", name="alice")
    assert (house.present("chat/a"), house.present("other")) == ({"alice": 1}, {})
    assert (house.tracker.readers("chat/a"), house.tracker.readers("chat/b")) == (2, 1)
    assert (house.tracker.is_kept("chat/a"), house.tracker.is_kept("other")) == (True, False)
    house.stop()


def test_a_program_is_called_with_each_join_and_leave() -> None:
    house = House()
    house.park("lobby", name="alice").cancel()
    house.park("lobby")
    house.clock.advance(0)
    house.clock.advance(ONLINE_SECONDS + 1)
    at = 1.7e9 + 1_000
    assert house.changes == [
        PresenceChange("join", "lobby", "alice", 2, at),
        PresenceChange("leave", "lobby", "alice", 1, at + ONLINE_SECONDS + 1),
    ]
    house.stop()


@pytest.fixture
def without_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a turn take as long as it takes: a busy machine would end it before the bound that is tried."""
    monkeypatch.setattr("cometd_lite.core.announcers.SLICE_SECONDS", 60)


@pytest.mark.usefixtures("without_hurry")
def test_a_store_that_waits_is_given_a_bounded_number_of_messages_and_then_the_others() -> None:
    limits = Limits()
    store = SlowStore(MemoryStore(limits))
    house = House(store)
    house.tracker.check_invariants()
    for number in range(PRESENCE_PUSHES + 50):
        house.park(f"room{number}", name="alice")
    store.settle()
    house.clock.advance(0)
    assert len([asked for asked in store.asked if asked.verb == "append"]) == PRESENCE_PUSHES
    store.settle()
    house.clock.advance(0)
    assert len([asked for asked in store.asked if asked.verb == "append"]) == 50
    store.settle()
    assert house.hub.counts.presence_joins == PRESENCE_PUSHES + 50
    house.stop()


@pytest.mark.usefixtures("without_hurry")
def test_a_store_that_waits_is_given_a_bounded_number_of_counts_and_the_others_a_second_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cometd_lite.core.announcers.PRESENCE_MEMBERS", 0)
    store = SlowStore(MemoryStore(Limits()))
    house = House(store)
    for number in range(PRESENCE_PUSHES + 50):
        house.park(f"room{number}", name="alice")
    store.settle()
    house.clock.advance(0)
    for count in (PRESENCE_PUSHES, 50, 0):
        house.clock.advance(PRESENCE_COUNT_SECONDS)
        assert len([asked for asked in store.asked if asked.verb == "append"]) == count
        store.settle()
    house.stop()


def test_what_a_store_refuses_is_counted_and_harms_no_client() -> None:
    limits = Limits()
    store = SlowStore(MemoryStore(limits))
    house = House(store)
    house.park("lobby", name="alice")
    store.settle()
    house.clock.advance(0)
    store.next("append").fail(StoreDown())
    assert house.hub.counts.presence_untold == 1
    house.hub.stopping = True
    house.park("lobby", name="bob")
    store.settle()
    house.clock.advance(0)
    assert house.hub.counts.presence_untold == 2
    assert house.present("lobby").keys() == {"alice", "bob"}
    house.stop()


def test_a_page_that_asks_beside_the_connection_that_it_shares_is_no_further_reader() -> None:
    house = House()
    house.park("lobby", name="alice")
    house.hub.poll(("lobby",), NOW, 0, name="alice")
    assert house.present("lobby") == {"alice": 1}
    second = house.park("lobby", name="alice")
    second.cancel()
    house.clock.advance(ONLINE_SECONDS - 1)
    house.hub.poll(("lobby",), NOW, 0, name="alice")
    house.clock.advance(2)
    assert house.present("lobby") == {"alice": 2}, "the other device was answered a moment ago"
    house.stop()


# -- a model


class PresenceMachine(RuleBasedStateMachine):
    """Readers come, are answered and leave in any order; a model says who is present, and what was told."""

    RECIPIENTS = ("a", "b", "chat/*", "chat/x")
    NAMES = ("alice", "bob", None)

    def __init__(self) -> None:
        super().__init__()
        self.house = House()
        self.parked: list[tuple[tuple[str, ...], str | None, Any]] = []
        self.slots: dict[tuple[str, str | None], tuple[int, list[float]]] = {}
        """Of each name: its readers that are held, and when the others end."""
        self.farewells: dict[tuple[str, str | None], float] = {}

    keys = st.lists(st.sampled_from(RECIPIENTS), min_size=1, max_size=3, unique=True).map(tuple)

    def seconds(self) -> float:
        return self.house.clock.seconds()

    def comes(self, keys: tuple[str, ...], name: str | None) -> None:
        for key in keys:
            held, ends = self.slots.get((key, name), (0, []))
            self.slots[key, name] = (held + 1, ends[:-1])

    def goes(self, keys: tuple[str, ...], name: str | None) -> None:
        for key in keys:
            held, ends = self.slots[key, name]
            farewell = self.farewells.pop((key, name), 0.0)
            if self.seconds() >= farewell:
                ends = [*ends, self.seconds() + ONLINE_SECONDS]
            self.slots[key, name] = (held - 1, ends)

    @rule(keys=keys, name=st.sampled_from(NAMES))
    def park(self, keys: tuple[str, ...], name: str | None) -> None:
        self.parked.append((keys, name, self.house.park(*keys, name=name)))
        self.comes(keys, name)

    @rule(keys=keys, name=st.sampled_from(NAMES))
    def visit(self, keys: tuple[str, ...], name: str | None) -> None:
        self.house.hub.poll(keys, NOW, 0, name=name)
        slots = [self.slots.get((key, name), (0, [])) for key in keys]
        if name is not None and all(held and not ends for held, ends in slots):
            return  # who reads under this name asks for something besides
        self.comes(keys, name)
        self.goes(keys, name)

    @precondition(lambda self: self.parked)
    @rule(at=st.integers(0, 100))
    def cancel(self, at: int) -> None:
        keys, name, poll = self.parked.pop(at % len(self.parked))
        poll.cancel()
        self.goes(keys, name)

    @rule(recipient=st.sampled_from(RECIPIENTS), name=st.sampled_from(NAMES[:2]))
    def leave(self, recipient: str, name: str) -> None:
        self.house.tracker.leave(recipient, name)
        held, ends = self.slots.get((recipient, name), (0, []))
        self.slots[recipient, name] = (held, [])
        moment = self.seconds() + ONLINE_SECONDS - PRESENCE_FAREWELL_SECONDS
        if held and not any(end > moment for end in ends):
            self.farewells[recipient, name] = self.seconds() + PRESENCE_FAREWELL_SECONDS

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, PRESENCE_FAREWELL_SECONDS, 20.0, ONLINE_SECONDS]))
    def wait(self, seconds: float) -> None:
        until = self.seconds() + seconds
        while self.seconds() < until:
            self.house.clock.advance(min(until, int(self.seconds()) + 1) - self.seconds())
        # The table is looked through every second.
        for key, (held, ends) in self.slots.items():
            self.slots[key] = (held, [end for end in ends if ceil(end) > self.seconds()])

    @invariant()
    def who_is_present_is_what_the_model_says(self) -> None:
        for recipient in self.RECIPIENTS:
            for name in self.NAMES:
                held, ends = self.slots.get((recipient, name), (0, []))
                assert self.house.readers(recipient, name) == held + len(ends)
        self.house.tracker.check_invariants()

    @invariant()
    def each_join_is_followed_by_one_leave(self) -> None:
        told: dict[tuple[str, str], str] = {}
        for change in self.house.changes:
            last = told.get((change.recipient, change.name), "leave")
            assert change.event != last
            told[change.recipient, change.name] = change.event
        assert not any(recipient.endswith("*") for recipient, _ in told)

    def teardown(self) -> None:
        self.house.clock.advance(0)
        told = Counter({(one.recipient, one.name): one.event == "join" for one in self.house.changes})
        for recipient in ("a", "b", "chat/x"):
            assert {name for (at, name), joined in told.items() if at == recipient and joined} == set(
                self.house.present(recipient)
            )
        self.house.stop()


TestPresenceMachine = PresenceMachine.TestCase
TestPresenceMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
