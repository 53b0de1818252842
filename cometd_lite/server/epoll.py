"""Sockets that Twisted accepted come in; what they receive goes to their connections with little between.

Twisted spends several microseconds on each event of each socket: it sets a logging context, asks twice what
the event was, reads into 64 KB, and sends only in the next turn. Here all connections of a factory share an
epoll that is a single descriptor to the reactor. Behind it, an event costs a dict look-up and a ``recv``; an
answer costs a ``send``, in the turn in which it is written. The reactor (any that watches descriptors) still
owns the port, the timers, and the moment at which anything is read.

What many sockets have to say is read first, then understood and answered, and the answers are sent together:
so the processor's caches hold the kernel's code or ours, and a delivery costs a tenth less.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

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
"""Bytes read at first, enough for any ordinary request: to allocate 64 KB costs more than the read itself."""

_MORE: Final = 64 * 1024
"""Bytes read besides, where that was filled."""

_SEND: Final = 128 * 1024
"""Bytes offered to the socket at once, as in Twisted; its buffer seldom takes more."""

_EVENTS: Final = 256
"""Events taken from the epoll at once."""

_TOGETHER: Final = 64
"""Answers that are sent together. Of a thousand that are woken, the first need not wait for the last."""

_SMALL: Final = 16 * 1024
"""Bytes that may wait until others are sent: less than anybody who asks what is ``pending`` cares about."""

_ROUNDS: Final = 8
"""How often the epoll is asked again before the reactor has its turn: under load such a turn costs as much as
a request, but no timer should wait for longer than some milliseconds."""

# Linux's numbers, where the module has none: then there is no Poller either.
_IN: Final[int] = getattr(select, "EPOLLIN", 0x1)
_OUT: Final[int] = getattr(select, "EPOLLOUT", 0x4)
_BROKEN: Final[int] = getattr(select, "EPOLLERR", 0x8) | getattr(select, "EPOLLHUP", 0x10)
_CLOSED: Final[int] = getattr(select, "EPOLLRDHUP", 0x2000)
_ALWAYS: Final[int] = _CLOSED | getattr(select, "EPOLLET", 0x80000000)
"""Edge-triggered: the kernel need not look again whether a socket was read empty. A short read says that it
was, unless the peer has closed too; but then the event has RDHUP, or another event follows."""

_DONE: Final = Failure(ConnectionDone())
_LOST: Final = Failure(ConnectionLost())
_ABORTED: Final = Failure(ConnectionAborted())
_RESET: Final = struct.pack("ii", 1, 0)

_OPEN: Final = 0
_ENDING: Final = 1
_ENDED: Final = 2
_DEAD: Final = 3
"""The life of our side: writing; writing no more, once all is sent; all sent and said so; closed or reset."""


def adoptable(transport: Any) -> bool:
    """Whether a transport is a plain socket of Twisted's, whose place a ``SocketWire`` can take."""
    return (
        hasattr(select, "epoll")
        and isinstance(transport, TCPServer)
        and not transport.TLS
        and IReactorFDSet.providedBy(transport.reactor)
    )


def drop(transport: Any) -> None:
    """Close a connection that was accepted just now, without a word, and if possible before the next one."""
    if adoptable(transport):
        _release(transport).close()
    else:
        transport.abortConnection()


def _release(transport: Any) -> socket.socket:
    """Take the socket from an ``adoptable`` transport, which is good for nothing then."""
    transport.stopReading()
    sock: socket.socket = transport.socket
    # What its connectionLost does, but for closing the socket.
    transport.connected, transport.disconnected = 0, 1
    del transport.socket, transport.fileno, transport.protocol
    return sock


@implementer(IReadDescriptor)
class Poller:
    """One epoll over many sockets, which is one descriptor of the reactor."""

    log = Logger()

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self._epoll = select.epoll()
        self._wires: dict[int, SocketWire] = {}
        self.together: list[SocketWire] | None = None
        """Those with something to send with the others of this turn; None where no turn is on."""

    def adopt(self, transport: Any, owner: Owner) -> SocketWire:
        """Take an ``adoptable`` transport's socket, and read and write it from now on."""
        sock = _release(transport)
        tune(sock)
        self._epoll.register(sock.fileno(), _IN | _ALWAYS)
        if not self._wires:
            self.reactor.addReader(self)
        wire = self._wires[sock.fileno()] = SocketWire(self, sock, owner)
        return wire

    def watch(self, descriptor: int, events: int) -> None:
        """Wait for other events of a socket; those that are there already are told again."""
        self._epoll.modify(descriptor, events | _ALWAYS)

    def drop(self, descriptor: int) -> None:
        """Forget a socket that is about to be closed."""
        del self._wires[descriptor]
        self._epoll.unregister(descriptor)
        if not self._wires:
            self.reactor.removeReader(self)

    # -- IReadDescriptor

    def fileno(self) -> int:
        """Return the epoll's own descriptor, which is readable when one of its sockets has an event."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:  # noqa: N802  Twisted's name
        """Return what Twisted's log calls this."""
        return "cometd_lite.server"

    def doRead(self) -> None:  # noqa: N802  Twisted's name
        """Serve the sockets that have something to say."""
        wires, poll = self._wires, self._epoll.poll
        self.together = []
        try:
            for _ in range(_ROUNDS):
                events = poll(0, _EVENTS)
                if not events:
                    return
                for wire, event, data in [
                    (wire, event, wire.read() if event == _IN else wire.heed(event))
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
                        wire.abort()
                self.send_together()
        finally:
            self.send_together()
            self.together = None

    def send_together(self) -> None:
        """Send what was kept to be sent together."""
        together = self.together
        if together:
            self.together = []
            for wire in together:
                wire.send_kept()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        """End all connections: the reactor stops."""
        for wire in list(self._wires.values()):
            wire.lose(reason)


@implementer(ITransport, IConsumer, IPushProducer)
class SocketWire:
    """A wire that is its own transport: what takes a connection over gets this as its ``transport``."""

    __slots__ = (
        "_broken", "_hung_up", "_kept", "_life", "_owner", "_paused",
        "_poller", "_producer", "_shuts", "_socket", "unsent",
    )  # fmt: skip

    def __init__(self, poller: Poller, sock: socket.socket, owner: Owner) -> None:
        self._poller = poller
        self._socket: Any = sock
        self._owner = owner
        self._broken = False
        self._hung_up = False
        """The epoll has told that the peer closed, be it that this was not looked at yet."""
        self.unsent: bytearray | None = None
        """What the socket has not taken; None where it took all. See ``Wire``."""
        self._kept: bytes | None = None
        """What is to be sent with what others have to send in this turn; then nothing is unsent."""
        self._producer: _Paced | None = None
        self._life = _OPEN
        self._shuts = socket.SHUT_RDWR
        self._paused = False

    @property
    def transport(self) -> SocketWire:
        """The transport is this; see ``Wire``."""
        return self

    # -- what the poller calls

    def read(self) -> bytes | None:
        """Return what came; empty where nothing will come any more, None where nothing came."""
        try:
            data: bytes = self._socket.recv(_READ)
        except BlockingIOError:
            return None
        except OSError:
            self._broken = True
            return b""
        return data

    def heed(self, event: int) -> bytes | None:
        """Note whether the peer has closed, before anybody is answered who asks in this turn; return None."""
        if event & (_CLOSED | _BROKEN):
            self._hung_up = True
        return None

    def received(self, data: bytes) -> None:
        """Give what was read to the owner, unless another's turn has closed the socket meanwhile."""
        if self._socket is None:
            return
        if len(data) == _READ:
            data += self._read_more()
        if not data:
            self.lose(_LOST if self._broken else _DONE)
        elif self._life == _OPEN or self._shuts == socket.SHUT_WR:
            self._owner.dataReceived(data)

    def happened(self, event: int) -> None:
        """Do what an event of the epoll asks for that is not only to read."""
        if self._socket is None or not self._happened_besides(event):
            return
        data = self.read()
        if data is not None:
            self.received(data)
            if not self._paused:
                # The peer has closed, after what it has just said: have that told again.
                self._watch()

    def _happened_besides(self, event: int) -> bool:
        """Do what is not to read; return whether there is something to read as well."""
        if event & _OUT:
            self._send_more()
        if self._paused and event & _BROKEN:
            self.lose(_LOST)
        return not (self._paused or self._life == _DEAD) and bool(event & ~_OUT)

    def _read_more(self) -> bytes:
        """Read what did not fit; if that was much too, have the epoll say again that there is more."""
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
        """Close the socket and tell everyone."""
        if self._socket is None:
            return
        self._life = _DEAD
        self.unsent = bytearray()
        sock, self._socket = self._socket, None
        self._poller.drop(sock.fileno())
        sock.close()
        paced, self._producer = self._producer, None
        if paced is not None:
            paced.producer.stopProducing()
        self._owner.connectionLost(reason)

    def _send_more(self) -> None:
        """Send what is unsent, as far as the socket takes it; then ask the producer for more."""
        self.send_kept()
        unsent = self.unsent
        if self._life in {_ENDED, _DEAD}:
            return
        while unsent:
            try:
                with memoryview(unsent) as view:
                    sent = self._socket.send(view[:_SEND])
            except BlockingIOError:
                return
            except OSError:
                self.lose(_LOST)
                return
            del unsent[:sent]
        self.unsent = None
        if self._producer is not None:
            self._producer.resume()
        elif self._life == _ENDING:
            self._end()
        self._watch()
        if unsent is not None:
            self._owner.drained()

    def _watch(self) -> None:
        """Tell the epoll what is waited for now."""
        if self._socket is not None:
            wants_out = self.unsent or (self._producer is not None and self._producer.pulls)
            self._poller.watch(
                self._socket.fileno(), (0 if self._paused else _IN) | (_OUT if wants_out else 0)
            )

    # -- Wire

    def write(self, data: bytes) -> None:
        """Send what the socket takes now, and the rest when it takes more; see ``Wire``."""
        unsent = self.unsent
        if unsent is not None:
            if self._life == _OPEN:
                unsent += data
                if self._producer is not None:
                    self._producer.pause()
            return
        kept, together = self._kept, self._poller.together
        if kept is not None:
            if self._life != _OPEN:
                return
            data = kept + data
        if together is None or len(data) > _SMALL:
            self._kept = data
            self.send_kept()
            return
        self._kept = data
        if kept is None:
            together.append(self)
            if len(together) >= _TOGETHER:
                self._poller.send_together()

    def send_kept(self) -> None:
        """Send what was to be sent with others', and end the connection if that was all.

        What the socket does not take is unsent, and the epoll tells when it takes more.
        """
        data, self._kept = self._kept, None
        if data is None or self.unsent is not None:
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The epoll will say so as well, and then the owner is told.
            sent = len(data)
        if sent < len(data):
            self.unsent = bytearray(memoryview(data)[sent:])
            self._watch()
            if self._producer is not None:
                self._producer.pause()
        elif self._life == _ENDING and self._producer is None:
            self._end()

    def pending(self) -> int:
        """Count what is unsent; see ``Wire``."""
        return len(self.unsent or self._kept or b"")

    def gone(self) -> bool:
        """Look at the socket; see ``Wire``."""
        return self._socket is None or peer_is_gone(self._socket)

    def seems_gone(self) -> bool:
        """Tell what the epoll told in this turn; look only where it was not asked. See ``Wire``.

        The epoll tells in the order in which things happened: whoever closed before the other sent what is
        dealt with now has been noted.
        """
        return self._hung_up or self._socket is None or (self._poller.together is None and self.gone())

    def close(self) -> None:
        """Close once all is sent; see ``Wire``."""
        self._finish(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """Say that no more will come, once all is sent; see ``Wire``."""
        self._finish(socket.SHUT_WR)

    def _finish(self, how: int) -> None:
        if self._life == _DEAD or (self._life != _OPEN and self._shuts == how):
            return
        self._shuts = how
        self._life = _ENDING
        if not (self.unsent or self._kept) and self._producer is None:
            self._end()

    def _end(self) -> None:
        """Shut the connection down; the epoll tells when it has ended, and then the owner is told."""
        self._life = _ENDED
        self.unsent = bytearray()
        with contextlib.suppress(OSError):
            self._socket.shutdown(self._shuts)

    def abort(self) -> None:
        """Reset the connection; the owner is told in the next turn. See ``Wire``."""
        if self._life == _DEAD:
            return
        self._life = _DEAD
        self.unsent = bytearray()
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._poller.reactor.callLater(0, self.lose, _ABORTED)

    def forget(self) -> None:
        """Do nothing: what was lost has let go of everything; see ``Wire``."""

    def pause(self) -> None:
        """Stop reading; see ``Wire``."""
        self._paused = True
        self._watch()

    def resume(self) -> None:
        """Read again; see ``Wire``."""
        self._paused = False
        self._watch()

    def register_producer(self, producer: Any, streaming: bool) -> None:
        """Pause ``producer`` while anything is unsent; see ``Wire``.

        Twisted's transports pause a producer at 64 KB. A stream that is not read would cost as much.
        """
        if self._producer is not None:
            raise RuntimeError("There is a producer already.")
        if self._life == _DEAD:
            producer.stopProducing()
            return
        self._producer = _Paced(producer, streaming)
        if not streaming:
            producer.resumeProducing()
            self._watch()
        elif self.unsent:
            self._producer.pause()

    def unregister_producer(self) -> None:
        """Pace it no more; see ``Wire``."""
        self._producer = None
        if self._life == _ENDING and not (self.unsent or self._kept):
            self._end()

    # -- ITransport and the like, for what takes a connection over

    def writeSequence(self, data: Iterable[bytes]) -> None:  # noqa: N802  Twisted's name
        """Write all of ``data`` at once."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        """Close once all is sent."""
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
        """Return the socket while there is one."""
        handle: socket.socket | None = self._socket
        return handle

    def getPeer(self) -> Any:  # noqa: N802  Twisted's name
        """Return the peer's address; an empty one if it is gone."""
        return _address(self._socket, "getpeername")

    def getHost(self) -> Any:  # noqa: N802  Twisted's name
        """Return our own address; an empty one if the connection is gone."""
        return _address(self._socket, "getsockname")


def _address(sock: socket.socket | None, which: str) -> IPv4Address | IPv6Address | UNIXAddress:
    """Return one of a socket's addresses as Twisted's."""
    try:
        name = getattr(sock, which)()
    except (OSError, AttributeError):
        return IPv4Address("TCP", "", 0)
    if not isinstance(name, tuple):
        return UNIXAddress(name or None)
    return IPv4Address("TCP", *name) if len(name) == 2 else IPv6Address("TCP", *name)


class _Paced:
    """A producer, and whether it was told to pause. One that ``pulls`` is asked for each piece."""

    __slots__ = ("_waits", "producer", "pulls")

    def __init__(self, producer: Any, streaming: bool) -> None:
        self.producer = producer
        self.pulls = not streaming
        self._waits = False

    def pause(self) -> None:
        """Much is unsent."""
        if not self._waits and not self.pulls:
            self._waits = True
            self.producer.pauseProducing()

    def resume(self) -> None:
        """All is sent."""
        if self._waits or self.pulls:
            self._waits = False
            self.producer.resumeProducing()
