"""What a request for a listing asks for: ``GET /recipients?prefix=chat/&after=…&limit=100`` (HTTP.md)."""

from __future__ import annotations

import re

from ..core.recipient import has_control_characters, plain
from ..errors import BadParameter
from ..limits import LISTED, LISTED_MOST, RECIPIENT_BYTES
from .exchange import Exchange
from .params import Query, check_names, one, parsed

LISTING_PARAMETERS = frozenset({"prefix", "after", "limit", "token"})

_LIMIT = re.compile(r"[0-9]{1,9}")


def listing_asked(exchange: Exchange, allowed: frozenset[str]) -> tuple[str, str, int]:
    """Return the prefix of the mailboxes, the name after which they come, and how many are asked for.

    ``allowed`` are further names that parameters may have.
    """
    query = parsed(exchange.query)
    check_names(query, LISTING_PARAMETERS, allowed)
    text = one(query, "limit")
    if text is None:
        limit = LISTED
    elif _LIMIT.fullmatch(text) and 1 <= int(text) <= LISTED_MOST:
        limit = int(text)
    else:
        raise BadParameter(f"limit is a number of mailboxes from 1 to {LISTED_MOST}.")
    return _beginning(query, "prefix"), _beginning(query, "after"), limit


def _beginning(query: Query, name: str) -> str:
    """Return a parameter that names a recipient, or the beginning of one; empty where it is not given.

    The bound on the length is that of the name behind a prefix of the server's own: see ``stored``.
    """
    text = one(query, name) or ""
    if (
        len(plain(text).encode()) > RECIPIENT_BYTES
        or has_control_characters(text)
        or text.startswith("/")
        or "//" in text
    ):
        raise BadParameter(f"{name} is a recipient's name, or the beginning of one, as in chat/.")
    return text
