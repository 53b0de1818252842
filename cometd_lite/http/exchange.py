"""The Exchange: one HTTP request and its response, as every route sees it.

A route sees an ``Exchange`` and nothing else. It does not know which server is below it. There are two
adapters: ``server.Request``, of the server below ``twistd cometd-lite``, and ``site.TwistedWebExchange``,
which wraps a request of a twisted.web site.

An exchange is answered once: by ``respond`` for a whole response, by ``start``, ``write`` and ``finish``
for a stream, or by ``upgrade`` for another protocol. After the client has disconnected, each of these does
nothing.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IPushProducer

from ..access.questions import Asker, FieldValues


class ResponseLike(Protocol):
    """What ``respond`` sends: ``http.responses.Response`` is one."""

    @property
    def status(self) -> int:
        """The status code."""

    @property
    def head(self) -> bytes:
        """Ready ``Name: value`` lines, each with its CRLF; the server adds Date, length and connection."""

    @property
    def body(self) -> bytes:
        """The body; it is not sent for HEAD, 204 and 304."""


class Memo(Protocol):
    """A part of a request that comes again, with a slot for what was parsed from it."""

    memo: Any
    """What ``http.params`` made of it the last time; None at first. Only ``http.params`` uses it."""


class ExchangeHead(FieldValues, Memo, Protocol):
    """The header fields of a request; requests that sent the same bytes may share one."""


class Exchange(Asker, Protocol):
    """One request, and the one response to it."""

    @property
    def method(self) -> bytes:
        """The method as it came: methods are case-sensitive (RFC 9110 §9.1)."""

    @property
    def body(self) -> bytes:
        """The whole body."""

    @property
    def head(self) -> ExchangeHead:
        """The header fields."""

    @property
    def target(self) -> Memo:
        """The method and path; requests for the same path may share one."""

    @property
    def uri(self) -> bytes:
        """The target as it came."""

    def is_disconnected(self) -> bool:
        """Return whether the client has closed, even if the reactor has not reported it. A system call."""

    def was_disconnected(self) -> bool:
        """Return whether the client had closed when this turn of the reactor began. Mostly free."""

    def notifyFinish(self) -> Deferred[None]:  # noqa: N802  twisted.web's name
        """Return a Deferred that fires when the response is sent, or fails when the client disconnects."""

    def park(self, deferred: Deferred[Any]) -> None:
        """Cancel ``deferred`` when the client disconnects before the response is complete.

        It is defined by ``notifyFinish().addErrback(lambda _: deferred.cancel())``.
        """

    def respond(self, response: ResponseLike | None) -> None:
        """Send a whole response. Raises ``RuntimeError`` where the exchange was answered before.

        None sends nothing: the handler has answered itself.
        """

    def start(self, status: int, head: bytes) -> None:
        """Send the head of a stream; ``write`` and ``finish`` follow."""

    def write(self, data: bytes) -> None:
        """Send a piece of a stream."""

    def finish(self) -> None:
        """End a stream."""

    def abort(self) -> None:
        """Close the connection now, and drop what is unsent."""

    def unsent(self) -> int:
        """Return how many bytes were written and not taken by the kernel, as far as can be known."""

    def hold(self, size: int) -> None:
        """Count ``size`` bytes that are kept of what the client has sent behind the request.

        Where all connections together keep too many, those that keep most are disconnected.
        """

    def is_sending(self) -> bool:
        """Return whether some of what was written is on its way: unsent, or not acknowledged by the client.

        A system call. False where that cannot be known, and once the client has disconnected. It may be asked
        after the exchange has ended.
        """

    def register_producer(self, producer: IPushProducer) -> None:
        """Pause and resume ``producer`` at the pace at which the client reads."""

    def unregister_producer(self) -> None:
        """End that."""

    def upgrade(self, protocol: IProtocol, head: bytes) -> None:
        """Give the connection to ``protocol``, after ``101 Switching Protocols`` with the lines of ``head``.

        What the client sent after the request is delivered to ``protocol`` once the route has returned.
        """
