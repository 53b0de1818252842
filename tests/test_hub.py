from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from helpers import EPOCH, Outcome, SlowStore, check_empty, check_invariants, data, now, numbers, push
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from cometd_lite.core.hub import Hub
from cometd_lite.core.idempotency import Receipts
from cometd_lite.core.listing import listing
from cometd_lite.core.message import LAST, NOW, OLDEST, SINCE, Batch, Content, Cursor, Push, Receipt
from cometd_lite.core.readers import Follower
from cometd_lite.core.registry import Registry
from cometd_lite.core.store import Usage
from cometd_lite.errors import (
    BodyTooLarge,
    KeyReused,
    MailboxFull,
    NobodyWaits,
    ServerFull,
    Stopping,
    StoreDown,
)
from cometd_lite.limits import (
    IDEMPOTENCY_SECONDS,
    PRESENCE_SECONDS,
    PUSH_MESSAGES,
    RECEIPTS_AT_ONCE,
    STREAM_MESSAGES,
    Limits,
)
from cometd_lite.stores.memory import MemoryStore

WALL = 1_795_169_758.123
BEGIN = Cursor(EPOCH, 0)


class Here:
    """A hub, and short words for what one asks of it."""

    def __init__(self, clock: Clock, limits: Limits, *, slow: bool = False) -> None:
        self.clock = clock
        self.memory = MemoryStore(limits, epoch=EPOCH)
        self.store = SlowStore(self.memory)
        registry = Registry(clock, limits.max_parked, Random(1))
        self.hub = Hub(self.store if slow else self.memory, registry, clock, wall=lambda: WALL)

    def push_anyway(self, asked: Push) -> Receipt:
        """Push, whatever the key."""
        receipt = now(self.hub.push(msgspec.structs.replace(asked, key=None)))
        assert isinstance(receipt, Receipt)
        return receipt

    def pushing(self, *recipients: str, body: str | list[str] = "hi", **words: Any) -> Outcome:
        return Outcome(self.hub.push(push(*recipients, body=body, **words)))

    def push(self, *recipients: str, body: str | list[str] = "hi", **words: Any) -> Receipt:
        receipt = self.pushing(*recipients, body=body, **words).value
        assert isinstance(receipt, Receipt)
        return receipt

    def poll(self, *recipients: str, after: Cursor = BEGIN, wait: float = 25.0, limit: int = 100) -> Outcome:
        return Outcome(self.hub.poll(recipients, after, wait, limit))

    def take(
        self,
        *recipients: str,
        wait: float = 25.0,
        limit: int = 100,
        gone: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        return Outcome(self.hub.take(recipients, wait, limit, gone))

    @property
    def parked(self) -> int:
        return self.hub.registry.parked

    def settle(self) -> None:
        """Let everything happen that is due in the turns of the reactor that follow at once."""
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def assert_quiet(self) -> None:
        """Nobody is parked, and nothing is left of those who were."""
        check_empty(self.hub)
        assert self.clock.getDelayedCalls() == []
        assert self.store.asked == []


@pytest.fixture
def here(clock: Clock) -> Iterator[Here]:
    here = Here(clock, Limits())
    yield here
    check_invariants(here.hub)


@pytest.fixture
def slow(clock: Clock) -> Iterator[Here]:
    """A hub whose store looks and answers when the test says so."""
    slow = Here(clock, Limits(), slow=True)
    yield slow
    check_invariants(slow.hub)


# -- push


def test_a_push_that_a_reader_waits_for_says_how_many_it_woke(here: Here) -> None:
    polls = [here.poll("bob"), here.poll("bob", "eve"), here.poll("*")]
    receipt = here.push("bob")
    assert receipt == Receipt((f"{EPOCH}-1",), WALL, 3, ("bob",))
    for poll in polls:
        assert data(poll.value) == ["hi"]
    here.assert_quiet()


def test_a_push_that_no_reader_waits_for_is_queued(here: Here) -> None:
    assert here.push("bob").delivered == 0
    assert data(here.poll("bob").value) == ["hi"]
    here.assert_quiet()


def test_a_push_to_several_wakes_each_reader_once(here: Here) -> None:
    both, bob = here.poll("bob", "eve"), here.poll("bob")
    receipt = here.push("bob", "eve", body=["1", "2"])
    assert receipt.delivered == 2
    assert len(receipt.ids) == 4
    assert data(both.value) == ["1", "1", "2", "2"]
    assert data(bob.value) == ["1", "2"]
    here.assert_quiet()


def test_a_push_for_waiting_readers_only_is_not_kept(here: Here) -> None:
    poll, take = here.poll("bob"), here.take("bob")
    assert here.push("bob", queue=False).delivered == 2
    assert data(poll.value) == data(take.value) == ["hi"]
    assert here.memory.usage() == Usage(0, 0, 0)
    with pytest.raises(NobodyWaits):
        here.push("bob", queue=False)
    assert here.memory.usage() == Usage(0, 0, 0)
    again = here.poll("bob", after=poll.value.cursor)
    assert again.parked
    assert here.push("bob", body="2").delivered == 1
    assert data(again.value) == ["2"]
    assert not again.value.gap
    here.assert_quiet()


def test_a_push_for_waiting_readers_only_that_is_made_while_others_look_reaches_who_waits(here: Here) -> None:
    bob, eve = here.poll("bob"), here.poll("eve")
    pushed: list[Outcome] = []
    assert bob.deferred is not None
    bob.deferred.addCallback(lambda _: pushed.append(here.pushing("eve", body="2", queue=False)))
    here.push("bob", body="1")
    assert data(eve.value) == ["2"]
    assert pushed[0].value.delivered == 1
    here.assert_quiet()


def test_a_push_is_refused_where_it_makes_too_many_messages(here: Here) -> None:
    # 64 KiB of short lines for 100 recipients were three million messages, in one step of the reactor.
    lines = (Content(b"1", "application/json", "json"),) * (PUSH_MESSAGES // 2 + 1)
    for queue in (True, False):
        with pytest.raises(BodyTooLarge):
            now(here.hub.push(Push(("bob", "eve"), lines, queue=queue)))
    assert here.memory.usage() == Usage(0, 0, 0)


def test_what_the_store_refuses_wakes_no_reader(clock: Clock) -> None:
    here = Here(clock, Limits(capacity=1))
    here.push("bob")
    poll = here.poll("bob", after=NOW)
    with pytest.raises(MailboxFull):
        here.push("bob")
    assert poll.parked
    poll.cancel()


# -- idempotency keys


def test_a_repeated_push_gets_the_first_answer_and_adds_nothing(here: Here) -> None:
    first = here.push("bob", key="k")
    assert here.push("bob", key="k") == first
    assert data(here.poll("bob").value) == ["hi"]


@pytest.mark.parametrize("words", [{"body": "other"}, {"body": ["hi", "hi"]}])
def test_a_key_with_another_body_is_refused(here: Here, words: dict[str, Any]) -> None:
    here.push("bob", key="k")
    with pytest.raises(KeyReused):
        here.push("bob", key="k", **words)


def test_a_key_with_another_type_is_another_body(here: Here) -> None:
    now(here.hub.push(Push(("bob",), (Content.parse(b"1", "text/plain"),), key="k")))
    with pytest.raises(KeyReused):
        now(here.hub.push(Push(("bob",), (Content.parse(b"1", "application/json"),), key="k")))


def test_a_key_is_that_of_its_recipients(here: Here) -> None:
    here.push("bob", key="k")
    here.push("eve", key="k", body="other")
    assert data(here.poll("eve").value) == ["other"]


def test_what_was_refused_may_be_tried_again_with_the_same_key(clock: Clock) -> None:
    here = Here(clock, Limits(capacity=1))
    here.push("bob")
    for _ in range(2):
        with pytest.raises(MailboxFull):
            here.push("bob", key="k", body="other")
    with pytest.raises(NobodyWaits):
        here.push("eve", key="k", queue=False)
    poll = here.poll("eve", after=NOW)
    assert here.push("eve", key="k", queue=False).delivered == 1
    assert not poll.parked


def test_a_key_is_forgotten_in_time(here: Here) -> None:
    here.push("bob", key="k", body="1")
    here.clock.advance(IDEMPOTENCY_SECONDS)
    here.push("bob", key="k", body="2")
    assert data(here.poll("bob").value) == ["1", "2"]


def test_a_key_is_remembered_until_as_many_later_ones_came_as_the_bound_says(clock: Clock) -> None:
    # It was forgotten after 10,000 later ones, 1.4 s of load, and the repeat was a second message.
    here = Here(clock, Limits(capacity=10**6, capacity_bytes=10**9, max_memory=10**10))
    receipts, act = Receipts(here.memory, clock, is_shared=False, most=100), here.push_anyway
    ids = [receipts.push(push("bob", key=f"k{number}"), act).ids for number in range(101)]
    receipts.check_invariants()
    again = [receipts.push(push("bob", key=f"k{number}"), act).ids for number in range(1, 101)]
    assert again == ids[1:]
    assert receipts.push(push("bob", key="k0"), act).ids != ids[0]
    receipts.check_invariants()


def test_where_there_are_as_many_subjects_as_keys_few_are_forgotten_for_a_new_one(here: Here) -> None:
    # All were forgotten, and each repeat was a second message.
    receipts = Receipts(here.memory, here.clock, is_shared=False, most=100)

    def ids(number: int) -> tuple[str, ...]:
        asked = push("bob", key="k", subject=f"s{number}")
        return now(receipts.push(asked, here.push_anyway)).ids

    first = [ids(number) for number in range(110)]
    receipts.check_invariants()
    assert len(receipts) == 100
    assert [ids(number) for number in range(10, 110)] == first[10:]


def test_receipts_whose_time_is_over_are_forgotten_in_steps(clock: Clock) -> None:
    here = Here(clock, Limits(capacity=10**6, capacity_bytes=10**9, max_memory=10**10))
    receipts, act = here.hub.receipts, here.push_anyway
    for number in range(RECEIPTS_AT_ONCE + 500):
        subject = None if number % 2 else f"s{number % 50}"
        receipts.push(push("bob", key=f"k{number}", subject=subject), act)
    clock.advance(IDEMPOTENCY_SECONDS - 1)
    kept = receipts.push(push("bob", key="later", subject="s0"), act)
    here.hub.sweep()
    assert len(receipts) == RECEIPTS_AT_ONCE + 501
    clock.advance(2)
    before = len(receipts)
    here.hub.sweep()
    assert before - RECEIPTS_AT_ONCE <= len(receipts) < before
    receipts.check_invariants()
    here.hub.sweep()
    here.hub.sweep()
    assert len(receipts) == 1
    receipts.check_invariants()
    assert receipts.push(push("bob", key="later", subject="s0"), act) == kept


def test_a_new_key_costs_the_same_where_as_many_are_remembered_as_may_be(here: Here) -> None:
    # The oldest was searched for with each push, among all those forgotten before: 40 µs in the place of 5.
    receipts = Receipts(here.memory, here.clock, is_shared=False, most=50_000)
    receipt = here.push("bob")

    def seconds(first: int) -> float:
        began = time.process_time()
        for number in range(first, first + 5_000):
            receipts.push(push("bob", key=f"k{number}"), lambda _: receipt)
        return time.process_time() - began

    before = min(seconds(first) for first in range(0, 50_000, 5_000))
    for number in range(50_000, 75_000):
        receipts.push(push("bob", key=f"k{number}"), lambda _: receipt)
    assert min(seconds(first) for first in (75_000, 80_000)) < 3 * before
    receipts.check_invariants()


def test_a_key_of_many_lines_is_one_key(here: Here) -> None:
    # Ten keyed pushes of 10,000 lines made every other key forgotten.
    first = here.push("bob", key="first")
    for number in range(20):
        here.clock.advance(1)
        here.push(f"many{number}", key=str(number), body=["x"] * 1_000)
    assert here.push("bob", key="first") == first
    here.hub.check_invariants()


def test_keys_of_different_subjects_are_different_keys(here: Here) -> None:
    # Another subject that had used the key first made the victim's push a 422.
    theirs = here.push("bob", key="k", body="theirs", subject="mallory")
    mine = here.push("bob", key="k", body="mine", subject="alice")
    assert mine.id != theirs.id
    assert here.push("bob", key="k", body="mine", subject="alice") == mine
    assert here.push("bob", key="k", body="theirs", subject="mallory") == theirs


def test_a_subject_that_uses_many_keys_leaves_the_others_their_share(clock: Clock) -> None:
    here = Here(clock, Limits(capacity=10**6, capacity_bytes=10**9, max_memory=10**10))
    receipts, act = Receipts(here.memory, clock, is_shared=False, most=100), here.push_anyway
    ids = [
        receipts.push(push("bob", key=f"k{number}", subject="alice"), here.hub.push).ids
        for number in range(40)
    ]
    for number in range(500):
        receipts.push(push("bob", key=f"k{number}", subject="mallory"), act)
    receipts.check_invariants()
    again = [
        receipts.push(push("bob", key=f"k{number}", subject="alice"), here.hub.push).ids
        for number in range(40)
    ]
    assert again == ids


def test_a_new_subject_has_room_where_one_holds_all(clock: Clock) -> None:
    here = Here(clock, Limits(capacity=10**6, capacity_bytes=10**9, max_memory=10**10))
    receipts, act = Receipts(here.memory, clock, is_shared=False, most=100), here.push_anyway
    for number in range(100):
        receipts.push(push("bob", key=f"k{number}", subject="mallory"), act)
    ids = [
        receipts.push(push("bob", key=f"k{number}", subject="alice"), here.hub.push).ids
        for number in range(40)
    ]
    receipts.check_invariants()
    again = [
        receipts.push(push("bob", key=f"k{number}", subject="alice"), here.hub.push).ids
        for number in range(40)
    ]
    assert again == ids


# -- poll


def test_a_poll_is_held_until_there_is_something(here: Here) -> None:
    poll = here.poll("bob")
    here.push("eve")
    assert poll.parked
    here.push("bob")
    assert data(poll.value) == ["hi"]
    here.assert_quiet()


def test_a_poll_that_waited_in_vain_is_told_where_to_go_on(here: Here) -> None:
    # jcuga/golongpoll#3 (row 2): what came after such a reply was lost, because it carried no position.
    for after in (BEGIN, OLDEST, NOW):
        poll = here.poll("bob", after=after)
        here.clock.advance(25)
        assert poll.value.messages == ()
        assert not poll.value.gap
        here.push("bob", body="1")
        assert data(here.poll("bob", after=poll.value.cursor).value) == ["1"]
        here.hub.delete("bob")
        here.memory = here.hub.store = MemoryStore(Limits(), epoch=EPOCH)
    here.assert_quiet()


@pytest.mark.parametrize("first", ["push", "end"])
def test_nothing_is_lost_when_a_push_comes_as_the_wait_ends(here: Here, first: str) -> None:
    # cometd/cometd#1142, #733 (row 10): the event fell exactly when the poll ended.
    poll = here.poll("bob", wait=1.0)
    at = min(call.getTime() for call in here.clock.getDelayedCalls())
    left = at - here.clock.seconds()
    if first == "push":
        here.clock.callLater(left - 1e-9, here.push, "bob")
    here.clock.advance(left)
    if first == "end":
        here.push("bob")
    again = here.poll("bob", after=poll.value.cursor, wait=0)
    assert data(poll.value) + data(again.value) == ["hi"]
    here.assert_quiet()


def test_two_messages_around_an_answer_are_both_read(here: Here) -> None:
    # jcuga/golongpoll#19 (row 1), slact/nchan#367 (row 3): the second is pushed before the reader is back.
    poll = here.poll("bob")
    here.push("bob", body="1")
    assert here.push("bob", body="2").delivered == 0
    assert data(poll.value) == ["1"]
    assert data(here.poll("bob", after=poll.value.cursor).value) == ["2"]


def test_an_answer_to_a_reader_that_is_gone_loses_nothing(here: Here) -> None:
    # faye/faye#251, #295 (row 9): a reply written to a dead socket was the end of its messages.
    dead = here.poll("bob")
    here.push("bob", body="1")
    assert data(dead.value) == ["1"]  # and nobody reads it
    here.push("bob", body="2")
    assert data(here.poll("bob").value) == ["1", "2"]


def test_polls_that_overlap_are_all_answered(here: Here) -> None:
    # cometd/cometd#511, #595 (row 9): overlapping polls of one reader lost even acknowledged messages.
    polls = [here.poll("bob"), here.poll("bob"), here.poll("bob", after=NOW)]
    assert here.push("bob").delivered == 3
    for poll in polls:
        assert data(poll.value) == ["hi"]
    here.assert_quiet()


def test_a_poll_from_now_is_told_what_comes_and_nothing_else(here: Here) -> None:
    here.push("bob", body="1")
    poll = here.poll("bob", after=NOW)
    assert poll.parked
    here.push("bob", body="2")
    assert data(poll.value) == ["2"]


def test_a_poll_with_a_gap_is_told_at_once(here: Here) -> None:
    # dunglas/mercure#704 (row 8): an unknown cursor waited forever.
    poll = here.poll("bob", after=Cursor("otherepoch", 5))
    assert poll.value.gap
    assert poll.value.messages == ()
    again = here.poll("bob", after=poll.value.cursor)
    assert again.parked
    here.push("bob")
    assert not again.value.gap
    here.assert_quiet()


def test_a_limit_leaves_the_rest_for_the_next_poll(here: Here) -> None:
    here.push("bob", body=["1", "2", "3"])
    first = here.poll("bob", limit=2).value
    assert data(first) == ["1", "2"]
    assert first.more
    assert data(here.poll("bob", after=first.cursor).value) == ["3"]


def test_a_poll_that_will_not_wait_is_answered_at_once(here: Here) -> None:
    assert data(here.poll("bob", wait=0).value) == []
    here.push("bob")
    assert data(here.poll("bob", wait=0).value) == ["hi"]
    assert data(here.take("bob", wait=0).value) == ["hi"]
    assert data(here.take("bob", wait=0).value) == []
    here.assert_quiet()


def test_a_reader_that_leaves_is_forgotten_at_once(here: Here) -> None:
    for park in (here.poll, here.take):
        outcome = park("bob")
        assert here.parked == 1
        outcome.cancel()
        with pytest.raises(CancelledError):
            _ = outcome.value
        here.assert_quiet()
    assert here.push("bob").delivered == 0


def test_no_more_polls_are_held_than_may_be_but_what_is_there_is_answered(clock: Clock) -> None:
    # cluesmith/codev#1126 (row 17): at the bound one is refused, and nobody is evicted for it.
    here = Here(clock, Limits(max_parked=1))
    waiting = here.poll("bob", after=NOW)
    for refused in (lambda: here.poll("bob"), lambda: here.take("bob")):
        with pytest.raises(ServerFull):
            refused()
    assert waiting.parked
    assert not here.poll("eve", wait=0).value
    here.push("eve")
    assert data(here.poll("eve").value) == ["hi"]
    assert data(here.take("eve").value) == ["hi"]
    waiting.cancel()
    here.assert_quiet()


# -- take


def test_takes_that_wait_are_served_in_order_one_message_each(here: Here) -> None:
    takes = [here.take("bob", limit=1) for _ in range(3)]
    receipt = here.push("bob", body=["1", "2"])
    assert receipt.delivered == 2
    assert data(takes[0].value) == ["1"]
    assert data(takes[1].value) == ["2"]
    assert takes[2].parked
    here.push("bob", body="3")
    assert data(takes[2].value) == ["3"]
    here.assert_quiet()


def test_a_take_that_waits_passes_over_no_take_that_came_before(here: Here) -> None:
    several, one = here.take("a", "b"), here.take("b")
    here.push("b", body="1")
    assert data(several.value) == ["1"]
    assert one.parked
    one.cancel()


def test_a_take_whose_client_has_left_takes_nothing(here: Here) -> None:
    gone = here.take("bob", gone=lambda: True)
    behind = here.take("bob")
    assert here.push("bob").delivered == 1
    assert data(behind.value) == ["hi"]
    assert gone.parked
    gone.cancel()
    here.push("bob", body="2")
    late = here.take("bob", gone=lambda: True)
    assert late.parked
    assert data(here.take("bob").value) == ["2"]
    late.cancel()
    here.assert_quiet()


def test_what_a_take_gives_back_goes_to_the_next_one_that_waits(here: Here) -> None:
    here.push("bob", body=["1", "2"])
    taken = here.take("bob").value
    first, second = here.take("bob", limit=1), here.take("bob", limit=1)
    here.hub.give_back(taken)
    assert data(first.value) == ["1"]
    assert data(second.value) == ["2"]
    here.assert_quiet()


def test_giving_back_nothing_is_nothing(here: Here) -> None:
    here.hub.give_back(here.take("bob", wait=0).value)
    assert here.memory.usage() == Usage(0, 0, 0)


def test_a_take_that_waited_in_vain_is_told_where_a_cursor_would_go_on(here: Here) -> None:
    take = here.take("bob")
    here.clock.advance(25)
    assert not take.value
    here.push("bob")
    assert data(here.poll("bob", after=take.value.cursor).value) == ["hi"]
    here.assert_quiet()


# -- follow


class Told:
    """What a follower was told; it keeps up while ``keeps_up``."""

    def __init__(self, hub: Hub, *recipients: str, after: Cursor = BEGIN) -> None:
        self.batches: list[Batch] = []
        self.keeps_up = True
        self.follower: Follower = hub.follow(recipients, after, self.tell)
        self.ended = Outcome(self.follower)

    def tell(self, batch: Batch) -> bool:
        self.batches.append(batch)
        return self.keeps_up

    @property
    def data(self) -> list[Any]:
        return [one for batch in self.batches for one in data(batch)]


def test_a_follower_is_told_everything_after_its_place_as_it_comes(here: Here) -> None:
    here.push("bob", body="1")
    told = Told(here.hub, "bob")
    assert told.data == []
    told.follower.go_on()
    assert told.data == ["1"]
    assert here.push("bob", body="2").delivered == 1
    assert here.push("eve").delivered == 0
    assert told.data == ["1", "2"]
    told.ended.cancel()
    assert here.push("bob").delivered == 0
    assert told.data == ["1", "2"]
    here.assert_quiet()


@pytest.mark.parametrize("words", [{}, {"acks": True}])
def test_what_a_follower_had_makes_room_in_a_full_mailbox(clock: Clock, words: dict[str, bool]) -> None:
    here = Here(clock, Limits(capacity=2))
    here.push("bob", body=["1", "2"])
    with pytest.raises(MailboxFull):
        here.push("bob")
    follower = here.hub.follow(("bob",), Cursor(EPOCH, 1), lambda _: True, **words)
    ended = Outcome(follower)
    follower.go_on()
    here.push("bob", body="3")
    ended.cancel()


def test_what_a_follower_had_that_acknowledges_nothing_makes_no_room(clock: Clock) -> None:
    here = Here(clock, Limits(capacity=2))
    here.push("bob", body=["1", "2"])
    follower = here.hub.follow(("bob",), Cursor(EPOCH, 1), lambda _: True, acks=False)
    ended = Outcome(follower)
    follower.go_on()
    with pytest.raises(MailboxFull):
        here.push("bob")
    ended.cancel()


def test_a_follower_from_now_is_told_what_comes_and_a_gap_comes_first(here: Here) -> None:
    here.push("bob", body="1")
    told = Told(here.hub, "bob", after=NOW)
    gap = Told(here.hub, "bob", after=Cursor("otherepoch", 1))
    for one in (told, gap):
        one.follower.go_on()
    here.push("bob", body="2")
    assert told.data == ["2"]
    assert gap.data == ["1", "2"]
    assert [batch.gap for batch in gap.batches] == [True, False]
    here.hub.stop()


def test_a_long_backlog_is_told_in_steps_and_waits_for_a_slow_reader(clock: Clock) -> None:
    here = Here(clock, Limits(capacity=10**5, capacity_bytes=10**9))
    lines = [str(number) for number in range(STREAM_MESSAGES * 40)]
    here.push("bob", body=lines)
    told = Told(here.hub, "bob")
    told.keeps_up = False
    told.follower.go_on()
    assert len(told.data) == STREAM_MESSAGES
    assert here.push("bob", body="new").delivered == 0
    told.follower.go_on()
    assert len(told.data) == 2 * STREAM_MESSAGES
    told.keeps_up = True
    told.follower.go_on()
    assert len(told.data) == 3 * STREAM_MESSAGES
    here.settle()
    assert told.data == [*lines, "new"]
    assert here.push("bob", body="newer").delivered == 1
    told.ended.cancel()
    here.assert_quiet()


def test_a_follower_that_leaves_while_it_is_told_is_told_no_more(here: Here) -> None:
    here.push("bob", body=["x"] * (STREAM_MESSAGES * 3))
    told: list[Batch] = []
    follower = here.hub.follow(("bob",), BEGIN, lambda batch: told.append(batch) or leave())

    def leave() -> bool:
        follower.addErrback(lambda failure: failure.trap(CancelledError))
        follower.cancel()
        return True

    follower.go_on()
    here.settle()
    assert len(told) == 1
    here.assert_quiet()


def test_a_follower_ends_when_the_server_stops_and_none_begins_then(here: Here) -> None:
    told = Told(here.hub, "bob")
    told.follower.go_on()
    here.hub.stop()
    assert told.ended.value is None
    with pytest.raises(Stopping):
        here.hub.follow(("bob",), NOW, lambda _: True)
    here.assert_quiet()


# -- manage


def test_a_recipient_is_described(here: Here) -> None:
    receipt = here.push("bob", body=["12", "345"])
    standing = now(here.hub.describe("bob"))
    assert (standing.recipient, standing.waiting, standing.online, standing.last_seen) == (
        "bob",
        0,
        False,
        None,
    )
    assert (standing.queued, standing.bytes) == (2, 5)
    assert (str(standing.oldest), str(standing.newest)) == receipt.ids
    poll = here.poll("bob", after=NOW)
    standing = now(here.hub.describe("bob"))
    assert (standing.waiting, standing.online, standing.last_seen) == (1, True, WALL)
    poll.cancel()
    here.clock.advance(60)
    standing = now(here.hub.describe("bob"))
    assert (standing.waiting, standing.online, standing.last_seen) == (0, False, WALL - 60)


def test_a_poll_that_a_store_answers_later_is_held_for_its_time_however_short_and_is_seen(slow: Here) -> None:
    short, none = slow.poll("bob", wait=0.5), slow.poll("eve", wait=0.0)
    slow.store.settle()
    assert short.parked
    assert not none.value.messages
    assert slow.hub.registry.last_seen("eve") == 0
    slow.clock.advance(0.5)
    assert not short.value.messages
    slow.clock.advance(5.0)
    assert [slow.hub.registry.last_seen(name) for name in ("bob", "eve")] == [5.0, 5.5]


def test_a_recipient_is_described_once_the_store_has_looked(slow: Here) -> None:
    slow.memory.append(push("bob", body="hello"), 0.0, 0.0)
    poll = slow.poll("bob", after=NOW)
    standing = Outcome(slow.hub.describe("bob"))
    assert standing.parked
    slow.store.next("describe").answer()
    assert (standing.value.queued, standing.value.waiting, standing.value.online) == (1, 1, True)
    slow.store.settle()
    assert poll.parked
    failing = Outcome(slow.hub.describe("bob"))
    slow.store.next("describe").fail(StoreDown("away"))
    with pytest.raises(StoreDown):
        _ = failing.value


def test_a_deletion_is_done_though_its_client_has_disconnected(slow: Here) -> None:
    slow.memory.append(push("bob"), 0.0, 0.0)
    deleted = Outcome(slow.hub.delete("bob"))
    deleted.cancel()
    slow.store.settle()
    assert slow.memory.usage() == Usage(0, 0, 0)


def test_a_store_that_fails_to_let_go_of_what_is_old_is_told_of(
    slow: Here, expected_failures: list[type[BaseException]]
) -> None:
    slow.hub.sweep()
    slow.store.next("expire").fail(StoreDown("away"))  # which it says itself
    expected_failures.append(ZeroDivisionError)
    slow.hub.sweep()
    slow.store.next("expire").fail(ZeroDivisionError())


def test_a_deleted_mailbox_is_a_gap_for_readers_before_it(here: Here) -> None:
    poll = here.poll("bob")
    here.push("bob")
    now(here.hub.delete("bob"))
    assert here.poll("bob").value.gap
    assert here.poll("bob", after=poll.value.cursor, wait=0).value.gap is False


def test_expired_messages_and_forgotten_readers_are_swept_away(here: Here) -> None:
    here.push("bob", ttl=5)
    here.poll("bob", wait=0)
    here.clock.advance(5)
    here.hub.sweep()
    assert here.memory.usage() == Usage(0, 0, 0)
    assert here.hub.registry.last_seen("bob") == 5
    here.clock.advance(PRESENCE_SECONDS)
    here.hub.sweep()
    assert here.hub.registry.last_seen("bob") is None


def test_a_server_that_stops_answers_who_waits_and_refuses_pushes(here: Here) -> None:
    # slact/nchan#290 (row 16): a restart told nobody where to go on.
    poll, take = here.poll("bob"), here.take("bob")
    here.hub.stop()
    for outcome in (poll, take):
        assert outcome.value.messages == ()
        assert outcome.value.cursor.epoch == EPOCH
    with pytest.raises(Stopping):
        here.push("bob")
    assert not here.poll("bob").value
    assert not here.take("bob").value
    here.assert_quiet()


def test_what_was_given_is_counted(here: Here) -> None:
    poll = here.poll("bob")
    here.push("bob", "eve", body=["1", "2"])
    here.take("eve")
    here.poll("bob", after=Cursor("otherepoch", 1))
    metrics = here.hub.counts
    assert (metrics.pushes, metrics.deliveries, metrics.takes, metrics.gaps) == (4, 6, 2, 1)
    assert len(poll.value.messages) == 2


# -- a store that waits


def test_what_is_pushed_between_a_look_and_its_answer_is_delivered_at_once(slow: Here) -> None:
    # Park before you look: in a probe that looked first, the message came at the end of the wait.
    poll = slow.poll("bob")
    look = slow.store.next("read")
    look.look()  # it finds nothing, and says so later
    pushing = slow.pushing("bob")
    slow.store.settle()
    assert poll.parked
    look.answer()
    slow.store.settle()
    assert data(poll.value) == ["hi"]
    assert pushing.value.delivered == 1
    slow.assert_quiet()


def test_a_reader_from_now_misses_nothing_however_answers_overtake_each_other(slow: Here) -> None:
    # The older answer said where "now" was, a newer one was already past the message: it was never told.
    poll = slow.poll("bob", after=NOW)
    look = slow.store.next("read")
    look.look()
    pushing = slow.pushing("bob")
    slow.store.settle()
    look.answer()
    slow.store.settle()
    assert data(poll.value) == ["hi"]
    assert pushing.value.delivered == 1
    slow.assert_quiet()


def test_a_reader_asks_once_at_a_time_however_often_it_is_woken(slow: Here) -> None:
    poll = slow.poll("bob")
    look = slow.store.next("read")
    look.look()
    pushes = [slow.pushing("bob", body=str(number)) for number in range(5)]
    slow.store.settle()
    assert slow.store.asked == []
    look.answer()
    assert [asked.verb for asked in slow.store.asked] == ["read"]
    slow.store.settle()
    assert data(poll.value) == ["0", "1", "2", "3", "4"]
    assert [pushing.value.delivered for pushing in pushes] == [1] * 5
    slow.assert_quiet()


def test_a_push_that_was_accepted_is_not_undone_because_its_sender_left(slow: Here) -> None:
    # twisted/klein#546 (row 25): a lost connection cancels the route's Deferred in the middle of its work.
    poll = slow.poll("bob")
    slow.store.settle()
    for words in ({}, {"key": "k"}):
        pushing = slow.pushing("bob", **words)
        pushing.cancel()
        with pytest.raises(CancelledError):
            _ = pushing.value
        slow.store.settle()
        assert data(poll.value) == ["hi"]
        poll = slow.poll("bob", after=poll.value.cursor)
        slow.store.settle()
    again = slow.pushing("bob", key="k")
    assert again.value.delivered == 1
    slow.store.settle()
    assert poll.parked
    poll.cancel()
    slow.assert_quiet()


def test_a_deletion_that_was_accepted_is_not_undone_because_its_sender_left(slow: Here) -> None:
    slow.pushing("bob")
    slow.store.settle()
    deleting = Outcome(slow.hub.delete("bob"))
    deleting.cancel()
    slow.store.settle()
    assert slow.memory.usage() == Usage(0, 0, 0)


@pytest.mark.parametrize("wait", [25.0, 0.0])
def test_what_was_taken_for_a_reader_that_left_meanwhile_is_given_back(slow: Here, wait: float) -> None:
    slow.pushing("bob")
    slow.store.settle()
    take, behind = slow.take("bob", wait=wait), slow.take("bob")
    look = slow.store.next("take")
    look.look()  # it takes the message, and says so later
    slow.store.settle()
    take.cancel()
    assert behind.parked
    look.answer()
    slow.store.settle()
    assert data(behind.value) == ["hi"]
    slow.assert_quiet()


def test_what_was_taken_for_a_connection_that_is_lost_is_given_back(slow: Here) -> None:
    left: list[bool] = []
    take, behind = slow.take("bob", gone=lambda: bool(left)), slow.take("bob")
    slow.store.settle()
    slow.pushing("bob")
    slow.store.answer(slow.store.asked[0])
    left.append(True)  # and nobody was told yet
    slow.store.settle()
    assert data(behind.value) == ["hi"]
    assert take.parked
    take.cancel()
    slow.assert_quiet()


def test_a_reader_that_leaves_while_it_is_looked_for_is_forgotten(slow: Here) -> None:
    poll = slow.poll("bob")
    poll.cancel()
    assert slow.parked == 0
    slow.pushing("bob")
    slow.store.settle()
    slow.assert_quiet()


def test_takes_with_a_store_that_waits_get_each_message_once(slow: Here) -> None:
    takes = [slow.take("bob", limit=1) for _ in range(3)]
    pushing = slow.pushing("bob", body=["1", "2"])
    slow.store.settle()
    assert data(takes[0].value) == ["1"]
    assert data(takes[1].value) == ["2"]
    assert takes[2].parked
    assert pushing.value.delivered == 2
    takes[2].cancel()
    slow.assert_quiet()


@pytest.mark.parametrize("after", [BEGIN, OLDEST, NOW])
def test_a_wait_that_ends_before_the_first_answer_is_told_its_place(slow: Here, after: Cursor) -> None:
    # "now" itself is no place to go on from: what came since would never be told.
    poll = slow.poll("bob", after=after, wait=1.0)
    slow.clock.advance(1)
    assert poll.parked
    slow.store.settle()
    assert poll.value.cursor.epoch == EPOCH
    slow.assert_quiet()


def test_a_message_that_comes_as_the_wait_ends_is_answered_with(slow: Here) -> None:
    poll, take = slow.poll("bob", wait=1.0), slow.take("bob", wait=1.0)
    slow.pushing("bob")
    slow.store.answer(slow.store.asked[-1])
    slow.clock.advance(1)
    slow.store.settle()
    assert data(poll.value) == data(take.value) == ["hi"]
    slow.assert_quiet()


def test_a_server_that_stops_answers_who_waits_for_the_store(slow: Here) -> None:
    poll, take = slow.poll("bob"), slow.take("bob")
    slow.hub.stop()
    assert poll.parked
    slow.store.settle()
    assert not poll.value
    assert not take.value
    slow.assert_quiet()


def test_a_push_for_waiting_readers_only_reaches_who_waits(slow: Here) -> None:
    # It was retracted before those who waited had looked, and nobody had it.
    poll = slow.poll("bob")
    slow.store.settle()
    pushing = slow.pushing("bob", queue=False)
    slow.store.settle()
    assert data(poll.value) == ["hi"]
    assert pushing.value.delivered == 1
    assert slow.memory.usage() == Usage(0, 0, 0)
    pushing = slow.pushing("bob", queue=False)
    slow.store.settle()
    with pytest.raises(NobodyWaits):
        _ = pushing.value
    assert slow.memory.usage() == Usage(0, 0, 0)
    slow.assert_quiet()


@pytest.mark.parametrize("after", [Cursor(LAST, 2), Cursor(SINCE, 60_000)])
def test_a_history_that_a_store_answers_later_is_read_once_and_goes_on_by_cursor(
    slow: Here, after: Cursor
) -> None:
    slow.pushing("bob", body=["1", "2"])
    there, waiting = slow.poll("bob", after=after), slow.poll("eve", after=after)
    slow.store.settle()
    assert data(there.value) == ["1", "2"]
    slow.pushing("eve", body=["1", "2", "3"])
    slow.store.settle()
    assert data(waiting.value) == ["1", "2", "3"]


@pytest.mark.parametrize("after", [Cursor(LAST, 2), Cursor(SINCE, 60_000)])
def test_a_history_is_refused_where_the_store_goes_away_before_it_was_read(slow: Here, after: Cursor) -> None:
    poll = slow.poll("bob", after=after)
    slow.store.next("read").fail(StoreDown("away"))
    with pytest.raises(StoreDown):
        _ = poll.value


def test_a_time_is_counted_back_from_when_it_was_asked_for(slow: Here) -> None:
    poll = slow.poll("bob", after=Cursor(SINCE, 1_000))
    slow.clock.advance(5)
    slow.pushing("bob", body="1")
    slow.store.settle()
    assert data(poll.value) == ["1"]


def test_at_the_bound_what_a_slow_store_has_is_answered_and_the_rest_refused(clock: Clock) -> None:
    slow = Here(clock, Limits(max_parked=1), slow=True)
    slow.pushing("bob", body=["1", "2"])
    waiting = slow.poll("bob", after=NOW)
    slow.store.settle()
    full = [slow.poll("bob"), slow.take("bob", limit=1), slow.poll("eve"), slow.take("eve")]
    left = slow.take("bob")
    left.cancel()
    slow.store.settle()
    assert data(full[0].value) == ["1", "2"]
    assert data(full[1].value) == ["1"]
    for refused in full[2:]:
        with pytest.raises(ServerFull):
            _ = refused.value
    take = slow.take("bob")
    slow.store.settle()
    assert data(take.value) == ["2"]  # which the one that left has given back
    waiting.cancel()
    slow.assert_quiet()


def test_repeated_pushes_wait_for_the_first_answer(slow: Here) -> None:
    pushes = [slow.pushing("bob", key="k") for _ in range(3)]
    pushes[1].cancel()
    assert [asked.verb for asked in slow.store.asked] == ["append"]
    slow.store.settle()
    assert pushes[0].value == pushes[2].value
    assert pushes[0].value.ids == (f"{EPOCH}-1",)
    with pytest.raises(KeyReused):
        slow.pushing("bob", key="k", body="other")


def test_repeated_pushes_are_all_told_of_a_failure_and_may_be_tried_again(slow: Here) -> None:
    # The second and later ones were answered with nothing at all.
    pushes = [slow.pushing("bob", key="k") for _ in range(3)]
    slow.store.next("append").fail(StoreDown("The store is away."))
    for pushing in pushes:
        with pytest.raises(StoreDown):
            _ = pushing.value
    again = slow.pushing("bob", key="k")
    slow.store.settle()
    assert again.value.ids == (f"{EPOCH}-1",)


def test_a_push_that_fails_after_all_senders_left_belongs_to_no_client(slow: Here) -> None:
    for words in ({}, {"key": "k"}):
        slow.pushing("bob", **words).cancel()
        slow.store.next("append").fail(StoreDown("The store is away."))
    slow.assert_quiet()


def test_a_reader_whose_look_fails_stays_at_its_place(
    slow: Here, expected_failures: list[type[BaseException]]
) -> None:
    expected_failures.append(StoreDown)
    poll = slow.poll("bob")
    slow.store.next("read").fail(StoreDown("The store is away."))
    assert poll.parked
    pushing = slow.pushing("bob")
    slow.store.answer(slow.store.asked[0])
    slow.store.next("read").fail(StoreDown("The store is away."))
    assert poll.parked
    assert pushing.value.delivered == 1
    slow.pushing("bob", body="2")
    slow.store.settle()
    assert data(poll.value) == ["hi", "2"]
    slow.assert_quiet()


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_follower_that_cannot_send_what_was_found_is_noted_and_keeps_no_other_reader_waiting(
    clock: Clock, expected_failures: list[type[BaseException]], is_slow: bool
) -> None:
    slow = Here(clock, Limits(), slow=is_slow)

    def torn(batch: Batch) -> bool:
        raise ZeroDivisionError

    expected_failures.append(ZeroDivisionError)
    follower = slow.hub.follow(("bob",), BEGIN, torn)
    ended = Outcome(follower)
    follower.go_on()
    poll = slow.poll("bob")
    slow.store.settle()
    with capturedLogs() as events:
        pushing = slow.pushing("bob")
        slow.store.settle()
    assert [event["log_failure"].type for event in events if "log_failure" in event] == [ZeroDivisionError]
    assert data(poll.value) == ["hi"]
    assert pushing.value.delivered == 2
    ended.cancel()
    slow.assert_quiet()


def test_readers_of_one_push_whose_looks_fail_leave_no_failure_unhandled(
    slow: Here, expected_failures: list[type[BaseException]]
) -> None:
    expected_failures.append(StoreDown)
    poll, first, second = slow.poll("bob"), slow.take("bob"), slow.take("bob")
    slow.store.settle()
    with capturedLogs() as events:
        pushing = slow.pushing("bob")
        slow.store.answer(slow.store.asked[0])
        while slow.store.asked:
            slow.store.asked.pop(0).fail(StoreDown("The store is away."))
        assert pushing.value.delivered == 2  # one take suffices for the message
        gc.collect()  # a Deferred logs a failure that nobody handled when it is collected
    assert [event["log_format"] for event in events if "Unhandled" in event["log_format"]] == []
    assert [reader.parked for reader in (poll, first, second)] == [True] * 3
    slow.hub.stop()
    slow.store.settle()
    slow.assert_quiet()


def test_a_reader_that_has_no_place_yet_is_told_that_the_store_is_away(slow: Here) -> None:
    poll = slow.poll("bob", after=NOW)
    slow.store.next("read").fail(StoreDown("The store is away."))
    with pytest.raises(StoreDown):
        _ = poll.value
    slow.assert_quiet()


def test_a_wait_that_ends_while_the_store_is_away_is_told_its_place(
    slow: Here, expected_failures: list[type[BaseException]]
) -> None:
    expected_failures.append(StoreDown)
    poll = slow.poll("bob", wait=1.0)
    slow.clock.advance(1)
    slow.store.next("read").fail(StoreDown("The store is away."))
    assert poll.value.cursor == BEGIN
    slow.assert_quiet()


def test_failures_that_no_reader_waits_for_are_logged(
    slow: Here, expected_failures: list[type[BaseException]]
) -> None:
    expected_failures.append(StoreDown)
    slow.hub.sweep()
    slow.store.next("expire").fail(StoreDown("The store is away."))
    slow.pushing("bob")
    slow.store.settle()
    take = slow.take("bob")
    slow.store.settle()
    slow.hub.give_back(take.value)
    slow.store.next("give_back").fail(StoreDown("The store is away."))
    slow.assert_quiet()


@pytest.mark.parametrize("after", [BEGIN, OLDEST, NOW])
def test_a_follower_of_a_slow_store_is_told_everything_once(slow: Here, after: Cursor) -> None:
    # With an empty log, "now" was never settled; a place of another epoch let what came pass by.
    told = Told(slow.hub, "bob", after=after)
    other = Told(slow.hub, "bob", after=Cursor("otherepoch", 500))
    for follower in (told.follower, other.follower):
        follower.go_on()
    first = slow.store.next("read")
    first.look()
    pushes = [slow.pushing("bob", body=str(number)) for number in range(3)]
    while len(slow.store.asked) > 1:
        slow.store.answer(slow.store.asked[-1])
    first.answer()
    slow.store.settle()
    everything = data(slow.memory.read(("bob",), OLDEST, 100, 0.0))
    assert told.data == other.data == everything
    assert sorted(everything) == ["0", "1", "2"]
    assert other.batches[0].gap
    assert all(pushing.value.delivered >= 1 for pushing in pushes)
    for one in (told, other):
        one.ended.cancel()
    slow.assert_quiet()


@pytest.mark.parametrize("fails", [False, True])
def test_a_reader_keeps_nothing_of_a_read_that_has_arrived_or_failed(slow: Here, fails: bool) -> None:
    polled = slow.poll("bob")
    (asked,) = slow.store.asked
    read = weakref.ref(asked.deferred)
    if fails:
        slow.store.asked.clear()
        asked.fail(StoreDown("The store is away."))
    del asked
    slow.store.settle()
    slow.settle()
    gc.collect()
    assert polled.parked
    assert read() is None
    polled.cancel()
    slow.assert_quiet()


def test_a_follower_of_a_slow_store_reads_a_long_backlog_to_its_end(slow: Here) -> None:
    lines = [str(number) for number in range(STREAM_MESSAGES * 3 + 1)]
    slow.pushing("bob", body=lines)
    slow.store.settle()
    told = Told(slow.hub, "bob")
    told.follower.go_on()
    for _ in range(4):
        slow.store.settle()
        slow.settle()
    assert told.data == lines
    told.ended.cancel()
    slow.assert_quiet()


def test_one_readers_failure_keeps_no_other_reader_from_being_woken(
    here: Here, expected_failures: list[type[BaseException]]
) -> None:
    class Torn(MemoryStore):
        """A store that cannot read for bob."""

        def read(
            self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool = True
        ) -> Batch:
            if recipients == ("bob",) and self.sequence:
                raise StoreDown("The store is away.")
            return super().read(recipients, after, limit, now, acks)

    expected_failures.append(StoreDown)
    here.hub.store = Torn(Limits(), epoch=EPOCH)
    bob, everyone = here.poll("bob"), here.poll("*")
    assert here.push("bob").delivered == 2
    assert data(everyone.value) == ["hi"]
    assert bob.parked
    bob.cancel()
    here.assert_quiet()


def test_numbers_go_on_without_holes_for_what_was_kept(here: Here) -> None:
    here.push("bob")
    with pytest.raises(NobodyWaits):
        here.push("bob", queue=False)
    here.push("bob")
    assert numbers(here.poll("bob").value) == [1, 3]


def test_nothing_in_memory_makes_a_deferred_that_is_not_needed(here: Here) -> None:
    for result in (
        here.hub.push(push("bob")),
        here.hub.poll(("bob",), BEGIN),
        here.hub.take(("bob",)),
        here.hub.describe("bob"),
        here.hub.delete("bob"),
    ):
        assert not isinstance(result, Deferred)


def test_a_listing_whose_store_goes_away_fails_with_that(slow: Here) -> None:
    listed = Outcome(Deferred.fromCoroutine(listing(slow.hub, "", "", 10, lambda _: True)))
    slow.store.next("names").deferred.callback(["alice", "bob", "carol"])
    for _ in range(2):
        slow.store.next("describe").deferred.errback(StoreDown())
    slow.store.settle()
    with pytest.raises(StoreDown):
        _ = listed.value
