"""Sockets that Twisted has accepted come in; what they receive leaves to their connections, without Twisted between.

Twisted spends several microseconds on each event of each socket: it sets a logging context, asks twice what the
event was, reads into 64 KB, and sends only in the next turn. Here all connections of a factory share one epoll, which
to the reactor is a single file descriptor; behind it, an event is one dict look-up and one ``recv``, and an answer is
one ``send`` in the turn in which it is written. The reactor (any that can watch a descriptor) still owns the
port, the timers, and the moment at which anything is read.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IPushProducer,
    IReactorFDSet,
    IReadDescriptor,
    ITransport,
)
from twisted.internet.tcp import Server as TCPServer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from .wire import peer_is_gone, tune

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .wire import Owner

_READ: Final = 4 * 1024
"""Bytes read at first: any ordinary head. Allocating 64 KB for each would cost more than the read itself."""

_MORE: Final = 64 * 1024
"""Bytes read besides, where that was filled."""

_SEND: Final = 128 * 1024
"""Bytes offered to the socket at once, as in Twisted: the kernel's buffer takes no more."""

_EVENTS: Final = 256
"""Events taken from the epoll at once."""

_ROUNDS: Final = 8
"""How often the epoll is asked again before the reactor has its turn: under load its turn costs more than a
request, but a timer should not wait for longer than some milliseconds."""

_HIGH: Final = 64 * 1024
"""A producer pauses when more than this is unsent, as in Twisted."""

_IN: Final = getattr(select, "EPOLLIN", 1)
_OUT: Final = getattr(select, "EPOLLOUT", 4)
_BROKEN: Final = getattr(select, "EPOLLHUP", 16) | getattr(select, "EPOLLERR", 8)
_ALWAYS: Final = getattr(select, "EPOLLET", 1 << 31) | getattr(select, "EPOLLRDHUP", 0x2000)
"""Edge-triggered: the kernel need not look again whether a socket was read empty. A short read tells that it was,
unless the peer has closed as well; but then the event has RDHUP, or another event comes."""
_DONE: Final = Failure(ConnectionDone())
_LOST: Final = Failure(ConnectionLost())
_ABORTED: Final = Failure(ConnectionAborted())
_RESET: Final = struct.pack("ii", 1, 0)


@implementer(IReadDescriptor)
class Poller:
    """One epoll over many sockets, as one descriptor of the reactor."""

    log = Logger()

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self._epoll = select.epoll()
        self._wires: dict[int, SocketWire] = {}

    def adopt(self, transport: Any, owner: Owner) -> SocketWire:
        """Take the socket of one of Twisted's transports, and read and write it from now on."""
        transport.stopReading()
        sock: socket.socket = transport.socket
        # What connectionLost would do, but for closing the socket.
        transport.connected, transport.disconnected = 0, 1
        del transport.socket, transport.fileno, transport.protocol
        tune(sock)
        wire = SocketWire(self, sock, owner)
        if not self._wires:
            self.reactor.addReader(self)
        self._wires[sock.fileno()] = wire
        self._epoll.register(sock.fileno(), _IN | _ALWAYS)
        return wire

    def watch(self, descriptor: int, events: int) -> None:
        """Wait for other events of a socket; those that are there already are told again."""
        self._epoll.modify(descriptor, events | _ALWAYS)

    def drop(self, descriptor: int) -> None:
        """Forget a socket that is about to be closed."""
        self._wires.pop(descriptor, None)
        with contextlib.suppress(OSError):
            self._epoll.unregister(descriptor)
        if not self._wires:
            self.reactor.removeReader(self)

    # -- IReadDescriptor

    def fileno(self) -> int:
        """Return the epoll's own descriptor, which is readable when one of its sockets is."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:  # noqa: N802  Twisted's name
        """Return what Twisted's log calls this."""
        return "cometd_lite.serving"

    def doRead(self) -> None:  # noqa: N802  Twisted's name
        """Serve the sockets that have something to say."""
        wires, poll = self._wires, self._epoll.poll
        for _ in range(_ROUNDS):
            events = poll(0, _EVENTS)
            for descriptor, event in events:
                # One that was closed by another's turn is not there any more.
                wire = wires.get(descriptor)
                if wire is None:
                    continue
                try:
                    wire.happened(event)
                except Exception:  # noqa: BLE001  one connection's fault must not end the others
                    self.log.failure("A connection failed.")
                    wire.abort()
            if not events:
                return

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        """The reactor stops: so do the connections."""
        for wire in list(self._wires.values()):
            wire.lose(reason)


@implementer(ITransport, IConsumer, IPushProducer)
class SocketWire:
    """A wire that is the transport itself: what an upgrade gets as ``transport`` is this."""

    __slots__ = ("_closing", "_owner", "_paused", "_poller", "_producer", "_socket", "_unsent")

    # Twisted asks its own transports for these.
    connected = True

    def __init__(self, poller: Poller, sock: socket.socket, owner: Owner) -> None:
        self._poller = poller
        self._socket: socket.socket | None = sock
        self._owner = owner
        self._unsent: bytearray | None = None
        self._closing = False
        self._paused = False
        self._producer: _Paced | None = None

    @property
    def transport(self) -> SocketWire:
        """The transport is this; see ``Wire``."""
        return self

    # -- what the poller calls

    def happened(self, event: int) -> None:
        """Do what an event of the epoll asks for."""
        if event != _IN:
            if event & _OUT:
                self._send()
            if event & _BROKEN and self._paused:
                self.lose(_LOST)
            if self._paused or not event & ~_OUT:
                return
        sock = self._socket
        if sock is None:
            return
        try:
            data = sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            self.lose(_LOST)
            return
        if len(data) == _READ:
            data = self._read_more(sock, data)
        if not data:
            self.lose(_DONE)
            return
        if not self._closing:
            self._owner.dataReceived(data)
        if event != _IN and not self._paused and self._socket is not None:
            # The peer has closed, after what it has just said.
            self._watch()

    def _read_more(self, sock: socket.socket, data: bytes) -> bytes:
        """Read what did not fit, or have the epoll say again that there is more."""
        try:
            more = sock.recv(_MORE)
        except OSError:
            # Nothing more; or the connection is broken, which the next read tells.
            more = b""
        if len(more) == _MORE or not more:
            self._watch()
        return data + more

    def lose(self, reason: Failure) -> None:
        """Close the socket and tell everyone."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        self._unsent = bytearray()
        self._poller.drop(sock.fileno())
        sock.close()
        paced, self._producer = self._producer, None
        if paced is not None:
            paced.producer.stopProducing()
        self._owner.connectionLost(reason)

    def _send(self) -> None:
        """Send what is unsent, as far as the socket takes it."""
        unsent = self._unsent
        while unsent and self._socket is not None:
            try:
                with memoryview(unsent) as view:
                    sent = self._socket.send(view[:_SEND])
            except BlockingIOError:
                return
            except OSError:
                self.lose(_LOST)
                return
            del unsent[:sent]
        if self._socket is None or unsent is None:
            return
        self._unsent = None
        self._watch()
        if self._producer is not None:
            self._producer.resume()
        elif self._closing:
            self._shut(socket.SHUT_RDWR)
        self._owner.drained()

    def _watch(self) -> None:
        """Tell the epoll what is waited for now."""
        if self._socket is not None:
            self._poller.watch(self._socket.fileno(), (0 if self._paused else _IN) | (_OUT if self._unsent else 0))

    # -- Wire

    def write(self, data: bytes) -> None:
        """Send now what the socket takes, and the rest when it takes more; see ``Wire``."""
        unsent = self._unsent
        if unsent is None:
            try:
                sent = self._socket.send(data)  # type: ignore[union-attr]  # without a socket, unsent is not None
            except BlockingIOError:
                sent = 0
            except OSError:
                # The epoll says so as well, and then the owner is told.
                return
            if sent == len(data):
                return
            self._unsent = unsent = bytearray(memoryview(data)[sent:])
            self._watch()
        elif self._socket is not None and not self._closing:
            unsent += data
        if self._producer is not None and len(unsent) > _HIGH:
            self._producer.pause()

    def pending(self) -> int:
        """Count; see ``Wire``."""
        return len(self._unsent) if self._unsent else 0

    def gone(self) -> bool:
        """Look at the socket; see ``Wire``."""
        return self._socket is None or peer_is_gone(self._socket)

    def close(self) -> None:
        """Close; see ``Wire``."""
        self._closing = True
        if not self._unsent:
            self._shut(socket.SHUT_RDWR)

    def half_close(self) -> bool:
        """Send, then say that this was all; see ``Wire``."""
        if self._unsent:
            return False
        self._shut(socket.SHUT_WR)
        return True

    def _shut(self, how: int) -> None:
        """Shut the connection; the epoll then says that it is gone, and the owner is told in a later turn."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(how)

    def abort(self) -> None:
        """Reset the connection; the owner is told in the next turn. See ``Wire``."""
        if self._socket is None:
            return
        self._closing = True
        self._unsent = bytearray()
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._poller.reactor.callLater(0, self.lose, _ABORTED)

    def pause(self) -> None:
        """Stop reading; see ``Wire``."""
        self._paused = True
        self._watch()

    def resume(self) -> None:
        """Read again; see ``Wire``."""
        self._paused = False
        self._watch()

    def register_producer(self, producer: Any, streaming: bool) -> None:
        """Pace ``producer``; see ``Wire``."""
        if self._producer is not None:
            raise RuntimeError("There is a producer already.")
        if self._socket is None:
            producer.stopProducing()
            return
        self._producer = _Paced(producer, streaming)
        if not streaming:
            producer.resumeProducing()

    def unregister_producer(self) -> None:
        """Pace it no more; see ``Wire``."""
        self._producer = None
        if self._closing and not self._unsent:
            self._shut(socket.SHUT_RDWR)

    # -- ITransport and others, for a protocol that takes the connection over

    def writeSequence(self, data: Iterable[bytes]) -> None:  # noqa: N802  Twisted's name
        """Write all of ``data`` at once."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        """Close once everything is sent."""
        self.close()

    def abortConnection(self) -> None:  # noqa: N802  Twisted's name
        """Close now."""
        self.abort()

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802  Twisted's name
        """Pace ``producer`` by what the peer takes."""
        self.register_producer(producer, streaming)

    def unregisterProducer(self) -> None:  # noqa: N802  Twisted's name
        """Pace it no more."""
        self.unregister_producer()

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """Stop reading."""
        self.pause()

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """Read again."""
        self.resume()

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """Close."""
        self.close()

    def getHandle(self) -> socket.socket | None:  # noqa: N802  Twisted's name
        """Return the socket, while there is one."""
        return self._socket

    def getPeer(self) -> Any:  # noqa: N802  Twisted's name
        """Return the peer's address; an empty one if it is gone."""
        return self._address("getpeername")

    def getHost(self) -> Any:  # noqa: N802  Twisted's name
        """Return our own address; an empty one if the connection is gone."""
        return self._address("getsockname")

    def _address(self, which: str) -> Any:
        sock = self._socket
        try:
            name = getattr(sock, which)()
        except (OSError, AttributeError):
            return IPv4Address("TCP", "", 0)
        if not isinstance(name, tuple):
            return UNIXAddress(name or None)
        return (IPv4Address if len(name) == 2 else IPv6Address)("TCP", *name)


class _Paced:
    """A producer and whether it was told to pause."""

    __slots__ = ("_streaming", "_waits", "producer")

    def __init__(self, producer: Any, streaming: bool) -> None:
        self.producer = producer
        self._streaming = streaming
        self._waits = False

    def pause(self) -> None:
        """Too much is unsent."""
        if self._streaming and not self._waits:
            self._waits = True
            self.producer.pauseProducing()

    def resume(self) -> None:
        """All is sent."""
        if self._waits or not self._streaming:
            self._waits = False
            self.producer.resumeProducing()


def adoptable(transport: Any) -> bool:
    """Whether a transport is a plain socket of Twisted's whose place a ``SocketWire`` can take."""
    return (
        hasattr(select, "epoll")
        and isinstance(transport, TCPServer)
        and not transport.TLS
        and IReactorFDSet.providedBy(transport.reactor)
    )
