"""The routes as a resource of any twisted.web site: a request of twisted.web becomes an ``Exchange``."""

from __future__ import annotations

import errno
import socket
from typing import Any, NamedTuple

from klein.resource import KleinResource
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import BadHost, HTTPException

from .core.recipient import recipient
from .errors import BadRecipient, BadRequest
from .http.exchange import ResponseLike
from .metrics import label_of
from .pages import pages
from .routes.app import Routes
from .routes.routing import Refusal, klein, refusal_at
from .server import Proxies, ip_endpoint

_NAMING = frozenset({b"push", b"poll", b"stream", b"ws", b"recipients"})
"""First segments of paths that name a recipient."""

BODYLESS = frozenset({204, 304})
"""Statuses whose response ends with its head (RFC 9110 §6.4.1)."""


class _Target:
    """The method and path of one request: twisted.web does not say which requests share theirs."""

    memo: Any = None


class _Head:
    def __init__(self, request: Any) -> None:
        self._lines = request.requestHeaders.getRawHeaders
        self.memo: Any = None

    def get(self, name: bytes) -> bytes | None:
        lines = self._lines(name)
        return b", ".join(lines) if lines else None


class TwistedWebExchange:
    """A request of twisted.web as an ``Exchange``; ``routes`` know whether the server is stopping."""

    def __init__(self, request: Any, routes: Routes) -> None:
        self.request = request
        self._routes = routes
        self.method: bytes = request.method
        self.uri: bytes = request.uri
        self.path, _, self.query = request.uri.partition(b"?")
        self.body: bytes = request.content.read()
        self.head = _Head(request)
        self.target = _Target()

    @property
    def client(self) -> str | None:
        return getattr(self.request.getClientAddress(), "host", None)

    @property
    def is_secure(self) -> bool:
        return bool(self.request.isSecure())

    def is_disconnected(self) -> bool:
        transport = self.request.transport
        if transport is None:
            return True
        handle = getattr(transport, "socket", None)
        if not isinstance(handle, socket.socket):
            return False
        try:
            return handle.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError as error:
            return error.errno not in {errno.EAGAIN, errno.EINTR}

    was_disconnected = is_disconnected

    def notifyFinish(self) -> Deferred[None]:  # noqa: N802  twisted.web's name
        finished: Deferred[None] = self.request.notifyFinish()
        return finished

    def park(self, deferred: Deferred[Any]) -> None:
        self.notifyFinish().addErrback(lambda _: deferred.cancel())

    def respond(self, response: ResponseLike | None) -> None:
        if response is None:
            return
        self._set_head(response.status, response.head)
        if response.status not in BODYLESS:
            self.request.responseHeaders.setRawHeaders(b"content-length", [b"%d" % len(response.body)])
            if self.method != b"HEAD":
                self.write(response.body)
        self.finish()

    def start(self, status: int, head: bytes) -> None:
        self._set_head(status, head)

    def write(self, data: bytes) -> None:
        self.request.write(data)

    def finish(self) -> None:
        if self.request.channel is not None:  # else the client has disconnected
            self.request.finish()

    def abort(self) -> None:
        self.request.transport.abortConnection()

    def unsent(self) -> int:
        """Return 0: a transport of Twisted does not know."""
        return 0

    def hold(self, size: int) -> None:
        """Count nothing: a transport of Twisted has no total."""

    def is_sending(self) -> bool:
        """Return False: a transport of Twisted does not know."""
        return False

    def register_producer(self, producer: IPushProducer) -> None:
        self.request.registerProducer(producer, True)

    def unregister_producer(self) -> None:
        self.request.unregisterProducer()

    def upgrade(self, protocol: IProtocol, head: bytes) -> None:
        """See ``Exchange``. As in twisted.web.websocket, the channel stays, and forwards what it receives."""
        channel = self.request.channel
        channel.setTimeout(None)
        transport = channel.transport
        channel.dataReceived = protocol.dataReceived
        channel.rawDataReceived = protocol.dataReceived  # what it has received along with the request
        channel.connectionLost = protocol.connectionLost
        transport.write(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % head)
        protocol.makeConnection(transport)
        # A private name; where it is missing, what came early is lost, and the client tries again.
        early, channel._dataBuffer = b"".join(getattr(channel, "_dataBuffer", ())), []
        if early:
            # It came while an embedding program was asked whether the client may connect.
            transport.resumeProducing()
            protocol.dataReceived(early)

    def _set_head(self, status: int, head: bytes) -> None:
        self.request.setResponseCode(status)
        headers = self.request.responseHeaders
        for line in head.split(b"\r\n")[:-1]:
            field, _, value = line.partition(b": ")
            headers.addRawHeader(field, value)
        if self._routes.hub.stopping:
            headers.setRawHeaders(b"connection", [b"close"])


class _Ended(NamedTuple):
    """A request that is over, with what is counted of it; ``rule`` is empty where no route has served it."""

    rule: str
    code: int
    seconds: float

    def age(self) -> float:
        """Return the seconds that it took."""
        return self.seconds


class RoutesResource(KleinResource):
    """The routes as an ``IResource``; it counts requests as ``server/`` does.

    ``proxies`` are those whose word on the client's address counts.
    """

    def __init__(self, routes: Routes, proxies: Proxies | None) -> None:
        routes.exchange_of = lambda request: TwistedWebExchange(request, routes)
        super().__init__(routes.app)
        self._routes = routes
        self._proxies = proxies

    def render(self, request: Any) -> Any:
        """Render as Klein does, but answer as the interface does what Klein cannot route."""
        if self._proxies is not None:
            _forward(request, self._proxies)
        if self._routes.show_metrics:
            self._count(request)
        try:
            path = b"/".join(request.postpath).decode()
            methods: tuple[str, ...] = ()
            if not _first_is_another(request):
                if request.method == request.method.upper():  # Werkzeug takes ``delete`` for ``DELETE``
                    return super().render(request)
                methods = tuple(self._routes.app.url_map.bind("").allowed_methods(f"/{path}"))
            exchange = self._routes.exchange_of(request)
            if methods:
                self._routes.not_allowed(exchange, methods, refusal=_refusal(request))
            else:
                self._routes.not_found(exchange)
            return NOT_DONE_YET
        except (UnicodeDecodeError, BadHost) as error:
            sentence = "The path is not percent-encoded UTF-8."
            if isinstance(error, BadHost):
                sentence = "The Host header is not the name of a host."
            exchange = self._routes.exchange_of(request)
            self._routes.failed(exchange, Failure(BadRequest(sentence)), refusal=_refusal(request))
            return NOT_DONE_YET

    def _count(self, request: Any) -> None:
        clock = self._routes.hub.clock
        began = clock.seconds()
        first = request.postpath[0].decode("latin-1") if request.postpath else ""
        known = not first or label_of(f"/{first}") == f"/{first}" or first in pages()
        rule = f"/{first}" if known else ""

        def over(result: object) -> None:
            lost = isinstance(result, Failure) and not request.startedWriting
            status = 499 if lost else request.code
            self._routes.metrics.count_request(_Ended(rule, status, clock.seconds() - began))

        request.notifyFinish().addBoth(over)


def _refusal(request: Any) -> Refusal:
    """Return what refuses a request that no route serves."""
    return refusal_at(b"/" + b"/".join(request.postpath))


def _first_is_another(request: Any) -> bool:
    """Return whether Klein takes another first segment than came, as of ``/poll%2Fbob`` or ``//metrics``."""
    segments = request.uri.partition(b"?")[0].split(b"/")[1:]
    first, path = len(request.prepath), request.postpath
    return bool(path) and (segments[first : first + 1] != path[:1] or (len(path) > 1 and not path[0]))


@klein.handle_errors(HTTPException)  # type: ignore[arg-type]  # Klein passes the instance
def unrouted(routes: Routes, request: Any, failure: Failure) -> Deferred[None]:
    """Answer a request for which Klein has found no route."""
    exchange = routes.exchange_of(request)
    error, path = failure.value, request.postpath
    # The router counts the methods of what it finds by merging slashes, and then does not go there.
    is_named = len(path) > 1 and path[0] in _NAMING
    methods = () if b"" in path[:-1] else tuple(getattr(error, "valid_methods", None) or ())
    if request.method == b"OPTIONS":
        routes.preflight(exchange, methods)
    elif methods:
        routes.not_allowed(exchange, methods, refusal=_refusal(request))
    elif is_named and (bad := _bad_name(b"/".join(path[1:]))) is not None:
        routes.failed(exchange, Failure(bad))
    else:
        routes.not_found(exchange, _refusal(request))
    return Deferred()  # the request is answered, and Klein must not finish it again


@klein.handle_errors(Exception)  # type: ignore[arg-type]  # Klein passes the instance
def failed(routes: Routes, request: Any, failure: Failure) -> Deferred[None]:
    """Answer a request at which a handler has failed at once."""
    routes.failed(routes.exchange_of(request), failure, refusal=_refusal(request))
    return Deferred()  # as above


def _bad_name(name: bytes) -> BadRecipient | None:
    """Return what is wrong with a name that Klein's router does not match: an empty segment, a line break."""
    try:
        recipient(name.decode())
    except BadRecipient as bad:
        return bad
    return None


def _forward(request: Any, proxies: Proxies) -> None:
    """Let a request say which client sent it, as those of ``server/`` do by themselves."""
    lines = request.requestHeaders.getRawHeaders
    peer = getattr(request.getClientAddress(), "host", None)
    origin = proxies.origin(peer, lambda name: b", ".join(found) if (found := lines(name)) else None)
    if origin.address is not None and origin.address != peer:
        request.client = ip_endpoint(origin.address)
    if origin.secure:
        _, colon, port = (request.getHeader(b"host") or b"").rpartition(b":")
        is_port = bool(colon) and port.isdigit()
        request.setHost(request.getRequestHostname(), int(port) if is_port else 443, ssl=True)
