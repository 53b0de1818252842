"""What an embedding program's hooks are told of requests, by both ways in which the routes are served."""

from __future__ import annotations

from typing import Any

import pytest
from wires import Stream, WebSocket


@pytest.fixture
def heard() -> list[Any]:
    return []


@pytest.fixture
def server(serve, heard):
    return serve(
        on_push=lambda message: heard.append(("push", message.recipient, message.data)),
        on_park=lambda names: heard.append(("park", *names)),
        on_leave=lambda names: heard.append(("leave", *names)),
    )


def told(server, heard):
    """Let the hooks be called, and return what they were told since."""
    server.advance(0)
    since, heard[:] = list(heard), []
    return since


def test_a_poll_that_is_answered_a_take_that_ends_and_a_client_that_leaves(server, heard):
    poll = server.park("/poll/bob?after=now")
    assert told(server, heard) == [("park", "bob")]
    server.push("/bob", "hi")
    server.driver.flush()
    assert poll.answer.status == 200
    assert told(server, heard) == [("leave", "bob"), ("push", "bob", "hi")]
    server.park("/poll?rcpt=alice&rcpt=carol&wait=1")
    server.advance(2)
    assert told(server, heard) == [("park", "alice", "carol"), ("leave", "alice", "carol")]
    poll = server.park("/poll/bob?after=now")
    poll.hang_up()
    assert told(server, heard) == [("park", "bob"), ("leave", "bob")]


def test_a_push_that_is_refused_or_repeated_is_none(server, heard):
    assert server.ask("POST", "/push/bob?queue=no", "hi").status == 503
    assert server.ask("POST", "/push/bob", "").status == 400
    for _ in range(2):
        server.push("/bob", "once", {"Idempotency-Key": "k"})
    server.push("?rcpt=a&rcpt=b", "both")
    assert told(server, heard) == [("push", "bob", "once"), ("push", "a", "both"), ("push", "b", "both")]


@pytest.mark.parametrize("open_one", [Stream, WebSocket])
def test_a_stream_and_a_socket_are_held_until_they_leave(server, heard, open_one):
    path = "/stream/bob" if open_one is Stream else "/ws/bob"
    reader = open_one(server, path)
    assert told(server, heard) == [("park", "bob")]
    server.push("/bob", "hi")
    assert told(server, heard) == [("push", "bob", "hi")]
    reader.hang_up()
    assert told(server, heard) == [("leave", "bob")]
