"""The SQLite store beyond what every store does: commits, crashes, restarts, and files that cannot be opened.

A crash is a copy of the file and its log, taken while the store is open: what a new process would find.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from itertools import count
from math import inf
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from threading import current_thread
from typing import Any

import pytest
from helpers import Inline, Outcome, data, now, numbers, push
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from cometd_lite.comet import Comet
from cometd_lite.core.hub import Hub
from cometd_lite.core.leases import LeaseId
from cometd_lite.core.listeners import Listeners
from cometd_lite.core.message import NOW, OLDEST, Batch, Content, Cursor, LeasedMessage, Push
from cometd_lite.core.namespaces import Namespace, Namespaces
from cometd_lite.core.recipient import covering
from cometd_lite.core.registry import Registry
from cometd_lite.core.store import StoreUnusable, Usage
from cometd_lite.errors import KeyReused, ListenerGone, MailboxFull, NobodyWaits, ServerFull, StoreDown
from cometd_lite.limits import (
    GOING_AT_ONCE,
    IDEMPOTENCY_SECONDS,
    STORE_RESERVE_BYTES,
    STORE_STALLED_SECONDS,
    Limits,
)
from cometd_lite.service import Options
from cometd_lite.stores import journal
from cometd_lite.stores.journal import SCHEMA
from cometd_lite.stores.sqlite import SQLiteStore
from cometd_lite.stores.worker import ThreadWorker

STARTED = 1_795_169_758.0
"""2026-11-20T10:15:58Z: what the wall clock says when a test begins; the other clock says 1000."""


def directory() -> TemporaryDirectory[str]:
    """Make a directory whose files, on Linux, need no disk: these tests open hundreds of them."""
    memory = "/dev/shm"
    return TemporaryDirectory(dir=memory if Path(memory).is_dir() else None)


class Steps(Inline):
    """A worker that does one thing at a time, when it is told to."""

    def __init__(self):
        self.turn: list[Callable[[], None]] = []
        self.works: list[tuple[Callable[[], None], Callable[[Any], None]]] = []
        self.commits = 0
        self.waits: list[float] = []
        """How long each commit was to be waited for."""
        self.stopped = False

    def soon(self, call, seconds=0.0):
        self.turn.append(call)
        self.waits.append(seconds)

    def run(self, work, done):
        self.works.append((work, done))

    def stop(self):
        self.stopped = True

    def end_turn(self):
        """Call what was to be called once this turn is over."""
        turn, self.turn = self.turn, []
        for call in turn:
            call()

    def step(self):
        """Do the next thing in full."""
        self.end_turn()
        work, done = self.works.pop(0)
        self.commits += 1
        super().run(work, done)

    def settle(self):
        """Do everything that there is to do."""
        self.end_turn()
        while self.works or self.turn:  # long work needs more turns where the machine is busy
            if self.works:
                self.step()
            self.end_turn()


class Place:
    """A directory with the files of one test, and the two clocks, which only the test moves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "comet.db"
        self.now = 1_000.0
        self.shift = STARTED - self.now
        """What is added to this process's clock to make it the wall clock."""
        self.copies = count(1)
        self.stores: list[SQLiteStore] = []
        self.connections: dict[SQLiteStore, sqlite3.Connection] = {}

    def wall(self) -> float:
        return self.now + self.shift

    def open(
        self,
        limits: Limits | None = None,
        worker: Any = None,
        namespaces: dict[str, Namespace] | None = None,
        **words: Any,
    ) -> SQLiteStore:
        store = SQLiteStore(self.path, limits, worker=worker or Inline(), wall=self.wall, **words)
        if namespaces is not None:
            store.use(Namespaces(namespaces))
        return self.begin(store)

    def begin(self, store: SQLiteStore) -> SQLiteStore:
        """Open a store, and know its connection."""
        connect = sqlite3.connect

        def note(*given: Any, **words: Any) -> sqlite3.Connection:
            self.connections[store] = connect(*given, **words)
            return self.connections[store]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite3, "connect", note)
            store.open(self.now)
        self.stores.append(store)
        return store

    def limit_pages(self, store: SQLiteStore, pages: int) -> None:
        """Let a store's file have so many pages more: with none the disk is full."""
        (used,) = self.connections[store].execute("PRAGMA page_count").fetchone()
        self.connections[store].execute(f"PRAGMA max_page_count = {used + pages}")

    def refuse_writes(self, store: SQLiteStore, refused: bool = True) -> None:
        """Let every write of a store's file fail, or no longer."""
        self.connections[store].execute(f"PRAGMA query_only = {int(refused)}")

    def kill(self, store: SQLiteStore) -> None:
        """Let go of a store's file as the end of its process does."""
        self.stores.remove(store)
        self.connections.pop(store).close()

    def end(self) -> None:
        """Close every store; where the test's worker does not come to it, let go of its file."""
        for store in list(self.stores):
            store.check_invariants()
            store.close()
            self.kill(store)

    def restart(self, store: SQLiteStore, *args: Any, **words: Any) -> SQLiteStore:
        """Close a store as a server that is stopped, and open what it leaves by another process's clock."""
        now(store.close())
        self.elapse_away(0)
        return self.open(*args, **words)

    def crash(self, *args: Any, **words: Any) -> SQLiteStore:
        """Open what is left of a store that is open, as if its process had been killed at this moment."""
        self.path = self.copy()
        self.elapse_away(0)
        return self.open(*args, **words)

    def copy(self) -> Path:
        """Copy the file as it is at this moment; return the path of the copy."""
        copy = self.directory / f"comet-{next(self.copies)}.db"
        for suffix in ("", "-wal"):
            if (log := self.path.with_name(self.path.name + suffix)).exists():
                shutil.copy(log, copy.with_name(copy.name + suffix))
        return copy

    def elapse_away(self, seconds: float) -> None:
        """Let time pass on the wall while no process is there; the next one's clock begins anywhere."""
        self.shift += seconds - 500
        self.now += 500

    def push(self, store: SQLiteStore, *recipients: str, **words: Any) -> Outcome:
        return Outcome(store.append(push(*recipients, **words), self.now, self.wall()))

    def read(self, store: SQLiteStore, *recipients: str, after: Cursor = OLDEST) -> Any:
        return store.read(recipients, after, 100, self.now)

    def take(self, store: SQLiteStore, *recipients: str, limit: int = 100) -> Any:
        return store.take(recipients, limit, self.now)

    def at(self, store: SQLiteStore, sequence: int) -> Cursor:
        return Cursor(store.epoch, sequence)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Return what lies in a table of the file whose store is open, by a copy of it."""
        connection = sqlite3.connect(self.copy())
        try:
            return connection.execute(f"SELECT * FROM {table}").fetchall()
        finally:
            connection.close()


@pytest.fixture
def place():
    with directory() as name:
        place = Place(Path(name))
        yield place
        place.end()


BIG = "x" * 20_000
"""More than fits into the pages that a file has."""


def refused(outcome):
    """Check that it failed because nothing can be written."""
    with pytest.raises(StoreDown):
        _ = outcome.value


# -- commits


def test_a_push_is_seen_by_no_reader_before_its_commit(place):
    worker = Steps()
    store = place.open(worker=worker)
    pushed = place.push(store, "bob")
    assert pushed.parked
    worker.end_turn()
    assert pushed.parked
    assert data(place.read(store, "bob")) == []
    assert place.read(store, "bob", after=NOW).cursor.sequence == 0
    worker.step()
    assert numbers(pushed.value) == [1]
    assert data(place.read(store, "bob")) == ["hi"]


def test_all_pushes_of_a_turn_are_one_commit(place):
    worker = Steps()
    store = place.open(worker=worker)
    pushes = [place.push(store, f"r{number % 7}") for number in range(100)]
    worker.settle()
    assert worker.commits == 1
    assert [numbers(pushed.value) for pushed in pushes] == [[number] for number in range(1, 101)]


def test_what_comes_while_a_commit_is_under_way_is_the_next_commit(place):
    worker = Steps()
    store = place.open(worker=worker)
    first = place.push(store, "bob")
    worker.end_turn()
    second, third = place.push(store, "bob"), place.push(store, "amy")
    worker.step()
    assert not first.parked
    assert second.parked
    worker.step()
    assert numbers(second.value) == [2]
    assert numbers(third.value) == [3]
    assert worker.works == []


def test_a_commit_waits_a_moment_for_those_who_were_told_by_the_last_one(place):
    worker = Steps()
    store = place.open(worker=worker)
    for name in ("a", "b", "c"):
        place.push(store, name)
    worker.end_turn()
    place.push(store, "d")
    worker.step()
    assert worker.waits[-1] > 0
    later = [*worker.turn]
    place.push(store, "a")
    place.push(store, "b")
    assert worker.turn == later
    place.push(store, "c")  # now there are four, as there were before
    assert len(worker.turn) == 2
    assert worker.waits[-1] == 0
    worker.settle()
    assert worker.commits == 2
    assert store.sequence == 7


def test_what_else_changed_is_no_commit_of_its_own(place):
    worker = Steps()
    store = place.open(worker=worker)
    pushed = store.append(push("bob"), place.now, place.wall())
    pushed.addCallback(lambda _: place.take(store, "bob"))
    worker.settle()
    assert worker.commits == 1
    store.expire(place.now)  # time passes
    worker.settle()
    assert worker.commits == 2
    assert data(place.take(place.crash(), "bob")) == []


def test_each_push_is_told_before_the_next_one_is_seen(place):
    # So that a reader whom the first one wakes is not told the second one, which then would find nobody.
    worker = Steps()
    store = place.open(worker=worker)
    seen = []
    for _ in range(3):
        appended = store.append(push("bob"), place.now, place.wall())
        appended.addCallback(lambda _: seen.append(numbers(place.read(store, "bob"))))
    worker.settle()
    assert seen == [[1], [1, 2], [1, 2, 3]]


def test_what_is_pushed_by_one_who_is_told_comes_after_all_of_that_commit(place):
    store = place.open(worker=(worker := Steps()))
    again = []
    place.push(store, "bob", body="a").deferred.addCallback(
        lambda found: again.append(place.push(store, "bob", body="c")) or found
    )
    place.push(store, "bob", body="b")
    worker.settle()
    assert data(place.read(store, "bob")) == ["a", "b", "c"]
    assert numbers(again[0].value) == [3]


def test_a_commit_is_bounded_in_bytes(place, monkeypatch):
    monkeypatch.setattr("cometd_lite.stores.sqlite.STORE_COMMIT_BYTES", 25_000)
    worker = Steps()
    store = place.open(worker=worker)
    pushes = [place.push(store, "bob", body=BIG) for _ in range(4)]
    worker.step()
    assert [pushed.parked for pushed in pushes] == [False, False, True, True]
    worker.step()
    assert [pushed.parked for pushed in pushes] == [False] * 4


def test_a_push_for_waiting_readers_keeps_its_place_in_the_order_but_is_in_no_file(place):
    worker = Steps()
    store = place.open(worker=worker)
    kept = place.push(store, "bob", body="kept")
    passing = place.push(store, "bob", body="passing", queue=False)
    worker.end_turn()
    assert passing.parked
    worker.step()
    assert numbers(kept.value) == [1]
    assert numbers(passing.value) == [2]
    assert data(place.read(store, "bob")) == ["kept", "passing"]
    store.retract(passing.value)
    assert data(place.read(store, "bob")) == ["kept"]
    again = place.crash()
    assert data(place.read(again, "bob")) == ["kept"]
    assert again.sequence == 2  # a reader may hold that number


def test_a_store_that_is_not_open_takes_nothing(place):
    store = SQLiteStore(place.path, worker=Inline())
    with pytest.raises(StoreDown):
        place.push(store, "bob")
    with pytest.raises(StoreDown):
        store.flush()
    assert store.close() is None


def test_a_push_that_is_cancelled_is_kept_all_the_same(place):
    worker = Steps()
    store = place.open(worker=worker)
    pushed = place.push(store, "bob")
    pushed.deferred.addErrback(lambda _: None)
    pushed.cancel()
    worker.settle()
    assert data(place.read(store, "bob")) == ["hi"]


# -- bounds count what is still to come


def test_a_mailbox_is_full_of_what_is_still_to_come(place):
    worker = Steps()
    store = place.open(Limits(capacity=3), worker)
    place.push(store, "bob", body=["1", "2"])
    place.push(store, "amy", "bob")
    with pytest.raises(MailboxFull):
        place.push(store, "bob")
    worker.settle()
    with pytest.raises(MailboxFull):
        place.push(store, "bob")
    place.read(store, "bob", after=place.at(store, 2))
    assert not place.push(store, "amy").results
    place.push(store, "bob", body=["4", "5"])
    with pytest.raises(MailboxFull):
        place.push(store, "bob")
    worker.settle()
    assert data(place.read(store, "bob")) == ["hi", "4", "5"]


def test_what_is_still_to_come_makes_room_by_dropping_the_oldest(place):
    worker = Steps()
    store = place.open(Limits(capacity=3), worker, overflow="drop-oldest")
    for number in range(7):
        place.push(store, "bob", body=str(number))
    worker.settle()
    assert data(place.read(store, "bob")) == ["4", "5", "6"]
    assert place.read(store, "bob", after=place.at(store, 0)).gap


def test_what_was_to_make_room_and_is_given_back_stays(place):
    worker = Steps()
    store = place.open(Limits(capacity=2), worker)
    place.push(store, "bob", body=["a", "b"])
    worker.settle()
    taken = place.take(store, "bob", limit=1)
    pushed = place.push(store, "bob", body="c")
    store.give_back(taken.messages)
    worker.settle()
    assert numbers(pushed.value) == [3]
    assert data(place.take(store, "bob")) == ["a", "b", "c"]


def test_at_the_bound_on_memory_a_push_takes_the_room_of_what_goes_for_it(place):
    worker = Steps()
    store = place.open(Limits(capacity=2, max_memory=50_000), worker, overflow="drop-oldest")
    for body in ("a", "b", "c"):
        pushed = place.push(store, "bob", body=body + BIG)
        worker.settle()
        assert not pushed.parked
    place.push(store, "bob", body="d" + BIG)
    with pytest.raises(ServerFull):
        place.push(store, "bob", body="e" + BIG)  # what goes has gone for the one before
    worker.settle()
    assert [body[0] for body in data(place.read(store, "bob"))] == ["c", "d"]


def test_memory_counts_what_is_still_to_come(place):
    worker = Steps()
    store = place.open(Limits(max_memory=50_000), worker)
    place.push(store, "bob", body=BIG)
    assert store.usage().memory > 20_000
    place.push(store, "amy", body=BIG)
    with pytest.raises(ServerFull):
        place.push(store, "eve", body=BIG)
    worker.settle()
    assert store.usage().memory < 50_000
    with pytest.raises(ServerFull):
        place.push(store, "eve", body=BIG)


def test_mailboxes_that_are_still_to_come_are_counted_once(place):
    worker = Steps()
    store = place.open(Limits(max_recipients=2), worker)
    place.push(store, "bob")
    place.push(store, "bob")
    place.push(store, "amy")
    with pytest.raises(ServerFull):
        place.push(store, "eve")
    place.push(store, "amy", "bob")
    worker.settle()
    assert store.usage().mailboxes == 2
    with pytest.raises(ServerFull):
        place.push(store, "eve")


# -- a disk that fails


def test_a_full_disk_refuses_pushes_and_takes_them_when_there_is_room(place, expected_failures):
    store = place.open()
    now(place.push(store, "bob", body="before").deferred)
    memory = store.usage().memory
    place.limit_pages(store, 0)
    for _ in range(2):
        refused(place.push(store, "bob", body=BIG))
    assert data(place.read(store, "bob")) == ["before"]
    assert store.usage().memory == memory
    assert store.state() == "down"
    place.limit_pages(store, 1_000)
    assert numbers(place.push(store, "bob", body=BIG).value) == [4]  # no number is given twice
    assert store.state() == "ok"
    assert data(place.read(place.crash(), "bob")) == ["before", BIG]


def test_what_has_to_go_makes_room_on_a_full_disk(place):
    store = place.open()
    now(place.push(store, "old", body=BIG).deferred)
    now(place.push(store, "bob", body="before").deferred)
    place.limit_pages(store, 0)
    refused(place.push(store, "bob", body=BIG))
    now(store.delete("old", place.now))
    assert numbers(place.push(store, "bob", body=BIG).value) == [4]


def test_all_who_push_are_told_that_the_disk_is_full(place):
    worker = Steps()
    store = place.open(worker=worker)
    place.limit_pages(store, 0)
    pushes = [place.push(store, "bob", body=BIG) for _ in range(2)]
    worker.end_turn()
    behind = place.push(store, "bob")
    flushed = Outcome(store.flush())
    worker.step()
    for outcome in (*pushes, behind):
        refused(outcome)
    assert store.usage() == Usage()
    worker.settle()
    assert flushed.value is None  # nothing that was accepted waits


def test_all_who_wait_are_told_that_nothing_can_be_written(place):
    worker = Steps()
    store = place.open(worker=worker)
    place.refuse_writes(store)
    pushed = place.push(store, "bob")
    store.remember("kind", "id", lambda: b"value", inf)
    flushed = Outcome(store.flush())
    worker.settle()
    refused(pushed)
    refused(flushed)
    assert store.state() == "down"
    place.refuse_writes(store, False)
    store.expire(place.now)
    worker.settle()
    assert store.state() == "ok"


def test_a_deletion_that_cannot_be_written_changes_nothing(place):
    store = place.open()
    now(place.push(store, "chat/a", body=["a", "b"]).deferred)
    usage = store.usage()
    place.refuse_writes(store)
    refused(Outcome(store.delete("chat/a", place.now)))
    for copy in (store, place.crash()):
        for name in ("chat/a", "chat/*"):
            found = place.read(copy, name, after=place.at(store, 0))
            assert (data(found), found.gap) == (["a", "b"], False)
        assert copy.usage() == usage
        assert data(place.take(copy, "chat/a", limit=1)) == ["a"]


def test_a_deletion_is_made_though_the_pushes_beside_it_do_not_fit(place):
    worker = Steps()
    store = place.open(worker=worker)
    place.push(store, "old", body="x")
    place.push(store, "bob")
    worker.settle()
    place.limit_pages(store, 0)
    pushed = place.push(store, "bob", body=BIG)
    deleted = Outcome(store.delete("old", place.now))
    worker.settle()
    refused(pushed)
    assert deleted.value is None
    assert data(place.read(store, "old")) == []
    after = place.crash()
    assert data(place.read(after, "old")) == []
    assert place.read(after, "old", after=place.at(store, 0)).gap


def test_a_deletion_that_was_refused_is_not_made_later(place):
    store = place.open()
    now(place.push(store, "bob").deferred)
    place.refuse_writes(store)
    refused(Outcome(store.delete("bob", place.now)))
    place.refuse_writes(store, False)
    now(place.push(store, "amy").deferred)
    for copy in (store, place.crash()):
        found = place.read(copy, "bob", after=place.at(store, 0))
        assert (data(found), found.gap) == (["hi"], False)
    assert now(store.delete("bob", place.now)) is None
    assert data(place.read(store, "bob")) == []


def test_a_deletion_leaves_what_is_pushed_while_it_is_under_way(place):
    worker = Steps()
    store = place.open(worker=worker)
    place.push(store, "bob", body=["a", "b"])
    worker.settle()
    deleted = Outcome(store.delete("bob", place.now))
    pushed = place.push(store, "bob", body="c")
    worker.settle()
    assert deleted.value is None
    assert numbers(pushed.value) == [3]
    for copy in (store, place.crash()):
        found = place.read(copy, "bob", after=place.at(store, 1))
        assert (data(found), found.gap) == (["c"], True)
        assert not place.read(copy, "bob", after=place.at(store, 2)).gap


def test_a_large_mailbox_is_deleted_in_several_turns_once_that_is_kept(place):
    worker = Steps()
    store = place.open(Limits(capacity=10 * GOING_AT_ONCE), worker)
    place.push(store, "bob", body=["x"] * 3 * GOING_AT_ONCE)
    worker.settle()
    deleted = Outcome(store.delete("bob", place.now))
    worker.step()
    assert place.rows("messages") == []
    assert store.usage().messages == 2 * GOING_AT_ONCE
    assert deleted.parked
    worker.settle()
    assert deleted.value is None
    assert store.usage().messages == 0
    place.push(store, "bob", body="new")
    worker.settle()
    assert data(place.read(store, "bob")) == ["new"]
    store.check_invariants()


def test_what_is_taken_while_its_deletion_is_under_way_was_taken(place):
    worker = Steps()
    store = place.open(worker=worker)
    place.push(store, "bob", body=["a", "b"])
    worker.settle()
    store.delete("bob", place.now)
    worker.end_turn()
    taken = place.take(store, "bob", limit=1)
    worker.settle()
    store.give_back(taken.messages)
    for copy in (store, place.crash()):
        found = place.take(copy, "bob")
        assert (data(found), found.gap) == ([], True)


def test_a_push_that_was_refused_leaves_its_key_free_though_the_disk_kept_it(place):
    class Lying(Steps):
        def run(self, work, done):
            def lie():
                work()
                raise sqlite3.OperationalError("disk I/O error")

            super().run(lie, done)

    store = place.open(worker=(worker := Lying()))
    pushed = place.push(store, "bob", body="a", key="k")
    worker.step()
    refused(pushed)
    store.expire(place.now)
    worker.settle()  # written, whatever it says
    again = Server(place, place.crash())
    again.push("bob", body="b", key="k")
    assert data(place.read(again.store, "bob")) == ["b"]


# -- a disk that is nearly full


@pytest.fixture
def free(monkeypatch):
    """Return a function that sets how many bytes the disk has free, and let it have plenty."""

    def free(size: int) -> None:
        monkeypatch.setattr(journal, "disk_free", lambda _: size)

    free(2 * STORE_RESERVE_BYTES)
    return free


def test_pushes_stop_while_there_is_still_room_to_clean_up(place, free):
    store = place.open()
    now(place.push(store, "bob", body=["a", "b"]).deferred)
    now(place.push(store, "amy", body="c").deferred)
    free(STORE_RESERVE_BYTES)
    pushed = place.push(store, "bob", body=BIG)
    with pytest.raises(StoreDown, match="disk is nearly full"):
        _ = pushed.value
    assert store.state() == "down"
    assert data(place.take(store, "bob", limit=1)) == ["a"]
    store.remember("kind", "id", lambda: b"value", inf)
    assert now(store.delete("amy", place.now)) is None
    after = place.crash()
    assert data(place.take(after, "bob")) == ["b"]
    assert data(place.read(after, "amy")) == []
    assert [record.id for record in after.recall("kind")] == ["id"]


def test_a_deletion_in_the_same_commit_is_made_where_there_is_no_room_for_the_push(place, free):
    worker = Steps()
    store = place.open(worker=worker)
    place.push(store, "amy")
    worker.settle()
    free(STORE_RESERVE_BYTES)
    pushed, deleted = place.push(store, "bob", body=BIG), Outcome(store.delete("amy", place.now))
    worker.settle()
    refused(pushed)
    assert deleted.value is None
    assert store.usage() == Usage()
    assert data(place.read(place.crash(), "**")) == []


def test_pushes_go_on_by_themselves_once_the_disk_has_room(place, free):
    store = place.open()
    now(place.push(store, "bob", body="a").deferred)
    free(STORE_RESERVE_BYTES)
    with capturedLogs() as events:
        for _ in range(3):
            refused(place.push(store, "bob", body=BIG))
            store.expire(place.now)
        assert store.state() == "down"
        free(2 * STORE_RESERVE_BYTES)
        store.expire(place.now)  # time passes
        assert store.state() == "ok"
    said = [event["log_format"] for event in events if event.get("log_namespace", "").endswith("SQLiteStore")]
    assert len(said) == 2
    assert numbers(place.push(store, "bob", body="b").value) == [5]
    assert data(place.read(place.crash(), "bob")) == ["a", "b"]


def test_what_was_deleted_makes_room_on_a_disk_that_stays_nearly_full(place, free):
    store = place.open()
    for number in range(5):
        now(place.push(store, f"r{number}", body=BIG).deferred)
    free(STORE_RESERVE_BYTES // 2 + 50_000)
    refused(place.push(store, "bob", body=BIG))
    for number in range(4):
        now(store.delete(f"r{number}", place.now))
    assert numbers(place.push(store, "bob", body=BIG).value) == [7]


def test_a_disk_of_which_nothing_can_be_learnt_takes_pushes(place, monkeypatch):
    def unknown(_):
        raise OSError("no statvfs here")

    monkeypatch.setattr(journal, "disk_free", unknown)
    assert numbers(place.push(place.open(), "bob").value) == [1]


@pytest.fixture
def fill(monkeypatch):
    """Return a function that fills a sixteenth of a store's log, of 320,000 bytes, and what that leaves."""
    monkeypatch.setattr(journal, "STORE_LOG_AHEAD_BYTES", 320_000)

    def fill(place: Place, sync: str) -> tuple[int, list[str]]:
        store = place.open(sync=sync)
        for number in range(3):
            now(place.push(store, "bob", body=f"{number}{BIG}").deferred)
        size = Path(f"{place.path}-wal").stat().st_size
        return size, data(place.read(place.crash(), "bob"))

    return fill


@pytest.mark.parametrize(("sync", "lengthened"), [("full", True), ("normal", False)])
def test_the_log_has_its_length_early_where_the_disk_is_waited_for(place, fill, sync, lengthened):
    size, found = fill(place, sync)
    assert (size == 320_000) == lengthened
    assert found == [f"{number}{BIG}" for number in range(3)]


def test_the_log_grows_commit_by_commit_where_the_disk_is_nearly_full(place, free, fill):
    free(STORE_RESERVE_BYTES + 200_000)
    size, found = fill(place, "full")
    assert size < 320_000
    assert len(found) == 3


# -- a file that others take away


@pytest.mark.parametrize("lost", ["comet.db", "comet.db-wal"])
def test_pushes_are_refused_once_the_file_was_deleted(place, lost):
    store = place.open()
    now(place.push(store, "bob", body="a").deferred)
    (place.directory / lost).unlink()
    with capturedLogs() as events:
        for _ in range(2):
            refused(place.push(store, "bob", body="b"))
        refused(Outcome(store.delete("bob", place.now)))
        assert store.state() == "down"
        now(store.close())
    (said,) = [event for event in events if "cannot be written" in event.get("log_format", "")]
    assert "deleted or replaced" in said["error"]
    assert data(place.read(store, "bob")) == ["a"]


def test_pushes_go_on_once_the_file_is_back(place):
    store = place.open()
    now(place.push(store, "bob", body="a").deferred)
    aside = place.directory / "aside"
    place.path.rename(aside)
    refused(place.push(store, "bob", body="b"))
    aside.rename(place.path)
    assert numbers(place.push(store, "bob", body="c").value) == [3]
    assert store.state() == "ok"
    assert data(place.read(place.crash(), "bob")) == ["a", "c"]


def test_a_file_that_was_put_in_place_of_the_stores_is_left_alone(place):
    other = Place(place.directory / "other")
    other.directory.mkdir()
    now(other.push(other.open(), "amy", body="other").deferred)
    other.end()
    bytes_of_other = other.path.read_bytes()
    store = place.open()
    now(place.push(store, "bob").deferred)
    other.path.rename(place.path)
    refused(place.push(store, "bob"))
    now(store.close())
    assert place.path.read_bytes() == bytes_of_other
    (place.directory / "comet.db-wal").unlink(missing_ok=True)
    assert data(place.read(place.open(), "amy")) == ["other"]


def test_pushes_are_refused_once_a_smaller_file_was_copied_over_the_stores(place):
    store = place.restart(place.open())
    now(place.push(store, "bob").deferred)
    place.path.write_bytes(place.path.read_bytes()[:4096])
    refused(place.push(store, "bob"))


def test_a_file_that_a_link_leads_to_is_the_stores(place):
    (place.directory / "real").mkdir()
    place.path.symlink_to(place.directory / "real" / "messages.db")
    store = place.open()
    now(place.push(store, "bob").deferred)
    place.path.unlink()
    refused(place.push(store, "bob"))


def test_what_changed_is_written_once_there_is_room(place):
    store = place.open()
    now(place.push(store, "bob", body=["a", "b", "c"]).deferred)
    place.limit_pages(store, 0)
    refused(place.push(store, "bob", body=BIG))
    assert data(place.take(store, "bob", limit=2)) == ["a", "b"]
    store.remember("kind", "id", lambda: b"value", inf)
    # All of it fails together with something that does not fit, and is tried again.
    store.remember("kind", "big", BIG.encode, inf)
    store.expire(place.now)
    assert place.rows("records") == []
    place.limit_pages(store, 1_000)
    store.expire(place.now)
    after = place.crash()
    assert {record.id for record in after.recall("kind")} == {"id", "big"}
    assert data(place.take(after, "bob")) == ["c"]


def test_a_disk_that_does_not_answer_refuses_pushes_after_a_while(place):
    worker = Steps()
    store = place.open(worker=worker)
    place.push(store, "bob")
    worker.end_turn()
    waiting = place.push(store, "bob")
    place.now += STORE_STALLED_SECONDS + 1
    with pytest.raises(StoreDown):
        place.push(store, "bob")
    worker.settle()
    assert numbers(waiting.value) == [2]
    assert place.push(store, "bob").parked
    worker.settle()


def test_a_writer_that_breaks_is_logged_and_refuses_pushes(place, expected_failures):
    class Breaking(Inline):
        breaks = True

        def run(self, work, done):
            super().run((lambda: 1 // 0) if self.breaks else work, done)

    expected_failures.append(ZeroDivisionError)
    worker = Breaking()
    store = place.open(worker=worker)
    refused(place.push(store, "bob"))
    worker.breaks = False
    assert numbers(place.push(store, "bob").value) == [2]


# -- after a restart, and after a crash


@pytest.fixture(params=["restart", "crash"])
def again(request, place):
    """Return a function that opens a store again, as it was left by a stop or by a crash."""

    def again(store, *args, **words):
        if request.param == "restart":
            return place.restart(store, *args, **words)
        now(store.flush())
        return place.crash(*args, **words)

    return again


def test_messages_are_the_same_as_before(place, again):
    store = place.open()
    contents = (
        Content.parse(b'{"a":\n1}', "application/json; charset=utf-8"),
        Content.parse("zwölf\n".encode(), "text/plain"),
        Content.parse(bytes(range(256)), "image/png"),
    )
    made = now(store.append(Push(("bob", "amy"), contents, event="news"), place.now, STARTED + 0.123))
    before = [found.json for found in made]
    assert data(place.read(store, "bob")) == data(place.read(again(store), "bob"))
    after = place.read(place.stores[-1], "bob", "amy")
    assert [found.json for found in after.messages] == before
    assert [found.created_at for found in after.messages] == [STARTED + 0.123] * 6


def test_cursors_stay_valid_and_numbers_go_on(place, again):
    store = place.open()
    now(place.push(store, "bob", body=["a", "b", "c"]).deferred)
    after = again(store)
    assert after.epoch == store.epoch
    found = place.read(after, "bob", after=place.at(store, 1))
    assert (data(found), found.gap) == (["b", "c"], False)
    assert numbers(place.push(after, "bob").value) == [4]
    assert not place.read(after, "bob", after=place.at(store, 3)).gap


def test_a_message_is_kept_for_the_time_of_its_namespace_over_a_restart(place, again):
    limits, namespaces = Limits(ttl=100.0), {"archive/*": Namespace(ttl=1_000.0)}
    store = place.open(limits, namespaces=namespaces)
    now(place.push(store, "archive/a", "bob").deferred)
    after = again(store, limits, namespaces=namespaces)
    place.now += 500
    after.expire(place.now)
    assert data(place.read(after, "archive/a")) == ["hi"]
    assert data(place.read(after, "bob")) == []
    without = again(after, limits)
    assert data(place.read(without, "archive/a")) == ["hi"]
    place.now += 101
    without.expire(place.now)
    assert data(place.read(without, "archive/a")) == []


def test_numbers_go_on_after_messages_that_are_gone(place, again):
    store = place.open()
    now(place.push(store, "bob", body=["a", "b"], ttl=10).deferred)
    place.now += 11
    store.expire(place.now)
    after = again(store)
    assert place.rows("messages") == []
    assert numbers(place.push(after, "bob").value) == [3]


def test_a_take_is_not_given_what_was_taken(place, again):
    store = place.open()
    now(place.push(store, "bob", body=["a", "b", "c", "d"]).deferred)
    taken = place.take(store, "bob", limit=3)
    store.give_back(taken.messages[:2])
    assert data(place.take(again(store), "bob")) == ["a", "b", "d"]


def test_what_was_acknowledged_makes_room(place, again):
    limits = Limits(capacity=2)
    store = place.open(limits)
    now(place.push(store, "bob", body=["a", "b"]).deferred)
    place.read(store, "bob", after=place.at(store, 1))
    store.expire(place.now)
    after = again(store, limits)
    now(place.push(after, "bob", body="c").deferred)
    assert data(place.read(after, "bob")) == ["b", "c"]
    with pytest.raises(MailboxFull):
        place.push(after, "bob")


def test_what_the_readers_of_a_pattern_acknowledged_makes_room(place, again):
    limits = Limits(capacity=2)
    store = place.open(limits)
    now(place.push(store, "chat/a", body=["a", "b"]).deferred)
    place.read(store, "chat/*", after=place.at(store, 2))
    store.expire(place.now)
    assert place.push(again(store, limits), "chat/a", body=["c", "d"]).value


@pytest.mark.parametrize("name", ["bob", "*", "**"])
def test_a_reader_has_a_gap_exactly_where_something_was_dropped(place, again, name):
    limits = Limits(capacity=2)
    store = place.open(limits, overflow="drop-oldest")
    for body in ("a", "b", "c"):
        now(place.push(store, "bob", body=body).deferred)
    after = again(store, limits)
    assert place.read(after, name, after=place.at(store, 0)).gap
    assert not place.read(after, name, after=place.at(store, 1)).gap
    assert not place.read(after, "amy", after=place.at(store, 0)).gap


def test_a_reader_has_a_gap_where_everything_was_deleted(place, again):
    store = place.open()
    now(place.push(store, "bob", body=["a", "b"]).deferred)
    now(store.delete("bob", place.now))
    after = again(store)
    assert data(place.read(after, "bob")) == []
    assert place.read(after, "bob", after=place.at(store, 1)).gap
    assert not place.read(after, "bob", after=place.at(store, 2)).gap
    assert place.take(after, "bob").gap
    assert not place.take(after, "bob").gap
    assert not place.take(again(after), "bob").gap


def test_a_mailbox_that_lives_again_remembers_what_was_lost(place, again):
    store = place.open()
    now(place.push(store, "bob", body=["a", "b"]).deferred)
    now(store.delete("bob", place.now))
    now(place.push(store, "bob", body="c").deferred)
    after = again(store)
    assert place.read(after, "bob", after=place.at(store, 1)).gap
    assert data(place.read(after, "bob", after=place.at(store, 2))) == ["c"]
    assert place.take(after, "bob").gap


def test_losses_that_were_forgotten_are_gaps_for_names_without_another_record(place, again):
    limits = Limits(max_recipients=3)
    store = place.open(limits)
    for name in ("a", "b", "c", "d"):
        now(place.push(store, name).deferred)
        now(store.delete(name, place.now))
    before = [place.read(store, name, after=place.at(store, 1)).gap for name in ("a", "b", "zed")]
    after = again(store, limits)
    assert [place.read(after, name, after=place.at(store, 1)).gap for name in ("a", "b", "zed")] == before
    assert any(before)
    assert len(place.rows("places")) <= 3


def test_a_mailbox_made_after_its_losses_were_forgotten_still_tells_of_them(place):
    # What says so is written after its first message: a crash in between told no gap.
    limits = Limits(max_recipients=4)
    worker = Steps()
    store = place.open(limits, worker)
    for name in ("c/d", "a"):
        place.push(store, name, ttl=10)
    worker.settle()
    place.now += 11
    store.expire(place.now)
    worker.settle()
    place.push(store, "c/d")
    worker.end_turn()
    worker.works[0][0]()  # the disk has it, and nobody was told
    after = place.crash(limits)
    assert numbers(place.read(after, "c/d", after=place.at(store, 0))) == [3]
    assert place.read(after, "c/d", after=place.at(store, 0)).gap
    assert not place.read(after, "c/d", after=place.at(store, 2)).gap


def test_patterns_that_had_to_be_forgotten_leave_the_file(place):
    store = place.open(Limits(max_recipients=3))
    now(place.push(store, "bob").deferred)
    for number in range(9):
        place.read(store, f"r{number}/*", after=place.at(store, 1))
        store.expire(place.now)
    assert 1 <= len(place.rows("places")) <= 3


def test_the_time_a_message_is_kept_goes_on_while_the_server_is_away(place, again):
    store = place.open()
    now(place.push(store, "bob", body="short", ttl=30).deferred)
    now(place.push(store, "bob", body="long", ttl=300).deferred)
    place.now += 10
    place.elapse_away(15)
    after = again(store)
    assert data(place.read(after, "bob")) == ["short", "long"]
    place.now += 6
    found = place.read(after, "bob", after=place.at(store, 0))
    assert (data(found), found.gap) == (["long"], True)


def test_what_expires_while_the_server_is_away_is_a_gap(place, again):
    store = place.open()
    now(place.push(store, "bob", ttl=30).deferred)
    place.elapse_away(31)
    after = again(store)
    assert place.read(after, "bob", after=place.at(store, 0)).gap
    assert data(place.read(after, "bob")) == []


def test_a_wall_clock_that_was_set_back_keeps_no_message_longer_than_may_be(place, again):
    limits = Limits(ttl=100)
    store = place.open(limits)
    now(place.push(store, "bob").deferred)
    place.elapse_away(-86_400)
    after = again(store, limits)
    place.now += 101
    assert data(place.read(after, "bob")) == []


def test_what_was_not_written_before_a_crash_happens_again(place):
    store = place.open()
    now(place.push(store, "bob", body=["a", "b"]).deferred)
    place.take(store, "bob", limit=1)
    assert data(place.take(place.crash(), "bob")) == ["a", "b"]


def test_what_waits_for_many_changes_is_answered_after_several_commits(place, monkeypatch):
    monkeypatch.setattr("cometd_lite.stores.sqlite.STORE_ROWS_PER_COMMIT", 10)
    worker = Steps()
    store = place.open(Limits(ttl=5), worker)
    for number in range(12):
        place.push(store, f"box{number}")
    worker.settle()
    commits = worker.commits
    place.now += 5
    store.expire(place.now)
    kept = Outcome(store.flush())
    deleted = Outcome(store.delete("other", place.now))
    worker.step()
    assert kept.parked
    worker.settle()
    assert kept.value is deleted.value is None
    assert worker.commits >= commits + 3
    assert place.rows("messages") == []
    assert len(place.rows("places")) == 14  # the mailboxes, * and **


def test_a_deletion_is_answered_when_it_is_kept(place):
    worker = Steps()
    store = place.open(worker=worker)
    place.push(store, "bob")
    worker.settle()
    deleted = Outcome(store.delete("bob", place.now))
    assert data(place.read(store, "bob")) == ["hi"]
    assert deleted.parked
    worker.settle()
    assert not deleted.parked
    assert data(place.read(store, "bob")) == []
    assert data(place.read(place.crash(), "bob")) == []


def test_nothing_that_goes_in_parts_is_lost_unseen(place, monkeypatch):
    # A message that had left the file before its loss was noted there would be missed by a reader in silence.
    monkeypatch.setattr("cometd_lite.stores.sqlite.STORE_ROWS_PER_COMMIT", 3)
    worker = Steps()
    store = place.open(worker=worker)
    names = [f"r{number}" for number in range(5)]
    for name in names:
        place.push(store, name, body=["a", "b"], ttl=10)
    worker.settle()
    at = place.path
    place.now += 11
    store.expire(place.now)
    worker.end_turn()
    while worker.works:
        worker.step()
        worker.end_turn()
        place.path = at
        place.shift -= 20  # so that the crashed copy does not itself find them expired
        copy = place.crash()
        place.shift += 20
        for name in names:
            found = place.read(copy, name, after=place.at(store, 0))
            assert found.gap or len(found.messages) == 2
    place.path = at
    store.expire(place.now)
    worker.settle()
    assert place.rows("messages") == []
    assert worker.commits > 4


def test_the_file_does_not_grow_beyond_what_is_kept(place):
    limits = Limits(capacity=100, capacity_bytes=200_000)
    store = place.open(limits, overflow="drop-oldest")
    sizes = []
    for _ in range(12):
        for _ in range(100):
            place.push(store, "bob", body="x" * 1_000)
        store.expire(place.now)
        sizes.append(sum(file.stat().st_size for file in place.directory.iterdir()))
    assert sizes[-1] <= sizes[5] + 200_000
    now(store.close())
    assert place.path.stat().st_size < 1_000_000


def test_a_smaller_bound_than_before_refuses_pushes_but_drops_nothing(place):
    store = place.open()
    now(place.push(store, "bob", body=["a", "b", "c"]).deferred)
    after = place.restart(store, Limits(capacity=2, max_memory=1_000, max_recipients=1))
    assert data(place.read(after, "bob")) == ["a", "b", "c"]
    with pytest.raises(MailboxFull):
        place.push(after, "bob")


# -- closing


def test_closing_writes_what_waits_and_takes_no_more(place):
    worker = Steps()
    store = place.open(worker=worker)
    pushed = place.push(store, "bob", body=["a", "b"])
    closed = Outcome(store.close())
    with pytest.raises(StoreDown):
        place.push(store, "bob")
    worker.step()
    assert data(place.take(store, "bob", limit=1)) == ["a"]
    worker.settle()
    assert numbers(pushed.value) == [1, 2]
    assert closed.value is None
    assert worker.stopped
    assert [file.name for file in place.directory.iterdir()] == ["comet.db"]
    assert data(place.take(place.open(), "bob")) == ["b"]


def test_closing_twice_is_closing_once(place):
    worker = Steps()
    store = place.open(worker=worker)
    closed = [Outcome(store.close()), Outcome(store.close())]
    worker.settle()
    assert [outcome.value for outcome in closed] == [None, None]
    assert store.close() is None or Outcome(store.close()).value is None


def test_closing_on_a_full_disk_ends_all_the_same(place):
    worker = Steps()
    store = place.open(worker=worker)
    place.limit_pages(store, 0)
    first = place.push(store, "bob", body=BIG)
    worker.step()
    second = place.push(store, "bob", body=BIG)
    store.remember("kind", "big", BIG.encode, inf)
    closed = Outcome(store.close())
    worker.settle()
    for pushed in (first, second):
        refused(pushed)
    assert closed.value is None
    assert data(place.read(place.open(), "bob")) == []


def test_what_did_not_fit_before_is_tried_once_more_at_the_end(place):
    store = place.open()
    now(place.push(store, "bob", body=["a", "b"]).deferred)
    place.limit_pages(store, 0)
    refused(place.push(store, "bob", body=BIG))
    place.take(store, "bob", limit=1)
    store.remember("kind", "id", lambda: b"value", inf)
    place.limit_pages(store, 1_000)
    after = place.restart(store)
    assert data(place.take(after, "bob")) == ["b"]
    assert [record.id for record in after.recall("kind")] == ["id"]


# -- what a loss of power leaves


def power(monkeypatch, boot):
    monkeypatch.setattr(journal, "boot_id", lambda: boot)


def test_after_a_loss_of_power_no_number_is_given_again_and_every_reader_is_told(place, monkeypatch):
    power(monkeypatch, "one")
    store = place.open(sync="normal")
    now(place.push(store, "bob", body=["a", "b"]).deferred)
    now(store.delete("bob", place.now))
    now(place.push(store, "bob", "amy", body="c").deferred)
    power(monkeypatch, "two")
    after = place.crash(sync="normal")
    (message,) = place.push(after, "bob", body="d").value
    assert message.sequence > 1_000_000
    for name in ("bob", "amy", "eve", "*"):
        # Of a store that went on where the file ends, this reader would have missed what came in between.
        assert place.read(after, name, after=place.at(store, 500_000)).gap
        assert not place.read(after, name, after=message.cursor).gap
    assert data(place.read(after, "bob")) == ["c", "d"]
    power(monkeypatch, "three")
    again = place.restart(after, sync="normal")
    assert place.read(again, "eve", after=place.at(store, 500_000)).gap
    assert not place.read(again, "eve", after=message.cursor).gap
    assert numbers(place.push(again, "bob").value) == [message.sequence + 1]


@pytest.mark.parametrize(
    ("first", "second", "sync"), [("one", "one", "normal"), ("one", "two", "full"), ("", "", "full")]
)
def test_the_death_of_the_process_alone_is_no_loss_of_power(place, monkeypatch, first, second, sync):
    power(monkeypatch, first)
    store = place.open(sync=sync)
    now(place.push(store, "bob").deferred)
    power(monkeypatch, second)
    after = place.crash(sync=sync)
    assert numbers(place.push(after, "bob").value) == [2]
    assert not place.read(after, "bob", after=place.at(store, 0)).gap


def test_where_it_is_not_known_whether_power_was_lost_it_was(place, monkeypatch):
    power(monkeypatch, "")
    store = place.open(sync="normal")
    now(place.push(store, "bob").deferred)
    assert place.read(place.crash(sync="normal"), "bob", after=place.at(store, 0)).gap


def test_what_was_stopped_well_has_lost_nothing(place, monkeypatch):
    power(monkeypatch, "one")
    store = place.open(sync="normal")
    now(place.push(store, "bob").deferred)
    power(monkeypatch, "two")
    after = place.restart(store, sync="normal")
    assert not place.read(after, "bob", after=place.at(store, 0)).gap
    assert numbers(place.push(after, "bob").value) == [2]


def test_numbers_are_reserved_with_the_disk_waited_for(place, monkeypatch):
    monkeypatch.setattr(journal, "STORE_NUMBERS_RESERVED", 3)
    store = place.open(sync="normal")
    levels, waited = ["NORMAL"], []

    def trace(statement):
        if statement.startswith("PRAGMA synchronous = "):
            levels.append(statement.rpartition(" ")[2].upper())
        elif "INTO messages" in statement:
            waited.append(levels[-1])

    place.connections[store].set_trace_callback(trace)
    for _ in range(9):
        place.push(store, "bob")
    place.connections[store].set_trace_callback(None)
    assert waited == ["FULL" if n in {1, 5, 9} else "NORMAL" for n in range(1, 10)]


def test_messages_alone_are_one_statement_and_their_numbers_outlive_a_crash(place):
    worker = Steps()
    store = place.open(worker=worker)
    place.push(store, "bob")
    worker.settle()  # it says besides that this process has the file
    statements: list[str] = []
    place.connections[store].set_trace_callback(statements.append)
    for number in range(64):
        place.push(store, f"r{number}")
    worker.settle()
    place.connections[store].set_trace_callback(None)
    assert [statement.split(" VALUES ")[0] for statement in statements] == ["INSERT OR REPLACE INTO messages"]
    after = place.crash()
    assert len(data(place.read(after, "**"))) == 65
    assert numbers(place.push(after, "bob").value) == [66]
    now(after.delete("bob", place.now))
    assert numbers(place.push(place.crash(), "bob").value) == [67]


# -- receipts and listeners


class Server:
    """A hub and its listeners over a store that is open."""

    def __init__(self, place: Place, store: SQLiteStore) -> None:
        self.store = store
        self.clock = Clock()
        self.clock.advance(place.now)
        self.hub = Hub(store, Registry(self.clock, 100), self.clock, wall=place.wall)
        self.listeners = Listeners(self.hub, 2)
        self.hub.receipts.recall()
        self.listeners.recall()

    def push(self, *recipients: str, **words: Any) -> Any:
        return now(self.hub.push(push(*recipients, **words)))


def test_a_key_is_answered_the_same_after_a_crash(place):
    before = Server(place, place.open())
    receipt = before.push("bob", "amy", body=["a", "b"], key="k")
    after = Server(place, place.crash())
    assert after.push("bob", "amy", body=["a", "b"], key="k") == receipt
    assert data(place.read(after.store, "bob")) == ["a", "b"]
    with pytest.raises(KeyReused):
        after.push("bob", "amy", body="c", key="k")
    after.push("bob", body="c", key="k")  # for others it is another key
    after.push("bob", "amy", body="c", key="k", subject="alice")  # and another subject's is, too


def test_how_many_a_push_with_a_key_woke_is_known_after_a_restart(place, again):
    before = Server(place, place.open())
    Outcome(before.hub.poll(("bob",), NOW, wait=10))
    receipt = before.push("bob", key="k")
    assert receipt.delivered == 1
    assert Server(place, again(before.store)).push("bob", key="k") == receipt


def test_a_key_is_forgotten_in_its_time(place, again):
    before = Server(place, place.open())
    before.push("bob", key="k")
    place.elapse_away(IDEMPOTENCY_SECONDS + 1)
    after = Server(place, again(before.store))
    assert after.push("bob", key="k").ids != before.push
    assert data(place.read(after.store, "bob")) == ["hi", "hi"]
    place.elapse_away(IDEMPOTENCY_SECONDS + 1)
    place.push(after.store, "bob")
    assert len(place.rows("records")) == 0


def test_a_push_that_no_reader_waited_for_leaves_its_key_free(place, again):
    before = Server(place, place.open())
    with pytest.raises(NobodyWaits):
        before.push("bob", key="k", queue=False)
    after = Server(place, again(before.store))
    assert after.push("bob", key="k").delivered == 0


def test_a_push_that_the_disk_refused_leaves_its_key_free(place):
    server = Server(place, place.open())
    place.limit_pages(server.store, 0)
    with pytest.raises(StoreDown):
        server.push("bob", body=BIG, key="k")
    place.limit_pages(server.store, 1_000)
    server.push("bob", body="other", key="k")
    assert data(place.read(server.store, "bob")) == ["other"]


def test_a_listener_is_registered_when_it_is_kept(place):
    worker = Steps()
    before = Server(place, place.open(worker=worker))
    registered = Outcome(before.listeners.register(("bob",)))
    assert registered.parked
    worker.settle()
    listener = registered.value
    after = Server(place, place.crash())
    known = after.listeners.get(listener.id)
    assert (known.recipients, known.place, known.ttl) == (("bob",), listener.place, listener.ttl)


def test_a_listener_goes_on_where_it_stood(place, again):
    before = Server(place, place.open())
    listener = now(before.listeners.register(("bob",), 60))
    before.push("bob", body=["a", "b"])
    assert data(now(before.listeners.poll(listener, None, 0, 1))) == ["a"]
    after = Server(place, again(before.store))
    found = now(after.listeners.poll(after.listeners.get(listener.id), None, 0, 100))
    assert (data(found), found.gap) == (["b"], False)


def test_a_listener_that_was_not_answered_is_told_again(place, again):
    before = Server(place, place.open())
    listener = now(before.listeners.register(("bob",), 60))
    before.push("bob")
    now(before.listeners.poll(listener, None, 0, 1, written=lambda: False))
    after = Server(place, again(before.store))
    assert data(now(after.listeners.poll(after.listeners.get(listener.id), None, 0, 100))) == ["hi"]


def test_a_listener_reads_what_it_was_changed_to(place, again):
    before = Server(place, place.open())
    listener = now(before.listeners.register(("bob",)))
    now(before.listeners.change(listener, ("amy", "eve/*")))
    assert Server(place, again(before.store)).listeners.get(listener.id).recipients == ("amy", "eve/*")


def test_a_listener_lives_on_while_the_server_is_away(place, again):
    before = Server(place, place.open())
    listener = now(before.listeners.register(("bob",), 60))
    place.elapse_away(3_600)
    after = Server(place, again(before.store))
    assert after.listeners.get(listener.id)
    after.clock.advance(61)
    after.listeners.sweep()
    with pytest.raises(ListenerGone):
        after.listeners.get(listener.id)
    assert len(Server(place, again(after.store)).listeners) == 0


def test_a_listener_that_was_ended_is_gone(place, again):
    before = Server(place, place.open())
    listener = now(before.listeners.register(("bob",)))
    now(before.listeners.end(listener))
    with pytest.raises(ListenerGone):
        Server(place, again(before.store)).listeners.get(listener.id)


def test_a_listener_has_ended_once_that_is_kept(place):
    worker = Steps()
    before = Server(place, place.open(worker=worker))
    registered = Outcome(before.listeners.register(("bob",)))
    worker.settle()
    ended = Outcome(before.listeners.end(registered.value))
    assert ended.parked
    worker.settle()
    assert ended.value is None
    with pytest.raises(ListenerGone):
        Server(place, place.crash()).listeners.get(registered.value.id)


def test_an_ended_listener_does_not_come_back_by_a_poll_that_has_found_it_before(place, again):
    before = Server(place, place.open())
    listener = now(before.listeners.register(("bob",)))
    now(before.listeners.end(listener))
    now(before.listeners.poll(listener, None, 0, 1))
    with pytest.raises(ListenerGone):
        Server(place, again(before.store)).listeners.get(listener.id)


def test_a_registration_that_cannot_be_kept_leaves_no_listener(place):
    before = Server(place, place.open())
    place.refuse_writes(before.store)
    refused(Outcome(before.listeners.register(("bob",))))
    assert len(before.listeners) == 0
    place.refuse_writes(before.store, False)
    before.push("bob")
    assert place.rows("records") == []


def test_a_listener_whose_end_cannot_be_kept_goes_on(place):
    before = Server(place, place.open())
    listener = now(before.listeners.register(("bob",)))
    before.push(listener.id, body="a")
    polled = Outcome(before.listeners.poll(listener, None, 10, 100))
    assert data(polled.value) == ["a"]
    polled = Outcome(before.listeners.poll(listener, None, 10, 100))
    place.refuse_writes(before.store)
    refused(Outcome(before.listeners.end(listener)))
    place.refuse_writes(before.store, False)
    before.push("bob", body="b")
    assert data(polled.value) == ["b"]
    for server in (before, Server(place, place.crash())):
        assert server.listeners.get(listener.id).recipients == ("bob",)
        assert data(place.read(server.store, listener.id)) == ["a"]


def test_no_client_uses_a_listener_while_its_end_is_under_way(place):
    worker = Steps()
    before = Server(place, place.open(worker=worker))
    registered = Outcome(before.listeners.register(("bob",)))
    worker.settle()
    ended = Outcome(before.listeners.end(registered.value))
    with pytest.raises(ListenerGone):
        before.listeners.get(registered.value.id)
    now(before.listeners.poll(registered.value, None, 0, 1))  # by a request that has found it before
    worker.settle()
    assert ended.value is None
    assert place.rows("records") == []


def test_a_change_that_cannot_be_kept_leaves_a_listener_as_it_was(place):
    before = Server(place, place.open())
    listener = now(before.listeners.register(("bob",)))
    place.refuse_writes(before.store)
    refused(Outcome(before.listeners.change(listener, ("amy",))))
    place.refuse_writes(before.store, False)
    before.push("bob")
    for server in (before, Server(place, place.crash())):
        assert server.listeners.get(listener.id).recipients == ("bob",)


def test_more_listeners_than_may_be_are_not_brought_back(place, again):
    before = Server(place, place.open())
    for number in range(3):
        before.store.remember("listener", f"~{number}", lambda: VALUE, inf)
    after = Server(place, again(before.store))
    assert len(after.listeners) == 2
    now(after.store.flush())
    assert len(place.rows("records")) == 2


VALUE = b'{"recipients":["bob"],"place":"now","answered":null,"ttl":60.0}'


def test_records_are_recalled_once_and_by_their_kind(place, again):
    store = place.open()
    store.remember("kind", "a", lambda: b"1", inf)
    store.remember("kind", "b", lambda: b"2", place.now + 50)
    store.remember("other", "a", lambda: b"3", inf)
    store.remember("other", "c", lambda: b"4", inf)
    store.forget("other", "c")
    place.elapse_away(20)
    after = again(store)
    a, b = after.recall("kind")
    assert (a.id, a.value, a.expires_at) == ("a", b"1", inf)
    assert (b.id, b.value) == ("b", b"2")
    assert b.expires_at == pytest.approx(place.now + 30, abs=0.01)
    assert [record.value for record in after.recall("other")] == [b"3"]
    assert list(after.recall("kind")) == []


# -- files that cannot be opened


def refusal(place, **words):
    with pytest.raises(StoreUnusable) as refused:
        place.open(**words)
    (sentence,) = refused.value.args
    assert str(place.path) in sentence
    return sentence


def test_a_file_that_another_store_has_open_is_refused(place, monkeypatch):
    monkeypatch.setattr(journal, "STORE_LOCK_SECONDS", 0.01)
    store = place.open()
    assert "in use by another process" in refusal(place)
    now(store.close())
    place.open()


def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(place):
    now(place.open().close())
    connection = sqlite3.connect(place.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = place.path.read_bytes()
    assert "newer cometd-lite" in refusal(place)
    assert place.path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_as_it_is(place):
    connection = sqlite3.connect(place.path)
    connection.execute("CREATE TABLE people (name)")
    connection.close()
    before = place.path.read_bytes()
    assert "another program" in refusal(place)
    assert place.path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(place):
    place.path.write_bytes(b"Dear diary, " * 100)
    assert "no database" in refusal(place)


@pytest.mark.parametrize("page", [2, 3, 4, 5, 6])
def test_a_damaged_file_is_refused(place, page):
    store = place.open()
    now(place.push(store, "bob", body=["x" * 500] * 50).deferred)
    store.remember("kind", "id", lambda: b"value", inf)
    now(store.close())
    with place.path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(range(256)) * 16)
    assert "damaged" in refusal(place)


def test_a_file_that_lost_its_log_is_refused(place):
    now(place.open().close())
    connection = sqlite3.connect(place.path)
    connection.execute("DELETE FROM log")
    connection.commit()
    connection.close()
    assert "damaged" in refusal(place)


def test_a_text_that_is_no_text_any_more_is_refused(place):
    store = place.open()
    now(place.push(store, "bob").deferred)
    now(store.close())
    connection = sqlite3.connect(place.path)
    connection.execute("UPDATE messages SET body = x'ff00ff'")
    connection.commit()
    connection.close()
    assert "damaged" in refusal(place)


def test_a_directory_that_is_not_there_is_refused(place):
    place.path = place.directory / "none" / "comet.db"
    assert "No such file or directory" in refusal(place)


def test_a_directory_is_no_file(place):
    place.path = place.directory
    refusal(place)


def test_a_new_file_is_for_its_owner_only(place):
    place.open()
    assert {file.stat().st_mode & 0o777 for file in place.directory.iterdir()} == {0o600}


def test_a_file_of_an_older_version_is_upgraded(place, monkeypatch):
    store = place.open()
    now(place.push(store, "bob").deferred)
    now(store.close())
    step = ("CREATE TABLE added (name TEXT)", "INSERT INTO added VALUES ('new')")
    monkeypatch.setattr(journal, "SCHEMA", (*SCHEMA, step))
    assert data(place.read(place.open(), "bob")) == ["hi"]
    assert place.rows("added") == [("new",)]
    place.restart(place.stores[-1])
    assert place.rows("added") == [("new",)]


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(place, monkeypatch):
    store = place.open()
    now(place.push(store, "bob").deferred)
    now(store.close())
    with monkeypatch.context() as patch:
        patch.setattr(journal, "SCHEMA", (*SCHEMA, ("CREATE TABLE added (name)", "NONSENSE")))
        refusal(place)
    assert data(place.read(place.open(), "bob")) == ["hi"]


# -- the thread


class Mail:
    """A reactor as far as a worker uses it: what is called from its thread arrives here."""

    def __init__(self):
        self.calls: Queue[tuple[Any, ...]] = Queue()

    def callFromThread(self, *call):
        self.calls.put(call)

    def deliver(self):
        call, *args = self.calls.get(timeout=10)
        call(*args)


def test_a_thread_of_its_own_does_the_work_in_order():
    mail = Mail()
    worker = ThreadWorker(mail)
    threads, done = [], []
    for number in range(3):
        worker.run(
            lambda: threads.append(current_thread()), lambda failure, n=number: done.append((n, failure))
        )
    for _ in range(3):
        mail.deliver()
    assert done == [(0, None), (1, None), (2, None)]
    assert len(set(threads)) == 1
    assert current_thread() not in threads
    worker.stop()
    threads[0].join(10)
    assert not threads[0].is_alive()


def test_what_the_work_raised_is_delivered():
    mail = Mail()
    worker = ThreadWorker(mail)
    failures = []
    worker.run(lambda: 1 // 0, failures.append)
    mail.deliver()
    assert failures[0].check(ZeroDivisionError)
    worker.stop()


def test_at_the_end_of_a_turn_the_reactor_calls():
    clock = Clock()
    called = []
    ThreadWorker(clock).soon(lambda: called.append(True))
    assert called == []
    clock.advance(0)
    assert called == [True]


# -- the whole server


def test_a_comet_brings_back_what_it_kept(place):
    clock = Clock()
    clock.advance(place.now)
    comet = Comet(store=SQLiteStore(place.path, worker=Inline(), wall=place.wall), clock=clock)
    comet.start()
    first = now(comet.push("bob", "a", idempotency_key="k"))
    listener = now(comet.routes.listeners.register(("bob",)))
    now(comet.stop())
    again = Comet(store=SQLiteStore(place.path, worker=Inline(), wall=place.wall), clock=clock)
    again.start()
    assert now(again.push("bob", "a", idempotency_key="k")) == first
    assert [message.data for message in now(again.poll("bob", "oldest")).messages] == ["a"]
    assert again.routes.listeners.get(listener.id).recipients == ("bob",)
    now(again.stop())
    assert clock.getDelayedCalls() == []


def test_the_command_makes_the_store_that_it_is_asked_for(place):
    options = Options()
    options.parseOptions(["--store", f"sqlite:{place.path}", "--sync", "normal", "--capacity", "7"])
    store = options.store
    assert isinstance(store, SQLiteStore)
    place.begin(store)
    assert [row[5] for row in place.rows("log")] == ["normal"]
    with pytest.raises(MailboxFull, match="holds 7 messages"):
        place.push(store, "bob", body=["x"] * 8)


def test_the_command_keeps_messages_in_memory_unless_it_is_asked_otherwise():
    options = Options()
    options.parseOptions([])
    assert options.store is None


# -- any order of events


class Crashes(RuleBasedStateMachine):
    """Pushes, reads, takes and deletions in any order, with crashes at any moment."""

    names = strategies.sampled_from(["a", "b", "c/d"])
    readers = strategies.sampled_from([("a",), ("a", "b"), ("c/*",), ("**",), ("c/d",)])
    settlements = strategies.sampled_from(["done", "released", "extended"])
    bounds = Limits(capacity=4)

    def __init__(self) -> None:
        super().__init__()
        self.temporary = directory()
        self.place = Place(Path(self.temporary.name))
        self.confirmed: dict[int, tuple[str, str]] = {}
        self.seen: dict[int, tuple[str, str]] = {}
        self.cursors: dict[tuple[str, ...], Cursor] = {}
        self.attempts: dict[int, int] = {}
        """The last attempt of each message that a worker was told of."""
        self.held: dict[int, tuple[float, LeasedMessage]] = {}
        """Until when, on the wall, each message belongs to the worker that was told so last."""
        self.done: set[int] = set()
        self.bodies = count()
        self.open(self.place.open)

    def open(self, how: Any) -> None:
        self.worker = Steps()
        self.store = how(self.bounds, self.worker, sync="normal")

    def teardown(self) -> None:
        self.store.close()
        self.worker.settle()
        self.place.end()
        self.temporary.cleanup()

    @rule(name=names, overflow=strategies.sampled_from(["reject", "drop-oldest"]), key=strategies.booleans())
    def push(self, name: str, overflow: Any, key: bool) -> None:
        body = str(next(self.bodies))
        words = {"key": body} if key else {}
        try:
            pushed = self.store.append(
                push(name, body=body, overflow=overflow, ttl=40, **words), self.place.now, self.place.wall()
            )
        except (MailboxFull, ServerFull, StoreDown):
            return
        pushed.addCallbacks(self.confirm, self.refused)

    def confirm(self, messages: Any) -> None:
        for found in messages:
            assert found.sequence not in self.confirmed
            assert self.seen.setdefault(found.sequence, (found.recipient, found.data)) == (
                found.recipient,
                found.data,
            )
            self.confirmed[found.sequence] = (found.recipient, found.data)

    def refused(self, failure: Any) -> None:
        failure.trap(StoreDown)

    @rule(names=readers)
    def read(self, names: tuple[str, ...]) -> None:
        after = self.cursors.get(names, Cursor(self.store.epoch, 0))
        found = self.store.read(names, after, 100, self.place.now)
        sequences = numbers(found)
        assert sequences == sorted(set(sequences))
        for message in found.messages:
            assert message.sequence > after.sequence
            known = (message.recipient, message.data)
            assert self.seen.setdefault(message.sequence, known) == known, "a number was given twice"
        assert found.cursor.sequence >= after.sequence
        if not found.gap:
            missed = [
                number
                for number, (recipient, _) in self.confirmed.items()
                if after.sequence < number and any(name in covering(recipient) for name in names)
            ]
            assert set(missed) <= set(sequences)
        self.cursors[names] = found.cursor

    @rule(name=names, back=strategies.booleans())
    def take(self, name: str, back: bool) -> None:
        found = self.store.take((name,), 2, self.place.now)
        self.check_free(found, self.place.wall())
        if back:
            self.store.give_back(found.messages)

    def check_free(self, found: Batch, wall: float) -> None:
        """Check that what was given at a time belonged to no worker then, and was not done."""
        assert self.done.isdisjoint(numbers(found))
        for number in numbers(found):
            assert number not in self.held or self.held.pop(number)[0] <= wall

    @rule(name=names, seconds=strategies.sampled_from([5, 20, 60]), back=strategies.booleans())
    def lease(self, name: str, seconds: float, back: bool) -> None:
        try:
            leased = self.store.lease((name,), 2, seconds, self.place.now)
        except StoreDown:
            return
        if isinstance(leased, Batch):
            assert not leased.messages
            return
        wall = self.place.wall()
        leased.addCallbacks(self.leased, self.refused, (wall, wall + seconds, back, self.store))

    @rule(name=names, seconds=strategies.sampled_from([5, 20]))
    def lease_at_once(self, name: str, seconds: float) -> None:
        self.worker.settle()
        self.push(name, "reject", key=False)
        self.worker.settle()
        self.lease(name, seconds, back=False)
        self.worker.settle()

    def leased(self, batch: Batch, wall: float, ends_at: float, back: bool, store: SQLiteStore) -> None:
        self.check_free(batch, wall)
        if back:
            store.give_back(batch.messages)
            return
        for message in batch.leased:
            assert message.attempt > self.attempts.get(message.sequence, 0)
            self.attempts[message.sequence] = message.attempt
            self.held[message.sequence] = (ends_at, message)

    @precondition(lambda self: self.held)
    @rule(
        pick=strategies.integers(0, 9), settlement=strategies.sampled_from(["done", "released", "extended"])
    )
    def settle(self, pick: int, settlement: Any) -> None:
        number = sorted(self.held)[pick % len(self.held)]
        _, message = self.held.pop(number)  # until it is told what became of it, it may be anyone's
        lease = LeaseId.parse(message.lease)
        settled = self.store.settle_leases(message.recipient, [lease], settlement, 20.0, self.place.now)
        told = (settlement, self.place.wall() + 20.0, message, self.store)
        if isinstance(settled, Deferred):
            settled.addCallback(self.settled, *told)
        else:
            self.settled(settled, *told)

    def settled(
        self, found: Any, settlement: str, ends_at: float, message: LeasedMessage, store: SQLiteStore
    ) -> None:
        (was_last,) = found
        if was_last and settlement == "extended":
            self.held[message.sequence] = (ends_at, message)
        elif was_last and settlement == "done" and store.state() == "ok":
            self.done.add(message.sequence)

    @rule(name=names)
    def delete(self, name: str) -> None:
        deleted = self.store.delete(name, self.place.now)
        if deleted is not None:
            deleted.addErrback(self.refused)

    @rule(seconds=strategies.sampled_from([1, 15, 41]))
    def elapse(self, seconds: int) -> None:
        self.place.now += seconds
        self.store.expire(self.place.now)

    @rule()
    def end_turn(self) -> None:
        self.worker.end_turn()

    @rule()
    def step(self) -> None:
        self.worker.end_turn()
        if self.worker.works:
            self.worker.step()

    @rule()
    def step_on_a_disk_that_fails(self) -> None:
        self.place.refuse_writes(self.store)
        self.step()
        self.place.refuse_writes(self.store, False)

    @rule(written=strategies.booleans(), away=strategies.sampled_from([0, 0, 30]))
    def crash(self, written: bool, away: int) -> None:
        if written and self.worker.works:
            self.worker.works[0][0]()  # the disk has it, and nobody was told
        self.place.elapse_away(away)
        old = self.store
        self.open(self.place.crash)
        self.place.kill(old)

    @rule(away=strategies.sampled_from([0, 30]))
    def restart(self, away: int) -> None:
        closed = Outcome(self.store.close())
        self.worker.settle()
        closed.value  # noqa: B018  it raises where it is not closed
        old, then = self.store, self.place.now
        old.expire(then)
        self.place.elapse_away(away)
        self.open(self.place.open)
        if not away:
            # Both are asked for the last time: what is looked at is acknowledged, and taken.
            path, self.place.path = self.place.path, self.place.copy()
            copy = self.place.open(self.bounds)
            self.place.path = path
            self.check_same(self.standing(old, then), self.standing(copy, self.place.now))
            self.place.kill(copy)
        self.place.kill(old)

    def standing(self, store: SQLiteStore, now: float) -> dict[str, Any]:
        """Return what each mailbox holds and has given, and who would be told a gap."""
        names = ["a", "b", "c/d"]
        standing: dict[str, Any] = {name: store.describe(name, now) for name in names}
        standing |= {f"kept {name}": numbers(store.read((name,), OLDEST, 100, now)) for name in names}
        for name in [*names, "c/*", "*", "**"]:
            for at in range(store.sequence + 1):
                batch = store.read((name,), Cursor(store.epoch, at), 100, now)
                standing[f"gap {name} {at}"] = batch.gap
        for name in names:
            batch = store.take((name,), 100, now)
            standing |= {f"taken {name}": numbers(batch), f"gap of takes {name}": batch.gap}
        return standing

    def check_same(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Check that after a restart everything stands as before."""
        assert after == before

    @invariant()
    def the_store_agrees_with_itself(self) -> None:
        self.store.check_invariants()


class CrowdedCrashes(Crashes):
    """The same where more is lost than is remembered: then some reader may be told of a gap too many."""

    bounds = Limits(capacity=4, max_recipients=4)

    def check_same(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        assert after == before | {key: gap for key, gap in after.items() if key.startswith("gap ")}
        assert all(after[key] or not gap for key, gap in before.items() if key.startswith("gap "))


TestCrowdedCrashes = pytest.mark.slow(CrowdedCrashes.TestCase)
TestCrowdedCrashes.settings = settings(max_examples=40)
TestCrashes = Crashes.TestCase
