"""Connections of a store to a real Redis without a reactor: what comes is looked at when a test says so."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from cometd_lite.limits import REDIS_ACKNOWLEDGE_SECONDS, REDIS_FULL_SECONDS
from cometd_lite.stores.redis import link

# A process puts its scripts together once, in 15 ms. The tests make hundreds of stores, with few kinds of
# bounds: a sixth of what the fast tests took.
link.scripts = cache(link.scripts)


class Wire:
    """A transport whose writing waits, and that reads when it is told to."""

    disconnecting = False

    def __init__(self, path: Path, protocol: Any, changes: Callable[[bytes], bytes] | None = None) -> None:
        self.changes = changes or bytes
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.protocol = protocol
        self.open = True

    def write(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError:
            self.end()

    def loseConnection(self) -> None:
        self.end()

    def abortConnection(self) -> None:
        self.end()

    def look(self, seconds: float) -> bytes:
        """Take in, and return, what comes within so many seconds; nothing where the connection has ended."""
        data = b""
        if self.open and select.select([self.socket], [], [], seconds)[0]:
            with suppress(OSError):
                data = self.socket.recv(65_536)
            if data:
                self.protocol.dataReceived(self.changes(data))
            else:
                self.end()
        return data

    def end(self) -> None:
        if self.open:
            self.open = False
            self.socket.close()
            self.protocol.connectionLost(Failure(ConnectionDone()))


@implementer(IStreamClientEndpoint)
class Wires:
    """An endpoint at a Redis, and all connections that were made to it. ``clock`` drives what waits."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self.wires: list[Wire] = []
        self.patience = 10.0
        self.changes: Callable[[], Callable[[bytes], bytes]] | None = None
        """Makes, for each connection, what changes all that comes: for a Redis that the tests do not have."""
        self.made: list[Wire] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        protocol = factory.buildProtocol(None)
        try:
            wire = Wire(self.path, protocol, self.changes and self.changes())
        except OSError:
            return fail(ConnectError())
        self.wires.append(wire)
        self.made.append(wire)
        protocol.makeConnection(wire)
        return succeed(protocol)

    def close(self) -> None:
        """End every connection that was made."""
        for wire in self.made:
            wire.abortConnection()

    def settle_full(self) -> None:
        """Settle, and let the time pass after which a push asks again that found a mailbox full.

        Acknowledgements are sent earlier, over another connection: a busy Redis may read that one later, so
        they arrive first.
        """
        self.settle()
        for seconds in (REDIS_ACKNOWLEDGE_SECONDS, REDIS_FULL_SECONDS):
            self.clock.advance(seconds)
            self.settle()

    def settle(self) -> None:
        """Take in what comes, until nothing but answers to our own question has come at any connection.

        What was published before Redis came to that question has come before its answer.
        """
        busy = True
        while busy:
            busy = False
            for wire in [wire for wire in self.wires if wire.open]:
                # Not PING, which a Redis that cannot save refuses.
                wire.protocol.ask("ECHO", "done").addErrback(lambda _: None)
                heard = b""
                while wire.open and wire.protocol.waiting:
                    came = wire.look(self.patience)
                    heard += came
                    if wire.open and not came:
                        return  # it is made to answer nothing
                busy |= heard != b"$4\r\ndone\r\n"
            self.clock.advance(0)
