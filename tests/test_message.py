from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from helpers import EPOCH, message, text
from hypothesis import given
from hypothesis import strategies as st

from cometd_lite.core.message import (
    LAST,
    NOW,
    OLDEST,
    SINCE,
    Batch,
    Content,
    Cursor,
    Message,
    Receipt,
    rendered_once,
    shown_size,
    timestamp,
)
from cometd_lite.limits import (
    CURSOR_DIGITS,
    MESSAGE_DEPTH,
    RENDERED_BYTES,
    RENDERED_MESSAGES,
    STREAM_BYTES,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inside: (
        st.lists(inside) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inside)
    ),
    max_leaves=8,
)


# -- cursors


@given(st.integers(0, 10**CURSOR_DIGITS - 1))
def test_a_cursor_is_read_back_from_its_text(sequence: int) -> None:
    cursor = Cursor(EPOCH, sequence)
    assert Cursor.parse(str(cursor)) == cursor


def test_oldest_and_now_are_cursors_too() -> None:
    assert Cursor.parse("oldest") is OLDEST
    assert Cursor.parse("now") is NOW
    assert (str(OLDEST), str(NOW)) == ("oldest", "now")


@pytest.mark.parametrize(
    "word",
    [
        "",
        " ",
        "0",
        "latest",
        "Oldest",
        "NOW",
        "now ",
        "epoch00000",
        "epoch00000-",
        "epoch00000--1",
        "epoch00000-01",
        "epoch00000-1.5",
        "epoch00000-1e3",
        "epoch00000-1\n",
        "epoch00000-\u0661",
        "EPOCH00000-1",
        "epoch0000-1",
        "epoch000000-1",
        " epoch00000-1",
        '"epoch00000-1"',
        "epoch00000-" + "9" * 19,
        "Fri, 20 Nov 2026 10:15:58 GMT",
    ],
)
def test_a_malformed_cursor_is_refused(word: str) -> None:
    # slact/nchan#51, #84 (row 5): odd values of a position must be told, not guessed at.
    with pytest.raises(ValueError, match="cursor"):
        Cursor.parse(word)


@given(st.text())
def test_whatever_arrives_is_a_cursor_or_refused(word: str) -> None:
    try:
        cursor = Cursor.parse(word)
    except ValueError:
        return
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    ("word", "cursor", "text"),
    [
        ("last:1", Cursor(LAST, 1), "last:1"),
        ("last:1000", Cursor(LAST, 1_000), "last:1000"),
        ("since:0", Cursor(SINCE, 0), "since:0"),
        ("since:600", Cursor(SINCE, 600_000), "since:600"),
        ("since:0.25", Cursor(SINCE, 250), "since:0.25"),
        ("since:0090.50", Cursor(SINCE, 90_500), "since:90.5"),
        ("since:99999999.999", Cursor(SINCE, 99_999_999_999), "since:99999999.999"),
    ],
)
def test_a_history_is_a_cursor_in_words(word: str, cursor: Cursor, text: str) -> None:
    assert Cursor.parse(word) == cursor
    assert str(cursor) == text
    assert cursor.is_history
    assert cursor.is_relative


def test_now_depends_on_when_it_is_read_and_any_other_place_does_not() -> None:
    assert NOW.is_relative
    assert not NOW.is_history
    for cursor in (OLDEST, Cursor(EPOCH, 1)):
        assert not cursor.is_relative
        assert not cursor.is_history


def test_what_is_no_cursor_is_told_with_what_is_one() -> None:
    with pytest.raises(ValueError, match=r"'last:1001' is not a cursor: .* last:50 or since:600"):
        Cursor.parse("last:1001")


def test_a_cursor_stays_within_64_bits() -> None:
    assert Cursor.parse(f"{EPOCH}-{'9' * CURSOR_DIGITS}").sequence < 2**63


# -- contents


@pytest.mark.parametrize("media_type", [None, "", " ", "application/x-www-form-urlencoded", "; charset=x"])
def test_what_curl_sends_is_text_where_it_is_utf_8_and_octets_where_it_is_not(media_type: str | None) -> None:
    assert Content.parse("grüß=dich".encode(), media_type) == Content(
        "grüß=dich".encode(), "text/plain; charset=utf-8", "text"
    )
    assert Content.parse(b"\xff\xfe", media_type) == Content(
        b"\xff\xfe", "application/octet-stream", "octets"
    )


@pytest.mark.parametrize(
    ("media_type", "form"),
    [
        ("application/json", "json"),
        ("APPLICATION/JSON; charset=utf-8", "json"),
        ("text/json", "json"),
        ("application/problem+json", "json"),
        ("application/vnd.api+json;v=1", "json"),
        ("text/plain", "text"),
        ("Text/HTML; charset=utf-8", "text"),
        ("image/png", "octets"),
        ("application/xml", "octets"),
    ],
)
def test_a_type_says_how_a_body_is_shown_and_is_kept_as_it_came(media_type: str, form: str) -> None:
    content = Content.parse(b'{"a": 1}', media_type)
    assert (content.form, content.type, content.body) == (form, media_type, b'{"a": 1}')


@pytest.mark.parametrize("media_type", [None, "application/json", "text/plain", "image/png"])
def test_an_empty_body_is_refused(media_type: str | None) -> None:
    with pytest.raises(ValueError, match="empty"):
        Content.parse(b"", media_type)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nope",
        b"{'a': 1}",
        b"1 2",
        b"\xff",
        b" ",
        b"NaN",
        b"[1,]",
        b'"\x01"',
        b"\xef\xbb\xbf1",
        b"[" * 5000,
    ],
)
def test_a_body_that_is_not_the_json_that_its_type_says_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Content.parse(body, "application/json")


def test_a_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        Content.parse(b"gr\xfc\xdf", "text/plain; charset=latin-1")


@pytest.mark.parametrize(
    ("value", "form", "body"),
    [
        (b"\x00", "octets", b"\x00"),
        (bytearray(b"a"), "octets", b"a"),
        (memoryview(b"a"), "octets", b"a"),
        ("grüß", "text", "grüß".encode()),
        ({"text": "hi"}, "json", b'{"text":"hi"}'),
        ([], "json", b"[]"),
        (None, "json", b"null"),
        (0, "json", b"0"),
        (False, "json", b"false"),
    ],
)
def test_python_values_are_contents(value: Any, form: str, body: bytes) -> None:
    content = Content.of(value)
    assert (content.form, content.body) == (form, body)


@pytest.mark.parametrize("value", ["", b"", object(), {"a": object()}, "\ud800", {"a": "\ud800"}])
def test_what_json_cannot_say_and_what_is_empty_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the sentence is msgspec's or Python's
        Content.of(value)


def test_a_content_is_nested_as_deeply_however_it_is_made() -> None:
    value: Any = 1
    for _ in range(MESSAGE_DEPTH):
        value = [value]
    content = Content.of(value)
    assert Content.parse(content.body, "application/json") == content
    with pytest.raises(ValueError, match="nested"):
        Content.of([value])
    with pytest.raises(ValueError, match="nested"):
        Content.parse(b"[%b]" % content.body, "application/json")


# -- messages


def test_a_message_is_never_changed() -> None:
    one = message(1)
    for change in ("cursor", "content", "json"):
        with pytest.raises(AttributeError):
            setattr(one, change, None)


def test_a_messages_id_is_a_cursor_behind_it() -> None:
    one = message(7)
    assert Cursor.parse(one.id) == one.cursor
    assert one.sequence == one.cursor.sequence == 7


def test_a_message_shows_itself_as_the_contract_says() -> None:
    content = Content.of({"text": "hi"})
    shown = Message(Cursor(EPOCH, 3), "bob", content, 1_795_169_758.123, 0.0).json
    assert json.loads(shown) == {
        "id": "epoch00000-3",
        "recipient": "bob",
        "created_at": "2026-11-20T10:15:58.123Z",
        "type": "application/json",
        "data": {"text": "hi"},
    }


def test_a_message_with_an_event_name_shows_it() -> None:
    shown = json.loads(Message(Cursor(EPOCH, 3), "bob", text(), 0.0, 0.0, 'say "hi"').json)
    assert shown["event"] == 'say "hi"'


@given(st.binary(min_size=1), st.sampled_from([None, "image/png", "text/plain"]))
def test_any_body_is_shown_as_it_was(body: bytes, media_type: str | None) -> None:
    try:
        content = Content.parse(body, media_type)
    except ValueError:
        return
    one = Message(Cursor(EPOCH, 1), "bob", content, 0.0, 0.0)
    shown = json.loads(one.json)
    if content.form == "text":
        assert shown["data"] == one.data == body.decode()
        assert "data_base64" not in shown
    else:
        assert base64.b64decode(shown["data_base64"]) == one.data == body
        assert "data" not in shown


@given(json_values, st.sampled_from([None, 2, "\r\n\t"]))
def test_any_json_is_shown_as_it_was_on_one_line(value: Any, indent: Any) -> None:
    body = json.dumps(value, ensure_ascii=False, indent=indent).encode()
    one = Message(Cursor(EPOCH, 1), "bob", Content.parse(body, "application/json"), 0.0, 0.0)
    assert json.loads(one.json)["data"] == one.data == json.loads(body)
    assert b"\n" not in one.json
    assert b"\r" not in one.json


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=64))
def test_any_name_and_event_are_shown_as_they_were(name: str) -> None:
    shown = json.loads(Message(Cursor(EPOCH, 1), name, text(), 0.0, 0.0, name).json)
    assert (shown["recipient"], shown["event"]) == (name, name)


def test_how_the_latest_messages_look_is_made_once() -> None:
    made: list[Message] = []

    @rendered_once
    def look(one: Message) -> bytes:
        made.append(one)
        return b"%d" % one.sequence

    first = message(1)
    assert look(first) == look(first) == b"1"
    assert made == [first]
    namesake = Message(Cursor(EPOCH, 1), "eve", text(), 0.0, 0.0)  # another store's, with the same number
    assert look(namesake) == b"1"
    assert made == [first, namesake]
    for number in range(2, RENDERED_MESSAGES + 2):
        look(message(number))
    made.clear()
    look(namesake)
    assert made == [namesake]


def test_how_a_large_message_looks_is_not_kept() -> None:
    made: list[Message] = []

    @rendered_once
    def look(one: Message) -> bytes:
        made.append(one)
        return b"x" * (RENDERED_BYTES + 1)

    look(one := message(1))
    look(one)
    assert made == [one, one]


@given(st.binary(min_size=1), st.sampled_from([None, "image/png", "text/plain", "application/json"]))
def test_what_a_body_takes_as_json_is_never_underestimated(body: bytes, media_type: str | None) -> None:
    try:
        content = Content.parse(body, media_type)
    except ValueError:
        return
    assert len(content.data()) <= shown_size(content) <= 8 * len(body) + 14


# -- batches, receipts, times


def test_a_batch_is_sent_in_parts_which_make_up_the_whole() -> None:
    sizes = [10, STREAM_BYTES // 2, STREAM_BYTES // 2, 3 * STREAM_BYTES, 10, 10]
    messages = tuple(message(number, body="x" * size) for number, size in enumerate(sizes, 1))
    batch = Batch(messages, Cursor(EPOCH, 9), gap=True, more=False)
    parts = batch.parts
    assert [[one.sequence for one in part.messages] for part in parts] == [[1, 2], [3], [4], [5, 6]]
    assert [part.cursor.sequence for part in parts] == [2, 3, 4, 9]
    assert [part.gap for part in parts] == [True, False, False, False]
    assert [part.more for part in parts] == [True, True, True, False]
    assert batch.parts is parts
    assert Batch(messages, Cursor(EPOCH, 9), more=True).parts[-1].more


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_a_batch_that_is_small_is_its_own_only_part(count: int) -> None:
    batch = Batch(tuple(map(message, range(count))), Cursor(EPOCH, 50))
    assert batch.parts == (batch,)


def test_what_a_batch_looks_like_is_made_once_for_each_form() -> None:
    made: list[str] = []

    def look(batch: Batch) -> str:
        made.append(str(len(batch.messages)))
        return made[-1]

    batch = Batch((message(1),), Cursor(EPOCH, 1))
    assert batch.once("text", look) == batch.once("text", look) == "1"
    assert made == ["1"]
    assert batch.once("another", look) == "1"
    assert made == ["1", "1"]


def test_a_batch_always_has_the_same_shape() -> None:
    # jcuga/golongpoll#3 (row 2): an answer without messages carries the place to go on from, too.
    cursor = Cursor(EPOCH, 3)
    empty = {"messages": [], "cursor": "epoch00000-3", "gap": False, "more": False}
    assert json.loads(Batch((), cursor).json) == empty
    full = json.loads(Batch((message(2), message(3)), cursor, gap=True, more=True).json)
    assert [shown["id"] for shown in full["messages"]] == ["epoch00000-2", "epoch00000-3"]
    assert {**full, "messages": []} == {**empty, "gap": True, "more": True}


def test_a_batch_is_something_to_tell_where_it_has_messages_or_a_gap() -> None:
    cursor = Cursor(EPOCH, 3)
    assert not Batch((), cursor)
    assert Batch((), cursor, gap=True)
    assert Batch((message(3),), cursor)


def test_a_receipt_says_what_the_contract_says() -> None:
    receipt = Receipt(("epoch00000-1", "epoch00000-2"), 1_795_169_758.123, 2, ("bob", "eve"))
    assert json.loads(receipt.json) == {
        "id": "epoch00000-2",
        "ids": ["epoch00000-1", "epoch00000-2"],
        "created_at": "2026-11-20T10:15:58.123Z",
        "delivered": 2,
        "recipients": ["bob", "eve"],
    }


@given(st.integers(0, 4_102_444_800_000))
def test_a_time_is_told_to_the_millisecond(milliseconds: int) -> None:
    told = timestamp(milliseconds / 1000)
    assert told.endswith("Z")
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
    assert datetime.fromisoformat(told) == moment
