"""What requests and answers of Bayeux over HTTP are made of: bodies, queries, callbacks and the cookie.

JSON, forms and callbacks arrive and are read; arrays of messages leave as JSON, or as a script that calls
back ("The long-polling request messages", "The callback-polling request messages").
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

from ..access.questions import Asker
from ..errors import BadBody
from ..http.responses import Response
from ..limits import BAYEUX_BATCH_MESSAGES, BAYEUX_CALLBACK_BYTES
from .fields import batch_of, read

COOKIE = "BAYEUX_BROWSER"

_COMMON = b"Cache-Control: no-store\r\nVary: Origin\r\n"
_JSON = b"Content-Type: application/json\r\n" + _COMMON
_SCRIPT = b"Content-Type: text/javascript; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n" + _COMMON
# Not 408, at which Chrome sends the request again (cometd#883), and no JSON, which Faye takes for messages.
REPLACED_ANSWER = Response(
    409, b"Content-Type: text/plain\r\n" + _COMMON, b"A later connect of the same client took its place.\n"
)
_BROWSER = re.compile(rf'(?:^|;)\s*{COOKIE}="?([A-Za-z0-9_-]{{8,64}})"?\s*(?:;|$)')
_CALLBACK = re.compile(r"[A-Za-z_$][\w$]*(?:\.[A-Za-z_$][\w$]*)*", re.ASCII)


class Asking(Asker, Protocol):
    """What Bayeux uses of an ``Exchange``, or of a request that another process forwarded."""

    def was_disconnected(self) -> bool:
        """Return whether the client had disconnected when this turn of the reactor began."""

    def is_sending(self) -> bool:
        """Return whether some of what was written is on its way, as far as can be known."""


json_answer: Final = partial(Response, 200, _JSON)
"""Returns the response of the long-polling transport, whose body is given."""


def script_answer(callback: str, body: bytes) -> Response:
    """Return the response of the callback-polling transport: a script that calls back.

    It begins with a comment, so that no plug-in takes a callback's name for the beginning of its own format.
    """
    # These two end a line in JavaScript before ES2019, but not in JSON.
    body = body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return Response(200, _SCRIPT, b"/**/%b(%b);" % (callback.encode(), body))


def is_callback(name: str) -> bool:
    """Whether a string is a JavaScript name, or such names with dots between, and nothing else."""
    return len(name) <= BAYEUX_CALLBACK_BYTES and _CALLBACK.fullmatch(name) is not None


def browser_of(cookie: bytes | None) -> str | None:
    """Return the browser's name in the value of a Cookie header."""
    if cookie is None:
        return None
    match = _BROWSER.search(cookie.decode("latin-1"))
    return None if match is None else match[1]


def set_cookie(browser: str, secure: bool) -> bytes:
    """Return the header that gives a browser its name, which no script can read and no other site sends."""
    attributes = "; Secure" if secure else ""
    return f"Set-Cookie: {COOKIE}={browser}; Path=/; HttpOnly; SameSite=Lax{attributes}\r\n".encode()


def posted(body: bytes, media_type: bytes | None) -> Any:
    """Return what is in a body: JSON, or a form with one or several ``message``. Raises ``BadBody``."""
    if media_type == b"application/json":
        return _json(body)
    is_form = media_type is not None and media_type.lower().startswith(b"application/x-www-form-urlencoded")
    if not is_form or body[:1] in {b"[", b"{"}:  # curl says that it is a form, whatever it sends
        return _json(body)
    try:
        fields = parse_qsl(body.decode(), errors="strict", max_num_fields=BAYEUX_BATCH_MESSAGES)
    except ValueError as error:
        raise BadBody(f"The body is not the form that its type says: {error}.") from None
    texts = [value for name, value in fields if name == "message"]
    if not texts:
        raise BadBody("A form has its Bayeux messages in message.")
    return parsed(texts)


def parsed(texts: list[Any]) -> Any:
    """Return what is in one JSON text, or the messages in several, each a message or an array of them.

    Raises ``BadBody``.
    """
    if len(texts) == 1:
        return _json(texts[0])
    return [message for text in texts for message in batch_of(_json(text))]


def _json(text: bytes | str) -> Any:
    try:
        return read(text.encode() if isinstance(text, str) else text)
    except ValueError as error:
        raise BadBody(f"A Bayeux request is JSON: {error}.") from None
