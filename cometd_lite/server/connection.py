"""One connection: bytes arrive, and requests go to their routes one after the other.

``states`` has the states of a connection and their transitions. The way of a request: ``head`` reads its line
and fields, ``router`` finds its target, ``arriving`` collects its body, and the target's route is called with
a ``request``, which writes the response to the ``wire``.

While a request is served, what arrives behind it is kept up to a bound, and then not read. So pipelined
requests are answered in order and cost only their bytes. A connection has no timer: it has a ``deadline``, in
ticks of its factory, which is 0 while a route may take its time.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from .arriving import ArrivingBody
from .body import TooLarge
from .epoll import refuse
from .head import Refused, asked_path, check_unfinished, without_empty_lines
from .proxies import Origin
from .render import PlainResponse
from .request import Request
from .router import Target, Unrouted
from .shared import NO_HEAD, NO_TARGET
from .states import TRANSITIONS, State
from .wire import learns_peer_later

if TYPE_CHECKING:
    from .head import Head
    from .shared import Shared
    from .wire import Wire


@implementer(IProtocol)
class HTTPConnection:
    """The server's end of one connection; see ``shared.ServedConnection`` for its attributes."""

    __slots__ = (
        "_arriving", "_buffer", "_head", "_held", "_kept", "_looping", "_paused", "_progress", "_refusal",
        "_seen", "_upgraded", "closing", "deadline", "factory", "peer", "request", "request_size", "state",
        "wire",
    )  # fmt: skip

    wire: Wire

    def __init__(self, factory: Shared, peer: str = "") -> None:
        self.factory = factory
        self.peer = peer
        self.state: State = "HEAD"
        self.deadline = 0
        self.closing = False
        self.request: Request | None = None
        """The request that is served, or whose body arrives."""
        self.request_size = self._held = self._kept = 0
        """The bytes of that request, those that are kept elsewhere for the connection, and all that count."""
        self._head: Head | None = None
        """The head of the last request: the next one probably has the same fields."""
        self._buffer = b""
        """What arrived and was not taken yet."""
        self._seen = 0
        """How much of that is the checked beginning of a head; 0 where it was not looked at."""
        self._arriving: ArrivingBody | None = None
        """The body that is not complete; after a response in its place, too."""
        self._upgraded: Any = None
        """The protocol that the connection was given to."""
        self._refusal: Refused | None = None
        """Why the connection is not served."""
        self._looping = False
        """``_serve`` is running: the end of a response need not begin the next request."""
        self._paused = False
        """Reading is paused."""
        self._progress = 0
        """In LINGERING, the bytes dropped; else the bytes that were unsent at the last deadline."""

    # -- IProtocol

    def makeConnection(self, transport: Any) -> None:  # noqa: N802  Twisted's name
        """Begin to serve what arrives over ``transport``."""
        factory = self.factory
        is_proxied = learns_peer_later(transport)
        if is_proxied:
            self.peer = ""
        refusal = factory.refusal(self)
        if refusal is not None and not factory.may_answer_refusal(self):
            self.state = TRANSITIONS[self.state]["lose"]
            refuse(transport)
            return
        self.wire = factory.wire(transport, self)
        self.deadline = factory.tick + factory.bounds.head_seconds
        factory.opened(self)
        if is_proxied:
            self.state = "PROXIED"
        if refusal is not None:
            self._refuse_soon(refusal)

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: ``makeConnection`` has done it."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Take bytes that arrived."""
        if self.state == "HEAD":
            if not self._buffer and (self.wire.queue is None or not self._is_congested()):
                self._serve(data)
            elif self._seen:
                data, seen = self._buffer + data, self._seen
                self._buffer, self._seen = b"", 0
                self._serve(data, seen)
            else:
                self._keep(data)  # behind a request that waits for its turn, or for the client to read
        elif self.state == "SERVING":
            self._keep(data)
        elif self.state == "BODY":
            self._serve_body(data)
        elif self.state == "UPGRADED" and not self._buffer:
            self._upgraded.dataReceived(data)
        else:
            self._receive_rarely(data)

    def _receive_rarely(self, data: bytes) -> None:
        """Take bytes in one of the other states."""
        if self.state == "UPGRADED":
            self._buffer += data
        elif self.state == "PROXIED":
            self._identify(data)
        elif self.state == "REFUSED":
            self._buffer += data
            if b"\r\n" in self._buffer or len(self._buffer) > self.factory.bounds.target:
                self._refuse_now()
        elif self.state == "LINGERING":
            self._progress += len(data)
            if self._progress > self.factory.bounds.linger and not self._paused:
                # What waits in the kernel's buffers costs nothing.
                self._paused = True
                self.wire.pauseProducing()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        """Forget everything, and cancel what waits for this connection."""
        if self.state == "CLOSED":
            return
        self.state = TRANSITIONS[self.state]["lose"]
        self.deadline = 0
        self.wire.lost()
        self._buffer = b""
        self._arriving = None
        self._count_kept()
        self.factory.closed(self)
        request, self.request = self.request, None
        if request is not None:
            request.lost(reason)
            self.factory.on_answer(request)
        upgraded, self._upgraded = self._upgraded, None
        if upgraded is not None:
            upgraded.connectionLost(reason)

    # -- input

    def _is_congested(self) -> bool:
        """Return whether the client has not read the responses before."""
        queue = self.wire.queue
        return queue is not None and queue.size > self.factory.bounds.write_low

    def _keep(self, data: bytes) -> None:
        """Keep input for later; stop reading when that is much."""
        self._buffer += data
        if len(self._buffer) > self.factory.bounds.pipelined and not self._paused:
            self._paused = True
            self.wire.pauseProducing()
        self._count_kept()

    def hold(self, size: int) -> None:
        """Count ``size`` bytes that are kept for the connection elsewhere."""
        self._held = size
        self._count_kept()

    def _count_kept(self) -> None:
        """Count what is kept of what arrived. The connection may be aborted for it."""
        size = self._held + len(self._buffer) + (0 if self._arriving is None else self._arriving.size)
        self._kept = 0 if self.state == "CLOSED" else size
        self.factory.received.set(self, self._kept)

    def _read_again(self) -> None:
        if self._paused:
            self._paused = False
            self.wire.resumeProducing()

    def _identify(self, data: bytes) -> None:
        """Take the first bytes of a proxied connection: now its transport knows the client."""
        self.peer = getattr(self.wire.getPeer(), "host", "")
        refusal = self.factory.admission(self)
        if refusal is None:
            self.state = TRANSITIONS[self.state]["identify"]
            self.dataReceived(data)
        elif self.factory.may_answer_refusal(self):
            self._refuse_soon(refusal)
            self.dataReceived(data)
        else:
            self.wire.abortConnection()

    def _refuse_soon(self, refusal: Refused) -> None:
        """Answer the first request with the refusal: how that is written depends on its path."""
        self.state = TRANSITIONS[self.state]["refuse"]
        self.deadline = self.factory.tick + self.factory.bounds.linger_seconds
        self._refusal = refusal

    def _refuse_now(self) -> None:
        assert self._refusal is not None
        self._refuse(self._refusal, self._buffer)

    def _go_on(self) -> None:
        """Take what was kept."""
        if self.state == "UPGRADED":
            data, self._buffer = self._buffer, b""
            if data:
                self._upgraded.dataReceived(data)
            if self.state == "UPGRADED":
                self._read_again()
        elif self.state == "HEAD" and self._buffer and not self._is_congested():
            data, self._buffer = self._buffer, b""
            self._serve(data)

    # -- requests

    def _serve(self, data: bytes, seen: int = 0) -> None:
        """Serve the requests in ``data`` until one has to wait; ``seen`` bytes were looked at before."""
        bounds = self.factory.bounds
        self._looping = True
        began = 0.0
        try:
            while True:
                end = data.find(b"\r\n\r\n", seen and max(0, seen - 3), bounds.head) + 4
                if end == 3:
                    self._wait_for_head(data, seen)
                    break
                self._buffer = data[end:]
                self._begin(data[:end])
                if not self._buffer or self.state != "HEAD" or self._is_congested():
                    break
                began = began or self.factory.seconds()
                if self.factory.seconds() - began > bounds.served_seconds:
                    self.factory.clock.callLater(0, self._go_on)
                    break
                data, self._buffer, seen = self._buffer, b"", 0
        except Refused as refusal:
            self._refuse(refusal, data)
        finally:
            self._looping = False
        if self._upgraded is not None:
            self._go_on()
        elif self._paused and len(self._buffer) <= bounds.pipelined:
            self._read_again()

    def _wait_for_head(self, data: bytes, seen: int) -> None:
        """Keep the beginning of a head. Raises ``Refused`` where it cannot become a valid one."""
        factory = self.factory
        data = without_empty_lines(data)
        if data:
            check_unfinished(data, seen, factory.bounds)
            if not seen:
                self.deadline = factory.tick + factory.bounds.head_seconds
            self._buffer = data
            self._seen = len(data)
            self._count_kept()

    def _begin(self, data: bytes) -> None:
        """Begin with the request that has the head ``data``. Raises ``Refused``."""
        factory, minor = self.factory, 1
        if data != factory.last_data:
            line, _, block = data.partition(b"\r\n")
            if not line:
                self._buffer = without_empty_lines(data + self._buffer)
                return
            head = self._head
            if head is None or head.block != block:
                head = factory.heads.get(block)
                self._head = head if len(block) <= factory.bounds.head_kept else None
            known = factory.router.recognise(line)
            if known is None or head.host is None:
                head, target, query, minor = factory.router.parse(line, head)
            else:
                target, query = known
                factory.last_data, factory.last_begun = data, (head, target, query)
        else:
            head, target, query = factory.last_begun
        self.closing = head.close or not (minor or head.keep_alive)
        self.request = request = Request(self, head, target, query, minor)
        self.request_size = len(data)
        if head.has_body:
            self._begin_body(request, target)
        else:
            self._call(request, target)

    def _call(self, request: Request, target: Target) -> None:
        """Call the route of a request that is complete."""
        self.state = TRANSITIONS[self.state]["serve"]
        self.deadline = 0
        if self._kept:
            self._count_kept()
        try:
            target.route.call(request, target.name)
        except Exception:  # noqa: BLE001  the application answers whatever a route may raise
            self._failed(request, Failure())

    def _failed(self, request: Request, failure: Failure) -> None:
        """Let the application answer a request whose route has raised; end a stream that had begun."""
        if request is self.request and not request.has_started:
            try:
                self.factory.application.failed(request, failure, self.factory.router.below(request.path))
            except Exception:  # noqa: BLE001  whatever it raises must not reach the reactor
                failure = Failure()
            else:
                return
        # The rule and not the path, a part of which may be a secret.
        self.factory.log.failure(
            "A request failed: {method} {rule}", failure, method=request.method, rule=request.rule
        )
        if request is not self.request:
            return
        if request.has_started:
            self.wire.abortConnection()
        else:
            self._respond(500, "The server failed; its log says why.")

    def _respond(self, status: int, sentence: str, head: bytes = b"") -> None:
        """Answer what is not a request, or the current request in the place of the application."""
        path = self.request.path if self.request is not None else asked_path(head)
        if self.request is None:
            self.request = Request(self, NO_HEAD, NO_TARGET, b"", 1)
        malformed = self.factory.application.malformed(status, sentence, self.factory.router.below(path))
        self.request.respond(PlainResponse(status, *malformed))

    def _refuse(self, refusal: Refused, head: bytes = b"") -> None:
        """Answer what cannot be served, and close; ``head`` is what has come of its head."""
        self.closing = True
        self._respond(refusal.status, refusal.sentence, head)

    # -- bodies

    def _begin_body(self, request: Request, target: Target) -> None:
        """Take the body of a request, as far as it has arrived. Raises ``Refused``."""
        factory, head, route, rest = self.factory, request.head, target.route, self._buffer
        length, most = head.length, factory.bounds.body if route.max_body is None else route.max_body
        if length <= len(rest) and length <= most and not head.chunked:
            request.body, self._buffer = rest[:length], rest[length:]
            self.request_size += length
            self._call(request, target)
            return
        self._buffer = b""
        arriving = self._arriving = ArrivingBody(request, target, most, factory.bounds, factory.tick)
        awaits_100 = head.expects_continue and request.minor and not rest
        if length > arriving.most or (awaits_100 and not route.rule):
            # RFC 9110 §10.1.1: a client that waits for a 100 need not send the body to an error.
            self._reject_body()
            return
        if awaits_100:
            self.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.state = TRANSITIONS[self.state]["await"]
        self.deadline = factory.tick + factory.bounds.body_seconds
        if rest:
            self._take_body(rest)

    def _serve_body(self, data: bytes) -> None:
        """Take a part of a body, and what arrives behind it."""
        self._looping = True
        try:
            self._take_body(data)
        except Refused as refusal:
            self._refuse(refusal)
        finally:
            self._looping = False
        self._go_on()

    def _take_body(self, data: bytes) -> None:
        """Take a part of a body, and call the route when it is complete. Raises ``Refused``."""
        arriving = self._arriving
        assert arriving is not None
        try:
            rest = arriving.feed(data)
        except TooLarge:
            self._reject_body()
            return
        if rest is not None:
            self._arriving = None
            self._buffer = rest
            self.request_size += len(arriving.request.body)
            self._call(arriving.request, arriving.target)
        else:
            self._count_kept()

    def _reject_body(self) -> None:
        """Answer a request without its body; then the connection is closed."""
        arriving = self._arriving
        assert arriving is not None
        target = arriving.target
        if target.route.rule:
            refuse = partial(self.factory.application.too_large, route=target.route, most=arriving.most)
            target = Target(target.method, target.path, Unrouted(refuse))
        self.closing = True
        self._call(arriving.request, target)

    # -- the end of a response

    def answered(self, request: Request) -> None:
        """Go on: the response to the current request is written."""
        self.request = None
        factory = self.factory
        if self._held:
            self.hold(0)
        if not self.closing:
            self.state = TRANSITIONS[self.state]["next"]
            self.deadline = factory.tick + factory.bounds.idle_seconds
            if self._buffer and not self._looping:
                # Not on this stack, which is that of a push: it has more readers to wake.
                factory.clock.callLater(0, self._go_on)
        elif self.state != "SERVING" or self._arriving is not None or self._buffer:
            # The client may still be sending, and then a plain close is a reset.
            self._linger()
        else:
            self._close()
        factory.on_answer(request)

    def upgraded(self, protocol: Any) -> None:
        """Give the connection, and what arrived behind the request, to another protocol."""
        request, self.request = self.request, None
        factory = self.factory
        self.state = TRANSITIONS[self.state]["upgrade"]
        self._upgraded = protocol
        factory.on_answer(request)
        protocol.makeConnection(self.wire)
        if self._buffer and not self._looping:
            factory.clock.callLater(0, self._go_on)

    def drained(self) -> None:
        """Go on with what waited for the client to read."""
        if not self._looping:
            self._go_on()

    def _linger(self) -> None:
        """Let the client read the response before the connection closes (RFC 9112 §9.6); drop its input."""
        self.state = TRANSITIONS[self.state]["linger"]
        self.deadline = self.factory.tick + self.factory.bounds.linger_seconds
        self._arriving = None
        self._buffer = b""
        self._count_kept()
        self._progress = 0
        self.wire.half_close()
        self._read_again()

    def _close(self) -> None:
        """Close once all is sent."""
        self.state = TRANSITIONS[self.state]["close"]
        self.deadline = self.factory.tick + self.factory.bounds.write_seconds
        self._read_again()
        self.wire.loseConnection()

    def close_if_idle(self) -> None:
        """Close where no request has begun: the server is stopping."""
        if self.state in {"HEAD", "PROXIED", "REFUSED"} and not self._buffer:
            self._close()

    # -- time

    def overdue(self) -> None:
        """Do what is due at the deadline."""
        factory = self.factory
        unsent = 0 if self.wire.queue is None else self.wire.queue.size
        if self.state == "LINGERING":
            self._close()
        elif self.state == "REFUSED":
            self._refuse_now()  # nothing has come of a request
        elif self.state == "BODY" and self._arriving is not None:
            if self._arriving.is_late(factory.tick):
                self._refuse(Refused(408, "The body did not arrive in time."))
            else:
                self.deadline = factory.tick + 1
        elif unsent and unsent != self._progress:
            # The client reads, or this is the first look.
            self._progress = unsent
            self.deadline = factory.tick + factory.bounds.write_seconds
        elif unsent or self.state == "CLOSING":
            self.wire.abortConnection()
        elif self._buffer:
            self._refuse(Refused(408, "The head did not arrive in time."), self._buffer)
        else:
            self._close()

    # -- for requests

    def origin(self, head: Head) -> Origin:
        """Return where a request with this head came from: from the peer, or from where a proxy says."""
        peer = self.peer or None
        proxies = self.factory.proxies
        return Origin(peer, None) if proxies is None else proxies.origin(peer, head.get)
