"""Poll: a request is held until its recipients have a message for it (HTTP.md, "Poll").

The handler returns a reader, which is a Deferred that is parked in the registry. It fires on a push, times
out by ``reactor.callLater``, and is cancelled when the client disconnects.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..access.grants import EVERYTHING, Grant
from ..core.listeners import ListenerSession
from ..core.message import SINCE, Batch, Cursor
from ..core.readers import Poll
from ..core.recipient import ALL_LISTENERS
from ..deferreds import MaybeDeferred, chain
from ..http import params, responses
from ..http.exchange import Exchange
from ..http.params import PollAsked
from ..http.responses import Response
from .routing import Served, route


@route("/poll", "GET")
@route("/poll/<path:name>", "GET")
def poll(routes: Served, exchange: Exchange, name: str | None) -> MaybeDeferred[Response]:
    """Hold the request until the recipients have a message for it."""
    asked, after, own = params.poll(exchange, name, routes.limits.max_wait, routes.allow_parameters)
    if asked.listener is not None:
        return chain(routes.listeners.get(asked.listener), _listen, routes, exchange, asked, after, own)
    grant = routes.policy.require(exchange, "poll", asked.recipients)
    if not isinstance(grant, Grant):
        return grant.addCallback(_poll, routes, exchange, asked, after, own)
    return _poll(grant, routes, exchange, asked, after, own)


def _poll(
    grant: Grant, routes: Served, exchange: Exchange, asked: PollAsked, after: Cursor | None, own: str | None
) -> MaybeDeferred[Response]:
    if asked.of_server:
        routes.hub.check_presence(asked.recipients)
    name = None if routes.presence is None else routes.policy.reader_name(grant, own)
    wait = asked.wait
    if grant is not EVERYTHING:
        if grant.expires_at is not None:
            wait = min(wait, routes.policy.time_left(grant))
        if wait > 0:
            grant.check_room()
    present = responses.of_plain_poll if asked.is_plain else _presenter(routes, exchange, asked)
    if after is not None:
        if after.epoch == SINCE:
            after = routes.hub.dated(after)
        poll = Poll(routes.hub, asked.recipients, after, asked.limit, asked.acks, present)
        if name is not None:
            poll.name = name
        answer = routes.hub.park(poll, wait)
        if grant is not EVERYTHING:
            grant.hold(answer)
        return answer
    routes.policy.check_taker(exchange)
    taken: MaybeDeferred[Batch]
    if asked.lease is None:
        taken = routes.hub.take(asked.recipients, wait, asked.limit, exchange.is_disconnected, name)
    else:
        taken = routes.hub.lease(
            asked.recipients, asked.lease, wait, asked.limit, exchange.is_disconnected, name
        )
    grant.hold(taken)
    return chain(taken, _deliver_taken, routes, exchange, present)


def _presenter(routes: Served, exchange: Exchange, asked: PollAsked) -> Callable[[Batch], Response]:
    """Return what makes the response to a poll of what it reads."""
    if asked.form == "raw":
        return partial(responses.of_raw_poll, asked, bool(routes.policy.cors(exchange)))
    return responses.of_plain_poll if asked.is_plain else partial(responses.of_poll, asked)


def _deliver_taken(
    taken: Batch, routes: Served, exchange: Exchange, present: Callable[[Batch], Response]
) -> Response:
    """Return the response to a take; what cannot be written stays where it was."""
    if taken.messages and exchange.is_disconnected():
        routes.hub.give_back(taken)
    return present(taken)


def _listen(
    listener: ListenerSession,
    routes: Served,
    exchange: Exchange,
    asked: PollAsked,
    after: Cursor | None,
    own: str | None,
) -> MaybeDeferred[Response]:
    grant = routes.policy.require(exchange, "poll", listener.recipients)
    return chain(grant, _poll_listener, routes, exchange, listener, asked, after, own)


def _poll_listener(
    grant: Grant,
    routes: Served,
    exchange: Exchange,
    listener: ListenerSession,
    asked: PollAsked,
    after: Cursor | None,
    own: str | None,
) -> MaybeDeferred[Response]:
    broadcasts = routes.policy.may(exchange, grant, "poll", ALL_LISTENERS)
    return chain(broadcasts, _poll_admitted, grant, routes, exchange, listener, asked, after, own)


def _poll_admitted(
    broadcasts: bool,
    grant: Grant,
    routes: Served,
    exchange: Exchange,
    listener: ListenerSession,
    asked: PollAsked,
    after: Cursor | None,
    own: str | None,
) -> MaybeDeferred[Response]:
    if asked.look:
        found = routes.hub.poll(listener.keys(broadcasts), listener.place, 0.0, asked.limit)
        return chain(found, _presenter(routes, exchange, asked))
    routes.policy.check_taker(exchange)
    name = None if routes.presence is None else routes.policy.reader_name(grant, own)
    wait = min(asked.wait, routes.policy.time_left(grant))
    if wait > 0:
        grant.check_room()
    found = routes.listeners.poll(
        listener,
        after,
        wait,
        asked.limit,
        lambda: not exchange.is_disconnected(),
        exchange.is_sending,
        broadcasts,
        name,
    )
    grant.hold(found)
    return chain(found, _presenter(routes, exchange, asked))
