"""The fields of Bayeux messages: what they may be, and the errors of those that may not."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cometd_lite.bayeux.fields import (
    CHANNEL,
    CONNECTION_TYPES,
    PATTERN,
    argument,
    content_of,
    is_texts,
    milliseconds,
    plain_name,
    read,
    refused,
    time_of,
    types_error,
    unknown,
    version_error,
)
from cometd_lite.errors import BadBody, BodyTooLarge, ServerFull


@pytest.mark.parametrize("channel", ["/a", "/chat/room1", "/foo-bar/(foobar)", "/a_!~$@.b", "/a#b/{c}+d"])
def test_a_channel_has_segments_of_what_clients_write(channel: str) -> None:
    assert CHANNEL.fullmatch(channel)
    assert not PATTERN.fullmatch(channel)


@pytest.mark.parametrize("pattern", ["/*", "/**", "/a/*", "/a/b/**"])
def test_a_wildcard_is_a_last_segment(pattern: str) -> None:
    assert PATTERN.fullmatch(pattern)
    assert not CHANNEL.fullmatch(pattern)


@pytest.mark.parametrize(
    "text", ["", "/", "a", "//", "/a/", "/a b", "/a*", "/*/a", "/a/***", "/ä", "/a\n", "/a/*\n"]
)
def test_anything_else_is_neither(text: str) -> None:
    assert not CHANNEL.fullmatch(text)
    assert not PATTERN.fullmatch(text)


@pytest.mark.parametrize(
    ("channel", "name"),
    [("/a/b", "a/b"), ("/meta/x", None), ("/service/x", None), ("/a/*", None), ("/..", None), ("a", None)],
)
def test_the_name_of_an_ordinary_channel_is_its_recipient(channel: str, name: str | None) -> None:
    assert plain_name(channel) == name


def test_errors_say_what_they_are_about_in_what_may_stand_there() -> None:
    assert refused(ServerFull("full"), "/a:b\n<c>") == "503:/a_b__c_:server-full"
    assert refused(ServerFull("full")) == "503::server-full"
    assert argument("x" * 1_000) == "x" * 64
    assert argument(17) == ""
    assert unknown({"clientId": "nobody"}) == "402::session_unknown"
    assert unknown({}) == "401::client_id_missing"


@given(st.none() | st.booleans() | st.text() | st.lists(st.integers()) | st.just({}))
def test_what_is_no_number_is_no_time(value: Any) -> None:
    assert milliseconds(value) is None
    assert time_of(value) is None


def test_times_are_within_history_and_waits_not_negative() -> None:
    assert (milliseconds(0), milliseconds(1.5), milliseconds(-1)) == (0, 1.5, None)
    assert (time_of(-5), time_of(1e15), time_of(1e16)) == (-5, 1e15, None)


def test_texts_are_one_or_several() -> None:
    assert is_texts("a")
    assert is_texts(["a", "b"])
    assert not is_texts(["a", 1])
    assert not is_texts({"a": 1})


@pytest.mark.parametrize("kind", CONNECTION_TYPES)
def test_one_connection_type_in_common_is_enough(kind: str) -> None:
    assert types_error({"supportedConnectionTypes": ["other", kind]}) is None
    assert types_error({"supportedConnectionTypes": ["other"]}) == "301::no_common_connection_type"
    assert types_error({"supportedConnectionTypes": kind}) == "400::supported_connection_types_invalid"


@pytest.mark.parametrize("version", ["1.0", "1.9", "1.0.1-rc1"])
def test_versions_beside_ours_are_common(version: str) -> None:
    assert version_error({"version": version}) is None


@pytest.mark.parametrize("version", ["", "1.", ".1", "x", "1.0\n", "1" * 10, 1.0, None, "1" + ".0" * 9])
def test_what_is_no_version_is_an_error(version: Any) -> None:
    assert version_error({"version": version}) == "400::version_invalid"


def test_data_that_json_cannot_say_is_refused() -> None:
    assert content_of({"a": [1]}).body == b'{"a":[1]}'
    with pytest.raises(BadBody):
        content_of({"a": object()})


@pytest.mark.parametrize("element", ["1e9999", "1", "{}", "[]", '{"channel":"/a"}'])
def test_far_too_many_messages_are_refused_before_they_are_read(element: str) -> None:
    # A megabyte of numbers that are larger than a float took six seconds.
    text = f"[{','.join([element] * (1_000_000 // len(element)))}]".encode()
    began = time.thread_time()
    with pytest.raises(BodyTooLarge):
        read(text)
    assert time.thread_time() - began < 0.3


MUCH = {
    "numbers": ('{"channel":"/a","ext":[', "1e400", "]}"),
    "arrays": ('{"channel":"/a","ext":[', "[]", "]}"),
    "objects": ('{"channel":"/a","advice":[', "{}", "]}"),
    "an array in the place of a message": ("[[", "[]", "]]"),
    "members": ("{", '"a":1e400', "}"),
}


@pytest.mark.parametrize("shape", MUCH)
def test_far_too_many_values_are_refused_before_they_are_made(shape: str) -> None:
    before, value, behind = MUCH[shape]
    text = f"{before}{','.join([value] * (900_000 // len(value)))}{behind}".encode()
    began = time.thread_time()
    with pytest.raises(BodyTooLarge, match="values"):
        read(text)
    assert time.thread_time() - began < 0.1


def test_as_many_values_as_a_client_likes_may_be_in_data() -> None:
    data = "[" + ",".join(["[1e400,{}]"] * 20_000) + "]"
    (message,) = read(f'[{{"channel":"/a","data":{data}}}]'.encode())
    assert bytes(message["data"]) == data.encode()
