"""The hub against a model of plain lists: whatever is done to it, in whatever order, it does what those say.

The model knows nothing of mailboxes, heaps or registries. It keeps what was pushed in a list for each
recipient, and says by HTTP.md what each reader must be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any, ClassVar

import pytest
from helpers import EPOCH, Outcome, SlowStore, check_empty, check_invariants, data, numbers, push
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from cometd_lite.core.hub import Hub
from cometd_lite.core.message import LAST, NOW, OLDEST, Batch, Cursor, Message, Push
from cometd_lite.core.registry import Registry
from cometd_lite.errors import MailboxFull, NobodyWaits, ServerFull
from cometd_lite.limits import WAIT_SPREAD, Limits
from cometd_lite.stores.memory import MemoryStore

NAMES = ("a", "c/x", "c/y")
COVERED = {"c/*": ("c/x", "c/y"), "c/**": ("c/x", "c/y"), "**": NAMES, "*": ("a",)}
CAPACITY, CAPACITY_BYTES, TTL = 4, 30, 60.0

names = st.sampled_from(NAMES)
several = st.lists(names, min_size=1, max_size=2, unique=True).map(tuple)
readable = st.lists(st.sampled_from([*NAMES, *COVERED]), min_size=1, max_size=3, unique=True).map(tuple)
bodies = st.lists(st.text("xyz", min_size=1, max_size=12), min_size=1, max_size=2)
ttls = st.sampled_from([None, 5.0, 30.0, 1_000.0])
overflows = st.sampled_from([None, "reject", "drop-oldest"])
waits = st.sampled_from([0.0, 0.0, 0.05, 1.0, 10.0, 25.0])
limits = st.sampled_from([1, 2, 100])
picks = st.integers(0, 1_000)


@dataclass
class Kept:
    """A message in the model."""

    number: int
    body: str
    expires_at: float
    acknowledged: bool = False
    taken: bool = False

    @property
    def read(self) -> bool:
        return self.acknowledged or self.taken


@dataclass
class Box:
    """What the model keeps for a recipient, and the last number that it no longer keeps."""

    kept: list[Kept] = field(default_factory=list)
    lost: int = 0
    missed: bool = False

    def lose(self, going: Iterable[Kept]) -> None:
        for one in list(going):
            self.kept.remove(one)
            self.lost = max(self.lost, one.number)
            self.missed |= not one.taken


@dataclass
class Waiting:
    """A parked reader in the model. ``place`` is None for a take."""

    outcome: Outcome
    recipients: tuple[str, ...]
    place: int | None
    limit: int
    began: float
    wait: float
    gone: bool = False

    def covers(self, name: str) -> bool:
        return any(name == one or name in COVERED.get(one, ()) for one in self.recipients)


Answer = tuple[list[int], bool]


class Core(RuleBasedStateMachine):
    """Push, poll, take, give back, leave, tick, sweep and delete, against the model."""

    bounds: ClassVar[Limits] = Limits(
        capacity=CAPACITY, capacity_bytes=CAPACITY_BYTES, ttl=TTL, max_recipients=1_000
    )

    @initialize(seed=st.integers(0, 100))
    def begin(self, seed: int) -> None:
        self.clock = Clock()
        self.clock.advance(1_000)
        self.store = MemoryStore(self.bounds, epoch=EPOCH)
        self.hub = Hub(self.store, Registry(self.clock, self.bounds.max_parked, Random(seed)), self.clock)
        self.boxes = {name: Box() for name in NAMES}
        self.sequence = 0
        self.waiting: list[Waiting] = []
        self.handed: list[Batch] = []
        """What takes were given, and may still give back."""
        self.cursors: list[Cursor] = [OLDEST, NOW, Cursor(EPOCH, 0)]

    # -- the model

    def covered_names(self, recipients: Iterable[str]) -> list[str]:
        return [
            name for name in NAMES if any(name == one or name in COVERED.get(one, ()) for one in recipients)
        ]

    def model_expire(self) -> None:
        now = self.clock.seconds()
        for box in self.boxes.values():
            box.lose([one for one in box.kept if one.expires_at <= now])

    def model_look(self, recipients: tuple[str, ...], place: int, limit: int) -> Answer:
        """What a reader at this place must be told; it has everything up to there."""
        boxes = [self.boxes[name] for name in self.covered_names(recipients)]
        for box in boxes:
            for one in box.kept:
                one.acknowledged |= one.number <= place
        after = sorted(one.number for box in boxes for one in box.kept if one.number > place)
        return after[:limit], any(box.lost > place for box in boxes)

    def model_take(self, recipients: tuple[str, ...], limit: int) -> Answer:
        boxes = [self.boxes[name] for name in recipients]
        missed = any(box.missed for box in boxes)
        for box in boxes:
            box.missed = False
        untaken = sorted(
            (one for box in boxes for one in box.kept if not one.taken), key=lambda one: one.number
        )
        for one in untaken[:limit]:
            one.taken = True
        return [one.number for one in untaken[:limit]], missed

    def model_receive(self, reader: Waiting) -> Answer:
        """What a take that is woken must be told."""
        return self.model_take(reader.recipients, reader.limit)

    def model_give_back(self, one: Kept, _: Message) -> None:
        one.taken = False

    def model_wake(self, recipients: Iterable[str]) -> list[tuple[Waiting, Answer]]:
        """Return who must be answered, and with what, when these were pushed to."""
        answered = []
        for name in recipients:
            for reader in list(self.waiting):
                if not reader.covers(name) or reader.gone:
                    continue
                if reader.place is None:
                    found, gap = self.model_receive(reader)
                else:
                    found, gap = self.model_look(reader.recipients, reader.place, reader.limit)
                if found or gap:
                    answered.append((reader, (found, gap)))
                    self.waiting.remove(reader)
        return answered

    def model_room(
        self, recipients: tuple[str, ...], lines: list[str], reject: bool
    ) -> dict[str, list[Kept]] | None:
        """Return what must go from each mailbox; None where one of them is full."""
        size = sum(map(len, lines))
        going: dict[str, list[Kept]] = {}
        for name in recipients:
            kept = self.boxes[name].kept
            may_go = [one for one in kept if self.model_is_read(one) or not reject]
            gone: list[Kept] = []
            while len(kept) - len(gone) + len(lines) > self.bounds.capacity or (
                sum(len(one.body) for one in kept if one not in gone) + size > self.bounds.capacity_bytes
            ):
                if not may_go:
                    return None
                gone.append(may_go.pop(0))
            going[name] = gone
        return going

    def model_is_read(self, one: Kept) -> bool:
        return one.read

    def model_append(self, recipients: tuple[str, ...], lines: list[str], ttl: float | None) -> None:
        expires_at = self.clock.seconds() + min(ttl or TTL, TTL)
        for body in lines:
            for name in recipients:
                self.sequence += 1
                self.boxes[name].kept.append(Kept(self.sequence, body, expires_at))

    # -- what the hub says, held against it

    def check(self, batch: Batch, answer: Answer) -> None:
        found, gap = answer
        assert numbers(batch) == found
        self.check_gap(told=batch.gap, missed=gap)
        kept = {one.number: one.body for box in self.boxes.values() for one in box.kept}
        assert all(kept.get(message.sequence, message.data) == message.data for message in batch.messages)
        assert batch.cursor.epoch == EPOCH
        if found:
            assert batch.cursor.sequence == found[-1]
        self.remember(batch.cursor)

    def remember(self, cursor: Cursor) -> None:
        self.cursors.append(cursor)
        del self.cursors[3:-10]

    def check_gap(self, *, told: bool, missed: bool) -> None:
        assert told == missed

    def check_gap_of_take(self, *, told: bool, missed: bool) -> None:
        assert told == missed

    def check_answers(self, answered: list[tuple[Waiting, Answer]]) -> None:
        for reader, answer in answered:
            assert not reader.outcome.parked
            self.check(reader.outcome.value, answer)
            if reader.place is None:
                self.hand(reader.outcome.value)
        assert all(reader.outcome.parked for reader in self.waiting)

    def hand(self, batch: Batch) -> None:
        """Note what a take was given."""
        self.handed.append(batch)

    @staticmethod
    def check_delivered(
        delivered: int, answered: list[tuple[Waiting, Answer]], recipients: tuple[str, ...]
    ) -> None:
        """Check the count of a push. Takes may be answered besides, with what was given back, or a gap."""
        assert bool(delivered) == bool(answered)
        if len(recipients) == 1:
            assert delivered <= len(answered)

    def swept(self) -> None:
        """Let the hub let go of what is too old."""
        self.hub.sweep()

    # -- what is done

    @rule(recipients=several, lines=bodies, ttl=ttls, overflow=overflows)
    def push(self, recipients: tuple[str, ...], lines: list[str], ttl: float | None, overflow: Any) -> None:
        self.model_expire()
        going = self.model_room(recipients, lines, overflow != "drop-oldest")
        pushed = lambda: self.hub.push(push(*recipients, body=lines, ttl=ttl, overflow=overflow))  # noqa: E731
        if going is None:
            with pytest.raises(MailboxFull):
                pushed()
            return
        receipt = Outcome(pushed()).value
        for name, gone in going.items():
            self.boxes[name].lose(gone)
        before = self.sequence
        self.model_append(recipients, lines, ttl)
        assert [Cursor.parse(one).sequence for one in receipt.ids] == list(
            range(before + 1, self.sequence + 1)
        )
        answered = self.model_wake(recipients)
        self.check_delivered(receipt.delivered, answered, recipients)
        self.check_answers(answered)

    @rule(recipients=several, lines=bodies)
    def push_for_who_waits(self, recipients: tuple[str, ...], lines: list[str]) -> None:
        self.model_expire()
        outcome = self.pushed_for_nobody(push(*recipients, body=lines, queue=False))
        before = self.sequence
        self.model_append(recipients, lines, None)
        answered = self.model_wake(recipients)
        for box in self.boxes.values():
            box.kept = [one for one in box.kept if one.number <= before]
        self.check_answers(answered)
        self.check_delivered(outcome or 0, answered, recipients)

    def pushed_for_nobody(self, asked: Push) -> int | None:
        try:
            receipt = Outcome(self.hub.push(asked)).value
        except NobodyWaits:
            return None
        assert receipt.delivered
        return int(receipt.delivered)

    @rule(recipients=readable, pick=picks, wait=waits, limit=limits)
    def poll(self, recipients: tuple[str, ...], pick: int, wait: float, limit: int) -> None:
        self.model_expire()
        cursor = self.cursors[pick % len(self.cursors)]
        outcome = Outcome(self.hub.poll(recipients, cursor, wait, limit))
        if cursor == NOW:
            place, answer = self.sequence, ([], False)
        elif cursor == OLDEST:
            found = sorted(
                one.number for name in self.covered_names(recipients) for one in self.boxes[name].kept
            )
            place, answer = self.sequence, (found[:limit], False)
        else:
            place, answer = cursor.sequence, self.model_look(recipients, cursor.sequence, limit)
        if any(answer) or (not outcome.parked and outcome.value.gap):
            self.check(outcome.value, answer)
        elif not wait:
            self.check(outcome.value, answer)
            assert place <= outcome.value.cursor.sequence <= self.sequence
        else:
            assert outcome.parked
            self.waiting.append(Waiting(outcome, recipients, place, limit, self.clock.seconds(), wait))

    @rule(recipients=readable, count=st.integers(1, 5), limit=limits)
    def poll_the_newest(self, recipients: tuple[str, ...], count: int, limit: int) -> None:
        self.model_expire()
        batch = Outcome(self.hub.poll(recipients, Cursor(LAST, count), 0.0, limit)).value
        kept = sorted(one.number for name in self.covered_names(recipients) for one in self.boxes[name].kept)
        newest = kept[-count:]
        assert (numbers(batch), batch.gap, batch.more) == (newest[:limit], False, len(newest) > limit)
        assert batch.cursor.sequence == (newest[:limit][-1] if newest else self.sequence)
        self.remember(batch.cursor)

    @rule(recipients=several, pick=picks)
    def poll_from_elsewhere(self, recipients: tuple[str, ...], pick: int) -> None:
        self.model_expire()
        cursor = [Cursor("otherepoch", pick), Cursor(EPOCH, self.sequence + 1 + pick)][pick % 2]
        batch = Outcome(self.hub.poll(recipients, cursor)).value
        assert batch.gap
        kept = [one.number for name in recipients for one in self.boxes[name].kept]
        assert numbers(batch) == sorted(kept)

    @rule(recipients=several, wait=waits, limit=limits)
    def take(self, recipients: tuple[str, ...], wait: float, limit: int) -> None:
        self.model_expire()
        reader = Waiting(Outcome(None), recipients, None, limit, self.clock.seconds(), wait)
        answer = self.model_take(recipients, limit)
        reader.outcome = Outcome(self.hub.take(recipients, wait, limit, lambda: reader.gone))
        if reader.outcome.parked:
            found, gap = answer
            assert wait
            assert not found
            self.check_gap_of_take(told=False, missed=gap)
            self.waiting.append(reader)
            return
        batch = reader.outcome.value
        found, gap = answer
        assert numbers(batch) == found
        assert batch or not wait
        self.check_gap_of_take(told=batch.gap, missed=gap)
        self.hand(batch)

    @rule(name=names)
    def lose_what_was_taken(self, name: str) -> None:
        """A take's connection is gone when its messages are."""
        self.push((name,), ["x"], None, "drop-oldest")
        self.take((name,), 0.0, 100)
        self.delete(name)
        if self.give_back is not None:
            self.give_back(len(self.handed) - 1)

    @precondition(lambda self: self.handed)
    @rule(pick=picks)
    def give_back(self, pick: int) -> None:
        """The connection was gone before a take's answer was written."""
        self.model_expire()
        batch = self.handed.pop(pick % len(self.handed))
        # Whatever the hub asks of its store first lets go of what is too old; giving back does not ask.
        self.swept()
        self.hub.give_back(batch)
        for message in batch.messages:
            box = self.boxes[message.recipient]
            kept = [one for one in box.kept if one.number == message.sequence]
            for one in kept:
                self.model_give_back(one, message)
            box.missed |= not kept and message.sequence <= box.lost
        self.check_answers(self.model_wake(dict.fromkeys(message.recipient for message in batch.messages)))

    @precondition(lambda self: self.handed)
    @rule()
    def answers_are_written(self) -> None:
        self.handed.clear()

    @precondition(lambda self: self.waiting)
    @rule(pick=picks, noticed=st.booleans())
    def leave(self, pick: int, noticed: bool) -> None:
        """A connection is lost; of a take it may be known before it is reported."""
        reader = self.waiting[pick % len(self.waiting)]
        if reader.place is None and not noticed:
            reader.gone = True
            return
        self.waiting.remove(reader)
        reader.outcome.cancel()
        with pytest.raises(CancelledError):
            _ = reader.outcome.value

    @rule(seconds=st.sampled_from([0.01, 0.04, 1.0, 4.0, 9.0, 20.0, 61.0]))
    def tick(self, seconds: float) -> None:
        end = self.clock.seconds() + seconds
        while due := [call.getTime() for call in self.clock.getDelayedCalls() if call.getTime() <= end]:
            self.clock.advance(max(0.0, min(due) - self.clock.seconds()))
            self.waits_end()
        self.clock.advance(max(0.0, end - self.clock.seconds()))
        self.waits_end()

    def waits_end(self) -> None:
        now = self.clock.seconds()
        for reader in list(self.waiting):
            waited = now - reader.began
            if reader.outcome.parked:
                assert waited < reader.wait + 1e-6
                continue
            assert waited >= reader.wait * (1 - WAIT_SPREAD) - 1e-6
            self.waiting.remove(reader)
            batch = reader.outcome.value
            assert (batch.messages, batch.gap, batch.more) == ((), False, False)
            assert batch.cursor.epoch == EPOCH
            assert (reader.place or 0) <= batch.cursor.sequence <= self.sequence
            self.remember(batch.cursor)

    @rule()
    def sweep(self) -> None:
        self.model_expire()
        self.swept()
        usage = self.store.usage()
        assert usage.messages == sum(len(box.kept) for box in self.boxes.values())
        assert usage.mailboxes == sum(bool(box.kept) for box in self.boxes.values())

    @rule(name=names)
    def delete(self, name: str) -> None:
        self.model_expire()
        self.hub.delete(name)
        self.boxes[name].lose(self.boxes[name].kept)

    @rule(name=names)
    def describe(self, name: str) -> None:
        self.model_expire()
        standing = Outcome(self.hub.describe(name)).value
        kept = self.boxes[name].kept
        unread = [one for one in kept if not self.model_is_read(one)]
        assert (standing.queued, standing.bytes) == (len(unread), sum(len(one.body) for one in unread))
        assert standing.oldest == (Cursor(EPOCH, kept[0].number) if kept else None)
        assert standing.newest == (Cursor(EPOCH, kept[-1].number) if kept else None)
        assert standing.waiting == sum(reader.covers(name) for reader in self.waiting)

    # -- what always holds

    @invariant()
    def what_is_parked_is_what_waits(self) -> None:
        registry = self.hub.registry
        assert registry.parked == len(self.waiting)
        assert all(reader.outcome.parked for reader in self.waiting)
        assert len(self.clock.getDelayedCalls()) == bool(self.waiting)
        for name in NAMES:
            assert registry.waiting(name) == sum(reader.covers(name) for reader in self.waiting)

    @invariant()
    def what_is_kept_is_what_the_model_keeps(self) -> None:
        self.model_expire()
        for name in NAMES:
            found = self.store.read((name,), OLDEST, 1_000, self.clock.seconds())
            assert [(message.sequence, message.data) for message in found.messages] == [
                (one.number, one.body) for one in self.boxes[name].kept
            ]

    @invariant()
    def hub_registry_and_store_agree_with_themselves(self) -> None:
        check_invariants(self.hub)

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        self.hub.stop()
        for reader in self.waiting:
            assert not reader.outcome.value.messages
        check_empty(self.hub)
        assert self.clock.getDelayedCalls() == []


class Crowded(Core):
    """The same with fewer mailboxes than recipients: what was read may go at any push, and only that."""

    bounds: ClassVar[Limits] = Limits(capacity=1_000, ttl=TTL, max_recipients=2)

    @rule(recipients=several, lines=bodies, ttl=ttls, overflow=overflows)
    def push(self, recipients: tuple[str, ...], lines: list[str], ttl: float | None, overflow: Any) -> None:
        self.push_and_reclaim(recipients, lines, ttl, queue=True)

    @rule(recipients=several, lines=bodies)
    def push_for_who_waits(self, recipients: tuple[str, ...], lines: list[str]) -> None:
        self.push_and_reclaim(recipients, lines, None, queue=False)

    def push_and_reclaim(
        self, recipients: tuple[str, ...], lines: list[str], ttl: float | None, *, queue: bool
    ) -> None:
        self.model_expire()
        unread = {name for name, box in self.boxes.items() if any(not one.read for one in box.kept)}
        delivered = None
        try:
            delivered = Outcome(
                self.hub.push(push(*recipients, body=lines, ttl=ttl, queue=queue))
            ).value.delivered
        except ServerFull:
            assert len(unread | set(recipients)) > self.bounds.max_recipients
            self.reclaimed()
            return
        except NobodyWaits:
            pass
        before = self.sequence
        self.model_append(recipients, lines, ttl)
        new = {name: [one for one in self.boxes[name].kept if one.number > before] for name in NAMES}
        for name in NAMES:
            self.boxes[name].kept = [one for one in self.boxes[name].kept if one.number <= before]
        self.reclaimed(up_to=before)
        for name in NAMES:
            self.boxes[name].kept += new[name]
        answered = self.model_wake(recipients)
        if not queue:
            for box in self.boxes.values():
                box.kept = [one for one in box.kept if one.number <= before]
        self.check_answers(answered)
        self.check_delivered(delivered or 0, answered, recipients)

    def reclaimed(self, up_to: int | None = None) -> None:
        """Take over what the store has let go of; it must have been read."""
        for name, box in self.boxes.items():
            found = self.store.read((name,), OLDEST, 1_000, self.clock.seconds())
            there = {message.sequence for message in found.messages}
            gone = [one for one in box.kept if one.number not in there]
            assert all(one.read for one in gone)
            assert up_to is None or all(one.number <= up_to for one in gone)
            box.lose(gone)

    give_back = None  # what such a take missed may be forgotten

    @rule(recipients=readable, pick=picks, wait=waits, limit=limits)
    def poll(self, recipients: tuple[str, ...], pick: int, wait: float, limit: int) -> None:
        # Of more patterns than mailboxes the store forgets how far their readers came.
        few = {"c/*": "c/**", "*": "**"}
        super().poll(tuple(dict.fromkeys(few.get(one, one) for one in recipients)), pick, wait, limit)

    def check_gap(self, *, told: bool, missed: bool) -> None:
        # Losses beyond the bound are told to more readers than missed something, and never to fewer.
        assert told or not missed

    def check_gap_of_take(self, *, told: bool, missed: bool) -> None:
        pass  # they are not promised to any take


class Slow(RuleBasedStateMachine):
    """A store that looks and answers whenever it likes: nothing is lost, doubled, or out of order."""

    @initialize(seed=st.integers(0, 100))
    def begin(self, seed: int) -> None:
        self.clock = Clock()
        self.memory = MemoryStore(Limits(max_recipients=1_000), epoch=EPOCH)
        self.store = SlowStore(self.memory)
        self.hub = Hub(self.store, Registry(self.clock, 1_000, Random(seed)), self.clock)
        self.bodies = count()
        self.readers = [Following(self, NOW), Following(self, OLDEST), Following(self, Cursor(EPOCH, 0))]
        self.takes: list[Outcome] = []
        self.pushes: list[tuple[Outcome, str]] = []
        self.left = 0

    @rule()
    def push(self) -> None:
        body = str(next(self.bodies))
        self.pushes.append((Outcome(self.hub.push(push("bob", body=body))), body))

    @rule()
    def push_accepted_at_once(self) -> None:
        self.push()
        self.store.answer(self.store.asked[-1])

    @rule(pick=picks)
    def sender_leaves(self, pick: int) -> None:
        if self.pushes:
            outcome, _ = self.pushes[pick % len(self.pushes)]
            if outcome.parked:
                outcome.cancel()

    @rule(pick=picks, wait=st.sampled_from([0.0, 1.0, 25.0]), limit=limits)
    def read_on(self, pick: int, wait: float, limit: int) -> None:
        self.readers[pick % len(self.readers)].read_on(wait, limit)

    @rule(pick=picks, limit=limits)
    def read_on_and_look_at_once(self, pick: int, limit: int) -> None:
        reader = self.readers[pick % len(self.readers)]
        reader.read_on(25.0, limit)
        if reader.outcome is not None and self.store.asked:
            self.store.asked[-1].look()

    @rule(pick=picks)
    def reader_leaves(self, pick: int) -> None:
        self.readers[pick % len(self.readers)].leave()

    @rule(wait=st.sampled_from([0.0, 1.0, 25.0]), limit=limits)
    def take(self, wait: float, limit: int) -> None:
        self.takes.append(Outcome(self.hub.take(("bob",), wait, limit)))

    @rule(pick=picks)
    def take_leaves(self, pick: int) -> None:
        if self.takes:
            outcome = self.takes[pick % len(self.takes)]
            if outcome.parked:
                outcome.cancel()

    @rule(pick=picks)
    def store_looks(self, pick: int) -> None:
        if self.store.asked:
            self.store.asked[pick % len(self.store.asked)].look()

    @rule(pick=picks)
    def store_answers(self, pick: int) -> None:
        if self.store.asked:
            self.store.answer(self.store.asked[pick % len(self.store.asked)])

    @rule(seconds=st.sampled_from([0.5, 1.0, 25.0]))
    def tick(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def settle(self) -> None:
        """When all is answered, nobody waits for what is there."""
        self.store.settle()
        log = self.log()
        for reader in self.readers:
            reader.hear()
            if reader.outcome is not None:
                assert reader.place is None or [one for one in log if one[0] > reader.place] == []
        if any(take.parked for take in self.takes):
            assert not self.memory.take(("bob",), 1, 0.0)

    @invariant()
    def hub_registry_and_store_agree_with_themselves(self) -> None:
        if hasattr(self, "hub"):
            check_invariants(self.hub)

    def log(self) -> list[tuple[int, str]]:
        found = self.memory.read(("bob",), OLDEST, 10_000, 0.0)
        return list(zip(numbers(found), data(found), strict=True))

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        self.settle()
        log = self.log()
        # Every push was kept once, whether its sender stayed or not.
        assert sorted(body for _, body in log) == sorted(body for _, body in self.pushes)
        for reader in self.readers:
            reader.leave()
            self.store.settle()
            reader.read_on(0.0, 1_000)
            self.store.settle()
            reader.hear()
            assert reader.heard == [one for one in log if one[0] > reader.first]
        # Every message went to one take, or is left for the next one.
        taken = [one for take in self.takes for one in take.results if isinstance(one, Batch)]
        assert all(numbers(batch) == sorted(numbers(batch)) for batch in taken)
        rest = self.memory.take(("bob",), 10_000, 0.0)
        assert sorted([one for batch in [*taken, rest] for one in numbers(batch)]) == [one for one, _ in log]
        self.hub.stop()
        self.store.settle()
        check_empty(self.hub)
        assert self.clock.getDelayedCalls() == []


class Following:
    """A client that polls by cursor: what it heard must be all that came after the place where it began."""

    def __init__(self, machine: Slow, after: Cursor) -> None:
        self.machine = machine
        self.after = after
        self.heard: list[tuple[int, str]] = []
        self.outcome: Outcome | None = None
        self.first = 0
        self.began: Callable[[], int] | None = None

    @property
    def place(self) -> int | None:
        return None if self.after == NOW else self.after.sequence

    def read_on(self, wait: float, limit: int) -> None:
        self.hear()
        if self.outcome is None:
            self.asked_at = self.machine.memory.sequence
            self.outcome = Outcome(self.machine.hub.poll(("bob",), self.after, wait, limit))
            self.hear()

    def hear(self) -> None:
        if self.outcome is None or self.outcome.parked:
            return
        batch = self.outcome.value
        self.outcome = None
        assert not batch.gap
        found = list(zip(numbers(batch), data(batch), strict=True))
        if self.after == NOW:
            # "now" is some moment between the question and its answer; all of what came later is told.
            self.first = found[0][0] - 1 if found else batch.cursor.sequence
            assert self.first >= self.asked_at
        assert not found or found[0][0] > self.first
        self.after = batch.cursor
        self.heard += found

    def leave(self) -> None:
        self.hear()
        if self.outcome is not None:
            self.outcome.cancel()
            self.outcome = None


TestCore = Core.TestCase
TestCrowded = Crowded.TestCase
TestSlow = Slow.TestCase
TestCore.settings = TestCrowded.settings = TestSlow.settings = settings(stateful_step_count=40)


# Hypothesis looks for the shortest way to a failure; a long walk gets to where no short way leads.

DRAWS: dict[str, Callable[[Random], Any]] = {
    "name": lambda random: random.choice(NAMES),
    "recipients": lambda random: tuple(random.sample(NAMES, random.choice((1, 1, 2)))),
    "readable": lambda random: tuple(random.sample([*NAMES, *COVERED], random.choice((1, 1, 2)))),
    "lines": lambda random: ["x" * random.randint(1, 12) for _ in range(random.choice((1, 1, 2)))],
    "ttl": lambda random: random.choice((None, None, 5.0, 30.0)),
    "overflow": lambda random: random.choice((None, None, "drop-oldest")),
    "wait": lambda random: random.choice((0.0, 1.0, 25.0, 25.0)),
    "limit": lambda random: random.choice((1, 2, 100)),
    "count": lambda random: random.randint(1, 5),
    "pick": lambda random: random.randrange(1_000),
    "noticed": lambda random: random.random() < 0.7,
    "seconds": lambda random: random.choice((0.01, 0.5, 1.0, 4.0, 25.0)),
}


READS = frozenset({"poll", "poll_the_newest"})
"""The rules whose recipients may be patterns."""


def steps(machine: type[RuleBasedStateMachine]) -> list[tuple[str, list[str]]]:
    """Return the rules of a machine by name, each with the names of its arguments."""
    return [(step.function.__name__, list(step.arguments)) for step in machine.setup_state().rules]


def walk(machine: type[Core | Crowded | Slow], seed: int, length: int) -> None:
    """Take so many steps at random, and check what always holds after every tenth."""
    random = Random(seed)
    walker = machine()
    walker.begin(seed)
    rules = steps(machine)
    invariants = [one.function for one in machine.setup_state().invariants]
    for step in range(length):
        name, arguments = random.choice(rules)
        if name in {"give_back", "answers_are_written"} and not walker.handed:
            continue
        if name == "leave" and not walker.waiting:
            continue
        words = {
            one: DRAWS["readable" if one == "recipients" and name in READS else one](random)
            for one in arguments
        }
        getattr(walker, name)(**words)
        for holds in invariants if step % 10 == 0 else ():
            holds(walker)
    walker.teardown()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("machine", [Core, Crowded, Slow])
def test_a_long_walk_finds_nothing_either(machine: type[Core | Crowded | Slow], seed: int) -> None:
    walk(machine, seed, 3_000)
