"""Mailboxes in this process's memory: they end with it, and nothing here ever waits.

Pushes arrive and get their numbers of the one sequence; batches leave. The memory of everything kept is
counted, overhead included, and bounded; so is the number of mailboxes, and the memory of what was lost.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from heapq import heapify, heappop, heappush, merge
from itertools import islice, takewhile
from operator import attrgetter

from ..core.mailbox import Mailbox
from ..core.message import NOW, OLDEST, Batch, Cursor, Message, Push, shown_size
from ..core.recipient import covering, is_pattern
from ..core.store import Contents, Record, State, Usage
from ..errors import ServerFull
from ..limits import ANSWERS_BYTES, MAILBOX_OVERHEAD, MESSAGE_OVERHEAD, POLL_BYTES, Limits

_sequence = attrgetter("sequence")
_LOOK = 1_000  # so many of the oldest messages are looked at for readers of patterns when memory runs out
_EPOCH_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_epoch() -> str:
    """Return a name for a new log's life, which no other log has had: 51 random bits."""
    return "".join(secrets.choice(_EPOCH_LETTERS) for _ in range(10))


class MemoryStore:
    """A ``Store`` of dictionaries. ``overflow`` is what a full mailbox does unless a push says otherwise."""

    def __init__(self, limits: Limits, *, overflow: str = "reject", epoch: str | None = None) -> None:
        self.limits = limits
        self.overflow = overflow
        self.epoch = epoch or new_epoch()
        self.sequence = 0
        self.memory = 0
        self._mailboxes: dict[str, Mailbox] = {}
        self._log: dict[int, Message] = {}
        """Every kept message by its number, newest last: what readers of patterns read, from the end."""
        self._expiries: list[tuple[float, str]] = []
        """A heap with an entry for the next expiry of each mailbox; some are out of date."""
        self._reclaimable: dict[str, None] = {}
        """Mailboxes with messages that were read, and may go when memory runs out."""
        self._answers: dict[tuple[tuple[str, ...], Cursor, int, bool], Batch] = {}
        """What readers were given since the last change: those of a fan-out all ask the same."""
        self._answers_size = 0
        self._nothing = Batch((), OLDEST)
        """What the last reader was given who had everything: the next one often stands where it does."""
        self._latest = Batch((), OLDEST)
        """What the last reader was given who lacked only the newest message of a mailbox."""
        self._lost = _Losses(limits.max_recipients)
        self._acknowledged: dict[str, int] = {}
        """How far the readers of each pattern came back."""

    # -- what is pushed

    def append(self, push: Push, now: float, created_at: float) -> Sequence[Message]:
        """See ``Store.append``."""
        if self._expiries and self._expiries[0][0] <= now:
            self._expire_soon(now)
        message = self._append_one(push, now, created_at)
        if message is not None:
            return (message,)
        crowded = push.queue and self._check_capacity(push)
        messages = self._numbered(push, now, created_at, self.sequence)
        self._check_server(messages, makes_room=push if crowded else None)
        if crowded:
            self._make_room(push)
        self.sequence += len(messages)
        for message in messages:
            self.keep(message)
        return messages

    def _append_one(self, push: Push, now: float, created_at: float) -> Message | None:
        """Append one message to a mailbox that is there and has room, as most pushes do; else return None."""
        mailbox = self._mailboxes.get(push.recipients[0])
        if mailbox is None or not push.queue or len(push.recipients) > 1 or len(push.contents) > 1:
            return None
        limits = self.limits
        content = push.contents[0]
        if len(mailbox.messages) >= limits.capacity:
            return None
        if mailbox.size + len(content.body) > limits.capacity_bytes:
            return None
        expires_at = now + (limits.ttl if push.ttl is None else min(push.ttl, limits.ttl))
        cursor = Cursor(self.epoch, self.sequence + 1)
        message = Message(cursor, mailbox.recipient, content, created_at, expires_at, push.event)
        size = cost(message)
        if self.memory + size > limits.max_memory:
            return None
        self.sequence = cursor.sequence
        self._put(mailbox, message, size)
        return message

    def keep(self, message: Message) -> None:
        """Put a message that has its number into its mailbox."""
        mailbox = self._mailboxes.get(message.recipient)
        if mailbox is None:
            mailbox = self._create(message.recipient)
        self._put(mailbox, message, cost(message))

    def _put(self, mailbox: Mailbox, message: Message, size: int) -> None:
        expiry = mailbox.next_expiry
        mailbox.append(message)
        if message.expires_at < expiry:
            heappush(self._expiries, (message.expires_at, message.recipient))
            if len(self._expiries) > 2 * len(self._mailboxes) + _LOOK:
                # Most are of mailboxes that came and went before their time.
                self._expiries = [(box.next_expiry, box.recipient) for box in self._mailboxes.values()]
                heapify(self._expiries)
        self._log[message.sequence] = message
        self.memory += size
        if self._answers:
            self._answers.clear()

    def retract(self, messages: Sequence[Message]) -> None:
        """See ``Store.retract``."""
        for message in messages:
            mailbox = self._mailboxes.get(message.recipient)
            if mailbox is not None and self._log.pop(message.sequence, None) is not None:
                mailbox.retract(message)
                self.memory -= cost(message)
                self._discard_if_empty(mailbox)
        self._answers.clear()

    # -- what is read

    def read(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool = True
    ) -> Batch:
        """See ``Store.read``."""
        if self._expiries and self._expiries[0][0] <= now:
            self._expire_soon(now)
        batch = self._read_one(recipients, after, acks)
        if batch is not None:
            return batch
        key = (recipients, after, limit, acks)
        batch = self._answers.get(key)
        if batch is None:
            batch = self._read(recipients, after, limit, acks)
            messages = batch.messages
            if not messages:
                return batch
            size = sum([MESSAGE_OVERHEAD + shown_size(one.content) for one in messages])
            if self._answers_size + size > ANSWERS_BYTES:
                self._answers.clear()
            self._answers_size = self._answers_size + size if self._answers else size
            self._answers[key] = batch
        return batch

    def _read_one(self, recipients: tuple[str, ...], after: Cursor, acks: bool) -> Batch | None:
        """Return what the usual reader is given: who reads one mailbox, and lacks its newest message or none.

        For any other it returns None.
        """
        if len(recipients) != 1:
            return None
        recipient = recipients[0]
        mailbox = self._mailboxes.get(recipient)
        place = after.sequence
        if mailbox is None or after.epoch != self.epoch or place < mailbox.lost or place > self.sequence:
            return None
        if acks and mailbox.acknowledged < place:
            mailbox.acknowledged = place
            self._reclaimable[recipient] = None
        kept = mailbox.messages
        newest = kept[-1]
        if newest.sequence <= place:
            nothing = self._nothing
            if nothing.cursor is not after:
                nothing = self._nothing = Batch((), after)
            return nothing
        if len(kept) > 1 and kept[-2].sequence > place:
            return None
        latest = self._latest
        if latest.cursor is not newest.cursor:
            latest = self._latest = Batch((newest,), newest.cursor)
        return latest

    def _read(self, recipients: tuple[str, ...], after: Cursor, limit: int, acks: bool) -> Batch:
        if after == NOW:
            return Batch((), Cursor(self.epoch, self.sequence))
        known = after.epoch == self.epoch and after.sequence <= self.sequence
        place = after.sequence if known else 0
        if known and acks:
            self._acknowledge(recipients, place)
        messages, more = _bounded(self._found(recipients, place, limit + 1), limit)
        gap = self._gap(recipients, place) if known else after != OLDEST
        if messages:
            return Batch(messages, messages[-1].cursor, gap, more)
        if known and not gap and not any(map(is_pattern, recipients)):
            return Batch((), after)
        # A pattern's reader goes on from the end, too: it does not go through the log of others twice.
        return Batch((), Cursor(self.epoch, self.sequence), gap)

    def take(self, recipients: tuple[str, ...], limit: int, now: float) -> Batch:
        """See ``Store.take``."""
        self._expire_soon(now)
        gap = False
        heads: list[Sequence[Message]] = []
        for recipient in recipients:
            mailbox = self._mailboxes.get(recipient)
            if mailbox is None:
                gap |= self._lost.forgive(recipient)
            else:
                gap |= mailbox.missed
                mailbox.missed = False
                heads.append(mailbox.untaken(limit + 1))
        found = heads[0] if len(heads) == 1 else merge(*heads, key=_sequence)
        messages, more = _bounded(found, limit)
        for message in messages:
            self._mailboxes[message.recipient].take(message)
            self._reclaimable[message.recipient] = None
        if messages:
            self._answers.clear()
            return Batch(messages, messages[-1].cursor, gap, more)
        return Batch((), Cursor(self.epoch, self.sequence), gap)

    def give_back(self, messages: Sequence[Message]) -> None:
        """See ``Store.give_back``."""
        for message in messages:
            mailbox = self._mailboxes.get(message.recipient)
            if mailbox is not None:
                mailbox.give_back(message)
            else:
                self._lost.miss(message.recipient, message.sequence)
        self._answers.clear()

    # -- what is let go

    def delete(self, recipient: str, now: float) -> None:
        """See ``Store.delete``."""
        self._expire_soon(now)
        mailbox = self._mailboxes.get(recipient)
        if mailbox is not None:
            self._drop(mailbox, mailbox.messages.copy())

    def expire(self, now: float) -> None:
        """See ``Store.expire``."""
        self._expire_soon(now)

    # -- what is said of it

    def describe(self, recipient: str, now: float) -> Contents:
        """See ``Store.describe``."""
        self._expire_soon(now)
        mailbox = self._mailboxes.get(recipient)
        if mailbox is None:
            return Contents()
        self._hear_of_patterns(mailbox)
        unread = mailbox.unread
        return Contents(
            queued=len(unread),
            size=sum(len(message.content.body) for message in unread),
            oldest=mailbox.messages[0].cursor,
            newest=mailbox.messages[-1].cursor,
        )

    def usage(self) -> Usage:
        """See ``Store.usage``."""
        return Usage(len(self._mailboxes), len(self._log), self.memory)

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
        """See ``Store.recall``."""
        return ()

    # -- what always holds

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests.

        - Each mailbox is under its recipient's name, is not empty, and its own invariants hold.
        - The log is the union of the mailboxes, by the numbers of the messages and in their order.
        - No message, acknowledgement or loss has a number above ``sequence``.
        - ``memory`` is what a recount of messages and mailboxes comes to.
        - The heap of expiries begins with its first time, and has the next expiry of each mailbox.
        - A mailbox with a message that was read may be reclaimed.
        - Losses and the acknowledgements of patterns are bounded by ``max_recipients``. Neither is kept for a
          name that has a mailbox.
        - Remembered answers have only messages that are kept, and are bounded by ``ANSWERS_BYTES``.
        """
        mailboxes, log, expiries = self._mailboxes, self._log, self._expiries
        for name, mailbox in mailboxes.items():
            mailbox.check_invariants()
            assert mailbox.recipient == name, f"{name!r}: a mailbox is under its recipient's name"
            assert mailbox.messages, f"{name!r}: no mailbox is empty"
            assert name in self._reclaimable or not mailbox.read_already, f"{name!r}: what was read may go"
            places = (mailbox.lost, mailbox.acknowledged, mailbox.taken)
            assert max(places) <= self.sequence, f"{name!r}: no number is above the last one given"
        kept = sorted([one for mailbox in mailboxes.values() for one in mailbox.messages], key=_sequence)
        assert list(log) == [message.sequence for message in kept], "the log has the numbers of its messages"
        assert list(map(id, log.values())) == list(map(id, kept)), "the log is the union of the mailboxes"
        assert max(log, default=0) <= self.sequence, "no message's number is above the last one given"
        assert self.memory == self._recounted(), "memory is what a recount comes to"
        assert expiries[:1] == sorted(expiries)[:1], "the heap of expiries begins with its first time"
        assert {(one.next_expiry, name) for name, one in mailboxes.items()} <= set(expiries), (
            "the heap has the next expiry of each mailbox"
        )
        most = self.limits.max_recipients
        assert len(expiries) <= 2 * max(most, len(mailboxes)) + _LOOK + 1, "few entries are out of date"
        assert self._reclaimable.keys() <= mailboxes.keys(), "only mailboxes may be reclaimed"
        acknowledged = self._acknowledged
        assert all(map(is_pattern, acknowledged)), "a mailbox knows itself what was acknowledged"
        assert len(acknowledged) <= most, "acknowledgements of patterns are bounded"
        assert max(acknowledged.values(), default=0) <= self.sequence, "no acknowledgement is of what comes"
        self._lost.check_invariants(mailboxes, self.sequence)
        answered = [message for batch in self._answers.values() for message in batch.messages]
        assert all(log.get(one.sequence) is one for one in answered), "answers have only what is kept"
        size = sum([MESSAGE_OVERHEAD + shown_size(message.content) for message in answered])
        assert size <= ANSWERS_BYTES or len(self._answers) == 1, "remembered answers are bounded in bytes"

    def _recounted(self) -> int:
        return sum(map(cost, self._log.values())) + MAILBOX_OVERHEAD * len(self._mailboxes)

    # -- how it is done

    def _create(self, recipient: str) -> Mailbox:
        lost, missed = self._lost.recall(recipient)
        # Its place for takes is where the lost messages ended; a newer number would hide what comes.
        mailbox = Mailbox(recipient, lost=lost, missed=missed)
        self._mailboxes[recipient] = mailbox
        self.memory += MAILBOX_OVERHEAD
        return mailbox

    def _discard_if_empty(self, mailbox: Mailbox) -> None:
        if not mailbox.messages:
            del self._mailboxes[mailbox.recipient]
            self._reclaimable.pop(mailbox.recipient, None)
            self._lost.note(mailbox.recipient, mailbox.lost, missed=mailbox.missed)
            self.memory -= MAILBOX_OVERHEAD

    def _lose(self, mailbox: Mailbox, messages: Sequence[Message]) -> None:
        if not messages:
            return
        for message in messages:
            del self._log[message.sequence]
            self.memory -= cost(message)
        for pattern in covering(mailbox.recipient)[1:]:
            self._lost.note(pattern, messages[-1].sequence)
        self._answers.clear()
        self._discard_if_empty(mailbox)

    def _expire_soon(self, now: float) -> None:
        expiries = self._expiries
        while expiries and expiries[0][0] <= now:
            mailbox = self._mailboxes.get(heappop(expiries)[1])
            if mailbox is None:
                continue
            self._lose(mailbox, mailbox.expire(now))
            if mailbox.messages:
                heappush(expiries, (mailbox.next_expiry, mailbox.recipient))

    def _numbered(self, push: Push, now: float, created_at: float, last: int) -> list[Message]:
        """Return the push's messages with the numbers after ``last``, line by line; nothing is kept yet."""
        expires_at = now + (self.limits.ttl if push.ttl is None else min(push.ttl, self.limits.ttl))
        addressed = [(content, recipient) for content in push.contents for recipient in push.recipients]
        return [
            Message(Cursor(self.epoch, number), recipient, content, created_at, expires_at, push.event)
            for number, (content, recipient) in enumerate(addressed, last + 1)
        ]

    def _excesses(self, push: Push) -> list[tuple[Mailbox, Sequence[Message]]]:
        """Return the messages of each mailbox that must go for a push. Raises ``MailboxFull``."""
        excesses = []
        count = len(push.contents)
        size = sum([len(content.body) for content in push.contents])
        reject = (push.overflow or self.overflow) == "reject"
        limits = self.limits
        for recipient in push.recipients:
            mailbox = self._mailboxes.get(recipient)
            if mailbox is None:
                mailbox = Mailbox(recipient)
            else:
                self._hear_of_patterns(mailbox)
            excess = mailbox.in_the_way(count, size, limits.capacity, limits.capacity_bytes, reject=reject)
            excesses.append((mailbox, excess))
        return excesses

    def _check_capacity(self, push: Push) -> bool:
        """Return whether old messages must make room. Raises ``MailboxFull``, having changed nothing."""
        return any(excess for _, excess in self._excesses(push))

    def _make_room(self, push: Push) -> None:
        for mailbox, excess in self._excesses(push):
            self._drop(mailbox, excess)

    def _drop(self, mailbox: Mailbox, messages: Sequence[Message]) -> None:
        if messages:
            mailbox.drop(messages)
            self._lose(mailbox, messages)

    def _check_server(
        self, messages: Sequence[Message], coming: Collection[str] = (), makes_room: Push | None = None
    ) -> None:
        """Raise ``ServerFull`` where there is no room, even after what was read has gone.

        ``coming`` are mailboxes about to be made; ``makes_room`` is a push before which old messages go.
        """
        limits = self.limits
        while True:
            created = 0
            if any(message.recipient not in self._mailboxes for message in messages):
                created = len({message.recipient for message in messages}.difference(self._mailboxes, coming))
            memory = self.memory + sum(map(cost, messages)) + created * MAILBOX_OVERHEAD - limits.max_memory
            mailboxes = len(self._mailboxes) + len(coming) + created - limits.max_recipients if created else 0
            if memory > 0 and makes_room is not None:
                memory -= sum([cost(old) for _, going in self._excesses(makes_room) for old in going])
            if memory <= 0 and mailboxes <= 0:
                return
            if not self._reclaim(memory, mailboxes):
                if mailboxes > 0:
                    raise ServerFull(
                        f"The server holds {limits.max_recipients} mailboxes, which is its bound."
                    )
                raise ServerFull(f"The messages kept reach the server's bound of {limits.max_memory} bytes.")

    def _reclaim(self, memory: int, mailboxes: int) -> bool:
        """Drop messages that were read until so many bytes and mailboxes are free; return if any could go."""
        most_memory, most_mailboxes = self.memory - memory, len(self._mailboxes) - mailboxes
        before = len(self._log)
        for _ in range(2):
            while self._reclaimable and (self.memory > most_memory or len(self._mailboxes) > most_mailboxes):
                mailbox = self._mailboxes[next(iter(self._reclaimable))]
                del self._reclaimable[mailbox.recipient]
                self._drop(mailbox, mailbox.read_already)
            if len(self._log) < before:
                return True
            self._look_for_patterns()
        return False

    def _look_for_patterns(self) -> None:
        """Note which of the oldest messages were read by readers of patterns."""
        if self._acknowledged:
            for message in islice(self._log.values(), _LOOK):
                self._hear_of_patterns(self._mailboxes[message.recipient])

    def _acknowledge(self, recipients: tuple[str, ...], sequence: int) -> None:
        for recipient in recipients:
            mailbox = self._mailboxes.get(recipient)
            if mailbox is not None:
                if mailbox.acknowledged < sequence:
                    mailbox.acknowledged = sequence
                    self._reclaimable[recipient] = None
            elif is_pattern(recipient) and self._acknowledged.get(recipient, 0) < sequence:
                self._acknowledged.pop(recipient, None)
                self._acknowledged[recipient] = sequence
                if len(self._acknowledged) > self.limits.max_recipients:
                    del self._acknowledged[next(iter(self._acknowledged))]

    def _hear_of_patterns(self, mailbox: Mailbox) -> None:
        """Acknowledge what the readers of patterns that cover the recipient had."""
        if self._acknowledged:
            came_back = max([self._acknowledged.get(key, 0) for key in covering(mailbox.recipient)])
            if mailbox.acknowledged < came_back:
                mailbox.acknowledged = came_back
                self._reclaimable[mailbox.recipient] = None

    def _found(self, recipients: tuple[str, ...], after: int, limit: int) -> Iterable[Message]:
        """Yield what the recipients, some of them patterns, hold after ``after``, in the one order."""
        if any(map(is_pattern, recipients)):
            wanted = frozenset(recipients)
            return (m for m in self._log_after(after) if not wanted.isdisjoint(covering(m.recipient)))
        logs = [self._mailboxes[name].read(after, limit) for name in recipients if name in self._mailboxes]
        return logs[0] if len(logs) == 1 else merge(*logs, key=_sequence)

    def _log_after(self, after: int) -> Iterable[Message]:
        log = self._log
        if not log:
            return
        first = max(after + 1, next(iter(log)))
        if self.sequence - first < 2 * len(log):
            for number in range(first, self.sequence + 1):
                if (message := log.get(number)) is not None:
                    yield message
        else:  # mostly holes: what is kept is found sooner from the end
            kept = takewhile(lambda number: number > after, reversed(log))
            yield from [log[number] for number in reversed(list(kept))]

    def _gap(self, recipients: tuple[str, ...], after: int) -> bool:
        for recipient in recipients:
            mailbox = self._mailboxes.get(recipient)
            if mailbox.gap(after) if mailbox is not None else self._lost.since(recipient, after):
                return True
        return False


def cost(message: Message) -> int:
    """Return the bytes of memory that a message is counted with."""
    return MESSAGE_OVERHEAD + len(message.content.body)


def _bounded(found: Iterable[Message], limit: int) -> tuple[tuple[Message, ...], bool]:
    """Cut what was found to ``limit`` messages and ``POLL_BYTES``; say whether there was more."""
    messages: list[Message] = []
    size = 0
    for message in found:
        size += len(message.content.body)
        if len(messages) == limit or (messages and size > POLL_BYTES):
            return tuple(messages), True
        messages.append(message)
    return tuple(messages), False


class _Losses:
    """Remembers up to where messages were lost, for patterns and for mailboxes that are no more.

    Bounded: beyond ``most`` entries the oldest is forgotten. A name without an entry then has a gap below
    the highest number that was forgotten: sometimes one gap too many, never one too few. Only takes, which
    have no cursor to tell it by, are not told what was forgotten.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.floor = 0
        self.on_forget: Callable[[str], None] | None = None
        """Called with the name of an entry that had to go."""
        self._entries: dict[str, tuple[int, bool]] = {}

    def note(self, name: str, sequence: int, *, missed: bool = False) -> None:
        known = self._entries.pop(name, None)
        if known is None and sequence <= self.floor and not missed:
            return  # that is told of every name that has no entry
        self._entries[name] = (max(known[0], sequence) if known else sequence, missed)
        if len(self._entries) > self._most:
            oldest = next(iter(self._entries))
            self.floor = max(self.floor, self._entries.pop(oldest)[0])
            if self.on_forget is not None:
                self.on_forget(oldest)

    def recall(self, name: str) -> tuple[int, bool]:
        """Return, and forget, what a mailbox that comes to life again must know."""
        return self._entries.pop(name, (self.floor, False))

    def miss(self, name: str, sequence: int) -> None:
        """Note that a take gave back a message; where it was lost meanwhile, no take has had it."""
        lost, missed = self._entries.get(name, (0, False))
        if sequence <= lost and not missed:
            self._entries[name] = (lost, True)

    def entry(self, name: str) -> tuple[int, bool]:
        """Return what is remembered of a name."""
        return self._entries.get(name, (0, False))

    def since(self, name: str, after: int) -> bool:
        return after < self._entries.get(name, (self.floor, False))[0]

    def forgive(self, name: str) -> bool:
        """Return whether a take missed something, and forget it: the next one is not told again."""
        sequence, missed = self._entries.get(name, (0, False))
        if missed:
            self._entries[name] = (sequence, False)
        return missed

    def check_invariants(self, mailboxes: Collection[str], last: int) -> None:
        """See ``MemoryStore.check_invariants``; ``last`` is the last number given."""
        assert len(self._entries) <= self._most, "losses are bounded"
        assert self._entries.keys().isdisjoint(mailboxes), "a mailbox knows itself what was lost"
        lost = [self.floor, *[sequence for sequence, _ in self._entries.values()]]
        assert max(lost) <= last, "no loss is of what comes"
