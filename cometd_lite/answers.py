"""What requests are answered with: what the hub gives arrives, responses in JSON leave (HTTP.md).

The answers of polls are in ``transports/longpoll.py``.
"""

from __future__ import annotations

from typing import Any

import orjson

from .errors import CometError, MethodNotAllowed, Unauthorized, UpgradeRequired
from .hub import Standing
from .listeners import Listener
from .message import Batch, Receipt, timestamp
from .query import PollAsked
from .transports import Answer, longpoll

COMMON = b"Cache-Control: no-store\r\nVary: Origin\r\n"
JSON = b"Content-Type: application/json\r\n" + COMMON
PROBLEM = (
    b"Content-Type: application/problem+json\r\nCache-Control: no-store\r\nVary: Accept, Origin, Prefer\r\n"
)
PREFLIGHT = (
    b"Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n"
    b"Access-Control-Allow-Headers: Authorization, Cache-Control, Content-Type, Idempotency-Key, "
    b"If-Modified-Since, If-None-Match, Last-Event-ID, Prefer, X-Requested-With\r\n"
    b"Access-Control-Max-Age: 7200\r\n"
)
METRICS = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" + COMMON


def retry_after(seconds: int) -> bytes:
    """Return the header line that says when to come back."""
    return b"Retry-After: %d\r\n" % seconds


def problem(error: CometError, seconds: int | None) -> Answer:
    """Return the response that tells a client of an error (RFC 9457), and to come back in so many seconds."""
    head = PROBLEM
    if seconds is not None:
        head += retry_after(seconds)
    if isinstance(error, Unauthorized):
        head += b"WWW-Authenticate: Bearer\r\n"
    if isinstance(error, UpgradeRequired):
        head += b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    if isinstance(error, MethodNotAllowed):
        head += b"Allow: %b\r\n" % ", ".join(error.allowed).encode()
    return Answer(error.status, head, dumped(error.problem()))


def dumped(document: dict[str, Any]) -> bytes:
    """Return a JSON document as a line of text: on a terminal the prompt comes on the next."""
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def of_poll(batch: Batch, asked: PollAsked) -> Answer:
    """Return the answer of a poll, in the form that it asked for (HTTP.md, "Poll")."""
    if asked.conditional and not batch:
        made = longpoll.not_modified(batch)
    else:
        made = longpoll.answer(batch, asked.form)
    return made.with_head(b"Preference-Applied: wait=%d\r\n" % asked.wait) if asked.preferred else made


def of_push(receipt: Receipt) -> Answer:
    """Return the answer of a push: 201 where somebody waited, else 202 (HTTP.md, "Push")."""
    return Answer(201 if receipt.delivered else 202, JSON, receipt.json + b"\n")


def of_recipient(standing: Standing) -> Answer:
    """Return how a recipient stands (HTTP.md, "Everything else")."""
    contents = standing.contents
    return Answer(
        200,
        JSON,
        dumped(
            {
                "recipient": standing.recipient,
                "waiting": standing.waiting,
                "queued": contents.queued,
                "bytes": contents.size,
                "oldest": contents.oldest and str(contents.oldest),
                "newest": contents.newest and str(contents.newest),
                "last_seen": None if standing.last_seen is None else timestamp(standing.last_seen),
                "online": standing.online,
            }
        ),
    )


def registered(listener: Listener, under: bytes) -> Answer:
    """Return the answer to who has registered; ``under`` is the path under which the interface lies."""
    location = b"Location: %b/listeners/%b\r\n" % (under, listener.id.encode())
    return Answer(201, location + JSON, _described(listener))


def of_listener(listener: Listener) -> Answer:
    """Return a listener as it is shown (HTTP.md, "Listeners")."""
    return Answer(200, JSON, _described(listener))


def _described(listener: Listener) -> bytes:
    return dumped(
        {
            "id": listener.id,
            "recipients": listener.recipients,
            "expires_in": int(listener.ttl) if listener.ttl.is_integer() else listener.ttl,
            "cursor": str(listener.place),
        }
    )
