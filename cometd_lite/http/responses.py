"""Responses: values of the core become HTTP responses (HTTP.md).

A batch is rendered once for each format, however many readers it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from ..core.hub import Standing
from ..core.leases import LeaseId, LeaseState
from ..core.listeners import ListenerSession
from ..core.message import Batch, Content, Cursor, LeasedMessage, Receipt, has_charset, json_at, timestamp
from ..core.present import Present
from ..core.store import Listing
from ..errors import CometError, MethodNotAllowed, Unauthorized, UpgradeRequired
from ..jsontext import dumps
from .params import PollAsked

COMMON = b"Cache-Control: no-store\r\nVary: Origin\r\n"
JSON = b"Content-Type: application/json\r\n" + COMMON
PROBLEM = (
    b"Content-Type: application/problem+json\r\nCache-Control: no-store\r\nVary: Accept, Origin, Prefer\r\n"
)
TEXT = b"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n" + COMMON
PREFLIGHT = (
    b"Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n"
    b"Access-Control-Allow-Headers: Authorization, Cache-Control, Content-Type, Idempotency-Key, "
    b"If-Modified-Since, If-None-Match, Last-Event-ID, Pragma, Prefer, X-Requested-With\r\n"
    b"Access-Control-Max-Age: 7200\r\n"
)
_METRICS_COMMON = b"Cache-Control: no-store\r\nVary: Accept, Origin\r\n"
METRICS = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" + _METRICS_COMMON
OPENMETRICS = (
    b"Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n" + _METRICS_COMMON
)
_POLL_COMMON = b"Cache-Control: no-store\r\nVary: Accept, Origin, Prefer\r\n"
_POLL_JSON = b"Content-Type: application/json\r\n"
_RAW = b"X-Content-Type-Options: nosniff\r\nContent-Security-Policy: sandbox; default-src 'none'\r\n"
_SAME_ORIGIN = b"Cross-Origin-Resource-Policy: same-origin\r\n"
_CROSS_ORIGIN = b"Cross-Origin-Resource-Policy: cross-origin\r\n"


class Response(Struct, frozen=True, gc=False):
    """A whole HTTP response. ``head`` is a block of ready ``Name: value`` lines, each ended by CRLF.

    The server adds the lines of Content-Length and of the connection.
    """

    status: int
    head: bytes
    body: bytes = b""

    def with_head(self, lines: bytes) -> Response:
        """Return the same response with further lines in its head."""
        return Response(self.status, self.head + lines, self.body)


def retry_after(seconds: int) -> bytes:
    """Return the header line that says when to come back."""
    return b"Retry-After: %d\r\n" % seconds


def problem(error: CometError, seconds: int | None) -> Response:
    """Return the response for an error (RFC 9457), which asks the client to come back in so many seconds."""
    return Response(error.status, _error_head(PROBLEM, error, seconds), dumped(error.problem()))


def sentence(error: CometError, seconds: int | None) -> Response:
    """Return the same as plain text, for clients that take any JSON for an answer."""
    return Response(error.status, _error_head(TEXT, error, seconds), f"{error.detail}\n".encode())


def _error_head(head: bytes, error: CometError, seconds: int | None) -> bytes:
    if seconds is not None:
        head += retry_after(seconds)
    if isinstance(error, Unauthorized):
        head += b"WWW-Authenticate: Bearer\r\n"
    if isinstance(error, UpgradeRequired):
        head += b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    if isinstance(error, MethodNotAllowed):
        head += b"Allow: %b\r\n" % ", ".join(error.allowed).encode()
    return head


def dumped(document: dict[str, Any]) -> bytes:
    """Return a JSON document as a line of text: on a terminal the prompt comes on the next."""
    return dumps(document) + b"\n"


def of_plain_poll(batch: Batch) -> Response:
    """Return the answer of a poll, as JSON (HTTP.md, "Poll")."""
    return batch.once("json", _json)


def of_poll(asked: PollAsked, batch: Batch) -> Response:
    """Return the answer of a poll that was conditional, or has preferred a wait, as JSON."""
    return _as_asked(batch.once("json", _json), batch, asked)


def of_raw_poll(asked: PollAsked, cross_origin: bool, batch: Batch) -> Response:
    """Return the answer of a poll for one message as it came (HTTP.md, "Poll").

    ``cross_origin``: the request has an Origin that is allowed, so its page may embed the answer.
    """
    made = batch.once("raw", _raw)
    if batch:
        made = made.with_head(_CROSS_ORIGIN if cross_origin else _SAME_ORIGIN)
    return _as_asked(made, batch, asked)


def _as_asked(made: Response, batch: Batch, asked: PollAsked) -> Response:
    """Return a response to a poll that may have been conditional, or have preferred a wait."""
    if asked.conditional and not batch:
        made = Response(304, _poll_head(batch, batch.place))  # RFC 9110 §15.4.5
    return made.with_head(b"Preference-Applied: wait=%d\r\n" % asked.wait) if asked.preferred else made


def _json(batch: Batch) -> Response:
    place = batch.place
    return Response(200, _POLL_JSON + _poll_head(batch, place), json_at(batch, place))


def _raw(batch: Batch) -> Response:
    if not batch.messages:
        return Response(204, _poll_head(batch, batch.place))
    (message,) = batch.messages
    head = b"Content-Type: %b\r\nComet-Id: %b\r\nComet-Recipient: %b\r\nComet-Created-At: %b\r\n" % (
        _with_charset(message.content),
        message.id.encode(),
        quote(message.recipient, safe="/~!$&'()*+,;=:@").encode(),
        timestamp(message.created_at).encode(),
    )
    if isinstance(message, LeasedMessage):
        head += b"Comet-Lease: %b\r\nComet-Attempt: %d\r\n" % (message.lease.encode(), message.attempt)
    return Response(200, head + _RAW + _poll_head(batch, batch.place), message.content.body)


def _with_charset(content: Content) -> bytes:
    """Return the media type of a raw answer: text is UTF-8, and clients assume Latin-1 without a charset."""
    media_type = content.type
    if media_type.lower().startswith("text/") and not has_charset(media_type):
        media_type = f"{media_type.rstrip('; ')}; charset=utf-8"
    return media_type.encode("latin-1")


def _poll_head(batch: Batch, cursor: bytes) -> bytes:
    gap = b"Comet-Gap: true\r\n" if batch.gap else b""
    return b'%bComet-Cursor: %b\r\nETag: "%b"\r\n%b' % (_POLL_COMMON, cursor, cursor, gap)


def of_push(receipt: Receipt) -> Response:
    """Return the answer of a push: 201 where a reader waited, else 202 (HTTP.md, "Push")."""
    return Response(201 if receipt.delivered else 202, JSON, receipt.json + b"\n")


def of_ack(settled: Sequence[tuple[LeaseId, LeaseState]]) -> Response:
    """Return what became of leases: 410 where there is one and it has ended (HTTP.md, "Leases")."""
    status = 410 if len(settled) == 1 and settled[0][1] == "gone" else 200
    leases = [{"lease": str(lease), "state": state} for lease, state in settled]
    return Response(status, JSON, dumped({"leases": leases}))


def of_recipient(standing: Standing) -> Response:
    """Return how a recipient stands (HTTP.md, "Everything else")."""
    return Response(200, JSON, dumped(members_of(standing)))


def of_listing(listing: Listing[Standing]) -> Response:
    """Return a page of how recipients stand (HTTP.md, "Everything else")."""
    shown = {"recipients": list(map(members_of, listing.recipients)), "more": listing.more}
    return Response(200, JSON, dumped(shown))


def members_of(standing: Standing) -> dict[str, object]:
    """Return the members of a standing in JSON (HTTP.md, "Everything else")."""
    return {
        "recipient": standing.recipient,
        "waiting": standing.waiting,
        "queued": standing.queued,
        "bytes": standing.bytes,
        "leased": standing.leased,
        "oldest": standing.oldest and str(standing.oldest),
        "newest": standing.newest and str(standing.newest),
        "last_seen": None if standing.last_seen is None else timestamp(standing.last_seen),
        "online": standing.online,
    }


def of_presence(present: Present, cursor: Cursor) -> Response:
    """Return who reads a recipient (HTTP.md, "Presence"); what changes is read after the cursor."""
    members = [
        {"name": one.name, "since": timestamp(one.since), "readers": one.readers} for one in present.members
    ]
    shown = {"recipient": present.recipient, "readers": present.readers, "members": members}
    head = JSON + b"Comet-Cursor: %b\r\n" % str(cursor).encode()
    return Response(200, head, dumped({**shown, "more": True} if present.more else shown))


def registered(listener: ListenerSession, under: bytes) -> Response:
    """Return the answer to a registration; ``under`` is the path under which the interface lies."""
    location = b"Location: %b/listeners/%b\r\n" % (under, listener.id.encode())
    return Response(201, location + JSON, _described(listener))


def of_listener(listener: ListenerSession) -> Response:
    """Return a listener as it is shown (HTTP.md, "Listeners")."""
    return Response(200, JSON, _described(listener))


def _described(listener: ListenerSession) -> bytes:
    return dumped(
        {
            "id": listener.id,
            "recipients": listener.recipients,
            "expires_in": int(listener.ttl) if listener.ttl.is_integer() else listener.ttl,
            "cursor": str(listener.place),
        }
    )
