"""Bayeux sessions by themselves: what each reads, and a place that only goes forward."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import EPOCH, message

from cometd_lite.bayeux.sessions import PRIVATE, BayeuxSession, Browser
from cometd_lite.core.message import NOW, Cursor


@pytest.fixture
def session() -> BayeuxSession:
    return BayeuxSession("me", 10.0, Browser("some"), ack=True)


def test_a_place_never_goes_back_within_the_life_of_a_log(session: BayeuxSession) -> None:
    assert session.place == NOW
    session.advance(Cursor(EPOCH, 9))
    session.advance(Cursor(EPOCH, 5))
    assert session.place == Cursor(EPOCH, 9)
    session.since["a"] = 12
    session.advance(Cursor("another000", 1))
    assert session.place == Cursor("another000", 1)
    assert session.since == {}


def test_what_is_for_it_alone_is_read_from_when_there_may_be_some(session: BayeuxSession) -> None:
    session.subscribed(("a", "b/*"))
    assert (session.reads, session.patterned) == (("a", "b/*"), True)
    session.open_private()
    assert session.reads == ("a", "b/*", PRIVATE + "me")
    session.subscribed(())
    assert session.reads == session.keys == (PRIVATE + "me",)


def test_without_subscriptions_it_stands_somewhere_all_the_same(session: BayeuxSession) -> None:
    assert session.reads == ()
    assert session.keys == (PRIVATE + "me",)


def test_it_wants_what_is_newer_than_one_of_its_subscriptions_to_it(session: BayeuxSession) -> None:
    session.subscribed(("a/*", "a/b"))
    session.since["a/b"] = 9
    assert session.wants(message(9, "a/b"))  # for the pattern is older
    session.since["a/*"] = 9
    assert not session.wants(message(9, "a/b"))
    assert session.wants(message(10, "a/b"))
    assert not session.wants(message(10, "c"))


@pytest.mark.parametrize(
    ("number", "place"), [(3, 9), (4, 9), (2, 5), (True, 5), ("3", 5), (3.0, 5), (None, 5)]
)
def test_a_confirmation_moves_its_place_to_where_that_batch_ended(
    session: BayeuxSession, number: Any, place: int
) -> None:
    session.advance(Cursor(EPOCH, 5))
    session.ack_batch, session.ack_place = 3, Cursor(EPOCH, 9)
    session.confirm(number)
    assert session.place == Cursor(EPOCH, place)
