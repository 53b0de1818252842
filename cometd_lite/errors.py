"""Every way in which a request can be refused; each knows its HTTP status and how to be retried.

Errors are raised where they happen and become a response in one place (``web.py``). The tree::

    CometError
    ├── BadRequest 400
    │   ├── BadRecipient      a name that no mailbox can have
    │   ├── BadCursor         an ``after`` that this server never gave out
    │   ├── BadParameter      a query or header that HTTP.md does not allow
    │   └── BadBody           a body that is not what its type says
    ├── Unauthorized 401      no token, or not a good one
    │   └── TokenExpired      one that was good
    ├── Forbidden 403         a good token that does not cover the recipient
    │   └── ForbiddenOrigin   a web page that was not allowed by --allow-origin
    ├── NotFound 404
    ├── MethodNotAllowed 405
    ├── ListenerGone 410      not polled for its ttl, or ended
    ├── BodyTooLarge 413
    ├── UnsupportedEncoding 415  a body that is compressed
    ├── Misdirected 421       a Host that this server does not answer to
    ├── KeyReused 422         an Idempotency-Key with another body
    ├── UpgradeRequired 426   a WebSocket of another version than 13
    ├── TooManyRequests 429
    ├── InternalError 500     ours, never the client's
    └── Unavailable 503
        ├── MailboxFull       no reader has fetched what it holds
        ├── NobodyWaits       queue=no, and no reader waited
        ├── ServerFull        the bound on memory, mailboxes or parked polls
        ├── ApplicationDown   the application that decides who may do what has no say
        ├── StoreDown         what holds the mailboxes does not answer
        └── Stopping          the server is going away
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar


def problem_type(kind: str) -> str:
    """Return the stable URI of a kind of problem (RFC 9457 §3.1.1)."""
    return f"urn:cometd-lite:problem:{kind}"


def kind_of(title: str) -> str:
    """Return the kind of a problem that has no class, by its title."""
    return title.lower().replace(" ", "-").replace("/", "-")


MALFORMED: dict[int, str] = {
    400: "Bad request",
    408: "Request timeout",
    414: "URI too long",
    417: "Expectation failed",
    429: "Too many requests",
    431: "Request header fields too large",
    500: "Internal error",
    503: "Server full",
    505: "HTTP version not supported",
}
"""Titles of what is wrong below the routes: ``serving/`` knows only statuses. Not the phrases of ``http``,
which change with Python's version, while a problem's type is stable."""


class CometError(Exception):
    """A refusal, which the client gets as a problem of RFC 9457.

    ``detail`` says what was wrong and what is right. ``retry_after`` is in seconds; where it is not
    None, the client may try the same again later.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    retry_after: int | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def problem(self) -> dict[str, Any]:
        """Return the members of the problem document (RFC 9457 §3.1)."""
        return {
            "type": problem_type(self.kind),
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }


def kinds() -> Iterator[str]:
    """Yield the kinds of all problems that there are; some more than once."""
    yield from map(kind_of, MALFORMED.values())
    errors = [CometError]
    while errors:
        error = errors.pop()
        yield error.kind
        errors += error.__subclasses__()


class InternalError(CometError):
    """A fault of the server's own; its detail never says more than that."""


class BadRequest(CometError):
    """The request cannot be understood."""

    status = 400
    kind = "bad-request"
    title = "Bad request"


class BadRecipient(BadRequest):
    """The name of a recipient is missing or not allowed."""

    kind = "bad-recipient"
    title = "Bad recipient"


class BadCursor(BadRequest):
    """A cursor that no server of this kind gives out."""

    kind = "bad-cursor"
    title = "Bad cursor"


class BadParameter(BadRequest):
    """A query parameter or header with a value that is not allowed."""

    kind = "bad-parameter"
    title = "Bad parameter"


class BadBody(BadRequest):
    """A body that is empty, or not what its media type says."""

    kind = "bad-body"
    title = "Bad body"


class Unauthorized(CometError):
    """No token, or one that does not hold."""

    status = 401
    kind = "unauthorized"
    title = "Unauthorized"


class TokenExpired(Unauthorized):
    """A token that was good, until its time was over."""


class Forbidden(CometError):
    """Known, but not allowed."""

    status = 403
    kind = "forbidden"
    title = "Forbidden"


class ForbiddenOrigin(Forbidden):
    """A web page of a foreign origin tried to change something."""

    kind = "forbidden-origin"
    title = "Forbidden origin"


class NotFound(CometError):
    """Nothing lives at this path."""

    status = 404
    kind = "not-found"
    title = "Not found"


class MethodNotAllowed(CometError):
    """The path is known, the method is not; ``allowed`` are those that are."""

    status = 405
    kind = "method-not-allowed"
    title = "Method not allowed"

    def __init__(self, detail: str, allowed: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.allowed = allowed


class ListenerGone(CometError):
    """The listener was not polled in time, or was ended: register again."""

    status = 410
    kind = "listener-gone"
    title = "Listener gone"


class BodyTooLarge(CometError):
    """The body is over the bound."""

    status = 413
    kind = "body-too-large"
    title = "Body too large"


class UnsupportedEncoding(CometError):
    """The body has a Content-Encoding other than identity."""

    status = 415
    kind = "unsupported-encoding"
    title = "Unsupported encoding"


class Misdirected(CometError):
    """The request's Host is not one that this server answers to (DNS rebinding)."""

    status = 421
    kind = "misdirected"
    title = "Misdirected request"


class KeyReused(CometError):
    """An idempotency key came back with another body."""

    status = 422
    kind = "idempotency-key-reused"
    title = "Idempotency key reused"


class UpgradeRequired(CometError):
    """A WebSocket was asked for in a version that is not spoken here (RFC 6455 §4.2.2)."""

    status = 426
    kind = "upgrade-required"
    title = "Upgrade required"


class TooManyRequests(CometError):
    """One client asks too much; others are still served."""

    status = 429
    kind = "too-many-requests"
    title = "Too many requests"
    retry_after: int | None = 1

    def __init__(self, detail: str, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unavailable(CometError):
    """Not now; the same request may succeed later."""

    status = 503
    kind = "unavailable"
    title = "Unavailable"
    retry_after: int | None = 1


class MailboxFull(Unavailable):
    """The mailbox holds as much as it may, and no reader has fetched it."""

    kind = "mailbox-full"
    title = "Mailbox full"
    retry_after = 5


class NobodyWaits(Unavailable):
    """A push that must not be queued found no waiting reader."""

    kind = "nobody-waits"
    title = "Nobody waits"


class ServerFull(Unavailable):
    """The server's own bound on memory, mailboxes or parked polls is reached."""

    kind = "server-full"
    title = "Server full"
    retry_after = 5


class ApplicationDown(Unavailable):
    """The application that decides who may do what did not say whether this may be done."""

    kind = "application-down"
    title = "Application down"


class StoreDown(Unavailable):
    """What holds the mailboxes does not answer."""

    kind = "store-down"
    title = "Store down"

    def __init__(self, detail: str = "The store is not reached now; try again later.") -> None:
        super().__init__(detail)


class Stopping(Unavailable):
    """The server is going away; another one, or the next one, will answer."""

    kind = "stopping"
    title = "Server stopping"
