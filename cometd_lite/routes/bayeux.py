"""Bayeux: the requests of CometD's and Faye's clients (HTTP.md, "Bayeux").

A refused request is answered in plain text: Faye and aiocometd take any JSON for Bayeux messages.
"""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from ..access.grants import Grant
from ..bayeux.forwarding import ForwardedRequest
from ..bayeux.http import Asking
from ..bayeux.socket import BayeuxSocket
from ..bayeux.transport import BayeuxTransport
from ..deferreds import MaybeDeferred, chain, value_of
from ..errors import CometError, NotFound, TokenExpired
from ..http import bodies, params, responses, websocket
from ..http.exchange import Exchange
from ..http.responses import Response
from .routing import Served, route

_max_batch = attrgetter("max_batch")


@route("/cometd", "POST", changes=True, max_body=_max_batch, refusal=responses.sentence)
@route("/cometd/", "POST", changes=True, max_body=_max_batch, refusal=responses.sentence)
@route("/cometd/<path:kind>", "POST", changes=True, max_body=_max_batch, refusal=responses.sentence)
def post(routes: Served, exchange: Exchange, kind: str | None) -> MaybeDeferred[Response]:
    """Answer Bayeux messages; CometD's clients name their kind in the path."""
    body = bodies.body_of(exchange, params.fields(exchange))
    if routes.forwarding is not None:
        return routes.forwarding.forward(exchange, body, lambda: _post(routes, exchange, body))
    return _post(routes, exchange, body)


@route("/cometd", "GET", changes=True, refusal=responses.sentence)
@route("/cometd/", "GET", changes=True, refusal=responses.sentence)
@route("/cometd/<path:kind>", "GET", changes=True, refusal=responses.sentence)
def get(routes: Served, exchange: Exchange, kind: str | None) -> MaybeDeferred[Response | None]:
    """Open a Bayeux WebSocket, or answer a poll by callback."""
    if exchange.head.get(b"upgrade") is not None:
        return chain(_grant(routes, exchange), _open, routes, exchange)
    routes.policy.check_page(exchange)
    if routes.forwarding is not None:
        return routes.forwarding.forward(exchange, b"", lambda: _get(routes, exchange))  # type: ignore[return-value]
    return _get(routes, exchange)  # type: ignore[return-value]  # Deferred is invariant in its result


def _post(routes: Served, asking: Asking, body: bytes) -> MaybeDeferred[Response]:
    media_type = asking.head.get(b"content-type")
    return _bayeux(routes).post(body, media_type, asking, routes.policy.rights(asking))


def _get(routes: Served, asking: Asking) -> MaybeDeferred[Response]:
    return _bayeux(routes).get(params.parsed(asking.query), asking, routes.policy.rights(asking))


def _grant(routes: Served, exchange: Exchange) -> MaybeDeferred[Grant]:
    """Return what a socket is granted; nothing for a token that has expired.

    The refused messages then advise the client to shake hands again; many cannot act on a refused upgrade.
    """
    try:
        return routes.policy.require_bayeux(exchange, "poll", ())
    except TokenExpired:
        return routes.policy.nothing(exchange)


def _open(grant: Grant, routes: Served, exchange: Exchange) -> None:
    bayeux = _bayeux(routes)

    def converse() -> BayeuxSocket:
        grant.check_room()
        forwarding = routes.forwarding
        forward = None if forwarding is None else partial(forwarding.forward_text, exchange)
        socket = BayeuxSocket(bayeux, exchange, routes.policy.rights(exchange), forward)
        routes.policy.end_with(grant, socket.ended, socket.token_expired, socket.refused)
        return socket

    websocket.accept(exchange, converse, routes.pings, routes.limits.max_batch)


async def answer_forwarded(routes: Served, request: ForwardedRequest) -> Response:
    """Answer a request that another process received, and has let in."""
    try:
        if request.method == b"GET":
            return await value_of(_get(routes, request))
        return await value_of(_post(routes, request, request.body))
    except CometError as error:
        return routes.problem(error, responses.sentence)


def _bayeux(routes: Served) -> BayeuxTransport:
    if routes.bayeux is None:
        raise NotFound("Bayeux is turned off.")
    return routes.bayeux
