"""The routes in memory, each test once over every way in which they are served."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from exchanges import Answer, Driver, Exchange, Fields, TreqDriver, WireDriver
from twisted.internet.task import Clock

from cometd_lite.auth import Hosts
from cometd_lite.comet import Comet
from cometd_lite.limits import Limits
from cometd_lite.serving import Bounds, HTTPFactory

STARTED = 1_795_169_758.123
"""2026-11-20T10:15:58.123Z, when every test begins."""

Headers = dict[str, str] | Fields


class Server:
    """A comet on a clock that stands still, and the client that talks to it."""

    def __init__(self, comet: Comet, clock: Clock, driver: Driver) -> None:
        self.comet = comet
        self.clock = clock
        self.driver = driver

    def send(
        self, method: str, target: str, body: bytes | str = b"", headers: Headers | None = None
    ) -> Exchange:
        fields = list(headers.items()) if isinstance(headers, dict) else headers or []
        return self.driver.send(method, target, fields, body.encode() if isinstance(body, str) else body)

    def ask(
        self, method: str, target: str, body: bytes | str = b"", headers: Headers | None = None
    ) -> Answer:
        """Send a request that is answered at once."""
        answer = self.send(method, target, body, headers).answer
        assert answer is not None, "the request is parked"
        return answer

    def get(self, target: str, headers: Headers | None = None) -> Answer:
        return self.ask("GET", target, b"", headers)

    def push(self, target: str, body: bytes | str = "hello", headers: Headers | None = None) -> Answer:
        """Push below ``/push``, where there is room and someone to push to."""
        answer = self.ask("POST", f"/push{target}", body, headers)
        assert answer.status in {201, 202}, answer
        return answer

    def park(self, target: str, headers: Headers | None = None) -> Exchange:
        """Send a poll that finds nothing."""
        exchange = self.send("GET", target, b"", headers)
        assert exchange.answer is None, exchange.answer
        return exchange

    def read(self, target: str, headers: Headers | None = None) -> list[Any]:
        """Return the data of the messages that a poll is answered with at once."""
        return [message["data"] for message in self.get(target, headers).json["messages"]]

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.driver.flush()

    def stop(self) -> None:
        self.driver.stopping()
        self.comet.stop()
        self.driver.flush()

    @property
    def parked(self) -> int:
        return self.comet.hub.registry.parked


Serve = Callable[..., Server]


def by_twisted_web(comet: Comet) -> TreqDriver:
    return TreqDriver(comet.resource())


def by_serving(comet: Comet) -> WireDriver:
    routes = comet.routes
    bounds = Bounds(body=comet.limits.max_body)
    return WireDriver(HTTPFactory(routes.app, clock=Clock(), malformed=routes.malformed, bounds=bounds))


DRIVERS: dict[str, Callable[[Comet], Driver]] = {"twisted.web": by_twisted_web, "serving": by_serving}


@pytest.fixture(autouse=True, scope="session")
def quick_collections() -> None:
    """Keep what was imported out of the collection after each test, which else takes 40 ms of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=list(DRIVERS))
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """Return a function that starts a server with what it is given as a ``Comet`` is."""
    servers = []

    def serve(
        limits: Limits | None = None, origins: tuple[str, ...] = (), hosts: Hosts | None = None, **words: Any
    ) -> Server:
        clock = Clock()
        clock.advance(1_000)
        comet = Comet(
            limits=limits,
            origins=origins,
            hosts=hosts or Hosts(loopback_only=True),
            clock=clock,
            wall=lambda: STARTED + clock.seconds() - 1_000,
            **words,
        )
        servers.append(Server(comet, clock, DRIVERS[request.param](comet)))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()
        assert server.parked == 0
        assert server.clock.getDelayedCalls() == []


@pytest.fixture
def server(serve: Serve) -> Server:
    """Return a server with the defaults, listening as if on loopback."""
    return serve()
