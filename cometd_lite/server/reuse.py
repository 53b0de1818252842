"""TCP ports on which several processes listen at once; the kernel spreads new connections over them.

This is ``SO_REUSEPORT`` of Linux and the BSDs (socket(7)). A process that ends takes the connections with it
that wait in its queue to be accepted. Where a restart must lose none, hand one socket to all processes
instead (``systemd:``).
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.tcp import Port
from twisted.protocols.tls import TLSMemoryBIOFactory


class _ReusedPort(Port):
    def createInternetSocket(self) -> socket.socket:  # noqa: N802  Twisted's name
        """Return a socket whose port other processes may listen on."""
        made: socket.socket = super().createInternetSocket()  # type: ignore[no-untyped-call]  # Twisted's
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return made


class ReusingReactor:
    """A reactor on whose TCP and TLS ports other processes of the same user may listen as well."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int, interface: str) -> Port:  # noqa: N802  Twisted's name
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
        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)
