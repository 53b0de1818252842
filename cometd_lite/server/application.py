"""What the server asks of the application above it: its routes, and the responses where no route applies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar

from twisted.python.failure import Failure

Exchange_contra = TypeVar("Exchange_contra", contravariant=True)


class ServedRoute(Protocol):
    """One rule and what serves the requests that match it; see ``router`` for the rules."""

    @property
    def rule(self) -> str:
        """The rule: ``/metrics``, or ``/poll/<path:name>``."""

    @property
    def methods(self) -> Collection[str]:
        """The methods of the rule; GET includes HEAD."""

    @property
    def max_body(self) -> int | None:
        """The bytes that a body may have; None for ``Bounds.body``."""

    @property
    def body_bound(self) -> Callable[[Any, str | None], int] | None:
        """Return the bytes that the body of one request may have, where that is asked before it is read.

        It is called as ``call`` is, once the head is there. None where ``max_body`` is all there is to say.
        """

    @property
    def call(self) -> Callable[[Any, str | None], object]:
        """Serve a request: called with the exchange, and with the name, None where the rule has none.

        It answers, or parks what will answer. What it returns is ignored.
        """


class ServedResponse(Protocol):
    """A whole response, as an exchange sends it."""

    @property
    def status(self) -> int:
        """The status code."""

    @property
    def head(self) -> bytes:
        """``Name: value`` lines, each with its CRLF, without Date, Connection and the length."""

    @property
    def body(self) -> bytes:
        """The body; it is not sent for HEAD, 204 and 304."""


class Application(Protocol[Exchange_contra]):
    """The application of one factory. Each method but ``malformed`` answers the exchange that it is given."""

    @property
    def routes(self) -> Sequence[ServedRoute]:
        """All routes."""

    def preflight(self, exchange: Exchange_contra, methods: tuple[str, ...]) -> Any:
        """Answer OPTIONS; ``methods`` are those of the path, none where the path is unknown."""

    def not_found(self, exchange: Exchange_contra) -> Any:
        """Answer a request for an unknown path."""

    def not_allowed(self, exchange: Exchange_contra, methods: tuple[str, ...], route: Any) -> Any:
        """Answer a request whose method is not among the ``methods`` of its path; ``route`` serves one."""

    def too_large(self, exchange: Exchange_contra, route: Any, most: int) -> Any:
        """Answer a request whose body has more than ``most`` bytes for its ``route``; it was not read."""

    def failed(self, exchange: Exchange_contra, failure: Failure, path: bytes) -> Any:
        """Log an exception that a route did not handle, and answer; ``path`` is the one below the prefix."""

    def malformed(self, status: int, sentence: str, path: bytes) -> tuple[bytes, bytes]:
        """Return head lines and body of the response to what is not a request; the connection is closed.

        ``path`` is what it asks for below the prefix, as far as that is known; else it is empty.
        """
