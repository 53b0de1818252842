"""``cometd_lite.testing``: that a test of somebody's program sees what the real thing would show it."""

from __future__ import annotations

import pytest
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.resource import IResource

from cometd_lite.client import NoAnswer
from cometd_lite.comet import Comet
from cometd_lite.errors import BadRecipient
from cometd_lite.limits import Limits
from cometd_lite.stores.memory import MemoryStore
from cometd_lite.testing import STARTED_AT, MemoryServer


def test_what_is_pushed_over_http_is_read_over_http() -> None:
    server = MemoryServer()
    server.result(server.client.push("bob", {"text": "hi"}))
    (message,) = server.result(server.client.poll("bob", "oldest")).messages
    assert message.data == {"text": "hi"}
    server.close()


def test_what_python_pushes_to_the_comet_is_read_over_http_and_the_reverse() -> None:
    server = MemoryServer()
    polling = server.run(server.client.poll("bob", "oldest"))
    assert polling.is_pending
    server.result(server.comet.push("bob", "from inside"))
    assert [message.data for message in polling.value.messages] == ["from inside"]
    server.result(server.client.push("alice", "from outside"))
    assert server.result(server.comet.poll("alice", "oldest")).messages[0].data == "from outside"
    server.close()


def test_time_passes_only_when_the_test_says_so_and_on_both_sides() -> None:
    server = MemoryServer()
    polling = server.run(server.client.poll("bob", "oldest", wait=20))
    server.advance(17)
    assert polling.is_pending
    server.advance(3)
    assert not polling.value
    receipt = server.result(server.client.push("bob", "hi"))
    assert receipt.created_at == pytest.approx(STARTED_AT + 20, abs=0.001)
    server.close()


def test_a_reaction_to_a_reaction_has_happened_when_flush_returns() -> None:
    server = MemoryServer()
    heard = []

    async def echo(source: str, target: str) -> None:
        async for message in server.client.follow(source, after="oldest"):
            heard.append((source, message.data))
            await server.client.push(target, message.data)

    for number in range(5):
        server.run(echo(f"room{number}", f"room{number + 1}"))
    server.result(server.client.push("room0", "wave"))
    assert heard == [(f"room{number}", "wave") for number in range(5)]
    server.close()


def test_the_value_of_what_still_waits_is_an_assertion_error() -> None:
    server = MemoryServer()
    with pytest.raises(AssertionError, match="there is no result yet"):
        server.result(server.client.poll("bob", "oldest"))
    server.reset()
    server.close()


def test_what_was_started_can_be_left() -> None:
    server = MemoryServer()
    polling = server.run(server.client.poll("bob", "oldest"))
    assert server.parked == 1
    polling.cancel()
    server.flush()
    assert server.parked == 0
    with pytest.raises(CancelledError):
        _ = polling.value
    server.close()


def test_a_result_raises_what_it_failed_with() -> None:
    server = MemoryServer()
    with pytest.raises(BadRecipient):
        server.result(server.client.push("//", "hi"))
    server.close()


def test_a_reset_loses_the_connections_of_both_sides() -> None:
    server = MemoryServer()
    polling = server.run(server.client.poll("bob", "oldest"))
    server.reset()
    assert server.parked == 0
    with pytest.raises(NoAnswer, match="was lost before the answer"):
        _ = polling.value
    server.close()


def test_a_server_that_is_stopped_answers_who_is_parked_and_refuses_the_next() -> None:
    server = MemoryServer()
    polling = server.run(server.client.poll("bob", "oldest"))
    server.stop()
    assert not polling.value
    with pytest.raises(NoAnswer, match="the connection was refused"):
        server.result(server.client.poll("bob", "oldest"))
    server.start()
    server.result(server.client.push("bob", "hi"))
    server.close()


def test_a_server_that_was_started_again_has_another_memory() -> None:
    server = MemoryServer()
    cursor = server.result(server.client.push("bob", "hi")).id
    server.stop()
    server.start()
    batch = server.result(server.client.poll("bob", cursor))
    assert batch.gap
    assert batch.messages == ()
    server.close()


def test_a_server_that_was_started_again_with_a_store_has_what_was_in_it() -> None:
    server = MemoryServer(store=MemoryStore(Limits()))
    cursor = server.result(server.client.push("bob", "one")).id
    server.stop()
    server.start()
    server.result(server.client.push("bob", "two"))
    batch = server.result(server.client.poll("bob", cursor))
    assert not batch.gap
    assert [message.data for message in batch.messages] == ["two"]
    server.close()


def test_options_are_the_comets() -> None:
    server = MemoryServer(limits=Limits(capacity=1), overflow="drop-oldest")
    server.result(server.client.push("bob", "one"))
    server.result(server.client.push("bob", "two"))
    batch = server.result(server.client.poll("bob", "oldest"))
    assert [message.data for message in batch.messages] == ["two"]
    server.close()


def test_a_program_that_mounts_the_comet_is_tested_as_a_whole() -> None:
    def site(comet: Comet) -> IResource:
        app = Klein()

        @app.route("/hello")
        def hello(_: object) -> str:
            return "hello"

        @app.route("/comet/", branch=True)
        def mounted(_: object) -> IResource:
            return comet.resource()

        resource: IResource = app.resource()
        return resource

    server = MemoryServer(url="http://localhost/comet", resource=site)
    server.result(server.client.push("chat/room1", "hi"))
    assert server.result(server.client.take("chat/room1")).messages[0].data == "hi"
    server.close()


def test_close_tells_of_a_reader_that_was_left_behind() -> None:
    server = MemoryServer()
    server.comet.poll("bob", "oldest", wait=20)
    server.clock.callLater(5, lambda: None)
    with pytest.raises(AssertionError, match="timers are still pending"):
        server.close()


def test_plain_deferreds_and_coroutines_have_results_too() -> None:
    server = MemoryServer()
    waiting: Deferred[int] = Deferred()
    outcome = server.run(waiting)
    assert outcome.is_pending
    waiting.callback(3)
    assert outcome.value == 3

    async def four() -> int:
        return 4

    assert server.result(four()) == 4
    server.close()
