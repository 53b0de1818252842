"""What every store promises (``stores.Store``), whether it waits or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import EPOCH, Outcome, data, numbers, push
from redis_recount import Recount
from redis_wires import Wires
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from cometd_lite.core.leases import Ended, LeaseId, Settlement
from cometd_lite.core.message import ACCEPTED, LAST, NOW, OLDEST, Batch, Content, Cursor, Message, Push
from cometd_lite.core.namespaces import Namespace, Namespaces
from cometd_lite.core.store import Contents, Usage
from cometd_lite.deferreds import MaybeDeferred
from cometd_lite.errors import MailboxFull, ServerFull
from cometd_lite.limits import Limits
from cometd_lite.stores.memory import MemoryStore
from cometd_lite.stores.redis.store import RedisStore
from cometd_lite.stores.sqlite import SQLiteStore

KIND = "test"


class Shelf:
    """A store, and the time; what it answers later is waited for."""

    def __init__(
        self,
        store: Any,
        settle: Callable[[], None] = lambda: None,
        namespaces: dict[str, Namespace] | None = None,
    ) -> None:
        self.store = store
        if namespaces is not None:
            store.use(Namespaces(namespaces))
        self.settle = settle
        self.now = 1_000.0
        self.first: int | None = None
        self.ask(store.open(self.now))

    def ask(self, result: MaybeDeferred[Any]) -> Any:
        outcome = Outcome(result)
        self.settle()
        return outcome.value

    def append(self, asked: Push) -> list[Message]:
        return list(self.ask(self.store.append(asked, self.now, 1.7e9 + self.now)))

    def push(self, *recipients: str, body: str | list[str] = "hi", **words: Any) -> list[Message]:
        return self.append(push(*recipients, body=body, **words))

    def read(self, *recipients: str, after: Cursor = OLDEST, limit: int = 100) -> Batch:
        batch = self.ask(self.store.read(recipients, after, limit, self.now))
        assert isinstance(batch, Batch)
        return batch

    def take(self, *recipients: str, limit: int = 100) -> Batch:
        batch = self.ask(self.store.take(recipients, limit, self.now))
        assert isinstance(batch, Batch)
        return batch

    def lease(self, *recipients: str, limit: int = 100, seconds: float = 30.0) -> Batch:
        batch = self.ask(self.store.lease(recipients, limit, seconds, self.now))
        assert isinstance(batch, Batch)
        assert len(batch.leased) == len(batch.messages)
        return batch

    def settled(
        self, batch: Batch, settlement: Settlement = "done", seconds: float = 0.0, name: str = "jobs"
    ) -> list[bool]:
        leases = [LeaseId.parse(message.lease) for message in batch.leased]
        return list(self.ask(self.store.settle_leases(name, leases, settlement, seconds, self.now)))

    def expire(self) -> Ended:
        """Let time have its way; return what is to be done for leases that have ended."""
        return self.ask(self.store.expire(self.now)) or Ended()

    def give_back(self, batch: Batch) -> None:
        self.ask(self.store.give_back(batch.messages))

    def retract(self, messages: list[Message]) -> None:
        self.ask(self.store.retract(messages))

    def delete(self, recipient: str) -> None:
        self.ask(self.store.delete(recipient, self.now))

    def describe(self, recipient: str) -> Contents:
        contents = self.ask(self.store.describe(recipient, self.now))
        assert isinstance(contents, Contents)
        return contents

    def end(self) -> Cursor:
        """Return the end of the log."""
        return self.read("nobody", after=NOW).cursor

    @property
    def usage(self) -> Usage:
        return self.store.usage()


class Turns:
    """A ``Worker`` that works when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def soon(self, call: Callable[[], None], seconds: float = 0.0) -> None:
        self.calls.append(call)

    def run(self, work: Callable[[], None], done: Callable[[Failure | None], None]) -> None:
        def call() -> None:
            failure = None
            try:
                work()
            except Exception:  # noqa: BLE001  whoever waits is told
                failure = Failure()
            done(failure)

        self.calls.append(call)

    def stop(self) -> None:
        pass

    def settle(self) -> None:
        while self.calls:
            self.calls.pop(0)()


Shelves = Callable[..., Shelf]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def shelves(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelves]:
    """Return a function that makes a store with what it is given as ``Limits``."""
    made: list[Shelf] = []
    recounts: list[Callable[[], object]] = []

    def memory(limits: Limits, overflow: str, namespaces: dict[str, Namespace] | None) -> Shelf:
        turns = Turns()
        store = MemoryStore(limits, overflow=overflow, soon=turns.soon)
        return Shelf(store, turns.settle, namespaces)

    def sqlite(limits: Limits, overflow: str, namespaces: dict[str, Namespace] | None) -> Shelf:
        turns = Turns()
        path = tmp_path / f"{len(made)}.db"
        store = SQLiteStore(path, limits, overflow=overflow, worker=turns)
        return Shelf(store, turns.settle, namespaces)

    def redis(limits: Limits, overflow: str, namespaces: dict[str, Namespace] | None) -> Shelf:
        server = request.getfixturevalue("redis")
        address = f"{server.address}?prefix={tmp_path.name}.{len(made)}:"
        clock = Clock()
        wires = Wires(server.socket, clock)
        store = RedisStore(address, limits, overflow=overflow, clock=clock, endpoint=wires)
        recounts.append(lambda: Recount(server, store.address.prefix))
        return Shelf(store, wires.settle_full, namespaces)

    makers = {"memory": memory, "sqlite": sqlite, "redis": redis}

    def make(
        *, overflow: str = "reject", namespaces: dict[str, Namespace] | None = None, **limits: Any
    ) -> Shelf:
        made.append(makers[request.param](Limits(**limits), overflow, namespaces))
        return made[-1]

    yield make
    for shelf in made:
        shelf.settle()
        shelf.store.check_invariants()
        shelf.ask(shelf.store.close())
    for recount in recounts:
        recount()


@pytest.fixture
def store(shelves: Shelves) -> Shelf:
    return shelves()


def fill(store: Shelf, body: str | list[str]) -> None:
    """Push the same to one new recipient after the other."""
    for number in range(1_000):
        store.push(f"reader{number}", body=body)


# -- appending and the one order


def test_messages_to_any_recipients_get_numbers_of_one_order(store: Shelf) -> None:
    # jcuga/golongpoll#19 (row 1), slact/nchan#469 (row 6): an order of numbers, never of times.
    appended = [*store.push("bob"), *store.push("eve"), *store.push("bob", "eve")]
    assert numbers(appended) == list(range(appended[0].sequence, appended[0].sequence + 4))
    assert [message.recipient for message in appended] == ["bob", "eve", "bob", "eve"]
    assert len({message.cursor.epoch for message in appended}) == 1


def test_lines_come_in_order_each_for_all_its_recipients(store: Shelf) -> None:
    appended = store.push("bob", "eve", body=["1", "2"])
    assert [(message.recipient, message.data) for message in appended] == [
        ("bob", "1"),
        ("eve", "1"),
        ("bob", "2"),
        ("eve", "2"),
    ]
    assert data(store.read("bob")) == ["1", "2"]
    assert data(store.read("bob", "eve")) == ["1", "1", "2", "2"]


def test_a_message_is_read_as_it_was_pushed(store: Shelf) -> None:
    content = Content.parse(b"\xff\x00", "image/png; q=1")
    (appended,) = store.append(Push(("b\u00f6b/1",), (content,), event="e"))
    (read,) = store.read("b\u00f6b/1").messages
    assert read.content == content
    assert (read.recipient, read.event, read.id) == ("b\u00f6b/1", "e", appended.id)
    assert read.json == appended.json
    assert read.created_at == 1.7e9 + 1_000


def test_a_clock_set_back_changes_neither_order_nor_what_is_kept(store: Shelf) -> None:
    # slact/nchan#469, #229 (row 6): the wall clock only tells people when a message was accepted.
    store.ask(store.store.append(push("bob", body="1"), store.now, 2e9))
    store.ask(store.store.append(push("bob", body="2"), store.now, 1e9))
    assert data(store.read("bob")) == ["1", "2"]


# -- reading


def test_reading_takes_nothing_away(store: Shelf) -> None:
    # faye/faye#251, #295 (row 9): a reply written to a dead socket must not be the end of its messages.
    store.push("bob", body=["1", "2"])
    first = store.read("bob")
    assert data(first) == data(store.read("bob")) == ["1", "2"]
    again = store.read("bob", after=first.messages[0].cursor)
    assert data(again) == ["2"]
    assert not again.gap


def test_the_cursor_of_an_answer_goes_on_where_it_ended(store: Shelf) -> None:
    store.push("bob", body=["1", "2", "3"])
    seen = []
    cursor = OLDEST
    for more in (True, False):
        batch = store.read("bob", after=cursor, limit=2)
        assert batch.more is more
        assert batch.cursor == batch.messages[-1].cursor
        cursor = batch.cursor
        seen += data(batch)
    assert seen == ["1", "2", "3"]


def test_an_answer_without_messages_has_a_cursor_from_which_nothing_is_missed(store: Shelf) -> None:
    # jcuga/golongpoll#3 (row 2): the reply at a timeout carried no position.
    for number, place in enumerate((OLDEST, NOW, store.end())):
        batch = store.read(f"bob{number}", after=place)
        assert batch.messages == ()
        assert not batch.gap
        assert batch.cursor.epoch not in {"now", "oldest"}
        store.push(f"bob{number}", body="x")
        assert data(store.read(f"bob{number}", after=batch.cursor)) == ["x"]


def test_now_is_after_everything_and_oldest_before_everything(store: Shelf) -> None:
    store.push("bob", body="1")
    now = store.read("bob", after=NOW)
    assert now.messages == ()
    store.push("bob", body="2")
    assert data(store.read("bob", after=now.cursor)) == ["2"]
    assert data(store.read("bob", after=OLDEST)) == ["1", "2"]


def test_one_cursor_serves_any_set_of_recipients(store: Shelf) -> None:
    # jcuga/golongpoll#11 (row 22), slact/nchan#186 (row 23): many channels in one poll.
    store.push("a", body="1")
    (two,) = store.push("b", body="2")
    store.push("c", body="3")
    store.push("a", body="4")
    assert data(store.read("a", "b", "c")) == ["1", "2", "3", "4"]
    assert data(store.read("c", "a", after=two.cursor)) == ["3", "4"]
    assert data(store.read("b", after=two.cursor)) == []


def test_an_answer_holds_no_more_than_was_asked_for(store: Shelf) -> None:
    store.push("a", body=["1", "2", "3"])
    store.push("b", body=["4", "5"])
    assert data(store.read("b", "a", limit=4)) == ["1", "2", "3", "4"]
    assert store.read("b", "a", limit=4).more
    assert not store.read("b", "a", limit=5).more


def test_an_answer_is_bounded_in_bytes_but_never_empty_because_of_that(shelves: Shelves) -> None:
    store = shelves(capacity_bytes=8 * 1024 * 1024)
    big = "x" * (700 * 1024)
    store.push("bob", body=[big, big])
    first = store.read("bob")
    assert len(first.messages) == 1
    assert first.more
    assert len(store.read("bob", after=first.cursor).messages) == 1
    store.push("eve", body="y" * (2 * 1024 * 1024))
    assert len(store.read("eve").messages) == 1
    assert len(store.take("bob").messages) == 1
    assert len(store.take("bob").messages) == 1


def test_patterns_are_read_like_names(store: Shelf) -> None:
    store.push("chat/a", body="1")
    store.push("chat/a/b", body="2")
    store.push("bob", body="3")
    assert data(store.read("chat/*")) == ["1"]
    assert data(store.read("chat/**")) == ["1", "2"]
    assert data(store.read("**")) == ["1", "2", "3"]
    assert data(store.read("bob", "chat/*")) == ["1", "3"]
    assert data(store.read("chat/a", "chat/*", "**", limit=2)) == ["1", "2"]


def test_a_patterns_reader_does_not_look_twice_through_what_others_were_pushed(store: Shelf) -> None:
    before = store.end()
    store.push("bob")
    batch = store.read("chat/*", after=before)
    assert batch.cursor == store.end()
    assert not batch


def test_a_patterns_reader_finds_what_is_kept_among_many_that_are_gone(store: Shelf) -> None:
    store.push("chat/a", body="1")
    for _ in range(50):
        store.push("bob")
        store.delete("bob")
    store.push("chat/b", body="2")
    assert data(store.read("chat/*")) == ["1", "2"]
    assert data(store.read("chat/*", after=store.read("chat/a").cursor)) == ["2"]


# -- listings


def shown(name: str) -> bool:
    return not name.startswith("$")


def names(store: Shelf, prefix: str = "", after: str = "", most: int = 100) -> list[str]:
    return list(store.ask(store.store.names(prefix, after, most, shown)))


def test_mailboxes_are_listed_by_their_names(store: Shelf) -> None:
    assert names(store) == []
    store.push("b", "a", "chat/b", "chat/a", "chat", "chat-a", "chat0", "\U0001f600", "\uffee")
    everything = ["a", "b", "chat", "chat-a", "chat/a", "chat/b", "chat0", "\uffee", "\U0001f600"]
    assert names(store) == everything
    assert names(store, "chat") == ["chat", "chat-a", "chat/a", "chat/b", "chat0"]
    assert names(store, "chat/") == ["chat/a", "chat/b"]
    assert names(store, "chat/c") == names(store, "z") == []
    store.delete("chat/a")
    assert names(store, "chat/") == ["chat/b"]


def test_a_listing_goes_on_after_a_name(store: Shelf) -> None:
    everything = [f"room/{number:02}" for number in range(25)]
    store.push(*everything, "elsewhere", "z")
    found: list[str] = []
    while page := names(store, "room/", found[-1] if found else "", 10):
        found += page
    assert found == everything
    assert names(store, "room/", "room/051") == everything[6:]
    assert names(store, "room/", "a") == everything
    assert names(store, "room/", "s") == []


def test_a_prefix_is_no_pattern(store: Shelf) -> None:
    literal = ["a*b", "a?b", "a[c]b", "a^b", "a\\b"]
    store.push(*literal, "acb")
    for prefix in ("a*", "a?", "a[c]", "a^", "a\\", "a[c"):
        assert names(store, prefix) == [name for name in literal if name.startswith(prefix)]


def test_only_what_is_let_through_is_listed_however_many_are_looked_at(store: Shelf) -> None:
    for part in range(25):
        store.push(*[f"{part:02}/{number:02}" for number in range(100)])
    odd = store.ask(store.store.names("", "", 24, lambda name: name.endswith("/99")))
    assert odd == [f"{part:02}/99" for part in range(24)]
    late = store.ask(store.store.names("2", "20/5", 3, lambda name: True))
    assert late == ["20/50", "20/51", "20/52"]


# -- namespaces


@pytest.fixture
def spaced(shelves: Shelves) -> Shelf:
    """Return a store with two namespaces, one within the other."""
    return shelves(
        capacity=3,
        ttl=100.0,
        namespaces={
            "chat/**": Namespace(capacity=2, overflow="drop-oldest", ttl=10.0),
            "chat/large/*": Namespace(capacity=5, capacity_bytes=20, ttl=1_000.0),
        },
    )


def test_a_namespace_has_a_capacity_and_an_overflow_of_its_own(spaced: Shelf) -> None:
    for body in "12345":
        spaced.push("chat/a", body=body)
    assert data(spaced.read("chat/a")) == ["4", "5"]
    spaced.push("chat/large/a", body=["1", "2", "3", "4", "5"])
    for full in ("chat/large/a", "bob"):
        with pytest.raises(MailboxFull):
            spaced.push(full, body=["1"] * 3 + ["2"])
    with pytest.raises(MailboxFull, match="a mailbox holds 2 messages"):
        spaced.push("chat/a", body=["1", "2", "3"])
    with pytest.raises(MailboxFull, match="5 messages and 20 bytes"):
        spaced.push("chat/large/b", body="x" * 21)
    spaced.push("bob", body=["1", "2", "3"])
    with pytest.raises(MailboxFull):
        spaced.push("bob")


def test_what_a_push_says_counts_more_than_its_namespace(spaced: Shelf) -> None:
    spaced.push("chat/a", body=["1", "2"], ttl=5)
    with pytest.raises(MailboxFull):
        spaced.push("chat/a", body="3", overflow="reject")
    spaced.now += 6
    assert data(spaced.read("chat/a")) == []


def test_a_namespace_keeps_messages_for_a_time_of_its_own(spaced: Shelf) -> None:
    pushed = spaced.push("chat/a", "bob", "chat/large/a", ttl=5_000)
    assert [message.expires_at - spaced.now for message in pushed] == [10.0, 100.0, 1_000.0]
    spaced.push("chat/a", "bob", "chat/large/a")
    kept = []
    for seconds in (9, 2, 90, 800, 100):
        spaced.now += seconds
        spaced.ask(spaced.store.expire(spaced.now))
        kept.append([len(data(spaced.read(name))) for name in ("chat/a", "bob", "chat/large/a")])
    assert kept == [[2, 2, 2], [0, 2, 2], [0, 0, 2], [0, 0, 2], [0, 0, 0]]


def test_a_push_to_several_namespaces_goes_to_all_of_them_or_to_none(spaced: Shelf) -> None:
    spaced.push("bob", body=["1", "2", "3"])
    spaced.push("chat/a", body=["1", "2"])
    with pytest.raises(MailboxFull, match="'bob' is full"):
        spaced.push("chat/a", "bob", body="4")
    assert data(spaced.read("chat/a")) == ["1", "2"]
    spaced.push("chat/a", "chat/large/a", body=["4", "5"])
    assert data(spaced.read("chat/a")) == ["4", "5"]
    assert data(spaced.read("chat/large/a")) == ["4", "5"]


def test_a_mailbox_that_is_larger_than_others_is_described_and_deleted_whole(spaced: Shelf) -> None:
    spaced.push("chat/large/a", body=["1", "2", "3", "4", "5"])
    assert spaced.describe("chat/large/a").queued == 5
    spaced.delete("chat/large/a")
    assert data(spaced.read("chat/large/a")) == []
    assert spaced.usage.messages == 0


# -- histories


def test_a_history_begins_with_the_newest_messages_of_all_recipients_together(store: Shelf) -> None:
    store.push("a", body=["1", "2"])
    store.push("b", body="3")
    store.push("a", body="4")
    assert data(store.read("a", "b", after=Cursor(LAST, 3))) == ["2", "3", "4"]
    assert data(store.read("b", "a", after=Cursor(LAST, 1))) == ["4"]
    assert data(store.read("b", after=Cursor(LAST, 2))) == ["3"]
    assert data(store.read("a", "b", after=Cursor(LAST, 1_000))) == ["1", "2", "3", "4"]


def test_a_history_of_patterns_has_what_they_cover(store: Shelf) -> None:
    store.push("chat/a", body=["1", "2"])
    store.push("chat/b", body="3")
    store.push("chat/b/c", body="4")
    store.push("other", body="5")
    assert data(store.read("chat/*", after=Cursor(LAST, 2))) == ["2", "3"]
    assert data(store.read("chat/**", after=Cursor(LAST, 2))) == ["3", "4"]
    assert data(store.read("chat/a", "chat/b/*", after=Cursor(LAST, 2))) == ["2", "4"]
    assert data(store.read("none/*", after=Cursor(LAST, 2))) == []


def test_a_history_of_patterns_is_found_behind_much_that_others_were_pushed(store: Shelf) -> None:
    store.push("chat/a", body=["1", "2", "3"])
    for _ in range(3):
        store.push("other", body=["x"] * 1_000, overflow="drop-oldest")
    store.push("more", body=["x"] * 1_000)
    store.push("still more", body=["x"] * 1_000)
    assert data(store.read("chat/*", after=Cursor(LAST, 2))) == ["2", "3"]
    assert data(store.read("chat/*", after=Cursor(LAST, 9))) == ["1", "2", "3"]


def test_a_history_begins_with_what_was_accepted_since_a_time(store: Shelf) -> None:
    pushed_at = []
    for body in "1234":
        pushed_at.append(round((1.7e9 + store.now) * 1000))
        store.push("a" if body != "3" else "chat/b", body=body)
        store.now += 10
    for number in range(4):
        since = Cursor(ACCEPTED, pushed_at[number])
        everything = ["1", "2", "3", "4"][number:]
        assert data(store.read("**", after=since)) == everything
        assert data(store.read("chat/b", "a", after=since)) == everything
        assert data(store.read("a", after=since)) == [body for body in everything if body != "3"]
    assert data(store.read("a", after=Cursor(ACCEPTED, pushed_at[1] + 1))) == ["4"]
    assert data(store.read("a", "**", after=Cursor(ACCEPTED, pushed_at[3] + 1))) == []


def test_an_empty_history_has_a_cursor_from_which_nothing_is_missed(store: Shelf) -> None:
    store.push("other")
    for number, after in enumerate((Cursor(LAST, 5), Cursor(ACCEPTED, 10**13))):
        batch = store.read(f"bob{number}", f"chat{number}/*", after=after)
        assert not batch
        assert batch.cursor == store.end()
        store.push(f"chat{number}/a", body="x")
        assert data(store.read(f"bob{number}", f"chat{number}/*", after=batch.cursor)) == ["x"]


def test_a_history_goes_on_by_cursor_where_an_answer_has_not_all_of_it(store: Shelf) -> None:
    store.push("bob", body=["1", "2", "3", "4"])
    batch = store.read("bob", after=Cursor(LAST, 3), limit=2)
    assert (data(batch), batch.more) == (["2", "3"], True)
    assert data(store.read("bob", after=batch.cursor)) == ["4"]


@pytest.mark.parametrize("recipients", [("bob",), ("bob", "eve"), ("*",)])
def test_a_history_has_no_gap_and_later_gaps_are_reported(
    shelves: Shelves, recipients: tuple[str, ...]
) -> None:
    store = shelves(capacity=3, overflow="drop-oldest")
    store.push("bob", body="short", ttl=1)
    store.push("bob", body=["1", "2", "3"])
    store.push("bob", body="4")
    for after in (Cursor(LAST, 9), Cursor(LAST, 2), Cursor(ACCEPTED, 0)):
        batch = store.read(*recipients, after=after, limit=2)
        assert not batch.gap
        assert data(batch)
    store.push("bob", body=["5", "6", "7"])
    assert store.read(*recipients, after=batch.cursor).gap
    store.delete("bob")
    assert not store.read(*recipients, after=Cursor(LAST, 2)).gap


def test_a_message_that_expired_inside_a_history_is_no_gap(store: Shelf) -> None:
    store.push("bob", body="1")
    store.push("bob", body="2", ttl=5)
    store.push("bob", body="3", ttl=50)
    store.now += 6
    for after in (Cursor(LAST, 2), Cursor(ACCEPTED, 0)):
        for name in ("bob", "*"):
            batch = store.read(name, after=after)
            assert (data(batch), batch.gap) == (["1", "3"], False)


def test_a_history_acknowledges_nothing(shelves: Shelves) -> None:
    store = shelves(capacity=2)
    store.push("bob", body=["1", "2"])
    store.read("bob", after=Cursor(LAST, 1))
    store.read("*", after=Cursor(ACCEPTED, 0))
    assert store.describe("bob").queued == 2


# -- gaps


def test_a_cursor_of_another_epoch_reads_as_oldest_with_a_gap(store: Shelf) -> None:
    # dunglas/mercure#704 (row 8): an unknown cursor must neither wait forever nor claim to be caught up.
    store.push("bob", body=["1", "2"])
    batch = store.read("bob", after=Cursor("otherepoch", 1))
    assert data(batch) == ["1", "2"]
    assert batch.gap
    assert not store.read("bob", after=batch.cursor).gap


def test_a_cursor_of_another_epoch_gets_a_gap_even_where_nothing_is_kept(store: Shelf) -> None:
    batch = store.read("bob", after=Cursor("otherepoch", 1))
    assert batch.gap
    assert not batch.messages
    assert not store.read("bob", after=batch.cursor)


def test_a_cursor_from_the_future_reads_as_oldest_with_a_gap(store: Shelf) -> None:
    store.push("bob", body="1")
    batch = store.read("bob", after=Cursor(store.end().epoch, 10**15))
    assert data(batch) == ["1"]
    assert batch.gap


def test_oldest_is_never_a_gap(store: Shelf) -> None:
    store.push("bob")
    store.delete("bob")
    assert not store.read("bob", after=OLDEST).gap


def test_a_deleted_message_is_a_gap_for_who_has_not_read_it_only(store: Shelf) -> None:
    before = store.end()
    store.push("bob", body="1")
    after = store.end()
    store.push("eve", body="2")
    store.delete("bob")
    gap = store.read("bob", after=before)
    assert gap.gap
    assert not gap.messages
    assert not store.read("bob", after=gap.cursor).gap  # told once
    assert not store.read("bob", after=after).gap
    assert not store.read("eve", after=before).gap


def test_a_gap_outlives_its_mailbox(store: Shelf) -> None:
    before = store.end()
    store.push("bob", body="1")
    store.delete("bob")
    store.push("bob", body="2")
    batch = store.read("bob", after=before)
    assert batch.gap
    assert data(batch) == ["2"]


def test_an_expired_message_is_a_gap(store: Shelf) -> None:
    before = store.end()
    store.push("bob", ttl=10)
    store.push("bob", body="2", ttl=20)
    store.now += 10
    batch = store.read("bob", after=before)
    assert batch.gap
    assert data(batch) == ["2"]
    assert not store.read("bob", after=batch.cursor).gap


def test_a_gap_of_any_recipient_is_a_gap_of_the_answer(store: Shelf) -> None:
    before = store.end()
    store.push("bob")
    store.push("eve", body="2")
    store.delete("bob")
    assert store.read("bob", "eve", after=before).gap
    assert data(store.read("bob", "eve", after=before)) == ["2"]


def test_a_patterns_reader_is_told_of_every_loss_that_it_covers(store: Shelf) -> None:
    before = store.end()
    (low,) = store.push("chat/a")
    store.push("bob")
    (high,) = store.push("chat/b")
    store.delete("chat/b")
    store.delete("chat/a")  # the later loss is of the older message: the newer one must not be forgotten
    assert store.read("chat/*", after=low.cursor).gap
    assert store.read("**", after=low.cursor).gap
    assert not store.read("chat/*", after=high.cursor).gap
    assert not store.read("*", after=before).gap


def test_losses_are_remembered_within_a_bound_and_never_one_gap_too_few(shelves: Shelves) -> None:
    store = shelves(max_recipients=3)
    before = store.end()
    for name in "abcdefgh":
        store.push(name)
        store.delete(name)
    for name in "abcdefgh":
        assert store.read(name, after=before).gap, name
    assert not store.read("a", after=store.end()).gap


# -- taking


def test_each_message_goes_to_one_take(store: Shelf) -> None:
    store.push("bob", body=["1", "2", "3"])
    assert data(store.take("bob", limit=2)) == ["1", "2"]
    assert data(store.take("bob")) == ["3"]
    assert not store.take("bob")
    store.push("bob", body="4")
    assert data(store.take("bob")) == ["4"]


def test_a_take_of_several_recipients_is_in_the_one_order(store: Shelf) -> None:
    store.push("a", body="1")
    store.push("b", body="2")
    store.push("a", body="3")
    batch = store.take("b", "a", limit=2)
    assert data(batch) == ["1", "2"]
    assert batch.more
    assert data(store.take("a", "b")) == ["3"]


def test_takes_and_cursors_do_not_disturb_each_other(store: Shelf) -> None:
    store.push("bob", body=["1", "2"])
    store.read("bob")
    assert data(store.take("bob")) == ["1", "2"]
    assert data(store.read("bob")) == ["1", "2"]


def test_a_take_that_finds_nothing_is_told_the_end_of_the_log(store: Shelf) -> None:
    store.push("bob")
    store.take("bob")
    batch = store.take("bob")
    assert not batch
    assert batch.cursor == store.end()


def test_what_is_given_back_is_taken_again_before_all_else(store: Shelf) -> None:
    store.push("bob", body=["1", "2", "3"])
    first = store.take("bob", limit=2)
    store.give_back(first)
    assert data(store.take("bob", limit=1)) == ["1"]
    assert data(store.take("bob")) == ["2", "3"]


def test_what_is_given_back_twice_is_taken_once(store: Shelf) -> None:
    # A process gives back again where it does not know whether the store has done so.
    store.push("bob", body=["1", "2"])
    first = store.take("bob", limit=1)
    store.give_back(first)
    store.give_back(first)
    assert data(store.take("bob")) == ["1", "2"]
    assert data(store.take("bob")) == []


def test_what_is_given_back_again_stays_with_the_worker_that_has_leased_it_since(store: Shelf) -> None:
    store.push("jobs", body="1")
    taken = store.take("jobs")
    store.give_back(taken)
    assert data(store.lease("jobs")) == ["1"]
    store.give_back(taken)
    assert data(store.lease("jobs")) == []


def test_a_take_is_told_of_what_was_lost_before_any_take_had_it_and_once(store: Shelf) -> None:
    store.push("bob", body=["1", "2"])
    store.take("bob", limit=1)
    store.delete("bob")
    store.push("bob", body="3")
    batch = store.take("bob")
    assert batch.gap
    assert data(batch) == ["3"]
    store.push("bob", body="4")
    assert not store.take("bob").gap


def test_a_take_of_a_mailbox_that_is_no_more_is_told_of_what_it_missed_once(store: Shelf) -> None:
    store.push("bob")
    store.delete("bob")
    assert store.take("bob").gap
    assert not store.take("bob").gap


def test_what_a_take_had_is_no_gap_for_takes_when_it_goes(store: Shelf) -> None:
    store.push("bob")
    store.take("bob")
    store.delete("bob")
    assert not store.take("bob").gap
    store.push("bob", body="2")
    batch = store.take("bob")
    assert data(batch) == ["2"]
    assert not batch.gap


@pytest.mark.parametrize("another", [True, False])
def test_what_is_given_back_after_it_was_lost_is_a_gap(store: Shelf, *, another: bool) -> None:
    # Where the mailbox was gone with its last message, nobody was told.
    store.push("bob", ttl=10)
    if another:
        store.push("bob", body="2", ttl=20)
    taken = store.take("bob", limit=1)
    store.now += 10
    store.ask(store.store.expire(store.now))
    store.give_back(taken)
    batch = store.take("bob")
    assert batch.gap
    assert data(batch) == ["2"] * another
    assert not store.take("bob").gap


# -- bounds


def test_a_full_mailbox_rejects_and_keeps_what_it_holds(shelves: Shelves) -> None:
    # dunglas/mercure#74 (row 12), slact/nchan#70 (row 13): bounded by default, and what is full says so.
    store = shelves(capacity=2)
    store.push("bob", body=["1", "2"])
    with pytest.raises(MailboxFull):
        store.push("bob", body="3")
    assert data(store.read("bob")) == ["1", "2"]
    store.push("eve", body="4")


def test_a_push_to_several_is_for_all_of_them_or_for_none(shelves: Shelves) -> None:
    store = shelves(capacity=2)
    store.push("bob", body=["1", "2"])
    end = store.end()
    with pytest.raises(MailboxFull):
        store.push("eve", "bob", body="3")
    with pytest.raises(MailboxFull):
        store.push("eve", body=["3", "4", "5"])
    assert not store.read("eve").messages
    assert store.end() == end
    assert store.usage.messages == 2


def test_reading_does_not_make_room_but_coming_back_does(shelves: Shelves) -> None:
    store = shelves(capacity=2)
    before = store.end()
    store.push("bob", body=["1", "2"])
    batch = store.read("bob", limit=1)
    with pytest.raises(MailboxFull):
        store.push("bob", body="3")
    store.read("bob", after=batch.cursor)
    store.push("bob", body="3")
    assert data(store.read("bob")) == ["2", "3"]
    assert store.read("bob", after=before).gap
    with pytest.raises(MailboxFull):
        store.push("bob", body="4")


def test_a_take_makes_room(shelves: Shelves) -> None:
    store = shelves(capacity=2)
    store.push("bob", body=["1", "2"])
    store.take("bob", limit=1)
    store.push("bob", body="3")
    assert data(store.take("bob")) == ["2", "3"]


def test_a_message_given_back_does_not_keep_what_was_read_behind_it(shelves: Shelves) -> None:
    store = shelves(capacity=3)
    store.push("bob", body=["1", "2", "3"])
    first = store.take("bob", limit=1)
    store.take("bob", limit=1)
    store.give_back(first)
    store.push("bob", body="4")
    assert data(store.take("bob")) == ["1", "3", "4"]


def test_the_reader_of_a_pattern_makes_room_too(shelves: Shelves) -> None:
    store = shelves(capacity=1)
    store.push("chat/a", body="1")
    store.read("chat/*", after=store.read("chat/*").cursor)
    assert store.describe("chat/a").queued == 0
    store.push("chat/a", body="2")
    assert data(store.read("chat/*")) == ["2"]


def test_a_secret_name_has_room_while_patterns_are_read(store: Shelf) -> None:
    # Such a name is in no pattern; the look-up for the readers of its patterns failed.
    store.push("bob")
    store.read("**", after=store.end())
    store.push("~" + "0" * 40, body="1")
    assert data(store.read("~" + "0" * 40)) == ["1"]


@pytest.mark.parametrize("by_default", [True, False])
def test_the_oldest_go_where_that_was_asked_for(shelves: Shelves, *, by_default: bool) -> None:
    store = shelves(capacity=2, overflow="drop-oldest" if by_default else "reject")
    words = {} if by_default else {"overflow": "drop-oldest"}
    before = store.end()
    store.push("bob", body=["1", "2"])
    store.push("bob", body="3", **words)
    batch = store.read("bob", after=before)
    assert data(batch) == ["2", "3"]
    assert batch.gap
    assert store.take("bob").gap
    with pytest.raises(MailboxFull):
        store.push("bob", body=["4", "5", "6"], **words)


def test_a_push_may_ask_to_be_rejected_where_the_oldest_go_by_default(shelves: Shelves) -> None:
    store = shelves(capacity=1, overflow="drop-oldest")
    store.push("bob", body="1")
    with pytest.raises(MailboxFull):
        store.push("bob", body="2", overflow="reject")


def test_bytes_fill_a_mailbox_too(shelves: Shelves) -> None:
    store = shelves(capacity_bytes=10)
    store.push("bob", body="x" * 10)
    with pytest.raises(MailboxFull):
        store.push("bob", body="y")
    store.push("bob", body="z" * 10, overflow="drop-oldest")
    assert data(store.read("bob")) == ["z" * 10]


def test_the_number_of_mailboxes_is_bounded(shelves: Shelves) -> None:
    store = shelves(max_recipients=2)
    store.push("a")
    store.push("b")
    with pytest.raises(ServerFull):
        store.push("c")
    store.push("a", body="2")
    assert store.usage.mailboxes == 2
    store.delete("b")
    store.push("c")
    assert store.usage.mailboxes == 2


def test_a_mailbox_that_was_read_makes_room_for_another(shelves: Shelves) -> None:
    store = shelves(max_recipients=2)
    store.push("a")
    store.push("b")
    store.take("a")
    store.push("c")
    assert store.usage.mailboxes == 2
    assert data(store.read("b")) == ["hi"]


def test_mailboxes_stay_within_their_bound_when_a_push_needs_the_room_of_its_own(shelves: Shelves) -> None:
    # "a" was let go to make room for "c", and came back: three mailboxes where two are allowed.
    store = shelves(max_recipients=2)
    store.push("a")
    store.push("b")
    store.take("a")
    with pytest.raises(ServerFull):
        store.push("a", "c")
    assert store.usage.mailboxes <= 2
    store.take("b")
    store.push("a", "c", body="2")
    assert store.usage.mailboxes == 2
    assert data(store.read("a", "c")) == ["2", "2"]


def test_the_memory_of_all_messages_is_bounded(shelves: Shelves) -> None:
    # dunglas/mercure#805 (row 12), wandenberg/nginx-push-stream-module#65 (row 13).
    store = shelves(max_memory=20_000)
    with pytest.raises(ServerFull):
        fill(store, body="x" * 500)
    assert 0 < store.usage.memory <= 20_000
    assert store.usage.messages == store.usage.mailboxes < 20


def test_what_was_read_goes_when_memory_runs_out_and_what_was_not_stays(shelves: Shelves) -> None:
    store = shelves(max_memory=20_000)
    store.push("unread", body="keep")
    with suppress(ServerFull):
        while True:
            store.push("bob", body="x" * 500)
    store.take("bob")
    for _ in range(100):
        store.push("eve", body="x" * 500)
        store.read("eve", after=store.end())
        assert store.usage.memory <= 20_000
    assert data(store.read("unread")) == ["keep"]


def test_what_readers_of_patterns_had_goes_when_memory_runs_out(shelves: Shelves) -> None:
    # A server with nothing but readers of patterns was full for a day.
    store = shelves(max_memory=20_000)
    for number in range(100):
        store.push(f"chat/{number}", body="x" * 500)
        store.read("chat/*", after=store.end())
    assert store.usage.memory <= 20_000


def test_a_push_that_makes_its_own_room_needs_no_more_memory(shelves: Shelves) -> None:
    store = shelves(max_memory=20_000, overflow="drop-oldest", capacity=3)
    with suppress(ServerFull):
        fill(store, body=["1", "2", "3"])
    full = store.usage
    if isinstance(store.store, MemoryStore):  # another one may need the new room before it has the old
        store.push("reader0", body="4")
        assert data(store.read("reader0")) == ["2", "3", "4"]
    assert store.usage.memory <= full.memory + 10


@pytest.mark.parametrize(
    ("asked", "least"),
    [
        (Push(("a" * 200,), (Content(b"hi", "text/plain", "text"),)), 199),
        (Push(("bob",), (Content(b"hi", "text/x-" + "y" * 200, "text"),)), 197),
        (Push(("bob",), (Content(b"hi", "text/plain", "text"),), "e" * 64), 64),
        (Push(("\N{GRINNING FACE}" * 60,), (Content(b"hi", "text/plain", "text"),)), 239),
    ],
    ids=["name", "type", "event", "astral name"],
)
def test_names_types_and_events_are_counted_and_given_back(shelves: Shelves, asked: Push, least: int) -> None:
    store = shelves()
    store.append(Push(("b",), (Content(b"hi", "text/plain", "text"),)))
    plain = store.usage.memory
    store.append(asked)
    assert store.usage.memory - plain >= plain + least - len("text/plain")
    store.delete(*asked.recipients)
    assert store.usage.memory == plain


def test_a_large_mailbox_is_deleted_whole_however_many_steps_that_takes(shelves: Shelves) -> None:
    store = shelves(capacity=3_000)
    store.push("bob", body=["x"] * 2_500)
    store.push("eve")
    before = store.end()
    store.push("bob", body="newest")
    store.delete("bob")
    assert store.usage.messages == 1
    assert data(store.read("bob", "eve")) == ["hi"]
    assert store.read("bob", after=before).gap
    store.push("bob", body="again")
    assert data(store.read("bob")) == ["again"]


def test_much_that_expires_at_one_moment_goes_however_many_steps_that_takes(shelves: Shelves) -> None:
    store = shelves(capacity=1_000)
    for number in range(5):
        store.push(f"box{number}", body=["x"] * 700, ttl=10)
    store.push("other")
    store.now += 11
    store.ask(store.store.expire(store.now))
    for number in range(5):
        assert store.read(f"box{number}", after=store.end()).messages == ()
    assert store.usage.messages == 1


def test_memory_is_given_back_with_the_last_message(store: Shelf) -> None:
    for number in range(20):
        store.push(f"reader{number}", body=["1", "2"])
    store.take("reader0", limit=1)
    for number in range(20):
        store.delete(f"reader{number}")
    assert store.usage == Usage(0, 0, 0)


# -- time


def test_a_message_is_kept_for_its_time_and_the_servers_bound_is_the_most(shelves: Shelves) -> None:
    store = shelves(ttl=60)
    store.push("bob", body="short", ttl=10)
    store.push("bob", body="long", ttl=1_000)
    store.push("bob", body="plain")
    store.now += 9.9
    assert data(store.read("bob")) == ["short", "long", "plain"]
    store.now += 0.1
    assert data(store.read("bob")) == ["long", "plain"]
    assert data(store.take("bob")) == ["long", "plain"]
    store.now += 49.9
    assert store.describe("bob").newest is not None
    store.now += 0.1
    assert data(store.read("bob")) == []
    assert store.usage == Usage(0, 0, 0)


def test_expired_messages_go_though_no_reader_asks(store: Shelf) -> None:
    for number in range(10):
        store.push(f"reader{number}", ttl=number + 1)
    store.now += 5
    store.ask(store.store.expire(store.now))
    assert store.usage.mailboxes == 5
    store.now += 5
    store.ask(store.store.expire(store.now))
    assert store.usage == Usage(0, 0, 0)


def test_an_expired_message_makes_room(shelves: Shelves) -> None:
    store = shelves(capacity=1)
    store.push("bob", ttl=10)
    store.now += 10
    store.push("bob", body="2")
    assert data(store.take("bob")) == ["2"]


# -- what is not to be kept


def test_what_is_retracted_leaves_nothing_and_no_gap(store: Shelf) -> None:
    before = store.end()
    appended = store.push("bob", "eve", queue=False)
    assert data(store.read("bob")) == ["hi"]
    store.retract(appended)
    assert store.usage == Usage(0, 0, 0)
    for name in ("bob", "eve", "*"):
        assert not store.read(name, after=before)
    assert not store.take("bob")


def test_what_is_not_kept_needs_no_room(shelves: Shelves) -> None:
    store = shelves(capacity=1)
    store.push("bob", body="1")
    store.retract(store.push("bob", body="2", queue=False))
    assert data(store.read("bob")) == ["1"]


def test_a_take_that_gives_back_what_was_not_to_be_kept_missed_nothing(store: Shelf) -> None:
    store.push("bob", body="1")
    store.take("bob")
    appended = store.push("bob", queue=False)
    taken = store.take("bob")
    store.retract(appended)
    store.give_back(taken)
    assert not store.take("bob")


# -- what is said of it


def test_a_mailbox_is_described_by_what_no_reader_has_fetched(store: Shelf) -> None:
    first, second = store.push("bob", body=["12345", "123"])
    unread = [(message.cursor, message.created_at) for message in (first, second)]
    assert store.describe("bob") == Contents(2, 8, first.cursor, second.cursor, 0, unread[0])
    store.take("bob", limit=1)
    assert store.describe("bob") == Contents(1, 3, first.cursor, second.cursor, 0, unread[1])
    store.read("bob", after=second.cursor)
    assert store.describe("bob") == Contents(0, 0, first.cursor, second.cursor)
    assert store.describe("eve") == Contents()


def test_all_mailboxes_are_counted(store: Shelf) -> None:
    store.push("bob", body=["1", "2"])
    store.push("eve")
    usage = store.usage
    assert (usage.mailboxes, usage.messages) == (2, 3)
    assert usage.memory > 3 * 500


# -- what is remembered beside the messages


def test_records_are_taken_though_only_some_stores_outlive_the_process(store: Shelf) -> None:
    store.store.remember(KIND, "1", lambda: b"x", store.now + 10)
    store.store.forget(KIND, "1")
    store.ask(store.store.flush())
    assert list(store.store.recall(KIND)) == []


# -- MemoryStore


def test_a_store_has_an_epoch_that_no_other_one_has() -> None:
    epochs = {MemoryStore(Limits()).epoch for _ in range(50)}
    assert len(epochs) == 50
    assert all(Cursor.parse(f"{epoch}-1") for epoch in epochs)


def test_in_memory_nothing_waits() -> None:
    store = MemoryStore(Limits(), epoch=EPOCH)
    for result in (
        store.append(push("bob"), 0.0, 0.0),
        store.read(("bob",), OLDEST, 1, 0.0),
        store.take(("bob",), 1, 0.0),
        store.delete("bob", 0.0),
        store.describe("bob", 0.0),
        store.expire(0.0),
    ):
        assert not isinstance(result, Deferred)


def test_mailboxes_that_come_and_go_leave_nothing_behind() -> None:
    # Each left an entry in the heap of expiries, for a day.
    store = MemoryStore(Limits(max_recipients=100), epoch=EPOCH)
    for number in range(2_000):
        store.retract(store.append(push(f"bob{number}", queue=False), 0.0, 0.0))
        store.append(push(f"eve{number}"), 0.0, 0.0)
        store.delete(f"eve{number}", 0.0)
    assert store.usage() == Usage(0, 0, 0)
    store.check_invariants()


# -- leases


def attempts(batch: Batch) -> list[tuple[Any, int]]:
    """Return the data of leased messages, each with its attempt."""
    return [(message.data, message.attempt) for message in batch.leased]


def test_a_leased_message_is_given_to_no_other_until_its_lease_ends(store: Shelf) -> None:
    (pushed,) = store.push("jobs")
    batch = store.lease("jobs", seconds=30)
    (message,) = batch.leased
    assert (message.id, message.attempt, message.content) == (pushed.id, 1, pushed.content)
    assert message.lease.startswith(f"{pushed.id}.1.")
    assert batch.cursor == pushed.cursor
    assert not store.take("jobs")
    assert data(store.read("jobs")) == ["hi"]
    store.now += 29.9
    assert not store.lease("jobs")
    store.now += 0.2
    assert attempts(store.lease("jobs")) == [("hi", 2)]


def test_a_lease_that_is_done_leaves_nothing_to_be_leased(store: Shelf) -> None:
    store.push("jobs", body=["1", "2"])
    first = store.lease("jobs", limit=1)
    assert first.more
    assert store.settled(first) == [True]
    assert store.settled(first) == [False]
    store.now += 3_600
    assert attempts(store.lease("jobs")) == [("2", 1)]


def test_what_comes_back_is_in_order_and_before_what_is_new(store: Shelf) -> None:
    store.push("jobs", body=["1", "2", "3"])
    short, long = store.lease("jobs", limit=2, seconds=10), store.lease("jobs", limit=1, seconds=60)
    store.push("jobs", body="4")
    store.now += 11
    assert attempts(store.lease("jobs", limit=1)) == [("1", 2)]
    assert attempts(store.lease("jobs")) == [("2", 2), ("4", 1)]
    assert store.settled(short) == [False, False]
    assert store.settled(long) == [True]


def test_a_lease_that_ended_is_settled_as_long_as_no_other_worker_has_its_message(store: Shelf) -> None:
    store.push("jobs", body=["1", "2", "3"])
    batches = [store.lease("jobs", limit=1, seconds=5) for _ in range(3)]
    store.now += 6
    assert store.settled(batches[0]) == [True]
    assert store.settled(batches[1], "extended", 10) == [True]
    assert store.settled(batches[2], "released") == [True]
    assert attempts(store.lease("jobs")) == [("3", 2)]
    store.now += 11
    assert attempts(store.lease("jobs", limit=1)) == [("2", 2)]


def test_a_lease_that_is_extended_ends_so_many_seconds_from_then(store: Shelf) -> None:
    store.push("jobs")
    batch = store.lease("jobs", seconds=10)
    store.now += 8
    assert store.settled(batch, "extended", 20) == [True]
    store.now += 19
    assert not store.lease("jobs")
    assert store.settled(batch, "extended", 1) == [True]
    store.now += 1.5
    assert attempts(store.lease("jobs")) == [("hi", 2)]
    assert store.settled(batch, "extended", 10) == [False]


def test_what_is_released_is_given_to_the_next_at_once(store: Shelf) -> None:
    store.push("jobs", body=["1", "2"])
    batch = store.lease("jobs")
    assert store.settled(batch, "released") == [True, True]
    assert store.settled(batch, "extended") == [False, False]
    assert store.settled(batch, "released") == [True, True]
    assert data(store.take("jobs", limit=1)) == ["1"]
    assert store.settled(batch) == [False, True]


def test_a_take_is_given_what_came_back_and_may_give_it_back(store: Shelf) -> None:
    store.push("jobs")
    batch = store.lease("jobs", seconds=5)
    store.now += 6
    taken = store.take("jobs")
    assert data(taken) == ["hi"]
    assert store.settled(batch) == [False]
    store.give_back(taken)
    assert attempts(store.lease("jobs")) == [("hi", 2)]


def test_a_worker_that_was_gone_before_its_answer_has_made_no_attempt(store: Shelf) -> None:
    store.push("jobs")
    batch = store.lease("jobs")
    store.give_back(batch)
    assert store.settled(batch) == [False]
    again = store.lease("jobs", seconds=5)
    assert attempts(again) == [("hi", 1)]
    store.give_back(batch)
    assert not store.lease("jobs")
    store.now += 6
    second = store.lease("jobs")
    assert attempts(second) == [("hi", 2)]
    store.give_back(again)
    assert not store.lease("jobs")
    store.give_back(second)
    assert attempts(store.lease("jobs")) == [("hi", 2)]


def test_leases_of_several_recipients_are_settled_by_recipient(store: Shelf) -> None:
    store.push("a")
    store.push("b")
    batch = store.lease("b", "a")
    assert [message.recipient for message in batch.messages] == ["a", "b"]
    assert store.settled(batch, name="a") == [True, False]
    assert store.settled(batch, name="b") == [False, True]
    assert store.settled(batch, name="nobody") == [False, False]


def test_a_lease_is_known_by_its_secret_its_attempt_and_its_log(store: Shelf) -> None:
    store.push("jobs")
    (message,) = store.lease("jobs").leased
    lease = LeaseId.parse(message.lease)
    wrong = (
        lease._replace(secret="A" * 22),
        lease._replace(attempt=2),
        lease._replace(sequence=lease.sequence + 1),
        lease._replace(epoch="otherepoch"),
    )
    assert list(store.ask(store.store.settle_leases("jobs", [*wrong, lease], "done", 0.0, store.now))) == [
        *[False] * 4,
        True,
    ]


@pytest.mark.parametrize("lost", ["deleted", "expired", "dropped"])
def test_the_lease_of_a_message_that_is_no_more_is_gone_and_the_next_take_gets_a_gap(
    shelves: Shelves, lost: str
) -> None:
    store = shelves(capacity=2)
    store.push("jobs", ttl=20)
    batch = store.lease("jobs", seconds=60)
    if lost == "deleted":
        store.delete("jobs")
    elif lost == "dropped":
        store.push("jobs", body=["2", "3"], overflow="drop-oldest")
    else:
        store.now += 21
    assert store.settled(batch) == [False]
    assert store.describe("jobs").leased == 0
    assert store.take("jobs").gap


def test_a_message_that_was_for_who_waits_takes_its_lease_with_it(store: Shelf) -> None:
    pushed = store.push("jobs", queue=False)
    batch = store.lease("jobs")
    store.retract(pushed)
    assert store.settled(batch) == [False]
    assert store.usage.messages == 0


def test_a_leased_message_counts_as_unread_and_only_takes_and_acks_make_room(shelves: Shelves) -> None:
    store = shelves(capacity=3)
    pushed = store.push("jobs", body=["1", "2", "3"])
    batch = store.lease("jobs", limit=2)
    store.read("jobs", after=pushed[-1].cursor)
    contents = store.describe("jobs")
    assert (contents.queued, contents.bytes, contents.leased) == (3, 3, 2)
    with pytest.raises(MailboxFull):
        store.push("jobs", body="4")
    one, _ = batch.leased
    store.ask(store.store.settle_leases("jobs", [LeaseId.parse(one.lease)], "done", 0.0, store.now))
    store.push("jobs", body="4")
    assert data(store.take("jobs", limit=1)) == ["3"]
    store.push("jobs", body="5")
    with pytest.raises(MailboxFull):
        store.push("jobs", body="6")
    assert store.describe("jobs").queued == 3
    assert data(store.read("jobs")) == ["2", "4", "5"]


def test_a_mailbox_that_was_never_leased_from_is_read_by_cursor_as_before(shelves: Shelves) -> None:
    store = shelves(capacity=1)
    (pushed,) = store.push("jobs")
    store.read("jobs", after=pushed.cursor)
    store.push("jobs", body="2")
    assert data(store.read("jobs")) == ["2"]


def exhaust(store: Shelf, body: str = "hi", attempts: int = 2) -> Batch:
    """Lease a message as often as it may be; return the last lease, whose time is over."""
    store.push("jobs", body=body)
    for _ in range(attempts):
        batch = store.lease("jobs", limit=1, seconds=5)
        assert data(batch) == [body]
        store.now += 6
    return batch


def test_a_message_that_was_leased_as_often_as_it_may_is_exhausted_and_given_to_none(
    shelves: Shelves,
) -> None:
    store = shelves(max_attempts=2)
    batch = exhaust(store)
    (dead,) = store.expire().exhausted
    assert (dead.lease, dead.attempt, dead.data) == (batch.leased[0].lease, 2, "hi")
    assert not store.lease("jobs")
    assert not store.take("jobs")
    assert store.settled(batch, "extended", 10) == [False]
    assert store.settled(batch, "released") == [False]
    contents = store.describe("jobs")
    assert (contents.queued, contents.leased) == (1, 0)
    store.now += 11
    assert [message.lease for message in store.expire().exhausted] == [dead.lease]
    assert store.settled(batch) == [True]
    store.now += 11
    assert not store.expire().exhausted
    assert store.describe("jobs").queued == 0


def test_what_is_released_too_often_is_exhausted_too(shelves: Shelves) -> None:
    store = shelves(max_attempts=1)
    store.push("jobs", body=["1", "2"])
    store.settled(store.lease("jobs"), "released")
    assert data(store.expire().exhausted) == ["1", "2"]
    store.delete("jobs")
    store.now += 11
    assert not store.expire().exhausted
    assert store.describe("jobs") == Contents()


def test_usage_counts_what_is_leased_and_what_is_exhausted(shelves: Shelves) -> None:
    store = shelves(max_attempts=1)
    exhaust(store, attempts=1)
    store.push("jobs", body=["1", "2"])
    store.lease("jobs")
    store.expire()
    store.describe("jobs")
    assert (store.usage.leased, store.usage.exhausted) == (2, 1)
    before = store.usage.memory
    store.delete("jobs")
    store.expire()
    store.describe("jobs")
    assert (store.usage.leased, store.usage.exhausted) == (0, 0)
    assert store.usage.memory < before


def test_dead_letters_are_never_exhausted(shelves: Shelves) -> None:
    store = shelves(max_attempts=1)
    store.push("$dead/jobs")
    for attempt in (1, 2, 3):
        assert attempts(store.lease("$dead/jobs", seconds=5)) == [("hi", attempt)]
        store.now += 6
    assert not store.expire().exhausted


def test_thousands_of_leases_that_end_together_all_end(shelves: Shelves) -> None:
    store = shelves(capacity=3_000)
    for _ in range(3):
        store.push("jobs", body=["x"] * 1_000)
    for _ in range(3):
        store.lease("jobs", limit=1_000, seconds=5)
    store.now += 6
    store.expire()
    store.expire()
    assert store.describe("jobs").leased == 0
    found = [message for _ in range(3) for message in store.lease("jobs", limit=1_000).leased]
    assert numbers(found) == numbers(store.read("jobs", limit=3_000))
    assert {message.attempt for message in found} == {2}
