"""What connections keep of what clients have sent: one total, and who is disconnected when it is full."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from served import Served, head, post
from twisted.internet.protocol import Protocol
from twisted.logger import capturedLogs

from cometd_lite.server import Bounds

MEGABYTE = 1024 * 1024


class Crowd:
    """Many connections of one factory."""

    def __init__(self, bound: int = 10 * MEGABYTE) -> None:
        self.served = Served(bounds=Bounds(received=bound, body=MEGABYTE))
        self.served.lose()
        self.transports: list[Any] = []

    def send(self, data: bytes) -> Any:
        """Open one more connection, send it bytes, and return the server's end."""
        served = self.served.connect()
        self.transports.append(served.transport)
        served.send(data)
        return served.connection

    @property
    def kept(self) -> int:
        return self.served.factory.received.size

    @property
    def closed(self) -> list[bool]:
        return [transport.disconnected for transport in self.transports]


def half(size: int) -> bytes:
    """Return a push of which half the body is there."""
    return post("/push/bob", b"x" * 2 * size)[:-size]


@pytest.mark.parametrize("data", [half(100_000), head("POST", "/echo", "X: " + "y" * 9_000)[:-4]])
def test_what_is_not_complete_is_counted_until_it_is(data):
    crowd = Crowd()
    connection = crowd.send(data)
    assert 9_000 < crowd.kept <= len(data)
    connection.dataReceived(b"\r\n\r\n" if data.endswith(b"y") else b"x" * 100_000)
    assert crowd.kept == 0


@pytest.mark.parametrize("chunk", [1, 700, 70_000])
def test_a_chunked_body_is_counted_while_it_arrives(chunk):
    crowd = Crowd()
    connection = crowd.send(head("POST", "/echo", "Transfer-Encoding: chunked"))
    for _ in range(5):
        connection.dataReceived(b"%x\r\n%b\r\n" % (chunk, b"x" * chunk))
    assert 5 * chunk <= crowd.kept < 5 * chunk + 10
    connection.dataReceived(b"0\r\n\r\n")
    assert crowd.kept == 0


def test_requests_that_came_ahead_are_counted_until_they_are_served():
    crowd = Crowd()
    connection = crowd.send(head("GET", "/poll/bob"))
    assert crowd.kept == 0
    connection.dataReceived(head("GET", "/poll/eve") * 10)
    assert crowd.kept == 10 * len(head("GET", "/poll/eve"))
    connection.connectionLost(None)
    assert crowd.kept == 0


def test_a_large_request_is_counted_while_it_is_parked():
    crowd = Crowd()
    crowd.send(head("GET", "/poll/bob", "X: " + "y" * 1_000))
    assert crowd.kept == 0
    crowd.send(head("GET", "/poll/bob", "X: " + "y" * 9_000))
    assert crowd.kept > 18_000
    crowd.send(post("/request", b"x" * 50_000))  # it is not answered, nor parked
    assert crowd.kept < 20_000
    crowd.served.routes.wake("bob", b"hi")
    assert crowd.kept == 0


def test_a_parked_request_with_a_body_is_counted():
    crowd = Crowd()
    crowd.send(head("GET", "/poll/bob", "Content-Length: 50000") + b"x" * 50_000)
    assert crowd.kept > 50_000
    crowd.served.routes.wake("bob", b"hi")
    assert crowd.kept == 0


def test_what_an_upgraded_protocol_keeps_is_counted_until_the_connection_is_lost():
    crowd = Crowd()
    connection = crowd.send(head("GET", "/request", "Upgrade: x", "X: " + "y" * 9_000))
    request = crowd.served.routes.requests.pop()
    request.upgrade(Protocol(), b"")
    head_alone = crowd.kept
    assert head_alone > 9_000
    request.hold(5_000)
    assert crowd.kept == head_alone + 5_000
    request.hold(0)
    assert crowd.kept == head_alone
    connection.connectionLost(None)
    assert crowd.kept == 0
    request.hold(7)
    assert crowd.kept == 0


def test_over_the_bound_those_of_whom_most_is_kept_are_disconnected():
    crowd = Crowd(MEGABYTE)
    for _ in range(50):
        crowd.send(half(1_000))
    for _ in range(7):
        crowd.send(half(100_000))
    assert not any(crowd.closed)
    crowd.send(half(300_000))
    assert crowd.kept <= MEGABYTE
    assert crowd.closed == [*[False] * 57, True]
    for _ in range(100):
        crowd.send(half(100_000))
        assert crowd.kept <= MEGABYTE
    assert not any(crowd.closed[:50])


def test_who_was_disconnected_is_logged_within_a_second_and_then_once_a_minute():
    crowd = Crowd(MEGABYTE)
    with capturedLogs() as events:
        for _ in range(30):
            crowd.send(half(100_000))
        crowd.served.ticks(5)
        aborted = sum(crowd.closed)
        assert [event["aborted"] for event in events if "aborted" in event] == [aborted]
        for _ in range(30):
            crowd.send(half(100_000))
        crowd.served.ticks(50)
        assert [event["aborted"] for event in events if "aborted" in event] == [aborted]
        crowd.served.ticks(10)
    later = sum(crowd.closed) - aborted
    assert later > 0
    assert [event["aborted"] for event in events if "aborted" in event] == [aborted, later]


def test_a_body_that_comes_byte_by_byte_takes_its_bytes():
    crowd = Crowd()
    connection = crowd.send(head("POST", "/echo", "Content-Length: 50000"))
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(20_000):
            connection.dataReceived(bytes([number % 256]))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 40_000
    connection.dataReceived(b"x" * 30_000)
    assert crowd.transports[0].value().endswith(b"x" * 30_000)
