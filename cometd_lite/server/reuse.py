"""TCP ports at which several processes listen at once: the kernel spreads new connections among them.

That is Linux's and the BSDs' ``SO_REUSEPORT`` (socket(7)). A reactor arrives, and one leaves that sets it on
every port it listens at. A process that ends takes along what waits in its own queue to be accepted; where a
restart must lose no connection, one socket is handed to all of them instead (``systemd:``).
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.tcp import Port
from twisted.protocols.tls import TLSMemoryBIOFactory


class _ReusedPort(Port):
    def createInternetSocket(self) -> socket.socket:  # noqa: N802  Twisted's name
        """Let others listen here, too."""
        made: socket.socket = super().createInternetSocket()  # type: ignore[no-untyped-call]  # Twisted's
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return made


class ReusingReactor:
    """``reactor``, whose TCP and TLS ports may be listened at by other processes of the same user, too."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int, interface: str) -> Port:  # noqa: N802  Twisted's name
        """See ``IReactorTCP``."""
        listening = _ReusedPort(port, factory, backlog, interface, self._reactor)
        listening.startListening()
        return listening

    def listenSSL(  # noqa: N802  Twisted's name
        self,
        port: int,
        factory: Any,
        contextFactory: Any,  # noqa: N803  as above
        backlog: int,
        interface: str,
    ) -> Port:
        """See ``IReactorSSL``."""
        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)
