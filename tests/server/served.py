"""What the tests of serving/ share: an app with a route of each kind, a connection to it, its answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import HTTPException

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


class Page(Resource):
    """A resource that a route returns."""

    def render_GET(self, request: Any) -> Any:
        request.setHeader(b"X-Left", b"/".join(request.postpath))
        if request.args.get(b"later"):
            return NOT_DONE_YET
        return b"a page"

    def getChild(self, path: bytes, request: Any) -> Any:
        return self


class App:
    """One route of each kind. ``parked`` holds what waits, by name; ``seen`` what was asked."""

    app = Klein()

    def __init__(self) -> None:
        self.parked: dict[str, list[Deferred[Any]]] = {}
        self.requests: list[Request] = []
        self.cancelled: list[str] = []
        self.calls: list[str] = []

    @app.route("/", methods=["GET"])
    def root(self, request: Request) -> bytes:
        return b"root"

    @app.route("/poll/<path:name>", methods=["GET"], merge_slashes=False)
    def poll(self, request: Request, name: str) -> Deferred[Any]:
        self.calls.append(name)
        waiting: Deferred[Any] = Deferred(lambda _: self.cancelled.append(name))
        self.parked.setdefault(name, []).append(waiting)
        return waiting.addCallback(lambda body: request.respond(200, TEXT, body))

    @app.route("/light/<path:name>", methods=["GET"], merge_slashes=False)
    def light(self, request: Request, name: str) -> int:
        app = self

        class Waiting:
            def cancel(self) -> None:
                app.cancelled.append(name)

        self.requests.append(request)
        request.parked = Waiting()
        return NOT_DONE_YET

    @app.route("/push/<path:name>", methods=["POST"], merge_slashes=False)
    def push(self, request: Request, name: str) -> None:
        self.calls.append(name)
        woken = self.wake(name, request.body)
        request.respond(201, TEXT, b"%d woken, %d bytes" % (woken, len(request.body)))

    def wake(self, name: str, body: bytes) -> int:
        """Fire what is parked under a name, as a push does; return how many there were."""
        waiting = self.parked.pop(name, [])
        for one in waiting:
            one.callback(body)
        return len(waiting)

    @app.route("/echo", methods=["POST"])
    def echo(self, request: Request) -> bytes:
        return request.content.read()

    @app.route("/small", methods=["POST"])
    def small(self, request: Request) -> bytes:
        return request.body

    small.max_body = 10  # type: ignore[attr-defined]

    @app.route("/asked", methods=["POST"])
    def asked(self, request: Request) -> bytes:
        return request.body

    asked.max_body = lambda request: int(request.args[b"most"][0])  # type: ignore[attr-defined]

    @app.route("/stream", methods=["GET"])
    def stream(self, request: Request) -> int:
        self.requests.append(request)
        request.start(200, TEXT)
        return NOT_DONE_YET

    @app.route("/request", methods=["GET", "POST", "PUT"])
    def give_request(self, request: Request) -> int:
        self.requests.append(request)
        return NOT_DONE_YET

    @app.route("/page/<path:rest>", methods=["GET"])
    def page(self, request: Request, rest: str) -> Resource:
        return Page()

    @app.route("/coroutine")
    async def coroutine(self, request: Request) -> str:
        request.setHeader("X-From", "a coroutine")  # type: ignore[no-untyped-call]
        return "grüße"

    @app.route("/nothing", methods=["DELETE"])
    def nothing(self, request: Request) -> None:
        request.setResponseCode(204)

    @app.route("/broken")
    def broken(self, request: Request) -> bytes:
        raise ZeroDivisionError

    @app.handle_errors(HTTPException)
    def http_error(self, request: Request, failure: Failure) -> None:
        error: Any = failure.value
        allowed = getattr(error, "valid_methods", None)
        fields = b"Allow: %b\r\n" % ", ".join(sorted(allowed)).encode() if allowed else b""
        location = getattr(error, "new_url", None)
        fields += b"Location: %b\r\n" % location.encode() if location else b""
        request.respond(error.code, fields, type(error).__name__.encode())


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


def malformed(status: int, sentence: str) -> tuple[bytes, bytes]:
    return TEXT, sentence.encode()


class Served:
    """A factory, and one connection to it."""

    def __init__(self, app: Any = None, clock: Clock | None = None, **words: Any) -> None:
        self.routes = app or App()
        self.clock = clock or Clock()
        bounds = words.pop("bounds", Bounds())
        self.factory = HTTPFactory(
            self.routes.app,
            clock=self.clock,
            malformed=malformed,
            bounds=bounds,
            wall=self.clock.seconds,
            **words,
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
