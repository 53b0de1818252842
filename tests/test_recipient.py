from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cometd_lite.core.recipient import covering, is_pattern, readable, recipient, stored
from cometd_lite.errors import BadRecipient


def matches(pattern: str, name: str) -> bool:
    """Whether a push to the name finds readers of the pattern."""
    return pattern in covering(name)


@pytest.mark.parametrize(
    "name",
    [
        "bob",
        "chat/room1",
        "a/b/c/d",
        "with space",
        " ",
        "日本語/部屋",
        "😀",
        "...",
        "a/...",
        "a*",
        "*a",
        "***",
        "a/*b/c",
        "a$",
        "a/$b",
        "100%",
        "?&=#+;",
        "\u2028",
        "x" * 256,
        "é" * 128,
        "x/" * 15 + "x",
    ],
)
def test_a_mailbox_can_have_any_name_that_the_contract_allows(name: str) -> None:
    assert recipient(name) == name
    assert readable(name) == name
    assert not is_pattern(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/bob",
        "bob/",
        "a//b",
        ".",
        "..",
        "a/./b",
        "../a",
        "a/..",
        "a\x00b",
        "a\nb",
        "a\r",
        "\x7f",
        "\x85",
        "\ud800",
        "$x",
        "$listeners",
        "$",
        "x" * 257,
        "é" * 129,
        "*/a",
        "**/a",
        "a/*/b",
        "a/**/b",
    ],
)
def test_a_name_that_the_contract_forbids_is_refused_to_writers_and_readers(name: str) -> None:
    for check in (recipient, readable):
        with pytest.raises(BadRecipient):
            check(name)


def test_a_name_has_at_most_16_segments_and_a_patterns_star_is_one_of_them() -> None:
    for name in ("x/" * 16 + "x", "x/" * 16 + "*", "x/" * 16 + "**"):
        with pytest.raises(BadRecipient, match="16 segments"):
            readable(name)
    assert readable("x/" * 15 + "**")


def test_a_store_may_hold_a_name_of_more_segments_but_none_that_breaks_another_rule() -> None:
    assert stored("x/" * 100 + "x")
    for name in ("x/" * 100, "x/" * 100 + "*", "$" + "x/" * 100 + "x"):
        with pytest.raises(BadRecipient):
            stored(name)


@pytest.mark.parametrize("name", ["*", "**", "a/*", "a/**", "a/b/*"])
def test_a_pattern_can_be_read_but_not_pushed_to(name: str) -> None:
    assert readable(name) == name
    assert is_pattern(name)
    with pytest.raises(BadRecipient):
        recipient(name)


@pytest.mark.parametrize("name", ["/*", "/**", "//*", "a//*", "$x/*", "*/*", "**/**", "../*", "a/\n/*"])
def test_what_stands_before_a_patterns_star_is_a_name_or_nothing(name: str) -> None:
    # "/*" was let through: what stands before its slash is empty, as before the star of "*".
    with pytest.raises(BadRecipient):
        readable(name)


def test_a_name_is_found_by_itself_and_its_patterns() -> None:
    assert covering("bob") == ("bob", "*", "**")
    assert covering("chat/a/b") == ("chat/a/b", "chat/a/*", "chat/a/**", "chat/**", "**")


def test_one_star_is_one_more_segment_and_two_are_one_or_more() -> None:
    assert matches("chat/*", "chat/a")
    assert not matches("chat/*", "chat/a/b")
    assert not matches("chat/*", "chat")
    assert matches("chat/**", "chat/a")
    assert matches("chat/**", "chat/a/b")
    assert not matches("chat/**", "chat")
    assert not matches("chat/**", "chatter/a")
    assert matches("*", "bob")
    assert not matches("*", "chat/a")
    assert matches("**", "chat/a/b")


def test_the_servers_own_names_and_those_of_listeners_are_in_no_pattern() -> None:
    assert covering("$listeners") == ("$listeners",)
    assert covering("~" + "0f" * 20) == ("~" + "0f" * 20,)
    assert covering("~bob") == ("~bob", "*", "**")


@given(st.text(max_size=300))
def test_whatever_arrives_is_a_name_or_refused(name: str) -> None:
    try:
        readable(name)
    except BadRecipient:
        return
    assert 1 <= len(name.encode()) <= 256 + len("/**")
    assert all(name.split("/"))


segments = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4)


@given(segments, segments, st.sampled_from(["", "*", "**"]))
def test_patterns_cover_exactly_what_their_segments_say(head: list[str], name: list[str], star: str) -> None:
    pattern = "/".join([*head, star] if star else head)
    if star == "":
        covered = name == head
    elif star == "*":
        covered = name[:-1] == head
    else:
        covered = len(name) > len(head) and name[: len(head)] == head
    assert matches(pattern, "/".join(name)) is covered
