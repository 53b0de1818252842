"""For tests of programs that push and read: a server in memory, on a clock that only the test moves.

    server = MemoryServer()
    following = server.client.follow("bob", after="oldest")
    server.result(server.client.push("bob", "hi"))
    assert server.result(anext(following)).data == "hi"

No socket is opened and nothing sleeps. Requests run through the real routes, twisted.web's server and treq's
client; ``advance`` moves the time of both sides. A network that fails is there too: ``reset``, ``stop``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Generic, TypeVar

from treq.client import HTTPClient
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.error import ConnectionLost, ConnectionRefusedError  # noqa: A004  Twisted's name
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump
from twisted.web.client import Agent
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.resource import IResource
from twisted.web.server import Site
from zope.interface import implementer

from .client import Client, Treq, WholeBody
from .client.remote import Token
from .comet import Comet

__all__ = ["STARTED_AT", "MemoryServer", "Outcome"]

T = TypeVar("T")

STARTED_AT = 1_795_169_758.123
"""2026-11-20T10:15:58.123Z, when every ``MemoryServer`` begins."""

_BEGINNING = 1_000.0
"""The clock's first reading, in seconds: not 0, because no real clock starts there."""

_CLIENT = IPv4Address("TCP", "127.0.0.1", 31337)
_SERVER = IPv4Address("TCP", "127.0.0.1", 8080)


class Outcome(Generic[T]):
    """The result of a coroutine or Deferred that was started: pending, a value, or an error."""

    def __init__(self, work: Deferred[T]) -> None:
        self._results: list[T | Failure] = []
        self._work = work
        work.addBoth(self._results.append)

    @property
    def is_pending(self) -> bool:
        """Whether there is no result yet."""
        return not self._results

    @property
    def value(self) -> T:
        """The value. Raises the error of what failed, and ``AssertionError`` while it is pending."""
        assert self._results, "there is no result yet: it is pending until a message comes, or time passes"
        (result,) = self._results
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def cancel(self) -> None:
        """Cancel it, as a client that disconnects does."""
        self._work.cancel()


class MemoryServer:
    """A ``Comet`` on a ``Clock``, a ``Client`` of it, and the network between them.

    ``options`` are the ``Comet``'s. ``resource`` makes the site's root of the comet, for a program that
    mounts it somewhere; ``url`` is then where it did. ``random`` spreads the client's pauses: by default
    always in the same way.
    """

    def __init__(
        self,
        *,
        url: str = "http://localhost:8080",
        token: Token | None = None,
        resource: Callable[[Comet], IResource] | None = None,
        random: Random | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.clock.advance(_BEGINNING)
        self._resource = resource or Comet.resource
        self._options = options
        self._network = _MemoryNetwork()
        self._comets: list[Comet] = []
        self.start()
        agent = Agent.usingEndpointFactory(self.clock, self._network)
        self._http = HTTPClient(agent, data_to_body_producer=WholeBody)
        self.treq: Treq = _Treq(self)
        random = random or Random(1)  # noqa: S311  pauses are the same in every run
        self.client = Client(url, token=token, treq=self.treq, clock=self.clock, random=random)

    @property
    def comet(self) -> Comet:
        """The server as an object, with ``push``, ``poll``, ``follow`` and its limits."""
        return self._comets[-1]

    @property
    def parked(self) -> int:
        """How many readers are held at this moment."""
        return self.comet.hub.registry.parked

    def wall(self) -> float:
        """Return the server's date, in seconds since 1970: it dates messages, and expires tokens."""
        return STARTED_AT + self.clock.seconds() - _BEGINNING

    def run(self, work: Awaitable[T]) -> Outcome[T]:
        """Start a coroutine or Deferred, and return its outcome without time passing."""
        deferred = work if isinstance(work, Deferred) else ensureDeferred(_coroutine(work))
        outcome = Outcome(deferred)
        self.flush()
        return outcome

    def result(self, work: Awaitable[T]) -> T:
        """Return the value of a coroutine or Deferred without time passing. Raises as ``Outcome.value``."""
        return self.run(work).value

    def flush(self) -> None:
        """Deliver everything that was written, and what it causes, until nothing more is written."""
        self._network.flush()
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)
            self._network.flush()

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass on both sides, with everything that is due meanwhile."""
        self.flush()
        until = self.clock.seconds() + seconds
        while self.clock.seconds() < until:
            calls = [call.getTime() for call in self.clock.getDelayedCalls()]
            next_one = min([call for call in calls if call > self.clock.seconds()], default=until)
            self.clock.advance(min(next_one, until) - self.clock.seconds())
            self.flush()

    # -- failures

    def reset(self) -> None:
        """Lose every connection, and the bytes that are under way on it."""
        self._network.reset()
        self.flush()

    def stop(self) -> None:
        """Stop the server as its process does: it answers parked readers, and refuses new connections."""
        self._network.site = None
        self._check_opened(self.comet.stop())

    def start(self) -> None:
        """Start a new server: with a memory of its own, or with the ``store`` among the options."""
        self._comets.append(Comet(clock=self.clock, wall=self.wall, **self._options))
        self._network.site = Site(self._resource(self.comet), reactor=self.clock)
        self._check_opened(self.comet.start())

    def _check_opened(self, work: Deferred[None] | None) -> None:
        """Raise the error of opening or closing a store; one that is pending is left so."""
        if work is not None:
            outcome = self.run(work)
            assert outcome.is_pending or outcome.value is None

    def close(self) -> None:
        """End everything, and assert that no reader and no timer is left."""
        self.result(self.client.close())
        self.stop()
        self.reset()
        assert self.parked == 0, f"{self.parked} readers are still parked"
        left = self.clock.getDelayedCalls()
        assert left == [], f"timers are still pending: {', '.join(map(str, left))}"


async def _coroutine(work: Awaitable[T]) -> T:
    return await work


class _Treq:
    """treq's client in memory: an answer that needs no time is there when the request was sent."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    def request(self, method: str, url: str, **words: Any) -> Deferred[Any]:
        response = self._server._http.request(method, url, **words)
        self._server.flush()
        return response


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _MemoryNetwork:
    """The connections between treq's client and ``site``, which refuses them where it is None."""

    def __init__(self) -> None:
        self.site: IProtocolFactory | None = None
        self._pumps: list[IOPump] = []
        self._flushing = False

    def endpointForURI(self, _: object) -> _MemoryNetwork:  # noqa: N802  Twisted's name
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803  Twisted's name
        server = None if self.site is None else self.site.buildProtocol(_CLIENT)
        client = protocolFactory.buildProtocol(_SERVER)
        if server is None or client is None:
            return fail(ConnectionRefusedError())
        ends = FakeTransport(server, True, _SERVER, _CLIENT), FakeTransport(client, False, _CLIENT, _SERVER)
        for protocol, end in zip((server, client), ends, strict=True):
            protocol.makeConnection(end)
        self._pumps.append(IOPump(client, server, ends[1], ends[0], debug=False, clock=Clock()))
        return succeed(client)

    def flush(self) -> None:
        if self._flushing:
            return  # the outer call delivers this, too
        self._flushing = True
        try:
            while any([pump.flush() for pump in self._pumps]):  # noqa: C419  all of them, in each round
                pass
            self._pumps = [pump for pump in self._pumps if not pump.serverIO.disconnected]
        finally:
            self._flushing = False

    def reset(self) -> None:
        pumps, self._pumps = self._pumps, []
        for pump in pumps:
            for end in (pump.serverIO, pump.clientIO):
                end.stream.clear()
                end.disconnecting = end.disconnected = True
                end.disconnectReason = ConnectionLost()
                end.reportDisconnect()
