"""Connections of a store to a real Redis without a reactor: what comes is looked at when a test says so."""

from __future__ import annotations

import select
import socket
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer


class Wire:
    """A transport whose writing waits, and that reads when it is told to."""

    disconnecting = False

    def __init__(self, path: Path, protocol: Any) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.protocol = protocol
        self.open = True

    def write(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError:
            self._end()

    def loseConnection(self) -> None:
        self._end()

    def abortConnection(self) -> None:
        self._end()

    def look(self, seconds: float) -> bool:
        """Take in what has come within so many seconds; return whether something has."""
        if not self.open or not select.select([self.socket], [], [], seconds)[0]:
            return False
        try:
            data = self.socket.recv(65_536)
        except OSError:
            data = b""
        if data:
            self.protocol.dataReceived(data)
        else:
            self._end()
        return True

    def _end(self) -> None:
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

    def connect(self, factory: Any) -> Deferred[Any]:
        protocol = factory.buildProtocol(None)
        try:
            wire = Wire(self.path, protocol)
        except OSError:
            return fail(ConnectError())
        self.wires.append(wire)
        protocol.makeConnection(wire)
        return succeed(protocol)

    def settle(self) -> None:
        """Take in what comes, until everything is answered and nothing more has come."""
        while sum(wire.look(self._patience(wire)) for wire in self.wires):
            self.wires = [wire for wire in self.wires if wire.open]
            self.clock.advance(0)

    @staticmethod
    def _patience(wire: Wire) -> float:
        connection = getattr(wire.protocol, "_wrappedProtocol", wire.protocol)
        return 10.0 if wire.open and getattr(connection, "waiting", 0) else 0.0
