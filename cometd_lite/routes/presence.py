"""Presence: who reads a recipient, and who has left it (HTTP.md, "Presence")."""

from __future__ import annotations

from ..core.presence import PresenceTracker
from ..core.recipient import PRESENCE, recipient
from ..deferreds import value_of
from ..errors import BadParameter
from ..http import params, responses
from ..http.exchange import Exchange
from ..http.responses import Response
from .routing import Served, route


@route("/presence/<path:name>", "GET")
async def show(routes: Served, exchange: Exchange, name: str) -> Response:
    """Say who reads a recipient, and from where on to read what changes."""
    await value_of(routes.policy.require(exchange, "poll", (recipient(name),)))
    tracker = _kept(routes, name)
    # The cursor comes first: what changes after it comes again, and no change is missed.
    cursor = await value_of(routes.hub.place((PRESENCE + name,)))
    return responses.of_presence(await value_of(tracker.announcer.describe(name)), cursor)


@route("/presence/<path:name>", "DELETE", changes=True)
async def leave(routes: Served, exchange: Exchange, name: str) -> Response:
    """Let a name leave a recipient at once."""
    asked = params.parsed(exchange.query)
    params.check_names(asked, params.PRESENCE_PARAMETERS, routes.allow_parameters)
    own = params.own_name(asked)
    grant = await value_of(routes.policy.require(exchange, "poll", (recipient(name),)))
    tracker = _kept(routes, name)
    reader = routes.policy.reader_name(grant, own)
    if reader is None:
        raise BadParameter("The reader that leaves is not named; name it, as in ?as=alice.")
    tracker.leave(name, reader)
    return Response(204, responses.COMMON)


def _kept(routes: Served, name: str) -> PresenceTracker:
    """Return the tracker of a recipient's readers."""
    routes.hub.check_presence((PRESENCE + name,))
    assert routes.presence is not None, "it is kept"
    return routes.presence
