"""A request as routes see it, and the answer as they give it.

There are two ways to answer. The short ones cost one write: ``respond`` for a whole answer; ``start``,
``write`` and ``finish`` for a stream. They take their fields as a ready block of ``Name: value`` lines. The
long one is twisted.web's (``irequest.py``).
"""

from __future__ import annotations

from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, Final, Protocol

from klein import Response
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.iweb import IRenderable, IRequest
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import NOT_DONE_YET
from twisted.web.template import renderElement
from zope.interface import implementer

from .irequest import BODYLESS, Extra, LongWay

if TYPE_CHECKING:
    from .connection import HTTPConnection
    from .head import Head
    from .router import Route, Target

PENDING: Final = 0
STREAMING: Final = 1
DONE: Final = 2
GONE: Final = 3
"""The life of an answer: nothing was sent; its head was; all of it was; nobody is left to read it."""


class Cancellable(Protocol):
    """What a request waits for: a Deferred, or anything that can be told that nobody waits any more."""

    def cancel(self) -> object:
        """Forget the request. Nothing is to be raised."""


@implementer(IRequest)
class Request(LongWay):
    """One request. ``method``, ``uri``, its parts ``path`` and ``query``, and ``body``: bytes as they came.

    ``received_at`` is the clock's time in seconds; ``code`` the status of the answer and ``sent`` the bytes
    of its body, for a log. ``route`` is what serves it, None where nothing was found.

    A route that returns a Deferred has it cancelled when the peer is gone. One that would rather not pay for
    a Deferred (3 µs and 1 KB) gives anything with a ``cancel()`` to ``hold``, returns ``NOT_DONE_YET`` and
    responds later; what it raises then is its own affair.
    """

    __slots__ = ("_bodyless", "_chunked", "_phase", "_plain", "parked")

    def __init__(
        self,
        channel: HTTPConnection,
        head: Head,
        method: bytes,
        uri: bytes,
        path: bytes,
        query: bytes,
        minor: int,
        now: float,
    ) -> None:
        self.channel = channel
        self.head = head
        self.method = method
        self.uri = uri
        self.path = path
        self.query = query
        self.minor = minor
        self.received_at = now
        self.body = b""
        self.code = 200
        self.sent = 0
        self.route: Route | None = None
        self.target: Target | None = None
        self.parked: Cancellable | None = None
        self.extra: Extra | None = None
        self._phase = PENDING
        self._bodyless = method == b"HEAD"
        # Whether there is nothing to say but the answer and its length.
        self._plain = minor == 1 and not head.close and not self._bodyless

    def age(self) -> float:
        """Return how many seconds ago it came."""
        return self.channel.factory.seconds() - self.received_at

    def getHeader(self, key: Any) -> Any:  # noqa: N802  IRequest's name
        """Return a field's value or None; bytes for a name in bytes, str for a str."""
        if isinstance(key, str):
            value = self.head.get(key.lower().encode("utf-8", "replace"))
            return None if value is None else value.decode("utf-8", "replace")
        return self.head.get(key.lower())

    @property
    def transport(self) -> Any:
        """The transport below, as Twisted knows it."""
        return self.channel.transport

    @property
    def startedWriting(self) -> bool:  # noqa: N802  twisted.web's name
        """Whether the head of the answer was sent."""
        return self._phase != PENDING

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self._phase == DONE

    def processingFailed(self, reason: Failure) -> Failure:  # noqa: N802  twisted.web's name
        """Log a failure that nobody took care of, and answer 500, or cut off an answer that had begun."""
        self.channel.failed(self, reason)
        return reason

    def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Send a whole answer in one write: status line, Date, ``head``, Content-Length, ``body``.

        ``head`` is a block of ``Name: value`` lines, each with its CRLF, without Date, Content-Length,
        Transfer-Encoding and Connection. The body is dropped for HEAD, 204 and 304. Nothing happens if the
        peer is gone. Raises ``RuntimeError`` if the request was answered before.
        """
        if self._phase:
            self._must_be_gone()
            return
        channel = self.channel
        factory = channel.factory
        self.code = status
        line = factory.status_lines.get(status) or factory.status_line(status)
        if self._plain and status not in BODYLESS and not factory.stopping:
            self.sent = len(body)
            last = factory.last_answer
            if last[2] is body and last[1] is head and last[0] is line:
                data = last[3]
            else:
                data = b"%b%bContent-Length: %d\r\n\r\n%b" % (line, head, len(body), body)
                factory.last_answer = (line, head, body, data)
        else:
            length = b"" if status in BODYLESS else b"Content-Length: %d\r\n" % len(body)
            if self._bodyless or status in BODYLESS:
                body = b""
            self.sent = len(body)
            data = b"%b%b%b%b\r\n%b" % (line, head, length, self._connection(), body)
        self._phase = DONE
        channel.wire.write(data)
        channel.answered(self)

    def start(self, status: int, head: bytes, first: bytes = b"") -> None:
        """Send the head of a stream, and ``first`` in the same write; ``write`` and ``finish`` follow.

        ``head`` is as for ``respond``. The body is chunked; for HTTP/1.0 it ends with the connection. Nothing
        happens if the peer is gone. Raises ``RuntimeError`` if the request was answered before.
        """
        if self._phase:
            self._must_be_gone()
            return
        factory = self.channel.factory
        self.code = status
        self._phase = STREAMING
        self._chunked = False
        self._bodyless = self._bodyless or status in BODYLESS
        length = None if self.extra is None else self.extra.length
        framing = b""
        if length is not None and status not in BODYLESS:
            framing = b"Content-Length: %d\r\n" % length
        elif not self._bodyless and self.minor:
            self._chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        elif not self._bodyless:
            self.close_after()
        line = factory.status_lines.get(status) or factory.status_line(status)
        data = b"%b%b%b%b\r\n" % (line, head, framing, self._connection())
        if first and not self._bodyless:
            self.sent = len(first)
            data += b"%x\r\n%b\r\n" % (len(first), first) if self._chunked else first
        self.channel.wire.write(data)

    def write(self, data: bytes) -> None:
        """Send a piece of a stream. The first piece sends the head that was set with ``setHeader``.

        A reader that has left bytes unread, and more than ``Bounds.write_buffer`` with this piece, is cut
        off; ``buffered`` tells before. Nothing happens if the peer is gone. Raises ``RuntimeError`` after
        ``finish``.
        """
        if self._phase == PENDING:
            self.start(self.code, self.fields())
        elif self._phase != STREAMING:
            self._must_be_gone()
            return
        if not data or self._bodyless:
            return
        self.sent += len(data)
        wire = self.channel.wire
        was_unsent = wire.unsent
        wire.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if was_unsent and wire.pending() > self.channel.factory.bounds.write_buffer:
            wire.abort()

    def finish(self) -> None:
        """Complete the answer. Nothing happens if the peer is gone.

        Raises ``RuntimeError`` if it was completed before.
        """
        if self._phase == PENDING:
            self.respond(self.code, self.fields(), b"")
            return
        if self._phase != STREAMING:
            self._must_be_gone()
            return
        self._phase = DONE
        channel = self.channel
        if self._chunked:
            channel.wire.write(b"0\r\n\r\n")
        elif self.extra is not None and self.extra.length not in {None, self.sent} and not self._bodyless:
            # Less or more than was announced: the peer must not take the next answer for a part of this one.
            channel.closing = True
        channel.answered(self)

    def give(self, body: bytes) -> None:
        """Complete the answer with ``body``, after what was set and written before."""
        if self._phase:
            self.write(body)
            self.finish()
        else:
            self.respond(self.code, self.fields(), body)

    def buffered(self) -> int:
        """Return how many bytes the peer has not taken yet, as far as the transport tells."""
        return self.channel.wire.pending()

    def gone(self) -> bool:
        """Whether the peer has closed, even if the reactor has not noticed yet. Costs a system call."""
        return self._phase == GONE or self.channel.wire.gone()

    def seems_gone(self) -> bool:
        """Whether the peer had closed before whatever is served now has come. Mostly costs nothing."""
        return self._phase == GONE or self.channel.wire.seems_gone()

    def close_after(self) -> None:
        """Let the answer say ``Connection: close``, and close after it."""
        self.channel.closing = True
        self._plain = False

    def upgrade(self, protocol: Any, head: bytes | None = None) -> None:
        """Hand the connection on to ``protocol``, an ``IProtocol`` whose transport is the real one.

        ``head``, unless None, is sent before: the lines after ``101 Switching Protocols`` (RFC 9110 §7.8),
        each with its CRLF. What the peer sent after the request is delivered once the route has returned.
        """
        if self._phase:
            self._must_be_gone()
            return
        self.code = 101
        self._phase = DONE
        if head is not None:
            self.channel.wire.write(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % head)
        self.channel.hand_on(self, protocol)

    def notifyFinish(self) -> Deferred[None]:  # noqa: N802  IRequest's name
        """Return a Deferred that fires with None after the answer, or fails if the peer is gone before."""
        done: Deferred[None] = Deferred()
        self.more().notified.append(done)
        return done

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802  IConsumer's name
        """Let ``producer`` write at the pace at which the peer reads."""
        if self._phase == GONE:
            producer.stopProducing()
        else:
            self.channel.wire.register_producer(producer, streaming)

    def unregisterProducer(self) -> None:  # noqa: N802  IConsumer's name
        """End that."""
        if self._phase != GONE:
            self.channel.wire.unregister_producer()

    def hold(self, parked: Cancellable) -> None:
        """Wait: ``parked`` answers later, or is cancelled when the peer is gone."""
        self.parked = parked
        self.head.forget()
        self.target = None  # of a line that came once, nobody else has it

    # -- what the connection does with a request

    def deliver(self, result: Any) -> None:
        """Make the answer of what a route returned; where it is a Deferred, of what that fires with."""
        if result is NOT_DONE_YET or (result is None and self._phase == DONE):
            return
        if isinstance(result, Deferred):
            if self._phase < DONE:
                self.hold(result)
            result.addCallbacks(self._fired, self._fired)
            return
        if self._phase >= DONE:
            return
        if isinstance(result, str):
            result = result.encode()
        if isinstance(result, bytes):
            self.give(result)
        elif iscoroutine(result):
            self.deliver(Deferred.fromCoroutine(result))
        elif result is None:
            self.finish()
        else:
            self._render(result)

    def _fired(self, result: Any) -> None:
        """Take what the route's Deferred fired with."""
        self.parked = None
        if result is None and self._phase == DONE:
            return
        if isinstance(result, Failure):
            self.channel.recover(self, result)
            return
        try:
            self.deliver(result)
        except Exception:  # noqa: BLE001  whatever a route may do must not reach the reactor
            self.channel.recover(self, Failure())

    def _render(self, result: Any) -> None:
        """Answer with one of the objects that Klein renders."""
        if isinstance(result, Response):
            self.deliver(result._applyToRequest(self))
        elif IResource.providedBy(result):
            self.render(getChildForRequest(result, self))
        elif IRenderable.providedBy(result):
            renderElement(self, result)
        else:
            # Klein ends the answer for whatever else is returned.
            self.finish()

    def end(self) -> None:
        """Tell those who wait for the end of the answer."""
        if self.extra is not None:
            waiting, self.extra.notified = self.extra.notified, []
            for done in waiting:
                done.callback(None)

    def lose(self, reason: Failure) -> None:
        """Forget the peer: cancel what the route waits for, and tell those who wait for the end."""
        self._phase = GONE
        parked, self.parked = self.parked, None
        if parked is not None:
            parked.cancel()
        if self.extra is not None:
            waiting, self.extra.notified = self.extra.notified, []
            for done in waiting:
                done.addErrback(_swallow)
                done.errback(reason)

    def _connection(self) -> bytes:
        """Return what this answer has to say about its connection (RFC 9112 §9.3)."""
        channel = self.channel
        if channel.factory.stopping:
            channel.closing = True
        if channel.closing:
            return b"Connection: close\r\n"
        return b"" if self.minor else b"Connection: keep-alive\r\n"

    def _must_be_gone(self) -> None:
        """Let pass what comes too late because the peer left; anything else is a mistake of the route's."""
        if self._phase != GONE:
            raise RuntimeError("The request was answered before.")


def _swallow(failure: Failure) -> None:
    """Nobody listened for the end."""
    del failure
