"""A wire carries the bytes of one connection, both ways.

``Wire`` is all that the HTTP connection knows of the network, and it is the transport of a protocol that
takes the connection over. ``TwistedWire`` works over any transport of Twisted's: TLS, wrapped and in-memory
ones. Plain sockets have a faster wire in ``epoll.py``.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IConsumer, IPushProducer, ISSLTransport, ITransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from .unsent import SendQueue

if sys.platform == "linux":
    import fcntl
    import termios
else:  # TIOCOUTQ has another meaning there, or none
    fcntl = None

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.python.failure import Failure

    from .unsent import UnsentTotal

OPEN: Final = 0
CLOSING: Final = 1
SHUT: Final = 2
DEAD: Final = 3
"""The states of the sending side: open; to be closed once all is sent; closed; aborted or lost."""

NO_ADDRESS: Final = IPv4Address("TCP", "", 0)
"""The addresses of a connection that is lost."""

_PIECE: Final = 16 * 1024
"""The bytes that a Twisted transport gets at once: those it holds are not counted as unsent."""

_ALERT: Final = 0x15
_ENCRYPTED_ALERT: Final = b"\x17\x03\x03\x00\x13"
"""The beginning of a TLS 1.3 record with an alert: two bytes, encrypted (RFC 8446 §5.2). No HTTP is as
short."""

_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
"""As an int: to combine the flags of an enum costs more than the system call."""


class Owner(Protocol):
    """What receives the events of a wire. Two of the names are those of ``IProtocol``."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Take bytes that arrived."""

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        """Forget the wire. Called once, and never from within a call to the wire."""

    def drained(self) -> None:
        """Everything is sent, after something was unsent."""


@implementer(ITransport, IConsumer, IPushProducer)
class Wire:
    """One connection. No method raises or calls the owner in the same turn of the reactor.

    After the wire is closed, aborted or lost, what is written is dropped.
    """

    __slots__ = ("_life", "_paused", "_producer", "_total", "queue")

    is_secure = False
    """Whether the client uses TLS to this server."""

    def __init__(self, total: UnsentTotal) -> None:
        self._life = OPEN
        self._producer: Any = None
        self._paused = False
        """Whether the producer is paused."""
        self._total = total
        self.queue: SendQueue | None = None
        """What is unsent; None where the kernel has taken everything, except what is sent in this turn."""

    # -- ITransport, IConsumer and IPushProducer

    def write(self, data: bytes) -> None:
        """Send ``data``, in order. It is not copied where it has to wait."""
        if self._life == OPEN:
            if self.queue is not None:
                self._enqueue(data)
            else:
                self._send(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:  # noqa: N802  Twisted's name
        """Send all of ``data``."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        """Close once all is sent, and the producer is unregistered."""
        raise NotImplementedError

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """Close once all is sent."""
        self.loseConnection()

    def abortConnection(self) -> None:  # noqa: N802  Twisted's name
        """Close now, and drop what is unsent."""
        raise NotImplementedError

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """Stop reading."""
        raise NotImplementedError

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """Read again."""
        raise NotImplementedError

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802  Twisted's name
        """Pause and resume a push producer at the pace at which the client reads."""
        if not streaming:
            raise ValueError("Only push producers are supported.")
        if self._producer is not None:
            raise RuntimeError("There is a producer already.")
        if self._life == DEAD:
            producer.stopProducing()
        else:
            self._producer = producer
            self._pause_producer_if_full()

    def unregisterProducer(self) -> None:  # noqa: N802  Twisted's name
        """Forget the producer."""
        self._producer = None
        self._paused = False
        self._close_if_sent()

    def getPeer(self) -> Any:  # noqa: N802  Twisted's name
        """Return the address of the client; an empty one if the connection is lost."""
        raise NotImplementedError

    def getHost(self) -> Any:  # noqa: N802  Twisted's name
        """Return the address of the server; an empty one if the connection is lost."""
        raise NotImplementedError

    # -- what Twisted's transports do not have

    def half_close(self) -> None:
        """Close the sending side once all is sent, and go on reading, where the transport can do that."""
        raise NotImplementedError

    def is_disconnected(self) -> bool:
        """Return whether the client has closed, even if the reactor has not reported it. A system call."""
        raise NotImplementedError

    def was_disconnected(self) -> bool:
        """Return whether the client had closed when this turn of the reactor began. Mostly free."""
        return self.is_disconnected()

    def is_sending(self) -> bool:
        """Return whether bytes are unsent, or not acknowledged by the client, as far as can be known."""
        return self.queue is not None

    def lost(self) -> None:
        """Forget the owner, which was notified that the connection is lost."""

    # -- for the wires

    def _send(self, data: bytes) -> None:
        """Send ``data`` while nothing is queued, and queue what is not taken."""
        raise NotImplementedError

    def _end(self) -> None:
        """Close the connection: everything is sent."""
        raise NotImplementedError

    def _enqueue(self, data: bytes, start: int = 0) -> None:
        """Queue ``data`` from ``start`` on. The wire may be aborted afterwards."""
        if self.queue is None:
            self.queue = SendQueue(self._total, self.abortConnection)
        self.queue.append(data, start)
        self._pause_producer_if_full()

    def _is_full(self) -> bool:
        """Return whether a producer should pause: anything is unsent.

        Twisted's transports pause a producer at 64 KB. A stream that is not read would cost as much.
        """
        return self.queue is not None

    def _pause_producer_if_full(self) -> None:
        if self._producer is not None and not self._paused and self._is_full():
            self._paused = True
            self._producer.pauseProducing()

    def _emptied(self, owner: Owner) -> None:
        """Go on: everything in the queue is sent."""
        self._drop_queue()
        if self._paused:
            self._paused = False
            self._producer.resumeProducing()
        self._close_if_sent()
        owner.drained()

    def _drop_queue(self) -> None:
        queue, self.queue = self.queue, None
        if queue is not None:
            queue.clear()

    def _close_if_sent(self) -> None:
        if self._life == CLOSING and self.queue is None and self._producer is None:
            self._end()

    def _stop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()


class TwistedWire(Wire):
    """A wire over any ``ITransport``.

    The wire is the producer of its transport, and writes only while the transport is not full.
    """

    __slots__ = ("_full", "_owner", "_transport", "is_secure")

    def __init__(self, transport: Any, owner: Owner, total: UnsentTotal) -> None:
        super().__init__(total)
        self._transport = transport
        self._owner: Owner | None = owner
        self._full = False
        self.is_secure = bool(ISSLTransport.providedBy(transport))
        lowest = _lowest(transport)
        if hasattr(lowest, "bufferSize"):
            lowest.bufferSize = _PIECE
        sock = _socket_of(transport)
        if sock is not None:
            tune(sock)
        transport.registerProducer(_Pacer(self), True)

    def _send(self, data: bytes) -> None:
        start = 0
        while start < len(data) and not self._full:
            self._transport.write(data if len(data) <= _PIECE else data[start : start + _PIECE])
            start += _PIECE
        if start < len(data):
            self._enqueue(data, start)

    def _is_full(self) -> bool:
        return self._full

    def filled(self) -> None:
        """Write no more: the transport has enough to send."""
        self._full = True
        self._pause_producer_if_full()

    def emptied(self) -> None:
        """Write what is queued: the transport has sent everything."""
        self._full = False
        queue = self.queue
        while queue is not None and queue.size and not self._full:
            piece = bytes(queue.first()[:_PIECE])
            queue.sent(len(piece))
            self._transport.write(piece)
        if not self._full and self._owner is not None:
            self._emptied(self._owner)

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        if self._life == OPEN:
            self._life = CLOSING
            self._close_if_sent()

    def _end(self) -> None:
        self._life = SHUT
        self._transport.unregisterProducer()  # a push producer would keep the transport open
        self._transport.loseConnection()

    def half_close(self) -> None:
        """Do nothing: TLS has no half-closed connections; see ``Wire``."""

    def abortConnection(self) -> None:  # noqa: N802  Twisted's name
        if self._life != DEAD:
            self._life = DEAD
            self._drop_queue()
            self._transport.abortConnection()

    def lost(self) -> None:
        """Forget the owner: the transport has notified it that the connection is lost."""
        self._life = DEAD
        self._owner = None
        self._transport = None  # it may know the owner: a cycle would live until old garbage is collected
        self._drop_queue()
        self._stop_producer()

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        if self._life != DEAD:
            self._transport.pauseProducing()

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        if self._life != DEAD:
            self._transport.resumeProducing()

    def is_disconnected(self) -> bool:
        sock = _socket_of(self._transport)
        return self._life == DEAD or (sock is not None and peer_has_closed(sock, tls=self.is_secure))

    def is_sending(self) -> bool:
        sock = _socket_of(self._transport)
        return self.queue is not None or self._full or (sock is not None and has_unacknowledged(sock))

    def getPeer(self) -> Any:  # noqa: N802  Twisted's name
        return NO_ADDRESS if self._transport is None else self._transport.getPeer()

    def getHost(self) -> Any:  # noqa: N802  Twisted's name
        return NO_ADDRESS if self._transport is None else self._transport.getHost()


@implementer(IPushProducer)
class _Pacer:
    """The producer that a transport pauses, since a wire's own ``pauseProducing`` stops its reading."""

    __slots__ = ("_wire",)

    def __init__(self, wire: TwistedWire) -> None:
        self._wire = wire

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """Stop writing."""
        self._wire.filled()

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """Write again."""
        self._wire.emptied()

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: the owner is notified that the connection is lost."""


def peer_has_closed(sock: socket.socket, *, tls: bool = False) -> bool:
    """Return whether the next read reports that the client has closed or reset the connection.

    Under TLS the beginning of the next record is read too, because an alert announces a close.
    """
    try:
        data = sock.recv(5, _PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return not data or (tls and (data[0] == _ALERT or data == _ENCRYPTED_ALERT))


def has_unacknowledged(sock: socket.socket) -> bool:
    """Return whether the kernel holds bytes that the peer has not acknowledged, where it reports this."""
    if fcntl is None:
        return False
    try:
        return any(fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))
    except OSError:
        return False


def learns_peer_later(transport: Any) -> bool:
    """Return whether a transport may know its client only after the first bytes (the PROXY protocol)."""
    return isinstance(transport, ProtocolWrapper) and not isinstance(transport, TLSMemoryBIOProtocol)


def tune(sock: socket.socket) -> None:
    """Send small responses at once, and notice within two minutes that a client has vanished.

    A client that acknowledges nothing of what was sent is disconnected after one minute.
    """
    with contextlib.suppress(OSError, AttributeError):  # a UNIX socket has none of these, macOS not all
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)


def _lowest(transport: Any) -> Any:
    """Return the transport at the bottom of a stack of wrappers."""
    while getattr(transport, "transport", None) is not None:
        transport = transport.transport
    return transport


def _socket_of(transport: Any) -> socket.socket | None:
    """Return the socket of a transport, None where it has none."""
    sock = getattr(_lowest(transport), "socket", None)
    return sock if isinstance(sock, socket.socket) else None
