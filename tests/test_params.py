from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cometd_lite.errors import CometError
from cometd_lite.http.params import Fields, LastPoll, poll_asked, push_asked

PLAIN = Fields(*[None] * 9)
CONDITIONAL = Fields(b"h", None, None, b"wait=3", b'"0123456789-7"', None, None, None, None)

parameters = st.sampled_from(
    [
        b"after=0123456789-1",
        b"after=0123456789-2",
        b"after=0123456789%2D2",
        b"after=now",
        b"after=yesterday",
        b"after=",
        b"%61fter=now",
        b"hereafter=now",
        b"wait=5",
        b"limit=2",
        b"limit=0",
        b"listener=~x",
        b"rcpt=eve",
        b"format=raw",
        b"",
    ]
)
texts = st.lists(parameters, max_size=4).map(b"&".join)
polls = st.tuples(texts, st.sampled_from([PLAIN, CONDITIONAL]))


def told(ask: Callable[[], Any]) -> Any:
    """Return what is asked, or the error that is answered."""
    try:
        return ask()
    except CometError as error:
        return type(error), str(error)


@given(st.lists(polls, min_size=2, max_size=6))
@example([(b"after=now", PLAIN), (b"after=0123456789-1&", PLAIN)])
@example([(b"after=now", CONDITIONAL), (b"", CONDITIONAL)])
@example([(b"", CONDITIONAL), (b"after=now", CONDITIONAL)])
@example([(b"after=now&after=now", PLAIN), (b"after=now&after=now", PLAIN)])
def test_who_asks_the_same_again_is_given_what_is_asked(polls: list[tuple[bytes, Fields]]) -> None:
    last: LastPoll | None = None
    for text, given_fields in polls:
        expected = told(partial(poll_asked, "bob", text, given_fields, 60.0, look=False))
        known = False if last is None else told(partial(last.matches, text, given_fields))
        if known is True:
            assert last is not None
            assert (last.asked, last.after) == expected
        elif known is not False:
            assert known == expected
        elif not isinstance(expected[0], type):
            last = LastPoll(text, given_fields, *expected)


@pytest.mark.parametrize("rest", [b"", b"&wait=5", b"&wait=5&limit=3"])
def test_another_cursor_is_seen_without_looking_at_the_rest(rest: bytes) -> None:
    first = b"after=0123456789-1" + rest
    last = LastPoll(first, PLAIN, *poll_asked("bob", first, PLAIN, 60.0, look=False))
    assert last.matches(b"after=0123456789-22" + rest, PLAIN)
    assert str(last.after) == "0123456789-22"
    assert not last.matches(b"after=0123456789-22&limit=4" + rest, PLAIN)


def test_a_push_is_asked_by_its_path_alone_or_by_its_query() -> None:
    assert push_asked("bob", b"") == push_asked(None, b"rcpt=bob") == push_asked("bob", b"queue=yes")
    with pytest.raises(CometError):
        push_asked("**", b"")
    with pytest.raises(CometError):
        push_asked(None, b"")
