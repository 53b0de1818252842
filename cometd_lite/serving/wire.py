"""What a connection asks of whatever carries its bytes, and the carrier over any Twisted transport.

``Wire`` is all that the HTTP protocol knows of the network. ``TwistedWire`` serves TLS, UNIX sockets behind other
protocols, and in-memory transports; plain sockets have a faster one in ``sockets.py``.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.python.failure import Failure


class Owner(Protocol):
    """Who is told what happens on a wire. The names are those of Twisted's ``IProtocol``."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Bytes came."""

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        """The wire is gone; called once, never from within a call to the wire."""

    def drained(self) -> None:
        """Less than the wire's low mark is unsent again, after more had been."""


class Wire(Protocol):
    """A connection's bytes, both ways. Nothing here raises or calls the owner back in the same turn."""

    @property
    def transport(self) -> Any:
        """The ``ITransport`` that addresses are asked of, and that an upgrade is given."""

    def write(self, data: bytes) -> None:
        """Send ``data`` as soon as the peer takes it; dropped if the wire is gone."""

    def pending(self) -> int:
        """Return how many bytes were written and not yet taken by the socket (as far as can be known)."""

    def gone(self) -> bool:
        """Whether the peer has closed, though the reactor has not read so yet. One cheap system call."""

    def close(self) -> None:
        """Close once everything is sent."""

    def half_close(self) -> bool:
        """Send everything, then say that no more will come; return whether the wire can do so."""

    def abort(self) -> None:
        """Close now and drop what is unsent."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Read again."""

    def register_producer(self, producer: Any, streaming: bool) -> None:
        """Let ``producer`` be paced by what the peer takes (Twisted's ``IConsumer``)."""

    def unregister_producer(self) -> None:
        """End that."""


@implementer(IPushProducer)
class TwistedWire:
    """A wire over any ``ITransport``.

    Such a transport does not tell how much is unsent, but it pauses a producer when that is much; so the wire
    registers as one, and counts what is written while paused.
    """

    __slots__ = ("_lent", "_owner", "_paused", "_unsent", "transport")

    def __init__(self, transport: Any, owner: Owner) -> None:
        self.transport = transport
        self._owner = owner
        self._unsent = 0
        self._paused = False
        self._lent = False
        transport.registerProducer(self, True)

    def write(self, data: bytes) -> None:
        """Write; see ``Wire``."""
        if self._paused:
            self._unsent += len(data)
        self.transport.write(data)

    def pending(self) -> int:
        """Count; see ``Wire``."""
        return self._unsent

    def gone(self) -> bool:
        """Look at the socket, where there is one; see ``Wire``."""
        transport = self.transport
        while not hasattr(transport, "socket"):
            transport = getattr(transport, "transport", None)
            if transport is None:
                return False
        return peer_is_gone(transport.socket, tls=transport is not self.transport)

    def close(self) -> None:
        """Close; see ``Wire``."""
        if not self._lent:
            # A streaming producer would keep the transport open until it unregisters.
            self.transport.unregisterProducer()
            self._lent = True
        self.transport.loseConnection()

    def half_close(self) -> bool:
        """Do nothing: TLS has no such thing; see ``Wire``."""
        return False

    def abort(self) -> None:
        """Abort; see ``Wire``."""
        self.transport.abortConnection()

    def pause(self) -> None:
        """Stop reading; see ``Wire``."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read again; see ``Wire``."""
        self.transport.resumeProducing()

    def register_producer(self, producer: Any, streaming: bool) -> None:
        """Put ``producer`` in the wire's own place; see ``Wire``."""
        self.transport.unregisterProducer()
        self._lent, self._paused, self._unsent = True, False, 0
        self.transport.registerProducer(producer, streaming)

    def unregister_producer(self) -> None:
        """Take the place back; see ``Wire``."""
        self.transport.unregisterProducer()
        self._lent = False
        self.transport.registerProducer(self, True)

    # -- IPushProducer

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """The transport's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """It is empty again."""
        self._paused, self._unsent = False, 0
        self._owner.drained()

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """The connection is gone; ``connectionLost`` follows."""


_CLOSE_NOTIFY = b"\x17\x03\x03\x00\x13"
"""How the record of a TLS 1.3 alert begins: its two bytes encrypted (RFC 8446 §5.2, §6.1). No HTTP is as short."""


def peer_is_gone(sock: socket.socket, *, tls: bool = False) -> bool:
    """Whether the next read would tell that the peer closed or reset the connection.

    Under TLS the next record is looked at as well, since a close comes as an alert first.
    """
    try:
        data = sock.recv(5, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return not data or (tls and (data[0] == 0x15 or data == _CLOSE_NOTIFY))
    except BlockingIOError:
        return False
    except OSError:
        return True


def tune(sock: socket.socket) -> None:
    """Answers go out at once, and a peer that vanished is noticed within two minutes, however idle it was."""
    with contextlib.suppress(OSError, AttributeError):  # a UNIX socket has neither, macOS not all
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
