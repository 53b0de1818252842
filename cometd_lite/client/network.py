"""What sends requests: treq with a pool of connections, on a reactor, an asyncio loop or a thread's own loop.

A ``Network`` is made of a clock and of what opens connections: ``reactor_network`` makes that of Twisted's
reactor; ``on_asyncio`` and ``blocking`` make the others. treq, the pool and every time-out are the same.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

from treq.client import HTTPClient
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from ..limits import OUTGOING_CONNECTIONS_KEPT, OUTGOING_KEPT_SECONDS
from ..outgoing.http import WholeBody

CONNECT_SECONDS = 10.0
"""The longest time in which a server accepts a connection."""


Connecting = Callable[[str, int, ssl.SSLContext | None, IProtocol], Deferred[IProtocol]]
"""Connects a Twisted protocol to a host and port, by TLS where there is a context."""


class Treq(Protocol):
    """What the client needs of treq: the module itself has it, an ``HTTPClient``, and a ``StubTreq``."""

    @property
    def request(self) -> Callable[..., Deferred[Any]]:
        """Send a request, given its method, its URL and keywords, and return its response."""


@implementer(IAgentEndpointFactory)
class Network:
    """A clock, and a ``Treq`` with a pool of connections that ``connecting`` opens.

    Without that the clock is a reactor, which opens connections itself.
    """

    def __init__(self, clock: Any, connecting: Connecting | None = None) -> None:
        self.clock = IReactorTime(clock)
        self._connecting = connecting
        self._pool = HTTPConnectionPool(clock)
        self._pool.maxPersistentPerHost = OUTGOING_CONNECTIONS_KEPT
        self._pool.cachedConnectionTimeout = OUTGOING_KEPT_SECONDS  # type: ignore[assignment]  # any number will do
        if connecting is None:
            agent = Agent(clock, connectTimeout=CONNECT_SECONDS, pool=self._pool)
        else:
            agent = Agent.usingEndpointFactory(clock, self, self._pool)
        client = HTTPClient(agent, data_to_body_producer=WholeBody)
        # treq takes any clock for a reactor; without one it would install the default reactor.
        self.request: Callable[..., Deferred[Any]] = partial(client.request, reactor=clock)

    def endpointForURI(self, uri: URI) -> ConnectingEndpoint:  # noqa: N802  Twisted's name
        assert self._connecting is not None, "a reactor's Agent has endpoints of its own"
        return ConnectingEndpoint(self._connecting, uri)

    async def close(self) -> None:
        await self._pool.closeCachedConnections()


def reactor_network() -> Network:
    """Return a network on Twisted's reactor, which is installed where none was."""
    from twisted.internet import reactor  # noqa: PLC0415  importing it installs one

    return Network(reactor)


class Transport:
    """What an HTTP client needs of a Twisted transport, apart from how it reads and writes."""

    def write(self, data: bytes) -> None:
        """Send the bytes."""
        raise NotImplementedError

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        """Close the connection."""
        raise NotImplementedError

    def writeSequence(self, parts: Iterable[bytes]) -> None:  # noqa: N802  Twisted's name
        self.write(b"".join(parts))

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """Close the connection: no more is to be read."""
        self.loseConnection()

    def registerProducer(self, producer: object, streaming: bool) -> None:  # noqa: N802  Twisted's
        """Do nothing: a ``WholeBody`` is written at once."""

    def unregisterProducer(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing, as above."""

    def getPeer(self) -> IPv4Address:  # noqa: N802  Twisted's name
        return _NOWHERE

    getHost = getPeer  # noqa: N815  Twisted's name


_NOWHERE = IPv4Address("TCP", "0.0.0.0", 0)  # noqa: S104  an address of nothing, on which nothing listens


@implementer(IStreamClientEndpoint)
@dataclass(frozen=True)
class ConnectingEndpoint:
    """The host and port of a URL, and the function that opens connections there."""

    connecting: Connecting
    uri: URI

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803  Twisted's
        protocol = protocolFactory.buildProtocol(_NOWHERE)
        assert protocol is not None, "Agent's factory always builds one"
        tls = _trusting() if self.uri.scheme == b"https" else None
        return self.connecting(self.uri.host.decode("ascii"), self.uri.port, tls, protocol)


@cache
def _trusting() -> ssl.SSLContext:
    """Return a context that trusts whom this machine trusts; it is made once, which takes a while."""
    return ssl.create_default_context()
