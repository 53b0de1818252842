"""Several processes at one Redis, without a reactor: each a hub with a store, on one clock."""

from __future__ import annotations

from typing import Any, ClassVar

from helpers import Outcome, check_invariants, push
from redis_recount import Recount
from redis_server import RedisServer
from redis_wires import Wires
from twisted.internet.task import Clock

from cometd_lite.core.hub import Hub
from cometd_lite.core.message import NOW, Cursor
from cometd_lite.core.registry import Registry
from cometd_lite.deferreds import MaybeDeferred
from cometd_lite.limits import REDIS_RETRY_SECONDS, Limits
from cometd_lite.stores.redis.store import RedisStore


class Cluster:
    """Several processes at one Redis, each a hub with a store, on one clock."""

    made: ClassVar[list[Cluster]] = []

    def __init__(self, server: RedisServer, prefix: str, **limits: Any) -> None:
        self.server = server
        self.prefix = prefix
        self.limits = Limits(**limits)
        self.clock = Clock()
        self.clock.advance(1_000)
        self.wires = Wires(server.socket, self.clock)
        self.hubs: list[Hub] = []
        self.made.append(self)

    def make(self, address: str = "") -> Hub:
        """Make one more process; it is always this Redis to which it connects, whatever its address says."""
        address = address or f"{self.server.address}?prefix={self.prefix}:"
        store = RedisStore(address, self.limits, clock=self.clock, endpoint=self.wires)
        hub = Hub(store, Registry(self.clock, 1_000), self.clock, wall=self.clock.seconds)
        self.hubs.append(hub)
        return hub

    def join(self) -> Hub:
        """Start one more process."""
        hub = self.make()
        self.ask(hub.store.open(self.clock.seconds()))
        return hub

    def push(self, place: int, name: str, body: str) -> None:
        """Push at the process that was the first, or second, to join."""
        self.ask(self.hubs[place].push(push(name, body=body)))

    def find_again(self) -> None:
        """Let the time pass in which every process finds Redis again."""
        for _ in range(5):
            self.clock.advance(REDIS_RETRY_SECONDS)
            self.wires.settle()

    def begin(self, result: MaybeDeferred[Any]) -> Outcome:
        outcome = Outcome(result)
        self.wires.settle()
        return outcome

    def ask(self, result: MaybeDeferred[Any]) -> Any:
        return self.begin(result).value

    def end(self, hub: Hub) -> Cursor:
        return self.ask(hub.store.read(("nobody",), NOW, 1, self.clock.seconds())).cursor

    def close(self) -> None:
        self.wires.settle()
        for hub in self.hubs:
            check_invariants(hub)
        Recount(self.server, f"{self.prefix}:")
        for hub in self.hubs:
            self.ask(hub.store.close())
