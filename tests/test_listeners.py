"""Listeners without a server: their places, their time, and a store that waits."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import Outcome, SlowStore, data, now, push
from twisted.internet.task import Clock

from cometd_lite.core.hub import Hub
from cometd_lite.core.listeners import Listeners, ListenerSession
from cometd_lite.core.message import LAST, NOW, Cursor
from cometd_lite.core.registry import Registry
from cometd_lite.core.store import Record
from cometd_lite.errors import ListenerGone, ServerFull, StoreDown
from cometd_lite.limits import Limits
from cometd_lite.stores.memory import MemoryStore


class Setting:
    def __init__(self, clock: Clock, *, slow: bool = False, most: int = 100, parked: int = 100) -> None:
        memory = MemoryStore(Limits())
        self.store: Any = SlowStore(memory) if slow else memory
        self.hub = Hub(self.store, Registry(clock, parked), clock, wall=lambda: 0.0)
        self.listeners = Listeners(self.hub, most)


@pytest.fixture
def setting(clock):
    return Setting(clock)


def test_an_answer_that_cannot_be_written_is_sent_again(setting):
    listener = now(setting.listeners.register(("bob",)))
    now(setting.hub.push(push("bob")))
    lost = setting.listeners.poll(listener, None, 0.0, 10, lambda: False)
    assert data(now(lost)) == ["hi"]
    assert data(now(setting.listeners.poll(listener, None, 0.0, 10))) == ["hi"]
    assert data(now(setting.listeners.poll(listener, None, 0.0, 10))) == []


def test_a_history_that_cannot_be_written_is_sent_again_from_the_same_place(setting):
    listener = now(setting.listeners.register(("bob",)))
    now(setting.hub.push(push("bob", body=["1", "2", "3"])))
    lost = setting.listeners.poll(listener, Cursor(LAST, 2), 0.0, 10, lambda: False)
    assert data(now(lost)) == ["2", "3"]
    now(setting.hub.push(push("bob", body=["4", "5"])))
    assert data(now(setting.listeners.poll(listener, None, 0.0, 10))) == ["2", "3", "4", "5"]
    assert data(now(setting.listeners.poll(listener, None, 0.0, 10))) == []


def test_a_record_brings_a_listener_back_as_it_was(setting):
    listener = now(setting.listeners.register(("bob", "chat/*"), 60.0))
    now(setting.hub.push(push("bob")))
    now(setting.listeners.poll(listener, None, 0.0, 10))
    again = ListenerSession.recalled(Record(listener.id, listener.record(), 1e9))
    for name in ("id", "recipients", "place", "ttl", "answered"):
        assert getattr(again, name) == getattr(listener, name)


def test_of_two_polls_at_once_in_a_store_that_waits_the_newer_wins(clock):
    setting = Setting(clock, slow=True)
    registered = Outcome(setting.listeners.register(("bob",)))
    setting.store.settle()
    listener = registered.value
    older = Outcome(setting.listeners.poll(listener, None, 20.0, 10))
    newer = Outcome(setting.listeners.poll(listener, None, 20.0, 10))
    assert data(older.value) == []
    setting.store.settle()
    Outcome(setting.hub.push(push("bob")))
    setting.store.settle()
    assert data(newer.value) == ["hi"]
    assert setting.hub.registry.parked == 0
    assert listener.used == 0


def test_a_poll_at_which_the_store_fails_lets_the_listener_go_on(clock):
    setting = Setting(clock, slow=True)
    registered = Outcome(setting.listeners.register(("bob",)))
    setting.store.settle()
    failed = Outcome(setting.listeners.poll(registered.value, None, 0.0, 10))
    setting.store.next("read").fail(StoreDown("The disk is gone."))
    with pytest.raises(StoreDown):
        _ = failed.value
    assert registered.value.used == 0
    assert registered.value.parked is None


def test_now_is_a_place_that_is_found_out_once(setting):
    listener = now(setting.listeners.register(("bob",)))
    poll = Outcome(setting.listeners.poll(listener, NOW, 20.0, 10))
    poll.cancel()
    assert listener.place != NOW
    now(setting.hub.push(push("bob")))
    assert data(now(setting.listeners.poll(listener, None, 0.0, 10))) == ["hi"]


def test_an_ended_listener_tells_its_parked_poll(setting, clock):
    listener = now(setting.listeners.register(("bob",)))
    poll = Outcome(setting.listeners.poll(listener, None, 20.0, 10))
    setting.listeners.end(listener)
    with pytest.raises(ListenerGone):
        _ = poll.value
    with pytest.raises(ListenerGone):
        setting.listeners.get(listener.id)
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("error", [StoreDown("away"), ZeroDivisionError()])
def test_an_ended_listener_is_gone_though_its_mailbox_cannot_be_deleted(clock, expected_failures, error):
    if not isinstance(error, StoreDown):  # that it is away, the store says itself
        expected_failures.append(type(error))
    setting = Setting(clock, slow=True)
    registered = Outcome(setting.listeners.register(("bob",)))
    setting.store.settle()
    setting.listeners.end(registered.value)
    setting.store.next("delete").fail(error)
    setting.store.settle()
    with pytest.raises(ListenerGone):
        setting.listeners.get(registered.value.id)
    assert len(setting.listeners) == 0


def test_a_listener_that_is_not_polled_for_its_time_is_gone_and_its_mailbox_with_it(setting, clock):
    listener = now(setting.listeners.register(("bob",), 60.0))
    other = now(setting.listeners.register(("bob",), 120.0))
    now(setting.hub.push(push(listener.id, other.id)))
    clock.advance(60.0)
    setting.listeners.sweep()
    assert len(setting.listeners) == 1
    assert setting.store.usage().mailboxes == 1
    assert setting.listeners.get(other.id) is other


def test_a_listener_whose_poll_cannot_be_held_is_forgotten_in_its_time_like_any_other(clock):
    setting = Setting(clock, parked=1)
    listener = now(setting.listeners.register(("bob",), 60.0))
    held = Outcome(setting.hub.poll(("eve",), NOW))
    with pytest.raises(ServerFull):
        setting.listeners.poll(listener, None, 10.0, 10)
    held.cancel()
    clock.advance(60.0)
    setting.listeners.sweep()
    assert len(setting.listeners) == 0


def test_there_are_at_most_so_many(clock):
    setting = Setting(clock, most=2)
    first = now(setting.listeners.register(()))
    now(setting.listeners.register(()))
    with pytest.raises(ServerFull):
        setting.listeners.register(())
    setting.listeners.end(first)
    now(setting.listeners.register(()))


def test_a_listener_with_a_short_time_lives_while_its_answer_is_on_its_way(setting):
    listener = now(setting.listeners.register(("a",), 1.0))
    on_its_way = [True]
    setting.hub.push(push("a", body="x" * 60_000))
    poll = setting.listeners.poll(listener, None, 0.0, 10, lambda: True, lambda: on_its_way[0])
    assert len(data(now(poll))) == 1
    for _ in range(20):
        setting.hub.clock.advance(1.0)
        setting.listeners.sweep()
    assert now(setting.listeners.get(listener.id)) is listener
    on_its_way[0] = False
    for _ in range(2):
        setting.hub.clock.advance(1.0)
        setting.listeners.sweep()
    with pytest.raises(ListenerGone):
        setting.listeners.get(listener.id)
