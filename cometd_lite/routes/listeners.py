"""Listeners: readers whose place and recipients the server remembers (HTTP.md, "Listeners")."""

from __future__ import annotations

from .. import limits as bounds
from ..core.listeners import ListenerSession
from ..deferreds import value_of
from ..errors import BadParameter
from ..http import bodies, params, responses
from ..http.exchange import Exchange
from ..http.responses import Response
from .routing import Served, route


@route("/register", "POST", changes=True)
async def register(routes: Served, exchange: Exchange) -> Response:
    """Register a listener."""
    await value_of(routes.policy.require(exchange, "poll", ()))
    body = bodies.body_of(exchange, params.fields(exchange))
    asked = bodies.json_object(body, {"recipients", "ttl"})
    ttl = asked.get("ttl", bounds.LISTENER_SECONDS)
    if (
        isinstance(ttl, bool)
        or not isinstance(ttl, (int, float))
        or not 0 < ttl <= bounds.LISTENER_SECONDS_MOST
    ):
        raise BadParameter(f"ttl is a number of seconds up to {bounds.LISTENER_SECONDS_MOST:g}.")
    names = bodies.listed(asked)
    grant = await value_of(routes.policy.require(exchange, "poll", names))
    routes.hub.check_presence(names)
    listener = await value_of(routes.listeners.register(names, float(ttl), grant.registrations))
    return responses.registered(listener, exchange.path.removesuffix(b"/register"))


@route("/listeners/<path:id>", "GET")
async def show(routes: Served, exchange: Exchange, id: str) -> Response:  # noqa: A002
    """Show a listener."""
    return responses.of_listener(await _found(routes, exchange, id))


@route("/listeners/<path:id>", "PUT", changes=True)
async def change(routes: Served, exchange: Exchange, id: str) -> Response:  # noqa: A002
    """Set the recipients of a listener."""
    listener = await _found(routes, exchange, id)
    body = bodies.body_of(exchange, params.fields(exchange))
    names = bodies.listed(bodies.json_object(body, {"recipients"}))
    await value_of(routes.policy.require(exchange, "poll", names))
    routes.hub.check_presence(names)
    await value_of(routes.listeners.change(listener, names))
    return responses.of_listener(listener)


@route("/listeners/<path:id>", "DELETE", changes=True)
async def end(routes: Served, exchange: Exchange, id: str) -> Response:  # noqa: A002
    """End a listener."""
    listener = await _found(routes, exchange, id)
    await value_of(routes.listeners.end(listener))
    return Response(204, responses.COMMON)


async def _found(routes: Served, exchange: Exchange, id: str) -> ListenerSession:  # noqa: A002
    """Return a listener that the request may see and change."""
    listener = await value_of(routes.listeners.get(id))
    await value_of(routes.policy.require(exchange, "poll", listener.recipients))
    return listener
