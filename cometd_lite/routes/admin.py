"""Everything else: recipients, health, metrics and the description of the interface (HTTP.md)."""

from __future__ import annotations

from .. import __version__
from .. import limits as bounds
from ..core.listing import listing
from ..core.recipient import stored
from ..deferreds import value_of
from ..errors import NotFound
from ..http import params, responses
from ..http.accepting import accepts
from ..http.exchange import Exchange
from ..http.listing import listing_asked
from ..http.responses import Response
from ..memos import memo
from ..metrics import prometheus
from ..openapi import Interface
from .routing import Served, route


@route("/recipients", "GET")
async def recipients(routes: Served, exchange: Exchange) -> Response:
    """List mailboxes, a page at a time."""
    prefix, after, limit = listing_asked(exchange, routes.allow_parameters)
    shows = await value_of(routes.policy.require_listing(exchange, prefix))
    return responses.of_listing(await listing(routes.hub, prefix, after, limit, shows))


@route("/recipients/<path:name>", "GET")
async def describe(routes: Served, exchange: Exchange, name: str) -> Response:
    """Say how a recipient stands."""
    await value_of(routes.policy.require(exchange, "poll", (stored(name),)))
    return responses.of_recipient(await value_of(routes.hub.describe(name)))


@route("/recipients/<path:name>", "DELETE", changes=True)
async def delete(routes: Served, exchange: Exchange, name: str) -> Response:
    """Lose what a recipient's mailbox holds."""
    await value_of(routes.policy.require(exchange, "manage", (stored(name),)))
    await value_of(routes.hub.delete(name))
    return Response(204, responses.COMMON)


@route("/healthz", "GET", probed=True)
def health(routes: Served, exchange: Exchange) -> Response:
    """Say whether this server takes requests: 200, or 503 while it stops."""
    hub = routes.hub
    body = responses.dumped(
        {
            "status": "stopping" if hub.stopping else "ok",
            "version": __version__,
            "uptime": round(hub.clock.seconds() - hub.began_at, 3),
            "store": hub.store.state(),
            **({} if routes.presence is None else {"presence": True}),
        }
    )
    if hub.stopping:
        return Response(503, responses.JSON + responses.retry_after(routes.spread(1)), body)
    return Response(200, responses.JSON, body)


@route("/metrics", "GET", probed=True)
def metrics(routes: Served, exchange: Exchange) -> Response:
    """Show what is counted, as Prometheus reads it, or as OpenMetrics where that is accepted."""
    if not routes.show_metrics:
        raise NotFound("The metrics are turned off.")
    as_openmetrics = accepts(params.fields(exchange).accept, "application/openmetrics-text")
    shown = prometheus(routes.metrics, lambda: gauges(routes), __version__, as_openmetrics=as_openmetrics)
    return Response(200, responses.OPENMETRICS if as_openmetrics else responses.METRICS, shown)


@route("/openapi.json", "GET")
def openapi(routes: Served, exchange: Exchange) -> Response:
    """Show this interface as OpenAPI."""
    if not routes.show_openapi:
        raise NotFound("The description of the interface is turned off.")
    under = exchange.path.rpartition(b"/")[0].decode("latin-1")
    return Response(200, responses.JSON, _described(interface(routes), under))


@memo(1)
def _described(asked: Interface, under: str) -> bytes:
    """Return the description as JSON. It takes 10 ms to make, for which all others would wait each time."""
    return responses.dumped(asked.document(under))


def interface(routes: Served) -> Interface:
    """Return what is turned on here."""
    return Interface(
        routes.limits,
        tokens=routes.policy.tokens is not None,
        judged=routes.policy.authorize is not None or routes.policy.application is not None,
        asked=routes.policy.application is not None,
        metrics=routes.show_metrics,
        console=routes.show_console,
        bayeux=routes.bayeux is not None,
        presence=routes.presence is not None,
    )


def gauges(routes: Served) -> dict[str, tuple[str, float]]:
    """Return what stands at this moment, beside its bounds: by name, a sentence and a number."""
    usage = routes.hub.store.usage()
    metrics = routes.metrics
    limits = routes.limits
    parked = routes.hub.registry.parked
    found: dict[str, tuple[str, float]] = {
        "parked": ("Readers that wait: polls, streams and sockets.", parked),
        "parked_max": ("The bound on readers that wait.", limits.max_parked),
        "parked_polls": ("Polls that are held.", max(0, parked - metrics.streams - metrics.sockets)),
        "streams": ("Streams that are open.", metrics.streams),
        "sockets": ("WebSockets that are open.", metrics.sockets),
        "listeners": ("Listeners that are registered.", len(routes.listeners)),
        "bayeux_sessions": ("Bayeux sessions.", 0 if routes.bayeux is None else len(routes.bayeux)),
        "sessions_max": ("The bound on listeners, and the bound on Bayeux sessions.", limits.max_sessions),
        "mailboxes": ("Mailboxes that hold messages.", usage.mailboxes),
        "mailboxes_max": ("The bound on mailboxes.", limits.max_recipients),
        "messages": ("Messages that are kept.", usage.messages),
        "leased": ("Messages that workers hold by a lease.", usage.leased),
        "exhausted": (
            "Messages that were leased too often, and for which there is no room among the dead letters.",
            usage.exhausted,
        ),
        "memory_bytes": ("Memory that messages and mailboxes take, with overhead.", usage.memory),
        "memory_bytes_max": ("The bound on that memory.", limits.max_memory),
    }
    presence = routes.presence
    if presence is not None:
        found["presence_members"] = ("Names that are present, at each recipient.", presence.named)
        found["presence_uncounted"] = ("Readers that had no room in that table.", presence.uncounted)
        found["presence_bytes"] = ("Memory that the table of who reads what takes.", presence.bytes)
        found["presence_bytes_max"] = ("The bound on that memory.", presence.most)
    application = routes.policy.application
    if application is not None:
        found["application_questions"] = ("Questions to the application under way.", application.under_way)
        found["application_questions_max"] = ("The bound on those.", bounds.APPLICATION_QUESTIONS)
    if metrics.waiting_events is not None:
        found["webhook_events_waiting"] = ("Events that wait to be posted.", metrics.waiting_events())
        found["webhook_events_waiting_max"] = ("The bound on those.", bounds.EVENTS_WAITING)
    if metrics.connections is not None:
        found["connections"] = ("Connections that are open.", metrics.connections())
        found["connections_max"] = ("The bound on connections.", limits.max_connections)
    if metrics.unsent is not None:
        found["unsent_bytes"] = ("Bytes that were written and that clients have not taken.", metrics.unsent())
    if metrics.received is not None:
        found["received_bytes"] = (
            "Bytes of incomplete, early and large parked requests that are kept.",
            metrics.received(),
        )
    return found
