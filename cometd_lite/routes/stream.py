"""Stream: messages are sent as they come, on a response that does not end (HTTP.md, "Stream")."""

from __future__ import annotations

from ..access.grants import Grant
from ..core.message import Cursor
from ..deferreds import MaybeDeferred, chain
from ..http import params
from ..http.acks import check_no_lease
from ..http.exchange import Exchange
from ..http.ndjson import NDJSON
from ..http.sse import SSE
from ..http.stream import Format, Stream
from .routing import Served, route


@route("/stream", "GET")
@route("/stream/<path:name>", "GET")
def stream(routes: Served, exchange: Exchange, name: str | None) -> MaybeDeferred[None]:
    """Send the recipients' messages as they come."""
    given = params.fields(exchange)
    asked = params.parsed(exchange.query)
    params.check_names(asked, params.STREAM_PARAMETERS, routes.allow_parameters)
    check_no_lease(asked)
    recipients = params.recipients_of(name, asked)
    after = params.start(asked, given)
    acks = params.acknowledges(asked)
    accept = (given.accept or b"").lower()
    own = params.own_name(asked)
    form = NDJSON if b"application/x-ndjson" in accept and b"text/event-stream" not in accept else SSE
    grant = routes.policy.require(exchange, "poll", recipients)
    return chain(grant, _begin, routes, exchange, recipients, after, acks, own, form)


def _begin(
    grant: Grant,
    routes: Served,
    exchange: Exchange,
    recipients: tuple[str, ...],
    after: Cursor,
    acks: bool,
    own: str | None,
    form: Format,
) -> MaybeDeferred[None]:
    routes.hub.check_presence(recipients)
    head = form.head + routes.policy.cors(exchange)
    if exchange.method == b"HEAD":
        exchange.start(200, head)
        exchange.finish()
        return None
    name = None if routes.presence is None else routes.policy.reader_name(grant, own)
    grant.check_room()
    stream = Stream(exchange, routes.hub, form, routes.heartbeats, routes.random)
    reader = stream.begin(recipients, after, head, acks, name)
    routes.policy.end_with(grant, reader, stream.end)
    return reader
