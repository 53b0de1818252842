"""Plain sockets: one epoll over all connections of a factory, which the reactor sees as one descriptor.

Twisted spends several microseconds on each event of a socket: it sets a logging context, asks twice what the
event was, reads into 64 KB, and sends only in the next turn. Here an event costs a dict lookup and a
``recv``, and a response costs a ``send`` in the turn in which it is written. The reactor still owns the port
and the timers, and decides when events are handled. Any reactor that watches descriptors will do.

The events of a turn are handled in three steps: all sockets are read, then the requests are served, then the
responses are sent. So the caches of the processor hold either the kernel's code or ours, and a delivery costs
a tenth less.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.internet.tcp import Server as TCPServer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from .wire import CLOSING, DEAD, NO_ADDRESS, OPEN, SHUT, Wire, has_unacknowledged, peer_has_closed, tune

if TYPE_CHECKING:
    from .unsent import UnsentTotal
    from .wire import Owner

_READ: Final = 4 * 1024
"""The bytes of a first read. They hold any ordinary request; to allocate 64 KB costs more than the read."""

_MORE: Final = 64 * 1024
"""The bytes of a second read, after a first one that was full."""

_EVENTS: Final = 256
"""The events that are taken from the epoll at once."""

_TOGETHER: Final = 64
"""The responses that are sent together: of a thousand, the first need not wait for the last."""

_FEWER: Final = 16
"""The responses that are sent together outside of ``doRead``, as those of a store that waited for its disk:
the first clients go on while the last are answered. With 64 writers at once SQLite takes 4 % more pushes."""

_SMALL: Final = 16 * 1024
"""Up to this size, what is written waits until the requests before it in the same turn are served."""

_SECONDS: Final = 0.01
"""Events are handled for so long in one turn of the reactor. A turn costs as much as a request, but timers
must not wait for much longer."""

# The numbers of Linux, where the module has none; then there is no Poller either.
_IN: Final[int] = getattr(select, "EPOLLIN", 0x1)
_OUT: Final[int] = getattr(select, "EPOLLOUT", 0x4)
_BROKEN: Final[int] = getattr(select, "EPOLLERR", 0x8) | getattr(select, "EPOLLHUP", 0x10)
_CLOSED: Final[int] = getattr(select, "EPOLLRDHUP", 0x2000)
_ALWAYS: Final[int] = _CLOSED | getattr(select, "EPOLLET", 0x80000000)
"""Edge-triggered: the kernel does not look again whether a socket was read empty. A short read says that it
was, unless the client has closed too; but then the event has RDHUP, or another event follows."""

_DONE: Final = Failure(ConnectionDone())
_LOST: Final = Failure(ConnectionLost())
_ABORTED: Final = Failure(ConnectionAborted())
_RESET: Final = struct.pack("ii", 1, 0)


def adoptable(transport: Any) -> bool:
    """Return whether a transport is a plain socket of Twisted's, which a ``Poller`` can adopt."""
    return (
        hasattr(select, "epoll")
        and isinstance(transport, TCPServer)
        and not transport.TLS
        and IReactorFDSet.providedBy(transport.reactor)
    )


def refuse(transport: Any) -> None:
    """Close a connection that was just accepted, if possible before the next one is accepted."""
    if adoptable(transport):
        _release(transport).close()
    else:
        transport.abortConnection()


def _release(transport: Any) -> socket.socket:
    """Take the socket from an ``adoptable`` transport, which is of no use afterwards."""
    transport.stopReading()
    sock: socket.socket = transport.socket
    # What its connectionLost does, except closing the socket.
    transport.connected, transport.disconnected = 0, 1
    del transport.socket, transport.fileno, transport.protocol
    return sock


@implementer(IReadDescriptor)
class Poller:
    """One epoll over many sockets. ``total`` counts what they have not sent."""

    log = Logger()

    def __init__(self, reactor: Any, total: UnsentTotal) -> None:
        self.reactor = reactor
        self.total = total
        self.is_reading = False
        """Whether ``doRead`` is running."""
        self._together: list[SocketWire] = []
        """The wires that have written in this turn, but for one whose response was sent at once."""
        self._is_due = False
        """Whether what is written now is sent at the end of this turn, outside of ``doRead``."""
        self._epoll = select.epoll()
        self._wires: dict[int, SocketWire] = {}

    def adopt(self, transport: Any, owner: Owner) -> SocketWire:
        """Take the socket of an ``adoptable`` transport, and serve it from now on."""
        sock = _release(transport)
        tune(sock)
        self._epoll.register(sock.fileno(), _IN | _ALWAYS)
        if not self._wires:
            self.reactor.addReader(self)
        wire = self._wires[sock.fileno()] = SocketWire(self, sock, owner)
        return wire

    def watch(self, descriptor: int, events: int) -> None:
        """Wait for other events of a socket; those that are true already are reported again."""
        self._epoll.modify(descriptor, events | _ALWAYS)

    def drop(self, descriptor: int) -> None:
        """Forget a socket that is about to be closed."""
        del self._wires[descriptor]
        self._epoll.unregister(descriptor)
        if not self._wires:
            self._wires.clear()  # else the table stays as large as it was
            self.reactor.removeReader(self)

    # -- IReadDescriptor

    def fileno(self) -> int:
        """Return the epoll's own descriptor, which is readable when one of its sockets has an event."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:  # noqa: N802  Twisted's name
        """Return the name of this in Twisted's log."""
        return "cometd_lite.server"

    def doRead(self) -> None:  # noqa: N802  Twisted's name
        """Handle the events of all sockets."""
        wires, poll = self._wires, self._epoll.poll
        self.is_reading = True
        until = time.perf_counter() + _SECONDS
        try:
            while time.perf_counter() < until:
                events = poll(0, _EVENTS)
                if not events:
                    return
                for wire, event, data in [
                    (wire, event, wire.read() if event == _IN else wire.note(event))
                    for descriptor, event in events
                    if (wire := wires.get(descriptor)) is not None
                ]:
                    try:
                        if data is not None:
                            wire.received(data)
                        elif event != _IN:
                            wire.happened(event)
                    except Exception:  # noqa: BLE001  one connection's fault must not end the others
                        self.log.failure("A connection failed.")
                        wire.abortConnection()
                self.send_together()
        finally:
            self.is_reading = False
            self.send_together()

    def send_soon(self, wire: SocketWire) -> None:
        """Send what a wire has kept together with what others keep in this turn.

        Outside of ``doRead`` the first one is sent at once, as mostly no other follows: 50 µs sooner.
        """
        if self.is_reading:
            most = _TOGETHER
        elif self._is_due:
            most = _FEWER
        else:
            self._is_due = True
            self.reactor.callLater(0, self._turn_ends)
            wire.send_kept()
            return
        together = self._together
        together.append(wire)
        if len(together) >= most:
            self.send_together()

    def _turn_ends(self) -> None:
        self._is_due = False
        self.send_together()

    def send_together(self) -> None:
        """Send what the wires have kept."""
        together = self._together
        if together:
            self._together = []
            for wire in together:
                wire.send_kept()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        """End all connections: the reactor stops."""
        self.send_together()
        for wire in list(self._wires.values()):
            wire.lose(reason)


class SocketWire(Wire):
    """A wire over a socket of a ``Poller``."""

    __slots__ = ("_broken", "_hung_up", "_kept", "_owner", "_poller", "_reading", "_shuts", "_socket")

    def __init__(self, poller: Poller, sock: socket.socket, owner: Owner) -> None:
        super().__init__(poller.total)
        self._poller = poller
        self._socket: Any = sock
        self._owner = owner
        self._broken = False
        self._hung_up = False
        """The epoll has reported that the client closed; what it sent before may not be read yet."""
        self._kept: bytes | None = None
        """What is sent with the responses of other connections in this turn."""
        self._shuts = socket.SHUT_RDWR
        self._reading = True

    # -- for the poller

    def read(self) -> bytes | None:
        """Return what arrived; empty at the end of the input, None where nothing arrived."""
        try:
            data: bytes = self._socket.recv(_READ)
        except BlockingIOError:
            return None
        except OSError:
            self._broken = True
            return b""
        return data

    def note(self, event: int) -> bytes | None:
        """Note whether the client has closed, before any request of this turn is served; return None."""
        if event & (_CLOSED | _BROKEN):
            self._hung_up = True
        return None

    def received(self, data: bytes) -> None:
        """Give what was read to the owner, unless the socket was closed meanwhile."""
        if self._socket is None:
            return
        if len(data) == _READ:
            data += self._read_more()
        if not data:
            self.lose(_LOST if self._broken else _DONE)
        elif self._life == OPEN or self._shuts == socket.SHUT_WR:
            self._owner.dataReceived(data)

    def happened(self, event: int) -> None:
        """Handle an event that is not only input."""
        if event & _OUT:
            self._send_more()
        if event & _BROKEN and not self._reading:
            self.lose(_LOST)
        if self._socket is None or self._life == DEAD or not self._reading or not event & ~_OUT:
            return
        data = self.read()
        if data is not None:
            self.received(data)
            if self._reading:
                # The client has closed after what it has just sent: have that reported again.
                self._watch()

    def _read_more(self) -> bytes:
        """Read what did not fit; have the epoll report the rest, where there may be one."""
        try:
            more: bytes = self._socket.recv(_MORE)
        except BlockingIOError:
            return b""
        except OSError:
            more = b""
        if len(more) in {0, _MORE}:
            self._watch()
        return more

    def lose(self, reason: Failure) -> None:
        """Close the socket, and notify the producer and the owner."""
        if self._socket is None:
            return
        self._life = DEAD
        self._kept = None
        self._drop_queue()
        sock, self._socket = self._socket, None
        self._poller.drop(sock.fileno())
        sock.close()
        self._stop_producer()
        self._owner.connectionLost(reason)
        del self._owner  # the connection knows the wire: a cycle would live until old garbage is collected

    def _send_more(self) -> None:
        """Send from the queue until the socket is full."""
        self.send_kept()
        queue = self.queue
        if queue is None:
            return
        while queue.size:
            try:
                queue.sent(self._socket.send(queue.first()))
            except BlockingIOError:
                return
            except OSError:
                self.lose(_LOST)
                return
        self._emptied(self._owner)
        self._watch()

    def _watch(self) -> None:
        """Set which events the epoll reports."""
        if self._socket is not None:
            events = (_IN if self._reading else 0) | (_OUT if self.queue is not None else 0)
            self._poller.watch(self._socket.fileno(), events)

    # -- Wire

    def write(self, data: bytes) -> None:
        if self._life != OPEN:
            return
        kept = self._kept
        if kept is None and self.queue is None and len(data) <= _SMALL:
            self._kept = data
            self._poller.send_soon(self)
        elif kept is not None and len(kept) + len(data) <= _SMALL:
            self._kept = kept + data
        else:
            self.send_kept()
            Wire.write(self, data)

    def send_kept(self) -> None:
        """Send what was kept, queue what is not taken, and close the connection if that is due."""
        data, self._kept = self._kept, None
        if data is None:
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(data)  # the epoll reports it as well, and then the owner is notified
        if sent < len(data):
            self._enqueue(data, sent)
            self._watch()
        elif self._life != OPEN:
            self._close_if_sent()

    def _send(self, data: bytes) -> None:
        self._kept = data
        self.send_kept()

    def is_disconnected(self) -> bool:
        return self._socket is None or peer_has_closed(self._socket)

    def was_disconnected(self) -> bool:
        """Return what the epoll has reported in this turn; see ``Wire``. Outside of a turn, look.

        The epoll reports in the order in which things happened. So a client that closed before another one
        sent the request that is now served has been noted.
        """
        return (
            self._hung_up or self._socket is None or (not self._poller.is_reading and self.is_disconnected())
        )

    def is_sending(self) -> bool:
        if self._socket is None:
            return False
        return self._kept is not None or self.queue is not None or has_unacknowledged(self._socket)

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        self._finish(socket.SHUT_RDWR)

    def half_close(self) -> None:
        self._finish(socket.SHUT_WR)

    def _finish(self, shuts: int) -> None:
        if self._life == OPEN or (self._life in {CLOSING, SHUT} and self._shuts != shuts):
            self._shuts = shuts
            self._life = CLOSING
            self._close_if_sent()

    def _close_if_sent(self) -> None:
        if self._kept is None:
            super()._close_if_sent()

    def _end(self) -> None:
        """Shut the connection down; the epoll reports when it has ended, and then the owner is notified."""
        self._life = SHUT
        with contextlib.suppress(OSError):
            self._socket.shutdown(self._shuts)

    def abortConnection(self) -> None:  # noqa: N802  Twisted's name
        if self._life == DEAD:
            return
        self._life = DEAD
        self._kept = None
        self._drop_queue()
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._poller.reactor.callLater(0, self.lose, _ABORTED)

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        self._reading = False
        self._watch()

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        self._reading = True
        self._watch()

    def getPeer(self) -> Any:  # noqa: N802  Twisted's name
        return _address(self._socket, "getpeername")

    def getHost(self) -> Any:  # noqa: N802  Twisted's name
        return _address(self._socket, "getsockname")


def _address(sock: socket.socket | None, which: str) -> IPv4Address | IPv6Address | UNIXAddress:
    """Return one of a socket's addresses as Twisted's."""
    try:
        name = getattr(sock, which)()
    except (OSError, AttributeError):
        return NO_ADDRESS
    if not isinstance(name, tuple):
        return UNIXAddress(name or None)
    return IPv4Address("TCP", *name) if len(name) == 2 else IPv6Address("TCP", *name)
