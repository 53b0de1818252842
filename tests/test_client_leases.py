"""The client as a worker, over the real routes in memory: what it leases is done, or comes again."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from helpers import check_invariants
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionLost

from cometd_lite import LeasedMessage, errors
from cometd_lite.client import Client, Working
from cometd_lite.testing import MemoryServer, Outcome


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    server = MemoryServer()
    yield server
    check_invariants(server.comet.hub)
    server.close()


def lease(server: MemoryServer, seconds: float = 30) -> LeasedMessage:
    batch = server.result(server.client.lease("jobs", seconds, wait=0))
    (message,) = batch.leased
    return message


def leased(server: MemoryServer) -> int:
    return int(server.result(server.client.describe("jobs")).leased)


def queued(server: MemoryServer) -> int:
    return int(server.result(server.client.describe("jobs")).queued)


# -- lease and ack


def test_a_lease_is_what_the_comet_itself_gives(server: MemoryServer) -> None:
    server.result(server.client.push("jobs", {"n": 1}))
    message = lease(server)
    assert (message.data, message.attempt) == ({"n": 1}, 1)
    assert server.result(server.client.ack(message)) == "done"
    assert server.result(server.client.ack(message)) == "gone"
    assert server.result(server.client.lease("jobs", 30, wait=0)).messages == ()


def test_a_lease_is_extended_and_released(server: MemoryServer) -> None:
    server.result(server.client.push("a/jobs \u00fc", "1"))
    (message,) = server.result(server.client.lease("a/jobs \u00fc", 5)).leased
    assert server.result(server.client.ack(message, extend=60)) == "extended"
    server.advance(6)
    assert server.result(server.client.lease("a/jobs \u00fc", 5, wait=0)).leased == ()
    assert server.result(server.client.ack(message, release=True)) == "released"
    (again,) = server.result(server.client.lease("a/jobs \u00fc", 5, limit=10)).leased
    assert again.attempt == 2
    assert server.result(server.client.ack(message, extend=5)) == "gone"


def test_an_ack_that_got_no_answer_is_told_again(server: MemoryServer) -> None:
    server.result(server.client.push("jobs", "1"))
    message = lease(server)
    server.stop()
    acking = server.run(server.client.ack(message))
    server.start()
    server.advance(5)
    assert acking.value == "gone"  # the new server has another log
    server.stop()
    with pytest.raises(errors.CometError):
        server.result(server.client.ack(message, patience=0))


def test_an_ack_that_is_cancelled_is_not_sent_again(server: MemoryServer) -> None:
    server.result(server.client.push("jobs", "1"))
    message = lease(server)
    sent: list[Deferred[Any]] = []

    class Silent:
        """A network over which no answer comes; a request that is cancelled fails as treq's does."""

        def request(self, *_: Any, **__: Any) -> Deferred[Any]:
            sent.append(Deferred(lambda response: response.errback(ConnectionLost())))
            return sent[-1]

    client = Client(server.client.url, treq=Silent(), clock=server.clock, random=Random(1))
    acking = server.run(client.ack(message))
    acking.cancel()
    server.advance(60)
    assert len(sent) == 1
    with pytest.raises(CancelledError):
        _ = acking.value


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"extend": 0}, "extend is a number of seconds from 1 to 3600"),
        ({"extend": 5, "release": True}, "not both"),
        ({"extend": "5"}, "extend is a number of seconds"),
        ({"release": "yes"}, "release is True or False"),
    ],
)
def test_an_ack_that_cannot_be_is_told_before_anything_is_sent(
    server: MemoryServer, words: Any, sentence: str
) -> None:
    server.result(server.client.push("jobs", "1"))
    message = lease(server)
    for of in (server.client, server.comet):
        with pytest.raises((ValueError, TypeError), match=sentence):
            server.result(of.ack(message, **words))
    with pytest.raises(TypeError, match="a message that was leased"):
        server.result(server.client.ack(server.result(server.comet.take("other", wait=0))))
    with pytest.raises(ValueError, match="seconds is a number of seconds from 1 to 3600"):
        server.client.lease("jobs", 0)


# -- a worker


class Worker:
    """A program that works on what it is given when the test says so."""

    def __init__(self, server: MemoryServer, seconds: float = 30.0, **words: Any) -> None:
        self.server = server
        self.gone: list[LeasedMessage] = []
        self.working = server.client.work("jobs", seconds, on_gone=self.gone.append, **words)

    def next(self) -> Outcome[LeasedMessage]:
        return self.server.run(anext(self.working))

    def leave(self, error: Exception | None = None) -> None:
        kind = None if error is None else type(error)
        self.server.result(self.working.__aexit__(kind, error, None))


def test_a_worker_acknowledges_a_message_when_it_asks_for_the_next_one(server: MemoryServer) -> None:
    worker = Worker(server)
    server.result(server.client.push("jobs", "1"))
    first = worker.next().value
    assert (first.data, leased(server)) == ("1", 1)
    second = worker.next()
    assert second.is_pending
    assert queued(server) == 0
    server.result(server.client.push("jobs", "2"))
    assert second.value.data == "2"
    worker.leave()
    assert queued(server) == 0


def test_a_lease_is_extended_for_as_long_as_its_message_is_worked_on(server: MemoryServer) -> None:
    worker = Worker(server, 30)
    server.result(server.client.push("jobs", "1"))
    message = worker.next().value
    for _ in range(20):
        server.advance(10)
        assert server.result(server.client.lease("jobs", 30, wait=0)).leased == ()
    worker.leave()
    assert (message.attempt, queued(server), worker.gone) == (1, 0, [])
    assert len(server.clock.getDelayedCalls()) == 1  # the server's own


def test_a_worker_that_fails_gives_its_message_back(server: MemoryServer) -> None:
    worker = Worker(server)
    server.result(server.client.push("jobs", "1"))
    assert worker.next().value.attempt == 1
    worker.leave(RuntimeError("it failed"))
    assert lease(server).attempt == 2


def test_a_worker_that_releases_pauses_before_it_leases_again(server: MemoryServer) -> None:
    worker = Worker(server)
    server.result(server.client.push("jobs", "1"))
    for attempt in (1, 2, 3):
        asked = worker.next()
        assert asked.is_pending == (attempt > 1)
        server.advance(3)
        assert asked.value.attempt == attempt
        server.result(worker.working.release())
    assert leased(server) == 0
    worker.leave()


def test_a_message_that_is_given_back_is_not_extended_while_the_answer_does_not_come(
    server: MemoryServer,
) -> None:
    asked: list[str] = []

    class Deaf:
        """The server's network, over which no answer to a release arrives."""

        def request(self, method: str, url: str, **words: Any) -> Deferred[Any]:
            asked.append(url)
            response = server.treq.request(method, url, **words)
            return fail(ConnectionLost()) if "release=yes" in url else response

    client = Client(server.client.url, treq=Deaf(), clock=server.clock, random=Random(1))
    working = client.work("jobs", 3)
    server.result(server.client.push("jobs", "1"))
    server.result(anext(working))
    releasing = server.run(working.release())
    before = len(asked)
    server.advance(10)
    assert releasing.is_pending
    assert not [url for url in asked[before:] if "extend" in url]
    assert lease(server).attempt == 2
    releasing.cancel()
    working.end()


def test_a_worker_is_told_where_another_one_has_its_message(server: MemoryServer) -> None:
    worker = Worker(server, 30)
    server.result(server.client.push("jobs", "1"))
    message = worker.next().value
    server.result(server.client.ack(message, release=True))
    other = lease(server)
    worker.leave()
    assert worker.gone == [message]
    assert server.result(server.client.ack(other)) == "done"


def test_a_worker_finds_the_server_that_is_started_again(server: MemoryServer) -> None:
    retries: list[Any] = []
    worker = Worker(server, on_retry=lambda error, delay: retries.append(delay))
    waiting = worker.next()
    server.stop()
    server.start()
    server.advance(5)
    server.result(server.client.push("jobs", "1"))
    server.advance(5)
    assert waiting.value.data == "1"
    worker.leave()


def test_a_worker_raises_what_no_retry_can_change(server: MemoryServer) -> None:
    working = server.client.work("jobs/*", 30)
    with pytest.raises(errors.BadRecipient):
        server.result(anext(working))


def test_a_worker_that_is_ended_leaves_its_lease_to_time(server: MemoryServer) -> None:
    worker = Worker(server, 5)
    server.result(server.client.push("jobs", "1"))
    worker.next()
    worker.working.end()
    with pytest.raises(StopAsyncIteration):
        server.result(anext(worker.working))
    server.advance(6)
    assert lease(server).attempt == 2


def test_two_may_not_wait_for_one_workers_next_message(server: MemoryServer) -> None:
    worker = Worker(server)
    worker.next()
    with pytest.raises(RuntimeError, match="awaited already"):
        anext(worker.working)
    worker.working.end()
    assert isinstance(worker.working, Working)
