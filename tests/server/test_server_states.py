"""The states of a connection: the table and its diagram; and the layers of the package."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path
from typing import get_args

import pytest
from served import Served, head, post

import cometd_lite.server
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
        served.connection.answered()
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


def test_the_package_imports_nothing_of_the_rest_and_has_no_import_cycle():
    imports: dict[str, set[str]] = {}
    for file in Path(cometd_lite.server.__file__).parent.glob("*.py"):
        found = imports.setdefault(file.stem, set())
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, f"{file.name} imports from outside of the package"
                found.update([node.module] if node.module else [name.name for name in node.names])
            elif isinstance(node, ast.Import | ast.ImportFrom):
                assert "cometd_lite" not in ast.unparse(node), file.name
    assert list(TopologicalSorter(imports).static_order())
