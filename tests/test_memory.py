"""The tables that clients can fill take no more memory than their bounds say, whatever the names are."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from helpers import Outcome, now, push
from twisted.internet.task import Clock

from cometd_lite.bayeux.options import BayeuxOptions
from cometd_lite.bayeux.sessions import BayeuxSessions
from cometd_lite.core.hub import Hub
from cometd_lite.core.listeners import Listeners
from cometd_lite.core.message import NOW, Batch, Cursor
from cometd_lite.core.readers import Poll
from cometd_lite.core.registry import Registry
from cometd_lite.core.sessions import session_size
from cometd_lite.deferreds import MaybeDeferred
from cometd_lite.errors import ServerFull
from cometd_lite.jsontext import dumps
from cometd_lite.limits import IDEMPOTENCY_KEYS, PLACES_BYTES, SESSION_BYTES, Limits
from cometd_lite.stores.memory import MemoryStore

SHAPES: dict[str, Callable[[int, int], str]] = {
    "plain": lambda one, other: f"{one:05}/{other:03}/{'x' * 90}",
    "astral": lambda one, other: f"{one:05}{other:03}" + "\N{GRINNING FACE}" * 60,
    "latin": lambda one, other: f"{one:05}{other:03}" + "\u00e9" * 120,
    "pattern": lambda one, other: f"{one:05}{other:03}/" + "a/" * 14 + "**",
}

Traced = Callable[[], int]


@pytest.fixture
def traced() -> Iterator[Traced]:
    """Return a function that returns the bytes that were allocated since the test began."""

    def taken() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield taken
    tracemalloc.stop()


def named(shape: str, one: int, count: int) -> tuple[str, ...]:
    """Return names as a request brings them: of no other request, and once written as UTF-8."""
    names = tuple([SHAPES[shape](one, other) for other in range(count)])
    for name in names:
        dumps(name)
    return names


def poll(hub: Hub, *names: str) -> MaybeDeferred[Batch]:
    return hub.poll(names, NOW, 60.0)


def new_hub(most: int) -> Hub:
    clock = Clock()
    return Hub(
        MemoryStore(Limits(), soon=lambda call: clock.callLater(0, call)), Registry(clock, most), clock
    )


def until_full(do: Callable[[int], object], most: int) -> int:
    """Do something up to ``most`` times; return how often until the server was full."""
    for number in range(most):
        try:
            do(number)
        except ServerFull:
            return number
    raise AssertionError(f"it was not full after {most} times")


@pytest.mark.parametrize("shape", SHAPES)
def test_listeners_take_what_they_are_counted_with_and_are_refused_beyond_it(
    shape: str, traced: Traced
) -> None:
    most = 500
    listeners = Listeners(new_hub(most), most)
    done = until_full(lambda number: now(listeners.register(named(shape, number, 100))), most // 10)
    assert len(listeners) == done
    assert 0.4 * most * SESSION_BYTES < traced() < 1.1 * most * SESSION_BYTES


@pytest.mark.parametrize("shape", SHAPES)
def test_bayeux_sessions_take_what_they_are_counted_with(shape: str, traced: Traced) -> None:
    most = 300
    sessions = BayeuxSessions(most, BayeuxOptions())

    def subscribe(number: int) -> None:
        session = sessions.greet(f"{number:040}", 0.0, None, ack=False)
        sessions.subscribe(session, named(shape, number, 200))
        session.place = Cursor("epoch00000", 5)
        session.since.update(dict.fromkeys(session.recipients, 1_000 + number))

    until_full(subscribe, most // 10)
    assert 0.4 * most * SESSION_BYTES < traced() < 1.1 * most * SESSION_BYTES
    sessions.check_invariants()


def test_as_many_sessions_fit_as_may_be_where_they_read_a_few_ordinary_names() -> None:
    assert session_size(("lobby", "user/mary.smith", "room/4711", "news", "chat/room/1")) <= SESSION_BYTES


@pytest.mark.parametrize("shape", SHAPES)
def test_readers_of_many_names_take_what_they_are_counted_with(shape: str, traced: Traced) -> None:
    most = 250
    hub = new_hub(most)
    parked: list[Outcome] = []
    until_full(lambda number: parked.append(Outcome(poll(hub, *named(shape, number, 100)))), most // 5)
    assert 0.4 * most * PLACES_BYTES < traced() < 1.1 * most * PLACES_BYTES
    hub.check_invariants()
    for reader in parked:
        reader.cancel()
    hub.check_invariants()
    Outcome(poll(hub, *named(shape, 0, 100))).cancel()


def test_a_reader_that_comes_to_read_more_names_is_not_refused_and_is_counted() -> None:
    hub = new_hub(10)
    readers = []
    for number in range(10):
        reader = poll(hub, f"bob{number}")
        assert isinstance(reader, Poll)
        hub.registry.move(reader, named("plain", number, 50))
        readers.append(Outcome(reader))
    hub.check_invariants()
    with pytest.raises(ServerFull):
        poll(hub, "eve", "adam")
    for reader in readers:
        reader.cancel()
    hub.check_invariants()


@pytest.mark.filling
def test_receipts_take_no_more_than_their_bound_says(traced: Traced) -> None:
    store = MemoryStore(Limits(capacity=2, max_memory=10**9), overflow="drop-oldest")
    clock = Clock()
    hub = Hub(store, Registry(clock, 10), clock)
    count = 4_000
    for number in range(count):
        now(hub.push(push("bob", body="hi", key=f"{number:0200}" + "\u00e9" * 50)))
    assert len(hub.receipts) == count
    assert traced() / count < 50 * 10**6 / IDEMPOTENCY_KEYS * 1.1
