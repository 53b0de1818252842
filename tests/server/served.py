"""What the tests of server/ share: an application, a connection to it, and its responses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from cometd_lite.server import Bounds, HTTPFactory, Request

TEXT = b"Content-Type: text/plain\r\n"


def head(
    method: str = "GET", target: str = "/", *fields: str, version: str = "1.1", host: str = "x"
) -> bytes:
    """Return the head of a request."""
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host else []), *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(target: str, body: bytes = b"", *fields: str) -> bytes:
    return head("POST", target, f"Content-Length: {len(body)}", *fields) + body


def chunked(target: str, *chunks: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return head("POST", target, "Transfer-Encoding: chunked") + body


class Reply(NamedTuple):
    """A response."""

    status: int
    head: bytes
    body: bytes


class Rule(NamedTuple):
    """A route."""

    rule: str
    methods: tuple[str, ...]
    handler: Callable[..., object]
    max_body: int | None = None
    body_bound: Callable[[Request, str | None], int] | None = None

    def call(self, request: Request, name: str | None) -> None:
        self.handler(request) if name is None else self.handler(request, name)


class App:
    """An application with a route of each kind. ``parked`` has what waits, ``calls`` what was asked."""

    def __init__(self, *routes: Rule) -> None:
        self.parked: dict[str, list[Deferred[Any]]] = {}
        self.requests: list[Request] = []
        self.cancelled: list[str] = []
        self.calls: list[str] = []
        self.malformed_paths: list[bytes] = []
        self.routes = routes or (
            Rule("/", ("GET",), lambda request: request.respond(Reply(200, TEXT, b"root"))),
            Rule("/poll/<path:name>", ("GET",), self.poll),
            Rule("/push/<path:name>", ("POST",), self.push),
            Rule("/echo", ("POST",), self.echo),
            Rule("/small", ("POST",), self.echo, 10),
            Rule("/stream", ("GET",), self.stream),
            Rule("/request", ("GET", "POST", "PUT"), self.requests.append),
            Rule("/nothing", ("DELETE",), lambda request: request.respond(Reply(204, b"", b""))),
            Rule("/broken", ("GET",), self.break_down),
        )

    def poll(self, request: Request, name: str) -> None:
        self.calls.append(name)
        waiting: Deferred[Any] = Deferred(lambda _: self.cancelled.append(name))
        self.parked.setdefault(name, []).append(waiting)
        request.park(waiting)
        waiting.addCallback(lambda body: request.respond(Reply(200, TEXT, body)))
        waiting.addErrback(lambda failure: failure.trap(CancelledError))

    def push(self, request: Request, name: str) -> None:
        self.calls.append(name)
        woken = self.wake(name, request.body)
        request.respond(Reply(201, TEXT, b"%d woken, %d bytes" % (woken, len(request.body))))

    def wake(self, name: str, body: bytes) -> int:
        """Fire what is parked under a name, as a push does; return how many there were."""
        waiting = self.parked.pop(name, [])
        for one in waiting:
            one.callback(body)
        return len(waiting)

    def echo(self, request: Request) -> None:
        request.respond(Reply(200, TEXT, request.body))

    def stream(self, request: Request) -> None:
        self.requests.append(request)
        request.start(200, TEXT)

    def break_down(self, request: Request) -> None:
        raise ZeroDivisionError

    def preflight(self, request: Request, methods: tuple[str, ...]) -> None:
        request.respond(Reply(204, allow(methods), b""))

    def not_found(self, request: Request) -> None:
        request.respond(Reply(404, TEXT, b"NotFound"))

    def not_allowed(self, request: Request, methods: tuple[str, ...], route: object) -> None:
        request.respond(Reply(405, TEXT + allow(methods), b"NotAllowed"))

    def too_large(self, request: Request, route: object, most: int) -> None:
        request.respond(Reply(413, TEXT, b"TooLarge"))

    def failed(self, request: Request, failure: Failure, path: bytes) -> None:
        request.respond(Reply(500, TEXT, failure.type.__name__.encode()))

    def malformed(self, status: int, sentence: str, path: bytes) -> tuple[bytes, bytes]:
        self.malformed_paths.append(path)
        return TEXT, sentence.encode()


def allow(methods: tuple[str, ...]) -> bytes:
    return b"Allow: %b\r\n" % ", ".join(methods).encode() if methods else b""


@dataclass
class Answer:
    """One answer, as it was read from the wire."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes
    rest: bytes = field(repr=False, default=b"")

    @classmethod
    def read(cls, data: bytes, *, bodyless: bool = False) -> Answer:
        """Read the answer that ``data`` begins with; what follows is its ``rest``."""
        block, end, rest = data.partition(b"\r\n\r\n")
        assert end, f"no whole head: {data!r}"
        line, *lines = block.split(b"\r\n")
        version, status, _ = line.split(b" ", 2)
        assert version == b"HTTP/1.1"
        fields: dict[bytes, bytes] = {}
        for one in lines:
            name, colon, value = one.partition(b": ")
            assert colon
            known = fields.get(name.lower())
            assert known is None or name.lower() not in {b"content-length", b"connection", b"date"}
            fields[name.lower()] = value if known is None else known + b", " + value
        answer = cls(int(status), fields, b"", rest)
        if bodyless or answer.status in {204, 304} or answer.status < 200:
            return answer
        if b"content-length" in fields:
            length = int(fields[b"content-length"])
            assert len(rest) >= length
            answer.body, answer.rest = rest[:length], rest[length:]
        elif fields.get(b"transfer-encoding") == b"chunked":
            answer.body, answer.rest = dechunk(rest)
        else:
            answer.body, answer.rest = rest, b""
        return answer


def dechunk(data: bytes) -> tuple[bytes, bytes]:
    """Return the content of a chunked body, as far as it came, and what follows it."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        assert data[length : length + 2] == b"\r\n"
        body, data = body + data[:length], data[length + 2 :]
        if not length:
            break
    return body, data


class Served:
    """A factory, and one connection to it."""

    def __init__(self, app: Any = None, clock: Clock | None = None, **words: Any) -> None:
        self.routes = app or App()
        self.clock = clock or Clock()
        bounds = words.pop("bounds", Bounds())
        self.factory = HTTPFactory(
            self.routes, clock=self.clock, bounds=bounds, wall=self.clock.seconds, **words
        )
        self.connect()

    def connect(self, transport: Any = None) -> Served:
        """Open a connection, in the place of the one before."""
        self.transport: Any = transport or StringTransport()
        self.connection = self.factory.buildProtocol(self.transport.getPeer())
        self.connection.makeConnection(self.transport)
        return self

    def send(self, *data: bytes) -> Served:
        for one in data:
            self.connection.dataReceived(one)
        return self

    def turn(self) -> Served:
        """Let the reactor have a turn."""
        self.clock.advance(0)
        return self

    def ticks(self, seconds: float) -> Served:
        """Let time pass, second by second as the timer does."""
        for _ in range(round(seconds)):
            self.clock.advance(1)
        return self

    @property
    def sent(self) -> bytes:
        """Everything that the server has sent and that was not read yet."""
        return bytes(self.transport.value())

    def read(self, *, bodyless: bool = False) -> Answer:
        """Read one answer."""
        answer = Answer.read(self.sent, bodyless=bodyless)
        self.transport.clear()
        if answer.rest:
            self.transport.write(answer.rest)
        return answer

    def ask(self, *data: bytes, bodyless: bool = False) -> Answer:
        return self.send(*data).read(bodyless=bodyless)

    @property
    def closed(self) -> bool:
        """Whether the server has asked for the end of the connection."""
        return bool(self.transport.disconnecting or self.transport.disconnected)

    def lose(self) -> None:
        """End the connection, as the peer does."""
        self.connection.connectionLost(Failure(ConnectionDone()))


def fired(deferred: Deferred[Any]) -> list[Any]:
    """Return a list that will hold what ``deferred`` fires with."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results
