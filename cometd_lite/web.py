"""The HTTP interface of HTTP.md as Klein routes: a request arrives, is parsed, allowed, and answered.

A route parses, calls the hub, and returns an ``Answer`` or a Deferred of one; ``_route`` sends it, and makes
a problem of RFC 9457 of every error. The same routes are served by ``serving/`` and by any twisted.web site.
This is the only file that knows Klein.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from http import HTTPStatus
from random import Random
from typing import Any, BinaryIO, Literal, Protocol, TypeAlias, TypeVar, cast
from urllib.parse import unquote_to_bytes, urlsplit

import orjson
from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import BadHost, HTTPException, RequestEntityTooLarge
from werkzeug.exceptions import MethodNotAllowed as NoSuchMethod
from werkzeug.exceptions import NotFound as NoSuchPath

from . import limits as bounds
from .auth import Action, Grant, Hosts, Origins, Tokens
from .bayeux import Options as BayeuxOptions
from .errors import (
    BadBody,
    BadCursor,
    BadParameter,
    BadRecipient,
    BadRequest,
    BodyTooLarge,
    CometError,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
    problem_type,
)
from .hub import Hub, Standing, then
from .limits import Limits
from .listeners import ALL_LISTENERS, Listener, Listeners
from .message import JSON_TYPE, NOW, OLDEST, Batch, Content, Cursor, Push, Receipt, timestamp
from .metrics import prometheus
from .pages import pages
from .recipient import is_pattern, readable, recipient
from .stores import Maybe
from .transports import Answer, longpoll, websocket
from .transports.bayeux import BayeuxSocket, BayeuxTransport
from .transports.ndjson import NDJSON
from .transports.sse import SSE
from .transports.stream import Heartbeats, Stream
from .transports.ws import Talk

_COMMON = b"Cache-Control: no-store\r\nVary: Origin\r\n"
_JSON = b"Content-Type: application/json\r\n" + _COMMON
_PROBLEM = (
    b"Content-Type: application/problem+json\r\nCache-Control: no-store\r\nVary: Accept, Origin, Prefer\r\n"
)
_ALLOWED_ORIGIN = (
    b"Access-Control-Allow-Credentials: true\r\n"
    b"Access-Control-Expose-Headers: Comet-Cursor, Comet-Gap, Comet-Id, Comet-Recipient, Comet-Created-At, "
    b"ETag, Location, Preference-Applied, Retry-After\r\n"
)
_PREFLIGHT = (
    b"Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n"
    b"Access-Control-Allow-Headers: Authorization, Cache-Control, Content-Type, Idempotency-Key, "
    b"If-Modified-Since, If-None-Match, Last-Event-ID, Prefer, X-Requested-With\r\n"
    b"Access-Control-Max-Age: 7200\r\n"
)
_METRICS = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" + _COMMON
_NOTHING_HERE = "Nothing is at this path; the interface begins at /push/NAME and /poll/NAME."
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_COUNT = re.compile(r"[0-9]{1,9}")
_PREFER_WAIT = re.compile(r'\s*wait\s*=\s*(?:"([0-9]+)"|([0-9]+))\s*(?:;.*)?', re.IGNORECASE)
_VALIDATOR = re.compile(r'\s*(?:W/)?"?([^",\s]*)"?\s*')
# What Apache and Jetty append to a validator when they compress an answer (slact/nchan#92).
_COMPRESSED = re.compile(r"(?:;gzip|--?(?:gzip|br|deflate|zstd))$")

_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*(?:;[\t -~\x80-\xff]*)?")
_REFUSED = re.compile(r";?\s*q\s*=\s*0(?:\.0*)?\s*(?:;|$)")
_NAMING = frozenset({b"push", b"poll", b"stream", b"ws", b"recipients"})
"""First segments of paths that name a recipient."""

Overflow = Literal["reject", "drop-oldest"]
Query: TypeAlias = dict[str, list[str]]
Route = TypeVar("Route", bound=Callable[..., Any])
T = TypeVar("T")
Authorize: TypeAlias = Callable[[Any, Action, str], bool | Deferred[bool]]
"""An embedding program's own word on who may do what: request, action and recipient arrive."""


class Request(Protocol):
    """What the routes use of a request, be it twisted.web's or that of ``serving/``."""

    method: bytes
    uri: bytes
    path: bytes
    postpath: list[bytes]
    content: BinaryIO
    transport: Any
    responseHeaders: Any  # noqa: N815  twisted.web's name

    def getHeader(self, name: bytes) -> bytes | None:  # noqa: N802  twisted.web's name
        """Return a header's last value; names are lower case."""

    def setResponseCode(self, code: int) -> None:  # noqa: N802  twisted.web's name
        """Set the status of the response."""

    def isSecure(self) -> bool:  # noqa: N802  twisted.web's name
        """Whether it came over TLS."""


def _route(app: Klein, path: str, *methods: str, changes: bool = False) -> Callable[[Route], Route]:
    """Declare a route of ``Routes``: its path, its methods, and whether it ``changes`` something.

    What changes something is closed to web pages of foreign origins.
    """

    def declare(handler: Route) -> Route:
        @app.route(path, methods=list(methods), merge_slashes=False)
        @wraps(handler)
        def endpoint(self: Routes, request: Request, **names: str) -> Any:
            try:
                self.admit(request, changes=changes)
                answer = handler(self, request, **names)
            except CometError as error:
                return self.send(self.problem(error), request)
            if isinstance(answer, Deferred):
                there = (request,)
                return answer.addCallbacks(self.send, self.failed, callbackArgs=there, errbackArgs=there)
            return self.send(answer, request)

        return handler

    return declare


def _routes_of_pages(app: Klein) -> Callable[[Route], Route]:
    """Declare a route for each file of the pages, by its name."""

    def declare(handler: Route) -> Route:
        for name in pages():
            if name != "index.html":
                handler = _route(app, f"/{name}", "GET")(handler)
        return handler

    return declare


class Routes:
    """The routes of one hub. ``app`` is their Klein application, bound to the instance it is got from."""

    app = Klein()
    log = Logger()

    def __init__(
        self,
        hub: Hub,
        limits: Limits,
        *,
        overflow: Overflow = "reject",
        hosts: Hosts | None = None,
        origins: Origins | None = None,
        tokens: Tokens | None = None,
        authorize: Authorize | None = None,
        metrics: bool = True,
        console: bool = True,
        bayeux: BayeuxOptions | None = None,
        random: Random | None = None,
    ) -> None:
        self.hub = hub
        self.limits = limits
        self.overflow = overflow
        self.hosts = hosts or Hosts()
        self.origins = origins or Origins()
        self.tokens = tokens
        self.authorize = authorize
        self.show_metrics = metrics
        self.show_console = console
        self.listeners = Listeners(hub, limits.max_sessions)
        self.bayeux = None if bayeux is None else BayeuxTransport(hub, limits, bayeux, random)
        self._heartbeats = Heartbeats(hub.clock, bounds.HEARTBEAT_SECONDS)
        self._pings = Heartbeats(hub.clock, bounds.PING_SECONDS)
        self._random = random or Random()  # noqa: S311  only spreads load; guessing it gains nothing

    # -- push

    @_route(app, "/push", "POST", changes=True)
    @_route(app, "/push/<path:name>", "POST", changes=True)
    def push(self, request: Request, name: str | None = None) -> Maybe[Answer]:
        """Give the body to the recipients (HTTP.md, "Push")."""
        query = parse_query(request.uri)
        media_type = request.getHeader(b"content-type")
        push = Push(
            recipients=self._addressed(name, query),
            contents=self._contents(request, None if media_type is None else media_type.decode("latin-1")),
            event=_event(_one(query, "event")),
            ttl=_ttl(_one(query, "ttl")),
            queue=_choice(query, "queue", ("yes", "no"), "yes") == "yes",
            overflow=cast("Overflow", _choice(query, "overflow", ("reject", "drop-oldest"), self.overflow)),
            key=_key(request.getHeader(b"idempotency-key")),
        )
        receipt = self._allowed(request, "push", push.recipients, lambda _: self.hub.push(push))
        return then(receipt, _receipt)

    def _addressed(self, name: str | None, query: Query) -> tuple[str, ...]:
        if "to" in query:
            _choice(query, "to", ("listeners",), "listeners")
            if name is not None or "rcpt" in query:
                raise BadRecipient("to=listeners is for all of them; name no recipient besides.")
            return (ALL_LISTENERS,)
        return tuple(dict.fromkeys(map(recipient, _names(name, query))))

    def _contents(self, request: Request, media_type: str | None) -> tuple[Content, ...]:
        body = request.content.read()
        if len(body) > self.limits.max_body:
            raise self.too_large()
        if media_type is not None and not _is_media_type(media_type):
            raise BadBody(f"The Content-Type is no media type of at most {bounds.MEDIA_TYPE_BYTES} bytes.")
        if (media_type or "").partition(";")[0].strip().lower() in {
            "application/x-ndjson",
            "application/ndjson",
        }:
            return _lines(body)
        return (_content(body, media_type),)

    # -- poll

    @_route(app, "/poll", "GET")
    @_route(app, "/poll/<path:name>", "GET")
    def poll(self, request: Request, name: str | None = None) -> Maybe[Answer]:
        """Hold the request until the recipients have a message for it (HTTP.md, "Poll")."""
        asked = _asked(
            name,
            request.uri.partition(b"?")[2],
            request.method == b"HEAD",
            request.getHeader(b"accept"),
            request.getHeader(b"prefer"),
            request.getHeader(b"if-none-match"),
            request.getHeader(b"last-event-id"),
            self.limits.max_wait,
        )
        named = asked.recipients if asked.listener is None else self.listeners.get(asked.listener).recipients
        found = self._allowed(request, "poll", named, lambda grant: self._poll(request, asked, grant))
        if isinstance(found, Deferred):
            return found.addCallback(_poll_answer, asked)
        return _poll_answer(found, asked)

    def _poll(self, request: Request, asked: _Asked, grant: Grant | None) -> Maybe[Batch]:
        wait = asked.wait if grant is None else min(asked.wait, self._time_left(grant))
        if asked.listener is not None:
            listener = self.listeners.get(asked.listener)
            if asked.look:
                return self.hub.poll(listener.keys, listener.place, 0.0, asked.limit)
            return self.listeners.poll(
                listener, asked.after, wait, asked.limit, lambda: not _has_left(request)
            )
        if asked.after is not None:
            return self.hub.poll(asked.recipients, asked.after, wait, asked.limit)
        taken = self.hub.take(asked.recipients, wait, asked.limit, lambda: _has_left(request))
        return then(taken, lambda batch: self._give(batch, request))

    def _give(self, taken: Batch, request: Request) -> Batch:
        """Return what a take is answered with; what cannot be written stays where it was."""
        if taken.messages and _has_left(request):
            self.hub.give_back(taken)
        return taken

    # -- stream and socket

    @_route(app, "/stream", "GET")
    @_route(app, "/stream/<path:name>", "GET")
    def stream(self, request: Any, name: str | None = None) -> Answer | Maybe[None]:
        """Tell the recipients' messages as they come (HTTP.md, "Stream")."""
        query = parse_query(request.uri)
        recipients = _recipients(name, query)
        after = _start(query, request)
        accept = (request.getHeader(b"accept") or b"").lower()
        form = NDJSON if b"application/x-ndjson" in accept and b"text/event-stream" not in accept else SSE
        if request.method == b"HEAD":
            return Answer(200, form.head)
        head = form.head + self._cors(request)

        def begin(grant: Grant | None) -> Maybe[None]:
            stream = Stream(request, self.hub, form, self._heartbeats, self._random)
            ended = stream.begin(recipients, after, lambda: _begin(request, head))
            self._end_with(grant, ended, stream.end)
            return ended

        return self._allowed(request, "poll", recipients, begin)

    @_route(app, "/ws", "GET", changes=True)
    @_route(app, "/ws/<path:name>", "GET", changes=True)
    def socket(self, request: Any, name: str | None = None) -> Maybe[None]:
        """Open a WebSocket on the recipients (HTTP.md, "WebSocket")."""
        query = parse_query(request.uri)
        recipients = _recipients(name, query)
        after = _start(query, request)
        most = self.limits.max_body + bounds.SOCKET_MESSAGE_BYTES_OVER_BODY

        def begin(grant: Grant | None) -> Maybe[None]:
            def check(push: Push) -> None:
                self._check_push(push)
                if grant is not None:
                    grant.check("push", push.recipients)

            def talk() -> Talk:
                talk = Talk(self.hub, recipients, after, check)
                self._end_with(grant, talk.ended, talk.end)
                return talk

            websocket.accept(request, talk, self._pings, most)
            return Deferred()  # the connection is the socket's now; nothing is left to answer

        return self._allowed(request, "poll", recipients, begin)

    def _check_push(self, push: Push) -> None:
        _event(push.event)
        if any(len(content.body) > self.limits.max_body for content in push.contents):
            raise self.too_large()

    # -- Bayeux

    @_route(app, "/cometd", "POST", changes=True)
    @_route(app, "/cometd/", "POST", changes=True)
    @_route(app, "/cometd/<path:kind>", "POST", changes=True)
    def bayeux_post(self, request: Request, kind: str = "") -> Maybe[Answer]:
        """Answer Bayeux messages (HTTP.md, "Bayeux"); CometD's clients name their kind in the path."""
        body = request.content.read()
        if len(body) > self.limits.max_body:
            raise self.too_large()
        return self._bayeux().post(
            body,
            request.getHeader(b"content-type"),
            request.getHeader(b"cookie"),
            lambda: _has_left(request),
            secure=request.isSecure(),
            rights=self._rights(request),
        )

    @_route(app, "/cometd", "GET", changes=True)
    @_route(app, "/cometd/", "GET", changes=True)
    @_route(app, "/cometd/<path:kind>", "GET", changes=True)
    def bayeux_get(self, request: Request, kind: str = "") -> Any:
        """Open a Bayeux WebSocket, or answer a poll by callback."""
        if request.getHeader(b"upgrade") is not None:
            return self._allowed(request, "poll", (), lambda grant: self._bayeux_socket(request, grant))
        self._check_script(request)
        return self._bayeux().get(
            parse_query(request.uri),
            request.getHeader(b"cookie"),
            lambda: _has_left(request),
            secure=request.isSecure(),
            rights=self._rights(request),
        )

    def _bayeux(self) -> BayeuxTransport:
        if self.bayeux is None:
            raise NotFound("Bayeux is turned off.")
        return self.bayeux

    def _bayeux_socket(self, request: Request, grant: Grant | None) -> Deferred[None]:
        bayeux = self._bayeux()

        def converse() -> BayeuxSocket:
            socket = bayeux.socket(request.getHeader(b"cookie"), self._rights(request))
            self._end_with(grant, socket.ended, socket.end)
            return socket

        websocket.accept(request, converse, self._pings, self.limits.max_body)
        return Deferred()  # the connection is the socket's now

    def _rights(self, request: Request) -> _Rights | None:
        return None if self.tokens is None and self.authorize is None else _Rights(self, request)

    def _check_script(self, request: Request) -> None:
        """Raise ``ForbiddenOrigin`` where a page of a foreign origin asks for a script.

        A script is loaded without an Origin, and so is not stopped by what stops other requests.
        """
        page = urlsplit((request.getHeader(b"referer") or b"").decode("latin-1"))
        origin = f"{page.scheme}://{page.netloc}".lower().encode("latin-1") if page.netloc else None
        if origin is None and request.getHeader(b"sec-fetch-site") in {b"cross-site", b"same-site"}:
            origin = b"null"
        if origin is not None:
            self.origins.check(origin, request.getHeader(b"host"), secure=request.isSecure())

    # -- listeners

    @_route(app, "/register", "POST", changes=True)
    def register(self, request: Request) -> Maybe[Answer]:
        """Register a listener (HTTP.md, "Listeners")."""
        asked = _json_object(request.content.read(), {"recipients", "ttl"})
        ttl = asked.get("ttl", bounds.LISTENER_SECONDS)
        if (
            isinstance(ttl, bool)
            or not isinstance(ttl, (int, float))
            or not 0 < ttl <= bounds.LISTENER_SECONDS_MOST
        ):
            raise BadParameter(f"ttl is a number of seconds up to {bounds.LISTENER_SECONDS_MOST:g}.")
        named = _listed(asked)
        registered = self._allowed(
            request, "poll", named, lambda _: self.listeners.register(named, float(ttl))
        )
        under = request.path.removesuffix(b"/register")
        return then(registered, lambda listener: _registered(listener, under))

    @_route(app, "/listeners/<path:id>", "GET")
    def listener(self, request: Request, id: str) -> Maybe[Answer]:  # noqa: A002
        """Show a listener."""
        listener = self.listeners.get(id)
        shown = Answer(200, _JSON, _described(listener))
        return self._allowed(request, "poll", listener.recipients, lambda _: shown)

    @_route(app, "/listeners/<path:id>", "PUT", changes=True)
    def change_listener(self, request: Request, id: str) -> Maybe[Answer]:  # noqa: A002
        """Set the recipients of a listener."""
        listener = self.listeners.get(id)
        named = _listed(_json_object(request.content.read(), {"recipients"}))

        def change(_: Grant | None) -> Answer:
            self.listeners.change(listener, named)
            return Answer(200, _JSON, _described(listener))

        return self._allowed(request, "poll", (*listener.recipients, *named), change)

    @_route(app, "/listeners/<path:id>", "DELETE", changes=True)
    def end_listener(self, request: Request, id: str) -> Maybe[Answer]:  # noqa: A002
        """End a listener."""
        listener = self.listeners.get(id)
        ended = self._allowed(request, "poll", listener.recipients, lambda _: self.listeners.end(listener))
        return then(ended, lambda _: Answer(204, _COMMON))

    # -- recipients

    @_route(app, "/recipients/<path:name>", "GET")
    def recipient(self, request: Request, name: str) -> Maybe[Answer]:
        """Say how a recipient stands (HTTP.md, "Everything else")."""
        names = (recipient(name),)
        return then(self._allowed(request, "poll", names, lambda _: self.hub.describe(name)), _standing)

    @_route(app, "/recipients/<path:name>", "DELETE", changes=True)
    def delete_recipient(self, request: Request, name: str) -> Maybe[Answer]:
        """Lose what a recipient's mailbox holds (HTTP.md, "Everything else")."""
        names = (recipient(name),)
        deleted = self._allowed(request, "manage", names, lambda _: self.hub.delete(name))
        return then(deleted, lambda _: Answer(204, _COMMON))

    # -- the server

    @_route(app, "/healthz", "GET")
    def health(self, request: Request) -> Answer:
        """Say whether this server takes requests: 200, or 503 while it stops."""
        if self.hub.stopping:
            return Answer(503, _JSON + self._retry_after(1), b'{"status":"stopping"}')
        return Answer(200, _JSON, b'{"status":"ok"}')

    @_route(app, "/metrics", "GET")
    def metrics(self, request: Request) -> Answer:
        """Show what is counted, as Prometheus reads it."""
        if not self.show_metrics:
            raise NotFound("The metrics are turned off.")
        return Answer(200, _METRICS, prometheus(self.hub.metrics, self._gauges))

    def _gauges(self) -> dict[str, tuple[str, float]]:
        usage = self.hub.store.usage()
        metrics = self.hub.metrics
        limits = self.limits
        parked = self.hub.registry.parked
        return {
            "parked": ("Readers that wait: polls, streams and sockets.", parked),
            "parked_max": ("The bound on readers that wait.", limits.max_parked),
            "parked_polls": ("Polls that are held.", parked - metrics.streams - metrics.sockets),
            "streams": ("Streams that are open.", metrics.streams),
            "sockets": ("WebSockets that are open.", metrics.sockets),
            "listeners": ("Listeners that are registered.", len(self.listeners)),
            "bayeux_sessions": ("Bayeux sessions.", 0 if self.bayeux is None else len(self.bayeux)),
            "mailboxes": ("Mailboxes that hold messages.", usage.mailboxes),
            "mailboxes_max": ("The bound on mailboxes.", limits.max_recipients),
            "messages": ("Messages that are kept.", usage.messages),
            "memory_bytes": ("Memory that messages and mailboxes take, with overhead.", usage.memory),
            "memory_bytes_max": ("The bound on that memory.", limits.max_memory),
        }

    @_route(app, "/", "GET")
    @_routes_of_pages(app)
    def page(self, request: Request) -> Answer:
        """Show the console page, the browser client, or a part of them."""
        name = request.path.rpartition(b"/")[2].decode() or "index.html"
        if not self.show_console and name != "client.js":
            raise NotFound("The console is turned off.")
        page = pages()[name]
        lines = "".join([f"{field}: {value}\r\n" for field, value in page.headers.items()])
        if request.getHeader(b"if-none-match") == page.etag.encode():
            return Answer(304, lines.encode())
        return Answer(200, lines.encode(), page.body)

    # -- what all of them need

    def admit(self, request: Request, *, changes: bool) -> None:
        """Raise the refusal of a request whose Host or Origin may not come in."""
        host = request.getHeader(b"host")
        self.hosts.check(host)
        if changes:
            origin = request.getHeader(b"origin")
            if origin is not None:
                self.origins.check(origin, host, secure=request.isSecure())

    def _allowed(
        self,
        request: Request,
        action: Action,
        names: tuple[str, ...],
        act: Callable[[Grant | None], Maybe[T]],
    ) -> Maybe[T]:
        """Do ``act`` if the request's token, and the embedding program, allow the action on all the names.

        Raises ``Unauthorized`` or ``Forbidden``. ``act`` is given what the token grants, None without keys.
        """
        if self.tokens is None and self.authorize is None:
            return act(None)
        grant = None
        if self.tokens is not None:
            grant = self.tokens.grant(_token(request))
            grant.check(action, names)
        if self.authorize is None:
            return act(grant)
        asked = [maybeDeferred(self.authorize, request, action, name) for name in names]

        def judge(verdicts: list[bool]) -> Maybe[T]:
            if not all(verdicts):
                raise Forbidden(f"To {action} here is not allowed to this client.")
            return act(grant)

        verdicts = gatherResults(asked, consumeErrors=True).addErrback(_first_error)
        return cast("Deferred[T]", verdicts.addCallback(judge))  # type: ignore[call-overload]

    def _time_left(self, grant: Grant) -> float:
        """Return the seconds for which a grant still holds."""
        return float("inf") if grant.expires_at is None else max(0.0, grant.expires_at - self.hub.wall())

    def _end_with(self, grant: Grant | None, ended: Deferred[None], end: Callable[[], None]) -> None:
        """End a stream or socket when its token does."""
        if grant is None or grant.expires_at is None:
            return
        timer = self.hub.clock.callLater(self._time_left(grant), end)

        def cancel(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            return result

        ended.addBoth(cancel)

    def send(self, answer: Answer | None, request: Any) -> bytes | None:
        """Write ``answer``, with what the request's origin needs to read it.

        Returns the body where twisted.web is to write it, None where ``serving/`` has written it.
        """
        if answer is None:
            finish = getattr(request, "respond", None) and request.finish
            return finish() if finish else b""
        cors = self._cors(request)
        if cors:
            answer = answer.with_head(cors)
        respond = getattr(request, "respond", None)
        if respond is not None:
            respond(answer.status, answer.head, answer.body)
            return None
        _set_head(request, answer.status, answer.head)
        if self.hub.stopping:
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])  # serving/ does so by itself
        if answer.status not in {204, 304}:
            request.responseHeaders.setRawHeaders(b"content-length", [b"%d" % len(answer.body)])
        return answer.body

    def _cors(self, request: Request) -> bytes:
        """Return the header lines that let a page of an allowed origin read the answer."""
        origin = request.getHeader(b"origin")
        if origin is None or not self.origins.allow(
            origin, request.getHeader(b"host"), secure=request.isSecure()
        ):
            return b""
        return b"Access-Control-Allow-Origin: %b\r\n" % origin + _ALLOWED_ORIGIN

    def failed(self, failure: Failure, request: Request) -> Any:
        """Send the problem that a route's Deferred failed with."""
        if isinstance(failure.value, CancelledError):
            return failure  # the client has left, and Klein knows
        if isinstance(failure.value, CometError):
            return self.send(self.problem(failure.value), request)
        self.log.failure("A request failed", failure)
        error = InternalError("The server failed at this request, and has noted why.")
        return self.send(self.problem(error), request)

    def problem(self, error: CometError) -> Answer:
        """Return the response that tells a client of an error (RFC 9457)."""
        self.hub.metrics.refusals[error.kind] += 1
        head = _PROBLEM
        if error.retry_after is not None:
            head += self._retry_after(error.retry_after)
        if isinstance(error, Unauthorized):
            head += b"WWW-Authenticate: Bearer\r\n"
        if isinstance(error, MethodNotAllowed):
            head += b"Allow: %b\r\n" % ", ".join(error.allowed).encode()
        return Answer(error.status, head, orjson.dumps(error.problem()))

    def malformed(self, status: int, sentence: str) -> tuple[bytes, bytes]:
        """Return the head and body of the problem that answers what is not even a request.

        ``serving/`` says what is wrong with it, by a status and a sentence.
        """
        title = HTTPStatus(status).phrase
        kind = title.lower().replace(" ", "-")
        self.hub.metrics.refusals[kind] += 1
        problem = {"type": problem_type(kind), "title": title, "status": status, "detail": sentence}
        return _PROBLEM, orjson.dumps(problem)

    def too_large(self) -> BodyTooLarge:
        """Return the error for a body over the bound."""
        return BodyTooLarge(f"A body has at most {self.limits.max_body} bytes here.")

    def _retry_after(self, seconds: int) -> bytes:
        return b"Retry-After: %d\r\n" % (seconds + self._random.randrange(bounds.RETRY_SPREAD))

    @app.handle_errors(HTTPException)
    def unrouted(self, request: Any, failure: Failure) -> Any:
        """Answer what no route has answered: preflights, unknown paths and methods, bodies too large."""
        try:
            self.admit(request, changes=False)
            error = failure.value
            if request.method == b"OPTIONS" and isinstance(error, (NoSuchPath, NoSuchMethod)):
                return self.send(self._preflight(error, request), request)
            raise self._translated(error, request)
        except CometError as error:
            return self.send(self.problem(error), request)

    @app.handle_errors(Exception)
    def broken(self, request: Any, failure: Failure) -> Any:
        """Answer a request at which a route failed."""
        return self.failed(failure, request)

    def _preflight(self, error: HTTPException, request: Request) -> Answer:
        allow = b""
        if isinstance(error, NoSuchMethod):
            allow = b"Allow: %b\r\n" % ", ".join(_allowed(error)).encode()
        origin = request.getHeader(b"origin")
        if origin is None or not self.origins.allow(
            origin, request.getHeader(b"host"), secure=request.isSecure()
        ):
            return Answer(204, _COMMON + allow)
        return Answer(204, _COMMON + allow + _PREFLIGHT)

    def _translated(self, error: BaseException | None, request: Request) -> CometError:
        if isinstance(error, RequestEntityTooLarge):
            return self.too_large()
        path = request.postpath
        # The router counts the methods of what it finds by merging slashes, and then does not go there.
        if isinstance(error, NoSuchMethod) and b"" not in path[:-1]:
            allowed = _allowed(error)
            return MethodNotAllowed(f"This path knows {', '.join(allowed)}.", allowed)
        if isinstance(error, (NoSuchMethod, NoSuchPath)):
            if len(path) > 1 and path[0] in _NAMING:
                # The router matches no name with an empty segment or a line break; say what is wrong with it.
                try:
                    recipient(b"/".join(path[1:]).decode())
                except BadRecipient as bad:
                    return bad
            return NotFound(_NOTHING_HERE)
        if isinstance(error, BadHost):
            return BadRequest("The Host header is not the name of a host.")
        return BadRequest("The request cannot be understood; its path must be percent-encoded UTF-8.")


class _Rights:
    """What the sender of a Bayeux request may do, by its token and the embedding program."""

    def __init__(self, routes: Routes, request: Request) -> None:
        self._routes = routes
        self._request = request

    def check(self, action: Action, names: tuple[str, ...]) -> Maybe[float]:
        """Return for how many seconds the action on the names is allowed. Raises where it is not."""
        routes = self._routes

        def seconds(grant: Grant | None) -> float:
            return float("inf") if grant is None else routes._time_left(grant)

        return routes._allowed(self._request, action, names, seconds)


class RoutesResource(KleinResource):
    """The routes as a resource for any twisted.web site."""

    def __init__(self, routes: Routes) -> None:
        super().__init__(routes.app)
        self._routes = routes

    def render(self, request: Any) -> Any:
        """Render as Klein does, but refuse as the interface does what Klein cannot route at all."""
        try:
            b"/".join(request.postpath).decode()
            return super().render(request)
        except (UnicodeDecodeError, BadHost):
            return self._routes.unrouted(request, Failure())


# -- parsing


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a poll asks for. ``after`` is None for a take; ``conditional`` if it came as a validator."""

    recipients: tuple[str, ...]
    listener: str | None
    after: Cursor | None
    conditional: bool
    wait: float
    preferred: bool
    """Whether ``wait`` came as a preference that is honoured."""
    limit: int
    form: longpoll.Format
    look: bool
    """A HEAD: it takes nothing, acknowledges nothing, and waits for nothing."""


@lru_cache(maxsize=256)  # the thousand of a fan-out all ask the same
def _asked(
    name: str | None,
    query_text: bytes,
    head: bool,
    accept: bytes | None,
    prefer: bytes | None,
    if_none_match: bytes | None,
    last_event_id: bytes | None,
    max_wait: float,
) -> _Asked:
    query = _parsed(query_text)
    form = _format(query, accept)
    limit = _limit(_one(query, "limit"))
    wait, preferred = _wait(query, prefer, max_wait)
    after, conditional = _place(query, if_none_match, last_event_id)
    listener = _one(query, "listener")
    if listener is None:
        recipients = _recipients(name, query)
    elif name is not None or "rcpt" in query:
        raise BadParameter("A listener has its recipients; name it alone.")
    else:
        recipients = ()
    if head:
        after, wait = after or OLDEST, 0.0
    if listener is None and after is None and any(map(is_pattern, recipients)):
        raise BadRecipient("A pattern is read with a cursor, as in ?after=oldest; a take needs names.")
    if form == "raw":
        limit = 1
    return _Asked(recipients, listener, after, conditional, wait, preferred, limit, form, head)


def _wait(query: Query, prefer: bytes | None, most: float) -> tuple[float, bool]:
    """Return the seconds to be held, and whether they came as a preference that is honoured."""
    text = _one(query, "wait")
    if text is not None:
        if not _SECONDS.fullmatch(text) or float(text) > most:
            raise BadParameter(f"wait is a number of seconds from 0 to {most:g}.")
        return float(text), False
    for preference in (prefer or b"").decode("latin-1").split(","):
        match = _PREFER_WAIT.fullmatch(preference)
        if match:
            return min(float(match[1] or match[2]), int(most)), True
    return min(bounds.WAIT_SECONDS, most), False


def _recipients(name: str | None, query: Query) -> tuple[str, ...]:
    """Return what a reader asks for: names, and patterns."""
    return tuple(dict.fromkeys(map(readable, _names(name, query))))


def _names(name: str | None, query: Query) -> list[str]:
    given = query.get("rcpt", [])
    if name is not None:
        if given:
            raise BadRecipient("Name the recipient in the path or by rcpt, not by both.")
        return [name]
    if not given:
        recipient("")
    if len(given) > bounds.RECIPIENTS_PER_REQUEST:
        raise BadRecipient(f"A request names at most {bounds.RECIPIENTS_PER_REQUEST} recipients.")
    return given


def parse_query(uri: bytes) -> Query:
    """Return the parameters of a target's query, each with its values in order.

    As a form encodes them: ``+`` is a space. Raises ``BadParameter`` where one is no UTF-8.
    """
    return _parsed(uri.partition(b"?")[2])


def _parsed(text: bytes) -> Query:
    query: Query = {}
    try:
        if b"%" not in text and b"+" not in text:
            for pair in text.decode().split("&") if text else ():
                name, _, value = pair.partition("=")
                query.setdefault(name, []).append(value)
        else:
            for encoded in text.split(b"&"):
                field, _, content = encoded.partition(b"=")
                query.setdefault(_decoded(field), []).append(_decoded(content))
    except UnicodeDecodeError:
        raise BadParameter("The query must be percent-encoded UTF-8.") from None
    return query


def _decoded(text: bytes) -> str:
    return unquote_to_bytes(text.replace(b"+", b" ")).decode()


def _one(query: Query, name: str) -> str | None:
    values = query.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise BadParameter(f"{name} is given once.")
    return values[0]


def _choice(query: Query, name: str, choices: tuple[str, ...], default: str) -> str:
    value = _one(query, name)
    if value is None:
        return default
    if value not in choices:
        raise BadParameter(f"{name} is {' or '.join(choices)}.")
    return value


def _event(event: str | None) -> str | None:
    if event is not None and (
        not 0 < len(event.encode()) <= bounds.EVENT_BYTES or "\n" in event or "\r" in event
    ):
        raise BadParameter(f"event is a name of 1 to {bounds.EVENT_BYTES} bytes without line breaks.")
    return event


def _ttl(text: str | None) -> float | None:
    if text is None:
        return None
    if not _SECONDS.fullmatch(text) or float(text) <= 0:
        raise BadParameter("ttl is a number of seconds above 0.")
    return float(text)


def _limit(text: str | None) -> int:
    if text is None:
        return bounds.POLL_MESSAGES
    if not _COUNT.fullmatch(text) or not 1 <= int(text) <= bounds.POLL_MESSAGES_MOST:
        raise BadParameter(f"limit is a number of messages from 1 to {bounds.POLL_MESSAGES_MOST}.")
    return int(text)


def _key(key: bytes | None) -> str | None:
    if key is None:
        return None
    if not 1 <= len(key) <= bounds.IDEMPOTENCY_KEY_BYTES:
        raise BadParameter(f"Idempotency-Key has 1 to {bounds.IDEMPOTENCY_KEY_BYTES} bytes.")
    return key.decode("latin-1")


def _place(
    query: Query, if_none_match: bytes | None, last_event_id: bytes | None
) -> tuple[Cursor | None, bool]:
    """Return the reader's cursor, None for a take, and whether it came as a validator."""
    after = _one(query, "after")
    if after is not None:
        return _cursor(after, "after"), False
    if if_none_match is not None:
        return _validator(if_none_match.decode("latin-1")), True
    if last_event_id is not None:
        return _cursor(last_event_id.decode("latin-1"), "Last-Event-ID"), False
    return None, False


def _start(query: Query, request: Request) -> Cursor:
    """Return where a stream or socket begins."""
    after = _place(query, request.getHeader(b"if-none-match"), request.getHeader(b"last-event-id"))[0]
    return NOW if after is None else after


def _cursor(text: str, name: str) -> Cursor:
    try:
        return Cursor.parse(text)
    except ValueError:
        raise BadCursor(f"{name} is a cursor that this server gave out, or oldest, or now.") from None


def _validator(text: str) -> Cursor:
    """Return the newest of the cursors in If-None-Match: a cache may know several (RFC 9110 §13.1.2)."""
    cursors = []
    for validator in text.split(","):
        match = _VALIDATOR.fullmatch(validator)
        cursors.append(_cursor(_COMPRESSED.sub("", match[1] if match else ""), "If-None-Match"))
    return max(cursors, key=lambda cursor: (cursor == NOW, cursor.sequence))


def _format(query: Query, accept: bytes | None) -> longpoll.Format:
    if "format" in query:
        return cast(longpoll.Format, _choice(query, "format", ("json", "raw"), "json"))
    accept = (accept or b"").lower()
    if b"text/" not in accept and b"octet-stream" not in accept:
        return "json"
    ranges = [entry.partition(";") for entry in accept.decode("latin-1").split(",")]
    accepted = [kind.strip() for kind, _, rest in ranges if not _REFUSED.search(rest)]
    raw = [kind for kind in accepted if kind.startswith("text/") or kind == "application/octet-stream"]
    return "raw" if raw == accepted != [] else "json"


def _token(request: Request) -> str:
    """Return the request's token. Raises ``Unauthorized`` where it brings none."""
    scheme, _, token = (request.getHeader(b"authorization") or b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip().decode("latin-1")
    given = _one(parse_query(request.uri), "token")
    if not given:
        raise Unauthorized("A token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN.")
    return given


def _first_error(failure: Failure) -> Failure:
    """Return what an ``authorize`` of the embedding program failed with."""
    first = failure.value
    return first.subFailure if isinstance(first, FirstError) else failure


def _content(body: bytes, media_type: str | None) -> Content:
    try:
        return Content.parse(body, media_type)
    except ValueError as error:
        raise BadBody(str(error)) from None


def _json_object(body: bytes, known: set[str]) -> dict[str, Any]:
    try:
        asked = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadBody(f"The body is one JSON object: {error}.") from None
    if not isinstance(asked, dict) or not known.issuperset(asked):
        raise BadBody(f"The body is one JSON object, which may have: {', '.join(sorted(known))}.")
    return asked


def _listed(asked: dict[str, Any]) -> tuple[str, ...]:
    names = asked.get("recipients", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadBody("recipients is a list of names.")
    if len(names) > bounds.RECIPIENTS_PER_REQUEST:
        raise BadRecipient(f"A reader names at most {bounds.RECIPIENTS_PER_REQUEST} recipients.")
    return tuple(dict.fromkeys(map(readable, names)))


def _lines(body: bytes) -> tuple[Content, ...]:
    """Return the messages of an NDJSON body, one a line; lines of white space are none."""
    contents = []
    for number, line in enumerate(map(bytes.strip, body.split(b"\n")), 1):
        if line:
            try:
                contents.append(Content.parse(line, JSON_TYPE))
            except ValueError as error:
                raise BadBody(f"Line {number}: {error}") from None
    return tuple(contents) or (_content(b"", JSON_TYPE),)


def _is_media_type(text: str) -> bool:
    return len(text) <= bounds.MEDIA_TYPE_BYTES and _MEDIA_TYPE.fullmatch(text) is not None


# -- answering


def _poll_answer(batch: Batch, asked: _Asked) -> Answer:
    if asked.conditional and not batch:
        made = longpoll.not_modified(batch)
    else:
        made = longpoll.answer(batch, asked.form)
    return made.with_head(b"Preference-Applied: wait=%d\r\n" % asked.wait) if asked.preferred else made


def _receipt(receipt: Receipt) -> Answer:
    return Answer(201 if receipt.delivered else 202, _JSON, receipt.json)


def _standing(standing: Standing) -> Answer:
    contents = standing.contents
    return Answer(
        200,
        _JSON,
        orjson.dumps(
            {
                "recipient": standing.recipient,
                "waiting": standing.waiting,
                "queued": contents.queued,
                "bytes": contents.size,
                "oldest": contents.oldest and str(contents.oldest),
                "newest": contents.newest and str(contents.newest),
                "last_seen": None if standing.last_seen is None else timestamp(standing.last_seen),
                "online": standing.online,
            }
        ),
    )


def _allowed(error: NoSuchMethod) -> tuple[str, ...]:
    return tuple(sorted({*(error.valid_methods or ()), "OPTIONS"}))


def _begin(request: Any, head: bytes) -> None:
    """Begin a response that does not end."""
    start = getattr(request, "start", None)
    if start is not None:
        start(200, head)
    else:
        _set_head(request, 200, head)


def _set_head(request: Any, status: int, head: bytes) -> None:
    """Give twisted.web the status and header lines of a response."""
    request.setResponseCode(status)
    for line in head.split(b"\r\n")[:-1]:
        field, _, value = line.partition(b": ")
        request.responseHeaders.addRawHeader(field, value)


def _registered(listener: Listener, under: bytes) -> Answer:
    location = b"Location: %b/listeners/%b\r\n" % (under, listener.id.encode())
    return Answer(201, location + _JSON, _described(listener))


def _described(listener: Listener) -> bytes:
    return orjson.dumps(
        {
            "id": listener.id,
            "recipients": listener.recipients,
            "expires_in": int(listener.ttl) if listener.ttl.is_integer() else listener.ttl,
            "cursor": str(listener.place),
        }
    )


def _has_left(request: Request) -> bool:
    """Whether the client has closed its connection, though the reactor has not come to it yet."""
    gone = getattr(request, "gone", None)
    if gone is not None:
        return cast(bool, gone())
    transport = request.transport
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
