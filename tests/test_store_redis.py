"""What only the store in Redis promises: many processes, a Redis that goes and comes, and what it loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import Outcome, data, push
from redis_server import RedisServer
from twisted.internet.task import Clock
from wires import Wires

from cometd_lite.hub import Hub
from cometd_lite.later import Maybe
from cometd_lite.limits import Limits
from cometd_lite.listeners import Listeners
from cometd_lite.message import NOW, OLDEST, Cursor, Push
from cometd_lite.registry import Registry
from cometd_lite.stores.redis import RedisStore


class Cluster:
    """Several processes at one Redis, each a hub with a store, on one clock."""

    def __init__(self, server: RedisServer, prefix: str, **limits: Any) -> None:
        self.server = server
        self.prefix = prefix
        self.limits = Limits(**limits)
        self.clock = Clock()
        self.clock.advance(1_000)
        self.wires = Wires(server.socket, self.clock)
        self.hubs: list[Hub] = []

    def join(self) -> Hub:
        """Start one more process."""
        address = f"{self.server.address}?prefix={self.prefix}:"
        store = RedisStore(address, self.limits, clock=self.clock, endpoint=self.wires)
        hub = Hub(store, Registry(self.clock, 1_000), self.clock, wall=self.clock.seconds)
        self.hubs.append(hub)
        self.ask(store.open(self.clock.seconds()))
        return hub

    def begin(self, result: Maybe[Any]) -> Outcome:
        outcome = Outcome(result)
        self.wires.settle()
        return outcome

    def ask(self, result: Maybe[Any]) -> Any:
        return self.begin(result).value

    def end(self, hub: Hub) -> Cursor:
        return self.ask(hub.store.read(("nobody",), NOW, 1, 0.0)).cursor

    def close(self) -> None:
        for hub in self.hubs:
            self.ask(hub.store.close())


Clusters = Callable[..., Cluster]


@pytest.fixture
def cluster(redis: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(redis, tmp_path.name)
    yield cluster
    cluster.close()


def test_a_push_at_one_process_wakes_a_poll_at_another_and_counts_it(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    polls = [cluster.begin(there.poll(("bob",), OLDEST)), cluster.begin(there.poll(("*",), OLDEST))]
    polls.append(cluster.begin(here.poll(("bob",), OLDEST)))
    receipt = cluster.ask(here.push(push("bob", body="1")))
    assert receipt.delivered == 3
    assert [data(poll.value) for poll in polls] == [["1"]] * 3


def test_a_push_at_one_process_wakes_one_take_of_all(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    takes = [cluster.begin(hub.take(("bob",))) for hub in (here, there, there)]
    receipts = [cluster.ask(here.push(push("bob", body=str(number)))) for number in range(3)]
    assert sorted(data(take.value)[0] for take in takes) == ["0", "1", "2"]
    assert [receipt.delivered for receipt in receipts] == [1, 1, 1]
