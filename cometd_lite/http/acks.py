"""What a worker asks to become of its leases: the query of an ack becomes checked values, or a refusal."""

from __future__ import annotations

from msgspec import Struct

from .. import limits as bounds
from ..core.leases import LeaseId, Settlement
from ..core.recipient import stored
from ..errors import BadParameter
from .exchange import Exchange
from .params import Query, check_names, choice, lease_seconds, parsed

_PARAMETERS = frozenset({"lease", "extend", "release", "token"})


class AckAsked(Struct, frozen=True, gc=False):
    """What is to become of leases; ``seconds`` is how long they go on where they are extended."""

    recipient: str
    leases: tuple[LeaseId, ...]
    settlement: Settlement
    seconds: float


def ack(exchange: Exchange, name: str, allowed: frozenset[str]) -> AckAsked:
    """Return what is to become of leases; ``allowed`` are further names that parameters may have."""
    query = parsed(exchange.query)
    check_names(query, _PARAMETERS, allowed)
    given = dict.fromkeys(query.get("lease", ()))
    if not 1 <= len(given) <= bounds.LEASES_PER_REQUEST:
        raise BadParameter(
            f"Name 1 to {bounds.LEASES_PER_REQUEST} leases, each as ?lease= the id that came with a message."
        )
    try:
        leases = tuple(map(LeaseId.parse, given))
    except ValueError:
        raise BadParameter("lease is the id that came with a leased message.") from None
    seconds = lease_seconds(query, "extend")
    release = choice(query, "release", ("yes", "no"), "no") == "yes"
    if release and seconds is not None:
        raise BadParameter("A lease is extended or released, not both.")
    settlement: Settlement = "released" if release else "done" if seconds is None else "extended"
    return AckAsked(stored(name), leases, settlement, seconds or 0.0)


def check_no_lease(query: Query) -> None:
    """Raise ``BadParameter`` where a stream or socket asks for leases."""
    if "lease" in query:
        raise BadParameter("A stream or socket has no leases; poll with lease.")
