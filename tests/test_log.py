from __future__ import annotations

from helpers import message, numbers
from hypothesis import given
from hypothesis import strategies as st

from cometd_lite.stores.log import Log

MANY = 2_000
"""More than three parts of a log."""


def log(*kept: int) -> Log:
    made = Log()
    for number in kept:
        made.add(message(number))
    return made


def test_the_messages_after_a_number_are_read_in_order_up_to_a_limit() -> None:
    made = log(*range(1, MANY))
    assert numbers(made.after(0, 3)) == [1, 2, 3]
    assert numbers(made.after(510, 5)) == [511, 512, 513, 514, 515]
    assert numbers(made.after(1, 1_500)) == list(range(2, 1_502))
    assert numbers(made.after(MANY - 2, 5)) == [MANY - 1]
    assert numbers(made.after(MANY, 5)) == []
    assert numbers(log().after(0, 5)) == []


def test_a_message_is_removed_once_and_only_that_one() -> None:
    made = log()
    kept = [message(number) for number in (3, 5)]
    for one in kept:
        made.add(one)
    assert not made.remove(message(5))  # another message of the same number
    assert not made.remove(message(4))
    assert not made.remove(message(1))
    assert made.remove(kept[0])
    assert not made.remove(kept[0])
    assert numbers(made) == [5]
    assert len(made) == 1


@given(st.integers(1, 5), st.integers(2, 600), st.integers(0, 10_000))
def test_a_log_with_holes_reads_as_a_list_does(step: int, every: int, after: int) -> None:
    kept = [message(number) for number in range(1, MANY * step, step)]
    made = Log()
    for one in kept:
        made.add(one)
    for place, one in enumerate(kept):
        if place % every:
            assert made.remove(one)
    made.check_invariants()
    left = [one.sequence for place, one in enumerate(kept) if not place % every]
    assert numbers(made) == left
    assert len(made) == len(left)
    assert numbers(made.after(after, 100)) == [number for number in left if number > after][:100]
    made.add(message(MANY * step))
    made.check_invariants()
