"""A request and its response: the ``Exchange`` of ``cometd_lite/http/exchange.py``.

A response is sent by ``respond``, or as a stream by ``start``, ``write`` and ``finish``, or the connection is
given to another protocol by ``upgrade``. Once the client has disconnected, all of these do nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost

from .render import BODYLESS, JOINED_BYTES
from .twisted_request import TwistedWebRequest

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocol, IPushProducer
    from twisted.python.failure import Failure

    from .application import ServedResponse
    from .head import Head
    from .router import Target
    from .shared import ServedConnection

PENDING: Final = 0
STREAMING: Final = 1
COMPLETE: Final = 2
LOST: Final = 3
"""The phases of a response: nothing is written; its head is; all of it is; the client has disconnected."""

BODILESS: Final = 0
CHUNKED: Final = 1
TO_THE_END: Final = 2
"""How a stream is framed: not at all (HEAD, 204, 304); in chunks; by the end of the connection (HTTP/1.0)."""


class _NoMemo:
    """The target of a parked request: there is nothing to remember any more."""

    __slots__ = ()

    @property
    def memo(self) -> None:
        """None."""

    @memo.setter
    def memo(self, value: object) -> None:
        """Ignore the value."""


_NO_MEMO: Final = _NoMemo()


class Request:
    """One request; see ``Exchange`` for what routes use of it. The rest is for metrics and the access log."""

    minor: int
    """0 or 1, for HTTP/1.0 or HTTP/1.1."""
    rule: str
    """The rule of the route; empty where none matches."""
    code: int
    """The status of the response, once it has begun; 499 where the client disconnected before it."""
    sent: int
    """The bytes of the response's body, as above."""
    _parked: Deferred[Any] | None
    """It knows the request: a cycle, which is broken when the response is complete."""

    __slots__ = (
        "_connection",
        "_finish_waiters",
        "_framing",
        "_parked",
        "_phase",
        "_view",
        "body",
        "code",
        "head",
        "method",
        "minor",
        "path",
        "query",
        "received_at",
        "rule",
        "sent",
        "target",
    )

    def __init__(
        self, connection: ServedConnection, head: Head, target: Target, query: bytes, minor: int
    ) -> None:
        self._connection = connection
        self.method = target.method
        self.path = target.path
        self.query = query
        self.body = b""
        self.head = head
        self.target: Target | _NoMemo = target
        self.minor = minor
        self.received_at = connection.factory.seconds()
        self.rule = target.route.rule
        self._phase = PENDING
        self._parked = None
        self._finish_waiters: list[Deferred[None]] | None = None
        self._view: TwistedWebRequest | None = None

    def age(self) -> float:
        """Return the seconds since the request's head arrived."""
        return self._connection.factory.seconds() - self.received_at

    @property
    def has_started(self) -> bool:
        """Whether anything of the response was written."""
        return self._phase != PENDING

    # -- what the client sent

    @property
    def uri(self) -> bytes:
        """The path and the query."""
        return self.path + b"?" + self.query if self.query else self.path

    @property
    def client(self) -> str | None:
        """The address of the client; see ``Exchange``."""
        return self._connection.origin(self.head).address

    @property
    def is_secure(self) -> bool:
        """Whether the client uses TLS; see ``Exchange``."""
        secure = self._connection.origin(self.head).secure
        return self._connection.wire.is_secure if secure is None else secure

    @property
    def request(self) -> TwistedWebRequest:
        """The read side of ``IRequest``; made when it is first asked for."""
        view = self._view or TwistedWebRequest(self, self._connection)
        if self._phase < COMPLETE:  # later, nothing would break the cycle
            self._view = view
        return view

    # -- the client's presence

    def is_disconnected(self) -> bool:
        """Return whether the client has closed, even if the reactor has not reported it. A system call."""
        return self._phase == LOST or self._connection.wire.is_disconnected()

    def was_disconnected(self) -> bool:
        """Return whether the client had closed when this turn of the reactor began. Mostly free."""
        return self._phase == LOST or self._connection.wire.was_disconnected()

    def notifyFinish(self) -> Deferred[None]:  # noqa: N802  twisted.web's name
        """Return a Deferred that fires when the response is sent, or fails when the client disconnects."""
        if self._phase == COMPLETE:
            return succeed(None)
        if self._phase == LOST:
            return fail(ConnectionLost())
        waiter: Deferred[None] = Deferred()
        if self._finish_waiters is None:
            self._finish_waiters = []
        self._finish_waiters.append(waiter)
        return waiter

    def park(self, deferred: Deferred[Any]) -> None:
        """Cancel ``deferred`` when the client disconnects before the response is complete.

        The first one costs a slot; each further one goes the way of ``notifyFinish``.
        """
        if self._phase < COMPLETE:
            if not self.head.shared:
                self.head.forget()
            self.target = _NO_MEMO
            if self._connection.request_size > self._connection.factory.bounds.request_kept:
                self.hold(0)
            if self._parked is None:
                self._parked = deferred
            else:
                self.notifyFinish().addErrback(lambda _: deferred.cancel())
        elif self._phase == LOST:
            deferred.cancel()

    # -- the response

    def respond(self, response: ServedResponse | None) -> None:
        """Send a whole response. Raises ``RuntimeError`` where the exchange was answered before.

        None sends nothing: the route has answered itself.
        """
        if response is None:
            return
        if self._phase != PENDING:
            self._check_lost()
            return
        connection = self._connection
        factory = connection.factory
        self._phase = COMPLETE
        self.code = response.status
        renderer = factory.renderer
        if factory.stopping:
            connection.closing = True
        if self.minor and not connection.closing and self.method != b"HEAD":
            data = renderer.last_bytes if response is renderer.last else renderer.plain(response)
        else:
            data = None
        if data is None:
            self._respond_by_parts(response)
        else:
            self.sent = len(response.body)
            connection.wire.write(data)
        self._parked = None
        connection.answered(self)
        if self._finish_waiters is not None or self._view is not None:
            self._end()

    def _respond_by_parts(self, response: ServedResponse) -> None:
        """Send a response that is not a plain one."""
        status, body = response.status, response.body
        framing = b"" if status in BODYLESS else b"Content-Length: %d\r\n" % len(body)
        if status in BODYLESS or self.method == b"HEAD":
            body = b""
        self.sent = len(body)
        wire = self._connection.wire
        head = self._rendered_head(status, response.head, framing)
        if len(body) > JOINED_BYTES:
            wire.write(head)
            wire.write(body)
        else:
            wire.write(head + body)

    def start(self, status: int, head: bytes) -> None:
        """Send the head of a stream; ``write`` and ``finish`` follow.

        The body is chunked; for HTTP/1.0 it ends with the connection. Raises ``RuntimeError`` where the
        exchange was answered before.
        """
        if self._phase != PENDING:
            self._check_lost()
            return
        connection = self._connection
        self._phase = STREAMING
        self._framing = BODILESS
        self.code, self.sent = status, 0
        framing = b""
        if status not in BODYLESS and self.method != b"HEAD":
            if self.minor:
                self._framing = CHUNKED
                framing = b"Transfer-Encoding: chunked\r\n"
            else:
                self._framing = TO_THE_END
                connection.closing = True
        if connection.factory.stopping:
            connection.closing = True
        connection.wire.write(self._rendered_head(status, head, framing))

    def write(self, data: bytes) -> None:
        """Send a piece of a stream.

        A client that has left bytes unread, and would leave more than ``Bounds.write_buffer``, is
        disconnected. Raises ``RuntimeError`` where no stream was started, or after ``finish``.
        """
        if self._phase != STREAMING:
            self._check_lost()
            return
        framing, size = self._framing, len(data)
        if not size or framing == BODILESS:
            return
        self.sent += size
        wire = self._connection.wire
        was_unsent = wire.queue is not None
        if framing == TO_THE_END:
            wire.write(data)
        elif size > JOINED_BYTES:
            wire.write(b"%x\r\n" % size)
            wire.write(data)
            wire.write(b"\r\n")
        else:
            renderer = self._connection.factory.renderer
            wire.write(renderer.last_chunk if data is renderer.last_piece else renderer.chunk(data))
        if was_unsent and self.unsent() > self._connection.factory.bounds.write_buffer:
            wire.abortConnection()

    def finish(self) -> None:
        """End a stream. Raises ``RuntimeError`` where none was started, or after ``finish``."""
        if self._phase != STREAMING:
            self._check_lost()
            return
        self._phase = COMPLETE
        if self._framing == CHUNKED:
            self._connection.wire.write(b"0\r\n\r\n")
        self._parked = None
        self._connection.answered(self)
        self._end()

    def abort(self) -> None:
        """Close the connection now, and drop what is unsent; nothing where the response is complete."""
        if self._phase in {PENDING, STREAMING}:
            self._connection.wire.abortConnection()

    def unsent(self) -> int:
        """Return how many bytes were written and not taken by the kernel, as far as can be known."""
        queue = self._connection.wire.queue
        return 0 if queue is None else queue.size

    def hold(self, size: int) -> None:
        """Count ``size`` bytes that are kept of what the client has sent behind the request.

        Where all connections together keep too many, those that keep most are aborted.
        """
        connection = self._connection
        request = connection.request_size
        # What is asked for is there twice, as it came and parsed.
        connection.hold(size + (2 * request if request > connection.factory.bounds.request_kept else 0))

    def is_sending(self) -> bool:
        """Return whether bytes of the connection are unsent, or not acknowledged by the client."""
        return self._phase != LOST and self._connection.wire.is_sending()

    def register_producer(self, producer: IPushProducer) -> None:
        """Pause and resume ``producer`` at the pace at which the client reads."""
        if self._phase == LOST:
            producer.stopProducing()
        else:
            self._connection.wire.registerProducer(producer, True)

    def unregister_producer(self) -> None:
        """End that."""
        if self._phase != LOST:
            self._connection.wire.unregisterProducer()

    def upgrade(self, protocol: IProtocol, head: bytes) -> None:
        """Give the connection to ``protocol``, after ``101 Switching Protocols`` with the lines of ``head``.

        What the client sent after the request is delivered to ``protocol`` once the route has returned.
        Raises ``RuntimeError`` where the exchange was answered before.
        """
        if self._phase != PENDING:
            self._check_lost()
            return
        self.code, self.sent = 101, 0
        self._phase = COMPLETE
        self._connection.wire.write(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % head)
        self._parked = None
        self._connection.upgraded(protocol)
        self.hold(0)
        self._end()

    # -- the end

    def _end(self) -> None:
        """Fire what waits for the end of the response."""
        self._view = None
        waiters, self._finish_waiters = self._finish_waiters, None
        for waiter in waiters or ():
            waiter.callback(None)

    def lost(self, reason: Failure) -> None:
        """Cancel what is parked, and fail what waits for the end: the connection is lost."""
        if self._phase == PENDING:
            self.code, self.sent = 499, 0
        self._phase = LOST
        self._view = None
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.cancel()
        waiters, self._finish_waiters = self._finish_waiters, None
        for waiter in waiters or ():
            waiter.addErrback(_ignore)
            waiter.errback(reason)

    def _rendered_head(self, status: int, head: bytes, framing: bytes) -> bytes:
        """Return the head of a response, with what it says about the connection (RFC 9112 §9.3)."""
        connection = self._connection
        persistence = b"" if self.minor else b"Connection: keep-alive\r\n"
        if connection.closing:
            persistence = b"Connection: close\r\n"
        line = connection.factory.renderer.status_line(status)
        return b"%b%b%b%b\r\n" % (line, head, framing, persistence)

    def _check_lost(self) -> None:
        """Raise ``RuntimeError`` unless the client has disconnected."""
        if self._phase != LOST:
            raise RuntimeError("The exchange was answered before, or no stream was started.")


def _ignore(_: Failure) -> None:
    """Handle a failure that nothing else has handled: the client has disconnected."""
