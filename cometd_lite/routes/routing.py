"""What all routes share: how a route is declared, how a request is served, and how an error is answered.

A handler is a plain function of the ``Routes`` and an ``Exchange``. It returns a ``Response``, a Deferred of
one, or None where it has answered itself; handlers that are seldom called are coroutines. ``Endpoint`` lets
the request in, calls the handler, parks the Deferred, and sends the response. Every error becomes a problem
of RFC 9457. Each section of HTTP.md has its handlers in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from http import HTTPStatus
from inspect import iscoroutine, iscoroutinefunction, signature
from operator import attrgetter
from random import Random
from typing import Any, TypeAlias, TypeVar

from klein import Klein
from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import limits as bounds
from ..access.policy import Policy
from ..bayeux.forwarding import Forwarding
from ..bayeux.transport import BayeuxTransport
from ..core.hub import Hub
from ..core.listeners import Listeners
from ..core.presence import PresenceTracker
from ..deferreds import MaybeDeferred
from ..errors import (
    MALFORMED,
    BodyTooLarge,
    CometError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    kind_of,
    kinds,
    problem_type,
)
from ..http import responses
from ..http.exchange import Exchange
from ..http.params import fields
from ..http.responses import Response
from ..http.stream import Heartbeats
from ..limits import Limits
from ..metrics import Metrics

_NOTHING_HERE = "Nothing is at this path; the interface begins at /push/NAME and /poll/NAME."

Answer: TypeAlias = MaybeDeferred[Any]
"""What a handler returns: a ``Response``, a Deferred of one, or None where it has answered itself."""
Handler: TypeAlias = Callable[..., Any]
Refusal: TypeAlias = Callable[[CometError, int | None], Response]
"""Makes the response to a refused request of the error and the seconds after which to come back."""
T = TypeVar("T", bound=Handler)

_NO_KEYWORDS: dict[str, Any] = {}

klein = Klein()
"""All routes, as Klein knows them; ``Routes.app`` is bound to its instance."""


BodyBound: TypeAlias = Callable[["Served", Exchange, str | None], int]
"""Returns the bytes that the body of one request may have, by its head."""


class _Declared(Struct, frozen=True):
    """A handler, and what must be known to serve it."""

    handler: Callable[[Served, Exchange, str | None], Answer]
    changes: bool
    probed: bool
    max_body: Callable[[Limits], int]
    body_bound: BodyBound | None
    refusal: Refusal


_declared: dict[str, _Declared] = {}
"""The handlers by the names of their endpoints in Klein's map."""


def route(
    rule: str,
    *methods: str,
    changes: bool = False,
    probed: bool = False,
    max_body: Callable[[Limits], int] = attrgetter("max_body"),
    body_bound: BodyBound | None = None,
    refusal: Refusal = responses.problem,
) -> Callable[[T], T]:
    """Declare a handler: its rule, its methods, and whether it ``changes`` something or is ``probed``.

    A route that changes something is closed to web pages of foreign origins. Probes ask by address.
    ``max_body`` returns the bytes that a body may have, ``body_bound`` those of one request where there are
    namespaces, and ``refusal`` makes the responses to refused requests.
    """

    def declare(handler: T) -> T:
        declared = _Declared(_as_called(handler), changes, probed, max_body, body_bound, refusal)
        name = f"{'+'.join(methods)} {rule}"
        _declared[name] = declared

        @klein.route(rule, methods=list(methods), merge_slashes=False, endpoint=name)
        def endpoint(routes: Served, request: Any, **names: str) -> Deferred[None]:
            exchange, served = routes.exchange_of(request), routes.endpoints[name]
            finished = exchange.notifyFinish()
            try:
                if len(exchange.body) > served.max_body:
                    routes.too_large(exchange, served, served.max_body)
                else:
                    served.serve(exchange, *names.values())
            except Exception:  # noqa: BLE001  whatever a handler raises, its client is answered
                routes.failed(exchange, Failure(), refusal=declared.refusal)
            return finished.addErrback(_disconnected)

        return handler

    return declare


def _disconnected(_: Failure) -> None:
    """Handle the disconnect of a client: what was parked for it is cancelled."""


def _as_called(handler: Handler) -> Callable[[Served, Exchange, str | None], Answer]:
    """Return a handler as ``serve`` calls it: it takes a name, and returns a Deferred and no coroutine."""
    takes_name = len(signature(handler).parameters) > 2
    if takes_name and not iscoroutinefunction(handler):
        return handler

    def call(routes: Served, exchange: Exchange, name: str | None) -> Answer:
        answer = handler(routes, exchange, name) if takes_name else handler(routes, exchange)
        return Deferred.fromCoroutine(answer) if iscoroutine(answer) else answer

    return call


class Endpoint:
    """One rule of the interface, as ``routes`` serve it; see ``server.application.ServedRoute``.

    It lets a request in, calls its handler, and sends what that returns, now or later.
    """

    def __init__(self, routes: Served, rule: str, methods: Collection[str], declared: _Declared) -> None:
        self.rule = rule
        self.methods = methods
        self.max_body = declared.max_body(routes.limits)
        self.body_bound: Callable[[Exchange, str | None], int] | None = None
        if declared.body_bound is not None and routes.hub.namespaces is not None:
            self.body_bound = partial(declared.body_bound, routes)
        self.refusal = declared.refusal
        self._routes = routes
        self._handler = declared.handler
        self._changes = declared.changes
        self._probed = declared.probed
        # Bound once: a parked request would keep one of its own, of 80 bytes.
        self.call = self.serve
        self._refuse = self._failed

    def serve(self, exchange: Exchange, name: str | None = None) -> Deferred[None] | None:
        """Serve a request; ``name`` is what its path names, None where the rule has no name.

        Returns the Deferred that is parked, None where the request is answered.
        """
        routes = self._routes
        try:
            given = fields(exchange)
            routes.policy.admit(exchange, given.host, given.origin, self._changes, self._probed)
            answer = self._handler(routes, exchange, name)
        except CometError as error:
            routes.respond_to_page(exchange, routes.problem(error, self.refusal))
            return None
        respond = exchange.respond if given.origin is None else partial(routes.respond_to_page, exchange)
        if isinstance(answer, Response) or answer is None:
            respond(answer)
            return None
        exchange.park(answer)
        sent: Deferred[None] = answer.addCallbacks(respond, self._refuse, (), _NO_KEYWORDS, (exchange,))
        return sent

    def _failed(self, failure: Failure, exchange: Exchange) -> None:
        if not isinstance(failure.value, CancelledError):  # else the client has disconnected
            self._routes.failed(exchange, failure, refusal=self.refusal)


class Served:
    """What handlers work with, and how they are served. ``app.Routes`` composes it with the sections."""

    log = Logger()
    app: Klein
    exchange_of: Callable[[Any], Exchange]
    """Makes an ``Exchange`` of a request of twisted.web; ``site`` sets it."""

    def __init__(
        self,
        hub: Hub,
        limits: Limits,
        *,
        policy: Policy,
        metrics: Metrics,
        show_metrics: bool = True,
        show_console: bool = True,
        show_openapi: bool = True,
        allow_parameters: frozenset[str] = frozenset(),
        bayeux: BayeuxTransport | None = None,
        presence: PresenceTracker | None = None,
    ) -> None:
        self.hub = hub
        # Each is there before the first refusal of its kind.
        hub.counts.refusals.update({kind: 0 for found in kinds().values() for kind in found})
        self.limits = limits
        self.policy = policy
        self.metrics = metrics
        self.show_metrics = show_metrics
        self.show_console = show_console
        self.show_openapi = show_openapi
        self.allow_parameters = allow_parameters
        """Names that query parameters may have besides those of HTTP.md."""
        self.bayeux = bayeux
        """The Bayeux side of the hub; None where it is turned off."""
        self.presence = presence
        """Who reads what, by name; None where presence is off."""
        self.forwarding: Forwarding | None = None
        """Where the Bayeux sessions of other processes are; None where there are none."""
        self.listeners = Listeners(hub, limits.max_sessions)
        self.heartbeats = Heartbeats(hub.clock, bounds.HEARTBEAT_SECONDS)
        self.pings = Heartbeats(hub.clock, bounds.PING_SECONDS)
        self.random = Random()  # noqa: S311  only spreads load; guessing it gains nothing
        self.endpoints = {
            str(rule.endpoint): Endpoint(
                self, rule.rule, frozenset(rule.methods or ()), _declared[str(rule.endpoint)]
            )
            for rule in klein.url_map.iter_rules()
        }
        """The routes by the names of their endpoints in Klein's map."""

    # -- for the server

    @property
    def routes(self) -> Sequence[Endpoint]:
        """All routes, for ``server.HTTPFactory``."""
        return list(self.endpoints.values())

    def respond_to_page(self, exchange: Exchange, response: Response | None) -> None:
        """Send a response, with what the request's origin needs to read it; nothing where it is None."""
        exchange.respond(response and response.with_head(self.policy.cors(exchange)))

    def preflight(self, exchange: Exchange, methods: tuple[str, ...]) -> None:
        """Answer OPTIONS; ``methods`` are those of the path, none where the path is unknown."""
        allow = b"Allow: %b\r\n" % ", ".join(_with_options(methods)).encode() if methods else b""
        cors = responses.PREFLIGHT if self.policy.cors(exchange) else b""
        self._answer(exchange, Response(204, responses.COMMON + allow + cors))

    def not_found(self, exchange: Exchange, refusal: Refusal = responses.problem) -> None:
        """Answer a request for an unknown path."""
        self._answer(exchange, NotFound(_NOTHING_HERE), refusal)

    def not_allowed(
        self,
        exchange: Exchange,
        methods: tuple[str, ...],
        route: Endpoint | None = None,
        refusal: Refusal = responses.problem,
    ) -> None:
        """Answer a request whose method is not among the ``methods`` of its path; ``route`` serves one."""
        allowed = _with_options(methods)
        error = MethodNotAllowed(f"This path takes {', '.join(allowed)}.", allowed)
        self._answer(exchange, error, refusal if route is None else route.refusal)

    def too_large(self, exchange: Exchange, route: Endpoint, most: int) -> None:
        """Answer a request whose body has more than ``most`` bytes."""
        self._answer(exchange, self.body_too_large(most), route.refusal)

    def failed(
        self, exchange: Exchange, failure: Failure, path: bytes = b"", refusal: Refusal | None = None
    ) -> None:
        """Answer a request at which a handler failed; log what is no error of ours.

        ``path`` is that below the interface, by which it is answered where no ``refusal`` is given.
        """
        error = failure.value
        if not isinstance(error, CometError):
            self.log.failure("A request failed", failure)
            error = InternalError("The server failed to handle this request; its log says why.")
        self.respond_to_page(exchange, self.problem(error, refusal or refusal_at(path)))

    def _answer(
        self, exchange: Exchange, answer: Response | CometError, refusal: Refusal = responses.problem
    ) -> None:
        """Answer a request that no route serves, if it may come in."""
        try:
            given = fields(exchange)
            self.policy.admit(exchange, given.host, given.origin, changes=False)
            if isinstance(answer, CometError):
                raise answer
        except CometError as error:
            answer = self.problem(error, refusal)
        self.respond_to_page(exchange, answer)

    # -- problems

    def problem(self, error: CometError, refusal: Refusal = responses.problem) -> Response:
        """Return the response for an error: as RFC 9457 has it, or made by ``refusal``."""
        self.hub.counts.refusals[error.kind] += 1
        seconds = None if error.retry_after is None else self.spread(error.retry_after)
        return refusal(error, seconds)

    def malformed(self, status: int, sentence: str, path: bytes) -> tuple[bytes, bytes]:
        """Return the head and body of the problem that answers what is not a request.

        The server says what is wrong with it, by a status and a sentence, and for which path it came.
        """
        title = MALFORMED.get(status) or HTTPStatus(status).phrase
        kind = kind_of(title)
        self.hub.counts.refusals[kind] += 1
        problem = {"type": problem_type(kind), "title": title, "status": status, "detail": sentence}
        later = responses.retry_after(self.spread(1)) if status in {429, 503} else b""
        if refusal_at(path) is responses.sentence:
            return responses.TEXT + later, f"{sentence}\n".encode()
        return responses.PROBLEM + later, responses.dumped(problem)

    def body_too_large(self, most: int) -> BodyTooLarge:
        """Return the error for a body over the bound."""
        return BodyTooLarge(f"A body has at most {most} bytes here.")

    def spread(self, seconds: int) -> int:
        """Return a number of seconds up to ``RETRY_SPREAD`` later, so that clients do not return together."""
        return seconds + self.random.randrange(bounds.RETRY_SPREAD)


def refusal_at(path: bytes) -> Refusal:
    """Return what refuses a request that no route serves, by its path below the interface."""
    return responses.sentence if path.split(b"/", 2)[1:2] == [b"cometd"] else responses.problem


def _with_options(methods: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*methods, "OPTIONS"}))
