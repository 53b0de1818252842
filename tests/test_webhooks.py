"""HTTP.md, "Webhooks": what is told, signed and in order, and what becomes of it while nobody takes it."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import TurningClock
from receivers import KEY, OTHER_KEY, FakeReceiver
from standardwebhooks import Webhook, WebhookVerificationError
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from cometd_lite.comet import Comet
from cometd_lite.core.hub import Hub
from cometd_lite.core.message import Content, Cursor, Push
from cometd_lite.core.observers import observe
from cometd_lite.core.registry import Registry
from cometd_lite.core.store import Record
from cometd_lite.errors import StoreDown
from cometd_lite.limits import (
    EVENT_GATHER_SECONDS,
    EVENT_PAUSE_SECONDS,
    EVENT_SECONDS,
    EVENTS_AT_ONCE,
    EVENTS_WAITING,
    POSTING_RENEWED_SECONDS,
    UNREAD_AGAIN_SECONDS,
    UNREAD_AT_ONCE,
    UNREAD_BYTES,
    Limits,
)
from cometd_lite.stores.memory import MemoryStore
from cometd_lite.webhooks.absences import ABSENCES, LocalAbsences
from cometd_lite.webhooks.outbox import EVENTS, LocalOutbox, SharedOutbox, WebhookCounts
from cometd_lite.webhooks.sender import EventSender
from cometd_lite.webhooks.service import Webhooks
from cometd_lite.webhooks.signing import Signer, keys_of
from cometd_lite.webhooks.unread import UnreadWatch

# -- signatures


def test_a_signature_verifies_with_the_library_of_the_standard() -> None:
    body = '[{"event":"join","name":"zoë"}]'.encode()
    headers = Signer(KEY).headers("msg_1", int(time.time()), body)
    assert Webhook(KEY).verify(body, headers) == [{"event": "join", "name": "zoë"}]
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER_KEY).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(KEY).verify(body + b" ", headers)


def test_the_example_of_the_specification_is_signed_as_it_says() -> None:
    # Standard Webhooks, "Signature scheme": its libraries test the same.
    signer = Signer("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signer.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_key_of_a_file_signs(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n\n{OTHER_KEY}\n")
    signer = Signer(file)
    headers = signer.headers("msg_1", int(time.time()), b"[]")
    for key in (KEY, OTHER_KEY):
        assert Webhook(key).verify(b"[]", headers) == []
    file.write_text(OTHER_KEY)
    signer.reload()
    with pytest.raises(WebhookVerificationError):
        Webhook(KEY).verify(b"[]", signer.headers("msg_1", int(time.time()), b"[]"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "secret",
        "whsec_",
        "whsec_!!!",
        "whsec_c2hvcnQ=",
        f"{KEY}\nsecret",
        "whsec_" + "A" * 100,
    ],
)
def test_what_is_no_key_is_refused_with_what_is_right(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        keys_of(text)
    file = tmp_path / "key"
    file.write_text(KEY)
    signer = Signer(file)
    file.write_text(text)
    with pytest.raises(ValueError, match=str(file)):
        signer.reload()
    Webhook(KEY).verify(b"[]", signer.headers("msg_1", int(time.time()), b"[]"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Signer(tmp_path / "none")


@pytest.mark.parametrize(
    ("url", "key", "after"),
    [
        ("http://localhost/", None, None),
        (None, KEY, None),
        (None, None, 60.0),
        ("http://localhost/", "secret", None),
        ("localhost", KEY, None),
        ("http://localhost/", KEY, 0.0),
        ("http://localhost/", KEY, float("nan")),
    ],
)
def test_half_an_order_is_refused(url: str | None, key: str | None, after: float | None) -> None:
    with pytest.raises(ValueError, match=r"notify_|whsec_|URL|unread_after"):
        Comet(notify_url=url, notify_key=key, unread_after=after, clock=Clock())


# -- posting


class RememberingStore:
    """A store that remembers records, as far as an outbox and a watch use one."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Record] = {}

    def remember(self, kind: str, id: str, value: Any, expires_at: float) -> None:  # noqa: A002
        self.records[kind, id] = Record(id, value(), expires_at)

    def forget(self, kind: str, id: str) -> None:  # noqa: A002
        self.records.pop((kind, id), None)

    def recall(self, kind: str) -> list[Record]:
        return [record for (known, _), record in self.records.items() if known == kind]


class Posting:
    """An outbox, its sender, and an application."""

    def __init__(self, store: RememberingStore | None = None, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.store = store or RememberingStore()
        self.counts = WebhookCounts()
        self.receiver = FakeReceiver()
        self.outbox = LocalOutbox(self.store, self.clock, self.counts)  # type: ignore[arg-type]  # it is a part of one
        self.may_send = True
        self.sender = EventSender(
            self.outbox,
            self.receiver,
            Signer(KEY),
            self.clock,
            time.time,
            self.counts,
            lambda: self.may_send,
            Random(1),
        )

    def tell(self, *numbers: int) -> None:
        for number in numbers:
            self.outbox.add({"event": "join", "n": number})
        self.sender.wake()

    def pass_by(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.clock.advance(0.5)

    @property
    def taken(self) -> list[int]:
        return [event["n"] for event in self.receiver.taken]


@pytest.fixture
def posting() -> Posting:
    return Posting()


def test_events_of_one_moment_are_posted_together_and_in_order(posting: Posting) -> None:
    posting.tell(1, 2)
    posting.tell(3)
    assert posting.receiver.attempts == []
    posting.clock.advance(EVENT_GATHER_SECONDS)
    assert posting.taken == [1, 2, 3]
    assert len(posting.receiver.attempts) == 1
    assert posting.counts.sent == 3
    assert (posting.outbox.waiting, posting.store.records) == (0, {})
    posting.pass_by(2)
    assert posting.clock.getDelayedCalls() == []


def test_one_request_is_under_way_at_a_time(posting: Posting) -> None:
    posting.receiver.answer = lambda: "later"
    posting.tell(1)
    posting.pass_by(1)
    posting.tell(2, 3)
    posting.pass_by(1)
    assert len(posting.receiver.attempts) == 1
    posting.receiver.answer = lambda: 200
    posting.receiver.reply(200)
    posting.pass_by(1)
    assert posting.taken == [1, 2, 3]


def test_many_events_are_posted_in_pieces(posting: Posting) -> None:
    posting.tell(*range(250))
    posting.pass_by(2)
    assert posting.taken == list(range(250))
    assert [len(events) for _, events in posting.receiver.attempts] == [EVENTS_AT_ONCE, EVENTS_AT_ONCE, 50]


@pytest.mark.parametrize("answer", [None, 500, 502, 503, 302, 100])
def test_what_fails_is_posted_again_with_the_same_id_and_growing_pauses(
    posting: Posting, answer: int | None
) -> None:
    posting.receiver.answer = lambda: answer
    posting.tell(1, 2)
    posting.pass_by(300)
    assert len({webhook_id for webhook_id, _ in posting.receiver.attempts}) == 1
    assert 7 < len(posting.receiver.attempts) < 20
    posting.receiver.answer = lambda: 204
    posting.tell(3)
    posting.pass_by(EVENT_PAUSE_SECONDS[1] + 1)
    assert posting.taken == [1, 2, 3]
    assert posting.counts.failed >= 7


def test_an_application_that_answers_500_every_other_time_gets_all_in_order(posting: Posting) -> None:
    answers = iter([500, 204] * 100)
    posting.receiver.answer = lambda: next(answers)
    for number in range(60):
        posting.tell(number)
        posting.pass_by(1)
    posting.pass_by(60)
    assert posting.taken == list(range(60))


def test_an_application_that_is_down_for_five_minutes_gets_all_within_a_minute(posting: Posting) -> None:
    posting.receiver.answer = lambda: None
    for number in range(300):
        posting.tell(number)
        posting.pass_by(1)
    posting.receiver.answer = lambda: 200
    posting.pass_by(EVENT_PAUSE_SECONDS[1] + 2)
    assert posting.taken == list(range(300))


def test_the_log_says_once_a_minute_why_events_wait(posting: Posting) -> None:
    posting.receiver.answer = lambda: 503
    with capturedLogs() as events:
        posting.tell(1)
        posting.pass_by(300)
    said = [event for event in events if "Events wait" in str(event["log_format"])]
    assert 3 <= len(said) <= 5
    assert said[0]["why"] == "It answered 503."
    assert len(posting.receiver.attempts) > len(said)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 499])
def test_what_the_application_refuses_with_4xx_is_not_posted_again(posting: Posting, status: int) -> None:
    posting.receiver.answer = lambda: status
    posting.tell(1)
    posting.pass_by(1)
    posting.receiver.answer = lambda: 200
    posting.tell(2)
    posting.pass_by(200)
    assert (posting.taken, posting.counts.refused, len(posting.receiver.attempts)) == ([2], 1, 2)


def test_an_event_is_posted_for_an_hour(posting: Posting) -> None:
    posting.receiver.answer = lambda: None
    posting.tell(1)
    posting.pass_by(EVENT_SECONDS / 2)
    posting.tell(2)
    posting.pass_by(EVENT_SECONDS / 2 + 120)
    assert posting.counts.expired == 1
    posting.receiver.answer = lambda: 200
    posting.pass_by(120)
    assert posting.taken == [2]
    assert posting.store.records == {}


def test_of_too_many_events_the_oldest_go(posting: Posting) -> None:
    posting.receiver.answer = lambda: "later"
    posting.tell(*range(EVENTS_WAITING + 5))
    assert (posting.outbox.waiting, posting.counts.dropped) == (EVENTS_WAITING, 5)
    assert len(posting.store.records) == EVENTS_WAITING
    posting.receiver.answer = lambda: 200
    posting.pass_by(60)
    assert posting.taken == list(range(5, EVENTS_WAITING + 5))


def test_what_waits_is_bounded_in_bytes(posting: Posting) -> None:
    posting.receiver.answer = lambda: "later"
    for _ in range(3_000):
        posting.outbox.add({"event": "join", "name": "x" * 8_000})
    assert posting.outbox.waiting < 2_200
    assert posting.counts.dropped > 800


def test_the_log_says_once_that_the_oldest_go_until_there_is_room_again(posting: Posting) -> None:
    def lines(count: int) -> int:
        with capturedLogs() as events:
            posting.tell(*range(count))
        return len([event for event in events if "the oldest go" in str(event["log_format"])])

    posting.receiver.answer = lambda: 500
    assert lines(EVENTS_WAITING + 50) == 1
    assert lines(50) == 0
    posting.receiver.answer = lambda: 200
    posting.pass_by(180)
    assert posting.outbox.waiting == 0
    posting.receiver.answer = lambda: 500
    assert lines(EVENTS_WAITING + 50) == 1


def test_the_log_says_once_that_long_events_go(posting: Posting) -> None:
    with capturedLogs() as logged:
        for _ in range(3_000):
            posting.outbox.add({"recipient": "r" * 8_000})
    assert posting.counts.dropped > 800
    assert len([event for event in logged if "the oldest go" in str(event.get("log_format"))]) == 1


def test_events_that_waited_are_posted_after_a_restart_before_later_ones() -> None:
    store, clock = RememberingStore(), Clock()
    clock.advance(100)
    before = Posting(store, clock)
    before.receiver.answer = lambda: None
    before.tell(1, 2)
    before.pass_by(5)
    before.tell(3)
    before.sender.stop()
    assert clock.getDelayedCalls() == []
    clock.advance(1)
    after = Posting(store, clock)
    after.tell(4)
    after.outbox.recall()
    after.sender.wake()
    after.pass_by(1)
    assert after.taken == [1, 2, 3, 4]
    assert store.records == {}


def test_what_is_under_way_when_the_sender_stops_is_given_up_and_remembered(posting: Posting) -> None:
    posting.receiver.answer = lambda: "later"
    posting.tell(1)
    posting.pass_by(1)
    posting.sender.stop()
    posting.sender.wake()
    posting.pass_by(10)
    assert posting.receiver.cancelled == 1
    assert len(posting.receiver.attempts) == 1
    assert [kind for kind, _ in posting.store.records] == [EVENTS]
    assert posting.clock.getDelayedCalls() == []


def test_a_process_that_may_not_post_any_more_leaves_its_events(posting: Posting) -> None:
    posting.receiver.answer = lambda: None
    posting.tell(1)
    posting.pass_by(2)
    posting.may_send = False
    attempts = len(posting.receiver.attempts)
    posting.pass_by(300)
    assert len(posting.receiver.attempts) == attempts
    assert posting.outbox.waiting == 1


class StoreThatIsAway(RememberingStore):
    """A store of several processes, which may be away."""

    is_here = True
    told = 0

    def state(self) -> str:
        return "ok" if self.is_here else "down"

    def notify(self, kind: str, id: str) -> None:  # noqa: A002
        assert self.is_here
        self.told += 1


def test_what_a_store_could_not_be_given_while_it_was_away_is_given_to_it_later_and_in_order() -> None:
    store, clock, counts = StoreThatIsAway(), Clock(), WebhookCounts()
    outbox = SharedOutbox(store, clock, counts)  # type: ignore[arg-type]  # it is a part of one
    store.is_here = False
    for number in range(3):
        outbox.add({"n": number})
        clock.advance(1)
    outbox.write()
    assert (store.records, outbox.waiting) == ({}, 3)
    store.is_here = True
    outbox.add({"n": 3})
    assert [record.value for record in store.records.values()] == [
        b'{"n":%d}' % number for number in range(4)
    ]
    ends = [record.expires_at - EVENT_SECONDS for record in store.records.values()]
    assert ends == [0, 1, 2, 3], "each is posted for an hour from when it came"
    assert store.told == 4


def test_events_for_a_store_that_stays_away_are_bounded() -> None:
    store, counts = StoreThatIsAway(), WebhookCounts()
    store.is_here = False
    outbox = SharedOutbox(store, Clock(), counts)  # type: ignore[arg-type]  # it is a part of one
    for number in range(EVENTS_WAITING + 7):
        outbox.add({"n": number})
    assert (outbox.waiting, counts.dropped) == (EVENTS_WAITING, 7)


def test_events_for_a_store_that_stays_away_are_bounded_in_bytes() -> None:
    store, counts = StoreThatIsAway(), WebhookCounts()
    store.is_here = False
    outbox = SharedOutbox(store, Clock(), counts)  # type: ignore[arg-type]  # it is a part of one
    for _ in range(3_000):
        outbox.add({"name": "x" * 8_000})
    assert outbox.waiting + counts.dropped == 3_000
    assert outbox.waiting < 2_200
    store.is_here = True
    outbox.write()
    assert len(store.records) < 2_200
    store.is_here = False
    for _ in range(2_000):
        outbox.add({"name": "x" * 8_000})
    assert counts.dropped < 1_000, "what was written makes room"


# -- unread


class Watched:
    """A hub whose unread messages are told."""

    def __init__(self, store: RememberingStore | None = None, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.clock.advance(0 if clock else 1_000)
        self.store = store or RememberingStore()
        mailboxes = MemoryStore(Limits(), soon=lambda call: self.clock.callLater(0, call))
        self.hub = Hub(
            mailboxes, Registry(self.clock, 1_000), self.clock, wall=lambda: 1e9 + self.clock.seconds()
        )
        self.told: list[tuple[str, str]] = []
        self.counts = WebhookCounts()
        self.absences = LocalAbsences(self.store)  # type: ignore[arg-type]  # it is a part of one
        self.watch = UnreadWatch(
            self.hub,
            lambda name: None if name.startswith("quiet/") else 60.0,
            self.absences,
            lambda recipient, message: self.told.append((recipient, message)),
            self.counts,
        )
        observe(self.hub, unread=self.watch)

    def push(self, recipient: str = "bob", **words: Any) -> str:
        receipt = self.hub.push(Push((recipient,), (Content.of("hi"),), **words))
        assert not isinstance(receipt, Deferred)
        return receipt.ids[0]

    def poll(self, recipient: str = "bob", after: str = "oldest", wait: float = 0.0) -> Any:
        return self.hub.poll((recipient,), Cursor.parse(after), wait)

    def pass_by(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.clock.advance(1)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_message_that_no_reader_fetches_is_told_once_its_time_is_over(watched: Watched) -> None:
    message = watched.push()
    watched.pass_by(59)
    assert watched.told == []
    watched.pass_by(1)
    assert watched.told == [("bob", message)]


def test_who_only_watches_everything_fetches_nothing(watched: Watched) -> None:
    watched.hub.follow(("**",), Cursor.parse("now"), lambda _: True, acks=False).go_on()
    message = watched.push()
    watched.pass_by(61)
    assert watched.told == [("bob", message)]


def test_a_timer_that_is_early_by_a_rounding_is_set_again() -> None:
    clock = Clock()
    watched = Watched(clock=clock)
    clock.rightNow = 0.1
    message = watched.push()
    clock.rightNow = 8.3  # where the timer is set for 8.3 + (60.1 - 8.3), which is less than 60.1
    watched.watch.adopt([Record("alice", b'["1",1e9]', 2e9)])
    clock.advance(0)
    clock.advance(clock.getDelayedCalls()[0].getTime() - clock.seconds())
    assert watched.told == []
    clock.advance(0.1)
    assert watched.told == [("bob", message)]


def test_an_absence_is_told_once(watched: Watched) -> None:
    first = watched.push()
    for _ in range(5):
        watched.pass_by(30)
        watched.push()
    watched.pass_by(300)
    assert watched.told == [("bob", first)]


def test_the_next_absence_is_told_again(watched: Watched) -> None:
    first = watched.push()
    watched.pass_by(61)
    found = watched.poll()
    watched.poll(after=str(found.cursor))
    watched.pass_by(100)
    second = watched.push()
    watched.pass_by(61)
    assert watched.told == [("bob", first), ("bob", second)]


def test_a_message_that_is_fetched_in_time_is_not_told(watched: Watched) -> None:
    watched.push()
    watched.pass_by(30)
    watched.poll()
    watched.pass_by(300)
    assert watched.told == []


def test_a_message_that_is_taken_is_not_told(watched: Watched) -> None:
    watched.push()
    watched.hub.take(("bob",), 0.0)
    watched.pass_by(300)
    assert watched.told == []


def test_a_reader_that_is_there_is_not_away(watched: Watched) -> None:
    stream = watched.hub.follow(("bob",), watched.poll().cursor, lambda batch: True)
    stream.go_on()
    watched.push()
    watched.pass_by(100)
    assert watched.told == []
    watched.push()
    watched.pass_by(5)
    stream.addErrback(lambda _: None)
    stream.cancel()
    watched.pass_by(300)
    assert watched.told == [], "it was there when the last message came"


def test_a_message_that_came_after_the_reader_left_is_told(watched: Watched) -> None:
    stream = watched.hub.follow(("bob",), watched.poll().cursor, lambda batch: True)
    stream.addErrback(lambda _: None)
    stream.go_on()
    watched.push()
    watched.pass_by(30)
    stream.cancel()
    watched.pass_by(10)
    late = watched.push()
    watched.pass_by(59)
    assert watched.told == []
    watched.pass_by(2)
    assert watched.told == [("bob", late)]


def test_a_message_that_was_fetched_at_once_is_not_told_in_the_place_of_the_next_one(
    watched: Watched,
) -> None:
    watched.push()
    watched.hub.take(("bob",), 0.0)
    watched.pass_by(1)
    late = watched.push()
    watched.pass_by(59)
    assert watched.told == []
    watched.pass_by(2)
    assert watched.told == [("bob", late)]


def test_where_it_cannot_be_said_how_a_recipient_stands_it_is_asked_again_and_others_are_told(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, expected_failures: list[type[BaseException]]
) -> None:
    expected_failures.append(ValueError)
    first, second = watched.push("alice"), watched.push("bob")
    describe, failures = watched.hub.describe, [ValueError("it fails"), StoreDown()]

    def fails_twice(recipient: str) -> Any:
        if recipient == "alice" and failures:
            raise failures.pop()
        return describe(recipient)

    monkeypatch.setattr(watched.hub, "describe", fails_twice)
    watched.pass_by(60)
    assert watched.told == [("bob", second)]
    watched.pass_by(2 * UNREAD_AGAIN_SECONDS)
    assert watched.told == [("bob", second), ("alice", first)]


def test_an_absence_that_another_process_has_reported_is_not_told_again_after_a_failure(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe, failures = watched.hub.describe, [StoreDown()]

    def fails_once(recipient: str) -> Any:
        if failures:
            watched.absences.claim(recipient, 0.0, 0.0)  # as the other process does
            raise failures.pop()
        return describe(recipient)

    monkeypatch.setattr(watched.hub, "describe", fails_once)
    watched.push()
    watched.pass_by(100)
    assert watched.told == []


def test_a_message_is_told_though_its_claim_arrived_and_the_answer_did_not(watched: Watched) -> None:
    claim, lost = watched.absences.claim, [StoreDown()]

    def loses_the_first_answer(*words: Any) -> Any:
        is_new = claim(*words)
        return fail(lost.pop()) if lost else is_new

    watched.absences.claim = loses_the_first_answer  # type: ignore[method-assign]
    message = watched.push()
    watched.pass_by(60)
    assert watched.told == []
    watched.pass_by(UNREAD_AGAIN_SECONDS)
    assert watched.told == [("bob", message)]


def test_a_reader_that_was_answered_and_never_came_back_is_away(watched: Watched) -> None:
    poll = watched.poll(wait=100.0)
    message = watched.push()
    assert poll.called
    watched.pass_by(61)
    assert watched.told == [("bob", message)]


def test_a_message_that_is_gone_is_not_told(watched: Watched) -> None:
    watched.push(ttl=30)
    watched.push("carol")
    watched.hub.delete("carol")
    watched.pass_by(30)
    watched.hub.sweep()
    watched.pass_by(300)
    assert watched.told == []


@pytest.mark.parametrize("name", ["$listeners", "$presence/bob", "quiet/bob"])
def test_names_of_the_servers_own_and_those_without_a_time_are_not_told(watched: Watched, name: str) -> None:
    watched.push(name)
    watched.pass_by(300)
    assert watched.told == []
    assert watched.watch.bytes == 0


def test_a_thousand_recipients_are_looked_at_a_few_in_each_turn() -> None:
    clock = TurningClock()
    clock.rightNow = 1_000.0
    watched = Watched(clock=clock)
    for number in range(1_000):
        watched.push(f"user{number}")
    clock.turn(60)
    assert len(watched.told) == UNREAD_AT_ONCE
    turns = 1
    while len(watched.told) < 1_000:
        clock.turn()
        turns += 1
    assert turns == 1_000 / UNREAD_AT_ONCE
    assert [recipient for recipient, _ in watched.told] == [f"user{number}" for number in range(1_000)]
    assert watched.watch.bytes == 0


def test_what_waits_for_readers_is_bounded_in_bytes(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cometd_lite.webhooks.unread.UNREAD_BYTES", 10_000)
    assert UNREAD_BYTES > 10_000
    for number in range(100):
        watched.push(f"user{number}")
    assert watched.watch.bytes <= 10_000
    assert watched.counts.untracked > 60


def test_the_absences_that_were_told_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cometd_lite.limits.UNREAD_BYTES", 10_000)
    watched = Watched()
    for number in range(100):
        watched.push(f"user{number}")
        watched.pass_by(61)
    assert len(watched.told) == 100
    kept = [recipient for kind, recipient in watched.store.records if kind == ABSENCES]
    assert 30 < len(kept) < 40
    assert kept[-1] == "user99"
    watched.push("user99")
    watched.push("user0")
    watched.pass_by(61)
    assert [recipient for recipient, _ in watched.told[100:]] == ["user0"], "it was forgotten"


def test_after_a_restart_what_waits_in_the_mailboxes_is_told_and_what_was_told_is_not() -> None:
    store = RememberingStore()
    before = Watched(store)
    before.push("told")
    before.pass_by(61)
    assert [recipient for recipient, _ in before.told] == ["told"]
    assert [key for key in store.records if key[0] == ABSENCES] == [(ABSENCES, "told")]
    after = Watched(store)
    ids = {}
    unread = after.watch.pushed
    after.hub.on_push = None  # these are from before the restart
    for number in range(250):
        ids[f"user{number:03}"] = after.push(f"user{number:03}")
    after.push("told")
    after.push("$listeners")
    after.hub.on_push = unread
    after.watch.begin()
    after.pass_by(62)
    assert dict(after.told) == ids
    assert len(after.told) == 250
    after.poll("told")
    assert (ABSENCES, "told") not in store.records


def test_a_watch_that_is_stopped_leaves_no_timer(watched: Watched) -> None:
    watched.push()
    watched.watch.stop()
    assert watched.clock.getDelayedCalls() == []


def test_a_watch_that_is_stopped_while_it_looks_through_the_mailboxes_leaves_no_timer() -> None:
    before = Watched()
    for number in range(2 * UNREAD_AT_ONCE):
        before.push(f"bob/{number}")
    before.watch.stop()
    after = UnreadWatch(before.hub, lambda _: 60.0, before.absences, lambda *_: None, before.counts)
    after.begin()
    assert before.clock.getDelayedCalls()
    after.stop()
    assert before.clock.getDelayedCalls() == []


class NotedAbsences(LocalAbsences):
    """Notes until when each recipient is waited for, as a cluster does."""

    due: dict[str, float]

    def begun(self, recipient: str, message: str, at: float, due: float) -> None:
        self.due[recipient] = due


def test_the_other_processes_know_that_a_recipient_is_waited_for_longer() -> None:
    world = Watched()
    world.watch.stop()
    absences = NotedAbsences(world.store)  # type: ignore[arg-type]  # it is a part of one
    absences.due = {}
    watch = UnreadWatch(world.hub, lambda _: 60.0, absences, lambda *_: None, world.counts)
    world.hub.on_push = watch.pushed
    world.push()
    began = world.clock.seconds()
    assert absences.due == {"bob": began + 60}
    world.pass_by(30)
    world.poll()
    world.pass_by(10)
    world.push()
    world.pass_by(30)
    assert absences.due == {"bob": began + 100}
    watch.stop()


def test_a_process_that_stops_gives_its_turn_to_post_back_once_as_another_may_have_it_then() -> None:
    clock = Clock()
    claims: list[Deferred[bool]] = []
    given_back: list[tuple[str, ...]] = []

    def hold(*_: object) -> Deferred[bool]:
        claims.append(Deferred())
        return claims[-1]

    shared = SimpleNamespace(
        claims=SimpleNamespace(hold=hold, count=lambda _: Deferred()),
        forget=lambda *record: given_back.append(record),
        on_notice=lambda *_: None,
        state=lambda: "ok",
    )
    hub: Any = SimpleNamespace(shared=shared, store=shared, clock=clock, wall=clock.seconds)
    webhooks = Webhooks(hub, FakeReceiver(), Signer(KEY))
    webhooks.start()
    claims[0].callback(True)
    clock.advance(POSTING_RENEWED_SECONDS)
    webhooks.stop()
    claims[1].callback(True)
    assert len(given_back) == 1
