"""Leases: a worker says what becomes of the messages that it leased by a poll (HTTP.md, "Leases")."""

from __future__ import annotations

from collections.abc import Sequence

from ..access.grants import Grant
from ..core.leases import LeaseState
from ..deferreds import MaybeDeferred, chain
from ..http import acks, responses
from ..http.acks import AckAsked
from ..http.exchange import Exchange
from ..http.responses import Response
from .routing import Served, route


@route("/ack/<path:name>", "POST", changes=True)
def ack(routes: Served, exchange: Exchange, name: str) -> MaybeDeferred[Response]:
    """Acknowledge, extend or release leases of a recipient's messages."""
    asked = acks.ack(exchange, name, routes.allow_parameters)
    grant = routes.policy.require(exchange, "poll", (asked.recipient,))
    return chain(grant, _settle, routes, asked)


def _settle(_: Grant, routes: Served, asked: AckAsked) -> MaybeDeferred[Response]:
    settled = routes.hub.settle(asked.recipient, asked.leases, asked.settlement, asked.seconds)
    return chain(settled, _answer, asked)


def _answer(states: Sequence[LeaseState], asked: AckAsked) -> Response:
    return responses.of_ack(list(zip(asked.leases, states, strict=True)))
