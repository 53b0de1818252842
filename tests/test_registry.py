from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest
from helpers import Outcome, TurningClock
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from cometd_lite.core import registry as registry_module
from cometd_lite.core.parked import ParkedReader, Wake
from cometd_lite.core.registry import Registry
from cometd_lite.deferreds import chain
from cometd_lite.errors import ListenerGone, ServerFull
from cometd_lite.limits import ONLINE_SECONDS, PRESENCE_SECONDS, WAIT_SPREAD, WOKEN_AT_ONCE


class Reader(ParkedReader[str]):
    """A reader that answers with what it is given to find."""

    def __init__(self, *keys: str, finds: str | None = "mail") -> None:
        super().__init__(keys)
        self.finds = finds
        self.looked = 0
        self.on_look: Callable[[], object] = lambda: None

    def look(self, wake: Wake) -> None:
        self.looked += 1
        self.on_look()
        if self.finds is not None:
            self.answer(self.finds)

    def end(self) -> None:
        self.answer("over")


@pytest.fixture
def registry(clock: Clock) -> Registry:
    return Registry(clock, 100, Random(1))


def park(registry: Registry, reader: Reader, wait: float | None = 25.0) -> Outcome:
    return Outcome(registry.park(reader, wait))


def timers(registry: Registry) -> int:
    clock = registry.clock
    assert isinstance(clock, Clock)
    return len(clock.getDelayedCalls())


def assert_empty(registry: Registry) -> None:
    registry.check_invariants()
    assert registry.parked == 0
    assert timers(registry) == 0


def test_a_reader_that_moves_is_woken_at_the_new_keys_only_and_waits_no_longer(
    registry: Registry, clock: Clock
) -> None:
    reader = Reader("bob")
    outcome = park(registry, reader)
    clock.advance(5.0)
    registry.move(reader, ("eve", "chat/**"))
    assert registry.parked == 1
    assert registry.wake(("bob",)) == 0
    assert (registry.waiting("bob"), registry.waiting("eve"), registry.waiting("chat/a")) == (0, 1, 1)
    clock.advance(15.0)
    assert outcome.parked
    clock.advance(5.0)
    assert outcome.value == "over"
    assert_empty(registry)


def test_a_reader_that_waits_for_good_and_moves_still_does(registry: Registry, clock: Clock) -> None:
    reader = Reader("bob")
    outcome = park(registry, reader, None)
    registry.move(reader, ("eve",))
    clock.advance(1e6)
    assert outcome.parked
    assert registry.wake(("eve",)) == 1
    assert outcome.value == "mail"


# -- waking


def test_a_reader_of_a_recipient_is_woken_and_removed(registry: Registry) -> None:
    bob, eve = park(registry, Reader("bob")), park(registry, Reader("eve"))
    assert registry.parked == 2
    assert registry.wake(("bob",)) == 1
    assert bob.value == "mail"
    assert eve.parked
    assert registry.wake(("bob",)) == 0
    assert registry.wake(("eve",)) == 1
    assert_empty(registry)


def test_readers_are_woken_in_the_order_in_which_they_came(registry: Registry) -> None:
    order: list[int] = []
    for number in range(5):
        registry.park(Reader("bob"), 25.0).addCallback(lambda _, number=number: order.append(number))
    assert registry.wake(("bob",)) == 5
    assert order == [0, 1, 2, 3, 4]


def test_a_reader_of_several_recipients_is_woken_once_by_any_of_them(registry: Registry) -> None:
    reader = park(registry, Reader("a", "b", "c"))
    assert registry.waiting("b") == 1
    assert registry.wake(("b",)) == 1
    assert reader.value == "mail"
    assert registry.wake(("a",)) == registry.wake(("c",)) == 0
    assert_empty(registry)


def test_readers_of_patterns_are_woken_by_every_recipient_that_these_cover(registry: Registry) -> None:
    one = park(registry, Reader("chat/*"))
    deep = park(registry, Reader("chat/**"))
    everything = park(registry, Reader("**"))
    other = park(registry, Reader("news/*"))
    assert registry.wake(("chat/a/b",)) == 2
    assert (one.parked, deep.parked, everything.parked, other.parked) == (True, False, False, True)
    assert registry.wake(("chat/a",)) == 1
    assert registry.wake(("news/x",)) == 1
    assert_empty(registry)


def test_who_is_called_like_a_pattern_hides_none(registry: Registry) -> None:
    star = park(registry, Reader("a*"))
    pattern = park(registry, Reader("chat/*", "chat/*"))
    assert registry.wake(("a*",)) == 1
    assert not star.parked
    assert registry.wake(("chat/a",)) == 1
    assert not pattern.parked
    again = park(registry, Reader("**"))
    assert registry.waiting("bob") == 1
    assert registry.wake(("bob",)) == 1
    assert not again.parked
    assert_empty(registry)


def test_a_reader_that_finds_nothing_stays_parked(registry: Registry, clock: Clock) -> None:
    reader = Reader("bob", finds=None)
    outcome = park(registry, reader)
    assert registry.wake(("bob",)) == 1
    assert reader.looked == 1
    assert outcome.parked
    clock.advance(25)
    assert outcome.value == "over"
    assert_empty(registry)


def test_a_reader_that_comes_back_while_others_are_woken_is_not_woken_again(registry: Registry) -> None:
    # slact/nchan#367 (row 3): swap, then fire: whoever parks in a callback waits for the next push.
    again: list[Outcome] = []
    registry.park(Reader("bob"), 25.0).addCallback(lambda _: again.append(park(registry, Reader("bob"))))
    assert registry.wake(("bob",)) == 1
    assert again[0].parked
    assert registry.wake(("bob",)) == 1
    assert_empty(registry)


def test_a_reader_that_leaves_while_others_are_woken_is_not_answered(registry: Registry) -> None:
    first, second = Reader("bob"), Reader("bob")
    one, two = park(registry, first), park(registry, second)
    first.on_look = two.cancel
    assert registry.wake(("bob",)) == 2
    assert one.value == "mail"
    assert second.looked == 0
    with pytest.raises(CancelledError):
        _ = two.value
    assert_empty(registry)


def test_a_wake_counts_readers_that_can_receive_and_takes_up_to_the_messages(registry: Registry) -> None:
    class Take(Reader):
        takes = 1

    class Congested(Reader):
        def can_receive(self) -> bool:
            return False

    for reader in (Reader("bob"), Take("bob"), Take("bob"), Take("bob"), Congested("bob")):
        park(registry, reader)
    assert registry.wake(("bob",), messages=2) == 3


def test_a_wake_of_many_readers_goes_in_slices() -> None:
    clock = TurningClock()
    registry = Registry(clock, 10_000, Random(1))
    readers = [park(registry, Reader("bob")) for _ in range(3 * WOKEN_AT_ONCE)]
    ended = Outcome(chain(registry.wakes_ended(), lambda _: "ended"))
    assert ended.value == "ended"
    assert registry.wake(("bob",)) == 3 * WOKEN_AT_ONCE
    ended = Outcome(registry.wakes_ended())
    for turn in (1, 2, 3):
        assert sum(not reader.parked for reader in readers) == turn * WOKEN_AT_ONCE
        assert ended.parked == (turn < 3)
        clock.turn()
    registry.check_invariants()
    assert_empty(registry)


def test_a_reader_that_is_to_look_soon_has_been_woken_until_it_has(registry: Registry, clock: Clock) -> None:
    reader = Reader("bob")
    outcome = park(registry, reader)
    registry.look_soon(reader)
    ended = Outcome(registry.wakes_ended())
    registry.check_invariants()
    assert (outcome.parked, ended.parked) == (True, True)
    clock.advance(0)
    assert (outcome.parked, ended.parked) == (False, False)
    assert_empty(registry)


def busy() -> None:
    """Take 2 ms of the processor."""
    until = time.thread_time() + 0.002
    while time.thread_time() < until:
        pass


def test_few_readers_look_in_one_turn_where_each_takes_long() -> None:
    clock = TurningClock()
    registry = Registry(clock, 1_000, Random(1))
    readers = [Reader("bob") for _ in range(50)]
    outcomes = [park(registry, reader) for reader in readers]
    for reader in readers:
        reader.on_look = busy
    assert registry.wake(("bob",)) == 50
    assert sum([reader.looked for reader in readers]) == 8  # for so many, the clock is not asked
    turns = 0
    while any(outcome.parked for outcome in outcomes):
        looked = sum([reader.looked for reader in readers])
        clock.turn()
        assert 0 < sum([reader.looked for reader in readers]) - looked <= 8
        turns += 1
    assert turns == 6
    assert_empty(registry)


def test_readers_that_have_always_more_leave_turns_to_others() -> None:
    clock = TurningClock()
    registry = Registry(clock, 1_000, Random(1))
    readers = [Reader("stream", finds=None) for _ in range(20)]
    for reader in readers:
        park(registry, reader)

    def more(reader: Reader) -> None:
        busy()
        registry.look_soon(reader)

    for reader in readers:
        reader.on_look = partial(more, reader)
    registry.wake(("stream",))
    for turn in range(1, 5):
        clock.turn()
        assert sum([reader.looked for reader in readers]) <= 16 * (turn + 1)
    looked = sum([reader.looked for reader in readers])
    bob = park(registry, Reader("bob"))
    registry.wake(("bob",))
    assert bob.value == "mail"
    assert sum([reader.looked for reader in readers]) == looked
    registry.end_all()
    clock.turn()
    assert_empty(registry)


def test_a_small_wake_goes_before_the_later_slices_of_a_large_one(registry: Registry, clock: Clock) -> None:
    registry.most = 10_000
    many = [park(registry, Reader("crowd")) for _ in range(3 * WOKEN_AT_ONCE)]
    registry.wake(("crowd",))
    bob = park(registry, Reader("bob"))
    assert registry.wake(("bob",)) == 1
    assert bob.value == "mail"
    for _ in range(3):
        clock.advance(0)
    assert not any(reader.parked for reader in many)
    assert_empty(registry)


def test_a_wake_from_within_a_wake_comes_right_after_it(registry: Registry) -> None:
    order: list[str] = []
    first, second, third = [registry.park(Reader(name), 25.0) for name in ("bob", "bob", "eve")]
    first.addCallback(lambda _: (registry.wake(("eve",)), order.append("first")))
    second.addCallback(lambda _: order.append("second"))
    third.addCallback(lambda _: order.append("third"))
    registry.wake(("bob",))
    assert order == ["first", "second", "third"]


def test_the_waits_of_many_end_in_slices() -> None:
    clock = TurningClock()
    registry = Registry(clock, 10_000, Random(1))
    readers = [park(registry, Reader("bob"), 0.01) for _ in range(3 * WOKEN_AT_ONCE)]
    clock.turn(0.02)
    for turn in (1, 2, 3):
        assert sum(not reader.parked for reader in readers) == turn * WOKEN_AT_ONCE
        clock.turn()
    assert not any(reader.parked for reader in readers)
    assert_empty(registry)


def test_a_name_given_twice_is_parked_once(registry: Registry) -> None:
    reader = park(registry, Reader("bob", "bob"))
    assert registry.waiting("bob") == 1
    assert registry.wake(("bob",)) == 1
    assert reader.value == "mail"
    assert_empty(registry)


def test_those_who_come_and_go_beside_one_who_stays_leave_nothing_behind(clock: Clock) -> None:
    registry = Registry(clock, 10, Random(1))
    staying = park(registry, Reader("bob"), 3_000.0)
    for number in range(1_000):
        park(registry, Reader("eve"), 1_000.0 + number).cancel()
        registry.check_invariants()
    assert registry.parked == timers(registry) == 1
    staying.cancel()
    assert_empty(registry)


class Turns(Clock):
    """A clock that counts the turns in which something is called."""

    turn = 0

    def callLater(self, when: float, what: Callable[..., object], *given: Any, **words: Any) -> Any:
        def call() -> None:
            self.turn += 1
            what(*given, **words)

        return super().callLater(when, call)


def test_all_are_woken_once_each_and_few_in_one_turn() -> None:
    # After a failover everyone looks again; ten thousand at once would keep the reactor for seconds.
    clock = Turns()
    registry = Registry(clock, 3 * WOKEN_AT_ONCE, Random(1))
    turns: Counter[int] = Counter()
    readers = [Reader(f"bob{number % 7}", finds=None) for number in range(2 * WOKEN_AT_ONCE + 10)]
    outcomes = [park(registry, reader, None) for reader in readers]
    for reader in readers:
        reader.on_look = lambda: turns.update([clock.turn])
    registry.wake_all()
    left = next(number for number, reader in enumerate(readers) if not reader.looked)
    outcomes[left].cancel()
    clock.advance(0)
    assert [reader.looked for reader in readers] == [int(number != left) for number in range(len(readers))]
    assert max(turns.values()) <= WOKEN_AT_ONCE
    assert clock.getDelayedCalls() == []
    registry.check_invariants()


def test_a_reader_that_stands_at_several_keys_is_among_all_once(registry: Registry) -> None:
    reader = Reader("a", "b", "c/*", finds=None)
    park(registry, reader)
    registry.wake_all()
    assert reader.looked == 1


# -- leaving


def test_a_reader_that_leaves_is_forgotten_at_once(registry: Registry) -> None:
    reader = park(registry, Reader("a", "b"))
    reader.cancel()
    with pytest.raises(CancelledError):
        _ = reader.value
    assert registry.wake(("a",)) == 0
    assert_empty(registry)


def test_a_reader_that_was_answered_may_still_be_cancelled(registry: Registry) -> None:
    outcome = park(registry, Reader("bob"))
    registry.wake(("bob",))
    outcome.cancel()
    assert outcome.value == "mail"
    assert_empty(registry)


def test_a_reader_may_be_refused(registry: Registry) -> None:
    reader = Reader("bob")
    outcome = park(registry, reader)
    reader.refuse(ListenerGone("It was ended."))
    with pytest.raises(ListenerGone):
        _ = outcome.value
    reader.refuse(ListenerGone("It was ended."))
    reader.answer("mail")
    assert_empty(registry)


# -- waiting


@given(st.lists(st.floats(0.01, 120), min_size=1, max_size=20), st.integers())
@example([1.0] * 8 + [0.306640625, 0.3333333333333333], 161_808_773_426_252_027_533_751_647_993_856)
def test_waits_end_in_time_and_at_most_a_tenth_early(waits: list[float], seed: int) -> None:
    # nesquena/hermes-webui#2661 (row 17): reconnects in lock-step. Ends are spread instead.
    clock = Clock()
    clock.advance(1_000)
    registry = Registry(clock, 100, Random(seed))
    ended: dict[int, float] = {}
    for number, wait in enumerate(waits):
        registry.park(Reader("bob"), wait).addCallback(
            lambda _, number=number: ended.setdefault(number, clock.seconds() - 1_000)
        )
        assert timers(registry) <= registry.parked
    while clock.getDelayedCalls():
        clock.advance(min(call.getTime() for call in clock.getDelayedCalls()) - clock.seconds())
    for number, wait in enumerate(waits):
        assert wait * (1 - WAIT_SPREAD) - 1e-6 <= ended[number] <= wait + 1e-6
    assert_empty(registry)


def test_a_thousand_waits_do_not_end_in_one_second_by_one_timer(clock: Clock) -> None:
    registry = Registry(clock, 1_000, Random(1))
    for _ in range(1_000):
        registry.park(Reader("bob"), 100.0)
    assert timers(registry) == 1
    clock.advance(89.9)
    assert registry.parked == 1_000
    before = 1_000
    for _ in range(10):
        clock.advance(1.02)
        assert 50 <= before - registry.parked <= 200
        before = registry.parked
    assert_empty(registry)


def test_the_times_at_which_waits_end_are_put_in_order_one_by_one(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To order them all takes a millisecond for each thousand, and so would each park.
    ordered: list[int] = []
    monkeypatch.setattr(registry_module, "heapify", lambda times: ordered.append(len(times)))
    registry.most = 1_000
    for number in range(1_000):
        park(registry, Reader("bob"), 25.0 + number)
    assert ordered == []
    registry.check_invariants()


def test_a_wait_that_all_have_left_has_no_timer(registry: Registry) -> None:
    readers = [park(registry, Reader("bob")) for _ in range(20)]
    for number, reader in enumerate(readers):
        reader.cancel()
        assert timers(registry) <= 19 - number
    assert_empty(registry)


def test_a_reader_without_a_wait_has_no_timer(registry: Registry, clock: Clock) -> None:
    stream = park(registry, Reader("bob", finds=None), None)
    clock.advance(1e6)
    assert stream.parked
    assert timers(registry) == 0
    stream.cancel()
    assert_empty(registry)


def test_a_reader_that_leaves_as_the_others_waits_end_is_not_answered(
    registry: Registry, clock: Clock
) -> None:
    # slact/nchan#418 (row 3): the end of a wait and what happens at that moment.
    outcomes: list[Outcome] = []
    registry.park(Reader("bob"), 0.001).addCallback(lambda _: outcomes[0].cancel())
    outcomes.append(park(registry, Reader("bob"), 0.001))
    clock.advance(0.001)
    with pytest.raises(CancelledError):
        _ = outcomes[0].value
    assert_empty(registry)


def test_when_the_server_stops_every_wait_ends(registry: Registry) -> None:
    # slact/nchan#290 (row 16): a restart answers whoever waits.
    readers = [
        park(registry, Reader("a", "b")),
        park(registry, Reader("b")),
        park(registry, Reader("*"), None),
    ]
    registry.end_all()
    assert [reader.value for reader in readers] == ["over"] * 3
    assert_empty(registry)


def test_when_the_server_stops_slowly_waits_end_one_after_the_other(clock: Clock) -> None:
    registry = Registry(clock, 20_000, Random(1))
    for _ in range(10_000):
        registry.park(Reader("bob"), None)
    done = Outcome(registry.end_all_within(5.0))
    clock.pump([0.1] * 10)
    assert 7_000 < registry.parked < 9_000
    assert done.parked
    clock.pump([0.1] * 40)
    assert done.value is None
    assert_empty(registry)


def test_few_readers_do_not_keep_a_server_from_stopping(registry: Registry) -> None:
    readers = [park(registry, Reader("bob")) for _ in range(50)]
    assert Outcome(registry.end_all_within(60.0)).value is None
    assert {reader.value for reader in readers} == {"over"}
    assert Outcome(registry.end_all_within(60.0)).value is None
    assert_empty(registry)


# -- bounds


def test_no_more_are_parked_than_may_be_and_none_is_evicted(clock: Clock) -> None:
    # cluesmith/codev#1126 (row 17): evicting at the bound became 800 connections a second.
    registry = Registry(clock, 2)
    readers = [park(registry, Reader("bob")), park(registry, Reader("eve"))]
    assert registry.is_full
    with pytest.raises(ServerFull) as caught:
        registry.park(Reader("bob"), 25.0)
    assert caught.value.retry_after is not None
    assert all(reader.parked for reader in readers)
    readers[0].cancel()
    assert not registry.is_full
    park(registry, Reader("bob"))
    registry.end_all()
    assert_empty(registry)


# -- presence


def test_those_who_wait_are_counted_once_however_they_are_found(registry: Registry) -> None:
    park(registry, Reader("chat/a", "chat/*"))
    park(registry, Reader("chat/**"))
    park(registry, Reader("bob"))
    assert registry.waiting("chat/a") == 2
    assert registry.waiting("chat/b") == 2
    assert registry.waiting("bob") == 1
    assert registry.waiting("eve") == 0
    registry.end_all()
    assert registry.waiting("chat/a") == 0


def test_a_reader_is_online_while_it_waits_and_for_the_time_of_a_reconnect(
    registry: Registry, clock: Clock
) -> None:
    # slact/nchan#154, #315 (row 15): presence is who was here a moment ago, not a socket's state.
    assert not registry.online("bob")
    assert registry.last_seen("bob") is None
    reader = park(registry, Reader("bob"))
    clock.advance(20)
    assert registry.online("bob")
    assert registry.last_seen("bob") == 0
    reader.cancel()
    clock.advance(ONLINE_SECONDS)
    assert registry.online("bob")
    assert registry.last_seen("bob") == ONLINE_SECONDS
    clock.advance(0.1)
    assert not registry.online("bob")


def test_a_poll_that_is_not_held_is_seen_too(registry: Registry) -> None:
    registry.seen(("bob", "eve"))
    assert registry.online("bob")
    assert registry.last_seen("eve") == 0


def test_a_reader_of_a_pattern_is_online_for_what_it_covers(registry: Registry) -> None:
    reader = park(registry, Reader("chat/*"))
    assert registry.online("chat/a")
    reader.cancel()
    assert not registry.online("chat/a")


def test_who_was_last_seen_is_forgotten_in_time(registry: Registry, clock: Clock) -> None:
    registry.seen(("bob",))
    clock.advance(PRESENCE_SECONDS / 2)
    registry.seen(("eve",))
    registry.sweep()
    clock.advance(PRESENCE_SECONDS / 2)
    registry.sweep()
    assert registry.last_seen("bob") == PRESENCE_SECONDS
    clock.advance(1)
    registry.sweep()
    assert registry.last_seen("bob") is None
    assert registry.last_seen("eve") is not None


def test_ends_that_are_spread_come_at_once_where_all_waits_end(clock: Clock) -> None:
    registry = Registry(clock, 20_000, Random(1))
    polls = [park(registry, Reader("bob"), None) for _ in range(1_000)]
    done = Outcome(registry.end_all_within(60.0))
    assert done.parked
    registry.end_all()
    assert done.value is None
    assert [poll.value for poll in polls] == ["over"] * 1_000
    assert timers(registry) == 0


def test_who_was_last_seen_is_remembered_within_a_bound(clock: Clock) -> None:
    registry = Registry(clock, 10)
    for number in range(100):
        registry.seen((f"bob{number}",))
    registry.check_invariants()
    known = [number for number in range(100) if registry.last_seen(f"bob{number}") is not None]
    assert known == list(range(90, 100))
