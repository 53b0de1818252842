"""Streams without a server: heartbeats, pacing, and a store that waits."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any

import pytest
from helpers import Outcome, SlowStore, push
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cometd_lite.core.hub import Hub
from cometd_lite.core.message import NOW, OLDEST
from cometd_lite.core.registry import Registry
from cometd_lite.errors import StoreDown
from cometd_lite.http.ndjson import NDJSON
from cometd_lite.http.sse import SSE
from cometd_lite.http.stream import Heartbeats, Paced, Stream
from cometd_lite.limits import STREAM_BUFFER, STREAM_PIECE, Limits
from cometd_lite.stores.memory import MemoryStore


class Member:
    def __init__(self) -> None:
        self.beats = 0

    def beat(self) -> None:
        self.beats += 1


class FakeRequest:
    """What a stream writes to. It takes ``room`` bytes before it pauses its producer."""

    def __init__(self) -> None:
        self.written = b""
        self.producer: Any = None
        self.aborted = False
        self.transport = self

    def write(self, data: bytes) -> None:
        self.written += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def abortConnection(self) -> None:
        self.aborted = True


class Setting:
    def __init__(self, clock: Clock, *, slow: bool = False) -> None:
        memory = MemoryStore(Limits())
        self.store: Any = SlowStore(memory) if slow else memory
        self.hub = Hub(self.store, Registry(clock, 100), clock, wall=lambda: 0.0)
        self.request = FakeRequest()
        self.heartbeats = Heartbeats(clock, 15.0)

    def begin(self, after: Any = NOW, form: Any = SSE) -> Outcome:
        stream = Stream(self.request, self.hub, form, self.heartbeats, Random(1))
        ended: Deferred[None] = Deferred(stream.cancel)
        done = partial(ended.callback, None)
        stream.begin(("bob",), after, lambda: self.request.write(b"head\n"), done)
        return Outcome(ended)


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


# -- pacing


class Writer(Paced):
    def __init__(self) -> None:
        super().__init__()
        self._open = True
        self.pieces: list[bytes] = []
        self.pause_after: int | None = None
        self.aborted = False
        self.caught_up = 0
        self.now = 0.0

    def write(self, data: bytes) -> None:
        self._write(data)

    def _seconds(self) -> float:
        return self.now

    def _put(self, data: bytes) -> None:
        self.pieces.append(data)
        if self.pause_after is not None and len(self.pieces) >= self.pause_after:
            self.pauseProducing()

    def _abort(self) -> None:
        self.aborted = True

    def _caught_up(self) -> None:
        self.caught_up += 1


def test_what_is_written_at_once_goes_out_in_pieces_as_they_are_taken():
    writer = Writer()
    writer.pause_after = 1
    data = bytes(range(256)) * (STREAM_PIECE // 256) * 3 + b"end"
    writer.write(data)
    assert len(writer.pieces) == 1
    for _ in range(3):
        assert writer.caught_up == 0
        writer.resumeProducing()
    writer.pause_after = None
    writer.resumeProducing()
    assert b"".join(writer.pieces) == data
    assert writer.caught_up == 1
    assert max(map(len, writer.pieces)) == STREAM_PIECE


def test_what_is_written_meanwhile_waits_for_its_turn():
    writer = Writer()
    writer.pause_after = 1
    writer.write(b"a" * (2 * STREAM_PIECE))
    writer.write(b"b")
    writer.write(b"c")
    writer.pause_after = None
    writer.resumeProducing()
    assert b"".join(writer.pieces) == b"a" * (2 * STREAM_PIECE) + b"bc"


def test_what_piles_up_ends_it_and_what_was_there_before_does_not_count():
    writer = Writer()
    writer.pause_after = 1
    writer.write(b"a" * (5 * STREAM_BUFFER))
    writer.write(b"b" * STREAM_BUFFER)
    assert not writer.aborted
    writer.write(b"c")
    assert writer.aborted


def test_taking_everything_forgets_what_was_piled_up():
    writer = Writer()
    for _ in range(5):
        writer.pauseProducing()
        writer.write(b"b" * STREAM_BUFFER)
        writer.resumeProducing()
    assert not writer.aborted


# -- a store that waits


@pytest.mark.parametrize("form", [SSE, NDJSON])
def test_the_place_is_told_when_it_is_known_and_is_never_a_word(clock, form):
    setting = Setting(clock, slow=True)
    ended = setting.begin(form=form)
    before = setting.request.written
    assert b"now" not in before
    setting.store.settle()
    told = setting.request.written[len(before) :]
    assert setting.store.store.epoch.encode() in told
    ended.cancel()
    with pytest.raises(Exception):  # noqa: B017, PT011  it was cancelled
        _ = ended.value


def test_messages_that_are_there_are_told_in_the_place_of_a_place(clock):
    setting = Setting(clock, slow=True)
    pushed = Outcome(setting.hub.push(push("bob")))
    setting.store.settle()
    ended = setting.begin(OLDEST)
    setting.store.settle()
    assert pushed.value.id.encode() in setting.request.written
    assert setting.request.written.count(b"id: ") == 1
    setting.hub.stop()
    assert ended.value is None


def test_where_it_cannot_be_found_out_where_it_begins_the_stream_ends_whole(clock, expected_failures):
    expected_failures.append(StoreDown)
    setting = Setting(clock, slow=True)
    ended = setting.begin()
    setting.store.next("read").fail(StoreDown("The disk is gone."))
    assert ended.value is None
    assert setting.request.written.count(b"retry: ") == 2
    assert setting.hub.registry.parked == 0
    assert setting.hub.counts.streams == 0
    assert clock.getDelayedCalls() == []


def test_who_leaves_before_the_store_answers_is_written_nothing_more(clock):
    setting = Setting(clock, slow=True)
    ended = setting.begin()
    before = setting.request.written
    ended.cancel()
    setting.store.settle()
    assert setting.request.written == before
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
    assert pushed.value.delivered == 0
    Outcome(setting.hub.push(push("bob", body="2")))
    setting.store.settle()
    assert setting.request.written.count(b"data: ") == 2
    setting.hub.stop()
    assert clock.getDelayedCalls() == []
