"""What only the store in Redis promises: many processes, a Redis that goes and comes, and what it loses."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import Outcome, data, push
from redis_cluster import Cluster
from redis_server import RedisServer
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, capturedLogs, formatEvent

from cometd_lite.core.hub import Hub
from cometd_lite.core.leases import LeaseId
from cometd_lite.core.listeners import Listeners, ListenerSession
from cometd_lite.core.message import NOW, OLDEST, Batch, Content, Cursor, Push
from cometd_lite.core.readers import Poll
from cometd_lite.core.registry import Registry
from cometd_lite.core.store import StoreUnusable
from cometd_lite.deferreds import MaybeDeferred
from cometd_lite.errors import KeyReused, ListenerGone, NobodyWaits, StoreDown
from cometd_lite.limits import (
    ONLINE_SECONDS,
    PUSH_MESSAGES,
    REDIS_COUNT_SECONDS,
    REDIS_STAND_SECONDS,
    STORE_STALLED_SECONDS,
    Limits,
)
from cometd_lite.stores.redis.connection import Address


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


def test_who_waits_is_counted_over_all_processes(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    assert not cluster.ask(here.describe("a/b")).online
    polls = [cluster.begin(there.poll((name,), OLDEST, 100.0)) for name in ("a/b", "a/*", "**")]
    polls.append(cluster.begin(here.poll(("a/b",), OLDEST, 100.0)))
    for hub in (here, there):
        standing = cluster.ask(hub.describe("a/b"))
        assert (standing.waiting, standing.online) == (4, True)
    for poll in polls:
        poll.cancel()
    cluster.clock.advance(ONLINE_SECONDS)
    standing = cluster.ask(here.describe("a/b"))
    assert (standing.waiting, standing.online) == (0, True)
    assert standing.last_seen == cluster.clock.seconds() - ONLINE_SECONDS
    cluster.clock.advance(1)
    assert not cluster.ask(here.describe("a/b")).online


# -- listeners and idempotency keys


def test_a_listener_goes_on_at_any_process(cluster: Cluster) -> None:
    here, there = [Listeners(cluster.join(), 100) for _ in range(2)]
    listener = cluster.ask(here.register(("bob",)))
    cluster.push(0, "bob", "1")
    elsewhere = cluster.ask(there.get(listener.id))
    assert data(cluster.ask(there.poll(elsewhere, None, 10.0, 100))) == ["1"]
    cluster.push(1, listener.id, "2")
    back = cluster.ask(here.get(listener.id))
    parked = cluster.begin(here.poll(back, None, 10.0, 100))
    assert data(parked.value) == ["2"]


def test_what_an_answer_carried_is_sent_again_by_another_process_where_it_could_not_be_written(
    cluster: Cluster,
) -> None:
    here, there = [Listeners(cluster.join(), 100) for _ in range(2)]
    listener = cluster.ask(here.register(("bob",)))
    cluster.push(0, "bob", "1")
    cluster.ask(here.poll(listener, None, 10.0, 100, lambda: False))
    again = cluster.ask(there.get(listener.id))
    assert data(cluster.ask(there.poll(again, None, 10.0, 100))) == ["1"]


def test_the_newer_poll_of_a_listener_wins_at_whatever_process(cluster: Cluster) -> None:
    here, there = [Listeners(cluster.join(), 100) for _ in range(2)]
    listener = cluster.ask(here.register(("bob",)))
    older = cluster.begin(here.poll(listener, None, 10.0, 100))
    assert older.parked
    newer = cluster.begin(there.poll(cluster.ask(there.get(listener.id)), None, 10.0, 100))
    assert not older.value
    cluster.push(0, "bob", "1")
    assert data(newer.value) == ["1"]


def test_an_older_poll_that_ends_late_does_not_take_the_listener_back(cluster: Cluster) -> None:
    here, there = [Listeners(cluster.join(), 100) for _ in range(2)]
    listener = cluster.ask(here.register(("bob",)))
    older = cluster.begin(here.poll(listener, None, 10.0, 100))
    late = cluster.wires.wires.pop(0)  # the process of the older poll hears of everything later
    cluster.begin(cluster.hubs[1].push(push("bob", body="1")))
    elsewhere = cluster.ask(there.get(listener.id))
    assert data(cluster.ask(there.poll(elsewhere, None, 10.0, 100))) == ["1"]
    cluster.wires.wires.insert(0, late)
    cluster.wires.settle()
    assert data(older.value) == []
    assert data(cluster.ask(there.poll(cluster.ask(there.get(listener.id)), None, 0.0, 100))) == []
    cluster.clock.advance(REDIS_COUNT_SECONDS)


def test_a_listener_that_was_changed_or_ended_is_so_everywhere(cluster: Cluster) -> None:
    here, there = [Listeners(cluster.join(), 100) for _ in range(2)]
    listener = cluster.ask(here.register(("bob",)))
    cluster.ask(here.change(listener, ("eve",)))
    assert cluster.ask(there.get(listener.id)).recipients == ("eve",)
    cluster.ask(there.end(cluster.ask(there.get(listener.id))))
    for id_ in (listener.id, "~" + "0" * 40):
        with pytest.raises(ListenerGone):
            cluster.ask(here.get(id_))
    assert (len(here), len(there)) == (0, 0)


def test_a_listener_that_polls_elsewhere_is_not_forgotten_where_it_was_registered(cluster: Cluster) -> None:
    here, there = [Listeners(cluster.join(), 100) for _ in range(2)]
    listener = cluster.ask(here.register(("bob",), ttl=60.0))
    elsewhere = cluster.ask(there.get(listener.id))
    cluster.clock.advance(59.0)
    cluster.ask(there.poll(elsewhere, None, 0.0, 100))
    cluster.clock.advance(2.0)
    here.sweep()
    assert len(here) == 0
    cluster.push(0, "bob", "1")
    assert data(cluster.ask(there.poll(cluster.ask(there.get(listener.id)), None, 0.0, 100))) == ["1"]
    assert cluster.ask(here.get(listener.id)).recipients == ("bob",)


def test_a_listener_has_ended_once_the_store_has_forgotten_it(cluster: Cluster) -> None:
    here = Listeners(cluster.join(), 100)
    listener = cluster.ask(here.register(("bob",)))
    record = f"{cluster.prefix}:record:listener:{listener.id}"
    assert cluster.server.ask("EXISTS", record) == 1
    ended = Outcome(here.end(listener))
    assert ended.parked
    cluster.wires.settle()
    assert ended.value is None
    assert cluster.server.ask("EXISTS", record) == 0


def test_an_ended_listener_does_not_come_back_by_a_poll_or_change_that_has_found_it_before(
    cluster: Cluster,
) -> None:
    here, there = [Listeners(cluster.join(), 100) for _ in range(2)]
    acts: list[Callable[[ListenerSession], MaybeDeferred[Any]]] = [
        lambda listener: there.poll(listener, None, 0.0, 100),
        lambda listener: there.poll(listener, None, 10.0, 100),
        lambda listener: there.change(listener, ("eve",)),
    ]
    for act in acts:
        listener = cluster.ask(here.register(("bob",)))
        found = cluster.ask(there.get(listener.id))
        cluster.ask(here.end(listener))
        acting = cluster.begin(act(found))
        cluster.clock.advance(10.0)
        cluster.wires.settle()
        assert not acting.value
        for listeners in (here, there):
            with pytest.raises(ListenerGone):
                cluster.ask(listeners.get(listener.id))


def test_a_listener_that_is_not_polled_is_gone_after_its_time(cluster: Cluster) -> None:
    here = Listeners(cluster.join(), 100)
    listener = cluster.ask(here.register(("bob",), ttl=0.001))
    while cluster.server.ask("EXISTS", f"{cluster.prefix}:record:listener:{listener.id}"):
        pass  # the time of records is Redis' own
    with pytest.raises(ListenerGone):
        cluster.ask(here.get(listener.id))


def test_a_push_that_is_repeated_at_another_process_adds_nothing(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    first = cluster.ask(here.push(push("bob", "eve", body=["1", "2"], key="k")))
    assert cluster.ask(there.push(push("bob", "eve", body=["1", "2"], key="k"))) == first
    assert data(cluster.ask(there.poll(("bob",), OLDEST))) == ["1", "2"]
    with pytest.raises(KeyReused):
        cluster.ask(there.push(push("bob", "eve", body="3", key="k")))
    assert cluster.ask(there.push(push("bob", body="3", key="k"))).id != first.id
    of_another = cluster.ask(there.push(push("bob", "eve", body="3", key="k", subject="alice")))
    assert of_another.id != first.id


# -- a Redis that goes and comes


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that keeps everything."""
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    yield server.start()
    server.kill()


def come_back(cluster: Cluster) -> None:
    """Start Redis again, and let every process find it."""
    cluster.server.start()
    cluster.find_again()


def test_parked_polls_stay_parked_while_redis_is_away_and_hear_what_is_pushed_afterwards(
    kept: RedisServer,
) -> None:
    cluster = Cluster(kept, "p")
    here, there = cluster.join(), cluster.join()
    parked = [cluster.begin(hub.poll(("bob",), OLDEST, 100.0)) for hub in (here, there)]
    kept.kill()
    cluster.wires.settle()
    with pytest.raises(StoreDown):
        cluster.ask(here.push(push("bob")))
    late = cluster.begin(there.poll(("bob",), OLDEST, 100.0))
    with pytest.raises(StoreDown):
        cluster.ask(there.poll(("bob",), OLDEST, 0.0))
    come_back(cluster)
    assert all(poll.parked for poll in [*parked, late])
    assert cluster.ask(here.push(push("bob", body="1"))).delivered == 3
    assert [data(poll.value) for poll in [*parked, late]] == [["1"]] * 3


def test_what_was_confirmed_is_there_when_redis_is_back_and_no_client_gets_a_gap(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here, there = cluster.join(), cluster.join()
    before = cluster.end(here)
    cluster.ask(here.push(push("bob", body="1")))
    parked = cluster.begin(there.poll(("bob",), cluster.end(there), 100.0))
    kept.kill()
    cluster.wires.settle()
    come_back(cluster)
    batch = cluster.ask(there.poll(("bob",), before))
    assert data(batch) == ["1"]
    assert not batch.gap
    assert parked.parked


def test_a_push_that_redis_kept_though_its_answer_was_lost_is_not_made_twice(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here, there = cluster.join(), cluster.join()
    cluster.wires.patience = 0.0
    kept.pause()
    pushed = cluster.begin(here.push(push("bob", body="1", key="k")))
    assert pushed.parked
    kept.go_on()
    cluster.wires.wires[0].abortConnection()
    cluster.wires.patience = 10.0
    with pytest.raises(StoreDown):
        _ = pushed.value
    receipt = cluster.ask(there.push(push("bob", body="1", key="k")))
    assert data(cluster.ask(there.poll(("bob",), OLDEST))) == ["1"]
    assert receipt.id == str(cluster.end(there))


def test_a_redis_that_does_not_answer_is_let_go_of(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    cluster.wires.patience = 0.0
    kept.pause()
    pushed = cluster.begin(here.push(push("bob")))
    here.sweep()
    cluster.clock.advance(STORE_STALLED_SECONDS)
    with pytest.raises(StoreDown):
        _ = pushed.value
    kept.go_on()
    cluster.wires.patience = 10.0
    cluster.find_again()
    cluster.ask(here.push(push("bob")))


def test_a_redis_without_room_refuses_pushes_until_there_is(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    kept.ask("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(StoreDown):
        cluster.ask(here.push(push("bob")))
    kept.ask("CONFIG", "SET", "maxmemory", 0)
    cluster.ask(here.push(push("bob")))


@pytest.mark.parametrize("was_there", [True, False])
def test_a_store_can_be_closed_while_redis_is_away(kept: RedisServer, *, was_there: bool) -> None:
    cluster = Cluster(kept, "p")
    if was_there:
        here = cluster.join()
        kept.kill()
    else:
        kept.kill()
        with pytest.raises(AssertionError, match="still parked"):
            cluster.join()
        here = cluster.hubs[0]
    cluster.wires.settle()
    cluster.ask(here.store.close())
    assert not cluster.clock.getDelayedCalls()


# -- a Redis that refuses


def told(logged: list[LogEvent]) -> list[str]:
    """Return what the store has said, a line for each event."""
    return [formatEvent(event) for event in logged if event["log_namespace"].startswith("cometd_lite")]


def begin(cluster: Cluster, address: str = "") -> tuple[Hub, Outcome]:
    """Start one more process, which may not reach its Redis; return what became of its start."""
    hub = cluster.make(address)
    return hub, cluster.begin(hub.store.open(cluster.clock.seconds()))


def test_a_redis_that_follows_another_one_is_waited_for_until_it_is_the_master(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    kept.ask("REPLICAOF", "127.0.0.1", "1")
    with capturedLogs() as logged:
        hub, opened = begin(cluster)
        cluster.find_again()
    assert opened.parked
    (line,) = told(logged)
    assert "is not connected yet" in line
    assert "is a replica" in line
    kept.ask("REPLICAOF", "NO", "ONE")
    cluster.find_again()
    assert opened.value is None
    cluster.ask(hub.push(push("bob")))


def test_a_redis_that_becomes_a_follower_is_left_and_found_again_when_it_is_the_master(
    kept: RedisServer,
) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    parked = cluster.begin(here.poll(("bob",), OLDEST, 100.0))
    kept.ask("REPLICAOF", "127.0.0.1", "1")
    with capturedLogs() as logged, pytest.raises(StoreDown):
        cluster.ask(here.push(push("bob")))
    (line,) = told(logged)
    assert "is not reached (READONLY You can't write against a read only replica); pushes are" in line
    with pytest.raises(StoreDown):
        cluster.ask(here.push(push("bob")))
    kept.ask("REPLICAOF", "NO", "ONE")
    cluster.find_again()
    assert cluster.ask(here.push(push("bob", body="1"))).delivered == 1
    assert data(parked.value) == ["1"]


def test_a_script_that_redis_has_forgotten_is_given_again(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    kept.ask("SCRIPT", "FLUSH")
    with capturedLogs() as logged, pytest.raises(StoreDown):
        cluster.ask(here.push(push("bob")))
    assert not any("NOSCRIPT" in line for line in told(logged))
    cluster.find_again()
    assert data(cluster.ask(here.poll(("bob",), OLDEST, 0.0))) == []
    cluster.ask(here.push(push("bob", body="1")))
    assert data(cluster.ask(here.poll(("bob",), OLDEST))) == ["1"]


def test_an_error_of_redis_that_is_not_expected_is_noted_and_fails_what_was_asked(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    cluster.ask(here.push(push("bob")))
    kept.ask("RENAME", "p:messages:bob", "p:kept")
    kept.ask("SET", "p:messages:bob", "another program's")
    with capturedLogs() as logged, pytest.raises(StoreDown):
        cluster.ask(here.push(push("bob")))
    assert any("says: " in line and "WRONGTYPE" in line for line in told(logged))
    kept.ask("RENAME", "p:kept", "p:messages:bob")
    cluster.find_again()
    cluster.ask(here.push(push("bob")))
    assert len(cluster.ask(here.poll(("bob",), OLDEST)).messages) == 2


@pytest.mark.parametrize(
    ("options", "address", "sentence"),
    [
        (("--requirepass", "right"), "redis://:wrong@localhost/0", "WRONGPASS"),
        (("--requirepass", "right"), "redis://localhost/0", "NOAUTH"),
        ((), "redis://localhost/99", "DB index is out of range"),
        (("--rename-command", "HELLO", ""), "redis://localhost/0", "unknown command"),
    ],
)
def test_a_redis_that_cannot_be_used_is_not_waited_for(
    tmp_path: Path, options: tuple[str, ...], address: str, sentence: str
) -> None:
    server = RedisServer(tmp_path, *options).start()
    cluster = Cluster(server, "p")
    _, opened = begin(cluster, address)
    with pytest.raises(
        StoreUnusable, match=f"The store redis://localhost:6379/[09]+ cannot be used: .*{sentence}"
    ):
        _ = opened.value
    assert cluster.clock.getDelayedCalls() == []
    server.kill()


DOCS = Path(__file__).parents[1] / "docs" / "redis.md"
(ACL,) = re.findall(r"`(~cometd-lite:\* [^`]+)`", DOCS.read_text())
RULES = ["on", ">PASSWORD", *ACL.replace("cometd-lite:", "p:").split()]


def as_user(cluster: Cluster, rules: list[str]) -> tuple[Hub, Outcome]:
    """Start a process whose user has these rules."""
    cluster.server.ask("ACL", "SETUSER", "comet", "reset", *rules)
    return begin(cluster, "redis://comet:PASSWORD@localhost/0?prefix=p:")


def test_a_user_with_the_rules_of_the_docs_may_do_all_that_is_needed(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p", capacity=3, max_recipients=3)
    (here, opened), (there, _) = as_user(cluster, RULES), as_user(cluster, RULES)
    assert opened.value is None
    with capturedLogs() as logged:
        parked = cluster.begin(there.poll(("eve/*",), OLDEST))
        assert cluster.ask(here.push(push("eve/a", key="k"))).delivered == 1
        assert data(parked.value) == ["hi"]
        listeners = Listeners(here, 10)
        listener = cluster.ask(listeners.register(("bob",)))
        for _ in range(5):
            place = Cursor.parse(cluster.ask(here.push(push("bob", overflow="drop-oldest"))).id)
        cluster.ask(listeners.poll(cluster.ask(listeners.get(listener.id)), None, 0.0, 2))
        cluster.ask(here.poll(("bob", "**"), place, 0.0))
        batch = cluster.ask(there.take(("bob",)))
        there.give_back(batch)
        cluster.wires.settle()
        cluster.ask(here.describe("bob"))
        cluster.ask(here.store.names("", "", 10, lambda _: True))
        for name in ("a", "b", "c", "d"):
            cluster.ask(here.poll(("**",), cluster.end(here), 0.0))
            cluster.ask(here.push(push(name)))
        cluster.ask(here.push(push("bob", queue=False))) if cluster.begin(there.poll(("bob",), NOW)) else None
        assert not cluster.ask(listeners.are_none())
        cluster.ask(listeners.end(listener))
        cluster.ask(here.delete("d"))
        there.shared.rpc.ask(here.store.process, b"x").addErrback(lambda _: None)  # type: ignore[union-attr]
        sweep(cluster)
        cluster.ask(here.push(push("short", ttl=5.0)))
        cluster.clock.advance(6)
        sweep(cluster)
    assert [line for line in told(logged) if "perm" in line.lower()] == []
    assert cluster.ask(here.poll(("short",), OLDEST, 0.0)).messages == ()
    cluster.close()


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule[0] in "+~&"])
def test_a_rule_that_the_user_lacks_is_named_when_the_server_starts(redis: RedisServer, rule: str) -> None:
    cluster = Cluster(redis, "p")
    _, opened = as_user(cluster, [other for other in RULES if other != rule])
    cluster.hubs.clear()
    command = (
        re.escape(rule.lstrip("+")) + f"|{rule[1:].partition('|')[0]}"
    )  # so much is what version 6 names
    named = "channel|key|p:" if rule[0] in "~&" else f"'({command})'|{re.escape(rule)}\\b"
    with pytest.raises(StoreUnusable, match=rf"The store .* cannot be used: .*({named})"):
        _ = opened.value
    assert cluster.clock.getDelayedCalls() == []


def test_the_right_password_and_another_database_lead_to_redis(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--requirepass", "right").start()
    cluster = Cluster(server, "p")
    hub, opened = begin(cluster, "redis://:right@localhost/3?prefix=p:")
    assert opened.value is None
    cluster.ask(hub.push(push("bob", body="1")))
    assert data(cluster.ask(hub.poll(("bob",), OLDEST))) == ["1"]
    server.kill()


def test_a_redis_that_is_too_old_is_told_with_its_version(cluster: Cluster) -> None:
    cluster.wires.changes = lambda: (
        lambda said: re.sub(rb"(version\r\n)\$\d+\r\n[^\r]+", rb"\1$6\r\n6.0.16", said)
    )
    _, opened = begin(cluster)
    cluster.hubs.clear()
    with pytest.raises(StoreUnusable, match=r"it has version 6\.0\.16, and 6\.2 is needed"):
        _ = opened.value


def test_what_lies_in_redis_in_another_layout_is_not_touched_and_told_in_a_sentence(
    cluster: Cluster,
) -> None:
    cluster.ask(cluster.join().push(push("bob", body="1")))
    ours = cluster.server.ask("HGET", f"{cluster.prefix}:log", "layout")
    cluster.server.ask("HSET", f"{cluster.prefix}:log", "layout", "99")
    before = cluster.server.ask("HGETALL", f"{cluster.prefix}:log")
    _, opened = begin(cluster)
    cluster.hubs.pop()
    with pytest.raises(
        StoreUnusable,
        match=rf"has layout 99, and this version of cometd-lite has layout {int(ours)} \(docs/redis.md says",
    ):
        _ = opened.value
    assert cluster.server.ask("HGETALL", f"{cluster.prefix}:log") == before
    cluster.server.ask("HDEL", f"{cluster.prefix}:log", "layout")  # as versions without layouts have left it
    _, opened = begin(cluster)
    cluster.hubs.pop()
    with pytest.raises(StoreUnusable, match="has layout 1, and"):
        _ = opened.value
    cluster.server.ask("HSET", f"{cluster.prefix}:log", "layout", ours)


def test_a_process_that_finds_another_layout_when_it_comes_back_says_so_once_and_waits(
    cluster: Cluster,
) -> None:
    hub = cluster.join()
    ours = cluster.server.ask("HGET", f"{cluster.prefix}:log", "layout")
    cluster.server.ask("HSET", f"{cluster.prefix}:log", "layout", "99")
    with capturedLogs() as logged:
        cluster.wires.wires[0].abortConnection()
        cluster.find_again()
    assert sum("has layout 99, and this version" in line for line in told(logged)) == 1
    with pytest.raises(StoreDown):
        cluster.ask(hub.push(push("bob")))
    cluster.server.ask("HSET", f"{cluster.prefix}:log", "layout", ours)
    cluster.find_again()
    cluster.ask(hub.push(push("bob")))


def test_processes_are_renewed_one_after_the_other_and_readers_go_on(cluster: Cluster) -> None:
    cluster.join(), cluster.join()
    place, read = cluster.end(cluster.hubs[0]), []
    for turn in range(4):
        parked = cluster.begin(cluster.hubs[1].poll(("bob",), place, 100.0))
        cluster.push(0, "bob", str(turn))
        read += data(parked.value)
        place = parked.value.cursor
        cluster.ask(cluster.hubs.pop(0).store.close())
        # Another version of the same layout may have other bounds, and so another script.
        cluster.limits = Limits(capacity=100 + turn)
        cluster.join()
    assert read == ["0", "1", "2", "3"]
    assert not cluster.ask(cluster.hubs[0].poll(("bob",), place, 0.0)).gap


def test_a_redis_that_does_not_greet_is_tried_again(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    cluster.wires.patience = 0.0
    kept.pause()
    hub, opened = begin(cluster)
    cluster.clock.advance(STORE_STALLED_SECONDS)
    assert opened.parked
    kept.go_on()
    cluster.wires.patience = 10.0
    cluster.find_again()
    assert opened.value is None
    cluster.ask(hub.push(push("bob")))


class Refusal:
    """What lets a Redis refuse writes, and what heals it."""

    def __init__(self, server: RedisServer, code: str) -> None:
        self.server = server
        self.code = code

    def begin(self) -> None:
        if self.code == "OOM":
            self.server.ask("CONFIG", "SET", "maxmemory", 1)
        elif self.code == "NOREPLICAS":
            self.server.ask("CONFIG", "SET", "min-replicas-to-write", 1)
        else:
            # A snapshot cannot be put at the place of a directory.
            self.server.ask("CONFIG", "SET", "save", "3600 1000000")
            (self.server.directory / "dump.rdb").mkdir()
            self.snapshot("err")

    def heal(self) -> None:
        if self.code == "OOM":
            self.server.ask("CONFIG", "SET", "maxmemory", 0)
        elif self.code == "NOREPLICAS":
            self.server.ask("CONFIG", "SET", "min-replicas-to-write", 0)
        else:
            (self.server.directory / "dump.rdb").rmdir()
            self.snapshot("ok")

    def snapshot(self, status: str) -> None:
        self.server.ask("BGSAVE")
        deadline = time.monotonic() + 20
        while f"rdb_last_bgsave_status:{status}".encode() not in self.server.ask("INFO", "persistence"):
            assert time.monotonic() < deadline, "no snapshot"
            time.sleep(0.005)


@pytest.fixture(params=["OOM", "MISCONF", "NOREPLICAS"])
def refusal(request: pytest.FixtureRequest, kept: RedisServer) -> Refusal:
    return Refusal(kept, request.param)


def sweep(cluster: Cluster) -> None:
    """Let a second pass, in which every process looks after its store."""
    cluster.clock.advance(1)
    for hub in cluster.hubs:
        hub.sweep()
    cluster.wires.settle()


def test_what_a_redis_holds_that_refuses_writes_is_read_and_the_log_says_once_why(
    kept: RedisServer, refusal: Refusal
) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    first = Cursor.parse(cluster.ask(here.push(push("bob", body="1"))).id)
    cluster.ask(here.push(push("bob", body="2")))
    refusal.begin()
    with capturedLogs() as logged:
        for _ in range(3):
            with pytest.raises(StoreDown, match="cannot write now"):
                cluster.ask(here.push(push("bob", body="3")))
            sweep(cluster)
        assert here.store.state() == "down"
        assert data(cluster.ask(here.poll(("bob",), first))) == ["2"]
        assert data(cluster.ask(here.poll(("*",), first))) == ["2"]
        assert cluster.ask(here.describe("bob")).newest.sequence == 2
    (line,) = told(logged)
    assert "takes no pushes until" in line
    assert f"(Redis says: {refusal.code} " in line
    parked = cluster.begin(here.poll(("bob",), cluster.end(here), 100.0))
    with capturedLogs() as logged:
        refusal.heal()
        sweep(cluster)
    assert ["takes pushes again" in line for line in told(logged)] == [True]
    assert here.store.state() == "ok"
    cluster.ask(here.push(push("bob", body="3")))
    assert data(parked.value) == ["3"]
    cluster.close()


def test_a_take_waits_for_a_redis_that_refuses_writes_unless_that_has_no_memory_only(
    kept: RedisServer, refusal: Refusal
) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    cluster.ask(here.push(push("bob", body="1")))
    refusal.begin()
    taken = cluster.begin(here.take(("bob",), 100.0))
    if refusal.code != "OOM":
        assert taken.parked
        with pytest.raises(StoreDown):
            cluster.ask(here.take(("bob",), 0.0))
        refusal.heal()
        sweep(cluster)
    assert data(taken.value) == ["1"]
    refusal.heal() if refusal.code == "OOM" else None
    assert data(cluster.ask(here.take(("bob",), 0.0))) == []
    cluster.close()


def test_what_was_acknowledged_while_redis_refused_writes_is_noted_afterwards(
    kept: RedisServer, refusal: Refusal
) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    place = Cursor.parse(cluster.ask(here.push(push("bob"))).id)
    refusal.begin()
    assert data(cluster.ask(here.poll(("bob",), place, 0.0))) == []
    refusal.heal()
    sweep(cluster)
    cluster.wires.settle()
    assert cluster.ask(cluster.join().describe("bob")).queued == 0
    cluster.close()


def test_a_mailbox_is_deleted_unless_redis_takes_no_writes_at_all(
    kept: RedisServer, refusal: Refusal
) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    cluster.ask(here.push(push("bob")))
    refusal.begin()
    if refusal.code == "OOM":
        cluster.ask(here.delete("bob"))
    else:
        with pytest.raises(StoreDown):
            cluster.ask(here.delete("bob"))
    left = cluster.ask(here.poll(("bob",), OLDEST, 0.0))
    assert len(left.messages) == (0 if refusal.code == "OOM" else 1)
    refusal.heal()
    cluster.close()


def test_what_has_expired_is_not_read_and_told_as_a_gap_though_redis_cannot_let_it_go(
    kept: RedisServer, refusal: Refusal
) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    before = cluster.end(here)
    cluster.ask(here.push(push("bob", body="1", ttl=10.0)))
    cluster.ask(here.push(push("bob", body="2")))
    refusal.begin()
    cluster.clock.advance(11)
    for name in ("bob", "*"):
        batch = cluster.ask(here.poll((name,), before))
        assert (data(batch), batch.gap) == (["2"], True)
    assert cluster.ask(here.describe("bob")).queued == 1
    refusal.heal()
    sweep(cluster)
    assert data(cluster.ask(here.poll(("bob",), OLDEST))) == ["2"]
    cluster.close()


def test_a_listener_goes_on_while_redis_refuses_writes(kept: RedisServer, refusal: Refusal) -> None:
    cluster = Cluster(kept, "p")
    hub = cluster.join()
    here = Listeners(hub, 100)
    listener = cluster.ask(here.register(("bob",)))
    for body in "12":
        cluster.ask(hub.push(push("bob", body=body)))
    refusal.begin()
    for body in "12":
        listener = cluster.ask(here.get(listener.id))
        assert data(cluster.ask(here.poll(listener, None, 0.0, 1))) == [body]
    assert data(cluster.ask(here.poll(cluster.ask(here.get(listener.id)), None, 0.0, 1))) == []
    if refusal.code != "OOM":
        with pytest.raises(StoreDown):
            cluster.ask(here.register(("eve",)))
        assert len(here) == 1
    refusal.heal()
    sweep(cluster)
    cluster.wires.settle()
    there = Listeners(cluster.join(), 100)
    found = cluster.ask(there.get(listener.id))
    assert data(cluster.ask(there.poll(found, None, 0.0, 1))) == []
    cluster.close()


def test_a_process_reads_a_redis_that_refused_writes_when_it_started(
    kept: RedisServer, refusal: Refusal
) -> None:
    cluster = Cluster(kept, "p")
    cluster.ask(cluster.join().push(push("bob", body="1")))
    kept.ask("HSET", "p:log", "run", "1 another")  # as if Redis had been started again
    refusal.begin()
    late = cluster.join()
    assert data(cluster.ask(late.poll(("bob",), OLDEST))) == ["1"]
    refusal.heal()
    sweep(cluster)
    cluster.wires.settle()
    cluster.ask(late.push(push("bob", body="2")))
    batch = cluster.ask(late.poll(("bob",), OLDEST))
    assert (data(batch), batch.gap) == (["1", "2"], False)
    assert kept.ask("HGET", "p:log", "run") != b"1 another"
    cluster.close()


def test_what_was_read_makes_room_for_a_push_where_redis_has_no_memory(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    for number in range(200):
        place = cluster.ask(here.push(push(f"bob/{number}", body="x" * 10_000))).id
    used = int(re.search(rb"used_memory:(\d+)", kept.ask("INFO", "memory"))[1])  # type: ignore[index]
    kept.ask("CONFIG", "SET", "maxmemory", used - 500_000)
    with pytest.raises(StoreDown):
        cluster.ask(here.push(push("eve")))
    cluster.ask(here.poll(("bob/*",), Cursor.parse(place), 0.0))
    cluster.ask(here.push(push("eve", body="1")))
    assert data(cluster.ask(here.poll(("eve",), OLDEST))) == ["1"]
    kept.ask("CONFIG", "SET", "maxmemory", 0)
    cluster.close()


def test_what_a_take_gave_back_while_redis_was_away_is_given_back_afterwards(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    cluster.ask(here.push(push("bob", body="1")))
    batch = cluster.ask(here.take(("bob",)))
    kept.kill()
    cluster.wires.settle()
    here.give_back(batch)
    come_back(cluster)
    assert data(cluster.ask(here.take(("bob",), 0.0))) == ["1"]


def test_a_lease_whose_worker_left_while_redis_was_away_counts_as_no_attempt_afterwards(
    kept: RedisServer,
) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    cluster.ask(here.push(push("jobs", body="1")))
    batch = cluster.ask(here.lease(("jobs",), 3_600.0))
    kept.kill()
    cluster.wires.settle()
    here.give_back(batch)
    come_back(cluster)
    assert [message.attempt for message in cluster.ask(here.lease(("jobs",), 60.0, 0.0)).leased] == [1]


def test_while_redis_is_away_workers_wait_and_are_given_what_is_there_afterwards(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    cluster.ask(here.push(push("jobs", body="1")))
    kept.kill()
    cluster.wires.settle()
    refused = Outcome(here.settle("jobs", [LeaseId("epoch00000", 1, 1, "A" * 22)], "done"))
    with pytest.raises(StoreDown):
        _ = refused.value
    come_back(cluster)
    (message,) = cluster.ask(here.lease(("jobs",), 60.0)).leased
    settled = cluster.ask(here.settle("jobs", [LeaseId.parse(message.lease)], "done"))
    assert list(settled) == ["done"]


def test_an_event_that_was_on_its_way_when_redis_went_away_is_kept_once_it_is_back(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    store = cluster.join().shared
    assert store is not None
    kept.kill()
    store.remember("event", "1", lambda: b"{}", cluster.clock.seconds() + 60)
    cluster.wires.settle()
    come_back(cluster)
    assert cluster.ask(store.claims.count("event")) == 1
    cluster.close()


def test_what_was_asked_before_the_end_is_answered_before_the_store_is_closed(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    pushed = Outcome(here.push(push("bob", body="1")))
    closed = Outcome(here.store.close())
    assert closed.parked
    cluster.wires.settle()
    assert closed.value is None
    assert pushed.value.delivered == 0
    cluster.hubs.remove(here)
    assert data(cluster.ask(there.poll(("bob",), OLDEST))) == ["1"]
    with pytest.raises(StoreDown):
        cluster.ask(here.push(push("bob")))


def test_the_bound_on_sessions_bounds_no_events(redis: RedisServer) -> None:
    cluster = Cluster(redis, "events", max_sessions=2)
    store = cluster.join().shared
    assert store is not None
    for number in range(5):
        store.remember("event", str(number), lambda: b"{}", cluster.clock.seconds() + 60)
    cluster.wires.settle()
    assert cluster.ask(store.claims.count("event")) == 5
    cluster.close()


def test_while_redis_is_away_listeners_cannot_be_registered_nor_found(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here = Listeners(cluster.join(), 100)
    listener = cluster.ask(here.register(("bob",)))
    kept.kill()
    cluster.wires.settle()
    with pytest.raises(StoreDown):
        cluster.ask(here.register(("bob",)))
    with pytest.raises(StoreDown):
        cluster.ask(here.get(listener.id))
    here.sweep()
    come_back(cluster)
    assert cluster.ask(here.get(listener.id)) is listener


def test_a_recipient_is_not_described_while_redis_is_away(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    asked = Outcome(here.describe("bob"))
    kept.kill()
    cluster.wires.settle()
    with pytest.raises(StoreDown):
        _ = asked.value
    come_back(cluster)
    assert not cluster.ask(here.describe("bob")).online


def test_a_process_that_stands_still_is_not_waited_for_by_those_who_describe(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    parked = [cluster.begin(hub.poll(("bob",), OLDEST, 100.0)) for hub in (here, there)]
    still = cluster.wires.wires.pop()
    asked = cluster.begin(here.describe("bob"))
    assert asked.parked
    cluster.clock.advance(REDIS_COUNT_SECONDS)
    assert (asked.value.waiting, asked.value.online) == (1, True)
    cluster.wires.wires.append(still)
    assert cluster.ask(here.describe("bob")).waiting == 2
    for poll in parked:
        poll.cancel()


# -- a Redis that has lost something


def test_what_redis_has_lost_is_told_as_a_gap_by_every_process(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--save", "3600 1").start()
    cluster = Cluster(server, "p")
    here, there = cluster.join(), cluster.join()
    cluster.ask(here.push(push("bob", body="1")))
    kept = cluster.end(here)
    server.ask("SAVE")
    lost = cluster.ask(there.push(push("bob", body="2"))).id
    parked = [cluster.begin(hub.poll(("eve",), cluster.end(there), 100.0)) for hub in (here, there)]
    server.kill()
    cluster.wires.settle()
    come_back(cluster)
    assert all(poll.value.gap for poll in parked)
    for hub in (here, there, cluster.join()):
        for place in (kept, Cursor.parse(lost)):
            batch = cluster.ask(hub.poll(("bob",), place))
            assert batch.gap
    again = cluster.ask(here.push(push("bob", body="3"))).id
    assert Cursor.parse(again).sequence > Cursor.parse(lost).sequence
    batch = cluster.ask(there.poll(("bob",), Cursor.parse(lost)))
    assert (data(batch), batch.gap) == (["3"], True)
    assert not cluster.ask(there.poll(("bob",), batch.cursor, 0.0)).gap
    server.kill()


def test_a_process_that_comes_late_knows_that_something_was_lost_though_numbers_went_on(
    tmp_path: Path,
) -> None:
    server = RedisServer(tmp_path, "--save", "3600 1").start()
    cluster = Cluster(server, "p")
    _, late = cluster.join(), cluster.join()
    server.ask("SAVE")
    for body in "123":
        cluster.ask(late.push(push("bob", body=body)))
    seen = cluster.end(late)
    assert seen.sequence == 3
    server.kill()
    server.start()
    connections, cluster.wires.wires = cluster.wires.wires, []  # of none of them anything is heard any more
    another = cluster.join()  # it knows of nothing, and enters first
    for body in "456789":
        cluster.ask(another.push(push("bob", body=body)))
    # No process can know it yet. But no number that was read is given again: its message would be missed.
    batch = cluster.ask(another.poll(("bob",), seen))
    assert (data(batch), batch.gap) == (list("456789"), False)
    for connection in connections:
        connection.abortConnection()
    cluster.find_again()
    batch = cluster.ask(another.poll(("bob",), seen))
    assert (data(batch), batch.gap) == (list("456789"), True)
    server.kill()


def test_a_redis_that_was_emptied_is_another_log(redis: RedisServer, cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    cluster.ask(here.push(push("bob")))
    before = cluster.end(here)
    for key in redis.ask("KEYS", f"{cluster.prefix}:*"):
        redis.ask("DEL", key)
    for hub in (here, there):
        with pytest.raises(StoreDown):
            cluster.ask(hub.push(push("bob")))
    cluster.find_again()
    cluster.ask(here.push(push("bob", body="new")))
    batch = cluster.ask(there.poll(("bob",), before))
    assert (data(batch), batch.gap) == (["new"], True)


# -- what it keeps here


def listened_to(cluster: Cluster) -> set[str]:
    """Return the keys whose wakes any process listens to."""
    prefix = f"{cluster.prefix}:wake:"
    return {
        channel.decode().removeprefix(prefix)
        for channel in cluster.server.ask("PUBSUB", "CHANNELS", f"{prefix}*")
    }


def test_who_asks_the_same_at_the_same_time_is_answered_by_one_look(cluster: Cluster) -> None:
    here = cluster.join()
    cluster.ask(here.push(push("bob", body="1")))
    asked = [here.store.read(("bob",), OLDEST, 10, 0.0) for _ in range(100)]
    batches = {id(cluster.ask(one)) for one in asked}
    assert len(batches) == 1


def test_names_that_are_not_asked_for_are_not_listened_to_for_long(cluster: Cluster) -> None:
    here = cluster.join()
    parked = cluster.begin(here.poll(("bob",), OLDEST, 1_000.0))
    for number in range(50):
        cluster.ask(here.poll((f"eve{number}",), OLDEST, 0.0))
    assert cluster.server.ask("PUBSUB", "NUMSUB", f"{cluster.prefix}:wake:eve7")[1] == 1
    cluster.clock.advance(REDIS_STAND_SECONDS + 1)
    here.sweep()
    cluster.wires.settle()
    assert cluster.server.ask("PUBSUB", "NUMSUB", f"{cluster.prefix}:wake:eve7")[1] == 0
    assert listened_to(cluster) == {"bob"}
    assert cluster.ask(here.push(push("bob"))).delivered == 1
    assert data(parked.value) == ["hi"]


def test_however_many_names_are_asked_for_few_are_listened_to_besides_those_where_readers_wait(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cometd_lite.stores.redis.wakes.REDIS_STANDING", 10)
    here = cluster.join()
    parked = cluster.begin(here.poll(("bob",), OLDEST, 1_000.0))
    for number in range(200):
        cluster.ask(here.poll((f"eve{number}",), OLDEST, 0.0))
        if number % 10 == 9:
            assert len(listened_to(cluster)) <= 11
    assert cluster.ask(here.push(push("bob"))).delivered == 1
    assert data(parked.value) == ["hi"]


class Reading(Registry):
    """The readers of a process that are woken, and whose reads never end."""

    def wakes_ended(self) -> MaybeDeferred[None]:
        return Deferred()


def test_a_push_does_not_wait_until_the_readers_of_other_processes_have_read(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    readers = Reading(cluster.clock, 1_000)
    there.store.share(readers)
    reader = Poll(there, ("bob",), OLDEST, 10, True, lambda found: found)
    cluster.begin(there.store.read(("bob",), OLDEST, 10, 0.0))
    readers.park(reader, 100.0)
    assert cluster.ask(here.push(push("bob"))).delivered == 1


def test_a_push_that_is_not_kept_waits_until_the_readers_of_other_processes_have_read(
    cluster: Cluster,
) -> None:
    here, there = cluster.join(), cluster.join()
    polled = cluster.begin(there.poll(("bob",), OLDEST, 100.0))
    assert cluster.ask(here.push(push("bob", body="1", queue=False))).delivered == 1
    assert data(polled.value) == ["1"]
    cluster.begin(there.poll(("bob",), OLDEST, 100.0))
    there.store.share(Reading(cluster.clock, 1_000))
    pushed = cluster.begin(here.push(push("bob", queue=False)))
    assert pushed.parked
    cluster.clock.advance(REDIS_COUNT_SECONDS)
    cluster.wires.settle()
    with pytest.raises(NobodyWaits):
        _ = pushed.value


def test_a_process_that_does_not_report_holds_up_a_push_for_a_moment_only(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    cluster.begin(there.poll(("bob",), OLDEST, 100.0))
    still = cluster.wires.wires.pop()
    pushed = cluster.begin(here.push(push("bob")))
    assert pushed.parked
    cluster.clock.advance(REDIS_COUNT_SECONDS)
    assert pushed.value.delivered == 0
    cluster.wires.wires.append(still)


def published(cluster: Cluster) -> int:
    """Return how often Redis has published something, with or without listeners."""
    found = re.search(rb"cmdstat_publish:calls=(\d+)", cluster.server.ask("INFO", "commandstats"))
    return int(found[1]) if found else 0


def test_a_push_publishes_only_where_readers_stand(cluster: Cluster) -> None:
    _, there = cluster.join(), cluster.join()
    before = published(cluster)
    cluster.push(0, "a/b/c", "1")
    assert published(cluster) == before
    poll = cluster.begin(there.poll(("a/b/c",), NOW, 100.0))
    before = published(cluster)
    cluster.push(0, "a/b/c", "2")
    assert data(poll.value) == ["2"]
    assert published(cluster) == before + 2  # the name, and the report of how many it woke


def test_what_a_process_alone_listens_to_is_not_published_when_it_pushes_itself(cluster: Cluster) -> None:
    here = cluster.join()
    cluster.join()
    poll = cluster.begin(here.poll(("a",), NOW, 100.0))
    before = published(cluster)
    receipt = cluster.ask(here.push(push("a", body="1")))
    assert (receipt.delivered, data(poll.value)) == (1, ["1"])
    again = cluster.begin(here.poll(("a",), poll.value.cursor, 100.0))
    assert cluster.ask(here.push(push("a", body="2", queue=False))).delivered == 1
    assert data(again.value) == ["2"]
    assert published(cluster) == before


def test_readers_that_come_while_their_process_enters_the_log_are_listened_to(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here, there = cluster.join(), cluster.join()
    cluster.wires.wires[1].abortConnection()
    while kept.ask("PUBSUB", "NUMSUB", "p:all")[1] > 1:
        time.sleep(0.001)  # Redis has not seen the end of the connection
    while kept.ask("PUBSUB", "NUMSUB", "p:all")[1] == 1:
        cluster.wires.wires[-1].look(1.0)  # it listens then, and has not entered the log
    come = Outcome(there.poll(("come",), OLDEST, 100.0))
    cluster.wires.settle()
    assert come.parked
    assert cluster.ask(here.push(push("come", body="1"))).delivered == 1
    assert data(come.value) == ["1"]


def test_as_many_messages_as_a_push_may_make_go_to_many_mailboxes_and_are_taken_back(
    cluster: Cluster,
) -> None:
    here = cluster.join()
    names = tuple([f"name{number}" for number in range(PUSH_MESSAGES)])
    poll = cluster.begin(here.poll((names[-1],), OLDEST, 100.0))
    assert cluster.ask(here.push(push(*names, body="1"))).delivered == 1
    assert data(poll.value) == ["1"]
    lines = tuple([Content(b"2", "text/plain", "text")] * PUSH_MESSAGES)
    with pytest.raises(NobodyWaits):
        cluster.ask(here.push(Push(("bob",), lines, queue=False)))
    assert cluster.ask(here.describe("bob")).newest is None


def test_patterns_are_published_to_for_as_long_as_a_process_has_readers_of_one(cluster: Cluster) -> None:
    here, there = cluster.join(), cluster.join()
    polls = [cluster.begin(there.poll((name,), NOW, 100.0)) for name in ("a/*", "a/**", "**")]
    assert cluster.ask(here.push(push("a/b", body="1"))).delivered == 3
    assert [data(poll.value) for poll in polls] == [["1"]] * 3
    again = cluster.begin(there.poll(("a/*",), NOW, 1_000.0))
    cluster.clock.advance(REDIS_STAND_SECONDS + 1)
    sweep(cluster)
    assert cluster.ask(here.push(push("a/b", body="2"))).delivered == 1
    assert data(again.value) == ["2"]
    cluster.clock.advance(REDIS_STAND_SECONDS + 1)
    sweep(cluster)
    before = published(cluster)
    assert cluster.ask(here.push(push("a/b", body="3"))).delivered == 0
    assert published(cluster) == before


def test_readers_of_patterns_are_woken_after_a_reconnect(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here, there = cluster.join(), cluster.join()
    poll = cluster.begin(there.poll(("a/*",), NOW, 100.0))
    cluster.wires.wires[1].abortConnection()
    cluster.find_again()
    assert cluster.ask(here.push(push("a/b", body="1"))).delivered == 1
    assert data(poll.value) == ["1"]


# -- what it takes in Redis


def commands(server: RedisServer) -> dict[str, int]:
    """Return how often each command was run, by scripts too."""
    found = re.findall(r"cmdstat_(\S+):calls=(\d+)", server.ask("INFO", "commandstats").decode())
    return {name: int(calls) for name, calls in found}


def test_a_push_to_a_mailbox_that_is_there_takes_five_commands(kept: RedisServer) -> None:
    cluster = Cluster(kept, "p")
    here = cluster.join()
    cluster.ask(here.push(push("bob")))
    before = commands(kept)
    for _ in range(10):
        cluster.ask(here.push(push("bob")))
    taken = {name: calls - before.get(name, 0) for name, calls in commands(kept).items()}
    counted = {name.partition("|")[0]: calls for name, calls in taken.items() if calls}
    del counted["echo"], counted["info"]  # those of the test
    assert counted == dict.fromkeys(("evalsha", "mget", "rpush", "xadd", "pubsub", "mset"), 10)


def test_a_push_that_comes_alone_to_readers_elsewhere_has_redis_write_to_them_first(
    kept: RedisServer,
) -> None:
    cluster = Cluster(kept, "f")
    here, there = cluster.join(), cluster.join()
    before = commands(kept)["unsubscribe"]
    polls = [cluster.begin(there.poll((name,), OLDEST)) for name in ("bob", "tom")]
    for name in ("bob", "tom", "nobody", "nobody"):  # a push is as the one before it was
        cluster.ask(here.push(push(name)))
    assert commands(kept)["unsubscribe"] - before == 2
    assert [data(poll.value) for poll in polls] == [["hi"], ["hi"]]


def sent_by(server: RedisServer) -> int:
    """Return the bytes that Redis has sent to all of its clients."""
    found = re.search(rb"total_net_output_bytes:(\d+)", server.ask("INFO", "stats"))
    assert found is not None
    return int(found[1])


def test_a_stream_whose_client_is_slow_reads_little_more_than_it_takes(cluster: Cluster) -> None:
    here = cluster.join()
    bodies = [f"{number:02}" + "x" * 10_000 for number in range(90)]
    for body in bodies:
        cluster.push(0, "bob", body)
    read: list[Any] = []

    def send(batch: Batch) -> bool:
        read.extend(data(batch))
        return False  # it takes no more until it is told to go on

    before = sent_by(cluster.server)
    follower = here.follow(("bob",), OLDEST, send)
    while len(read) < len(bodies):
        follower.go_on()
        cluster.wires.settle()
    assert read == bodies
    assert sent_by(cluster.server) - before < 3 * sum(map(len, bodies))
    Outcome(follower).cancel()


def test_mailboxes_take_little_memory_with_the_default_configuration(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    cluster = Cluster(server, "cometd-lite")
    here = cluster.join()
    names = [f"room/{number}" for number in range(100, 600)]

    def used() -> int:
        return int(re.search(rb"used_memory:(\d+)", server.ask("INFO", "memory"))[1])  # type: ignore[index]

    def fill(names: Iterable[str]) -> int:
        before = used()
        pushed = [Outcome(here.push(push(name, body="x" * 100))) for name in names]
        cluster.wires.settle()
        assert all(outcome.value.delivered == 0 for outcome in pushed)
        return used() - before

    fill(["warm up"])
    empty = used()
    assert fill(names) < 1_200 * len(names)
    assert fill(names) < 250 * len(names)
    assert fill(names[:10] * 50) < 250 * 500
    usage = here.store.usage()
    assert used() - empty < 1.5 * usage.memory
    server.kill()


# -- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("redis://localhost", Address(hosts=(("localhost", 6379),))),
        (
            "redis://:p%40ss@10.0.0.1:6380/2",
            Address(hosts=(("10.0.0.1", 6380),), password="p@ss", database=2),
        ),
        (
            "rediss://me:secret@[::1]:6380/0?prefix=chat:&ca=/etc/ca.pem",
            Address(
                hosts=(("::1", 6380),),
                tls=True,
                ca="/etc/ca.pem",
                username="me",
                password="secret",
                prefix="chat:",
            ),
        ),
        ("unix:/run/redis/redis.sock?db=3", Address(path="/run/redis/redis.sock", database=3)),
        ("unix:///run/redis.sock", Address(path="/run/redis.sock")),
        (
            "redis+sentinel://:x@one,two:26380/mymaster/1",
            Address(hosts=(("one", 26379), ("two", 26380)), service="mymaster", password="x", database=1),
        ),
        ("rediss+sentinel://one/m", Address(hosts=(("one", 26379),), service="m", tls=True)),
    ],
)
def test_an_address_says_where_and_how(text: str, address: Address) -> None:
    assert Address.parse(text) == address


def test_an_address_is_shown_without_its_password() -> None:
    for text in ("redis://me:secret@localhost:6379/1", "redis+sentinel://me:secret@one,[::1]/m"):
        assert "secret" not in str(Address.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "redis://", "redis://a,b", "redis://a:x", "redis://a:99999", "redis://a/x", "redis://a/1/2", "unix:",
        "unix:here.sock", "redis+sentinel://a", "redis://a?pool=3", "redis://a?prefix=", "redis://a?=",
    ],
)  # fmt: skip
def test_an_address_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"as in|only|host|behind"):
        Address.parse(text)
