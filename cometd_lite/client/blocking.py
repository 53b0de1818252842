"""The network of a thread: it waits, in the thread that calls it, until a request of it was answered.

A ``BlockingLoop`` runs only while a call waits for its result. So it needs no thread of its own, no
event loop and no reactor, and may be used beside those that the program has.
"""

from __future__ import annotations

import math
import select
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IProtocol, IPushProducer, ITransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from .network import CONNECT_SECONDS, Network, Transport

T = TypeVar("T")

SEND_SECONDS = 20.0
"""The longest time in which a server takes a request's body; an answer has as much time."""

READ_BYTES = 65_536
"""What is read at once."""


class LoopStopped(Exception):
    """The loop was stopped from another thread while it waited."""


class MonotonicClock(Clock):
    """Twisted's simplest timers, on the machine's monotonic clock: those that are due run in ``advance``."""

    def seconds(self) -> float:
        return time.monotonic()


class BlockingLoop:
    """Sockets and timers of one thread at a time. ``network`` sends requests over them.

    Only ``stop`` and ``wake`` may be called by another thread than the one that waits.
    """

    def __init__(self) -> None:
        self.clock = MonotonicClock()
        self.network = Network(self.clock, self._connecting)
        self.connections: dict[int, BlockingConnection] = {}
        """The open connections, by the descriptors of their sockets."""
        self._stopped = False
        self._waker, self._awakened = socket.socketpair()

    def run(self, begin: Callable[[], Deferred[T]]) -> T:
        """Begin a request, wait for it, and return its result or raise its error.

        Before, it notes which connections were closed, or kept for too long, since the last wait. Raises
        ``LoopStopped`` where the loop is stopped. Then, and when a signal handler raises as for Ctrl-C, the
        request is cancelled.
        """
        while self._turn(0.0):
            pass
        results: list[T | Failure] = []
        begun: list[Deferred[None]] = []
        try:
            _uninterrupted(lambda: begun.append(begin().addBoth(results.append)))
            while not results:
                self._turn()
        except BaseException:
            for deferred in begun:
                deferred.cancel()
            raise
        (result,) = results
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def stop(self) -> None:
        """End a wait under way in another thread, and every later one, with ``LoopStopped``."""
        self._stopped = True
        self.wake()

    def wake(self) -> None:
        """Let a wait under way in another thread look whether its request was answered."""
        with suppress(OSError):  # it was closed meanwhile
            self._waker.send(b"\0")

    def close(self) -> None:
        for connection in list(self.connections.values()):
            connection.abortConnection()
        self._waker.close()
        self._awakened.close()

    def _turn(self, most: float = math.inf) -> bool:
        """Wait, at most so many seconds, and do what is to be done; return whether there was something."""
        if self._stopped:
            raise LoopStopped
        poll = select.poll()
        poll.register(self._awakened, select.POLLIN)
        for descriptor, connection in self.connections.items():
            if connection.reads:
                poll.register(descriptor, select.POLLIN)
        calls = self.clock.getDelayedCalls()
        if calls:
            most = min(most, max(0.0, calls[0].getTime() - time.monotonic()))
        ready = poll.poll(None if most == math.inf else math.ceil(most * 1000))
        return _uninterrupted(lambda: self._act(ready, calls))

    def _act(self, ready: list[tuple[int, int]], calls: Sequence[IDelayedCall]) -> bool:
        # What has arrived comes before what is due: the program may have taken a while since the last turn.
        for descriptor, _ in ready:
            if descriptor == self._awakened.fileno():
                self._awakened.recv(READ_BYTES)
            elif descriptor in self.connections:  # else one before it has closed it
                self.connections[descriptor].read()
        due = bool(calls) and calls[0].getTime() <= time.monotonic()
        self.clock.advance(0)
        return due or bool(ready)

    def _connecting(
        self, host: str, port: int, tls: ssl.SSLContext | None, protocol: IProtocol
    ) -> Deferred[IProtocol]:
        try:
            opened = socket.create_connection((host, port), CONNECT_SECONDS)
            try:
                # The head and the body of a request are two writes; the second must not wait for an ACK.
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                opened = opened if tls is None else tls.wrap_socket(opened, server_hostname=host)
            except BaseException:
                opened.close()
                raise
        except OSError:
            return fail()
        BlockingConnection(self, opened, protocol)
        return succeed(protocol)


def _uninterrupted(act: Callable[[], T]) -> T:
    """Return what ``act`` returns; where Ctrl-C comes meanwhile, its handler is called afterwards.

    ``act`` runs callbacks of Twisted, which would take the KeyboardInterrupt for a failure of one request.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        return act()
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        result = act()
    finally:
        signal.signal(signal.SIGINT, handler)
    for number, frame in came[:1]:
        handler(number, frame)
    return result


@implementer(ITransport, IPushProducer)
class BlockingConnection(Transport):
    """A socket, and the transport of the Twisted protocol that speaks over it. Writing blocks."""

    def __init__(self, loop: BlockingLoop, opened: socket.socket, protocol: IProtocol) -> None:
        self._loop = loop
        self._socket = opened
        self._descriptor = opened.fileno()
        self._protocol = protocol
        self.reads = True
        """Whether what arrives is wanted at this moment."""
        loop.connections[self._descriptor] = self
        protocol.makeConnection(self)

    def write(self, data: bytes) -> None:
        """Send the bytes; where that fails the connection is lost."""
        if self._is_open:
            self._socket.settimeout(SEND_SECONDS)
            try:
                self._socket.sendall(data)
            except OSError as error:
                self._close(ConnectionLost(str(error)))

    def read(self) -> None:
        """Give the protocol what has arrived."""
        self._socket.setblocking(False)
        while self._is_open and self.reads:
            try:
                data = self._socket.recv(READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError as error:
                self._close(ConnectionLost(str(error)))
                return
            if not data:
                self._close(ConnectionDone())
                return
            self._protocol.dataReceived(data)
            if not isinstance(self._socket, ssl.SSLSocket):
                return  # TLS may have decrypted more than was read, which no poll of the socket shows
            self._socket.setblocking(False)

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        self._close(ConnectionDone())

    abortConnection = loseConnection  # noqa: N815  Twisted's name

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        self.reads = False

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        if not self.reads:
            self.reads = True
            self._loop.clock.callLater(0, self._read_on)

    def _read_on(self) -> None:
        if self._is_open:
            self.read()

    @property
    def _is_open(self) -> bool:
        return self._loop.connections.get(self._descriptor) is self

    def _close(self, reason: Exception) -> None:
        """Close the socket; the protocol is notified in the next turn, as Twisted does it."""
        if self._is_open:
            del self._loop.connections[self._descriptor]
            self._socket.close()
            self._loop.clock.callLater(0, self._protocol.connectionLost, Failure(reason))
