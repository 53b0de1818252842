"""What a route sees of a request, and each of the ways in which it may answer."""

from __future__ import annotations

import gc
import sys
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from klein import Klein, Response
from served import TEXT, Served, dechunk, head, post
from test_server_dispatch import Only, in_twisted_web
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.http import parse_qs
from twisted.web.iweb import IRequest
from twisted.web.pages import notFound
from twisted.web.template import Element, TagLoader, tags
from twisted.web.websocket import WebSocketResource
from zope.interface import implementer
from zope.interface.verify import verifyObject

from cometd_lite.server.irequest import parse_query

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Twisted's static makes a deprecated page when it is imported
    from twisted.web.static import Data, File


def asked(data: bytes) -> tuple[Served, Any]:
    """Return a served connection, and the request that waits on it."""
    served = Served().send(data)
    return served, served.routes.requests[-1]


# -- what came


def test_a_request_shows_what_came():
    served, request = asked(
        post("/request?a=1&b=x%20y&a=2", b"body", "X-One: a", "X-One: b", "Cookie: c=d; e=f")
    )
    assert (request.method, request.uri) == (b"POST", b"/request?a=1&b=x%20y&a=2")
    assert (request.path, request.query) == (b"/request", b"a=1&b=x%20y&a=2")
    assert request.args == {b"a": [b"1", b"2"], b"b": [b"x y"]}
    assert (request.body, request.content.read(), request.clientproto) == (b"body", b"body", b"HTTP/1.1")
    assert (request.getHeader(b"X-ONE"), request.getHeader("x-one"), request.getHeader("y")) == (
        b"a, b",
        "a, b",
        None,
    )
    assert request.requestHeaders.getRawHeaders(b"x-one") == [b"a", b"b"]
    assert request.getAllHeaders()[b"x-one"] == b"b"
    assert (request.getCookie(b"e"), request.getCookie(b"x")) == (b"f", None)
    assert (request.prepath, request.postpath) == ([b"request"], [])
    assert request.received_at == served.clock.seconds()


def test_a_request_is_what_twisted_web_calls_one():
    _, request = asked(head("GET", "/request"))
    assert verifyObject(IRequest, request)
    for name in ("getSession", "URLPath", "prePathURL", "rememberRootURL", "getRootURL"):
        with pytest.raises(NotImplementedError):
            getattr(request, name)()


def test_a_request_tells_who_sent_it_and_where_to():
    served, request = asked(head("GET", "/request", host="example.org:8080"))
    assert request.getClientAddress() == request.client == served.transport.getPeer()
    assert request.getClientIP() == served.transport.getPeer().host
    assert request.getHost() == served.transport.getHost()
    assert (request.getRequestHostname(), request.isSecure()) == (b"example.org", False)
    request.setHost(b"example.net", 443, True)
    assert (request.getHost(), request.isSecure()) == (IPv4Address("TCP", "example.net", 443), True)
    assert asked(head("GET", "/request", host="[::1]:80"))[1].getRequestHostname() == b"[::1]"
    assert asked(head("GET", "/request", host="", version="1.0"))[1].getRequestHostname() == b"10.0.0.1"
    assert request.transport is served.transport


@pytest.mark.parametrize(
    ("field", "user", "password"),
    [
        ("Authorization: Basic dXNlcjpwYXNzOndvcmQ=", b"user", b"pass:word"),
        ("Authorization: basic dXNlcg==", b"user", b""),
        ("Authorization: Basic !", b"", b""),
        ("Authorization: Bearer x", b"", b""),
        ("X: y", b"", b""),
    ],
)
def test_basic_authentication_is_read(field, user, password):
    _, request = asked(head("GET", "/request", field))
    assert (request.getUser(), request.getPassword()) == (user, password)


@given(some.text("ab=&;+%2 0c", max_size=12).map(str.encode))
def test_a_query_is_read_as_in_twisted_web(query):
    assert parse_query(query) == parse_qs(query, keep_blank_values=1)


# -- the short ways to answer


def test_respond_sends_a_whole_answer():
    served, request = asked(head("GET", "/request"))
    request.respond(201, TEXT + b"X: y\r\n", b"hello")
    answer = served.read()
    assert (answer.status, answer.body, answer.fields[b"x"]) == (201, b"hello", b"y")
    assert (request.code, request.sent, request.finished, request.startedWriting) == (201, 5, True, True)
    with pytest.raises(RuntimeError):
        request.respond(200, TEXT, b"again")
    with pytest.raises(RuntimeError):
        request.start(200, TEXT)
    with pytest.raises(RuntimeError):
        request.write(b"again")
    with pytest.raises(RuntimeError):
        request.finish()
    with pytest.raises(RuntimeError):
        request.upgrade(None)


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_have_no_body_and_no_length(status):
    served, request = asked(head("GET", "/request"))
    request.respond(status, TEXT, b"hello")
    answer = served.read()
    assert (answer.status, answer.rest) == (status, b"")
    assert not {b"content-length", b"transfer-encoding"} & set(answer.fields)


def test_head_gets_the_fields_of_get_and_no_body():
    for path in ("/", "/coroutine", "/page/x", "/nowhere"):
        got = Served().ask(head("GET", path))
        answer = Served().ask(head("HEAD", path), bodyless=True)
        assert (answer.status, answer.fields, answer.rest) == (got.status, got.fields, b"")


def test_an_unknown_status_has_an_empty_reason():
    served, request = asked(head("GET", "/request"))
    request.respond(299, b"", b"")
    assert served.sent.startswith(b"HTTP/1.1 299 \r\n")


def test_close_after_is_said_and_done():
    served, request = asked(head("GET", "/request"))
    request.close_after()
    request.respond(200, TEXT, b"x")
    assert served.read().fields[b"connection"] == b"close"
    assert served.closed


def test_a_stream_is_chunked():
    served, request = asked(head("GET", "/request"))
    request.start(200, TEXT, b"first")
    request.write(b"")
    request.write(b"second")
    answer = served.read()
    assert (answer.fields[b"transfer-encoding"], answer.body) == (b"chunked", b"firstsecond")
    assert b"content-length" not in answer.fields
    request.write(b"x" * 1_000)
    request.finish()
    assert dechunk(served.sent) == (b"x" * 1_000, b"")
    assert (request.sent, served.sent.endswith(b"\r\n0\r\n\r\n")) == (1_011, True)
    served.transport.clear()
    assert served.ask(head()).body == b"root"


def test_a_stream_of_http_1_0_ends_with_its_connection():
    served, request = asked(head("GET", "/request", "Connection: keep-alive", version="1.0"))
    request.start(200, TEXT, b"first")
    request.write(b", second")
    assert not served.closed
    request.finish()
    answer = served.read()
    assert (answer.body, answer.fields[b"connection"]) == (b"first, second", b"close")
    assert served.closed


def test_a_stream_for_head_has_no_body():
    served = Served().send(head("HEAD", "/request"))
    request = served.routes.requests[0]
    request.start(200, TEXT, b"first")
    request.write(b"second")
    request.finish()
    assert served.read(bodyless=True).rest == b""
    assert served.ask(head()).body == b"root"


def test_a_route_that_returns_when_its_stream_is_at_its_end_has_it_ended():
    app = Klein()

    @app.route("/")
    async def stream(request: Any) -> None:
        request.start(200, TEXT, b"some")
        await waiting
        request.write(b" more")

    waiting: Deferred[None] = Deferred()
    served = Served(Only(app)).send(head())
    assert served.sent.endswith(b"\r\n4\r\nsome\r\n")
    waiting.callback(None)
    assert served.read().body == b"some more"
    assert served.sent == b""


def test_gone_asks_the_socket():
    served, request = asked(head("GET", "/request"))
    assert not request.gone()
    served.lose()
    assert request.gone()


# -- Klein's ways to answer


class Hello(Element):
    loader = TagLoader(tags.p("hello"))


def kinds() -> Klein:
    """Return an app with everything that a Klein route may return."""
    app = Klein()

    def route(path: str) -> Any:
        return app.route(path, endpoint=path)

    route("/bytes")(lambda request: b"bytes")
    route("/str")(lambda request: "str")
    route("/none")(lambda request: None)
    route("/number")(lambda request: 7)
    route("/response")(lambda request: Response(201, {"X": ["a", "b"]}, b"made"))
    route("/element")(lambda request: Hello())
    route("/resource")(lambda request: Data(b"data", "text/x-data"))
    route("/nested/")(lambda request: notFound())

    @route("/set")
    def set_fields(request: Any) -> bytes:
        request.setResponseCode(202, b"Fine")
        request.setHeader("X-A", "ä")
        request.setHeader(b"Content-Type", b"text/x-set")
        request.responseHeaders.addRawHeader(b"X-B", b"1")
        request.addCookie(b"a", b"b", path=b"/")
        request.setETag(b'"tag"')
        request.setLastModified(1_000_000)
        return b"set"

    @route("/redirect")
    def redirect(request: Any) -> None:
        request.redirect(b"/elsewhere")

    @route("/written")
    def written(request: Any) -> bytes:
        request.setHeader(b"X-A", b"y")
        request.write(b"one, ")
        return b"two"

    @route("/later")
    def later(request: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        done.callback("later")
        return done

    @route("/sized")
    def sized(request: Any) -> None:
        request.setHeader(b"Content-Length", b"5")
        request.write(b"12")
        request.write(b"345")

    @route("/empty")
    def empty(request: Any) -> None:
        request.setResponseCode(204)

    return app


KINDS = kinds()


@pytest.mark.parametrize("path", sorted(rule.endpoint for rule in KINDS.url_map.iter_rules()))
@pytest.mark.parametrize("fields", [(), ('If-None-Match: "tag"',)])
def test_whatever_a_route_returns_is_answered_as_in_twisted_web(path, fields):
    data = head("GET", path, *fields)
    served = Served(Only(KINDS))
    here, there = served.ask(data), in_twisted_web(KINDS, data)
    assert (here.status, here.body) == (there.status, there.body)
    ignored = {b"server", b"date", b"content-length", b"transfer-encoding"}
    if not here.body:
        ignored.add(b"content-type")
    assert {k: v for k, v in here.fields.items() if k not in ignored} == {
        k: v for k, v in there.fields.items() if k not in ignored
    }
    assert served.ask(head("GET", "/bytes")).body == b"bytes"


def test_a_body_shorter_than_announced_ends_its_connection():
    app = Klein()

    @app.route("/")
    def short(request: Any) -> None:
        request.setHeader(b"Content-Length", b"5")
        request.write(b"12")

    served = Served(Only(app)).send(head())
    assert served.sent.endswith(b"\r\n\r\n12")
    assert served.closed


def test_a_route_may_end_the_connection_with_a_field():
    app = Klein()

    @app.route("/")
    def closing(request: Any) -> bytes:
        request.setHeader(b"Connection", b"close")
        return b"x"

    served = Served(Only(app))
    assert served.ask(head()).fields[b"connection"] == b"close"
    assert served.closed


def test_a_mounted_resource_sees_what_is_left_of_the_path():
    answer = Served().ask(head("GET", "/page/one/two%2Fthree"))
    assert (answer.body, answer.fields[b"x-left"]) == (b"a page", b"")


def test_a_mounted_resource_refuses_other_methods():
    app = Klein()
    app.route("/r")(lambda request: Data(b"data", "text/x-data"))
    answer = Served(Only(app)).ask(head("PUT", "/r"))
    assert (answer.status, answer.fields[b"allow"]) == (405, b"GET, HEAD")
    assert Served(Only(app)).ask(head("BREW", "/r")).status == 501


def test_a_file_is_served_at_the_pace_of_its_reader(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 200_000)
    app = Klein()
    app.route("/file")(lambda request: File(str(tmp_path / "file")))
    served = Served(Only(app)).send(head("GET", "/file"))
    for _ in range(10):
        if served.transport.producer is not None and not served.transport.streaming:
            served.transport.producer.resumeProducing()
    assert len(served.read().body) == 200_000
    served.send(head("GET", "/file", "Range: bytes=10-19"))
    while served.transport.producer is not None and not served.transport.streaming:
        served.transport.producer.resumeProducing()
    answer = served.read()
    assert (answer.status, answer.body) == (206, b"x" * 10)


@implementer(IPushProducer, IPullProducer)
class Producer:
    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


def test_a_producer_takes_the_place_of_the_wire_and_gives_it_back():
    served, request = asked(head("GET", "/request"))
    producer = Producer()
    request.registerProducer(producer, True)
    assert served.transport.producer is producer
    request.unregisterProducer()
    assert served.transport.producer is served.connection.wire
    request.finish()
    served.lose()
    request.registerProducer(producer, True)
    request.unregisterProducer()
    assert producer.told == ["stop"]


def test_a_failure_that_a_resource_reports_is_answered(expected_failures):
    expected_failures.append(ZeroDivisionError)
    served, request = asked(head("GET", "/request"))
    request.processingFailed(Failure(ZeroDivisionError()))
    assert served.read().status == 500


def test_twisted_webs_websocket_is_handed_the_connection():
    class Echo:
        transport: Any

        def negotiationStarted(self, transport: Any) -> None:
            self.transport = transport

        def negotiationFinished(self) -> None: ...
        def textMessageReceived(self, message: str) -> None:
            self.transport.sendTextMessage(message.upper())

        def connectionLost(self, reason: Any) -> None:
            lost.append(reason)

    class Factory:
        def buildProtocol(self, request: Any) -> Echo:
            return Echo()

    lost: list[Any] = []
    app = Klein()
    app.route("/ws")(lambda request: WebSocketResource(Factory()))
    fields = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    frame = b"\x81\x85\x00\x00\x00\x00hello"
    served = Served(Only(app)).send(
        head("GET", "/ws", *fields, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==") + frame
    )
    answer = served.turn().read()
    assert answer.status == 101
    assert answer.fields[b"sec-websocket-accept"] == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert answer.rest == b"\x81\x05HELLO"
    served.transport.clear()
    assert served.send(frame).sent == b"\x81\x05HELLO"
    served.lose()
    assert len(lost) == 1
    assert Served(Only(app)).ask(head("GET", "/ws")).status == 400


# -- what a request that waits costs


def test_a_parked_request_is_small():
    served, request = asked(head("GET", "/light/a"))
    assert not hasattr(request, "__dict__")
    assert not hasattr(served.connection, "__dict__")
    assert sum(map(sys.getsizeof, (request, served.connection, request.uri))) < 700
    assert request.extra is None


def test_a_lost_connection_leaves_no_cycle_behind():
    gc.collect()
    before = {id(one) for one in gc.get_objects()}
    gc.disable()
    try:
        served = Served()
        served.lose()
        for data in (head("GET", "/light/a"), head("GET", "/poll/a"), post("/echo", b"x")[:-1], b"GET"):
            served.connect(StringTransport()).send(data)
            served.lose()
        del served.connection, served.transport
        served.routes.requests.clear()
        served.routes.parked.clear()
        kinds = ("Request", "HTTPConnection", "Deferred")
        left = [one for one in gc.get_objects() if type(one).__name__ in kinds and id(one) not in before]
        assert left == []
    finally:
        gc.enable()
