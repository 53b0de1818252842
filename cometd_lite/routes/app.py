"""The HTTP interface of HTTP.md as Klein routes: a request arrives, is parsed, allowed, and answered.

A route parses, calls the hub, and returns a ``Response`` or a Deferred of one; ``_route`` sends it, and makes
a problem of RFC 9457 of every error. The same routes are served by ``serving/`` and by any twisted.web site.
This is the only file that knows Klein.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from functools import partial, wraps
from http import HTTPStatus
from random import Random
from typing import Any, TypeVar, cast

from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import BadHost, HTTPException, RequestEntityTooLarge
from werkzeug.exceptions import MethodNotAllowed as NoSuchMethod
from werkzeug.exceptions import NotFound as NoSuchPath

from .. import __version__
from .. import limits as bounds
from ..access.policy import Door, Request, charge, check_room, hold_for, registrations_of
from ..access.tokens import Grant
from ..bayeux.connects import HELD, BayeuxTransport, HeldConnect
from ..bayeux.conversation import Connect
from ..bayeux.conversation import Options as BayeuxOptions
from ..bayeux.forwarding import Borrowed, Elsewhere
from ..bayeux.http import json_answer
from ..bayeux.socket import BayeuxSocket
from ..core.hub import Hub, Poll
from ..core.listeners import Listener, Listeners
from ..core.message import Batch, Cursor, Push, Receipt
from ..core.recipient import recipient
from ..deferreds import MaybeDeferred, chain, is_pending
from ..errors import (
    MALFORMED,
    BadParameter,
    BadRecipient,
    BadRequest,
    BodyTooLarge,
    CometError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    kind_of,
    kinds,
    problem_type,
)
from ..http import params as query
from ..http import responses as answers
from ..http import websocket
from ..http.ndjson import NDJSON
from ..http.params import (
    LastPoll,
    PollAsked,
    PushAsked,
    event_name,
    fields,
    json_object,
    listed,
    parse_query,
    recipients_of,
)
from ..http.pubsub import Talk
from ..http.responses import Response
from ..http.sse import SSE
from ..http.stream import Heartbeats, Stream
from ..limits import Limits
from ..metrics import ROUTES, Metrics, prometheus
from ..openapi import Interface
from ..pages import pages
from ..server import Proxies, ip_endpoint

_NOTHING_HERE = "Nothing is at this path; the interface begins at /push/NAME and /poll/NAME."
_NAMING = frozenset({b"push", b"poll", b"stream", b"ws", b"recipients"})
"""First segments of paths that name a recipient."""

Route = TypeVar("Route", bound=Callable[..., Any])
T = TypeVar("T")


def _route(app: Klein, path: str, *methods: str, changes: bool = False) -> Callable[[Route], Route]:
    """Declare a route of ``Routes``: its path, its methods, and whether it ``changes`` something.

    What changes something is closed to web pages of foreign origins.
    """

    def declare(handler: Route) -> Route:
        @app.route(path, methods=list(methods), merge_slashes=False)
        @wraps(handler)
        def endpoint(self: Routes, request: Request, **names: str) -> Any:
            try:
                self.door.admit(request, changes)
                answer = handler(self, request, **names)
            except CometError as error:
                return self.send(self.problem(error), request)
            if answer.__class__ is Response:
                return self.send(answer, request)
            if answer is NOT_DONE_YET:
                return answer  # whoever holds the request answers it
            if is_pending(answer):
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
        door: Door | None = None,
        proxies: Proxies | None = None,
        metrics: Metrics,
        show_metrics: bool = True,
        console: bool = True,
        openapi: bool = True,
        bayeux: BayeuxOptions | None = None,
        random: Random | None = None,
    ) -> None:
        self.hub = hub
        hub.counts.refusals.update(dict.fromkeys(kinds(), 0))  # so that each is there before its first one
        self.limits = limits
        self.door = door or Door(hub.clock, hub.wall)
        self.proxies = proxies
        self.counted = metrics
        self.show_metrics = show_metrics
        self.show_console = console
        self.show_openapi = openapi
        self._document: tuple[bytes, bytes] | None = None
        self.listeners = Listeners(hub, limits.max_sessions)
        self.bayeux = None if bayeux is None else BayeuxTransport(hub, limits, bayeux)
        self._elsewhere: Elsewhere | None = None
        """Where the Bayeux sessions of other processes live; None where there are none."""
        if self.bayeux is not None and hub.shared is not None:
            self._elsewhere = Elsewhere(hub.shared.process, hub.shared.calls, self._bayeux_borrowed)
            self.bayeux.bayeux.prefix = self._elsewhere.prefix
        self._heartbeats = Heartbeats(hub.clock, bounds.HEARTBEAT_SECONDS)
        self._pings = Heartbeats(hub.clock, bounds.PING_SECONDS)
        self._held_connect = partial(_HeldConnect, self)
        self._random = random or Random()  # noqa: S311  only spreads load; guessing it gains nothing

    # -- push

    @_route(app, "/push", "POST", changes=True)
    @_route(app, "/push/<path:name>", "POST", changes=True)
    def push(self, request: Request, name: str | None = None) -> MaybeDeferred[Response]:
        """Give the body to the recipients (HTTP.md, "Push")."""
        asked = self._push_asked(request, name)
        if self.door.is_open:
            receipt = self._push(request, asked, None)
        else:
            receipt = self.door.allowed(
                request, "push", asked.recipients, partial(self._push, request, asked)
            )
        return receipt.addCallback(answers.of_push) if is_pending(receipt) else answers.of_push(receipt)

    def _push_asked(self, request: Request, name: str | None) -> PushAsked:
        text, target = query.text_of(request), query.target_of(request)
        if target is not None:
            last: tuple[bytes, PushAsked] | None = target.meaning
            if last is not None and last[0] == text:
                return last[1]
        asked = query.push_asked(name, text)
        if target is not None and _is_small(request):
            target.meaning = (text, asked)
        return asked

    def _push(self, request: Request, asked: PushAsked, grant: Grant | None) -> MaybeDeferred[Receipt]:
        given = fields(request)
        contents = query.contents(self._body(request), given.content_type)
        key = query.idempotency_key(given.idempotency_key)
        recipients, event, ttl, queue, overflow = asked
        return self._charged(Push(recipients, contents, event, ttl, queue, overflow, key), grant)

    def _charged(self, push: Push, grant: Grant | None) -> MaybeDeferred[Receipt]:
        """Push, and count it against whoever pushes."""
        if grant is not None:
            charge(grant, push)
        return self.hub.push(push)

    def _body(self, request: Request) -> bytes:
        body: bytes | None = getattr(request, "body", None)
        if body is None:
            body = request.content.read()
        if len(body) > self.limits.max_body:
            raise self.too_large()
        return body

    # -- poll

    @_route(app, "/poll", "GET")
    @_route(app, "/poll/<path:name>", "GET")
    def poll(self, request: Request, name: str | None = None) -> MaybeDeferred[Response] | int:
        """Hold the request until the recipients have a message for it (HTTP.md, "Poll")."""
        asked, after = self._poll_asked(request, name)
        found: MaybeDeferred[Batch] | None
        if asked.listener is not None:
            listener = self.listeners.get(asked.listener)
            found = chain(listener, partial(self._listen, request, asked, after))
        elif after is not None and self.door.is_open and hasattr(request, "hold"):
            found = self._hold(request, asked, after)
            if found is None:
                return int(NOT_DONE_YET)
        else:
            polled = partial(self._poll, request, asked, after)
            found = self.door.allowed(request, "poll", asked.recipients, polled)
        if is_pending(found):
            return found.addCallback(answers.of_poll, asked)
        return answers.of_poll(found, asked)

    def _poll_asked(self, request: Request, name: str | None) -> tuple[PollAsked, Cursor | None]:
        text, given, target = query.text_of(request), fields(request), query.target_of(request)
        if target is not None:
            last: LastPoll | None = target.meaning
            if last is not None and last.again(text, given):
                return last.asked, last.after
        look = request.method == b"HEAD"
        asked, after = query.poll_asked(name, text, given, self.limits.max_wait, look=look)
        if target is not None and _is_small(request):
            target.meaning = LastPoll(text, given, asked, after)
        return asked, after

    def _hold(self, request: Any, asked: PollAsked, after: Cursor) -> MaybeDeferred[Batch] | None:
        """Return what a poll is answered with; None where a reader holds the request, and answers it."""
        held = _Held(self, request, asked, after)
        found = self.hub.hold(held, asked.wait)
        if held.deferred is not None:
            request.hold(held)
        return found

    def _poll(
        self, request: Request, asked: PollAsked, after: Cursor | None, grant: Grant | None
    ) -> MaybeDeferred[Batch]:
        if grant is None:
            return self._read(request, asked, after, asked.wait)
        wait = min(asked.wait, self.door.time_left(grant))
        return hold_for(grant, wait, partial(self._read, request, asked, after, wait))

    def _read(
        self, request: Request, asked: PollAsked, after: Cursor | None, wait: float
    ) -> MaybeDeferred[Batch]:
        if after is not None:
            return self.hub.poll(asked.recipients, after, wait, asked.limit)
        self.door.check_taker(request)
        taken = self.hub.take(asked.recipients, wait, asked.limit, lambda: _has_left(request))
        return chain(taken, lambda batch: self._give(batch, request))

    def _listen(
        self, request: Request, asked: PollAsked, after: Cursor | None, listener: Listener
    ) -> MaybeDeferred[Batch]:
        def poll(grant: Grant | None) -> MaybeDeferred[Batch]:
            if asked.look:
                return self.hub.poll(listener.keys, listener.place, 0.0, asked.limit)
            wait = asked.wait if grant is None else min(asked.wait, self.door.time_left(grant))
            written = lambda: not _has_left(request)  # noqa: E731  it is said in one line
            read = partial(self.listeners.poll, listener, after, wait, asked.limit, written)
            return read() if grant is None else hold_for(grant, wait, read)

        return self.door.allowed(request, "poll", listener.recipients, poll)

    def _give(self, taken: Batch, request: Request) -> Batch:
        """Return what a take is answered with; what cannot be written stays where it was."""
        if taken.messages and _has_left(request):
            self.hub.give_back(taken)
        return taken

    # -- stream and socket

    @_route(app, "/stream", "GET")
    @_route(app, "/stream/<path:name>", "GET")
    def stream(self, request: Any, name: str | None = None) -> MaybeDeferred[None] | int:
        """Tell the recipients' messages as they come (HTTP.md, "Stream")."""
        given = fields(request)
        asked = parse_query(request.uri)
        recipients = recipients_of(name, asked)
        after = query.start(asked, given)
        accept = (given.accept or b"").lower()
        form = NDJSON if b"application/x-ndjson" in accept and b"text/event-stream" not in accept else SSE
        head = form.head + self.door.cors(request)

        def begin(grant: Grant | None) -> MaybeDeferred[None]:
            if request.method == b"HEAD":
                _begin(request, head)
                return None
            check_room(grant)
            stream = Stream(request, self.hub, form, self._heartbeats, self._random)
            ended: Deferred[None] = Deferred(stream.cancel)
            stream.begin(recipients, after, partial(_begin, request, head), partial(ended.callback, None))
            self.door.end_with(grant, ended, stream.end)
            return ended

        if self.door.is_open and hasattr(request, "hold") and request.method != b"HEAD":
            # Over serving/ it need not pay for a Deferred, which takes as much memory as all the rest.
            stream = Stream(request, self.hub, form, self._heartbeats, self._random)
            stream.begin(recipients, after, partial(_begin, request, head, stream), request.finish)
            return int(NOT_DONE_YET)
        return self.door.allowed(request, "poll", recipients, begin)

    @_route(app, "/ws", "GET", changes=True)
    @_route(app, "/ws/<path:name>", "GET", changes=True)
    def socket(self, request: Any, name: str | None = None) -> MaybeDeferred[None]:
        """Open a WebSocket on the recipients (HTTP.md, "WebSocket")."""
        given = fields(request)
        asked = parse_query(request.uri)
        recipients = recipients_of(name, asked)
        after = query.start(asked, given)
        most = self.limits.max_body + bounds.SOCKET_MESSAGE_BYTES_OVER_BODY

        def begin(grant: Grant | None) -> MaybeDeferred[None]:
            def push(push: Push) -> MaybeDeferred[Receipt]:
                self._check_push(push)
                return self.door.allowed(request, "push", push.recipients, partial(self._charged, push))

            def talk() -> Talk:
                check_room(grant)
                talk = Talk(self.hub, recipients, after, push)
                self.door.end_with(grant, talk.ended, talk.end)
                return talk

            websocket.accept(request, talk, self._pings, most)
            return Deferred()  # the connection is the socket's now; nothing is left to answer

        return self.door.allowed(request, "poll", recipients, begin)

    def _check_push(self, push: Push) -> None:
        event_name(push.event)
        if any(len(content.body) > self.limits.max_body for content in push.contents):
            raise self.too_large()

    # -- Bayeux

    @_route(app, "/cometd", "POST", changes=True)
    @_route(app, "/cometd/", "POST", changes=True)
    @_route(app, "/cometd/<path:kind>", "POST", changes=True)
    def bayeux_post(self, request: Any, kind: str = "") -> MaybeDeferred[Response] | int:
        """Response Bayeux messages (HTTP.md, "Bayeux"); CometD's clients name their kind in the path."""
        body = self._body(request)
        if self._elsewhere is not None:
            here = partial(self._bayeux_post, request, body, partial(_has_left, request))
            return self._elsewhere.hand_on(request, body, here)
        if not (self.door.is_open and hasattr(request, "hold")):
            return self._bayeux_post(request, body, partial(_has_left, request))
        media_type = fields(request).content_type
        answer = self._bayeux().post(body, media_type, request, request.seems_gone, None, self._held_connect)
        return NOT_DONE_YET if answer is HELD else answer

    @_route(app, "/cometd", "GET", changes=True)
    @_route(app, "/cometd/", "GET", changes=True)
    @_route(app, "/cometd/<path:kind>", "GET", changes=True)
    def bayeux_get(self, request: Request, kind: str = "") -> Any:
        """Open a Bayeux WebSocket, or answer a poll by callback."""
        if request.getHeader(b"upgrade") is not None:
            return self.door.allowed(request, "poll", (), lambda grant: self._bayeux_socket(request, grant))
        self.door.check_script(request)
        here = partial(self._bayeux_get, request, partial(_has_left, request))
        return here() if self._elsewhere is None else self._elsewhere.hand_on(request, b"", here)

    def _bayeux_post(self, request: Any, body: bytes, gone: Callable[[], bool]) -> MaybeDeferred[Response]:
        media_type = fields(request).content_type
        return self._bayeux().post(body, media_type, request, gone, self.door.rights(request))

    def _bayeux_get(self, request: Any, gone: Callable[[], bool]) -> MaybeDeferred[Response]:
        return self._bayeux().get(parse_query(request.uri), request, gone, self.door.rights(request))

    def _bayeux_borrowed(self, request: Borrowed) -> MaybeDeferred[Response]:
        """Response a request that another process received, and has let in."""
        try:
            if request.method == b"GET":
                answer = self._bayeux_get(request, request.gone)
            else:
                answer = self._bayeux_post(request, request.body, request.gone)
        except CometError as error:
            return self.problem(error)
        return answer.addErrback(self._bayeux_refused) if is_pending(answer) else answer

    def _bayeux_refused(self, failure: Failure) -> Response:
        error = failure.value
        if not isinstance(error, CometError):
            failure.raiseException()
        return self.problem(error)

    def _bayeux(self) -> BayeuxTransport:
        if self.bayeux is None:
            raise NotFound("Bayeux is turned off.")
        return self.bayeux

    def _bayeux_socket(self, request: Request, grant: Grant | None) -> Deferred[None]:
        bayeux = self._bayeux()

        def converse() -> BayeuxSocket:
            check_room(grant)
            socket = BayeuxSocket(bayeux, request, self.door.rights(request))
            self.door.end_with(grant, socket.ended, socket.end)
            return socket

        websocket.accept(request, converse, self._pings, self.limits.max_body)
        return Deferred()  # the connection is the socket's now

    # -- listeners

    @_route(app, "/register", "POST", changes=True)
    def register(self, request: Request) -> MaybeDeferred[Response]:
        """Register a listener (HTTP.md, "Listeners")."""
        registered = self.door.allowed(request, "poll", (), lambda _: self._register(request))
        under = request.path.removesuffix(b"/register")
        return chain(registered, lambda listener: answers.registered(listener, under))

    def _register(self, request: Request) -> MaybeDeferred[Listener]:
        asked = json_object(self._body(request), {"recipients", "ttl"})
        ttl = asked.get("ttl", bounds.LISTENER_SECONDS)
        if (
            isinstance(ttl, bool)
            or not isinstance(ttl, (int, float))
            or not 0 < ttl <= bounds.LISTENER_SECONDS_MOST
        ):
            raise BadParameter(f"ttl is a number of seconds up to {bounds.LISTENER_SECONDS_MOST:g}.")
        named = listed(asked)

        def add(grant: Grant | None) -> MaybeDeferred[Listener]:
            return self.listeners.register(named, float(ttl), registrations_of(grant))

        return self.door.allowed(request, "poll", named, add)

    @_route(app, "/listeners/<path:id>", "GET")
    def listener(self, request: Request, id: str) -> MaybeDeferred[Response]:  # noqa: A002
        """Show a listener."""

        def show(listener: Listener) -> MaybeDeferred[Response]:
            shown = answers.of_listener(listener)
            return self.door.allowed(request, "poll", listener.recipients, lambda _: shown)

        return chain(self.listeners.get(id), show)

    @_route(app, "/listeners/<path:id>", "PUT", changes=True)
    def change_listener(self, request: Request, id: str) -> MaybeDeferred[Response]:  # noqa: A002
        """Set the recipients of a listener."""

        def change(listener: Listener) -> MaybeDeferred[Response]:
            def set_recipients(_: Grant | None) -> MaybeDeferred[None]:
                named = listed(json_object(self._body(request), {"recipients"}))
                return self.door.allowed(
                    request, "poll", named, lambda _: self.listeners.change(listener, named)
                )

            changed = self.door.allowed(request, "poll", listener.recipients, set_recipients)
            return chain(changed, lambda _: answers.of_listener(listener))

        return chain(self.listeners.get(id), change)

    @_route(app, "/listeners/<path:id>", "DELETE", changes=True)
    def end_listener(self, request: Request, id: str) -> MaybeDeferred[Response]:  # noqa: A002
        """End a listener."""

        def end(listener: Listener) -> MaybeDeferred[None]:
            return self.door.allowed(
                request, "poll", listener.recipients, lambda _: self.listeners.end(listener)
            )

        return chain(chain(self.listeners.get(id), end), lambda _: Response(204, answers.COMMON))

    # -- recipients

    @_route(app, "/recipients/<path:name>", "GET")
    def recipient(self, request: Request, name: str) -> MaybeDeferred[Response]:
        """Say how a recipient stands (HTTP.md, "Everything else")."""
        names = (recipient(name),)
        return chain(
            self.door.allowed(request, "poll", names, lambda _: self.hub.describe(name)), answers.of_recipient
        )

    @_route(app, "/recipients/<path:name>", "DELETE", changes=True)
    def delete_recipient(self, request: Request, name: str) -> MaybeDeferred[Response]:
        """Lose what a recipient's mailbox holds (HTTP.md, "Everything else")."""
        names = (recipient(name),)
        deleted = self.door.allowed(request, "manage", names, lambda _: self.hub.delete(name))
        return chain(deleted, lambda _: Response(204, answers.COMMON))

    # -- the server

    @_route(app, "/healthz", "GET")
    def health(self, request: Request) -> Response:
        """Say whether this server takes requests: 200, or 503 while it stops."""
        if self.hub.stopping:
            head = answers.JSON + answers.retry_after(self._spread(1))
            return Response(503, head, b'{"status":"stopping"}\n')
        return Response(200, answers.JSON, b'{"status":"ok"}\n')

    @_route(app, "/metrics", "GET")
    def metrics(self, request: Request) -> Response:
        """Show what is counted, as Prometheus reads it."""
        if not self.show_metrics:
            raise NotFound("The metrics are turned off.")
        return Response(200, answers.METRICS, prometheus(self.counted, self._gauges, __version__))

    @_route(app, "/openapi.json", "GET")
    def openapi(self, request: Request) -> Response:
        """Show this interface as OpenAPI."""
        if not self.show_openapi:
            raise NotFound("The description of the interface is turned off.")
        under = request.path.rpartition(b"/")[0]
        if self._document is None or self._document[0] != under:
            self._document = under, answers.dumped(self.interface.document(under.decode("latin-1")))
        return Response(200, answers.JSON, self._document[1])

    @property
    def interface(self) -> Interface:
        """What is turned on here."""
        return Interface(
            self.limits,
            tokens=self.door.tokens is not None,
            judged=self.door.authorize is not None,
            metrics=self.show_metrics,
            console=self.show_console,
            bayeux=self.bayeux is not None,
        )

    def _gauges(self) -> dict[str, tuple[str, float]]:
        """Return what stands at this moment, beside its bounds."""
        usage = self.hub.store.usage()
        metrics = self.counted
        limits = self.limits
        parked = self.hub.registry.parked
        gauges: dict[str, tuple[str, float]] = {
            "parked": ("Readers that wait: polls, streams and sockets.", parked),
            "parked_max": ("The bound on readers that wait.", limits.max_parked),
            "parked_polls": ("Polls that are held.", max(0, parked - metrics.streams - metrics.sockets)),
            "streams": ("Streams that are open.", metrics.streams),
            "sockets": ("WebSockets that are open.", metrics.sockets),
            "listeners": ("Listeners that are registered.", len(self.listeners)),
            "bayeux_sessions": ("Bayeux sessions.", 0 if self.bayeux is None else len(self.bayeux)),
            "sessions_max": (
                "The bound on listeners, and the bound on Bayeux sessions.",
                limits.max_sessions,
            ),
            "mailboxes": ("Mailboxes that hold messages.", usage.mailboxes),
            "mailboxes_max": ("The bound on mailboxes.", limits.max_recipients),
            "messages": ("Messages that are kept.", usage.messages),
            "memory_bytes": ("Memory that messages and mailboxes take, with overhead.", usage.memory),
            "memory_bytes_max": ("The bound on that memory.", limits.max_memory),
        }
        if metrics.connections is not None:
            gauges["connections"] = ("Connections that are open.", metrics.connections())
            gauges["connections_max"] = ("The bound on connections.", limits.max_connections)
        return gauges

    @_route(app, "/", "GET")
    @_routes_of_pages(app)
    def page(self, request: Request) -> Response:
        """Show the console page, the browser client, or a part of them."""
        name = request.path.rpartition(b"/")[2].decode() or "index.html"
        if not self.show_console and name != "client.js":
            raise NotFound("The console is turned off.")
        page = pages().get(name)
        if page is None:
            raise NotFound("There is no such page.")
        lines = "".join([f"{field}: {value}\r\n" for field, value in page.headers.items()])
        if request.getHeader(b"if-none-match") == page.etag.encode():
            return Response(304, lines.encode())
        return Response(200, lines.encode(), page.body)

    # -- what all of them need

    def send(self, answer: Response | None, request: Any) -> bytes | None:
        """Write ``answer``, with what the request's origin needs to read it.

        Returns the body where twisted.web is to write it, None where ``serving/`` has written it.
        """
        if answer is None:
            finish = getattr(request, "respond", None) and request.finish
            return finish() if finish else b""
        if fields(request).origin is not None:
            answer = answer.with_head(self.door.cors(request))
        try:
            respond = request.respond
        except AttributeError:  # it is twisted.web's; to ask first costs more
            return self._set(answer, request)
        respond(answer.status, answer.head, answer.body)
        return None

    def _set(self, answer: Response, request: Request) -> bytes:
        """Give twisted.web an answer's head, and return the body."""
        _set_head(request, answer.status, answer.head)
        if self.hub.stopping:
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])  # serving/ does so by itself
        if answer.status not in {204, 304}:
            request.responseHeaders.setRawHeaders(b"content-length", [b"%d" % len(answer.body)])
        return answer.body

    def failed(self, failure: Failure, request: Request) -> Any:
        """Send the problem that a route's Deferred failed with."""
        if isinstance(failure.value, CancelledError):
            return failure  # the client has left, and Klein knows
        if isinstance(failure.value, CometError):
            return self.send(self.problem(failure.value), request)
        self.log.failure("A request failed", failure)
        error = InternalError("The server failed at this request, and has noted why.")
        return self.send(self.problem(error), request)

    def problem(self, error: CometError) -> Response:
        """Return the response that tells a client of an error (RFC 9457)."""
        self.hub.counts.refusals[error.kind] += 1
        seconds = None if error.retry_after is None else self._spread(error.retry_after)
        return answers.problem(error, seconds)

    def malformed(self, status: int, sentence: str) -> tuple[bytes, bytes]:
        """Return the head and body of the problem that answers what is not even a request.

        ``serving/`` says what is wrong with it, by a status and a sentence.
        """
        title = MALFORMED.get(status) or HTTPStatus(status).phrase
        kind = kind_of(title)
        self.hub.counts.refusals[kind] += 1
        problem = {"type": problem_type(kind), "title": title, "status": status, "detail": sentence}
        later = answers.retry_after(self._spread(1)) if status in {429, 503} else b""
        return answers.PROBLEM + later, answers.dumped(problem)

    def too_large(self) -> BodyTooLarge:
        """Return the error for a body over the bound."""
        return BodyTooLarge(f"A body has at most {self.limits.max_body} bytes here.")

    def _spread(self, seconds: int) -> int:
        return seconds + self._random.randrange(bounds.RETRY_SPREAD)

    @app.handle_errors(HTTPException)
    def unrouted(self, request: Any, failure: Failure) -> Any:
        """Response what no route has answered: preflights, unknown paths and methods, bodies too large."""
        try:
            self.door.admit(request, False)
            error = failure.value
            if request.method == b"OPTIONS" and isinstance(error, (NoSuchPath, NoSuchMethod)):
                return self.send(self._preflight(error, request), request)
            raise self._translated(error, request)
        except CometError as error:
            return self.send(self.problem(error), request)

    @app.handle_errors(Exception)
    def broken(self, request: Any, failure: Failure) -> Any:
        """Response a request at which a route failed."""
        return self.failed(failure, request)

    def _preflight(self, error: HTTPException, request: Request) -> Response:
        allow = b""
        if isinstance(error, NoSuchMethod):
            allow = b"Allow: %b\r\n" % ", ".join(_allowed(error)).encode()
        return Response(204, answers.COMMON + allow + (answers.PREFLIGHT if self.door.cors(request) else b""))

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


def _is_small(request: Any) -> bool:
    """Whether it may be remembered what a request of ``serving/`` asks."""
    return len(request.uri) + len(request.head.block) <= bounds.REMEMBERED_BYTES


class _Waiting:
    """Whoever holds a request of ``serving/``, and answers it without a Deferred, which costs 3 µs."""

    __slots__ = ()

    _request: Any
    _routes: Routes

    def _tell(self, answer: Response) -> None:
        try:
            self._routes.send(answer, self._request)
        except Exception:  # noqa: BLE001  it must not harm whoever has woken this
            self._routes.log.failure("A request that was held could not be answered")

    def errback(self, fail: Any) -> None:
        """Tell the client what went wrong."""
        self._routes.failed(fail if isinstance(fail, Failure) else Failure(fail), self._request)


class _Held(_Waiting, Poll):
    """A poll that answers its request itself."""

    __slots__ = ("_asked", "_request", "_routes")

    def __init__(self, routes: Routes, request: Any, asked: PollAsked, after: Cursor) -> None:
        Poll.__init__(self, routes.hub, asked.recipients, after, asked.limit)
        self.deferred = self
        self._routes = routes
        self._request = request
        self._asked = asked

    def callback(self, batch: Batch) -> None:
        """Response the request."""
        self._tell(answers.of_poll(batch, self._asked))


class _HeldConnect(_Waiting, HeldConnect):
    """A connect that answers its request itself."""

    __slots__ = ("_request", "_routes")

    def __init__(self, routes: Routes, request: Any, connect: Connect) -> None:
        transport = routes.bayeux
        assert transport is not None, "which asks for this"
        HeldConnect.__init__(self, transport, connect, request.seems_gone, json_answer)
        self.deferred = self
        self._routes = routes
        self._request = request

    callback = _Waiting._tell


class _Over:
    """A request of twisted.web's that is over, with what is counted of it; it is its own route.

    ``rule`` is empty where nothing has served it.
    """

    def __init__(self, rule: str, status: int, seconds: float) -> None:
        self.rule = rule
        self.code = status
        self._seconds = seconds

    @property
    def route(self) -> _Over | None:
        """What has the rule."""
        return self if self.rule else None

    def age(self) -> float:
        """Return the seconds that it took."""
        return self._seconds


class RoutesResource(KleinResource):
    """The routes as a resource for any twisted.web site; it counts the requests that ``serving/`` would."""

    def __init__(self, routes: Routes) -> None:
        super().__init__(routes.app)
        self._routes = routes

    def render(self, request: Any) -> Any:
        """Render as Klein does, but refuse as the interface does what Klein cannot route at all."""
        if self._routes.proxies is not None:
            _forward(request, self._routes.proxies)
        if self._routes.show_metrics:
            self._count(request)
        try:
            b"/".join(request.postpath).decode()
            return super().render(request)
        except (UnicodeDecodeError, BadHost):
            return self._routes.unrouted(request, Failure())

    def _count(self, request: Any) -> None:
        """Count the request when it is over, as ``serving/`` does."""
        hub = self._routes.hub
        began = hub.clock.seconds()
        first = request.postpath[0].decode("latin-1") if request.postpath else ""
        known = not first or f"/{first}" in ROUTES or first in pages()
        rule = f"/{first}" if known else ""

        def over(left: object) -> None:
            lost = isinstance(left, Failure) and not request.startedWriting
            status = 499 if lost else request.code
            self._routes.counted.count_request(_Over(rule, status, hub.clock.seconds() - began))

        request.notifyFinish().addBoth(over)


def _forward(request: Any, proxies: Proxies) -> None:
    """Let a request of twisted.web's say who sent it in truth, as those of ``serving/`` do by themselves."""
    lines = request.requestHeaders.getRawHeaders
    peer = getattr(request.getClientAddress(), "host", None)
    origin = proxies.origin(peer, lambda name: b", ".join(found) if (found := lines(name)) else None)
    if origin.address is not None and origin.address != peer:
        request.client = ip_endpoint(origin.address)
    if origin.secure:
        _, colon, port = (request.getHeader(b"host") or b"").rpartition(b":")
        is_port = bool(colon) and port.isdigit()
        request.setHost(request.getRequestHostname(), int(port) if is_port else 443, ssl=True)


def _allowed(error: NoSuchMethod) -> tuple[str, ...]:
    return tuple(sorted({*(error.valid_methods or ()), "OPTIONS"}))


def _begin(request: Any, head: bytes, held_by: Stream | None = None) -> None:
    """Begin a response that does not end; ``held_by`` is what is told that its client has left."""
    if held_by is not None:
        request.hold(held_by)
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
