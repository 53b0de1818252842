"""What clients leave unread: one total for all connections, and who is disconnected when it is full."""

from __future__ import annotations

import pytest
from served import TEXT, Reply, Served, head
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from cometd_lite.server import Bounds
from cometd_lite.server.unsent import BUFFER_OVERHEAD, QUEUE_OVERHEAD, SendQueue, UnsentTotal

MEGABYTE = 1024 * 1024


class Crowd:
    """Many connections of one factory whose clients read nothing."""

    def __init__(self, bound: int) -> None:
        self.served = Served(bounds=Bounds(unsent=bound))
        self.served.lose()
        self.connections: list[tuple[object, object]] = []

    def answer(self, response: Reply) -> None:
        """Open one more connection, and send it a response that it does not read."""
        served = self.served.connect()
        self.connections.append((served.connection, served.transport))
        served.send(head("GET", "/request"))
        served.connection.wire.filled()
        served.routes.requests.pop().respond(response)

    @property
    def unsent(self) -> int:
        return self.served.factory.unsent

    @property
    def closed(self) -> list[bool]:
        return [transport.disconnected for _, transport in self.connections]  # type: ignore[attr-defined]


def body(letter: str, size: int) -> Reply:
    return Reply(200, TEXT, letter.encode() * size)


def test_what_is_unsent_is_counted_until_it_is_sent():
    crowd = Crowd(10 * MEGABYTE)
    crowd.answer(body("a", 100_000))
    assert 100_000 < crowd.unsent < 102_000
    crowd.answer(body("b", 100))
    assert 100_200 < crowd.unsent < 104_000
    for connection, _ in crowd.connections:
        connection.wire.emptied()
    assert crowd.unsent == 0


@pytest.mark.parametrize("size", [1_000, MEGABYTE])
def test_a_response_for_many_is_counted_once(size):
    crowd = Crowd(10 * MEGABYTE)
    response = body("a", size)
    for _ in range(500):
        crowd.answer(response)
    assert crowd.unsent < size + 500 * (QUEUE_OVERHEAD + 2 * BUFFER_OVERHEAD + 200)
    assert not any(crowd.closed)


def test_over_the_bound_those_who_leave_most_unread_are_disconnected():
    crowd = Crowd(4 * MEGABYTE)
    crowd.answer(body("a", MEGABYTE))
    crowd.answer(body("b", 1_000))
    shared = body("c", MEGABYTE)
    for _ in range(50):
        crowd.answer(shared)
    crowd.answer(body("d", MEGABYTE // 2))
    assert not any(crowd.closed)
    crowd.answer(body("e", 3 * MEGABYTE // 2 - 1_000))
    assert crowd.unsent <= 3 * MEGABYTE
    assert [number for number, closed in enumerate(crowd.closed) if closed] == [53]
    crowd.answer(body("f", MEGABYTE - 1_000))
    crowd.answer(body("g", MEGABYTE))
    assert crowd.unsent <= 4 * MEGABYTE
    assert crowd.closed[0]
    assert not any(crowd.closed[1:53])


def test_the_bound_holds_however_many_do_not_read():
    crowd = Crowd(MEGABYTE)
    for number in range(300):
        crowd.answer(body(chr(0x41 + number % 26), 60_000 + number))
        assert crowd.unsent <= MEGABYTE
    assert sum(crowd.closed) > 280


def test_who_was_disconnected_is_logged_within_a_second_and_then_once_a_minute():
    crowd = Crowd(MEGABYTE)
    with capturedLogs() as events:
        for number in range(100):
            crowd.answer(body("a", 60_000 + number))
        crowd.served.ticks(5)
        aborted = sum(crowd.closed)
        assert [event["aborted"] for event in events if "aborted" in event] == [aborted]
        for number in range(100):
            crowd.answer(body("b", 60_000 + number))
        crowd.served.ticks(50)
        assert [event["aborted"] for event in events if "aborted" in event] == [aborted]
        crowd.served.ticks(10)
    later = sum(crowd.closed) - aborted
    assert later > 0
    assert [event["aborted"] for event in events if "aborted" in event] == [aborted, later]


def test_a_buffer_that_comes_twice_on_one_connection_is_counted_once():
    total = UnsentTotal(MEGABYTE)
    queue = SendQueue(total, lambda: None)
    data = b"x" * 10_000
    queue.append(data)
    queue.append(data)
    assert (queue.size, total.size) == (20_000, 10_000 + BUFFER_OVERHEAD + QUEUE_OVERHEAD)
    queue.sent(len(queue.first()))
    assert total.size > 10_000
    queue.sent(3)
    assert (bytes(queue.first()), queue.size) == (b"x" * 9_997, 9_997)
    queue.clear()
    queue.clear()
    assert (queue.size, total.size, total.holders) == (0, 0, {})


def test_a_lost_connection_leaves_nothing_in_the_total():
    crowd = Crowd(MEGABYTE)
    crowd.answer(body("a", 100_000))
    crowd.served.connection.connectionLost(Failure(ConnectionResetError()))
    assert crowd.unsent == 0
