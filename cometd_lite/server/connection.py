"""One connection: bytes come in, requests leave to their routes, one at a time and in order.

A connection is always in one of the states below::

    HEAD ──> BODY ──> SERVING ──> HEAD         the next request on the same connection
                         ├──────> HANDED_ON    another protocol has it (an upgrade)
                         └──────> LEAVING      the answer says close: it is sent, then we close
    any ───> LINGERING ─────────> LEAVING      refused: the peer has some time to read why
    any ───> CLOSED

Behind the PROXY protocol it begins with UNKNOWN: whose it is comes with its first bytes.

While a request is SERVING, what comes after it is kept up to a bound, and then not read. So pipelined
requests are answered in order, and cost nothing but their bytes. No timer belongs to a connection: it has a
``deadline``, in ticks of its factory, which is 0 while a route may take its time.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.internet.interfaces import IProtocol, ISSLTransport
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from zope.interface import implementer

from .body import Chunked, TooLarge
from .epoll import drop
from .head import Head, Refused, check_unfinished, check_version, parse_line, split_absolute
from .request import Request
from .wire import NOWHERE, Wire, peer_comes_later

if TYPE_CHECKING:
    from collections.abc import Callable

    from .factory import HTTPFactory
    from .router import Route, Target

HEAD: Final = 0
BODY: Final = 1
SERVING: Final = 2
HANDED_ON: Final = 3
LINGERING: Final = 4
LEAVING: Final = 5
CLOSED: Final = 6
UNKNOWN: Final = 7

_NO_HEAD: Final = Head(b"\r\n")
_VISIBLE: Final = bytes(range(0x21, 0x7F))


class _Arriving:
    """A request whose body has not come yet; ``proceed`` calls its route, or answers that there is none."""

    __slots__ = ("chunks", "parts", "proceed", "received", "request", "since")

    def __init__(
        self, request: Request, proceed: Callable[[], Any], chunks: Chunked | None, tick: int
    ) -> None:
        self.request = request
        self.proceed = proceed
        self.chunks = chunks
        self.since = tick
        self.received = 0
        self.parts: list[bytes] = []


@implementer(IProtocol)
class HTTPConnection:
    """The server's end of one connection; ``peer`` is the address of the other, empty where it has none.

    ``closing``: the answer under way is the last one.
    """

    __slots__ = (
        "_arriving",
        "_buffer",
        "_head",
        "_looping",
        "_other",
        "_paused",
        "_progress",
        "_seen",
        "closing",
        "deadline",
        "factory",
        "peer",
        "request",
        "state",
        "wire",
    )

    def __init__(self, factory: HTTPFactory, peer: str = "") -> None:
        self.factory = factory
        self.peer = peer
        self.wire: Wire = NOWHERE
        self.state = HEAD
        self.deadline = 0
        self.closing = False
        self.request: Request | None = None
        self._head: Head | None = None
        """That of the last request: the next one's is probably the same."""
        self._buffer = b""
        """What came and was not served yet."""
        self._seen = 0
        """How much of that is known to be the beginning of a head; 0 where it was not looked at."""
        self._arriving: _Arriving | None = None
        self._other: Any = None
        """The protocol that the connection was handed on to."""
        self._looping = False
        """Requests are being served one after the other: the end of one need not begin the next."""
        self._paused = False
        self._progress = 0
        """In LINGERING, bytes dropped; else bytes that were unsent when last looked at."""

    # -- IProtocol

    def makeConnection(self, transport: Any) -> None:  # noqa: N802  Twisted's name
        """Begin to serve what comes over ``transport``."""
        factory = self.factory
        comes_later = peer_comes_later(transport)
        if comes_later:
            self.peer = ""
        refusal = factory.refusal(self)
        if refusal is not None and not factory.may_hear(self):
            self.state = CLOSED
            drop(transport)
            return
        self.wire = factory.wire(transport, self)
        self.deadline = factory.tick + factory.bounds.head_seconds
        factory.opened(self)
        if refusal is not None:
            self._refuse(refusal)
        elif comes_later:
            self.state = UNKNOWN

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: ``makeConnection`` has done it."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Take in what came."""
        state = self.state
        if state == HEAD:
            if self._seen:
                self._serve(self._buffer + data, self._seen)
                return
            if self._buffer or (self.wire.unsent and self.wire.pending() > self.factory.bounds.write_low):
                # Another request waits for its turn, or this one for the peer to read its answers.
                self._keep(data)
                return
            # A client's next request has the fields of its last one, but perhaps for the length of its body;
            # then its whole head is here.
            line, _, block = data.partition(b"\r\n")
            head = self._head
            if head is None or not block.startswith(head.block):
                head = self.factory.known_head(block[: block.find(b"\r\n\r\n") + 4])
                if head is None:
                    self._serve(data)
                    return
                self._head = head
            self._buffer = block[len(head.block) :]
            self._begin(line, head)
        elif state == SERVING:
            self._keep(data)
        else:
            self._receive_besides(state, data)

    def _receive_besides(self, state: int, data: bytes) -> None:
        """Take in what is no request's head: a body, another protocol's data, or what nobody wants."""
        if state == BODY:
            self._serve_body(data)
        elif state == HANDED_ON:
            if self._buffer:
                self._buffer += data
            else:
                self._other.dataReceived(data)
        elif state == UNKNOWN:
            self._meet(data)
        elif state == LINGERING:
            self._progress += len(data)
            if self._progress > self.factory.bounds.linger and not self._paused:
                # Read no more: what waits in the kernel's buffers costs nothing.
                self._paused = True
                self.wire.pause()

    def _meet(self, data: bytes) -> None:
        """Take in the first bytes of a connection: now its transport knows the peer."""
        self.peer = getattr(self.transport.getPeer(), "host", "")
        refusal = self.factory.admission(self)
        if refusal is None:
            self.state = HEAD
            self.dataReceived(data)
        elif self.factory.may_hear(self):
            self._refuse(refusal)
        else:
            self.wire.abort()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        """Forget everything; who waits for this connection is cancelled."""
        self.state = CLOSED
        self.deadline = 0
        if self.request is not None:
            self._tell(self.request, 499 if not self.request.startedWriting else self.request.code)
        self.wire.forget()
        self.wire = NOWHERE
        self._buffer = b""
        self._arriving = None
        self.factory.closed(self)
        request, self.request = self.request, None
        if request is not None:
            request.lose(reason)
        other, self._other = self._other, None
        if other is not None:
            other.connectionLost(reason)

    # -- heads

    def _serve(self, data: bytes, seen: int = 0) -> None:
        """Serve the requests in ``data`` until one has to wait; ``seen`` bytes were looked at before."""
        bounds = self.factory.bounds
        self._looping = True
        self._seen = 0
        try:
            while data:
                if data.startswith(b"\r\n"):
                    # RFC 9112 §2.2: an empty line before a request is passed over.
                    data = data[2:]
                end = data.find(b"\r\n\r\n", max(0, seen - 3), bounds.head) + 4
                if end == 3:
                    self._wait_for_head(data, seen)
                    break
                self._take_head(data[:end], data[end:])
                if self.state != HEAD or self.wire.pending() > bounds.write_low:
                    break
                data, self._buffer, seen = self._buffer, b"", 0
        except Refused as refusal:
            self._refuse(refusal)
        finally:
            self._looping = False
        if self.state == HANDED_ON:
            self._play_on()
        elif self._paused and len(self._buffer) <= bounds.pipelined:
            self._read_on()

    def _wait_for_head(self, data: bytes, seen: int) -> None:
        """Keep the beginning of a head, unless it can never become a good one. Raises ``Refused``."""
        factory = self.factory
        check_unfinished(data, seen, factory.bounds)
        if not seen:
            self.deadline = factory.tick + factory.bounds.head_seconds
        self._buffer = data
        self._seen = len(data)

    def _take_head(self, data: bytes, rest: bytes) -> None:
        """Begin with the request whose head is ``data``; ``rest`` came after it. Raises ``Refused``."""
        line, _, block = data.partition(b"\r\n")
        self._buffer = rest
        head = self._head
        if head is None or head.block != block:
            head = self.factory.head(block)
            self._head = head if len(block) <= self.factory.bounds.head_kept else None
        self._begin(line, head)

    def _begin(self, line: bytes, head: Head) -> None:
        """Begin with the request of a complete head: call its route, or read its body first."""
        factory = self.factory
        last = factory.last_line
        if last is None or last[0] != line:
            last = self._recognised(line)
        if last is None or head.host is None:
            self._begin_anew(line, head)
            return
        self.closing = head.close
        _, target, uri, query = last
        request = Request(self, head, target.method, uri, target.path, query, 1, factory.seconds())
        self._serve_request(request, target)

    def _recognised(self, line: bytes) -> tuple[bytes, Target, bytes, bytes] | None:
        """Return what a line means that was seen before, but for its query, or is plain; else None."""
        factory = self.factory
        if len(line) >= factory.bounds.target:
            return None
        cut = line.find(b"?") + 1
        start = line[:cut] if cut else line
        known = factory.targets.get(start)
        if known is None:
            known = factory.routes.recognise(start)
            if known is None:
                return None
            factory.remember(start, known)
        query = line[cut:-9] if cut else b""
        if cut and (line[-9:] != b" HTTP/1.1" or query.translate(None, _VISIBLE)):
            return None
        factory.last_line = last = (line, known, line[len(known.method) + 1 : -9], query)
        return last

    def _begin_anew(self, line: bytes, head: Head) -> None:
        """Begin with a request whose line is not known: as ``_begin``, by all of the grammar."""
        factory = self.factory
        try:
            method, uri, minor = parse_line(line, factory.bounds)
            absolute = not uri.startswith(b"/")
            if absolute:
                uri, head = split_absolute(uri, head)
            if minor and head.host is not None:
                self.closing = head.close
            else:
                check_version(minor, head)
                self.closing = head.close or not head.keep
        except Refused as refusal:
            self._refuse(refusal)
            return
        path, mark, query = uri.partition(b"?")
        target = None
        if minor and not absolute:
            target = factory.routes.lookup(method, path)
            if target is not None:
                factory.remember(line[: line.find(b"?") + 1] if mark else line, target)
        request = Request(self, head, method, uri, path, query, minor, factory.seconds())
        self._serve_request(request, target)

    def _serve_request(self, request: Request, target: Target | None) -> None:
        """Call the request's route, or read its body first."""
        self.request = request
        self.state = SERVING
        self.deadline = 0
        request.target = target
        try:
            found = self._begin_body(request) if request.head.sized else self._find(request)
            if found is None:
                return  # its body is still to come
            route, params = found
            result = route.call(request, **params)
            if result is not NOT_DONE_YET and (result is not None or request is self.request):
                request.deliver(result)
        except Refused as refusal:
            self._refuse(refusal)
        except Exception:  # noqa: BLE001  the app's own handlers take whatever is raised
            self.recover(request, Failure())

    def _find(self, request: Request) -> tuple[Route, dict[str, Any]]:
        """Return the request's route and its parameters. Raises what ``Table.find`` does."""
        target = request.target
        if target is None:
            request.route, params = self.factory.routes.find(request.method, request.path, request)
            return request.route, params
        route = request.route = target.route
        return route, target.params

    def _keep(self, data: bytes) -> None:
        """Keep what came while a request is being served; stop reading when that is much."""
        self._buffer += data
        if len(self._buffer) > self.factory.bounds.pipelined and not self._paused:
            self._paused = True
            self.wire.pause()

    def _read_on(self) -> None:
        """Read again."""
        self._paused = False
        self.wire.resume()

    # -- bodies

    def _begin_body(self, request: Request) -> tuple[Route, dict[str, Any]] | None:
        """Find the route, which says how long the body may be; read the body, if it may be that long.

        Returns the route and its parameters if all of the body is here; else None.
        """
        factory, head = self.factory, request.head
        rest, self._buffer = self._buffer, b""
        most = factory.bounds.body
        missing: Failure | None = None
        proceed: Callable[[], Any]
        try:
            route, params = self._find(request)
            bound = route.bound
            if bound is not None:
                most = bound if isinstance(bound, int) else bound(request)
        except Exception:  # noqa: BLE001  it is answered when the body is there, so that the connection lives on
            missing = Failure()
            proceed = partial(self.recover, request, missing)
        else:
            if head.length <= len(rest) and head.length <= most and not head.chunked:
                request.body = rest[: head.length]
                self._buffer = rest[head.length :]
                return route, params
            proceed = partial(route.call, request, **params)
        chunks = Chunked(most, factory.bounds) if head.chunked else None
        self._arriving = arriving = _Arriving(request, proceed, chunks, factory.tick)
        if head.length > most:
            self._reject_body(request, missing or Failure(RequestEntityTooLarge()))
        elif head.expects and request.minor and not rest and missing is not None:
            # Who asks before sending need not send for an error (RFC 9110 §10.1.1).
            self._reject_body(request, missing)
        else:
            if head.expects and request.minor and not rest:
                self.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.state = BODY
            self.deadline = factory.tick + factory.bounds.body_seconds
            if rest:
                self._take_body(arriving, rest)
        return None

    def _reject_body(self, request: Request, failure: Failure) -> None:
        """Answer without reading the body; then the connection cannot go on."""
        self.state = SERVING
        self.deadline = 0
        request.close_after()
        self.recover(request, failure)

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
        except Exception:  # noqa: BLE001  the app's own handlers take whatever is raised
            self.recover(arriving.request, Failure())
        finally:
            self._looping = False
        self._go_on()

    def _take_body(self, arriving: _Arriving, data: bytes) -> None:
        """Take in a part of a body; go on to the route when it is complete. Raises ``Refused``."""
        request, chunks = arriving.request, arriving.chunks
        arriving.received += len(data)
        if chunks is None:
            arriving.parts.append(data)
            if arriving.received < request.head.length:
                return
            body = b"".join(arriving.parts)
            request.body = body[: request.head.length]
            self._buffer = body[request.head.length :]
        else:
            try:
                if not chunks.feed(data):
                    return
            except TooLarge:
                self._reject_body(request, Failure(RequestEntityTooLarge()))
                return
            request.body = bytes(chunks.content)
            self._buffer = chunks.rest
        self._arriving = None
        self.state = SERVING
        self.deadline = 0
        request.deliver(arriving.proceed())

    # -- errors

    def recover(self, request: Request, failure: Failure) -> None:
        """Let the app's own error handlers answer, in their order, as ``KleinResource`` does."""
        self._try_handler(failure, request, 0)

    def _try_handler(self, failure: Failure, request: Request, at: int) -> None:
        """Try the error handlers from the one at ``at``."""
        if request is not self.request:
            # Answered already, or nobody is left to answer.
            if not failure.check(CancelledError):
                self.factory.log.failure("A request failed after its end.", failure)
            return
        app = self.factory.app
        for place, (types, handler) in enumerate(app._error_handlers[at:], at + 1):
            if failure.check(*types):
                answer: Any = maybeDeferred(app.execute_error_handler, handler, request, failure)
                answer.addCallback(request.deliver)
                answer.addErrback(self._try_handler, request, place)
                if not answer.called and request is self.request:
                    request.parked = answer
                return
        if failure.check(HTTPException):
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
        """Log what nobody expected, and answer 500; or cut off an answer that had begun."""
        # The rule and not the path, of which a part may be a secret.
        rule = None if request.route is None else request.route.rule
        self.factory.log.failure(
            "A request failed: {method} {rule}", failure, method=request.method, rule=rule
        )
        if request is not self.request:
            return
        if request.startedWriting:
            self.wire.abort()
        else:
            request.respond(500, *self.factory.malformed(500, "The server failed; its log says why."))

    def _refuse(self, refusal: Refused) -> None:
        """Answer what is not a request, and close."""
        head, body = self.factory.malformed(refusal.status, refusal.sentence)
        line = self.factory.status_line(refusal.status)
        self.wire.write(
            b"%b%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (line, head, len(body), body)
        )
        request, self.request = self.request, None
        if request is not None:
            request.lose(Failure(refusal))
        else:
            request = Request(self, _NO_HEAD, b"", b"", b"", b"", 1, self.factory.seconds())
        request.sent = len(body)
        self._tell(request, refusal.status)
        self._linger()

    # -- the end of an answer

    def answered(self, request: Request) -> None:
        """Read the next request, or close: the answer is written."""
        factory = self.factory
        self.request = None
        # What was parked knows the request, and a cycle would live until old garbage is collected.
        request.parked = None
        if self.closing:
            if self._arriving is not None or self._buffer:
                # What the peer is still sending would make a plain close a reset.
                self._linger()
            else:
                self._leave()
        else:
            self.state = HEAD
            self.deadline = factory.idle_until
            if self._buffer and not self._looping:
                # Not now: the stack is that of whoever woke this request, and others wait to be woken.
                factory.clock.callLater(0, self._go_on)
        if factory.on_answer is not None:
            factory.on_answer(request)
        if request.extra is not None:
            request.end()

    def _tell(self, request: Request, code: int) -> None:
        """Tell that a request is over which was not answered in the ordinary way."""
        if self.factory.on_answer is not None:
            request.code = code
            self.factory.on_answer(request)

    def drained(self) -> None:
        """Go on with what waited for the peer to read."""
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
        """Let the peer read the answer before we close (RFC 9112 §9.6); what it still sends is dropped."""
        self.state = LINGERING
        self.deadline = self.factory.tick + self.factory.bounds.linger_seconds
        self._arriving = None
        self._buffer = b""
        self._progress = 0
        self.wire.half_close()
        if self._paused:
            self._read_on()

    def _leave(self) -> None:
        """Close once all is sent."""
        self.state = LEAVING
        self.deadline = self.factory.tick + self.factory.bounds.write_seconds
        if self._paused:
            self._read_on()
        self.wire.close()

    def hand_on(self, request: Request, other: Any) -> None:
        """Let another protocol have the connection, and what came after the request."""
        factory = self.factory
        self.request = None
        self.state = HANDED_ON
        self._other = other
        self._tell(request, request.code)
        request.end()
        other.makeConnection(self.wire.transport)
        if self._buffer and not self._looping:
            factory.clock.callLater(0, self._go_on)

    def _play_on(self) -> None:
        """Deliver what was kept to the protocol that has the connection now."""
        data, self._buffer = self._buffer, b""
        if data:
            self._other.dataReceived(data)
        if self._paused and self.state == HANDED_ON:
            self._read_on()

    # -- time

    def overdue(self) -> None:
        """Do what is due: the deadline has passed. Called by the factory's timer."""
        factory, bounds = self.factory, self.factory.bounds
        pending = self.wire.pending()
        if self.state == LINGERING:
            self._leave()
        elif self.state == BODY and self._arriving is not None:
            due = (factory.tick - self._arriving.since - bounds.body_seconds) * bounds.body_rate
            if self._arriving.received > due:
                self.deadline = factory.tick + 1
            else:
                self._refuse(Refused(408, "The body did not come in time."))
        elif pending and pending != self._progress:
            # The peer reads its answer, if slowly; or this is the first look.
            self._progress = pending
            self.deadline = factory.tick + bounds.write_seconds
        elif pending or self.state == LEAVING:
            self.wire.abort()
        elif self._buffer:
            self._refuse(Refused(408, "The head did not come in time."))
        else:
            self._leave()

    def rest(self) -> None:
        """Close if no request is under way: the server is stopping."""
        if self.state in {HEAD, UNKNOWN} and not self._buffer:
            self._leave()

    # -- what twisted.web's resources ask of a request's channel

    @property
    def transport(self) -> Any:
        """The transport below, as Twisted knows it."""
        return self.wire.transport

    def isSecure(self) -> bool:  # noqa: N802  twisted.web's name
        """Whether the connection is TLS."""
        return bool(ISSLTransport.providedBy(self.wire.transport))

    def _protocolUpgradeForWebsockets(self, protocol: Any) -> None:  # noqa: N802  twisted.web's name
        """Hand the connection on to twisted.web's WebSocket, which has no other way to ask for that."""
        if self.request is not None:
            self.request.upgrade(protocol)
