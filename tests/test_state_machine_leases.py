"""The hub against a model of plain lists, with leases beside takes, cursors, expiry and deletes.

``test_state_machine`` has the model; here a message may belong to a worker until a time, and after two
attempts it goes to the dead letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import test_state_machine as machine
from helpers import Outcome, numbers
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from test_state_machine import (
    CAPACITY,
    CAPACITY_BYTES,
    NAMES,
    TTL,
    Answer,
    Box,
    Kept,
    Waiting,
    limits,
    names,
    picks,
    waits,
)

from cometd_lite.core.leases import LeaseId, Settlement
from cometd_lite.core.message import Batch, LeasedMessage, Message
from cometd_lite.limits import Limits

ATTEMPTS = 2
DEAD = {name: f"$dead/{name}" for name in NAMES}

single = names.map(lambda name: (name,))
"""Of several recipients it would depend on the order in which they are swept who is given what."""
seconds = st.sampled_from([1.0, 5.0, 20.0])
settlements = st.sampled_from(["done", "released", "extended"])


@dataclass
class Lease:
    """The last lease of a message; ``ends_at`` is None where it has ended."""

    attempt: int
    ends_at: float | None
    is_exhausted: bool = False
    is_released: bool = False
    id: str = ""


@dataclass
class LeaseWaiting(Waiting):
    """A parked lease in the model."""

    seconds: float = 0.0


class Leased(machine.Core):
    """Push, poll, take, lease, settle, give back, leave, tick, sweep and delete, against the model."""

    bounds: ClassVar[Limits] = Limits(
        capacity=CAPACITY, capacity_bytes=CAPACITY_BYTES, ttl=TTL, max_attempts=ATTEMPTS
    )

    @initialize(seed=st.integers(0, 100))
    def begin(self, seed: int) -> None:
        super().begin(seed)
        self.boxes |= {name: Box() for name in DEAD.values()}
        self.leases: dict[int, Lease] = {}
        """The last lease of each message that is kept and not done."""
        self.leased_from: set[str] = set()
        self.ended: set[str] = set()
        """Of which mailboxes leases have ended by themselves since the last sweep."""
        self.settleable: list[LeasedMessage] = []

    # -- the model

    def model_end_leases(self) -> None:
        for name, box in self.boxes.items():
            for one in box.kept:
                lease = self.leases.get(one.number)
                if lease is not None and lease.ends_at is not None and lease.ends_at <= self.clock.seconds():
                    self.model_free(lease)
                    self.ended.add(name)

    @staticmethod
    def model_free(lease: Lease) -> None:
        lease.ends_at = None
        lease.is_exhausted = lease.attempt >= ATTEMPTS

    def model_expire(self) -> None:
        super().model_expire()
        self.model_end_leases()
        self.model_forget()

    def model_forget(self) -> None:
        """Forget the leases of messages that are no more, and what was leased from of mailboxes that are."""
        kept = {one.number for box in self.boxes.values() for one in box.kept}
        self.leases = {number: lease for number, lease in self.leases.items() if number in kept}
        self.leased_from = {name for name in self.leased_from if self.boxes[name].kept}

    def is_reserved(self, one: Kept) -> bool:
        lease = self.leases.get(one.number)
        return lease is not None and (lease.ends_at is not None or lease.is_exhausted)

    def name_of(self, one: Kept) -> str:
        return next(name for name, box in self.boxes.items() if one in box.kept)

    def model_is_read(self, one: Kept) -> bool:
        return one.taken if self.name_of(one) in self.leased_from else one.read

    def model_take(self, recipients: tuple[str, ...], limit: int) -> Answer:
        self.model_end_leases()
        hidden = [one for name in recipients for one in self.boxes[name].kept if self.is_reserved(one)]
        for one in hidden:
            one.taken = True
        answer = super().model_take(recipients, limit)
        for one in hidden:
            one.taken = False
        return answer

    def model_lease(self, recipients: tuple[str, ...], limit: int, seconds: float) -> Answer:
        found, gap = self.model_take(recipients, limit)
        for name in recipients:
            for one in self.boxes[name].kept:
                if one.number in found:
                    one.taken = False
                    last = self.leases.get(one.number)
                    attempt = 1 if last is None else last.attempt + 1
                    self.leases[one.number] = Lease(attempt, self.clock.seconds() + seconds)
                    self.leased_from.add(name)
        return found, gap

    def model_receive(self, reader: Waiting) -> Answer:
        if isinstance(reader, LeaseWaiting):
            return self.model_lease(reader.recipients, reader.limit, reader.seconds)
        return super().model_receive(reader)

    def model_give_back(self, one: Kept, message: Message) -> None:
        if not isinstance(message, LeasedMessage):
            super().model_give_back(one, message)
            return
        lease = self.leases.get(one.number)
        if lease is not None and lease.id == message.lease and lease.ends_at is not None:
            lease.attempt -= 1
            lease.ends_at, lease.id = None, ""
            if not lease.attempt:
                del self.leases[one.number]

    # -- what the hub says, held against it

    def hand(self, batch: Batch) -> None:
        super().hand(batch)
        for message in batch.leased:
            lease = self.leases[message.sequence]
            assert message.attempt == lease.attempt
            lease.id = message.lease
        self.settleable += batch.leased
        del self.settleable[:-10]

    def swept(self) -> None:
        """Sweep; then parked takes have looked at what came back, and exhausted messages have moved."""
        self.model_expire()
        exhausted = {name: [one for one in self.boxes[name].kept if self.is_exhausted(one)] for name in NAMES}
        self.hub.sweep()
        for name in NAMES:
            self.check_dead_letters(name, exhausted[name])
        self.sequence = self.store.sequence
        answered = {reader.recipients[0] for reader in self.waiting if not reader.outcome.parked}
        self.check_answers(self.model_wake([name for name in NAMES if name in self.ended | answered]))
        self.ended.clear()

    def is_exhausted(self, one: Kept) -> bool:
        return one.number in self.leases and self.leases[one.number].is_exhausted

    def check_dead_letters(self, name: str, exhausted: list[Kept]) -> None:
        """Check that of the exhausted messages as many have moved as there is room for."""
        box = self.boxes[DEAD[name]]
        found = self.store.read((DEAD[name],), machine.OLDEST, 100, self.clock.seconds(), acks=False)
        there = [one.number for one in box.kept]
        moved = [message for message in found.messages if message.sequence not in there]
        box.lose([one for one in box.kept if one.number not in numbers(found)])
        for message in moved:
            assert message.event == "dead"
            one = next(one for one in exhausted if one.body == message.data)
            exhausted.remove(one)
            one.taken = True
            del self.leases[one.number]
            box.kept.append(Kept(message.sequence, message.data, self.clock.seconds() + TTL))
        for one in exhausted:
            assert self.model_room((DEAD[name],), [one.body], reject=True) is None

    # -- what is done

    @rule(recipients=single, wait=waits, limit=limits)
    def take(self, recipients: tuple[str, ...], wait: float, limit: int) -> None:
        super().take(recipients, wait, limit)

    @rule(name=names, wait=waits, limit=limits, seconds=seconds)
    def lease(self, name: str, wait: float, limit: int, seconds: float) -> None:
        self.model_expire()
        reader = LeaseWaiting(
            Outcome(None), (name,), None, limit, self.clock.seconds(), wait, seconds=seconds
        )
        found, gap = self.model_lease((name,), limit, seconds)
        reader.outcome = Outcome(self.hub.lease((name,), seconds, wait, limit, lambda: reader.gone))
        if reader.outcome.parked:
            assert wait
            assert (found, gap) == ([], False)
            self.waiting.append(reader)
            return
        batch = reader.outcome.value
        assert (numbers(batch), batch.gap) == (found, gap)
        assert batch or not wait
        self.hand(batch)

    @rule(name=names, seconds=seconds)
    def push_and_lease(self, name: str, seconds: float) -> None:
        self.push((name,), ["x"], None, "drop-oldest")
        self.lease(name, 0.0, 100, seconds)

    @precondition(lambda self: self.settleable)
    @rule(pick=picks, settlement=settlements, seconds=seconds)
    def settle(self, pick: int, settlement: Settlement, seconds: float) -> None:
        self.model_expire()
        message = self.settleable[pick % len(self.settleable)]
        name, number = message.recipient, message.sequence
        self.handed = [batch for batch in self.handed if message not in batch.messages]
        one = next((one for one in self.boxes[name].kept if one.number == number), None)
        lease = self.leases.get(number)
        is_last = one is not None and lease is not None and lease.id == message.lease and not one.taken
        if is_last and lease is not None and lease.is_exhausted and settlement != "done":
            is_last = False
        if is_last and lease is not None and lease.is_released and settlement == "extended":
            is_last = False
        settled = self.hub.settle(name, [LeaseId.parse(message.lease)], settlement, seconds)
        assert Outcome(settled).value == [settlement if is_last else "gone"]
        if not is_last or one is None or lease is None:
            return
        if settlement == "done":
            one.taken = True
            del self.leases[number]
        elif settlement == "extended":
            lease.ends_at = self.clock.seconds() + seconds
        else:
            if lease.ends_at is not None:
                self.model_free(lease)
            lease.is_released = True
            self.check_answers(self.model_wake((name,)))

    @rule(name=names)
    def read_dead_letters(self, name: str) -> None:
        self.model_expire()
        found, gap = self.model_take((DEAD[name],), 100)
        batch = Outcome(self.hub.take((DEAD[name],), 0.0, 100)).value
        assert (numbers(batch), batch.gap) == (found, gap)

    @rule(name=names)
    def delete(self, name: str) -> None:
        super().delete(name)
        self.model_forget()

    @rule(name=names)
    def describe(self, name: str) -> None:
        super().describe(name)
        held = [one for one in self.boxes[name].kept if self.is_held(one)]
        assert Outcome(self.hub.describe(name)).value.leased == len(held)

    def is_held(self, one: Kept) -> bool:
        return one.number in self.leases and self.leases[one.number].ends_at is not None


TestLeased = Leased.TestCase
TestLeased.settings = settings(stateful_step_count=40)
