"""Leases in one mailbox, and what the hub does with them: ends, dead letters, and workers that leave."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from helpers import EPOCH, Outcome, SlowStore, check_empty, check_invariants, data, message, push
from twisted.internet.task import Clock

from cometd_lite.core.hub import Hub
from cometd_lite.core.leases import LeaseId, Leases, new_secret
from cometd_lite.core.message import OLDEST
from cometd_lite.core.registry import Registry
from cometd_lite.errors import StoreDown
from cometd_lite.limits import EXHAUSTED_AT_ONCE, LEASE_OVERHEAD, LEASES_ENDED_AT_ONCE, Limits
from cometd_lite.stores.memory import MemoryStore

SECRET = "A" * 22

# -- ids


def test_the_id_of_a_lease_names_the_message_and_the_attempt() -> None:
    lease = LeaseId(EPOCH, 7, 2, new_secret())
    assert str(lease).startswith(f"{EPOCH}-7.2.")
    assert LeaseId.parse(str(lease)) == lease


def test_secrets_have_128_bits_and_are_not_repeated() -> None:
    secrets = {new_secret() for _ in range(1_000)}
    assert len(secrets) == 1_000
    assert {len(secret) for secret in secrets} == {22}


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{EPOCH}-7",
        f"{EPOCH}-7.2",
        f"{EPOCH}-0.1.{SECRET}",
        f"{EPOCH}-7.0.{SECRET}",
        f"{EPOCH}-07.1.{SECRET}",
        f"{EPOCH}-7.1.{SECRET}A",
        f"{EPOCH}-7.1.{SECRET[:-1]}\u00e9",
        f"{EPOCH}-{'9' * 19}.1.{SECRET}",
        f"{EPOCH}-7.{'9' * 10}.{SECRET}",
        f"{EPOCH}-7.1.{SECRET}\n",
        f"oldest-7.1.{SECRET}",
    ],
)
def test_whatever_else_there_is_names_no_lease(text: str) -> None:
    with pytest.raises(ValueError, match="not a lease"):
        LeaseId.parse(text)


# -- in one mailbox


def test_a_lease_that_is_extended_again_and_again_keeps_no_memory_of_it() -> None:
    leases = Leases("jobs", 10)
    for number in range(1, 4):
        leases.begin(message(number), SECRET, 10.0)
    for second in range(10_000):
        leases.hold(1, 20.0 + second)
    assert leases.next_end == 10.0
    assert leases.over(10.0, 100) == [2, 3]
    assert leases.over(10_018.0, 100) == []
    assert leases.over(10_019.0, 100) == [1]
    assert leases.next_end == inf


def test_few_leases_end_at_once_and_those_first_that_ended_first() -> None:
    leases = Leases("jobs", 10)
    for number in range(1, 6):
        leases.begin(message(number), SECRET, 10.0 + number)
    assert leases.over(15.0, 2) == [1, 2]
    assert leases.over(15.0, 100) == [3, 4, 5]


# -- in a store


def test_leases_are_counted_with_the_memory_that_they_take() -> None:
    store = MemoryStore(Limits())
    store.append(push("jobs", body=["1", "2", "3"]), 0.0, 0.0)
    before = store.usage().memory
    batch = store.lease(("jobs",), 2, 5.0, 0.0)
    assert store.usage().memory == before + 2 * LEASE_OVERHEAD
    store.settle_leases("jobs", [LeaseId.parse(batch.leased[0].lease)], "done", 0.0, 0.0)
    assert store.usage().memory == before + LEASE_OVERHEAD
    store.give_back(batch.messages[1:])
    assert store.usage().memory == before


def test_a_reader_of_one_mailbox_does_not_wait_for_all_leases_that_have_ended() -> None:
    calls: list[object] = []
    store = MemoryStore(Limits(capacity=10**6, capacity_bytes=10**9), soon=calls.append)
    for name in ("a", "b"):
        for _ in range(4):
            store.append(push(name, body=["x"] * 1_000), 0.0, 0.0)
            store.lease((name,), 1_000, 5.0, 0.0)
    store.expire(6.0)
    assert len(calls) == 1
    assert store.usage().leased >= 8_000 - LEASES_ENDED_AT_ONCE - 1
    found = store.lease(("b",), 1, 60.0, 6.0)
    assert [one.attempt for one in found.leased] == [2]
    assert store.usage().leased >= 8_000 - 2 * LEASES_ENDED_AT_ONCE - 1
    store.check_invariants()


# -- in the hub


class Here:
    """A hub whose store looks and answers when the test says so, and its clock."""

    def __init__(self, **limits: int) -> None:
        self.clock = Clock()
        self.clock.advance(1_000)
        self.memory = MemoryStore(Limits(**limits), epoch=EPOCH)
        self.store = SlowStore(self.memory)
        self.hub = Hub(self.store, Registry(self.clock, 100, Random(1)), self.clock)

    def push(self, *bodies: str, name: str = "jobs") -> None:
        outcome = Outcome(self.hub.push(push(name, body=list(bodies))))
        self.store.settle()
        assert outcome.value.ids

    def lease(self, wait: float = 25.0, *, gone: bool = False, seconds: float = 5.0) -> Outcome:
        return Outcome(self.hub.lease(("jobs",), seconds, wait, 1, lambda: gone))

    def sweep(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        self.hub.sweep()

    def dead(self) -> list[str]:
        return data(self.memory.read(("$dead/jobs",), OLDEST, 1_000, self.clock.seconds()))


@pytest.fixture
def here() -> Here:
    return Here(max_attempts=1)


def test_a_worker_that_leaves_while_its_message_is_looked_for_has_made_no_attempt(here: Here) -> None:
    here.push("1")
    worker = here.lease()
    worker.cancel()
    here.store.settle()
    again = here.lease(0.0)
    here.store.settle()
    assert [one.attempt for one in again.value.leased] == [1]
    assert here.hub.counts.leases == 1
    check_empty(here.hub)


def test_a_parked_worker_is_woken_by_what_another_one_releases(here: Here) -> None:
    hub = Hub(MemoryStore(Limits(), epoch=EPOCH), Registry(here.clock, 100), here.clock)
    hub.push(push("jobs"))
    (first,) = Outcome(hub.lease(("jobs",), 5.0)).value.leased
    worker = Outcome(hub.lease(("jobs",), 5.0))
    states = Outcome(hub.settle("jobs", [LeaseId.parse(first.lease)], "released")).value
    assert list(states) == ["released"]
    assert [one.attempt for one in worker.value.leased] == [2]
    check_empty(hub)


def exhaust(here: Here, *bodies: str) -> None:
    here.push(*bodies)
    for _ in bodies:
        worker = here.lease(0.0)
        here.store.settle()
        assert worker.value.messages
    here.clock.advance(6)


def test_an_exhausted_message_is_moved_once_however_often_is_swept_meanwhile(here: Here) -> None:
    exhaust(here, "1")
    here.sweep()
    here.store.next("expire").answer()
    pushing = here.store.next("append")
    for _ in range(3):
        here.sweep(1)
        here.store.next("expire").answer()
    assert here.store.asked == []
    pushing.answer()
    here.store.settle()
    here.sweep(1)
    here.store.settle()
    assert here.dead() == ["1"]
    assert here.hub.counts.dead_letters == 1
    assert here.memory.usage().exhausted == 0
    check_invariants(here.hub)


def test_an_exhausted_message_that_could_not_be_moved_is_tried_again(here: Here) -> None:
    exhaust(here, "1")
    here.sweep()
    here.store.next("expire").answer()
    here.store.next("append").fail(StoreDown())
    here.store.settle()
    assert (here.dead(), here.memory.usage().exhausted) == ([], 1)
    here.sweep(1)
    here.store.settle()
    assert here.dead() == ["1"]


def test_a_late_acknowledgement_keeps_a_message_out_of_the_dead_letters(here: Here) -> None:
    here.push("1")
    worker = here.lease(0.0)
    here.store.settle()
    (job,) = worker.value.leased
    here.clock.advance(6)
    states = Outcome(here.hub.settle("jobs", [LeaseId.parse(job.lease)], "done"))
    here.store.settle()
    here.sweep(1)
    here.store.settle()
    assert list(states.value) == ["done"]
    assert here.dead() == []


def test_many_exhausted_messages_are_moved_over_several_sweeps_in_their_order() -> None:
    here = Here(max_attempts=1)
    bodies = [str(number) for number in range(EXHAUSTED_AT_ONCE + 5)]
    exhaust(here, *bodies)
    here.sweep()
    here.store.settle()
    assert here.dead() == bodies[:EXHAUSTED_AT_ONCE]
    here.sweep(1)
    here.store.settle()
    assert here.dead() == bodies
    assert here.memory.usage().exhausted == 0


def test_a_server_that_stops_moves_nothing_any_more(here: Here) -> None:
    exhaust(here, "1")
    here.hub.stop()
    here.sweep()
    here.store.settle()
    assert here.dead() == []
