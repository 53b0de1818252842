"""Streams without a server: heartbeats, pacing, and a store that waits."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import pytest
from helpers import Outcome, SlowStore, push
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from cometd_lite.core.hub import Hub
from cometd_lite.core.message import NOW, OLDEST, Batch, Content, Cursor, Message, sent_size
from cometd_lite.core.registry import Registry
from cometd_lite.errors import StoreDown
from cometd_lite.http.ndjson import NDJSON
from cometd_lite.http.pubsub import frames
from cometd_lite.http.sse import SSE
from cometd_lite.http.stream import BackpressuredWriter, Heartbeats, Stream
from cometd_lite.limits import CURSOR_DIGITS, STALLED_SECONDS, STREAM_BYTES, Limits
from cometd_lite.stores.memory import MemoryStore


class Member:
    def __init__(self) -> None:
        self.beats = 0

    def beat(self) -> None:
        self.beats += 1


class FakeExchange:
    """What a stream writes to. Its kernel takes ``room`` bytes (None: all), and the rest is unsent."""

    def __init__(self, room: int | None = None) -> None:
        self.written = b""
        self.writes = 0
        self.room = room
        self.producer: Any = None
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.written += data
        if self.producer is not None and self.unsent():
            self.producer.pauseProducing()

    def unsent(self) -> int:
        return 0 if self.room is None else max(0, len(self.written) - self.room)

    def take(self, count: int) -> None:
        """Let the client take so many bytes more."""
        assert self.room is not None
        self.room += count
        if not self.unsent():
            self.producer.resumeProducing()

    def register_producer(self, producer: Any) -> None:
        self.producer = producer

    def unregister_producer(self) -> None:
        self.producer = None

    def abort(self) -> None:
        self.aborted = True

    def start(self, status: int, head: bytes) -> None:
        assert status == 200
        self.write(head)

    def finish(self) -> None:
        self.finished = True


class Setting:
    def __init__(self, clock: Clock, *, slow: bool = False, room: int | None = None) -> None:
        memory = MemoryStore(Limits())
        self.store: Any = SlowStore(memory) if slow else memory
        self.hub = Hub(self.store, Registry(clock, 100), clock, wall=lambda: 0.0)
        self.exchange = FakeExchange(room)
        self.heartbeats = Heartbeats(clock, 15.0)

    def begin(self, after: Any = NOW, form: Any = SSE) -> Outcome:
        stream = Stream(cast(Any, self.exchange), self.hub, form, self.heartbeats, Random(1))
        return Outcome(stream.begin(("bob",), after, b"head\n"))


# -- heartbeats


def test_every_member_beats_once_in_an_interval_and_not_all_at_once(clock):
    heartbeats = Heartbeats(clock, 15.0)
    members = []
    for _ in range(30):
        members.append(Member())
        heartbeats.add(members[-1])
        clock.advance(0.5)
    before = [member.beats for member in members]
    most = 0
    for _ in range(15):
        counts = sum(member.beats for member in members)
        clock.advance(1)
        most = max(most, sum(member.beats for member in members) - counts)
    assert [member.beats - was for member, was in zip(members, before, strict=True)] == [1] * 30
    assert most <= 4


def test_after_a_standstill_everybody_beats_once(clock):
    heartbeats = Heartbeats(clock, 15.0)
    members = [Member() for _ in range(5)]
    for member in members:
        heartbeats.add(member)
    clock.advance(3_600)
    assert [member.beats for member in members] == [1] * 5


def test_who_is_removed_beats_no_more_and_the_last_one_ends_the_timer(clock):
    heartbeats = Heartbeats(clock, 15.0)
    one, other = Member(), Member()
    numbers = [heartbeats.add(one), heartbeats.add(other)]
    heartbeats.remove(one, numbers[0])
    heartbeats.remove(one, numbers[0])
    clock.advance(15)
    assert (one.beats, other.beats) == (0, 1)
    heartbeats.remove(other, numbers[1])
    assert clock.getDelayedCalls() == []


def test_who_is_removed_by_anothers_beat_does_not_beat_any_more(clock):
    heartbeats = Heartbeats(clock, 15.0)
    members = [Member(), Member()]
    numbers = {}

    def beat() -> None:
        for member in members:
            heartbeats.remove(member, numbers[member])
        beats.append(1)

    beats: list[int] = []
    for member in members:
        member.beat = beat
        numbers[member] = heartbeats.add(member)
    clock.advance(15)
    assert beats == [1]
    assert clock.getDelayedCalls() == []


# -- backpressure


class Writer(BackpressuredWriter):
    """A writer whose test says what is unsent, and what time it is."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(Heartbeats(self.clock, 15.0), lambda: self.unsent)
        self._open = True
        self.resumed = 0
        self.unsent = 0

    def pause(self, unsent: int) -> None:
        self.unsent = unsent
        self.pauseProducing()

    def is_stalled_at(self, now: float) -> bool:
        self.clock.advance(now - self.clock.seconds())
        return self._is_stalled()

    def _resume(self) -> None:
        self.resumed += 1


def test_a_writer_is_congested_from_the_pause_until_everything_is_sent():
    writer = Writer()
    assert not writer.congested
    writer.pause(10)
    writer.pause(20)
    assert writer.congested
    assert writer.resumed == 0
    writer.resumeProducing()
    assert not writer.congested
    assert writer.resumed == 1


def test_a_writer_whose_connection_is_lost_does_not_go_on():
    writer = Writer()
    writer.pause(10)
    writer.stopProducing()
    writer.resumeProducing()
    assert writer.resumed == 0


def test_a_client_that_takes_nothing_for_a_minute_has_stalled():
    writer = Writer()
    writer.clock.advance(5.0)
    writer.pause(10)
    assert not writer.is_stalled_at(5.0 + STALLED_SECONDS)
    assert writer.is_stalled_at(5.1 + STALLED_SECONDS)
    writer.resumeProducing()
    assert not writer.is_stalled_at(1_000.0)


def test_a_client_that_takes_something_has_another_minute():
    writer = Writer()
    writer.pause(1_000)
    for minute in range(1, 10):
        writer.unsent -= 1
        assert not writer.is_stalled_at(minute * STALLED_SECONDS)
    assert writer.is_stalled_at(10 * STALLED_SECONDS + 1)


def test_while_bytes_are_unsent_nothing_more_is_written_and_then_a_part_at_a_time(clock):
    setting = Setting(clock, room=0)
    setting.begin()
    setting.exchange.room = len(setting.exchange.written)
    bodies = [f"{number} ".ljust(20_000, ".") for number in range(20)]
    writes = setting.exchange.writes
    for body in bodies:
        setting.hub.push(push("bob", body=body))
        clock.advance(1)
    assert setting.exchange.writes == writes + 1
    while len(setting.exchange.written) < 20 * 20_000:
        before = len(setting.exchange.written)
        setting.exchange.take(setting.exchange.unsent())
        assert 0 < len(setting.exchange.written) - before <= STREAM_BYTES
    assert setting.exchange.writes < writes + 20
    assert all(body.encode() in setting.exchange.written for body in bodies)


def test_what_comes_while_bytes_are_unsent_is_not_counted_as_delivered(clock):
    setting = Setting(clock, room=0)
    setting.begin()
    setting.exchange.room = len(setting.exchange.written)
    pushes = [Outcome(setting.hub.push(push("bob"))).value.delivered for _ in range(3)]
    assert pushes == [1, 0, 0]
    assert setting.hub.counts.deliveries == 1
    setting.exchange.room = None
    setting.exchange.producer.resumeProducing()
    assert setting.hub.counts.deliveries == 3


@pytest.mark.parametrize("form", [SSE, NDJSON])
def test_a_client_that_takes_nothing_is_disconnected_and_one_that_is_slow_is_not(clock, form):
    stalled, slow = Setting(clock, room=0), Setting(clock, room=0)
    for setting in (stalled, slow):
        setting.begin(form=form)
        setting.exchange.room = len(setting.exchange.written)
        setting.hub.push(push("bob", body="x" * 60_000))
    for _ in range(20):
        clock.advance(15)
        slow.exchange.take(1_000)
    assert stalled.exchange.aborted
    assert not slow.exchange.aborted
    assert slow.exchange.written.count(form.heartbeat) == (1 if form is NDJSON else 0)


# -- the size of what is written


@pytest.mark.parametrize("render", [SSE.render, NDJSON.render, frames], ids=["sse", "ndjson", "websocket"])
@given(
    st.binary(min_size=1) | st.text('\r\n \0"\\☃x', min_size=1).map(str.encode),
    st.sampled_from([None, "image/png", "text/plain", "application/json"]),
)
@example(b"[" + b"\r\n" * 500 + b"1]", "application/json")
def test_no_message_is_larger_than_it_is_counted_with(render, body, media_type):
    try:
        content = Content.parse(body, media_type)
    except ValueError:
        return
    cursor = Cursor("epoch00000", 10**CURSOR_DIGITS - 1)
    one = Message(cursor, 'b"\\☃', content, 1.0, 2.0, event='e"☃')
    written = len(render(Batch((one,), cursor)))
    assert written <= sent_size(one) <= 8 * len(body) + 300


# -- a store that waits


@pytest.mark.parametrize("form", [SSE, NDJSON])
def test_the_place_is_told_when_it_is_known_and_is_never_a_word(clock, form):
    setting = Setting(clock, slow=True)
    ended = setting.begin(form=form)
    before = setting.exchange.written
    assert b"now" not in before
    setting.store.settle()
    told = setting.exchange.written[len(before) :]
    assert setting.store.store.epoch.encode() in told
    ended.cancel()
    assert ended.value is None
    assert setting.hub.registry.parked == 0


def test_messages_that_are_there_are_told_in_the_place_of_a_place(clock):
    setting = Setting(clock, slow=True)
    pushed = Outcome(setting.hub.push(push("bob")))
    setting.store.settle()
    ended = setting.begin(OLDEST)
    setting.store.settle()
    assert pushed.value.id.encode() in setting.exchange.written
    assert setting.exchange.written.count(b"id: ") == 1
    setting.hub.stop()
    assert ended.value is None


def test_where_it_cannot_be_found_out_where_it_begins_the_stream_ends_whole(clock, expected_failures):
    expected_failures.append(StoreDown)
    setting = Setting(clock, slow=True)
    ended = setting.begin()
    setting.store.next("read").fail(StoreDown("The disk is gone."))
    assert ended.value is None
    assert setting.exchange.written.count(b"retry: ") == 2
    assert setting.hub.registry.parked == 0
    assert setting.hub.counts.streams == 0
    assert clock.getDelayedCalls() == []


def test_who_leaves_before_the_store_answers_is_written_nothing_more(clock):
    setting = Setting(clock, slow=True)
    ended = setting.begin()
    before = setting.exchange.written
    ended.cancel()
    setting.store.settle()
    assert setting.exchange.written == before
    assert setting.hub.counts.streams == 0
    assert clock.getDelayedCalls() == []


def test_a_store_that_fails_later_leaves_the_reader_at_its_place(clock, expected_failures):
    expected_failures.append(StoreDown)
    setting = Setting(clock, slow=True)
    setting.begin()
    setting.store.settle()
    pushed = Outcome(setting.hub.push(push("bob", body="1")))
    setting.store.answer(setting.store.asked[0])
    setting.store.next("read").fail(StoreDown("The disk is gone."))
    assert pushed.value.delivered == 1
    Outcome(setting.hub.push(push("bob", body="2")))
    setting.store.settle()
    assert setting.exchange.written.count(b"data: ") == 2
    setting.hub.stop()
    assert clock.getDelayedCalls() == []
