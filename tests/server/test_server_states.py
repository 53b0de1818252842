"""The states of a connection: the table, its diagram, and the way through them."""

from __future__ import annotations

from typing import get_args

import pytest
from served import Served, head, post

from cometd_lite.server import Bounds, states
from cometd_lite.server.states import TRANSITIONS, Event, State


def test_the_diagram_is_the_table():
    rows = [line.split()[:3] for line in (states.__doc__ or "").splitlines()]
    drawn = {(row[0], row[1], row[2]) for row in rows if row and row[0] in get_args(State)}
    listed = {
        (state, event, following)
        for state, moves in TRANSITIONS.items()
        for event, following in moves.items()
        if event != "lose"
    }
    assert drawn == listed
    assert [state for state, moves in TRANSITIONS.items() if moves.get("lose") != "CLOSED"] == ["CLOSED"]


def test_the_table_knows_each_state_and_event():
    assert set(TRANSITIONS) == set(get_args(State))
    assert {event for moves in TRANSITIONS.values() for event in moves} == set(get_args(Event))


def test_what_the_table_does_not_list_is_an_error():
    served = Served()
    with pytest.raises(KeyError):
        served.connection.answered(served.connection.request)
    served.lose()


def test_a_connection_goes_through_its_states():
    served = Served(bounds=Bounds(linger_seconds=1))
    seen = [served.connection.state]
    for data in (post("/poll/x", b"body")[:-1], b"y", head("GET", "/poll/a"), b""):
        if data:
            served.send(data)
        else:
            served.routes.wake("a", b"mail")
        seen.append(served.connection.state)
    served.send(b"bad\r\n\r\n")
    seen.append(served.connection.state)
    served.ticks(2)
    seen.append(served.connection.state)
    served.lose()
    seen.append(served.connection.state)
    assert seen == ["HEAD", "BODY", "HEAD", "SERVING", "HEAD", "LINGERING", "CLOSING", "CLOSED"]
