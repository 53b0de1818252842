from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import cometd_lite
from cometd_lite.errors import CometError
from cometd_lite.http.bodies import contents
from cometd_lite.http.exchange import Exchange
from cometd_lite.http.params import Fields, LastPoll, poll, poll_asked, push, push_asked
from cometd_lite.limits import REMEMBERED_BYTES
from cometd_lite.server.bounds import Bounds
from cometd_lite.server.head import Head, parse_block
from cometd_lite.server.router import Target

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


@dataclass
class Asking:
    """What is looked at of an exchange."""

    query: bytes
    head: Head
    target: Target
    method = b"GET"


@pytest.mark.parametrize("length", [0, 500])
@pytest.mark.parametrize("excess", [0, 1])
def test_what_a_request_asks_is_remembered_up_to_a_size(length: int, excess: int) -> None:
    head = parse_block(b"Prefer: %b\r\n\r\n" % (b"x" * length), Bounds())
    text = b"after=now&_=".ljust(REMEMBERED_BYTES - length + excess, b"x")
    asking = cast(Exchange, Asking(text, head, Target(b"GET", b"/poll/bob", cast(Any, None), "bob")))
    asked, *_ = poll(asking, "bob", 60.0, frozenset())
    assert asked.recipients == ("bob",)
    assert (asking.target.memo is None) == bool(excess)


@pytest.mark.parametrize("excess", [0, 1])
def test_what_a_push_asks_is_remembered_up_to_a_size(excess: int) -> None:
    text = b"ttl=3&_=".ljust(REMEMBERED_BYTES + excess, b"x")
    target = Target(b"POST", b"/push/bob", cast(Any, None), "bob")
    asking = cast(Exchange, Asking(text, parse_block(b"Host: x\r\n\r\n", Bounds()), target))
    assert push(asking, "bob", frozenset()).ttl == 3.0
    assert (target.memo is None) == bool(excess)


def test_a_push_is_asked_by_its_path_alone_or_by_its_query() -> None:
    assert push_asked("bob", b"") == push_asked(None, b"rcpt=bob") == push_asked("bob", b"queue=yes")
    with pytest.raises(CometError):
        push_asked("**", b"")
    with pytest.raises(CometError):
        push_asked(None, b"")


LONG = 200_000
"""A pattern that is quadratic takes a minute for so many characters, and a linear one some milliseconds."""


def ask_with(query: bytes = b"", **fields: bytes) -> None:
    names = ("accept", "prefer", "if_none_match", "last_event_id")
    some = {name: fields.get(name) for name in names}
    given_fields = Fields(None, None, **some, content_type=None, content_encoding=None, idempotency_key=None)
    poll_asked("bob", query, given_fields, 60.0, look=False)


def longest_of(piece: bytes) -> bytes:
    return piece * (LONG // len(piece))


WORST: dict[str, Callable[[], object]] = {
    "accept: spaces": lambda: ask_with(accept=b"text/plain;" + longest_of(b" ")),
    "accept: spaces and a weight": lambda: ask_with(accept=b"text/plain;" + longest_of(b" ") + b"q=0x"),
    "accept: semicolons": lambda: ask_with(accept=b"text/plain" + longest_of(b";") + b"x"),
    "accept: weights": lambda: ask_with(accept=b"text/plain" + longest_of(b";q=0.") + b"x"),
    "accept: zeros": lambda: ask_with(accept=b"text/plain;q=0." + longest_of(b"0") + b"x"),
    "accept: zeros before a point": lambda: ask_with(accept=b"text/plain;q=" + longest_of(b"0") + b"x"),
    "accept: spaces and zeros": lambda: ask_with(accept=b"text/plain;q=" + longest_of(b" 0") + b"x"),
    "accept: ranges": lambda: ask_with(accept=longest_of(b"text/a,")),
    "prefer: spaces before": lambda: ask_with(prefer=longest_of(b" ") + b"x"),
    "prefer: spaces behind": lambda: ask_with(prefer=b"wait=1" + longest_of(b" ") + b"x"),
    "prefer: spaces inside": lambda: ask_with(prefer=b"wait" + longest_of(b" ") + b"x"),
    "prefer: digits": lambda: ask_with(prefer=b"wait=" + longest_of(b"1") + b"x"),
    "prefer: waits": lambda: ask_with(prefer=longest_of(b"wait=1 x,")),
    "validator: spaces": lambda: ask_with(if_none_match=b"x," + longest_of(b" ") + b'"a"b'),
    "validator: spaces behind": lambda: ask_with(if_none_match=b'"a"' + longest_of(b" ") + b"b"),
    "validator: letters": lambda: ask_with(if_none_match=longest_of(b"x") + b" y"),
    "validator: dashes": lambda: ask_with(if_none_match=longest_of(b"-") + b"x"),
    "validator: codings": lambda: ask_with(if_none_match=longest_of(b"-gzip") + b"x"),
    "cursor: digits": lambda: ask_with(last_event_id=b"0123456789-" + longest_of(b"1")),
    "query: cursors": lambda: ask_with(longest_of(b"after=0123456789-1&")),
    "query: wait": lambda: ask_with(b"after=now&wait=" + longest_of(b"1") + b"x"),
    "query: wait with zeros": lambda: ask_with(b"after=now&wait=1." + longest_of(b"0") + b"e"),
    "query: limit": lambda: ask_with(b"after=now&limit=" + longest_of(b"1")),
    "name: slashes": lambda: push_asked(longest_of(b"/").decode(), b""),
    "name: segments": lambda: push_asked(longest_of(b"a/").decode(), b""),
    "event: letters": lambda: push_asked("bob", b"event=" + longest_of(b"x")),
    "ttl: digits": lambda: push_asked("bob", b"ttl=" + longest_of(b"1") + b"x"),
    "type: token": lambda: contents(b"x", longest_of(b"a")),
    "type: slashes": lambda: contents(b"x", longest_of(b"a/")),
    "type: spaces": lambda: contents(b"x", b"text/plain" + longest_of(b" ") + b"x"),
    "type: semicolons": lambda: contents(b"x", b"text/plain" + longest_of(b";") + b"\n"),
}


@pytest.mark.parametrize("ask", WORST.values(), ids=WORST)
def test_the_worst_that_a_client_can_send_is_read_in_linear_time(ask: Callable[[], object]) -> None:
    began = time.perf_counter()
    told(ask)
    assert time.perf_counter() - began < 1.0


def test_no_pattern_repeats_a_group_possessively() -> None:
    # CPython before 3.11.5 matches such a group wrongly: gh-106052.
    sources = Path(cometd_lite.__file__).parent.rglob("*.py")
    found = [path.name for path in sources if re.search(r"[^\\(]\)[*+?]\+", path.read_text("utf-8"))]
    assert not found


@pytest.mark.parametrize("after", [b"after=now&", b"after=0123456789-1&", b""])
def test_what_was_asked_is_remembered_in_linear_time(after: bytes) -> None:
    text = after + longest_of(b"&b") + b"%" + longest_of(b"after=0123456789-1&")
    began = time.perf_counter()
    LastPoll(text, PLAIN, *poll_asked("bob", b"after=now", PLAIN, 60.0, look=False))
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (b"text/plain", "raw"),
        (b"text/plain ; q=0.5", "raw"),
        (b"text/plain;q=0, application/json", "json"),
        (b"text/plain;q=1, application/json ; Q = 0.000 ", "raw"),
        (b"text/plain, application/json;q=0.001", "json"),
        (b"text/plain;level=1;q=0", "json"),
        (b"text/plain;q=0;level=1", "json"),
    ],
)
def test_a_media_range_of_weight_0_is_not_accepted(accept: bytes, form: str) -> None:
    asked, _ = poll_asked("bob", b"after=now", Fields(None, None, accept, *[None] * 6), 60.0, look=False)
    assert asked.form == form
