"""What a connection asks of whatever carries its bytes, and the carrier over any of Twisted's transports.

``Wire`` is all that the HTTP protocol knows of the network. ``TwistedWire`` serves TLS, wrapped and in-memory
transports; plain sockets have a faster wire in ``sockets.py``.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IPushProducer, ISSLTransport
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.python.failure import Failure


class Owner(Protocol):
    """Who is told what happens on a wire. Two of the names are those of Twisted's ``IProtocol``."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Take in what came."""

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        """Forget the wire, which is gone. Called once, and never from within a call to the wire."""

    def drained(self) -> None:
        """Go on: all is sent, after something had been unsent."""


class Wire(Protocol):
    """The bytes of a connection, both ways. Nothing here raises, nor calls the owner in the same turn."""

    @property
    def unsent(self) -> object:
        """False where the socket took all that was written, but for a little; else ask ``pending``."""

    @property
    def transport(self) -> Any:
        """The ``ITransport`` that addresses are asked of, and that an upgrade is given."""

    def write(self, data: bytes) -> None:
        """Send ``data`` as soon as the peer takes it; it is dropped if the peer is gone."""

    def pending(self) -> int:
        """Return how many bytes were written and not yet taken by the socket, as far as can be known."""

    def gone(self) -> bool:
        """Whether the peer has closed, though nobody has read that yet. One cheap system call."""

    def seems_gone(self) -> bool:
        """Whether the peer had closed when this turn of the reactor began. Mostly costs nothing."""

    def close(self) -> None:
        """Close once all is sent."""

    def half_close(self) -> None:
        """Say that no more will come once all is sent, and go on reading; where that can be said."""

    def abort(self) -> None:
        """Close now, and drop what is unsent."""

    def forget(self) -> None:
        """Let go of everything: the owner was told that the wire is gone, and will not come back."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Read again."""

    def register_producer(self, producer: Any, streaming: bool) -> None:
        """Pace ``producer`` by what the peer takes, as Twisted's ``IConsumer`` does."""

    def unregister_producer(self) -> None:
        """Pace it no more."""


@implementer(IPushProducer)
class TwistedWire:
    """A wire over any ``ITransport``.

    Such a transport does not tell how much is unsent, but it pauses a producer when that is much. So the wire
    is registered as one, and counts what is written while it is paused.
    """

    __slots__ = ("_lent", "_owner", "_paused", "transport", "unsent")

    def __init__(self, transport: Any, owner: Owner) -> None:
        self.transport = transport
        self._owner: Owner | None = owner
        self.unsent = 0
        self._paused = False
        self._lent = False
        """The place of the transport's one producer is another's, or nobody's."""
        inner = _inner_socket(transport)
        if inner is not None:
            tune(inner)
        transport.registerProducer(self, True)

    def write(self, data: bytes) -> None:
        """Write; see ``Wire``."""
        if self._paused:
            self.unsent += len(data)
        self.transport.write(data)

    def pending(self) -> int:
        """Return what was counted; see ``Wire``."""
        return self.unsent

    def gone(self) -> bool:
        """Look at the socket, where there is one; see ``Wire``."""
        inner = _inner_socket(self.transport)
        return inner is not None and peer_is_gone(inner, tls=ISSLTransport.providedBy(self.transport))

    def seems_gone(self) -> bool:
        """Look, as ``gone`` does; see ``Wire``."""
        return self.gone()

    def close(self) -> None:
        """Close; see ``Wire``."""
        if not self._lent:
            # A streaming producer would keep the transport open.
            self._lent = True
            self.transport.unregisterProducer()
        self.transport.loseConnection()

    def half_close(self) -> None:
        """Do nothing: TLS cannot say it, and others are closed soon enough; see ``Wire``."""

    def abort(self) -> None:
        """Abort; see ``Wire``."""
        self.transport.abortConnection()

    def forget(self) -> None:
        """Let go; a transport may keep its producer, and must not keep the connection by it. See ``Wire``."""
        self._owner = None
        self.transport = NOWHERE.transport

    def pause(self) -> None:
        """Stop reading; see ``Wire``."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read again; see ``Wire``."""
        self.transport.resumeProducing()

    def register_producer(self, producer: Any, streaming: bool) -> None:
        """Let ``producer`` have the wire's own place; see ``Wire``."""
        if not self._lent:
            self.transport.unregisterProducer()
        self._lent, self._paused, self.unsent = True, False, 0
        self.transport.registerProducer(producer, streaming)

    def unregister_producer(self) -> None:
        """Take the place back; see ``Wire``."""
        self.transport.unregisterProducer()
        self._lent = False
        self.transport.registerProducer(self, True)

    # -- IPushProducer, for the transport

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """Count from now on: much is unsent."""
        self._paused = True

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """Count no more: all is sent."""
        self._paused, self.unsent = False, 0
        if self._owner is not None:
            self._owner.drained()

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: the owner is told that the connection is lost."""


class NoWire:
    """What a lost connection has instead of a wire: it takes everything, and does nothing."""

    transport: Any
    unsent = None

    def __init__(self) -> None:
        self.transport = self

    def write(self, data: bytes) -> None:
        """Drop it."""

    def pending(self) -> int:
        """Return 0."""
        return 0

    def gone(self) -> bool:
        """Return True."""
        return True

    seems_gone = gone

    def close(self) -> None:
        """Do nothing."""

    half_close = abort = forget = pause = resume = unregister_producer = close

    def register_producer(self, producer: Any, streaming: bool) -> None:  # noqa: ARG002  Wire's
        """Stop the producer."""
        producer.stopProducing()

    def getPeer(self) -> IPv4Address:  # noqa: N802  Twisted's name
        """Return an empty address."""
        return IPv4Address("TCP", "", 0)

    getHost = getPeer  # noqa: N815  Twisted's name


NOWHERE: Final[Wire] = NoWire()

_ALERT: Final = 0x15
_HIDDEN_ALERT: Final = b"\x17\x03\x03\x00\x13"
"""How a record begins that holds an alert in TLS 1.3: two bytes, encrypted (RFC 8446 §5.2). No HTTP is as
short."""


_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
"""Put together once: as flags of an enum that costs more than the system call."""


def peer_is_gone(sock: socket.socket, *, tls: bool = False) -> bool:
    """Whether the next read would tell that the peer has closed or reset the connection.

    Under TLS the beginning of the next record is looked at too, for a close is announced by an alert.
    """
    try:
        data = sock.recv(5, _PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return not data or (tls and (data[0] == _ALERT or data == _HIDDEN_ALERT))


def peer_comes_later(transport: Any) -> bool:
    """Whether a transport knows its peer only once something was received: the PROXY protocol says it."""
    return isinstance(transport, HAProxyProtocolWrapper)


def tune(sock: socket.socket) -> None:
    """Let answers go out at once, and vanished peers be noticed within two minutes, however idle they were.

    A peer that takes nothing of what was sent is given up after one minute, even where it still says that it
    lives.
    """
    with contextlib.suppress(OSError, AttributeError):  # a UNIX socket has none of these, macOS not all
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)


def _inner_socket(transport: Any) -> socket.socket | None:
    """Return the socket at the bottom of a transport, if there is one."""
    while transport is not None:
        sock = getattr(transport, "socket", None)
        if isinstance(sock, socket.socket):
            return sock
        transport = getattr(transport, "transport", None)
    return None
