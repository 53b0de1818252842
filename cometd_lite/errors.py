"""Every way in which a request can be refused; each knows its HTTP status and how to be retried.

Errors are raised where they happen and become a response in one place (``routes/routing.py``).
"""

from __future__ import annotations

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
"""Titles of what is wrong below the routes: ``server/`` knows only statuses. Not the phrases of ``http``,
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

    def __init_subclass__(
        cls,
        status: int | None = None,
        title: str | None = None,
        kind: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Set the attributes that the header of the class gives; the others are inherited."""
        if status is not None:
            cls.status = status
        if title is not None:
            cls.title, cls.kind = title, kind or kind_of(title)
        if retry_after is not None:
            cls.retry_after = retry_after

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


def kinds() -> dict[int, list[str]]:
    """Return the kinds of all problems that a server answers with, by their status."""
    found: dict[int, set[str]] = {}
    for status, title in MALFORMED.items():
        found.setdefault(status, set()).add(kind_of(title))
    errors = [CometError]
    while errors:
        error = errors.pop()
        errors += error.__subclasses__()
        if error.__module__ == __name__:  # a client's own are never answered
            found.setdefault(error.status, set()).add(error.kind)
    return {status: sorted(names) for status, names in sorted(found.items())}


class InternalError(CometError):
    """A fault of the server's own; its detail never says more than that."""


class BadRequest(CometError, status=400, title="Bad request"):
    """The request cannot be understood."""


class BadRecipient(BadRequest, title="Bad recipient"):
    """The name of a recipient is missing or not allowed."""


class BadCursor(BadRequest, title="Bad cursor"):
    """A cursor that no server of this kind gives out."""


class BadParameter(BadRequest, title="Bad parameter"):
    """A query parameter or header with a value that is not allowed."""


class BadBody(BadRequest, title="Bad body"):
    """A body that is empty, or not what its media type says."""


class Unauthorized(CometError, status=401, title="Unauthorized"):
    """No token, or one that does not hold."""


class TokenExpired(Unauthorized):
    """A token that was good, until its time was over."""


class Forbidden(CometError, status=403, title="Forbidden"):
    """Known, but not allowed."""


class ForbiddenOrigin(Forbidden, title="Forbidden origin"):
    """A web page of a foreign origin tried to change something."""


class NotFound(CometError, status=404, title="Not found"):
    """Nothing lives at this path."""


class MethodNotAllowed(CometError, status=405, title="Method not allowed"):
    """The path is known, the method is not; ``allowed`` are those that are."""

    def __init__(self, detail: str, allowed: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.allowed = allowed


class ListenerGone(CometError, status=410, title="Listener gone"):
    """The listener was not polled in time, or was ended: register again."""


class BodyTooLarge(CometError, status=413, title="Body too large"):
    """The body is over the bound."""


class UnsupportedEncoding(CometError, status=415, title="Unsupported encoding"):
    """The body has a Content-Encoding other than identity."""


class Misdirected(CometError, status=421, title="Misdirected request", kind="misdirected"):
    """The request's Host is not one that this server answers to (DNS rebinding)."""


class KeyReused(CometError, status=422, title="Idempotency key reused"):
    """An idempotency key came back with another body."""


class UpgradeRequired(CometError, status=426, title="Upgrade required"):
    """A WebSocket was asked for in a version that is not spoken here (RFC 6455 §4.2.2)."""


class TooManyRequests(CometError, status=429, title="Too many requests", retry_after=1):
    """One client asks too much; others are still served."""

    def __init__(self, detail: str, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unavailable(CometError, status=503, title="Unavailable", retry_after=1):
    """Not now; the same request may succeed later."""


class MailboxFull(Unavailable, title="Mailbox full", retry_after=5):
    """The mailbox holds as much as it may, and no reader has fetched it."""


class NobodyWaits(Unavailable, title="Nobody waits"):
    """A push that must not be queued found no waiting reader."""


class ServerFull(Unavailable, title="Server full", retry_after=5):
    """The server's own bound on memory, mailboxes or parked polls is reached."""


class ApplicationDown(Unavailable, title="Application down"):
    """The application that decides who may do what did not say whether this may be done."""


class StoreDown(Unavailable, title="Store down"):
    """What holds the mailboxes does not answer."""

    def __init__(self, detail: str = "The store is not reached now; try again later.") -> None:
        super().__init__(detail)


class Stopping(Unavailable, title="Server stopping", kind="stopping"):
    """The server is going away; another one, or the next one, will answer."""
