"""What a route sees of a request, and each of the ways in which it may answer."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from served import TEXT, App, Reply, Rule, Served, dechunk, fired, head, post
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.testing import StringTransport
from twisted.web.http import Request as WebRequest
from twisted.web.http import parse_qs
from twisted.web.test.requesthelper import DummyChannel
from zope.interface import implementer


def asked(data: bytes) -> tuple[Served, Any]:
    """Return a served connection, and the request that waits on it."""
    served = Served().send(data)
    return served, served.routes.requests[-1]


# -- what came


def test_a_request_shows_what_came():
    served, request = asked(post("/request?a=1&b=x%20y&a=2", b"body", "X-One: a", "X-One: b"))
    assert (request.method, request.uri) == (b"POST", b"/request?a=1&b=x%20y&a=2")
    assert (request.path, request.query, request.body) == (b"/request", b"a=1&b=x%20y&a=2", b"body")
    assert (request.head.get(b"x-one"), request.head.get(b"y")) == (b"a, b", None)
    assert (request.client, request.is_secure) == (served.transport.getPeer().host, False)
    assert request.received_at == served.clock.seconds()
    assert request.rule == "/request"


def test_what_was_parsed_is_remembered_with_a_line_that_came_again_and_with_the_same_fields():
    served, request = asked(head("GET", "/request?a=1", "X: y"))
    for number in range(2):
        request.target.memo, request.head.memo = number, number
        request.respond(Reply(200, TEXT, b""))
        served.send(head("GET", f"/request?a={number}", "X: y"))
        request = served.routes.requests[-1]
        assert request.head.memo == number
    request.target.memo = "known"
    request.respond(Reply(200, TEXT, b""))
    served.send(head("GET", "/request?a=2", "X: z"))
    assert (served.routes.requests[-1].target.memo, served.routes.requests[-1].head.memo) == ("known", None)


def test_a_parked_request_remembers_nothing():
    _, request = asked(head("GET", "/request"))
    parked: Deferred[None] = Deferred()
    request.park(parked)
    request.target.memo = "something"
    assert request.target.memo is None


# -- as twisted.web shows it


def web_request(data: bytes) -> Any:
    """Return the same request as twisted.web parses it."""
    line, _, rest = data.partition(b"\r\n")
    block, _, body = rest.partition(b"\r\n\r\n")
    request = WebRequest(DummyChannel(), False)
    request.gotLength(len(body))
    for field in block.split(b"\r\n"):
        name, _, value = field.partition(b": ")
        request.requestHeaders.addRawHeader(name, value)
    request.parseCookies()
    request.handleContentChunk(body)
    request.process = lambda: None
    request.requestReceived(*line.split(b" "))
    return request


@pytest.mark.parametrize(
    "data",
    [
        post("/request?a=1&b=x%20y&a=2&c=", b"body", "X-One: a", "X-One: b", "Cookie: c=d; e=f"),
        head("GET", "/request", "Authorization: Basic dXNlcjpwYXNzOndvcmQ="),
        head("GET", "/request", "Authorization: basic dXNlcjo="),
        head("GET", "/request", "Authorization: Basic !"),
        head("GET", "/request", "Authorization: Bearer x", host="example.org:8080"),
    ],
)
def test_authorize_reads_a_request_as_it_does_on_twisted_web(data):
    _, request = asked(data)
    here, there = request.request, web_request(data)
    assert request.request is here
    for name in ("method", "uri", "path", "args", "requestHeaders"):
        assert getattr(here, name) == getattr(there, name)
    assert here.content.read() == there.content.read()
    assert here.getAllHeaders() == there.getAllHeaders()
    for name in (b"X-ONE", "x-one", b"host", "y"):
        assert here.getHeader(name) == there.getHeader(name)
    for name in (b"c", b"e", b"x"):
        assert here.getCookie(name) == there.getCookie(name)
    assert (here.getUser(), here.getPassword()) == (there.getUser(), there.getPassword())
    assert (here.getRequestHostname(), here.isSecure()) == (there.getRequestHostname(), there.isSecure())


def test_authorize_learns_who_sent_a_request_and_where_to():
    served, request = asked(head("GET", "/request"))
    view = request.request
    assert view.getClientAddress() == served.transport.getPeer()
    assert view.getHost() == served.transport.getHost()
    assert asked(head("GET", "/request", host="[::1]:80"))[1].request.getRequestHostname() == b"[::1]"
    old = asked(head("GET", "/request", host="", version="1.0"))[1].request
    assert old.getRequestHostname() == b"10.0.0.1"
    done = fired(view.notifyFinish())
    request.respond(Reply(200, TEXT, b""))
    assert done == [None]


@given(some.text("ab=&;+%2 0c", max_size=12).map(str.encode))
def test_a_query_is_read_as_in_twisted_web(query):
    _, request = asked(b"GET /request?%b HTTP/1.1\r\nHost: x\r\n\r\n" % query.replace(b" ", b"+"))
    assert request.request.args == parse_qs(query.replace(b" ", b"+"), keep_blank_values=1)


# -- the end of a request


def test_the_end_of_a_response_fires_what_waits_for_it():
    served, request = asked(head("GET", "/request"))
    done = [fired(request.notifyFinish()) for _ in range(2)]
    parked: Deferred[None] = Deferred()
    ended = fired(parked)
    request.park(parked)
    request.respond(Reply(200, TEXT, b""))
    assert (done, ended, fired(request.notifyFinish())) == ([[None], [None]], [], [None])
    late: Deferred[None] = Deferred()
    request.park(late)
    served.lose()
    assert (fired(late), ended) == ([], [])


def test_a_lost_connection_fails_what_waits_and_cancels_what_is_parked():
    served, request = asked(head("GET", "/request"))
    done = fired(request.notifyFinish())
    request.notifyFinish()
    parked: list[Deferred[None]] = [Deferred() for _ in range(3)]
    ended = [fired(one) for one in parked]
    for one in parked:
        request.park(one)
    served.lose()
    assert [one[0].type for one in ended] == [CancelledError] * 3
    assert (done[0].type.__name__, request.code) == ("ConnectionDone", 499)
    late: Deferred[None] = Deferred()
    ended = [fired(late), fired(request.notifyFinish())]
    request.park(late)
    assert [one[0].type.__name__ for one in ended] == ["CancelledError", "ConnectionLost"]


# -- responses


def test_respond_sends_a_whole_answer():
    served, request = asked(head("GET", "/request"))
    request.respond(Reply(201, TEXT + b"X: y\r\n", b"hello"))
    answer = served.read()
    assert (answer.status, answer.body, answer.fields[b"x"]) == (201, b"hello", b"y")
    assert (request.code, request.sent, request.has_started) == (201, 5, True)
    for again in (
        lambda: request.respond(Reply(200, TEXT, b"again")),
        lambda: request.start(200, TEXT),
        lambda: request.write(b"again"),
        request.finish,
        lambda: request.upgrade(None, b""),
    ):
        with pytest.raises(RuntimeError):
            again()
    request.abort()
    assert not served.closed


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_have_no_body_and_no_length(status):
    served, request = asked(head("GET", "/request"))
    request.respond(Reply(status, TEXT, b"hello"))
    answer = served.read()
    assert (answer.status, answer.rest) == (status, b"")
    assert not {b"content-length", b"transfer-encoding"} & set(answer.fields)


@pytest.mark.parametrize("size", [4, 100_000])
def test_head_gets_the_fields_of_get_and_no_body(size):
    app = App(Rule("/", ("GET",), lambda request: request.respond(Reply(200, TEXT, b"x" * size))))
    for path in ("/", "/nowhere"):
        got = Served(app).ask(head("GET", path))
        answer = Served(app).ask(head("HEAD", path), bodyless=True)
        assert (answer.status, answer.fields, answer.rest) == (got.status, got.fields, b"")


@pytest.mark.parametrize("size", [1, 16 * 1024, 16 * 1024 + 1, 100_000])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_body_of_any_size_comes_whole(size, version):
    served = Served().send(head("GET", "/request", version=version))
    (request,) = served.routes.requests
    request.respond(Reply(200, TEXT, b"x" * size))
    assert (len(served.read().body), served.closed) == (size, version == "1.0")


def test_the_same_response_is_one_buffer_for_all_who_get_it():
    class Buffers(StringTransport):
        def write(self, data: bytes) -> None:
            written.append(data)

    written: list[bytes] = []
    served = Served()
    for body in (b"small", b"large" * 10_000):
        written.clear()
        response = Reply(200, TEXT, body)
        for _ in range(3):
            served.connect(Buffers()).send(head("GET", "/request"))
            served.connection.wire.filled()
            served.routes.requests[-1].respond(response)
        assert served.factory.unsent < 3 * (len(body) + 3_000)
        assert served.factory.unsent - 3 * 1_024 < len(body) + 4 * 500
        for connection in list(served.factory.connections):
            served.connection = connection
            served.lose()
        assert served.factory.unsent == 0


def test_the_same_response_has_the_date_of_its_second():
    served = Served()
    response = Reply(200, TEXT, b"x")
    dates = []
    for _ in range(2):
        served.send(head("GET", "/request"))
        served.routes.requests[-1].respond(response)
        dates.append(served.read().fields[b"date"][-6:])
        served.ticks(1)
    assert dates == [b"00 GMT", b"01 GMT"]


def test_an_unknown_status_has_an_empty_reason():
    served, request = asked(head("GET", "/request"))
    request.respond(Reply(299, b"", b""))
    assert served.sent.startswith(b"HTTP/1.1 299 \r\n")


# -- streams


def test_a_stream_is_chunked():
    served, request = asked(head("GET", "/request"))
    request.start(200, TEXT)
    request.write(b"first")
    request.write(b"")
    request.write(b"second")
    answer = served.read()
    assert (answer.fields[b"transfer-encoding"], answer.body) == (b"chunked", b"firstsecond")
    assert b"content-length" not in answer.fields
    request.write(b"x" * 100_000)
    request.finish()
    assert dechunk(served.sent) == (b"x" * 100_000, b"")
    assert (request.sent, served.sent.endswith(b"\r\n0\r\n\r\n")) == (100_011, True)
    served.transport.clear()
    assert served.ask(head()).body == b"root"


def test_a_stream_of_http_1_0_ends_with_its_connection():
    served, request = asked(head("GET", "/request", "Connection: keep-alive", version="1.0"))
    request.start(200, TEXT)
    request.write(b"first")
    request.write(b", second")
    assert not served.closed
    request.finish()
    answer = served.read()
    assert (answer.body, answer.fields[b"connection"]) == (b"first, second", b"close")
    assert served.closed


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204)])
def test_a_stream_without_a_body_has_none(method, status):
    served = Served().send(head(method, "/request"))
    request = served.routes.requests[0]
    request.start(status, TEXT)
    request.write(b"second")
    request.finish()
    assert served.read(bodyless=True).rest == b""
    assert served.ask(head()).body == b"root"


def test_a_stream_can_be_aborted():
    served, request = asked(head("GET", "/request"))
    request.start(200, TEXT)
    request.abort()
    assert served.closed


def test_the_end_of_a_stream_is_said_while_the_server_stops():
    served, request = asked(head("GET", "/request"))
    served.factory.stopping = True
    request.start(200, TEXT)
    request.finish()
    assert served.read().fields[b"connection"] == b"close"
    assert served.closed


def test_a_request_asks_the_socket_whether_its_client_has_closed():
    served, request = asked(head("GET", "/request"))
    assert not request.is_disconnected()
    assert not request.was_disconnected()
    served.lose()
    assert request.is_disconnected()
    assert request.was_disconnected()


def test_a_request_tells_whether_its_answer_is_on_its_way_also_when_it_is_complete():
    served, request = asked(head("GET", "/request"))
    assert not request.is_sending()
    served.transport.producer.pauseProducing()
    request.respond(Reply(200, TEXT, b"x" * 100_000))
    assert request.is_sending()
    served.transport.producer.resumeProducing()
    assert not request.is_sending()
    served.lose()
    assert not request.is_sending()


@implementer(IPushProducer)
class Producer:
    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


def test_a_producer_is_paced_by_its_reader_until_it_is_unregistered():
    served, request = asked(head("GET", "/request"))
    request.start(200, TEXT)
    producer = Producer()
    request.register_producer(producer)
    served.connection.wire.filled()
    request.write(b"x")
    assert producer.told == ["pause"]
    served.connection.wire.emptied()
    assert producer.told == ["pause", "resume"]
    request.unregister_producer()
    served.connection.wire.filled()
    assert producer.told == ["pause", "resume"]
    request.register_producer(late := Producer())
    assert late.told == ["pause"]
    served.lose()
    assert late.told == ["pause", "stop"]
    request.register_producer(producer)
    request.unregister_producer()
    assert producer.told == ["pause", "resume", "stop"]


# -- what a request that waits costs


def test_a_parked_request_is_small():
    served, request = asked(head("GET", "/request"))
    request.park(Deferred())
    assert not hasattr(request, "__dict__")
    assert not hasattr(served.connection, "__dict__")
    assert sum(map(sys.getsizeof, (request, served.connection, request.path))) < 500


def test_a_lost_connection_leaves_no_cycle_behind():
    gc.collect()
    before = {id(one) for one in gc.get_objects()}
    gc.disable()
    try:
        served = Served()
        served.lose()
        for data in (head("GET", "/request"), head("GET", "/poll/a"), post("/echo", b"x")[:-1], b"GET"):
            served.connect(StringTransport()).send(data)
            for request in served.routes.requests:
                assert request.request.getHeader(b"host") == b"x"
            served.lose()
            served.routes.requests.clear()
        del served.connection, served.transport, request
        served.routes.parked.clear()
        kinds = ("Request", "TwistedWebRequest", "HTTPConnection", "Deferred")
        left = [one for one in gc.get_objects() if type(one).__name__ in kinds and id(one) not in before]
        assert left == []
    finally:
        gc.enable()
