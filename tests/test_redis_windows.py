"""Readers that are answered without Redis, from what was published: with what Redis would have answered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from helpers import Outcome, data, message, numbers, push
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_cluster import Cluster
from redis_frames import LosesWakes
from redis_server import RedisServer

from cometd_lite.core.hub import Hub
from cometd_lite.core.message import NOW, OLDEST, Batch, Cursor
from cometd_lite.core.store import SharedStore
from cometd_lite.errors import CometError, MailboxFull, StoreDown
from cometd_lite.limits import (
    POLL_BYTES,
    REDIS_ACKNOWLEDGE_SECONDS,
    REDIS_CHECK_SECONDS,
    REDIS_FULL_SECONDS,
    REDIS_STAND_SECONDS,
    REDIS_WAKE_BYTES,
    REDIS_WINDOW_MESSAGES,
    REDIS_WINDOWS_BYTES,
)
from cometd_lite.stores.redis.windows import Window, Windows

NAMES = ("a", "b", "c/d")


@pytest.fixture(autouse=True)
def no_connection_is_left() -> Iterator[None]:
    yield
    while Cluster.made:
        Cluster.made.pop().wires.close()


@pytest.fixture
def cluster(redis: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(redis, tmp_path.name)
    yield cluster
    cluster.close()


def recent(hub: Hub, *names: str, after: Cursor, limit: int = 100) -> Batch | None:
    """Return what a process would answer a reader without Redis."""
    assert isinstance(hub.store, SharedStore)
    return hub.store.recent(names, after, limit, hub.clock.seconds(), False)


def stored(cluster: Cluster, hub: Hub, *names: str, after: Cursor, limit: int = 100) -> Batch:
    """Return what Redis says."""
    batch = cluster.ask(hub.store.read(names, after, limit, hub.clock.seconds(), False))
    assert isinstance(batch, Batch)
    return batch


def scripts(cluster: Cluster) -> int:
    """Return how many scripts Redis has run."""
    stats = cluster.server.ask("INFO", "commandstats")
    return int(stats.partition(b"cmdstat_evalsha:calls=")[2].partition(b",")[0])


# -- what a reader costs


def test_a_reader_that_polls_again_is_answered_without_redis(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    polls = [cluster.begin(hub.poll(("a",), NOW, 100.0)) for hub in (here, there)]
    places = [poll.value.cursor for poll in polls if poll.results]
    assert places == []
    before = scripts(cluster)
    for body in "123":
        cluster.push(0, "a", body)
        assert [data(poll.value) for poll in polls] == [[body]] * 2
        cursors = [poll.value.cursor for poll in polls]
        polls = [
            cluster.begin(hub.poll(("a",), cursor, 100.0))
            for hub, cursor in zip((here, there), cursors, strict=True)
        ]
    assert scripts(cluster) == before + 3  # the pushes
    for poll in polls:
        poll.cancel()


def test_a_reader_that_missed_some_messages_is_given_them_in_order(cluster: Cluster) -> None:
    _, there = cluster.join(), cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    for body in "1234":
        cluster.push(0, "a", body)
    before = scripts(cluster)
    batch = cluster.ask(there.poll(("a",), place, 100.0, limit=3))
    assert (data(batch), batch.more, batch.gap) == (["1", "2", "3"], True, False)
    batch = cluster.ask(there.poll(("a",), batch.cursor, 100.0, limit=3))
    assert (data(batch), batch.more) == (["4"], False)
    assert scripts(cluster) == before


def test_a_reader_of_several_mailboxes_is_parked_without_redis_and_reads_it_for_messages(
    cluster: Cluster,
) -> None:
    _, there = cluster.join(), cluster.join()
    place = stored(cluster, there, "a", "b", after=NOW).cursor
    before = scripts(cluster)
    poll = cluster.begin(there.poll(("a", "b"), place, 100.0))
    assert scripts(cluster) == before
    cluster.push(0, "b", "1")
    assert data(poll.value) == ["1"]
    assert scripts(cluster) == before + 2


def test_a_message_too_large_to_publish_is_read(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    polls = [cluster.begin(hub.poll(("a",), NOW, 100.0)) for hub in (here, there)]
    body = "x" * REDIS_WAKE_BYTES
    cluster.push(0, "a", body)
    assert [data(poll.value) for poll in polls] == [[body]] * 2
    cluster.push(0, "a", "2")
    batch = cluster.ask(there.poll(("a",), polls[1].value.cursor))
    assert data(batch) == ["2"]


def test_one_answer_has_no_more_bytes_than_one_of_redis(redis: RedisServer, tmp_path: Path) -> None:
    cluster = Cluster(redis, tmp_path.name, capacity_bytes=2 * POLL_BYTES)
    here = cluster.join()
    place = stored(cluster, here, "a", after=NOW).cursor
    for _ in range(3):
        cluster.push(0, "a", "x" * (POLL_BYTES // 2 - 1_000))
    known, read = recent(here, "a", after=place), stored(cluster, here, "a", after=place)
    assert known is not None
    assert (numbers(known), known.more) == (numbers(read), read.more)
    assert len(known.messages) == 2
    cluster.close()


# -- what closes a window


def test_nothing_is_known_of_a_mailbox_before_it_is_read_nor_of_patterns(cluster: Cluster) -> None:
    _, there = cluster.join(), cluster.join()
    end = cluster.end(there)
    assert recent(there, "a", after=end) is None
    stored(cluster, there, "a", "*", after=end)
    assert recent(there, "a", after=end) is None
    assert recent(there, "*", after=end) is None
    stored(cluster, there, "a", after=end)
    found = recent(there, "a", after=end)
    assert found is not None
    assert (found.messages, found.cursor) == ((), end)
    assert recent(there, "a", after=OLDEST) is None
    assert recent(there, "a", after=Cursor("otherepoch", 0)) is None
    assert recent(there, "a", after=Cursor(end.epoch, end.sequence + 1)) is None


def test_what_is_deleted_is_not_told_and_a_gap_is(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    cluster.push(0, "a", "1")
    assert recent(there, "a", after=place) is not None
    cluster.ask(here.delete("a"))
    assert recent(there, "a", after=place) is None
    assert cluster.ask(there.poll(("a",), place)).gap
    cluster.push(0, "a", "2")
    batch = cluster.ask(there.poll(("a",), place))
    assert (data(batch), batch.gap) == (["2"], True)


def test_what_has_expired_is_not_told(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    cluster.ask(here.push(push("a", body="1", ttl=5.0)))
    cluster.push(0, "a", "2")
    assert recent(there, "a", after=place) is not None
    cluster.clock.advance(6)
    assert recent(there, "a", after=place) is None
    batch = cluster.ask(there.poll(("a",), place))
    assert (data(batch), batch.gap) == (["2"], True)


def test_what_is_not_kept_is_told_to_those_only_who_wait(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    stored(cluster, here, "a", after=place)
    polls = [cluster.begin(hub.poll(("a",), place, 100.0)) for hub in (here, there)]
    cluster.ask(here.push(push("a", body="1", queue=False)))
    assert [data(poll.value) for poll in polls] == [["1"]] * 2
    for hub in (here, there):
        late = cluster.begin(hub.poll(("a",), place, 100.0))
        assert late.parked
        late.cancel()


def test_after_a_reconnect_nothing_is_known_until_the_next_read(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    poll = cluster.begin(there.poll(("a",), place, 100.0))
    assert recent(there, "a", after=place) is not None
    cluster.wires.wires[1].abortConnection()
    assert recent(there, "a", after=place) is None
    pushed = cluster.begin(here.push(push("a", body="1")))
    cluster.find_again()
    assert pushed.value.id  # later, where Redis had not yet seen the end of the connection
    assert data(poll.value) == ["1"]


def test_a_process_with_many_readers_listens_again_in_a_moment(cluster: Cluster) -> None:
    _, there = cluster.join(), cluster.join()
    names = [f"user/{number}" for number in range(20_000)]
    for first in range(0, len(names), 1_000):
        stored(cluster, there, *names[first : first + 1_000], after=NOW)
    began = time.process_time()
    cluster.wires.wires[1].abortConnection()
    cluster.find_again()
    assert time.process_time() - began < 3.0  # where each channel is looked for among all: 10 s and more
    for name in (names[0], names[-1]):
        poll = cluster.begin(there.poll((name,), OLDEST, 100.0))
        cluster.push(0, name, "1")
        assert data(poll.value) == ["1"]


def test_a_key_that_was_let_go_of_and_is_read_again_has_a_window_from_then_on(cluster: Cluster) -> None:
    _, there = cluster.join(), cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    cluster.clock.advance(REDIS_STAND_SECONDS + 1)
    there.sweep()
    cluster.wires.settle()
    cluster.push(0, "a", "1")
    assert recent(there, "a", after=place) is None
    assert data(cluster.ask(there.poll(("a",), place))) == ["1"]
    cluster.push(0, "a", "2")
    assert recent(there, "a", after=place) is None
    assert data(cluster.ask(there.poll(("a",), place))) == ["1", "2"]


def test_a_lost_wake_is_found_by_the_next_one(cluster: Cluster) -> None:
    cluster.join()
    losing = LosesWakes(f"{cluster.prefix}:", Random(1), 1.0)
    cluster.wires.changes = lambda: losing
    there = cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    poll = cluster.begin(there.poll(("a",), place, 100.0))
    cluster.begin(cluster.hubs[0].push(push("a", body="1")))
    assert losing.lost == 1
    assert poll.parked
    losing.share = 0.0
    cluster.push(0, "a", "2")
    assert data(poll.value) == ["1", "2"]


def test_a_lost_last_wake_costs_a_reader_its_wait_at_most(cluster: Cluster) -> None:
    cluster.join()
    losing = LosesWakes(f"{cluster.prefix}:", Random(1), 1.0)
    cluster.wires.changes = lambda: losing
    there = cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    poll = cluster.begin(there.poll(("a",), place, 10.0))
    cluster.begin(cluster.hubs[0].push(push("a", body="1")))
    assert poll.parked
    cluster.clock.advance(10.0)
    cluster.wires.settle()
    assert data(poll.value) == ["1"]
    again = cluster.begin(there.poll(("a",), poll.value.cursor, 10.0))
    cluster.clock.advance(10.0)
    cluster.wires.settle()
    assert (data(again.value), again.value.cursor) == ([], poll.value.cursor)


def passed(cluster: Cluster, seconds: float) -> None:
    """Let time pass, in which each process sweeps once a second."""
    for _ in range(int(seconds)):
        cluster.clock.advance(1.0)
        for hub in cluster.hubs:
            hub.sweep()
        cluster.wires.settle()


@pytest.mark.parametrize("keys", [("a",), ("a", "b"), ("*",), ("a", "*")])
def test_a_lost_last_wake_costs_a_stream_as_long_as_it_takes_to_compare(
    cluster: Cluster, keys: tuple[str, ...]
) -> None:
    cluster.join()
    losing = LosesWakes(f"{cluster.prefix}:", Random(1), 1.0)
    cluster.wires.changes = lambda: losing
    there = cluster.join()
    ended, heard = following(cluster, there, *keys)
    passed(cluster, REDIS_CHECK_SECONDS)
    for number in range(3):
        cluster.begin(cluster.hubs[0].push(push("a", body=str(number))))
        assert len(heard) == number
        passed(cluster, 2 * REDIS_CHECK_SECONDS)
        assert heard == list(map(str, range(number + 1)))
    assert losing.lost
    ended.cancel()


def test_a_lost_last_wake_of_a_take_is_found_while_it_waits(cluster: Cluster) -> None:
    cluster.join()
    losing = LosesWakes(f"{cluster.prefix}:", Random(1), 1.0)
    cluster.wires.changes = lambda: losing
    there = cluster.join()
    take = cluster.begin(there.take(("a",), 100.0))
    cluster.begin(cluster.hubs[0].push(push("a", body="1")))
    assert take.parked
    passed(cluster, 2 * REDIS_CHECK_SECONDS)
    assert data(take.value) == ["1"]


class Timed:
    """A reader that reads on and on, and notes what it has read, and how late each message came.

    A poll waits for ten seconds each time; a stream for ever.
    """

    def __init__(self, cluster: Cluster, hub: Hub, keys: tuple[str, ...], *, streams: bool) -> None:
        self.cluster, self.hub, self.keys = cluster, hub, keys
        self.read: list[str] = []
        self.latest = 0.0
        self.place = cluster.end(cluster.hubs[0])
        self.most = REDIS_CHECK_SECONDS + 1 if streams else 10.0
        if streams:
            follower = hub.follow(keys, self.place, self.note)
            self.waiting = Outcome(follower)
            follower.go_on()
        else:
            self.waiting = cluster.begin(hub.poll(keys, self.place, 10.0))

    def note(self, found: Batch) -> bool:
        now = self.cluster.clock.seconds()
        self.read += data(found)
        self.latest = max([self.latest, *[now - one.created_at for one in found.messages]])
        assert not found.gap
        return True

    def go_on(self) -> None:
        while not self.waiting.parked:
            self.note(self.waiting.value)
            self.place = self.waiting.value.cursor
            self.waiting = self.cluster.begin(self.hub.poll(self.keys, self.place, 10.0))


def test_where_a_fifth_of_all_wakes_is_lost_all_is_read_in_order_and_in_time(cluster: Cluster) -> None:
    cluster.join()
    random = Random(1)
    filters: list[LosesWakes] = []

    def lossy() -> LosesWakes:
        filters.append(LosesWakes(f"{cluster.prefix}:", random, 0.2))
        return filters[-1]

    cluster.wires.changes = lossy
    hubs = cluster.join(), cluster.join()
    readers = [
        Timed(cluster, hub, keys, streams=streams)
        for hub in hubs
        for keys in (("a",), ("b",), ("a", "b"), ("*",), ("c", "*"))
        for streams in (False, True)
    ]
    pushed: list[tuple[str, str]] = []
    for second in range(240):
        if second < 220:
            for _ in range(random.choice([0] * 11 + [3])):
                pushed.append((random.choice("aabc"), str(len(pushed))))
                cluster.begin(cluster.hubs[0].push(push(pushed[-1][0], body=pushed[-1][1])))
                for reader in readers:
                    reader.go_on()
        passed(cluster, 1)
        for reader in readers:
            reader.go_on()
    assert sum(one.lost for one in filters) > len(pushed) / 10
    for reader in readers:
        assert reader.read == [body for name, body in pushed if name in reader.keys or "*" in reader.keys]
        assert reader.latest <= reader.most
    # Some were found at the end of a wait, or because they were looked for.
    assert max(reader.latest for reader in readers) > 5.0
    for reader in readers:
        reader.waiting.cancel()


def following(cluster: Cluster, hub: Hub, *names: str) -> tuple[Outcome, list[str]]:
    """Return a stream of the recipients, and the list of what it reads."""
    read: list[str] = []
    stream = hub.follow(names, NOW, lambda batch: read.extend(data(batch)) is None)
    ended = Outcome(stream)
    stream.go_on()
    cluster.wires.settle()
    return ended, read


def test_where_readers_wait_and_nothing_was_lost_redis_is_asked_once_a_round(cluster: Cluster) -> None:
    here = cluster.join()
    streams = [following(cluster, here, name)[0] for name in ("a", "b", "c/d", "c/d", "c/*")]
    cluster.push(0, "a", "1")
    passed(cluster, REDIS_CHECK_SECONDS)
    before = scripts(cluster)
    passed(cluster, REDIS_CHECK_SECONDS)
    # One a second sweeps, and one compares all keys.
    assert scripts(cluster) - before == REDIS_CHECK_SECONDS + 1
    for stream in streams:
        stream.cancel()
    before = scripts(cluster)
    passed(cluster, REDIS_CHECK_SECONDS)
    assert scripts(cluster) - before == REDIS_CHECK_SECONDS


def test_readers_that_were_notified_of_all_do_not_look_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, there = cluster.join(), cluster.join()
    stream, read = following(cluster, there, "a")
    passed(cluster, 2 * REDIS_CHECK_SECONDS)
    cluster.push(0, "a", "1")
    assert read == ["1"]
    looks: list[Any] = []
    recent = there.store.recent
    monkeypatch.setattr(there.store, "recent", lambda *asked: looks.append(asked) or recent(*asked))
    passed(cluster, 2 * REDIS_CHECK_SECONDS)
    assert looks == []
    stream.cancel()


def test_a_lost_wake_is_found_in_the_log_of_a_redis_that_was_emptied_too(cluster: Cluster) -> None:
    here = cluster.join()
    losing = LosesWakes(f"{cluster.prefix}:", Random(1), 0.0)
    cluster.wires.changes = lambda: losing
    there = cluster.join()
    stream, read = following(cluster, there, "*")
    for body in "123":
        cluster.push(0, "a", body)
    passed(cluster, 2 * REDIS_CHECK_SECONDS)
    for key in cluster.server.ask("KEYS", f"{cluster.prefix}:*"):
        cluster.server.ask("DEL", key)
    for hub in (here, there):
        with pytest.raises(StoreDown):
            cluster.ask(hub.push(push("a")))
    cluster.find_again()
    losing.share = 1.0
    cluster.begin(here.push(push("a", body="4")))
    assert read == ["1", "2", "3"]
    passed(cluster, 2 * REDIS_CHECK_SECONDS)
    assert read == ["1", "2", "3", "4"]
    stream.cancel()


def test_a_poll_that_does_not_wait_asks_redis(cluster: Cluster) -> None:
    cluster.join()
    losing = LosesWakes(f"{cluster.prefix}:", Random(1), 1.0)
    cluster.wires.changes = lambda: losing
    there = cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    cluster.begin(cluster.hubs[0].push(push("a", body="1")))
    assert data(cluster.ask(there.poll(("a",), place, 0.0))) == ["1"]


# -- acknowledgements


def test_what_readers_acknowledge_without_redis_makes_room_soon(redis: RedisServer, tmp_path: Path) -> None:
    cluster = Cluster(redis, tmp_path.name, capacity=2)
    here, there = cluster.join(), cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    for body in "12":
        cluster.push(0, "a", body)
    place = cluster.ask(there.poll(("a",), place, 10.0)).cursor
    parked = cluster.begin(there.poll(("a",), place, 100.0))
    pushed = cluster.begin(here.push(push("a", body="3")))
    assert pushed.parked
    cluster.clock.advance(REDIS_ACKNOWLEDGE_SECONDS)
    cluster.wires.settle()
    cluster.clock.advance(REDIS_FULL_SECONDS - REDIS_ACKNOWLEDGE_SECONDS)
    cluster.wires.settle()
    assert data(parked.value) == ["3"]
    assert pushed.value.delivered == 1
    cluster.close()


def test_a_push_that_asks_again_wakes_others_though_its_own_process_listens_no_more(
    redis: RedisServer, tmp_path: Path
) -> None:
    cluster = Cluster(redis, tmp_path.name, capacity=1)
    here, there = cluster.join(), cluster.join()
    place = stored(cluster, here, "a", after=NOW).cursor
    cluster.push(0, "a", "1")
    cluster.clock.advance(REDIS_STAND_SECONDS - REDIS_ACKNOWLEDGE_SECONDS)
    place = cluster.ask(there.poll(("a",), place, 100.0)).cursor
    parked = cluster.begin(there.poll(("a",), place, 100.0))
    pushed = cluster.begin(here.push(push("a", body="2")))
    assert pushed.parked
    cluster.clock.advance(REDIS_ACKNOWLEDGE_SECONDS)
    here.sweep()
    cluster.wires.settle()
    cluster.clock.advance(REDIS_FULL_SECONDS - REDIS_ACKNOWLEDGE_SECONDS)
    cluster.wires.settle()
    assert data(parked.value) == ["2"]
    assert pushed.value.delivered == 1
    cluster.close()


def test_a_push_that_asks_again_in_another_log_is_repeated_with_the_ids_of_that_one(
    redis: RedisServer, tmp_path: Path
) -> None:
    cluster = Cluster(redis, tmp_path.name, capacity=1)
    here = cluster.join()
    cluster.push(0, "a", "1")
    pushed = cluster.begin(here.push(push("a", body="2", key="k")))
    assert pushed.parked
    for key in redis.ask("KEYS", f"{cluster.prefix}:*"):
        redis.ask("DEL", key)
    with pytest.raises(StoreDown):
        cluster.push(0, "b", "1")
    cluster.wires.settle()
    cluster.clock.advance(REDIS_FULL_SECONDS)
    cluster.wires.settle()
    there = cluster.join()
    assert cluster.ask(there.push(push("a", body="2", key="k"))) == pushed.value
    assert cluster.ask(there.poll(("a",), OLDEST)).messages[0].id == pushed.value.id
    cluster.close()


def test_a_push_to_a_mailbox_that_stays_full_is_refused_after_it_has_asked_once_more(
    redis: RedisServer, tmp_path: Path
) -> None:
    cluster = Cluster(redis, tmp_path.name, capacity=1)
    here = cluster.join()
    cluster.push(0, "a", "1")
    pushed = cluster.begin(here.push(push("a", body="2")))
    assert pushed.parked
    cluster.clock.advance(REDIS_FULL_SECONDS)
    cluster.wires.settle()
    with pytest.raises(MailboxFull):
        _ = pushed.value
    cluster.close()


def test_a_push_to_a_full_mailbox_is_answered_before_the_store_is_closed(
    redis: RedisServer, tmp_path: Path
) -> None:
    cluster = Cluster(redis, tmp_path.name, capacity=1)
    here = cluster.join()
    cluster.push(0, "a", "1")
    pushed = cluster.begin(here.push(push("a", body="2")))
    cluster.hubs.remove(here)
    cluster.ask(here.store.close())
    with pytest.raises(MailboxFull):
        _ = pushed.value
    assert cluster.clock.getDelayedCalls() == []


def test_what_is_acknowledged_is_described_at_once_and_sent_before_the_store_is_closed(
    cluster: Cluster,
) -> None:
    here, there = cluster.join(), cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    cluster.push(0, "a", "1")
    place = cluster.ask(there.poll(("a",), place, 10.0)).cursor
    parked = cluster.begin(there.poll(("a",), place, 100.0))
    assert cluster.ask(there.describe("a")).queued == 0
    cluster.push(0, "a", "2")
    parked = cluster.begin(there.poll(("a",), parked.value.cursor, 100.0))
    assert cluster.ask(here.describe("a")).queued == 1
    parked.cancel()
    cluster.hubs.remove(there)
    cluster.ask(there.store.close())
    assert cluster.ask(here.describe("a")).queued == 0


def test_a_reader_that_acknowledges_nothing_does_so_without_redis_too(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    place = stored(cluster, there, "a", after=NOW).cursor
    cluster.push(0, "a", "1")
    place = cluster.ask(there.poll(("a",), place, 10.0, acks=False)).cursor
    parked = cluster.begin(there.poll(("a",), place, 100.0, acks=False))
    cluster.clock.advance(1.0)
    cluster.wires.settle()
    assert cluster.ask(here.describe("a")).queued == 1
    parked.cancel()


# -- bounds


def test_a_window_keeps_few_messages_and_all_windows_few_bytes() -> None:
    windows, one = Windows(), Window(0.0)
    windows.confirm(one, 0, 0)
    for number in range(1, 100):
        windows.extend(one, number - 1, 0, [message(number)])
        windows.check_invariants([one])
    found = one.after(99 - REDIS_WINDOW_MESSAGES, 0.0)
    assert found is not None
    assert numbers(found) == list(range(100 - REDIS_WINDOW_MESSAGES, 100))
    assert one.after(98 - REDIS_WINDOW_MESSAGES, 0.0) is None
    others = [Window(0.0) for _ in range(300)]
    for place, window in enumerate(others):
        windows.confirm(window, 0, 0)
        large = message(1_000 + place, body="x" * (REDIS_WINDOWS_BYTES // 100))
        windows.extend(window, 0, 0, [large])
        windows.check_invariants([one, *others])
    assert one.after(98, 0.0) is None
    assert one.after(99, 0.0) == ()
    newest = others[-1].after(0, 0.0)
    assert newest is not None
    assert numbers(newest) == [1_299]


# -- whatever happens

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("push"),
            st.integers(0, 1),
            st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True).map(tuple),
            st.integers(1, 3),
            st.sampled_from([None, "drop-oldest"]),
            st.sampled_from([None, 1.0, 30.0]),
            st.sampled_from([True, True, True, False]),
        ),
        st.tuples(
            st.just("read"),
            st.integers(0, 1),
            st.lists(st.sampled_from((*NAMES, "**")), min_size=1, max_size=2, unique=True).map(tuple),
            st.sampled_from([0, 1, 3, 9]),
        ),
        st.tuples(st.just("delete"), st.integers(0, 1), st.sampled_from(NAMES)),
        st.tuples(st.just("take"), st.integers(0, 1), st.sampled_from(NAMES)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 20.0, REDIS_STAND_SECONDS + 1])),
        st.tuples(st.just("cut"), st.integers(0, 1)),
    ),
    min_size=10,
    max_size=40,
)


class World:
    """Two processes, and what is done at them."""

    def __init__(self, redis: RedisServer, prefix: str) -> None:
        self.cluster = Cluster(redis, prefix, capacity=5, ttl=50.0)
        self.hubs = [self.cluster.join() for _ in range(2)]

    def finish(self, outcome: Outcome) -> Any:
        """Return what became of something that may wait for a full mailbox; None where it was refused."""
        self.cluster.wires.settle_full()
        try:
            return outcome.value
        except CometError:
            return None

    def push(self, hub: int, names: tuple[str, ...], count: int, overflow: Any, ttl: Any, queue: Any) -> Any:
        asked = push(*names, body=["x"] * count, overflow=overflow, ttl=ttl, queue=queue)
        return self.finish(self.cluster.begin(self.hubs[hub].push(asked)))

    def read(self, hub: int, names: tuple[str, ...], back: int) -> Batch:
        end = self.cluster.end(self.hubs[hub])
        place = Cursor(end.epoch, max(0, end.sequence - back))
        return stored(self.cluster, self.hubs[hub], *names, after=place)

    def delete(self, hub: int, name: str) -> None:
        self.cluster.ask(self.hubs[hub].delete(name))

    def take(self, hub: int, name: str) -> None:
        self.cluster.ask(self.hubs[hub].take((name,), 0.0))

    def wait(self, seconds: float) -> None:
        self.cluster.clock.advance(seconds)
        for hub in self.hubs:
            hub.sweep()
        self.cluster.wires.settle()

    def cut(self, hub: int) -> None:
        [wire for wire in self.cluster.wires.wires if wire.open][hub].abortConnection()
        self.cluster.find_again()


@pytest.fixture(scope="module")
def numbered() -> list[int]:
    """Return the numbers of the examples, each of which has a prefix of its own."""
    return []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=steps)
def test_what_is_answered_without_redis_is_what_redis_would_have_answered(
    redis: RedisServer, numbered: list[int], steps: list[Any]
) -> None:
    numbered.append(len(numbered))
    world = World(redis, f"windows{len(numbered)}")
    for verb, *words in steps:
        getattr(world, verb)(*words)
        for hub in world.hubs:
            end = world.cluster.end(hub)
            for names in (*[(name,) for name in NAMES], ("a", "b"), NAMES):
                for place in range(max(0, end.sequence - 8), end.sequence + 1):
                    after = Cursor(end.epoch, place)
                    found = recent(hub, *names, after=after, limit=3)
                    if found is not None:
                        told = stored(world.cluster, hub, *names, after=after, limit=3)
                        assert numbers(found) == numbers(told), (verb, words, names, place)
                        assert (found.gap, found.more) == (told.gap, told.more)
                        assert found.cursor == told.cursor
    world.cluster.close()
    world.cluster.wires.close()


class Client:
    """A client that polls by cursor at one process or the other, and what it has read."""

    def __init__(self, names: tuple[str, ...], place: Cursor) -> None:
        self.names = names
        self.place = place
        self.poll: Outcome | None = None
        self.polled_at = 0.0
        self.read: list[int] = []

    def ask(self, hub: Hub, wait: float) -> None:
        if self.poll is None:
            self.polled_at = hub.clock.seconds()
            self.poll = Outcome(hub.poll(self.names, self.place, wait))

    def look(self) -> None:
        """Take in what the poll has answered."""
        if self.poll is not None and self.poll.results:
            batch = self.poll.value
            assert not batch.gap
            self.read += numbers(batch)
            self.place = batch.cursor
            self.poll = None


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_where_a_fifth_of_all_wakes_is_lost_nothing_else_is_and_no_reader_waits_too_long(
    redis: RedisServer, numbered: list[int], seed: int
) -> None:
    numbered.append(len(numbered))
    cluster = Cluster(redis, f"lossy{len(numbered)}")
    random, losing = Random(seed), list[LosesWakes]()

    def loses() -> LosesWakes:
        losing.append(LosesWakes(f"{cluster.prefix}:", Random(seed + len(losing)), 0.2))
        return losing[-1]

    cluster.wires.changes = loses
    hubs = [cluster.join() for _ in range(2)]
    start = cluster.end(hubs[0])
    clients = [Client(names, start) for names in (("a",), ("a",), ("b",), ("a", "b"), ("*",))]
    pushed: dict[int, str] = {}
    wait = 10.0
    for _ in range(60):
        for client in random.sample(clients, 2):
            client.ask(random.choice(hubs), wait)
        if random.random() < 0.7:
            name = random.choice("ab")
            accepted = cluster.begin(random.choice(hubs).push(push(name)))
            cluster.clock.advance(1.0)  # until who does not report is not waited for
            cluster.wires.settle()
            pushed[Cursor.parse(accepted.value.id).sequence] = name
        cluster.clock.advance(random.choice([0.0, 0.1, 2.0]))
        cluster.wires.settle()
        for client in clients:
            client.look()
            assert client.poll is None or cluster.clock.seconds() <= client.polled_at + wait
    cluster.clock.advance(wait)
    cluster.wires.settle()
    for client in clients:
        client.look()
        assert client.poll is None, "the wait is over"
        client.ask(hubs[0], 0.0)
        cluster.wires.settle()
        client.look()
        names = {*client.names, *("ab" if "*" in client.names else "")}
        assert client.read == [number for number, name in sorted(pushed.items()) if name in names]
    assert sum(one.lost for one in losing) > 0
    cluster.close()
    cluster.wires.close()
