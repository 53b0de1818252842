"""The factory: connections come from a listening port, and all are given the same application and bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IProtocolFactory, IProtocolNegotiationFactory
from zope.interface import implementer

from .connection import HTTPConnection
from .shared import Shared

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress


@implementer(IProtocolFactory, IProtocolNegotiationFactory)
class HTTPFactory(Shared):
    """Serves an ``Application[Request]`` over HTTP/1.1.

    ``clock`` is for deadlines, ``wall`` for Date. ``prefix`` is the path below which the application is
    mounted; outside of it nothing is found. ``proxies`` are the trusted proxies.

    ``on_answer`` is called with each ``Request`` that is over, for metrics and an access log: answered,
    upgraded, refused as malformed (it may have neither method nor path then), or left by its client before
    the response (its ``code`` is 499 then, as in nginx).

    ``max_connections`` are served at once. ``admit`` is called with the address of each: it returns what is
    released when the connection has ended, None for nothing, or why the connection is refused.

    ``connections`` are all that are open. To stop, set ``stopping``, and call ``shutdown`` some time later.
    """

    def buildProtocol(self, addr: IAddress | None) -> HTTPConnection:  # noqa: N802  Twisted's name
        """Return the server's end of a new connection."""
        return HTTPConnection(self, getattr(addr, "host", ""))

    def doStart(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: there is nothing to start."""

    def doStop(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: connections live until they end, or until ``shutdown``."""

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802  Twisted's name
        """Return the protocols spoken over TLS (RFC 7301), for a browser that offers h2 first."""
        return [b"http/1.1"]

    def shutdown(self) -> None:
        """Close the connections that wait for a request; set ``stopping`` before, for all others."""
        for connection in list(self.connections):
            connection.close_if_idle()
