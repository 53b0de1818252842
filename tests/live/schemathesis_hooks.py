"""What Schemathesis is told besides the document: what JSON Schema and OpenAPI cannot say of the interface.

Loaded by Schemathesis itself, in its own process; see ``test_live_openapi.py``.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import schemathesis

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
PLACES = {"after", "If-None-Match", "Last-Event-ID"}
CLASHES = [{"extend", "release"}, *({"lease", name} for name in (*PLACES, "listener", "ack"))]
"""Parameters that are allowed, and not together."""


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out cases whose outcome the document cannot say, because it depends on two things at once."""
    given = [*(case.query or {}), *(case.headers or {})]
    if sum(name in PLACES for name in given) > 1:
        return False  # the first of them counts, and the others may be anything
    if any(clash.issubset(given) for clash in CLASHES):
        return False
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return True
    # A schema's pattern does not hold for every path that Schemathesis makes; some are encoded already, and
    # names that are kept for the server it has from a receipt.
    named = {name: unquote(str(value)) for name, value in (case.path_parameters or {}).items()}
    recipient = named.get("recipient", "")
    if CONTROLS.search(recipient) or recipient.startswith("$"):
        return False
    query = case.query or {}
    if too_long(query.get("event"), 64) or case.body in ("", b""):
        return False  # of a body of any type JSON Schema cannot say that it has a byte
    return not too_long(query) and not too_long(named) and not too_long(case.body)


def too_long(part: Any, most: int = 256) -> bool:
    """Whether a name is longer than so many bytes, though it has no more characters than that."""
    if isinstance(part, str):
        return len(part) <= most < len(part.encode("utf-8", "surrogatepass"))
    if isinstance(part, dict):
        return any(map(too_long, part.values()))
    return isinstance(part, list) and any(map(too_long, part))
