"""One connection: bytes come in, requests leave to their routes one at a time, in order.

A connection is always in one of the states below, and each message moves it along::

    HEAD ──> BODY ──> SERVING ──> HEAD        the next request, on the same connection
                         ├──────> HANDED_ON   another protocol has it (an upgrade)
                         └──────> LINGERING   the answer says close; what still comes is dropped
    any ──> CLOSED

While a request is SERVING, what comes after it is kept, up to a bound, and then not read: so pipelined requests are
answered in order, and cost nothing but bytes. No timer belongs to a connection: it has a ``deadline`` in ticks of
its factory, 0 while a route may take its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.internet.interfaces import IProtocol, ISSLTransport
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from zope.interface import implementer

from .bodies import Chunked, TooLarge
from .heads import Head, Refused, check_unfinished, parse_line, split_absolute
from .request import Request
from .wire import Wire

if TYPE_CHECKING:
    from .dispatch import Route
    from .factory import HTTPFactory

HEAD: Final = 0
BODY: Final = 1
SERVING: Final = 2
HANDED_ON: Final = 3
LINGERING: Final = 4
CLOSED: Final = 5


class _Arriving:
    """A request whose body has not come yet, and what will be done with it."""

    __slots__ = ("chunks", "expected", "params", "parts", "received", "request", "route", "since")

    def __init__(self, request: Request, route: Route | Failure, params: dict[str, Any], tick: int) -> None:
        self.request = request
        self.route = route
        self.params = params
        self.since = tick
        self.expected = request.head.length
        self.received = 0
        self.parts: list[bytes] = []
        self.chunks: Chunked | None = None


@implementer(IProtocol)
class HTTPConnection:
    """The server's end of one connection. ``closing``: the answer under way is the last one."""

    __slots__ = (
        "_arriving", "_buffer", "_dropped", "_head", "_looping", "_paused", "_started", "_upgraded", "closing", "deadline",
        "factory", "request", "state", "wire",
    )  # fmt: skip

    wire: Wire

    def __init__(self, factory: HTTPFactory) -> None:
        self.factory = factory
        self.state = HEAD
        self.closing = False
        self.deadline = 0
        self.request: Request | None = None
        self._head: Head | None = None
        self._buffer = b""
        self._arriving: _Arriving | None = None
        self._upgraded: Any = None
        self._dropped = 0
        self._looping = False
        self._paused = False
        self._started = False

    # -- IProtocol

    def makeConnection(self, transport: Any) -> None:  # noqa: N802  Twisted's name
        """Begin to serve what comes over ``transport``."""
        self.wire = self.factory.wire(transport, self)
        self.factory.opened(self)
        self.deadline = self.factory.tick + self.factory.bounds.head_seconds

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Take in what came."""
        state = self.state
        if state == HEAD:
            if not self._buffer:
                # A client's next poll has the fields of its last one: then all of it is here, and nothing else.
                line, _, block = data.partition(b"\r\n")
                head = self._head
                if head is not None and head.block == block and not head.sized:
                    self._begin(line, head)
                    return
            else:
                data, self._buffer = self._buffer + data, b""
            self._serve(data)
        elif state == SERVING:
            self._keep(data)
        elif state == BODY:
            self._serve_body(data)
        elif state == HANDED_ON:
            if self._buffer:
                self._buffer += data
            else:
                self._upgraded.dataReceived(data)
        elif state == LINGERING:
            self._dropped += len(data)
            if self._dropped > self.factory.bounds.linger:
                self.wire.abort()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        """Forget everything; whoever waits for this connection is cancelled."""
        handed_on = self.state == HANDED_ON
        self.state = CLOSED
        self.deadline = 0
        self._buffer = b""
        self._arriving = None
        self.factory.closed(self)
        request, self.request = self.request, None
        if request is not None:
            request.lose(reason)
        if handed_on:
            protocol, self._upgraded = self._upgraded, None
            protocol.connectionLost(reason)

    # -- reading

    def _serve(self, data: bytes) -> None:
        """Serve the requests in ``data`` until one of them has to wait."""
        bounds = self.factory.bounds
        self._looping = True
        try:
            while data:
                if data.startswith(b"\r\n"):
                    # RFC 9112 §2.2: an empty line before a request is passed over.
                    data = data[2:]
                end = data.find(b"\r\n\r\n", 0, bounds.head) + 4
                if end == 3:
                    self._wait_for_head(data)
                    break
                line, _, block = data[:end].partition(b"\r\n")
                self._buffer = data[end:]
                head = self._head
                if head is None or head.block != block:
                    head = self._head = self.factory.head(block)
                self._begin(line, head)
                if self.state != HEAD or self.wire.pending() > bounds.write_low:
                    break
                data, self._buffer = self._buffer, b""
        except Refused as refusal:
            self._refuse(refusal)
        finally:
            self._looping = False
        if self.state == HANDED_ON:
            self._play_on()
        elif self._paused and len(self._buffer) <= bounds.pipelined:
            self._read_on()

    def _wait_for_head(self, data: bytes) -> None:
        """Keep the beginning of a head, unless it can never become a good one."""
        bounds = self.factory.bounds
        check_unfinished(data, bounds)
        if not self._started:
            self._started = True
            self.deadline = self.factory.tick + bounds.head_seconds
        self._buffer = data

    def _begin(self, line: bytes, head: Head) -> None:
        """Begin with the request of a head that is complete: call its route, unless a body comes first."""
        factory = self.factory
        try:
            method, target, minor = parse_line(line, factory.bounds)
            if not target.startswith(b"/"):
                target, head = split_absolute(target, head)
            if minor:
                if head.host is None:
                    raise Refused(400, "HTTP/1.1 wants a Host field.")
                self.closing = head.close
            else:
                if head.chunked:
                    raise Refused(400, "HTTP/1.0 has no chunked coding.")
                self.closing = head.close or not head.keep
        except Refused as refusal:
            self._refuse(refusal)
            return
        self.request = request = Request(self, head, method, target, minor, factory.seconds())
        self.state = SERVING
        self.deadline = 0
        if head.sized:
            self._begin_body(request)
            return
        try:
            route, params = factory.routes.find(method, target.partition(b"?")[0], request)
            request.segments = route.segments
            result = route.call(request, **params)
            if result is not NOT_DONE_YET and (result is not None or request is self.request):
                request.deliver(result)
        except Exception:  # noqa: BLE001  the app's own handlers take whatever is raised
            self.recover(request, Failure())

    def _keep(self, data: bytes) -> None:
        """Keep what came while a request is being served; stop reading when that is much."""
        self._buffer += data
        if len(self._buffer) > self.factory.bounds.pipelined and not self._paused:
            self._paused = True
            self.wire.pause()

    def _read_on(self) -> None:
        self._paused = False
        self.wire.resume()

    # -- bodies

    def _begin_body(self, request: Request) -> None:
        """Find the route, for it says how long the body may be, and read the body if it is not longer."""
        factory = self.factory
        head = request.head
        found: Route | Failure
        params: dict[str, Any] = {}
        try:
            found, params = factory.routes.find(request.method, request.path, request)
            request.segments = found.segments
            bound = found.bound
            most = (
                factory.bounds.body if bound is None else bound if isinstance(bound, int) else bound(request)
            )
        except Exception:  # noqa: BLE001  the app's own handlers take whatever is raised
            found, most = Failure(), factory.bounds.body
        arriving = _Arriving(request, found, params, factory.tick)
        if head.length > most:
            self._arriving = arriving
            self._too_large(arriving)
            return
        rest, self._buffer = self._buffer, b""
        if head.length and len(rest) >= head.length:
            request.body = rest[: head.length]
            self._buffer = rest[head.length :]
            self._call(arriving)
            return
        if head.expects and request.minor and not rest:
            if isinstance(found, Failure):
                # Who asks before sending need not send for an error (RFC 9110 §10.1.1).
                self._arriving = arriving
                request.close_after()
                self.recover(request, found)
                return
            self.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.chunked:
            arriving.chunks = Chunked(most, factory.bounds)
        self._arriving = arriving
        self.state = BODY
        self.deadline = factory.tick + factory.bounds.body_seconds
        if rest:
            self._take_body(arriving, rest)

    def _serve_body(self, data: bytes) -> None:
        """Take in more of a body, and what comes after it."""
        arriving = self._arriving
        if arriving is None:
            return
        self._looping = True
        try:
            self._take_body(arriving, data)
        except Refused as refusal:
            self._refuse(refusal)
        finally:
            self._looping = False
        self._go_on()

    def _take_body(self, arriving: _Arriving, data: bytes) -> None:
        """Take in a part of a body; call the route when it is complete."""
        arriving.received += len(data)
        chunks = arriving.chunks
        if chunks is not None:
            try:
                if not chunks.feed(data):
                    return
            except TooLarge:
                self.state = SERVING
                self._too_large(arriving)
                return
            arriving.request.body = bytes(chunks.content)
            self._buffer = chunks.rest
        else:
            arriving.parts.append(data)
            if arriving.received < arriving.expected:
                return
            body = b"".join(arriving.parts)
            arriving.request.body = body[: arriving.expected]
            self._buffer = body[arriving.expected :]
        self._arriving = None
        self.state = SERVING
        self.deadline = 0
        self._call(arriving)

    def _call(self, arriving: _Arriving) -> None:
        """Call the route of a request whose body is there."""
        request, route = arriving.request, arriving.route
        if isinstance(route, Failure):
            self.recover(request, route)
            return
        try:
            request.deliver(route.call(request, **arriving.params))
        except Exception:  # noqa: BLE001  the app's own handlers take whatever is raised
            self.recover(request, Failure())

    def _too_large(self, arriving: _Arriving) -> None:
        """Refuse a body over its bound: before it is read where its length says so."""
        arriving.request.close_after()
        self.deadline = 0
        self.recover(arriving.request, Failure(RequestEntityTooLarge()))

    # -- errors

    def recover(self, request: Request, failure: Failure) -> None:
        """Let the app's own error handlers answer, as ``KleinResource`` does."""
        if request is not self.request:
            # Answered, or nobody is left to answer.
            if not failure.check(CancelledError):
                self.factory.log.failure("A request failed after its end.", failure)
            return
        self._try_handlers(request, failure, 0)

    def _try_handlers(self, request: Request, failure: Failure, at: int) -> None:
        """Try the error handlers from ``at`` on; the last resort is what Klein's is."""
        app = self.factory.app
        handlers = app._error_handlers
        for place in range(at, len(handlers)):
            types, handler = handlers[place]
            if failure.check(*types):
                answer = maybeDeferred(app.execute_error_handler, handler, request, failure)
                answer.addCallback(request.deliver)
                answer.addErrback(lambda other, after=place + 1: self._try_handlers(request, other, after))
                if not answer.called and request is self.request:
                    request.parked = answer
                return
        if request is not self.request:
            if not failure.check(CancelledError):
                self.factory.log.failure("A request failed after its end.", failure)
        elif failure.check(HTTPException):
            self._answer_exception(request, failure.value)
        else:
            self.failed(request, failure)

    def _answer_exception(self, request: Request, error: Any) -> None:
        """Answer with werkzeug's own page for one of its exceptions."""
        page = error.get_response({})
        request.setResponseCode(error.code)
        for name, value in page.headers:
            request.setHeader(name.encode(), value.encode())
        request.give(b"".join(page.iter_encoded()))

    def failed(self, request: Request, failure: Failure) -> None:
        """Log what nobody expected, and answer 500, or cut off an answer that had begun."""
        self.factory.log.failure(
            "A request failed: {method} {path}", failure, method=request.method, path=request.path
        )
        if request is not self.request:
            return
        if request.startedWriting:
            self.wire.abort()
        else:
            request.respond(500, *self.factory.malformed(500, "The server failed; its log says why."))

    def _refuse(self, refusal: Refused) -> None:
        """Answer what is not a request, and close."""
        if self.state == CLOSED:
            return
        head, body = self.factory.malformed(refusal.status, refusal.sentence)
        line = self.factory.status_line(refusal.status)
        self.wire.write(
            b"%b%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (line, head, len(body), body)
        )
        request, self.request = self.request, None
        if request is not None:
            request.lose(Failure(refusal))
        self._linger()

    # -- the end of an answer

    def answered(self, request: Request) -> None:
        """The answer is written: read the next request, or close."""
        factory = self.factory
        if request is self.request:
            self.request = None
        if factory.on_answer is not None:
            factory.on_answer(request)
        if request.extra is not None:
            request.end()
        if self.closing:
            # A body that was not read would make the close a reset.
            if self._arriving is not None or self._buffer or self._paused:
                self._linger()
            else:
                self.state = LINGERING
                self.deadline = factory.tick + factory.bounds.write_seconds
                self.wire.close()
            return
        self.state = HEAD
        self.deadline = factory.tick + factory.bounds.idle_seconds
        if self._buffer and not self._looping:
            # Not now: the stack is that of whoever woke this request, and others wait to be woken.
            factory.clock.callLater(0, self._go_on)

    def drained(self) -> None:
        """The peer reads again."""
        if not self._looping:
            self._go_on()

    def _go_on(self) -> None:
        """Serve what was kept."""
        if self.state == HANDED_ON:
            self._play_on()
        elif self.state == HEAD and self._buffer and self.wire.pending() <= self.factory.bounds.write_low:
            data, self._buffer = self._buffer, b""
            self._serve(data)

    def _linger(self) -> None:
        """Close in such a way that the peer reads the answer (RFC 9112 §9.6)."""
        self._arriving = None
        self._buffer = b""
        self.state = LINGERING
        self.deadline = self.factory.tick + self.factory.bounds.linger_seconds
        self.wire.half_close()
        if self._paused:
            self._read_on()

    def hand_on(self, request: Request, protocol: Any) -> None:
        """Let another protocol have the connection, with what came after the request."""
        self.request = None
        self.state = HANDED_ON
        self._upgraded = protocol
        if self.factory.on_answer is not None:
            self.factory.on_answer(request)
        request.end()
        protocol.makeConnection(self.wire.transport)
        if self._buffer and not self._looping:
            self.factory.clock.callLater(0, self._go_on)

    def _play_on(self) -> None:
        """Deliver what was kept to the protocol that has the connection now."""
        data, self._buffer = self._buffer, b""
        if data:
            self._upgraded.dataReceived(data)
        if self._paused and self.state == HANDED_ON:
            self._read_on()

    # -- time

    def overdue(self) -> None:
        """The deadline has passed; called by the factory's timer."""
        factory = self.factory
        bounds = factory.bounds
        if self.state == BODY and self._arriving is not None:
            arriving = self._arriving
            due = (factory.tick - arriving.since - bounds.body_seconds) * bounds.body_rate
            if arriving.received > due:
                self.deadline = factory.tick + 1
            else:
                self._refuse(Refused(408, "The body did not come in time."))
        elif self.state == HEAD and self._buffer:
            self._refuse(Refused(408, "The head did not come in time."))
        elif self.state == LINGERING:
            self.wire.abort()
        else:
            self.state = LINGERING
            self.deadline = factory.tick + bounds.linger_seconds
            self.wire.close()

    # -- what twisted.web's resources ask of a request's channel

    @property
    def transport(self) -> Any:
        """The transport below, as Twisted knows it."""
        return self.wire.transport

    def isSecure(self) -> bool:  # noqa: N802  twisted.web's name
        """Whether the connection is TLS."""
        return bool(ISSLTransport.providedBy(self.wire.transport))

    def _protocolUpgradeForWebsockets(self, protocol: Any) -> None:  # noqa: N802
        """Hand the connection on to twisted.web's WebSocket; its only way to ask for that."""
        if self.request is not None:
            self.request.upgrade(protocol)
