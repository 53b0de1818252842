"""The store in this process's memory: its mailboxes end with the process.

Pushes arrive and get their numbers of the one sequence; batches leave. All of it happens at once, but for
what takes more than one turn of the reactor: a pattern's way through a long log, many messages that expire
together, and the deletion of a large mailbox. ``mailboxes.py`` has what the store holds, and ``taking.py``
its takes and leases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

from ..core.leases import Ended
from ..core.mailbox import Mailbox
from ..core.message import ACCEPTED, NOW, OLDEST, Batch, Cursor, Message, Push
from ..core.recipient import is_pattern
from ..core.store import Contents, Record, Shows, State, Usage
from ..deferreds import MaybeDeferred, chain
from ..limits import GOING_AT_ONCE, LEASE_OVERHEAD
from ..memos import renew, shrink
from .mailboxes import cost, mailbox_cost
from .patterns import Found, before_newest, bounded, merged
from .slices import Steps
from .taking import TakenMailboxes

_sequence = attrgetter("sequence")


class MemoryStore(TakenMailboxes):
    """A ``Store`` of mailboxes in memory; see ``Mailboxes`` for the arguments."""

    # -- what is pushed

    def append(self, push: Push, now: float, created_at: float) -> Sequence[Message]:
        if self._expiries.first <= now:
            self._expire_soon(now, push.recipients)
        return self._append_one(push, now, created_at) or self._append(push, now, created_at)

    def _append(self, push: Push, now: float, created_at: float) -> Sequence[Message]:
        crowded = push.queue and self._check_capacity(push)
        messages = self._numbered(push, now, created_at, self.sequence)
        self._check_server(messages, makes_room=push if crowded else None)
        if crowded:
            self._make_room(push)
        self.sequence += len(messages)
        for message in messages:
            self.keep(message)
        return messages

    def _append_one(self, push: Push, now: float, created_at: float) -> tuple[Message] | None:
        """Append one message to a mailbox that is there and has room, as most pushes do; else return None."""
        mailbox = self._mailboxes.get(push.recipients[0])
        if mailbox is None or not push.queue or len(push.recipients) > 1 or len(push.contents) > 1:
            return None
        bounds = self._own_bounds if self._bounds is None else self._bounds.of(mailbox.recipient)
        content = push.contents[0]
        if len(mailbox.messages) >= bounds.capacity:
            return None
        if mailbox.size + len(content.body) > bounds.capacity_bytes:
            return None
        expires_at = now + (bounds.ttl if push.ttl is None else min(push.ttl, bounds.ttl))
        cursor = Cursor(self.epoch, self.sequence + 1)
        message = Message(cursor, mailbox.recipient, content, created_at, expires_at, push.event)
        size = cost(message)
        if self.memory + size > self.limits.max_memory:
            return None
        self.sequence = cursor.sequence
        self._put(mailbox, message, size)
        return (message,)

    def keep(self, message: Message) -> None:
        """Put a message that has its number into its mailbox."""
        mailbox = self._mailboxes.get(message.recipient)
        if mailbox is None:
            mailbox = self._create(message.recipient)
        self._put(mailbox, message, cost(message))

    def _put(self, mailbox: Mailbox, message: Message, size: int) -> None:
        self._nothing_for = None
        if mailbox.append(message):
            self._expiries.add(message.expires_at, mailbox.recipient)
        self._log.add(message)
        self.memory += size

    def retract(self, messages: Sequence[Message]) -> None:
        for message in messages:
            mailbox = self._mailboxes.get(message.recipient)
            if mailbox is not None and self._log.remove(message):
                mailbox.retract(message)
                self.memory -= cost(message)
                self._discard_if_empty(mailbox)

    # -- what is read

    def read(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool = True
    ) -> MaybeDeferred[Batch]:
        """See ``Store.read``. It is pending only where a pattern's reader goes through a long log."""
        if self._expiries.first <= now:
            self._expire_soon(now, recipients)
        if after is self._nothing.cursor and recipients is self._nothing_for:
            return self._nothing
        # The usual reader reads one mailbox, and lacks its newest message or none.
        mailbox = self._mailboxes.get(recipients[0]) if len(recipients) == 1 else None
        place = after.sequence
        if mailbox is None or after.epoch != self.epoch or not mailbox.lost <= place <= self.sequence:
            return self._read(recipients, after, limit, acks)
        if acks and mailbox.acknowledged < place:
            mailbox.acknowledged = place
            self._reclaimable[mailbox.recipient] = None
        kept = mailbox.messages
        newest = kept[-1]
        if newest.sequence <= place:
            self._nothing, self._nothing_for = Batch((), after), recipients if acks else None
            return self._nothing
        if len(kept) > 1 and kept[-2].sequence > place:
            return self._read(recipients, after, limit, acks)
        return Batch((newest,), newest.cursor)

    def _read(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, acks: bool
    ) -> MaybeDeferred[Batch]:
        if after == NOW:
            return Batch((), Cursor(self.epoch, self.sequence))
        if after.is_history:
            return self._read_history(recipients, after, limit)
        known = after.epoch == self.epoch and after.sequence <= self.sequence
        place = after.sequence if known else 0
        if known and acks:
            self._acknowledge(recipients, place)
        gap = not known and after != OLDEST
        if any(map(is_pattern, recipients)):
            # It goes on from the end where there is nothing: it does not go through the log of others twice.
            return chain(self._patterns.read(recipients, place, limit), self._found, gap, known, None)
        kept = self._mailboxes
        logs = [kept[name].read(place, limit + 1) for name in recipients if name in kept]
        messages, more = bounded(merged(logs), limit)
        found = (messages, more, known and self._has_lost(recipients, place))
        return self._found(found, gap, known, after if known else None)

    def _read_history(self, recipients: tuple[str, ...], after: Cursor, limit: int) -> MaybeDeferred[Batch]:
        """Read from the beginning of a history on. It has no gap: what lies before it was not asked for."""
        place = None
        if after.epoch == ACCEPTED:
            first = self._log.accepted_from(after.sequence / 1000)
            place = self.sequence if first is None else first - 1
        if any(map(is_pattern, recipients)):
            found = self._patterns.read(recipients, after if place is None else place, limit)
            return chain(found, self._found, False, False, None)
        boxes = [self._mailboxes[name] for name in recipients if name in self._mailboxes]
        if place is None:
            place = before_newest(boxes, after.sequence, self.sequence)
        messages, more = bounded(merged([box.read(place, limit + 1) for box in boxes]), limit)
        return self._found((messages, more, False), False, False, None)

    def _found(self, found: Found, gap: bool, known: bool, after: Cursor | None) -> Batch:
        messages, more, lost = found
        gap = gap or (known and lost)
        if messages:
            return Batch(messages, messages[-1].cursor, gap, more)
        return Batch((), Cursor(self.epoch, self.sequence) if gap or after is None else after, gap)

    # -- what is let go

    def delete(self, recipient: str, now: float) -> MaybeDeferred[None]:
        self._expire_soon(now)
        mailbox = self._mailboxes.get(recipient)
        if mailbox is None:
            return None
        return self._slices.run(self._deleting(recipient, mailbox.messages[-1].sequence))

    def _deleting(self, recipient: str, last: int) -> Steps[None]:
        """Lose the messages up to a number, and none that comes in the meantime."""
        while going := self._oldest(recipient, last):
            self._drop(self._mailboxes[recipient], going)
            if self._oldest(recipient, last):
                yield

    def _oldest(self, recipient: str, last: int) -> list[Message]:
        mailbox = self._mailboxes.get(recipient)
        oldest = [] if mailbox is None else mailbox.messages[:GOING_AT_ONCE]
        return [message for message in oldest if message.sequence <= last]

    def expire(self, now: float) -> Ended | None:
        self._expire_soon(now)
        self._expiries.tidy(len(self._mailboxes))
        shrink(self._mailboxes, self._reclaimable)
        renew(self, "sequence")
        self._lost.renew()
        self._acknowledged.renew()
        return self._leases_over(now)

    # -- what is said of it

    def describe(self, recipient: str, now: float) -> Contents:
        self._expire_soon(now, (recipient,))
        mailbox = self._mailboxes.get(recipient)
        if mailbox is None:
            return Contents()
        self._hear_of_patterns(mailbox)
        self._end_leases_of((recipient,), now)
        unread = mailbox.unread
        return Contents(
            queued=len(unread),
            bytes=sum(len(message.content.body) for message in unread),
            oldest=mailbox.messages[0].cursor,
            newest=mailbox.messages[-1].cursor,
            leased=0 if mailbox.leases is None else mailbox.leases.held,
            unread=(unread[0].cursor, unread[0].created_at) if unread else None,
        )

    def names(self, prefix: str, after: str, most: int, shows: Shows) -> MaybeDeferred[Sequence[str]]:
        """See ``Store.names``. It is pending only where many names are looked at."""
        return self._slices.run(self._patterns.listed(prefix, after, most, shows))

    def usage(self) -> Usage:
        exhausted = self._count_exhausted() if self._exhausted else 0
        return Usage(len(self._mailboxes), len(self._log), self.memory, self._leased, exhausted)

    def state(self) -> State:
        """See ``Store.state``; memory is always there."""
        return "ok"

    # -- what outlives the process: nothing

    def open(self, now: float) -> None:
        """See ``Store.open``."""

    def close(self) -> None:
        """See ``Store.close``."""

    def flush(self) -> None:
        """See ``Store.flush``."""

    def remember(self, kind: str, id: str, value: Callable[[], bytes], expires_at: float) -> None:  # noqa: A002
        """See ``Store.remember``."""

    def forget(self, kind: str, id: str) -> None:  # noqa: A002
        """See ``Store.forget``."""

    def recall(self, kind: str) -> Sequence[Record]:  # noqa: ARG002
        return ()

    # -- what always holds

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests."""
        mailboxes, log = self._mailboxes, self._log
        for name, mailbox in mailboxes.items():
            mailbox.check_invariants()
            assert mailbox.recipient == name, f"{name!r}: a mailbox is under its recipient's name"
            assert mailbox.messages, f"{name!r}: no mailbox is empty"
            assert name in self._reclaimable or not mailbox.read_already(1), f"{name!r}: what was read may go"
            places = (mailbox.lost, mailbox.acknowledged, mailbox.taken)
            assert max(places) <= self.sequence, f"{name!r}: no number is above the last one given"
        kept = sorted([one for mailbox in mailboxes.values() for one in mailbox.messages], key=_sequence)
        log.check_invariants()
        assert list(map(id, log)) == list(map(id, kept)), "the log is the union of the mailboxes"
        assert not kept or kept[-1].sequence <= self.sequence, "no number is above the last one given"
        self._patterns.names.check_invariants()
        assert set(self._patterns.names) == mailboxes.keys(), "the names are those of the mailboxes"
        assert self.memory == self._recounted(), "memory is what a recount comes to"
        due = {(one.next_expiry, name) for name, one in mailboxes.items()}
        self._expiries.check_invariants(due, max(self.limits.max_recipients, len(mailboxes)))
        assert self._reclaimable.keys() <= mailboxes.keys(), "only mailboxes may be reclaimed"
        acknowledged = self._acknowledged
        assert not any(name in acknowledged for name in mailboxes), (
            "a mailbox knows itself what was acknowledged"
        )
        acknowledged.check_invariants()
        assert max(acknowledged.numbers(), default=0) <= self.sequence, "no acknowledgement is of what comes"
        self._lost.check_invariants(mailboxes, self.sequence)
        self._check_leases()

    def _recounted(self) -> int:
        leases = LEASE_OVERHEAD * sum(map(len, self._reservations()))
        return sum(map(cost, self._log)) + sum(map(mailbox_cost, self._mailboxes)) + leases
