"""Namespaces without a server: which one counts, and what may be set."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import push
from twisted.internet.task import Clock

from cometd_lite.comet import Comet
from cometd_lite.core.namespaces import Namespace, Namespaces, own_bounds
from cometd_lite.errors import BodyTooLarge
from cometd_lite.limits import Limits

NESTED = {
    pattern: Namespace(capacity=number)
    for number, pattern in enumerate(
        ["**", "*", "chat/**", "chat/*", "chat/a", "chat/a/**", "chat/a/*", "chat/a/b/c"], start=1
    )
}


@pytest.mark.parametrize(
    ("recipient", "pattern"),
    [
        ("bob", "*"),
        ("team/bob", "**"),
        ("chat", "*"),
        ("chat/b", "chat/*"),
        ("chat/b/c", "chat/**"),
        ("chat/a", "chat/a"),
        ("chat/a/b", "chat/a/*"),
        ("chat/a/b/c", "chat/a/b/c"),
        ("chat/a/b/d", "chat/a/**"),
    ],
)
def test_of_several_namespaces_the_most_specific_counts(recipient: str, pattern: str) -> None:
    assert Namespaces(NESTED).of(recipient) is NESTED[pattern]


@pytest.mark.parametrize("recipient", ["$dead/bob", "$listeners", "~" + "0" * 40])
def test_names_of_the_server_and_of_listeners_are_in_no_namespace(recipient: str) -> None:
    assert Namespaces(NESTED).of(recipient) == Namespace()


def test_what_a_namespace_does_not_set_is_the_servers_own_and_not_that_of_a_wider_one() -> None:
    namespaces = Namespaces(
        {"**": Namespace(capacity=5, ttl=60), "chat/*": Namespace(overflow="drop-oldest")}
    )
    own = own_bounds(Limits(capacity=7, capacity_bytes=8, ttl=9), "reject")
    bounds = namespaces.bounds(own)
    chat = bounds.of("chat/a")
    assert (chat.capacity, chat.capacity_bytes, chat.ttl, chat.overflow) == (7, 8, 9, "drop-oldest")
    bob = bounds.of("bob")
    assert (bob.capacity, bob.capacity_bytes, bob.ttl, bob.overflow) == (5, 8, 60, "reject")


def test_a_body_is_bounded_by_the_narrowest_of_its_recipients() -> None:
    namespaces = Namespaces({"small/*": Namespace(max_body=3), "large/*": Namespace(max_body=30)})
    assert namespaces.largest_body(10) == 30
    assert namespaces.largest_body(100) == 100
    namespaces.check_body(push("large/a", body="x" * 30), 10)
    namespaces.check_body(push("small/a", "large/a", "bob", body="xxx"), 10)
    for recipients, size in ((("small/a", "large/a"), 4), (("large/a", "bob"), 11), (("large/a",), 31)):
        with pytest.raises(BodyTooLarge):
            namespaces.check_body(push(*recipients, body="x" * size), 10)
    with pytest.raises(BodyTooLarge, match="A body for 'small/a' has at most 3 bytes here"):
        namespaces.check_body(push("small/a", body=["xx", "xx"]), 10)


@pytest.mark.parametrize(
    "pattern", ["", "chat/", "/chat", "a//b", "$listeners", "chat/*/x", "a*b/..", "x" * 257]
)
def test_what_is_no_pattern_is_refused_with_a_sentence(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no recipient or pattern: "):
        Namespaces({pattern: Namespace(ttl=1)})


@pytest.mark.parametrize(
    "given",
    [
        *({"capacity": 0}, {"capacity_bytes": -1}, {"ttl": 0}, {"ttl": float("nan")}, {"ttl": float("inf")}),
        *({"max_body": 0}, {"unread_after": -1.0}, {"overflow": "drop"}),
    ],
)
def test_what_holds_for_nothing_is_refused_with_a_sentence(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(ValueError, match=f"^{name} "):
        Namespace(**given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"ttl": "1h"}, "ttl of a namespace is a number, as in ttl=3600, not '1h'"),
        ({"capacity": 1.5}, "capacity of a namespace is a number, as in capacity=50, not 1.5"),
        ({"max_body": True}, "max_body of a namespace is a number, as in max_body=1024, not True"),
        ({"presence": "yes"}, "presence of a namespace is True or False, not 'yes'"),
    ],
)
def test_what_is_of_another_type_is_refused_with_what_is_right(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        Namespace(**given)


@pytest.mark.parametrize("given", [{"chat/**": {"ttl": 60}}, {"chat/**": None}, ["chat/**"], {7: None}])
def test_what_is_no_namespace_is_refused_by_a_comet_with_an_example(given: Any) -> None:
    with pytest.raises(TypeError, match=r"as in (\{'chat/\*\*': Namespace\(ttl=60\)\}|'chat/\*\*'), not "):
        Comet(namespaces=given, clock=Clock())
