"""The routes in memory, each test once over every way in which they are served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from exchanges import DRIVERS, STARTED, TLS, Server
from helpers import check_empty
from twisted.internet.task import Clock

from cometd_lite.access.origins import Hosts
from cometd_lite.comet import Comet
from cometd_lite.limits import Limits

Serve = Callable[..., Server]


OVER_TLS = {f"test_http_{name}" for name in ("push", "poll", "take", "names", "everything_else")}
"""What is tried over TLS as well, which changes nothing but when bytes come, and in what pieces."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "serve" in metafunc.fixturenames:
        drivers = DRIVERS | (TLS if metafunc.module.__name__ in OVER_TLS else {})
        params = [
            pytest.param(driver, id=name, marks=() if name == "serving" else pytest.mark.repeated)
            for name, driver in drivers.items()
        ]
        metafunc.parametrize("serve", params, indirect=True)


@pytest.fixture
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
        servers.append(Server(comet, clock, request.param(comet)))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()
        check_empty(server.comet.hub)
        assert server.clock.getDelayedCalls() == []


@pytest.fixture
def server(serve: Serve) -> Server:
    """Return a server with the defaults, listening as if on loopback."""
    return serve()
