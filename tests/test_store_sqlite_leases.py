"""Leases in SQLite: a worker is told of them once they are kept, and they outlive restarts and crashes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import Outcome, data, now
from test_store_sqlite import Place, Steps, directory, refused

from cometd_lite.core.leases import Ended, LeaseId, Settlement
from cometd_lite.core.message import Batch, LeasedMessage
from cometd_lite.limits import Limits
from cometd_lite.stores.journal import SCHEMA
from cometd_lite.stores.sqlite import SQLiteStore


@pytest.fixture
def place() -> Iterator[Place]:
    with directory() as name:
        place = Place(Path(name))
        yield place
        place.end()


def lease(place: Place, store: SQLiteStore, limit: int = 1, seconds: float = 30.0) -> Outcome:
    return Outcome(store.lease(("jobs",), limit, seconds, place.now))


def leased(place: Place, store: SQLiteStore, limit: int = 1, seconds: float = 30.0) -> list[LeasedMessage]:
    batch = lease(place, store, limit, seconds).value
    assert isinstance(batch, Batch)
    return list(batch.leased)


def settle(
    place: Place, store: SQLiteStore, message: LeasedMessage, settlement: Settlement = "done"
) -> Outcome:
    leases = [LeaseId.parse(message.lease)]
    return Outcome(store.settle_leases("jobs", leases, settlement, 30.0, place.now))


def jobs(place: Place, *bodies: str, worker: Any = None, **limits: int) -> SQLiteStore:
    """Return a store in which these jobs are kept."""
    store = place.open(Limits(**limits), worker)
    pushed = place.push(store, "jobs", body=list(bodies))
    if worker is not None:
        worker.settle()
    assert pushed.value
    return store


@pytest.fixture(params=["restart", "crash"])
def again(request: pytest.FixtureRequest, place: Place) -> Any:
    """Return a function that opens a store again, as it was left by a stop or by a crash."""

    def again(store: SQLiteStore, **limits: int) -> SQLiteStore:
        if request.param == "restart":
            return place.restart(store, Limits(**limits))
        return place.crash(Limits(**limits))

    return again


# -- when a worker is told


def test_a_worker_is_told_of_its_lease_once_that_is_kept(place: Place) -> None:
    worker = Steps()
    store = jobs(place, "1", "2", worker=worker)
    first = lease(place, store)
    second = lease(place, store)
    assert first.parked
    assert place.rows("leases") == []
    worker.settle()
    assert [data(outcome.value) for outcome in (first, second)] == [["1"], ["2"]]
    assert len(place.rows("leases")) == 2


def test_a_worker_that_finds_nothing_waits_for_no_commit(place: Place) -> None:
    worker = Steps()
    store = jobs(place, "1", worker=worker)
    place.take(store, "jobs")
    assert lease(place, store).value.messages == ()


def test_a_lease_that_cannot_be_kept_is_none(place: Place) -> None:
    store = jobs(place, "1")
    place.refuse_writes(store)
    refused(lease(place, store))
    place.refuse_writes(store, refused=False)
    assert [message.attempt for message in leased(place, store)] == [1]


def test_an_acknowledgement_is_answered_once_it_is_kept(place: Place) -> None:
    worker = Steps()
    store = jobs(place, "1", worker=worker)
    asked = lease(place, store)
    worker.settle()
    done = settle(place, store, asked.value.leased[0])
    assert done.parked
    worker.settle()
    assert done.value == [True]
    assert place.rows("leases") == []


def test_an_acknowledgement_is_taken_on_a_disk_that_cannot_be_written_and_kept_later(place: Place) -> None:
    store = jobs(place, "1")
    (message,) = leased(place, store)
    place.refuse_writes(store)
    assert settle(place, store, message).value == [True]
    assert settle(place, store, message).value == [False]
    place.refuse_writes(store, refused=False)
    store.expire(place.now)
    assert leased(place, place.crash()) == []


# -- what outlives a process


def test_a_lease_is_held_over_a_restart_and_ends_when_it_would_have(place: Place, again: Any) -> None:
    store = jobs(place, "1", "2")
    (message,) = leased(place, store)
    store = again(store)
    place.now += 29
    assert [one.data for one in leased(place, store, limit=5)] == ["2"]
    place.now += 2
    (second,) = leased(place, store, limit=5)
    assert (second.data, second.attempt) == ("1", 2)
    assert settle(place, store, message).value == [False]
    assert settle(place, store, second).value == [True]


def test_a_lease_ends_while_the_server_is_away(place: Place) -> None:
    store = jobs(place, "1")
    leased(place, store)
    now(store.close())
    place.elapse_away(31)
    assert [message.attempt for message in leased(place, place.open())] == [2]


def test_a_wall_clock_that_was_set_back_keeps_no_lease_longer_than_may_be(place: Place) -> None:
    store = jobs(place, "1")
    leased(place, store, seconds=3_600)
    now(store.close())
    place.elapse_away(-80_000)
    store = place.open()
    place.now += 3_601
    assert [message.attempt for message in leased(place, store)] == [2]


@pytest.mark.parametrize(("settlement", "attempts"), [("done", []), ("released", [2]), ("extended", [])])
def test_what_became_of_a_lease_outlives_a_restart(
    place: Place, again: Any, settlement: Settlement, attempts: list[int]
) -> None:
    store = jobs(place, "1")
    (message,) = leased(place, store, seconds=5)
    assert settle(place, store, message, settlement).value == [True]
    store = again(store)
    assert settle(place, store, message, "extended").value == [settlement == "extended"]
    place.now += 10
    assert [one.attempt for one in leased(place, store)] == attempts
    assert settle(place, store, message).value == [settlement == "extended"]


def test_a_message_that_was_done_stays_done_though_its_mailbox_lives(place: Place, again: Any) -> None:
    store = jobs(place, "1", "2", "3")
    messages = leased(place, store, limit=3, seconds=5)
    settle(place, store, messages[1])
    store = again(store)
    place.now += 6
    assert [one.data for one in leased(place, store, limit=5)] == ["1", "3"]


def test_an_exhausted_message_is_still_to_be_moved_after_a_restart(place: Place, again: Any) -> None:
    store = jobs(place, "1", max_attempts=1)
    leased(place, store, seconds=5)
    place.now += 6
    assert leased(place, store) == []
    now(store.flush())
    store = again(store, max_attempts=1)
    ended = store.expire(place.now)
    assert isinstance(ended, Ended)
    assert data(ended.exhausted) == ["1"]
    assert leased(place, store) == []


def test_only_acks_make_room_in_a_mailbox_that_was_leased_from_after_a_restart_too(
    place: Place, again: Any
) -> None:
    store = jobs(place, "1", "2", capacity=2)
    (message,) = leased(place, store)
    settle(place, store, message, "released")
    store = again(store, capacity=2)
    end = place.read(store, "jobs").cursor
    place.read(store, "jobs", after=end)
    with pytest.raises(Exception, match="full of messages"):
        place.push(store, "jobs", body="3")


def test_leases_leave_the_file_with_their_messages(place: Place) -> None:
    store = jobs(place, "1", "2", "3")
    leased(place, store, limit=3)
    assert len(place.rows("leases")) == 3
    now(store.delete("jobs", place.now))
    store.expire(place.now)
    now(store.flush())
    assert place.rows("leases") == place.rows("messages") == []


def test_a_lease_whose_message_is_not_in_the_file_is_forgotten(place: Place) -> None:
    store = jobs(place, "1")
    leased(place, store)
    now(store.close())
    connection = sqlite3.connect(place.path)
    connection.execute("DELETE FROM messages")
    connection.commit()
    connection.close()
    store = place.open()
    assert leased(place, store) == []
    now(store.flush())
    assert place.rows("leases") == []


def test_a_file_without_leases_is_brought_up_to_date(place: Place) -> None:
    connection = sqlite3.connect(place.path)
    for statement in SCHEMA[0]:
        connection.execute(statement)
    connection.execute("INSERT INTO log VALUES ('epoch00000', 2, 0, 0, 0, 'full', '', 1)")
    for number in (1, 2):
        row = (number, "jobs", "text", "text/plain", str(number).encode(), None, 0.0, place.wall() + 60)
        connection.execute("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.execute("INSERT INTO places VALUES ('jobs', 0, 0, 0, 1, '')")
    connection.execute("PRAGMA application_id = 0x636F6D65")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    assert [(one.data, one.attempt) for one in leased(place, place.open(), limit=5)] == [("2", 1)]
