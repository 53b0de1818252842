from __future__ import annotations

from math import inf

import pytest
from helpers import data, message, numbers
from hypothesis import given
from hypothesis import strategies as st

from cometd_lite.core.mailbox import Mailbox
from cometd_lite.errors import MailboxFull


def mailbox(*of: int, body: str = "hi") -> Mailbox:
    """Return a mailbox with these messages."""
    made = Mailbox("bob")
    for number in of:
        made.append(message(number, body=body))
    return made


def take(box: Mailbox, limit: int = 100) -> list[int]:
    taken = list(box.untaken(limit))
    for one in taken:
        box.take(one)
    return numbers(taken)


def drop(box: Mailbox, count: int = 1) -> list[int]:
    going = box.messages[:count]
    box.drop(going)
    return numbers(going)


def fits(box: Mailbox, count: int = 1, size: int = 2, *, capacity: int = 3, reject: bool = True) -> list[int]:
    """Return which messages must go before so many more fit."""
    return numbers(box.in_the_way(count, size, capacity, 100, reject=reject))


# -- reading


def test_a_reader_gets_what_comes_after_its_place_in_order() -> None:
    box = mailbox(2, 3, 7, 9)
    assert numbers(box.read(0, 100)) == [2, 3, 7, 9]
    assert numbers(box.read(3, 100)) == [7, 9]
    assert numbers(box.read(5, 100)) == [7, 9]
    assert numbers(box.read(7, 100)) == [9]
    assert numbers(box.read(9, 100)) == []
    assert numbers(box.read(2, 2)) == [3, 7]
    assert numbers(Mailbox("bob").read(0, 100)) == []


def test_reading_twice_gives_the_same_twice() -> None:
    box = mailbox(1, 2)
    assert numbers(box.read(0, 100)) == numbers(box.read(0, 100)) == [1, 2]


def test_two_messages_of_one_moment_are_both_read() -> None:
    # jcuga/golongpoll#19 (row 1): two events in one millisecond, and the second was never seen.
    box = mailbox(1, 2)
    assert box.messages[0].created_at == box.messages[1].created_at
    assert numbers(box.read(1, 100)) == [2]


@given(st.sets(st.integers(1, 30)), st.integers(0, 31), st.integers(1, 5))
def test_a_read_is_what_a_list_would_say(held: set[int], after: int, limit: int) -> None:
    box = mailbox(*sorted(held))
    assert numbers(box.read(after, limit)) == [number for number in sorted(held) if number > after][:limit]


# -- taking


def test_each_message_is_taken_once_oldest_first() -> None:
    box = mailbox(1, 2, 3)
    assert take(box, 2) == [1, 2]
    assert take(box, 2) == [3]
    assert take(box) == []
    box.append(message(4))
    assert take(box) == [4]


def test_what_was_taken_is_still_read_by_cursor() -> None:
    box = mailbox(1, 2)
    take(box)
    assert numbers(box.read(0, 100)) == [1, 2]


def test_what_was_given_back_is_taken_again_before_all_else() -> None:
    box = mailbox(1, 2, 3)
    take(box, 2)
    box.give_back(box.messages[1])
    box.give_back(box.messages[0])
    assert take(box, 1) == [1]
    assert take(box) == [2, 3]
    assert take(box) == []
    assert box.given_back == frozenset()


def test_a_limit_holds_for_what_was_given_back_too() -> None:
    box = mailbox(1, 2, 3)
    for one in list(box.messages):
        box.take(one)
        box.give_back(one)
    assert take(box, 2) == [1, 2]
    assert take(box, 2) == [3]


# -- gaps


def test_a_reader_before_a_dropped_message_has_a_gap_and_one_behind_it_has_none() -> None:
    box = mailbox(3, 5, 8)
    assert not box.gap(0)
    assert drop(box, 2) == [3, 5]
    assert box.gap(0)
    assert box.gap(4)
    assert not box.gap(5)
    assert numbers(box.read(0, 100)) == [8]


def test_a_message_that_was_not_to_be_kept_leaves_no_gap() -> None:
    box = mailbox(1, 2, 3)
    box.retract(box.messages[1])
    assert numbers(box.messages) == [1, 3]
    assert not box.gap(0)
    assert box.size == 4


def test_a_take_that_missed_a_message_is_to_be_told() -> None:
    box = mailbox(1, 2, 3)
    take(box, 1)
    drop(box)
    assert not box.missed
    drop(box)
    assert box.missed


def test_a_message_given_back_after_it_was_lost_was_missed() -> None:
    box = mailbox(1, 2)
    one = box.messages[0]
    take(box)
    drop(box)
    assert not box.missed
    box.give_back(one)
    assert box.missed
    assert take(box) == []


def test_a_message_lost_after_it_was_given_back_was_missed() -> None:
    box = mailbox(1, 2)
    take(box)
    box.give_back(box.messages[0])
    drop(box)
    assert box.missed
    assert take(box) == []


def test_a_message_that_was_not_to_be_kept_and_is_given_back_was_not_missed() -> None:
    box = mailbox(1, 2)
    take(box)
    two = box.messages[1]
    box.retract(two)
    box.give_back(two)
    assert not box.missed
    assert take(box) == []


# -- bounds


def test_a_mailbox_below_its_bounds_has_room() -> None:
    assert fits(mailbox(1, 2)) == []
    assert fits(Mailbox("bob"), count=3) == []


def test_a_full_mailbox_of_unread_messages_rejects() -> None:
    # slact/nchan#70 (row 13), wandenberg/nginx-push-stream-module#33: what is full says so.
    box = mailbox(1, 2, 3)
    with pytest.raises(MailboxFull) as caught:
        fits(box)
    assert "bob" in caught.value.detail
    assert caught.value.retry_after is not None
    assert numbers(box.messages) == [1, 2, 3]


def test_a_full_mailbox_drops_its_oldest_where_that_is_asked_for() -> None:
    # cometd/cometd#323, #794 (row 14): a slow client does not grow a queue until memory is gone.
    box = mailbox(1, 2, 3)
    assert fits(box, reject=False) == [1]
    assert fits(box, count=3, reject=False) == [1, 2, 3]


def test_what_a_reader_acknowledged_makes_room() -> None:
    box = mailbox(1, 2, 3)
    box.acknowledge(2)
    assert fits(box) == [1]
    assert fits(box, count=2) == [1, 2]
    with pytest.raises(MailboxFull):
        fits(box, count=3)


def test_an_acknowledgement_is_never_taken_back() -> None:
    box = mailbox(1, 2, 3)
    box.acknowledge(2)
    box.acknowledge(1)
    assert box.acknowledged == 2


@pytest.mark.parametrize("going", [0, 1, 2])
def test_any_message_may_be_dropped(going: int) -> None:
    box = mailbox(1, 2, 3)
    box.drop([box.messages[going]])
    assert numbers(box.messages) == [number for number in (1, 2, 3) if number != going + 1]
    box.check_invariants()


def test_what_a_take_had_makes_room_unless_it_was_given_back() -> None:
    box = mailbox(1, 2, 3)
    take(box, 2)
    assert fits(box) == [1]
    box.give_back(box.messages[0])
    # Only the second was read: it goes, though an older one stays.
    assert fits(box) == [2]
    with pytest.raises(MailboxFull):
        fits(box, count=2)
    box.drop([box.messages[1]])
    assert numbers(box.messages) == [1, 3]
    assert take(box) == [1, 3]
    assert not box.missed


def test_bytes_fill_a_mailbox_too() -> None:
    box = mailbox(1, 2, 3, body="x" * 30)
    assert fits(box, size=10, capacity=100) == []
    with pytest.raises(MailboxFull):
        fits(box, size=11, capacity=100)
    assert fits(box, size=11, capacity=100, reject=False) == [1]
    assert fits(box, size=41, capacity=100, reject=False) == [1, 2]


@pytest.mark.parametrize("reject", [True, False])
@pytest.mark.parametrize(("count", "size"), [(4, 4), (1, 101)])
def test_what_does_not_fit_into_an_empty_mailbox_is_refused(count: int, size: int, *, reject: bool) -> None:
    box = mailbox(1)
    box.acknowledge(1)
    with pytest.raises(MailboxFull, match="does not fit"):
        fits(box, count=count, size=size, reject=reject)


def test_the_size_is_that_of_the_bodies_kept() -> None:
    box = mailbox(1, 2, body="12345")
    assert box.size == 10
    drop(box)
    assert box.size == 5
    drop(box)
    assert box.size == 0


def test_unread_is_what_no_reader_has_had() -> None:
    assert (mailbox().unread, mailbox().read_already(10)) == ([], [])
    box = mailbox(1, 2, 3, 4)
    assert numbers(box.unread) == [1, 2, 3, 4]
    box.acknowledge(1)
    assert numbers(box.unread) == [2, 3, 4]
    assert numbers(box.read_already(10)) == [1]
    take(box, 3)
    box.give_back(box.messages[2])
    assert numbers(box.unread) == [3, 4]
    assert numbers(box.read_already(10)) == [1, 2]
    box.acknowledge(9)
    assert numbers(box.unread) == []
    assert numbers(box.read_already(10)) == [1, 2, 3, 4]


# -- expiry


def test_a_message_expires_when_its_time_is_over_and_not_before() -> None:
    box = Mailbox("bob")
    for number, expires_at in ((1, 10.0), (2, 20.0), (3, 20.0), (4, 30.0)):
        box.append(message(number, expires_at=expires_at))
    assert numbers(box.expire(9.9, 10)) == []
    assert box.next_expiry == 10.0
    assert numbers(box.expire(10.0, 10)) == [1]
    assert box.next_expiry == 20.0
    assert numbers(box.expire(25.0, 10)) == [2, 3]
    assert numbers(box.expire(1e9, 10)) == [4]
    assert box.next_expiry == inf
    assert box.size == 0


def test_a_message_with_a_short_time_goes_before_its_elders() -> None:
    box = Mailbox("bob")
    for number, expires_at in ((1, 30.0), (2, 10.0), (3, 20.0)):
        box.append(message(number, expires_at=expires_at))
    assert numbers(box.expire(10.0, 10)) == [2]
    assert numbers(box.messages) == [1, 3]
    assert box.gap(1)  # the reader that had the first has missed the second
    assert not box.gap(2)
    assert numbers(box.expire(20.0, 10)) == [3]
    assert numbers(box.expire(30.0, 10)) == [1]


def test_an_expired_message_that_no_take_had_was_missed() -> None:
    box = Mailbox("bob")
    box.append(message(1, expires_at=10.0))
    box.append(message(2, expires_at=20.0))
    take(box, 1)
    box.expire(10.0, 10)
    assert not box.missed
    box.expire(20.0, 10)
    assert box.missed


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(0, 6))
def test_what_expires_is_what_a_list_would_say(times: list[int], now: int) -> None:
    box = Mailbox("bob")
    for number, expires_at in enumerate(times, 1):
        box.append(message(number, body=str(number), expires_at=float(expires_at)))
    expired = box.expire(float(now), 12)
    assert data(expired) == [str(number) for number, at in enumerate(times, 1) if at <= now]
    assert data(box.messages) == [str(number) for number, at in enumerate(times, 1) if at > now]
    assert box.next_expiry == min([at for at in times if at > now], default=inf)
    assert box.size == sum(len(body) for body in data(box.messages))
    box.append(message(99, expires_at=2.5))
    assert box.next_expiry <= 2.5
