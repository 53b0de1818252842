"""HTTP.md, "Webhooks", over several processes at one Redis: one of them tells each event."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import pytest
from receivers import KEY, FakeReceiver
from test_http_cluster import Cluster, Clusters, clusters, lose  # noqa: F401  a fixture

from cometd_lite.limits import (
    ONLINE_SECONDS,
    POSTING_CLAIM_SECONDS,
    POSTING_RENEWED_SECONDS,
    REDIS_PRESENCE_BEAT_SECONDS,
    UNREAD_AT_ONCE,
    UNREAD_TAKEN_OVER_SECONDS,
    Limits,
)
from cometd_lite.stores.redis.wakes import Wakes
from cometd_lite.webhooks.absences import SharedAbsences


class Told:
    """A cluster, and the application that each of its processes would tell."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.receivers: list[FakeReceiver] = []

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.cluster.advance(1)

    @property
    def taken(self) -> list[list[Any]]:
        """The names or recipients that were told, by the process that told them."""
        return [
            [(event["event"], event.get("name", event["recipient"])) for event in receiver.taken]
            for receiver in self.receivers
        ]

    @property
    def all(self) -> list[Any]:
        return [event for taken in self.taken for event in taken]


@pytest.fixture
def told(clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:  # noqa: F811
    """Return a function that makes a cluster of two processes, of which the first posts."""

    def make(**words: Any) -> Told:
        told = Told(clusters(notify_url="http://app.example", notify_key=KEY, **words))

        def post_to(url: str, seconds: float) -> FakeReceiver:
            told.receivers.append(FakeReceiver())
            return told.receivers[-1]

        monkeypatch.setattr("cometd_lite.webhooks.service.post_to", post_to)
        told.cluster.join()
        told.wait(1)
        told.cluster.join()
        told.wait(POSTING_RENEWED_SECONDS)
        return told

    return make


def test_one_process_tells_the_events_of_all_and_in_order(told: Callable[..., Told]) -> None:
    made = told(unread_after=20)
    one, other = made.cluster.processes
    for number in range(6):
        (one, other)[number % 2].push(f"/user{number}")
        made.wait(1)
    made.wait(25)
    assert made.taken == [[("unread", f"user{number}") for number in range(6)], []]


def test_joins_and_leaves_are_told_once(told: Callable[..., Told]) -> None:
    made = told(presence=True)
    one, other = made.cluster.processes
    polls = [
        process.park("/poll/lobby?after=now&wait=60&as=" + name)
        for process, name in ((one, "alice"), (other, "bob"))
    ]
    made.wait(5)
    for poll in polls:
        poll.hang_up()
    made.wait(ONLINE_SECONDS + 10)
    assert sorted(made.all) == [("join", "alice"), ("join", "bob"), ("leave", "alice"), ("leave", "bob")]
    assert made.taken[1] == []


@pytest.mark.parametrize("is_run", [True, False])
def test_a_join_and_a_leave_whose_report_is_under_way_when_the_connection_breaks_are_told_once(
    told: Callable[..., Told], is_run: bool
) -> None:
    made = told(presence=True)
    _, other = made.cluster.processes

    def lose_the_next_report() -> None:
        """Let the connection break once Redis has run what is reported, or before."""
        wire = [wire for wire in made.cluster.wires.wires if wire.open][-1]
        if not is_run:
            wire.write = lambda data: None  # type: ignore[method-assign]
        made.cluster.clock.advance(REDIS_PRESENCE_BEAT_SECONDS)
        assert not is_run or select.select([wire.socket], [], [], 10)[0], "Redis has answered"
        wire.abortConnection()
        made.wait(10)

    poll = other.park('/poll/room "1"/é?after=now&wait=60&as=alice')
    lose_the_next_report()
    poll.hang_up()
    other.send("DELETE", '/presence/room "1"/é?as=alice')
    lose_the_next_report()
    assert made.all == [("join", "alice"), ("leave", "alice")]
    (event, *_) = made.receivers[0].taken
    assert (event["recipient"], event["readers"]) == ('room "1"/é', 1)
    assert event["at"].startswith("2026-")


def test_when_the_process_that_posts_stops_another_takes_over_soon(told: Callable[..., Told]) -> None:
    made = told(unread_after=20)
    one, other = made.cluster.processes
    made.receivers[0].answer = lambda: None
    other.push("/bob")
    made.wait(25)
    assert made.all == []
    one.comet.stop()
    made.cluster.processes.remove(one)
    made.wait(POSTING_RENEWED_SECONDS + 2)
    assert made.taken[1] == [("unread", "bob")]


def test_a_process_that_stops_while_it_claims_to_post_leaves_the_turn_to_others(
    told: Callable[..., Told],
) -> None:
    made = told(unread_after=1)
    one, other = made.cluster.processes
    made.cluster.processes.clear()
    one.comet.stop()
    made.cluster.settle()
    made.cluster.clock.advance(POSTING_RENEWED_SECONDS)
    other.comet.stop()  # its claim is under way
    made.cluster.settle()
    made.cluster.join().push("/bob")
    made.wait(POSTING_CLAIM_SECONDS - POSTING_RENEWED_SECONDS - 1)
    assert made.taken == [[], [], [("unread", "bob")]]


def test_when_the_process_that_posts_is_lost_another_takes_over(told: Callable[..., Told]) -> None:
    made = told(unread_after=20)
    one, other = made.cluster.processes
    made.receivers[0].answer = lambda: "later"
    other.push("/bob")
    made.wait(25)
    assert len(made.receivers[0].attempts) == 1
    lose(made.cluster, one)
    made.wait(POSTING_CLAIM_SECONDS + POSTING_RENEWED_SECONDS + 2)
    assert made.taken[1] == [("unread", "bob")]


def test_what_a_lost_process_waited_for_is_told_by_another(told: Callable[..., Told]) -> None:
    made = told(unread_after=20)
    _, other = made.cluster.processes
    other.push("/bob")
    made.wait(1)
    lose(made.cluster, other)
    made.wait(20 + UNREAD_TAKEN_OVER_SECONDS + POSTING_RENEWED_SECONDS + 2)
    assert made.taken[0] == [("unread", "bob")]


def test_an_absence_is_told_once_whichever_processes_are_pushed_to(told: Callable[..., Told]) -> None:
    made = told(unread_after=20)
    for number in range(30):
        made.cluster.processes[number % 2].push("/bob")
        made.wait(3)
    assert made.all == [("unread", "bob")]


def test_the_next_absence_is_told_though_the_reader_was_elsewhere(told: Callable[..., Told]) -> None:
    made = told(unread_after=20)
    one, other = made.cluster.processes
    one.push("/bob")
    made.wait(25)
    cursor = other.get("/poll/bob?after=oldest&wait=0").json["cursor"]
    other.get(f"/poll/bob?after={cursor}&wait=0")
    made.wait(10)
    one.push("/bob")
    made.wait(25)
    assert made.all == [("unread", "bob")] * 2


def test_the_next_absence_is_told_though_the_reader_came_while_the_last_one_was_claimed(
    told: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = told(unread_after=20)
    one, other = made.cluster.processes
    claim, readers = SharedAbsences.claim, [other]

    def after_a_reader(absences: SharedAbsences, *words: Any) -> Any:
        if readers:
            readers.pop().get("/poll/bob?wait=0")
        return claim(absences, *words)

    monkeypatch.setattr(SharedAbsences, "claim", after_a_reader)
    one.push("/bob")
    made.wait(25)
    assert readers == []
    one.push("/bob")
    made.wait(25)
    assert made.all == [("unread", "bob")] * 2


def test_the_next_absence_is_told_though_its_notice_comes_after_the_reader(
    told: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wakes, "notify", lambda *words: None)
    made = told(unread_after=20)
    one, other = made.cluster.processes
    other.get("/poll/bob?after=now&wait=0")
    one.push("/bob")
    made.wait(25)
    other.get("/poll/bob?wait=0")
    one.push("/bob")
    made.wait(25)
    assert made.all == [("unread", "bob")] * 2


def test_a_message_that_is_fetched_elsewhere_is_not_told(told: Callable[..., Told]) -> None:
    made = told(unread_after=20)
    one, other = made.cluster.processes
    one.push("/bob")
    made.wait(10)
    other.get("/poll/bob?wait=0")
    made.wait(30)
    assert made.all == []


def test_what_a_process_was_lost_while_it_told_is_told_by_another(told: Callable[..., Told]) -> None:
    made = told(unread_after=20)
    _, other = made.cluster.processes
    assert other.comet.webhooks is not None
    # It is lost between its claim and its event.
    other.comet.webhooks.outbox.add = lambda event: lose(made.cluster, other)  # type: ignore[method-assign]
    other.push("/bob")
    made.wait(21)
    assert other not in made.cluster.processes
    made.wait(UNREAD_TAKEN_OVER_SECONDS + POSTING_RENEWED_SECONDS + 2)
    assert made.taken[0] == [("unread", "bob")]


def test_events_and_waits_last_longer_than_messages(told: Callable[..., Told]) -> None:
    made = told(unread_after=20)
    one = made.cluster.processes[0]
    for process in made.cluster.processes:
        process.comet.hub.store.limits = Limits(ttl=30)  # type: ignore[attr-defined]  # that of Redis has it
    made.receivers[0].answer = lambda: None
    one.push("/bob")
    made.wait(19)
    assert made.receivers[0].attempts == []
    made.wait(100)
    made.receivers[0].answer = lambda: 204
    made.wait(70)
    assert made.all == [("unread", "bob")]


def test_more_recipients_than_are_asked_for_at_once_are_all_told(told: Callable[..., Told]) -> None:
    made = told(unread_after=20)
    names = [f"user{number:03}" for number in range(2 * UNREAD_AT_ONCE + 50)]
    for name in names:
        made.cluster.processes[0].push(f"/{name}")
    made.wait(30)
    assert [recipient for _, recipient in made.all] == names


def test_a_reader_that_comes_back_soon_ends_its_absence(
    told: Callable[..., Told],
) -> None:
    made = told(unread_after=0.5)
    one, other = made.cluster.processes

    def read() -> None:
        cursor = other.get("/poll/bob?after=oldest&wait=0").json["cursor"]
        other.get(f"/poll/bob?after={cursor}&wait=0")

    read()
    for absences in (1, 2):
        made.wait(3)
        one.push("/bob")
        made.wait(2)
        assert made.all == [("unread", "bob")] * absences
        read()
