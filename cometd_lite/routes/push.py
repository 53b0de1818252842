"""Push: a body is given to recipients (HTTP.md, "Push")."""

from __future__ import annotations

from ..access.grants import EVERYTHING, Grant
from ..core.message import Push, Receipt
from ..core.recipient import ALL_LISTENERS
from ..deferreds import MaybeDeferred, chain
from ..errors import CometError
from ..http import bodies, params, responses
from ..http.exchange import Exchange
from ..http.params import PushAsked
from ..http.responses import Response
from .routing import Served, route

_LISTENERS = (ALL_LISTENERS,)


def _body_bound(routes: Served, exchange: Exchange, name: str | None) -> int:
    """Return the bytes that each of the recipients takes, where the request is known to be allowed.

    Of another one the handler says first what is wrong: a bound of theirs is no business of its client.
    """
    try:
        recipients = params.push(exchange, name, routes.allow_parameters).recipients
        if routes.policy.is_known_to_allow(exchange, "push", recipients):
            return routes.hub.body_bound(recipients)
    except CometError:
        pass
    return routes.limits.max_body


@route("/push", "POST", changes=True, body_bound=_body_bound)
@route("/push/<path:name>", "POST", changes=True, body_bound=_body_bound)
def push(routes: Served, exchange: Exchange, name: str | None) -> MaybeDeferred[Response]:
    """Give the body to the recipients."""
    asked = params.push(exchange, name, routes.allow_parameters)
    grant = routes.policy.require(exchange, "push", asked.recipients)
    if not isinstance(grant, Grant):
        return grant.addCallback(_push, routes, exchange, asked)
    return _push(grant, routes, exchange, asked)


def _push(grant: Grant, routes: Served, exchange: Exchange, asked: PushAsked) -> MaybeDeferred[Response]:
    given = params.fields(exchange)
    body = bodies.body_of(exchange, given)
    if routes.hub.namespaces is not None and len(body) > (most := routes.hub.body_bound(asked.recipients)):
        raise routes.body_too_large(most)
    contents = bodies.contents(body, given.content_type)
    key = None if given.idempotency_key is None else params.idempotency_key(given.idempotency_key)
    push = Push(
        asked.recipients, contents, asked.event, asked.ttl, asked.queue, asked.overflow, key, grant.subject
    )
    if grant is not EVERYTHING:
        grant.charge_push(push)
    if asked.recipients == _LISTENERS and asked.queue:
        receipt = chain(routes.listeners.are_none(), _push_to_listeners, routes, push)
    else:
        receipt = routes.hub.push(push)
    if isinstance(receipt, Receipt):
        return responses.of_push(receipt)
    return receipt.addCallback(responses.of_push)


def _push_to_listeners(are_none: bool, routes: Served, push: Push) -> MaybeDeferred[Receipt]:
    """Keep nothing where no listener could ever read it."""
    return routes.hub.discard(push) if are_none else routes.hub.push(push)
