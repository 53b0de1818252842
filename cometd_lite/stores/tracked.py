"""The mailboxes of a store whose file follows them: they live in memory, and note what of them changed.

A push gets its numbers and its room when it is accepted (``PendingPush``), and is shown once it was
written. What else changed leaves as ``Changes``, and is noted again where it could not be written.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from math import inf
from typing import Any, Literal, NamedTuple, TypeAlias

from twisted.internet.defer import Deferred

from ..core.leases import LeaseId, Leases, Reservation, Settlement
from ..core.mailbox import Mailbox
from ..core.message import COMMON_TYPES, Batch, Content, Cursor, Message, Push
from ..core.recipient import covering, is_pattern
from ..deferreds import MaybeDeferred, ShieldedDeferred
from ..errors import MailboxFull
from ..limits import LEASE_SECONDS, Limits
from .journal import NO_MAILBOX, RELEASED, Changes, Kept, KeptLease, KeptRecord, Place
from .mailboxes import cost
from .memory import MemoryStore
from .slices import Soon, Steps


class PendingPush(ShieldedDeferred[Sequence[Message]]):
    """A push that has its numbers and its room, and waits for its commit; it fires with its messages.

    ``size`` is the bytes that each of its recipients gets, ``memory`` what all of it is counted with.
    ``crowded``: there may be room only where something goes.
    """

    __slots__ = ("crowded", "memory", "messages", "push", "receipt", "size")

    def __init__(
        self, push: Push, messages: Sequence[Message], size: int, memory: int, crowded: bool
    ) -> None:
        ShieldedDeferred.__init__(self)
        self.push = push
        self.messages = messages
        self.size = size
        self.memory = memory
        self.crowded = crowded
        self.receipt: KeptRecord | None = None


_NOTHING = (0, 0)
"""The messages and bytes for which room is held in most mailboxes."""

Waiter: TypeAlias = tuple[Deferred[None], list[int]]
"""It fires once what ``outstanding`` has returned is written."""


class Commit(NamedTuple):
    """What a commit under way is about. ``ends`` are the numbers up to which mailboxes are deleted."""

    changes: Changes
    pending: list[PendingPush]
    waiters: list[Waiter]
    ends: dict[str, int]
    records: dict[Any, Any]


class TrackedMailboxes(MemoryStore):
    """The mailboxes in memory: notes the names of what changed, and counts what is still to come.

    ``numbered`` is the last number given, ``sequence`` the last one that readers may see.
    """

    def __init__(self, limits: Limits, *, overflow: str, soon: Soon) -> None:
        super().__init__(limits, overflow=overflow, soon=soon)
        self.numbered = 0
        self.changed: dict[str, None] = {}
        """Recipients and patterns whose place in the file is out of date, longest ago first."""
        self.removed: deque[int] = deque()
        """Numbers of messages that are to leave the file; after the places that say so."""
        self.ended_leases: deque[int] = deque()
        """Numbers of messages that are no more, and whose leases are to leave the file."""
        self._pending: dict[str, tuple[int, int]] = {}
        """By recipient, the messages and bytes that are still to come."""
        self.pending_memory = 0
        """What they are counted with."""
        self._handed_out = [0, 0, 0]
        """How many names, numbers and leases ``changes`` has handed out, in their order."""
        self._made_soon: dict[str, str] = {}
        """Those of them that have no mailbox yet, each by itself."""
        self._forgotten = 0
        """How many losses and acknowledgements had been forgotten when the file was last told."""

    # -- what comes

    def accept(self, push: Push, now: float, created_at: float) -> PendingPush:
        """Give a push its numbers and hold room for it. Raises ``MailboxFull`` or ``ServerFull``."""
        recipients = push.recipients
        if self._expiries.first <= now:
            self._expire_soon(now, recipients)
        pending = self._accept_one(push, now, created_at)
        if pending is not None:
            return pending
        size = sum([len(content.body) for content in push.contents])
        crowded = push.queue and self._is_crowded(push, size)
        makes_room = None
        # What goes for this push is not to be counted for another one, too.
        if crowded and self._check_capacity(push) and self._pending.keys().isdisjoint(recipients):
            makes_room = push
        messages = self._numbered(push, now, created_at, self.numbered)
        mailboxes, soon = self._mailboxes, self._made_soon
        self._check_server(messages, soon, makes_room=makes_room)
        soon.update({one: one for one in recipients if one not in mailboxes and one not in soon})
        memory = sum(map(cost, messages))
        self.numbered = messages[-1].sequence
        self.memory += memory
        self.pending_memory += memory
        for recipient in recipients:
            held, held_size = self._pending.get(recipient, _NOTHING)
            self._pending[recipient] = (held + len(push.contents), held_size + size)
        return PendingPush(push, messages, size, memory, crowded)

    def _accept_one(self, push: Push, now: float, created_at: float) -> PendingPush | None:
        """Accept one message for a mailbox that is there and has room, as most are; else return None."""
        mailbox = self._mailboxes.get(push.recipients[0])
        if mailbox is None or len(push.recipients) > 1 or len(push.contents) > 1:
            return None
        name = mailbox.recipient
        bounds = self._own_bounds if self._bounds is None else self._bounds.of(name)
        content = push.contents[0]
        size = len(content.body)
        held, held_size = self._pending.get(name, _NOTHING)
        if len(mailbox.messages) + held >= bounds.capacity:
            return None
        if mailbox.size + held_size + size > bounds.capacity_bytes:
            return None
        expires_at = now + (bounds.ttl if push.ttl is None else min(push.ttl, bounds.ttl))
        number = self.numbered + 1
        message = Message(Cursor(self.epoch, number), name, content, created_at, expires_at, push.event)
        memory = cost(message)
        if self.memory + memory > self.limits.max_memory:
            return None
        self.numbered = number
        self.memory += memory
        self.pending_memory += memory
        self._pending[name] = (held + 1, held_size + size)
        return PendingPush(push, (message,), size, memory, crowded=False)

    def _release(self, pending: PendingPush) -> None:
        """Hold no room in its mailboxes any longer for a push."""
        self.pending_memory -= pending.memory
        count = len(pending.push.contents)
        for recipient in pending.push.recipients:
            held, size = self._pending[recipient]
            if held > count:
                self._pending[recipient] = (held - count, size - pending.size)
            else:
                del self._pending[recipient]

    def drop(self, pending: PendingPush) -> None:
        """Give up the room of a push that does not come after all."""
        self._release(pending)
        self.memory -= pending.memory
        for recipient in pending.push.recipients:
            if recipient not in self._pending:
                self._made_soon.pop(recipient, None)

    def show(self, pending: PendingPush) -> None:
        """Put a push into its mailboxes, where readers see it."""
        self._release(pending)
        if pending.crowded:
            # There was something that may go when it was accepted. A take may have given that back since;
            # then the mailbox holds a little more, until the next push.
            with suppress(MailboxFull):
                self._make_room(pending.push)
        mailboxes, messages = self._mailboxes, pending.messages
        for message in messages:
            name = message.recipient
            self._put(mailboxes.get(name) or self._create(name), message, 0)  # it is counted already
        if self._made_soon:
            for recipient in pending.push.recipients:
                self._made_soon.pop(recipient, None)
        self.sequence = messages[-1].sequence

    def _shared_name(self, recipient: str) -> str:
        return self._made_soon.get(recipient) or super()._shared_name(recipient)

    def _is_crowded(self, push: Push, size: int) -> bool:
        """Whether a mailbox does not hold a push besides all that it has, and that comes already.

        Raises ``MailboxFull`` where there would be room, were it not for what comes already.
        """
        crowded = False
        for recipient in push.recipients:
            bounds = self._bounds_of(recipient)
            held, held_size = self._pending.get(recipient, _NOTHING)
            count, total = held + len(push.contents), held_size + size
            mailbox = self._mailboxes.get(recipient) or Mailbox(recipient)
            fits = len(mailbox.messages) + count <= bounds.capacity
            if fits and mailbox.size + total <= bounds.capacity_bytes:
                continue
            crowded = True
            if held and bounds.rejects(push):
                if count > bounds.capacity or total > bounds.capacity_bytes:
                    raise MailboxFull(f"The mailbox of {recipient!r} is full. Push again later.")
                mailbox.in_the_way(count, total, bounds.capacity, bounds.capacity_bytes, reject=True)
        return crowded

    def _recounted(self) -> int:
        return super()._recounted() + self.pending_memory

    def check_invariants(self) -> None:
        """See ``MemoryStore.check_invariants``; ``memory`` counts what is still to come, too."""
        super().check_invariants()
        assert self.sequence <= self.numbered, "no number that readers see is above the last one given"
        assert all(count > 0 for count, *_ in self._pending.values()), "no room is held for nothing"
        assert self._made_soon.keys() <= self._pending.keys(), (
            "something is to come for a mailbox that is to be made"
        )
        assert self._made_soon.keys().isdisjoint(self._mailboxes), (
            "a mailbox that is to be made is not there yet"
        )

    def check_room(self, pushes: Iterable[Push], *, exactly: bool) -> None:
        """Raise ``AssertionError`` where less room is held than for ``pushes``, or not ``exactly`` that."""
        pending: Counter[str] = Counter()
        for push in pushes:
            for name in push.recipients:
                pending[name] += len(push.contents)
        held = {name: count for name, (count, *_) in self._pending.items()}
        assert all(held.get(name, 0) >= count for name, count in pending.items()), (
            "room is held for each push"
        )
        assert held == pending or not exactly, "room is held only for pushes that wait"

    # -- what is deleted

    def holds(self, recipient: str, now: float) -> bool:
        """Whether there is something to delete."""
        self._expire_soon(now)
        return recipient in self._mailboxes

    def add_deletions(self, changes: Changes, recipients: Iterable[str]) -> dict[str, int]:
        """Add to the changes that these mailboxes lose what they hold now; in memory nothing changes yet.

        Returns the number of the last message of each, for ``apply_deletions`` once the changes are written.
        """
        ends: dict[str, int] = {}
        places: dict[str, Place] = {}
        for recipient in recipients:
            mailbox = self._mailboxes.get(recipient)
            if mailbox is None:
                continue
            last = ends[recipient] = mailbox.messages[-1].sequence
            changes.deleted += [message.sequence for message in mailbox.messages]
            missed = mailbox.missed or bool(mailbox.untaken(1))
            places[recipient] = Place(recipient, last, missed, 0, 0, "")
            for pattern in covering(recipient)[1:]:
                place = places.get(pattern) or self._place(pattern) or Place(pattern, 0, 0, 0, 0, "")
                places[pattern] = place._replace(lost=max(place.lost, last))
        changes.places += places.values()  # behind what else the changes say of the same names
        return ends

    def apply_deletions(self, ends: dict[str, int]) -> MaybeDeferred[None]:
        """Lose what the file has lost: the messages of each mailbox up to a number, in steps."""
        return self._slices.run(self._apply_deletions(ends)) if ends else None

    def _apply_deletions(self, ends: dict[str, int]) -> Steps[None]:
        for recipient, last in ends.items():
            while going := self._oldest(recipient, last):
                noted = len(self.removed)
                self._drop(self._mailboxes[recipient], going)
                while len(self.removed) > noted:
                    self.removed.pop()
                yield

    # -- what changed

    def changes(self, most: int | None, offset: float) -> Changes:
        """Return what changed, and forget that it did; with ``most``, about so many rows of it.

        ``offset`` is what makes this process's times seconds since 1970.
        """
        changes = Changes(self.sequence, self._lost.floor)
        forgotten = self._lost.forgotten + self._acknowledged.forgotten
        if forgotten - self._forgotten > self.limits.max_recipients // 8:
            # Seldom, because all places are looked at.
            self._forgotten, changes.unacknowledged = forgotten, self._acknowledged.floor
        if not (self.changed or self.removed or self.ended_leases):
            return changes
        for name in list(islice(self.changed, most)):
            del self.changed[name]
            self._handed_out[0] += 1
            place = self._place(name)
            if place is None:
                changes.forgotten.append(name)
            else:
                changes.places.append(place)
            # In one commit with the place: what is taken and has no lease is done.
            self._add_leases(changes, name, offset)
            if most is not None and len(changes.leases) >= most:
                break
        ended = len(self.ended_leases) if most is None else min(most, len(self.ended_leases))
        changes.ended_leases += [self.ended_leases.popleft() for _ in range(ended)]
        # A message that is deleted from the file while its place does not say so would leave no gap.
        if not self.changed:
            going = len(self.removed) if most is None else min(most, len(self.removed))
            changes.removed = [self.removed.popleft() for _ in range(going)]
        self._handed_out[1] += len(changes.removed)
        self._handed_out[2] += ended
        return changes

    def outstanding(self) -> list[int]:
        """Return what ``changes`` will have handed out when all is that has changed by now."""
        left = (len(self.changed), len(self.removed), len(self.ended_leases))
        return [done + more for done, more in zip(self._handed_out, left, strict=True)]

    def was_handed_out(self, until: list[int]) -> bool:
        """Return whether ``changes`` has handed out what ``outstanding`` had returned."""
        return all(done >= wanted for done, wanted in zip(self._handed_out, until, strict=True))

    def _add_leases(self, changes: Changes, name: str, offset: float) -> None:
        """Add to the changes the leases of a mailbox that have changed."""
        mailbox = self._mailboxes.get(name)
        leases = None if mailbox is None else mailbox.leases
        if leases is None or not leases.changed:
            return
        changed, leases.changed = leases.changed, set()
        for number in changed:
            one = leases.reservations.get(number)
            if one is None:
                changes.ended_leases.append(number)
            else:
                # An exhausted one is written as one whose time is over, and is exhausted again when read.
                ended = {"free": None, "released": RELEASED}
                ends_at = ended.get(one.state, one.ends_at + offset)
                changes.leases.append(KeptLease(number, name, one.attempt, one.secret, ends_at))

    def unchange(self, changes: Changes) -> None:
        """Note again what could not be written."""
        for lease in changes.leases:
            mailbox = self._mailboxes.get(lease.name)
            if mailbox is not None and mailbox.leases is not None and mailbox.leases.changed is not None:
                mailbox.leases.changed.add(lease.sequence)
            else:
                self.ended_leases.append(lease.sequence)
        self.ended_leases.extendleft(reversed(changes.ended_leases))
        names = [*[place.name for place in changes.places], *changes.forgotten]
        self.changed.update(dict.fromkeys(names))
        self.removed.extendleft(reversed(changes.removed))

    def _place(self, name: str) -> Place | None:
        """Return what the file has to know of a name; None where that is nothing."""
        mailbox = self._mailboxes.get(name)
        if mailbox is not None:
            back = " ".join(map(str, sorted(mailbox.given_back)))
            leased = int(mailbox.leases is not None)
            places = (mailbox.lost, mailbox.missed, mailbox.acknowledged, mailbox.taken)
            place = Place(name, *places, back, leased)
        else:
            place = Place(name, *self._lost.entry(name), self._acknowledged.get(name), NO_MAILBOX, "")
        return place if any(place[1:4]) or place.taken > 0 or place.leased else None

    def _note(self, name: str) -> None:
        self.changed[name] = None

    def _create(self, recipient: str) -> Mailbox:
        mailbox = super()._create(recipient)
        if mailbox.lost or mailbox.missed:
            self._note(recipient)
        return mailbox

    def _lose(self, mailbox: Mailbox, messages: Sequence[Message]) -> None:
        super()._lose(mailbox, messages)
        if messages:
            self.removed.extend([message.sequence for message in messages])
            self.changed.update(dict.fromkeys(covering(mailbox.recipient)))

    def _note_reader(self, name: str, after: Cursor) -> None:
        """Note a recipient or pattern whose reader came back with more than any before."""
        if after.epoch == self.epoch and after.sequence <= self.sequence:
            mailbox = self._mailboxes.get(name)
            before = self._acknowledged.get(name) if mailbox is None else mailbox.acknowledged
            if before < after.sequence and (mailbox is not None or is_pattern(name)):
                self._note(name)

    def read(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool = True
    ) -> MaybeDeferred[Batch]:
        if acks:
            for name in recipients:
                self._note_reader(name, after)
        return super().read(recipients, after, limit, now, acks)

    def take(self, recipients: tuple[str, ...], limit: int, now: float) -> Batch:
        return self._note_taken(super().take(recipients, limit, now), recipients)

    def lease(self, recipients: tuple[str, ...], limit: int, seconds: float, now: float) -> Batch:
        return self._note_taken(super().lease(recipients, limit, seconds, now), recipients)

    def _note_taken(self, batch: Batch, recipients: tuple[str, ...]) -> Batch:
        self.changed.update(dict.fromkeys([message.recipient for message in batch.messages]))
        if batch.gap:
            self.changed.update(dict.fromkeys(recipients))
        return batch

    def settle_leases(
        self, recipient: str, leases: Sequence[LeaseId], settlement: Settlement, seconds: float, now: float
    ) -> Sequence[bool]:
        settled = super().settle_leases(recipient, leases, settlement, seconds, now)
        if any(settled):
            self._note(recipient)
        return settled

    def give_back(self, messages: Sequence[Message]) -> None:
        super().give_back(messages)
        self.changed.update(dict.fromkeys([message.recipient for message in messages]))

    def retract(self, messages: Sequence[Message]) -> None:
        super().retract(messages)
        for name in {message.recipient for message in messages}:
            mailbox = self._mailboxes.get(name)
            if mailbox is not None and mailbox.leases is not None:
                self._note(name)  # a worker was given one

    def _new_leases(self, recipient: str) -> Leases:
        leases = super()._new_leases(recipient)
        leases.changed = set()
        return leases

    def _end_leases(self, mailbox: Mailbox, now: float, most: int) -> int:
        ended = super()._end_leases(mailbox, now, most)
        if ended:
            self._note(mailbox.recipient)
        return ended

    def _discard_if_empty(self, mailbox: Mailbox) -> None:
        super()._discard_if_empty(mailbox)
        if not mailbox.messages and mailbox.leases is not None:
            self.ended_leases.extend(mailbox.leases.changed or ())

    # -- what was kept

    def restore(self, kept: Kept, offset: float, now: float) -> None:
        """Take in what a file holds. ``offset`` is what makes this process's times seconds since 1970."""
        self.epoch = kept.epoch
        self.sequence = self.numbered = kept.sequence
        for row in kept.messages:
            cursor = Cursor(kept.epoch, row.sequence)
            if row.form == "text":
                row.body.decode()  # a file that is damaged is to be refused now, and not when it is read
            type_ = COMMON_TYPES.get(row.type, row.type)
            content = Content(row.body, type_, row.form)
            recipient = self._shared_name(row.recipient)
            latest = now + self._bounds_of(recipient).ttl  # the wall clock may have been set back
            expires_at = min(row.expires_at - offset, latest)
            self.keep(Message(cursor, recipient, content, row.created_at, expires_at, row.event or None))
        for mailbox in self._mailboxes.values():
            # Of a mailbox whose losses had been forgotten when it was made this may not be in the file yet.
            mailbox.lost = max(kept.torn, min(kept.floor, mailbox.messages[0].sequence - 1))
        for place in kept.places:
            self._restore_place(place, kept.torn)
        self._lost.floor = max(kept.floor, kept.torn)
        for lease in kept.leases:
            self._restore_lease(lease, offset, now)
        self._count_leases(self._mailboxes)
        self._expire_soon(now)

    def _restore_place(self, place: Place, torn: int) -> None:
        mailbox = self._mailboxes.get(place.name)
        if (mailbox is None) != (place.taken == NO_MAILBOX):
            self._note(place.name)  # it came or went after its place was written
        if mailbox is not None:
            mailbox.lost, mailbox.missed = max(place.lost, torn), bool(place.missed)
            mailbox.acknowledged, mailbox.taken = place.acknowledged, max(0, place.taken)
            mailbox.given_back = set(map(int, place.given_back.split())) or frozenset()
            if place.leased:
                mailbox.leases = self._new_leases(mailbox.recipient)
            self._reclaimable[mailbox.recipient] = None
            return
        if place.lost or place.missed:
            self._lost.note(place.name, max(place.lost, torn), missed=bool(place.missed))
        if place.acknowledged:
            self._acknowledged.set(place.name, place.acknowledged)

    def _restore_lease(self, lease: KeptLease, offset: float, now: float) -> None:
        mailbox = self._mailboxes.get(lease.name)
        number = lease.sequence
        if mailbox is None or mailbox.leases is None or not mailbox.holds(number):
            self.ended_leases.append(number)
            return
        # Were the wall clock set back, a lease would last for too long.
        ends_at = inf if lease.ends_at is None else min(lease.ends_at - offset, now + LEASE_SECONDS[1])
        is_held = bool(lease.ends_at) and number <= mailbox.taken and number not in mailbox.given_back
        state: Literal["held", "free", "released"] = "released" if lease.ends_at == RELEASED else "free"
        state = "held" if is_held else state
        mailbox.leases.restore(number, Reservation(lease.attempt, lease.secret, ends_at, state))
        if is_held:
            self._note_end(mailbox.recipient, ends_at)
