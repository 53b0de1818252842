"""The life of a connection: kept alive, pipelined, cut off, slow, stopped."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from served import TEXT, App, Reply, Rule, Served, chunked, fired, head, post
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from cometd_lite.server import Bounds, Request

# -- kept alive, or not


def test_requests_follow_each_other_on_one_connection():
    served = Served()
    for _ in range(3):
        answer = served.ask(head())
        assert (answer.status, answer.body, answer.rest) == (200, b"root", b"")
        assert b"connection" not in answer.fields
    assert served.ask(post("/echo", b"x")).body == b"x"
    assert served.ask(head("GET", "/", "Accept: */*")).body == b"root"
    assert not served.closed


def test_a_client_may_ask_for_the_end():
    served = Served()
    answer = served.ask(head("GET", "/", "Connection: close"))
    assert (answer.body, answer.fields[b"connection"]) == (b"root", b"close")
    assert served.closed
    assert served.send(head()).sent == b""


def test_http_1_0_is_closed_unless_it_asks_to_be_kept():
    served = Served()
    answer = served.ask(head(version="1.0", host=""))
    assert (answer.body, answer.fields[b"connection"]) == (b"root", b"close")
    assert served.closed
    served = Served()
    for _ in range(2):
        answer = served.ask(head("GET", "/", "Connection: Keep-Alive", version="1.0"))
        assert (answer.body, answer.fields[b"connection"]) == (b"root", b"keep-alive")
    assert not served.closed


def test_http_1_1_wants_to_know_the_host():
    served = Served()
    answer = served.ask(head(host=""))
    assert (answer.status, answer.fields[b"connection"]) == (400, b"close")


def test_an_absolute_target_is_served_as_its_path():
    assert Served().ask(head("GET", "http://other/?a=b")).body == b"root"
    assert Served().ask(head("GET", "other:80")).status == 400


def test_the_date_is_that_of_the_clock():
    served = Served()
    assert served.ask(head()).fields[b"date"] == b"Thu, 01 Jan 1970 00:00:00 GMT"
    served.ticks(61)
    assert served.ask(head()).fields[b"date"] == b"Thu, 01 Jan 1970 00:01:01 GMT"


def test_an_answer_is_one_write():
    class Counting(StringTransport):
        writes = 0

        def write(self, data: bytes) -> None:
            self.writes += 1
            super().write(data)

    served = Served().connect(Counting())
    served.ask(head())
    served.ask(post("/push/x", b"hello"))
    assert served.transport.writes == 2


# -- pipelined


def test_pipelined_requests_are_answered_in_order():
    served = Served()
    served.send(
        head() + post("/echo", b"one") + chunked("/echo", b"two") + head("HEAD") + post("/echo", b"3")
    )
    assert [served.read().body for _ in range(3)] == [b"root", b"one", b"two"]
    assert served.read(bodyless=True).fields[b"content-length"] == b"4"
    assert served.read().body == b"3"
    assert served.sent == b""


def test_what_follows_a_parked_poll_waits_for_it():
    served = Served().send(head("GET", "/poll/a") + head("GET", "/poll/b"), head())
    assert served.routes.calls == ["a"]
    assert served.sent == b""
    served.routes.wake("a", b"mail")
    assert served.routes.calls == ["a"], "the next one is not begun on the stack of whoever woke this one"
    assert served.read().body == b"mail"
    served.turn()
    assert served.routes.calls == ["a", "b"]
    served.routes.wake("b", b"more")
    served.turn()
    assert [served.read().body for _ in range(2)] == [b"more", b"root"]


def test_a_poll_and_the_push_that_wakes_it_may_not_share_a_connection_but_do_no_harm():
    served = Served().send(head("GET", "/poll/a") + post("/push/a", b"x"))
    assert served.sent == b""
    served.routes.wake("a", b"mail")
    served.turn()
    assert served.read().body == b"mail"
    assert served.read().body == b"0 woken, 1 bytes"


def test_reading_stops_while_too_much_is_pipelined():
    served = Served(bounds=Bounds(pipelined=150)).send(head("GET", "/poll/a"))
    served.send(post("/echo", b"x" * 50))
    assert served.transport.producerState == "producing"
    served.send(post("/echo", b"y" * 100))
    assert served.transport.producerState == "paused"
    served.routes.wake("a", b"mail")
    served.turn()
    assert served.transport.producerState == "producing"
    assert [served.read().body[:1] for _ in range(3)] == [b"m", b"x", b"y"]


def test_reading_goes_on_when_only_the_beginning_of_a_request_is_left():
    served = Served(bounds=Bounds(pipelined=150)).send(head("GET", "/poll/a"))
    data = post("/echo", b"x" * 500)
    served.send(data[:300])
    assert served.transport.producerState == "paused"
    served.routes.wake("a", b"mail")
    served.turn()
    assert served.transport.producerState == "producing"
    served.send(data[300:])
    assert [len(served.read().body) for _ in range(2)] == [4, 500]


def test_pipelined_requests_wait_for_a_reader():
    served = Served(bounds=Bounds(write_low=1_000))
    served.connection.wire.filled()
    served.send(head("GET", "/poll/a") + head("GET", "/poll/b"))
    served.routes.wake("a", b"x" * 2_000)
    served.turn()
    assert served.routes.calls == ["a"], "the response before is not read"
    served.connection.wire.emptied()
    assert served.routes.calls == ["a", "b"]
    assert len(served.read().body) == 2_000


def test_what_comes_while_a_pipelined_request_waits_for_its_turn_is_kept_behind_it():
    served = Served().send(head("GET", "/poll/a") + post("/echo", b"one"))
    served.routes.wake("a", b"mail")
    served.send(head() + head()[:10], head()[10:]).turn()
    assert [served.read().body for _ in range(4)] == [b"mail", b"one", b"root", b"root"]


def test_what_comes_while_answers_are_not_read_is_kept_up_to_its_bound():
    served = Served(bounds=Bounds(write_low=100, pipelined=200))
    served.ask(head())
    served.connection.wire.filled()
    served.send(post("/echo", b"x" * 200), head(), head())
    served.send(*[head()] * 8)
    assert served.transport.producerState == "paused"
    served.connection.wire.emptied()
    served.turn()
    assert len(served.read().body) == 200
    assert [served.read().body for _ in range(10)] == [b"root"] * 10
    assert served.transport.producerState == "producing"


exchanges = some.lists(
    some.sampled_from(
        [
            (head(), b"root"),
            (post("/echo", b"hello"), b"hello"),
            (chunked("/echo", b"a", b"bc"), b"abc"),
            (head("GET", "/nowhere"), b"NotFound"),
            (head("GET", "/echo"), b"NotAllowed"),
            (post("/push/x", b"y"), b"0 woken, 1 bytes"),
        ]
    ),
    max_size=6,
)


@given(exchanges, some.lists(some.integers(1, 200)))
@example([(head(), b"root")] * 6, [len(head()), len(head()) * 2, 10, len(head()) * 2])
def test_any_requests_in_any_pieces_get_their_answers_in_order(exchanges, sizes):
    served = Served()
    data = b"".join(asked for asked, _ in exchanges)
    for size in [*sizes, len(data)]:
        if data[:size]:
            served.send(data[:size])
        data = data[size:]
    served.turn()
    for _, expected in exchanges:
        assert served.read().body == expected
    assert served.sent == b""
    served.lose()
    assert served.clock.getDelayedCalls() == []


noise = some.one_of(
    some.binary(max_size=20),
    some.sampled_from(
        [b"\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\n", b"Host: x\r\n", b"Content-Length: 3\r\n", b"\n"]
    ),
    some.sampled_from([head(), post("/echo", b"abc"), chunked("/echo", b"a"), head("GET", "/poll/a")]),
)


@given(some.lists(noise, max_size=8))
def test_whatever_comes_is_answered_or_waited_for_and_leaves_nothing_behind(pieces):
    served = Served()
    for piece in pieces:
        if piece and not served.closed:
            served.send(piece).turn()
    while served.sent:
        assert served.read().status in {200, 400, 404, 405, 408, 413, 414, 417, 431, 505}
    served.ticks(100)
    while served.sent:
        assert served.read().status == 408
    assert served.closed or served.connection.request is not None
    served.lose()
    assert served.clock.getDelayedCalls() == []
    assert served.factory.connections == set()


# -- lost


def test_a_lost_connection_cancels_its_parked_poll_once():
    served = Served().send(head("GET", "/poll/a"))
    served.lose()
    assert served.routes.cancelled == ["a"]
    assert served.factory.connections == set()
    assert served.clock.getDelayedCalls() == []


def test_a_lost_connection_cancels_whatever_was_parked():
    served = Served().send(head("GET", "/request"))
    (request,) = served.routes.requests
    cancelled: list[int] = []
    for number in range(3):
        parked: Deferred[None] = Deferred(lambda _, number=number: cancelled.append(number))
        request.park(parked)
        parked.addErrback(lambda _: None)
    served.lose()
    assert cancelled == [0, 1, 2]
    assert request.is_disconnected()
    request.respond(Reply(200, TEXT, b"too late"))
    request.start(200, TEXT)
    request.write(b"too late")
    request.finish()
    request.abort()
    request.upgrade(Protocol(), b"")
    assert (served.sent, request.unsent()) == (b"", 0)


def test_what_was_pipelined_behind_a_lost_poll_is_not_served():
    served = Served().send(head("GET", "/poll/a") + post("/push/b", b"x"))
    served.lose()
    served.turn()
    assert served.routes.calls == ["a"]


def test_a_connection_may_be_lost_in_any_state():
    for data in (b"", b"GET", post("/echo", b"hello")[:-1], chunked("/echo", b"x")[:-3], head()):
        served = Served().send(*([data] if data else []))
        served.lose()
        assert served.clock.getDelayedCalls() == []
    served = Served().send(b"bad\r\n\r\n")
    served.lose()
    assert served.clock.getDelayedCalls() == []


def test_an_answer_between_its_end_and_the_next_turn_may_lose_its_connection():
    served = Served().send(head("GET", "/poll/a") + head())
    served.routes.wake("a", b"mail")
    served.lose()
    served.turn()
    assert served.clock.getDelayedCalls() == []


# -- slow


def test_a_head_has_to_come_in_time():
    served = Served()
    for one in head("GET", "/", "X: " + "y" * 100):
        served.send(bytes([one])).ticks(1)
        if served.sent:
            break
    assert 19 <= served.clock.seconds() <= 22
    answer = served.read()
    assert (answer.status, answer.fields[b"connection"]) == (408, b"close")
    assert served.ticks(5).closed


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word():
    served = Served().ticks(19)
    assert not served.closed
    served.ticks(2)
    assert (served.closed, served.sent) == (True, b"")


def test_a_connection_is_kept_idle_for_longer_than_a_balancer_keeps_it():
    served = Served()
    served.ask(head())
    served.ticks(74)
    assert served.ask(head()).body == b"root"
    assert not served.ticks(74).closed
    assert served.ticks(2).closed
    assert served.sent == b""


def test_a_request_that_is_held_is_ended_by_no_timer():
    # twisted/twisted#9532, #9653: over HTTP/2 twisted.web's idle timer ends polls that wait.
    served = Served().send(head("GET", "/poll/a"), head("GET", "/poll/b"))
    served.ticks(300)
    assert (served.sent, served.closed, served.routes.cancelled) == (b"", False, [])
    served.routes.wake("a", b"there")
    assert served.turn().read().body == b"there"
    assert not served.ticks(300).closed


def test_a_browser_that_offers_http_2_is_told_to_speak_http_1():
    # The same threads: a proxy may speak HTTP/2 to the browser, and this server does not.
    assert Served().factory.acceptableProtocols() == [b"http/1.1"]


def test_a_head_that_begins_late_has_its_time():
    served = Served()
    served.ask(head())
    served.ticks(70).send(b"GET / HTTP/1.1\r\n").ticks(15)
    assert served.ask(b"Host: x\r\n\r\n").body == b"root"


def test_a_fault_at_the_end_of_one_overdue_connection_leaves_their_ends_to_the_others():
    faults = [ZeroDivisionError()]

    def fail_once(_: Request) -> None:
        if faults:
            raise faults.pop()

    served = Served(on_answer=fail_once)
    connections = [served.connect().send(b"GET / HTTP/1.1\r\n").transport for _ in range(3)]
    for _ in range(30):
        with contextlib.suppress(ZeroDivisionError):
            served.clock.advance(1.0)
    assert faults == []
    assert all(transport.value().startswith(b"HTTP/1.1 408 ") for transport in connections)
    assert all(transport.disconnecting or transport.disconnected for transport in connections)


def test_a_body_that_stops_is_not_waited_for():
    served = Served().send(post("/push/a", b"x" * 1_000)[:-500])
    served.ticks(19)
    assert served.sent == b""
    served.ticks(3)
    assert served.read().status == 408
    assert served.routes.calls == []
    assert served.ticks(5).closed


def test_a_body_may_be_slow_but_not_as_slow_as_one_likes():
    data = post("/echo", b"x" * 60_000)
    served = Served().send(data[:-60_000])
    for _ in range(59):
        served.send(b"x" * 1_000).ticks(1)
    assert served.ask(b"x" * 1_000).status == 200
    served = Served().send(data[:-60_000])
    began = served.clock.seconds()
    while not served.sent:
        served.send(b"x" * 10).ticks(1)
    assert 19 <= served.clock.seconds() - began <= 22
    assert served.read().status == 408


def test_a_parked_poll_is_not_ended_by_any_clock_of_ours():
    served = Served().send(head("GET", "/poll/a")).ticks(10_000)
    assert not served.closed
    served.routes.wake("a", b"mail")
    assert served.read().body == b"mail"
    assert not served.ticks(70).closed


def test_a_reader_that_does_not_read_its_answer_is_given_up():
    served = Served().send(head("GET", "/poll/a"))
    served.connection.wire.filled()
    served.routes.wake("a", b"x" * 10_000)
    served.ticks(200)
    assert served.closed


def test_a_stream_that_is_not_read_is_cut_off_at_its_bound():
    served = Served(bounds=Bounds(write_buffer=10_000)).send(head("GET", "/stream"))
    (request,) = served.routes.requests
    served.connection.wire.filled()
    request.write(b"x" * 9_000)
    assert request.unsent() > 9_000
    assert not served.closed
    request.write(b"x" * 2_000)
    assert served.closed


def test_a_piece_of_a_stream_may_be_larger_than_the_bound_where_nothing_before_it_is_unread():
    served = Served(bounds=Bounds(write_buffer=10_000)).send(head("GET", "/stream"))
    (request,) = served.routes.requests
    request.write(b"x" * 20_000)
    assert not served.closed
    served.connection.wire.filled()
    request.write(b"x" * 100)
    request.write(b"x" * 20_000)
    assert served.closed


def test_one_timer_serves_all_connections_and_ends_with_the_last():
    served = Served()
    first = served.connection
    served.connect()
    served.ask(head())
    assert len(served.clock.getDelayedCalls()) == 1
    served.lose()
    served.connection = first
    served.lose()
    assert served.clock.getDelayedCalls() == []


# -- refused


def test_after_a_refusal_the_peer_has_some_time_to_read_it():
    served = Served().send(b"bad\r\n\r\n")
    assert served.read().status == 400
    served.send(b"x" * 1_000).ticks(2)
    assert not served.closed
    assert served.ticks(2).closed
    assert served.sent == b""


def test_after_a_refusal_only_so_much_is_listened_to():
    served = Served(bounds=Bounds(linger=1_000)).send(b"bad\r\n\r\n")
    served.send(b"x" * 900)
    assert served.transport.producerState == "producing"
    served.send(b"x" * 200)
    assert served.transport.producerState == "paused"
    assert not served.closed
    assert served.ticks(4).closed


def test_reading_goes_on_after_a_refusal_that_came_while_it_was_paused():
    served = Served(bounds=Bounds(pipelined=10)).send(head("GET", "/poll/a") + b"bad\r\n\r\n" * 10)
    served.send(b"x" * 20)
    assert served.transport.producerState == "paused"
    served.routes.wake("a", b"mail")
    served.turn()
    assert [served.read().status for _ in range(2)] == [200, 400]
    assert served.transport.producerState == "producing"


# -- failures


def test_what_a_route_does_not_expect_is_logged_and_answered_with_500(expected_failures):
    expected_failures.append(ZeroDivisionError)
    served = Served()
    assert served.ask(head("GET", "/broken")).status == 500
    assert served.ask(head()).body == b"root"


def test_a_failure_after_the_answer_is_logged_only(expected_failures):
    expected_failures.append(ZeroDivisionError)

    def answers_and_fails(request: Request) -> None:
        request.respond(Reply(200, TEXT, b"mail"))
        raise ZeroDivisionError

    served = Served(App(Rule("/", ("GET",), answers_and_fails)))
    assert served.ask(head()).body == b"mail"
    assert served.ask(head()).body == b"mail"


def test_a_failure_within_a_stream_cuts_it_off(expected_failures):
    expected_failures.append(ZeroDivisionError)

    def starts_and_fails(request: Request) -> None:
        request.start(200, TEXT)
        raise ZeroDivisionError

    served = Served(App(Rule("/", ("GET",), starts_and_fails))).send(head())
    assert served.closed


def test_a_failure_while_a_failure_is_answered_is_logged_and_answered(expected_failures):
    expected_failures.append(KeyError)
    app = App()
    app.failed = lambda request, failure, path: {}["nothing"]  # type: ignore[method-assign]
    served = Served(app)
    assert served.ask(head("GET", "/broken")).status == 500
    assert served.ask(head()).body == b"root"


# -- upgrades


class Other(Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.transport.write(b"<" + data + b">")

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


def test_a_connection_is_handed_on_with_what_came_after_the_request():
    served = Served().send(head("GET", "/request", "Upgrade: x") + b"early")
    (request,) = served.routes.requests
    other = Other()
    request.upgrade(other, b"Upgrade: x\r\nConnection: Upgrade\r\n")
    assert other.transport is served.connection.wire
    served.send(b", more").turn()
    assert other.received == b"early, more"
    served.send(b" and more")
    answer = served.read()
    assert (answer.status, answer.fields) == (101, {b"upgrade": b"x", b"connection": b"Upgrade"})
    assert answer.rest == b"<early, more>< and more>"
    served.ticks(1_000)
    assert not served.closed
    served.lose()
    assert other.lost


def test_reading_goes_on_for_the_other_protocol():
    served = Served(bounds=Bounds(pipelined=10)).send(head("GET", "/request"), b"x" * 20)
    assert served.transport.producerState == "paused"
    other = Other()
    served.routes.requests[0].upgrade(other, b"")
    served.turn()
    assert served.transport.producerState == "producing"
    assert other.received == b"x" * 20


# -- stopping


def test_while_stopping_each_answer_is_its_connections_last():
    served = Served().send(head("GET", "/poll/a"))
    served.factory.stopping = True
    served.routes.wake("a", b"mail")
    answer = served.read()
    assert (answer.body, answer.fields[b"connection"]) == (b"mail", b"close")
    assert served.closed


def test_shutdown_closes_what_is_idle_and_nothing_else():
    idle, busy, arriving = Served(), Served(), Served()
    idle.ask(head())
    busy.send(head("GET", "/poll/a"))
    arriving.send(post("/echo", b"x")[:-1])
    for served in (idle, busy, arriving):
        served.factory.stopping = True
        served.factory.shutdown()
    assert [served.closed for served in (idle, busy, arriving)] == [True, False, False]
    assert arriving.ask(b"x").fields[b"connection"] == b"close"


class Told(list):
    """What a log is told: method, target, rule, status, bytes and seconds of each request."""

    def __call__(self, request):
        self.append((request.method, request.uri, request.rule, request.code, request.sent, request.age()))


def test_a_log_is_told_of_each_answer():
    told = Told()
    served = Served(on_answer=told)
    served.send(head("GET", "/?a=b"), head("HEAD"), post("/push/x", b"y"), head("GET", "/nowhere"))
    assert told == [
        (b"GET", b"/?a=b", "/", 200, 4, 0.0),
        (b"HEAD", b"/", "/", 200, 0, 0.0),
        (b"POST", b"/push/x", "/push/<path:name>", 201, 16, 0.0),
        (b"GET", b"/nowhere", "", 404, told[3][4], 0.0),
    ]


def test_a_log_is_told_how_long_a_request_was_held():
    told = Told()
    served = Served(on_answer=told).send(head("GET", "/poll/a"))
    served.clock.advance(7.5)
    assert told == []
    served.routes.wake("a", b"mail")
    assert told == [(b"GET", b"/poll/a", "/poll/<path:name>", 200, 4, 7.5)]


def test_a_log_is_told_of_who_left_before_the_answer_and_of_what_a_stream_had_sent():
    told = Told()
    served = Served(on_answer=told).send(head("GET", "/poll/a"))
    served.clock.advance(2.0)
    served.lose()
    assert told == [(b"GET", b"/poll/a", "/poll/<path:name>", 499, 0, 2.0)]
    served.connect().send(head("GET", "/request"))
    served.routes.requests[-1].start(200, b"")
    served.routes.requests[-1].write(b"12345")
    served.lose()
    assert told[1] == (b"GET", b"/request", "/request", 200, 5, 0.0)


@pytest.mark.parametrize(
    ("sent", "method", "status"),
    [
        (b"nonsense\r\n\r\n", b"", 400),
        (b"GET / HTTP/1.1\r\n\r\n", b"", 400),
        (post("/echo", b"", "Transfer-Encoding: chunked") + b"x", b"", 400),
        (head("POST", "/echo", "Transfer-Encoding: chunked") + b"nonsense\r\n", b"POST", 400),
        (post("/echo", b"x" * 100_000), b"POST", 413),
    ],
)
def test_a_log_is_told_of_what_was_refused(sent, method, status):
    told = Told()
    Served(on_answer=told).send(sent)
    assert [(one[0], one[3]) for one in told] == [(method, status)]
    assert told[0][4] > 0


def test_a_log_is_told_once_of_a_body_that_does_not_come():
    told = Told()
    served = Served(on_answer=told).send(post("/echo", b"12345")[:-1])
    for _ in range(30):
        served.clock.advance(1.0)
    assert [(one[0], one[3]) for one in told] == [(b"POST", 408)]
    served.lose()
    assert len(told) == 1


def test_the_end_of_an_answer_is_told_to_those_who_wait():
    served = Served().send(head("GET", "/request"))
    (request,) = served.routes.requests
    done = fired(request.notifyFinish())
    assert done == []
    request.respond(Reply(200, TEXT, b""))
    assert done == [None]
    served.send(head("GET", "/request"))
    done = fired(served.routes.requests[1].notifyFinish())
    served.lose()
    assert len(done) == 1
    assert done[0].type.__name__ == "ConnectionDone"


def test_a_known_head_is_recognised_in_every_connection():
    served = Served()
    served.ask(head("GET", "/", "X: y"))
    first = served.connection._head
    served.connect().ask(head("GET", "/", "X: y"))
    assert served.connection._head is first


def targets(served: Served) -> list[bytes]:
    return list(served.factory.router._targets)


@pytest.mark.parametrize("name", ["bob", "chat/room1", "%62ob"])
def test_a_line_that_comes_again_is_remembered_up_to_its_query(name):
    served = Served()
    for number in range(3):
        served.send(head("GET", f"/poll/{name}?after={number}"))
        served.lose()
        served.connect()
    assert targets(served) == [f"GET /poll/{name}?".encode()]
    assert served.routes.calls == [name.replace("%62", "b")] * 3


def test_lines_that_each_come_once_are_not_remembered():
    served = Served(bounds=Bounds(lines_known=10))
    for number in range(100):
        served.send(head("GET", f"/poll/{number % 25}"))
        served.lose()
        served.connect()
    assert targets(served) == []
    assert len(served.factory.router._seen_once) <= 10


def test_no_more_lines_are_remembered_than_may_be():
    served = Served(bounds=Bounds(lines_known=10))
    for number in range(100):
        for _ in range(2):
            served.send(head("GET", f"/poll/{number}"))
            served.lose()
            served.connect()
        assert len(targets(served)) <= 10
    assert served.routes.calls == [str(number // 2) for number in range(200)]


def test_a_long_line_is_served_and_not_remembered():
    served = Served()
    for _ in range(3):
        served.send(head("GET", "/poll/" + "x" * 200))
        served.lose()
        served.connect()
    assert targets(served) == []
    assert served.routes.calls == ["x" * 200] * 3


def test_a_plain_line_beyond_the_bound_is_refused_too():
    served = Served(bounds=Bounds(target=100))
    assert served.ask(head("GET", "/poll/" + "x" * 100)).status == 414
    assert served.connect().ask(head("GET", "/poll/x?" + "x" * 100)).status == 414


def test_a_push_of_another_length_is_served_as_the_last_one():
    served = Served()
    for size in (1, 2, 1, 3, 2, 0, 3):
        assert served.ask(post("/echo", b"x" * size)).body == b"x" * size


def test_heads_that_are_known_are_understood_with_what_is_pipelined_behind_them():
    served = Served()
    for size in (1, 2, 1, 2):
        served.ask(post("/push/bob", b"x" * size))
    served.transport.clear()
    served.send(post("/push/a", b"a") + post("/push/b", b"bb") + b"\r\n" + post("/push/c", b"c"))
    served.clock.advance(0)
    assert served.routes.calls[-3:] == ["a", "b", "c"]
    assert served.sent.count(b"HTTP/1.1 201") == 3


def test_requests_that_came_together_leave_time_for_those_of_other_clients():
    served: list[int] = []

    def serve(request: Request) -> None:
        served.append(len(served))
        clock.rightNow += 0.002
        request.respond(Reply(200, TEXT, b"ok"))

    clock = Clock()
    clock.rightNow = 1.0
    client = Served(App(Rule("/slow", ("GET",), serve)), clock)
    client.send(head("GET", "/slow") * 20 + head("GET", "/slow")[:-10])
    first = len(served)
    assert 3 <= first <= 5
    client.send(head("GET", "/slow")[-10:] + head("GET", "/slow"))  # behind those that wait
    assert len(served) == first
    clock.advance(0)
    assert len(served) == 22
    assert client.sent.count(b"HTTP/1.1 200") == 22


def test_the_last_head_is_forgotten_with_all_that_was_remembered():
    served = Served()
    for _ in range(3):
        assert served.ask(head("GET", "/", "Authorization: Bearer secret")).body == b"root"
    assert b"secret" in served.factory.last_data
    served.factory.forget()
    assert served.factory.last_data == b""
    assert served.ask(head("GET", "/", "Authorization: Bearer secret")).body == b"root"
