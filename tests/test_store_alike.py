"""Whatever is asked of them, the store in memory and that in Redis answer the same."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from helpers import Outcome, push
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_recount import Recount
from redis_server import RedisServer
from redis_wires import Wires
from test_stores import Turns
from twisted.internet.task import Clock

from cometd_lite.core.leases import LeaseId, Settlement
from cometd_lite.core.message import LAST, NOW, OLDEST, Batch, Cursor
from cometd_lite.core.namespaces import Namespace, Namespaces
from cometd_lite.errors import CometError
from cometd_lite.limits import Limits
from cometd_lite.stores.memory import MemoryStore
from cometd_lite.stores.redis.store import RedisStore
from cometd_lite.stores.sqlite import SQLiteStore

LIMITS = Limits(capacity=6, capacity_bytes=20, ttl=100, max_attempts=2)
SPACES = Namespaces(
    {
        "a/*": Namespace(capacity=3, overflow="drop-oldest", ttl=20),
        "c": Namespace(capacity=9, capacity_bytes=90),
    }
)
NAMES = ("a", "a/b", "c")
ANY = (*NAMES, "*", "**", "a/*", "a/**")
PLACES = ("oldest", "now", "other", "last 1", "last 4", "accepted 1", "accepted 20", *range(-3, 12))

names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).map(tuple)
readers = st.lists(st.sampled_from(ANY), min_size=1, max_size=3, unique=True).map(tuple)
limits = st.integers(1, 4)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("push"),
            names,
            st.lists(st.text("xyz", min_size=1, max_size=12), min_size=1, max_size=3),
            st.sampled_from([None, "reject", "drop-oldest"]),
            st.sampled_from([None, 1, 5, 30]),
        ),
        st.tuples(st.just("read"), readers, st.sampled_from(PLACES), limits, st.booleans()),
        st.tuples(st.just("take"), names, limits),
        st.tuples(st.just("give back"), st.integers(0, 3)),
        st.tuples(st.just("lease"), names, limits, st.sampled_from([0.5, 1.0, 5.0, 60.0])),
        st.tuples(
            st.just("settle"),
            st.integers(0, 3),
            st.sampled_from(["done", "extended", "released"]),
            st.sampled_from([0.5, 5.0]),
        ),
        st.tuples(st.just("shout"), names),
        st.tuples(st.just("delete"), st.sampled_from(NAMES)),
        st.tuples(st.just("describe"), st.sampled_from(NAMES)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 5.0, 40.0])),
    ),
    min_size=20,
    max_size=60,
)


class Asked:
    """One of the stores, what it is asked, and what it has said, without what differs: epoch and memory."""

    def __init__(
        self, store: Any, clock: Clock, wires: Wires | None = None, worker: Turns | None = None
    ) -> None:
        self.store = store
        self.now = 1_000.0
        self.clock = clock
        self.wires = wires
        self.worker = worker
        self.taken: list[Any] = []
        self.leased: list[Any] = []
        self.ask(store.open(self.now))

    def ask(self, result: Any) -> Any:
        outcome = Outcome(result)
        if self.wires is not None:
            self.wires.settle_full()
        if self.worker is not None:
            self.worker.settle()
        return outcome.value

    def do(self, step: tuple[Any, ...]) -> Any:
        verb, *words = step
        try:
            said = getattr(self, verb.replace(" ", "_"))(*words)
        except CometError as error:
            said = type(error)
        usage = self.store.usage()
        return said, usage.messages, usage.mailboxes

    def push(self, names: tuple[str, ...], bodies: list[str], overflow: Any, ttl: float | None) -> Any:
        asked = push(*names, body=bodies, overflow=overflow, ttl=ttl)
        return [self.shown(one) for one in self.ask(self.store.append(asked, self.now, self.now))]

    def shout(self, names: tuple[str, ...]) -> Any:
        messages = self.ask(self.store.append(push(*names, queue=False), self.now, self.now))
        self.ask(self.store.retract(messages))
        return [self.shown(one) for one in messages]

    def read(self, names: tuple[str, ...], place: Any, limit: int, acks: bool) -> Any:
        end = self.ask(self.store.read(("nobody",), NOW, 1, self.now)).cursor
        if isinstance(place, int):
            after = Cursor(end.epoch, max(0, end.sequence - place))
        elif " " in place:
            word, count = place.split()
            amount = int(count) if word == LAST else round((self.now - int(count)) * 1000)
            after = Cursor(word, amount)
        else:
            after = {"oldest": OLDEST, "now": NOW, "other": Cursor("otherepoch", 3)}[place]
        return self.batch(self.ask(self.store.read(names, after, limit, self.now, acks)))

    def take(self, names: tuple[str, ...], limit: int) -> Any:
        batch = self.ask(self.store.take(names, limit, self.now))
        self.taken.append(batch.messages)
        return self.batch(batch)

    def lease(self, names: tuple[str, ...], limit: int, seconds: float) -> Any:
        batch = self.ask(self.store.lease(names, limit, seconds, self.now))
        self.taken.append(batch.messages)
        self.leased += batch.leased
        return self.batch(batch), [message.attempt for message in batch.leased]

    def settle(self, place: int, settlement: Settlement, seconds: float) -> Any:
        if place >= len(self.leased):
            return None
        message = self.leased[-1 - place]
        lease = LeaseId.parse(message.lease)
        return list(
            self.ask(self.store.settle_leases(message.recipient, [lease], settlement, seconds, self.now))
        )

    def give_back(self, place: int) -> None:
        if place < len(self.taken):
            self.ask(self.store.give_back(self.taken.pop(-1 - place)))

    def delete(self, name: str) -> None:
        self.ask(self.store.delete(name, self.now))

    def describe(self, name: str) -> Any:
        found = self.ask(self.store.describe(name, self.now))
        ends = [end and end.sequence for end in (found.oldest, found.newest)]
        return found.queued, found.bytes, ends, found.leased

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ask(self.store.expire(self.now))

    def batch(self, batch: Batch) -> Any:
        return [self.shown(one) for one in batch.messages], batch.cursor.sequence, batch.gap, batch.more

    @staticmethod
    def shown(message: Any) -> Any:
        return message.sequence, message.recipient, message.content, message.event, message.created_at


@pytest.fixture(scope="module")
def numbered() -> list[int]:
    """Return the numbers of the examples, each of which has a prefix of its own."""
    return []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=steps, overflow=st.sampled_from(["reject", "drop-oldest"]), spaced=st.booleans())
def test_redis_answers_as_memory_does(
    redis: RedisServer, numbered: list[int], steps: list[Any], overflow: str, spaced: bool
) -> None:
    numbered.append(len(numbered))
    clock = Clock()
    wires = Wires(redis.socket, clock)
    address = f"{redis.address}?prefix=alike{len(numbered)}:"
    kept = RedisStore(address, LIMITS, overflow=overflow, clock=clock, endpoint=wires)
    memory = MemoryStore(LIMITS, overflow=overflow)
    if spaced:
        kept.use(SPACES)
        memory.use(SPACES)
    there = Asked(kept, clock, wires)
    here = Asked(memory, clock)
    for step in steps:
        assert there.do(step) == here.do(step), step
    here.store.check_invariants()
    kept.check_invariants()
    Recount(redis, kept.address.prefix)
    there.ask(kept.close())


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, overflow=st.sampled_from(["reject", "drop-oldest"]), spaced=st.booleans())
def test_sqlite_answers_as_memory_does(steps: list[Any], overflow: str, spaced: bool) -> None:
    clock, worker = Clock(), Turns()
    with TemporaryDirectory() as directory:
        kept = SQLiteStore(Path(directory) / "comet.db", LIMITS, overflow=overflow, worker=worker)
        memory = MemoryStore(LIMITS, overflow=overflow)
        if spaced:
            kept.use(SPACES)
            memory.use(SPACES)
        there, here = Asked(kept, clock, worker=worker), Asked(memory, clock)
        for step in steps:
            assert there.do(step) == here.do(step), step
        here.store.check_invariants()
        kept.check_invariants()
        there.ask(kept.close())
