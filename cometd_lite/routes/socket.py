"""WebSocket: messages are sent and pushed over one connection (HTTP.md, "WebSocket")."""

from __future__ import annotations

from ..access.grants import Grant
from ..core.message import Cursor, Push, Receipt
from ..deferreds import MaybeDeferred, chain
from ..http import params, websocket
from ..http.acks import check_no_lease
from ..http.exchange import Exchange
from ..http.pubsub import PubSubSocket
from ..limits import SOCKET_MESSAGE_BYTES_OVER_BODY
from .routing import Served, route


@route("/ws", "GET", changes=True)
@route("/ws/<path:name>", "GET", changes=True)
def socket(routes: Served, exchange: Exchange, name: str | None) -> MaybeDeferred[None]:
    """Open a WebSocket on the recipients."""
    asked = params.parsed(exchange.query)
    params.check_names(asked, params.STREAM_PARAMETERS, routes.allow_parameters)
    check_no_lease(asked)
    recipients = params.recipients_of(name, asked)
    after = params.start(asked, params.fields(exchange))
    acks = params.acknowledges(asked)
    own = params.own_name(asked)
    grant = routes.policy.require(exchange, "poll", recipients)
    return chain(grant, _open, routes, exchange, recipients, after, acks, own)


def _open(
    grant: Grant,
    routes: Served,
    exchange: Exchange,
    recipients: tuple[str, ...],
    after: Cursor,
    acks: bool,
    own: str | None,
) -> None:
    routes.hub.check_presence(recipients)
    name = None if routes.presence is None else routes.policy.reader_name(grant, own)

    def admit(asked: Push) -> MaybeDeferred[Grant]:
        params.event_name(asked.event)
        if any(len(content.body) > routes.limits.max_body for content in asked.contents):
            raise routes.body_too_large(routes.limits.max_body)
        return routes.policy.require(exchange, "push", asked.recipients)

    def push(granted: Grant, asked: Push) -> MaybeDeferred[Receipt]:
        granted.charge_push(asked)
        return routes.hub.push(asked)

    def converse() -> PubSubSocket[Grant]:
        grant.check_room()
        conversation = PubSubSocket(routes.hub, recipients, after, admit, push, acks, name)
        assert conversation.reader is not None, "it is parked now"
        routes.policy.end_with(grant, conversation.reader, conversation.token_expired, conversation.refused)
        return conversation

    most = routes.limits.max_body + SOCKET_MESSAGE_BYTES_OVER_BODY
    websocket.accept(exchange, converse, routes.pings, most)
