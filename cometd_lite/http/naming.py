"""The name that a reader gives itself by the parameter ``as`` (HTTP.md, "Presence")."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from ..core.recipient import has_control_characters
from ..errors import BadParameter
from ..limits import PRESENCE_NAME_BYTES
from ..memos import memo


def reader_name(name: str) -> str:
    """Return the name that a reader gives itself, if it can be one."""
    if not 0 < len(name.encode()) <= PRESENCE_NAME_BYTES or has_control_characters(name):
        raise BadParameter(f"as is a name of 1 to {PRESENCE_NAME_BYTES} bytes without control characters.")
    return name


@memo(4_096)  # a reader says its name with each poll
def _decoded(name: bytes) -> str:
    try:
        return reader_name(unquote_to_bytes(name.replace(b"+", b" ")).decode())
    except UnicodeDecodeError:
        raise BadParameter("The query must be percent-encoded UTF-8.") from None


def without_name(text: bytes) -> tuple[bytes, str | None]:
    """Return a query without the reader's name, and the name, None where there is none.

    A parameter ``as`` that is there twice, or whose own name is encoded, is left in the query.
    """
    others, equals, name = text.rpartition(b"&as=")  # most have it at the end
    if not equals or b"&" in name:
        start = 0 if text.startswith(b"as=") else text.find(b"&as=") + 1
        if not text.startswith(b"as=", start):
            return text, None
        name, _, behind = text[start + 3 :].partition(b"&")
        others = text[:start] + behind if behind else text[: max(0, start - 1)]
    return others, _decoded(name)
