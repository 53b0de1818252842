"""How data is shown to people by ``print``: one line of it, and not more than they would look at."""

from __future__ import annotations

SHOWN_CHARACTERS = 200
"""Characters of a message that are shown."""


def shown(body: bytes, media_type: str, form: str) -> str:
    """Return a body as a line for people; ``form`` is that of its ``Content``."""
    if form == "octets":
        return f"{len(body):,} bytes of {media_type}"
    head = body[: 4 * SHOWN_CHARACTERS].decode(errors="ignore")
    text = head.replace("\n", " ") if form == "json" else repr(head)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
