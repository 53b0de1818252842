"""Mailboxes that outlive the process: they live in memory, and SQLite is the journal of what changed in them.

A push gets its number when it arrives. A thread of the store's own writes it to the file, in one commit with
all that came while the last commit was under way. Then it is put into its mailbox, in the one order, and is
answered. So no reader sees what a crash could take back, and a read, which is answered from memory, never
waits.

All other changes (what was taken, acknowledged, let go) are noted by name as they happen, and what stands
there goes along with the next commit, at the latest when ``expire`` is called. After a crash some of them
may not have happened: then a message is there again. The file is always what memory was at one moment.
"""

from __future__ import annotations

import gc
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path
from queue import SimpleQueue
from sys import intern
from threading import Thread
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..core.idempotency import RECEIPTS, fingerprint, receipt_id, receipt_value
from ..core.mailbox import Mailbox
from ..core.message import Batch, Content, Cursor, Message, Push, Receipt
from ..core.recipient import covering, is_pattern
from ..core.store import Contents, Record, State, Usage
from ..deferreds import MaybeDeferred
from ..errors import MailboxFull, StoreDown
from ..limits import (
    IDEMPOTENCY_SECONDS,
    MAILBOX_OVERHEAD,
    MESSAGE_OVERHEAD,
    STORE_COMMIT_BYTES,
    STORE_GATHER_SECONDS,
    STORE_GATHER_SHARE,
    STORE_ROWS_PER_COMMIT,
    STORE_STALLED_SECONDS,
    Limits,
)
from .journal import Changes, Journal, Kept, KeptRecord, Place, Sync
from .memory import MemoryStore, cost, new_epoch

Work = Callable[[], None]
Done = Callable[[Failure | None], None]


class Worker(Protocol):
    """Does what waits for the disk: one thing after the other, and away from the reactor."""

    def soon(self, call: Callable[[], None], seconds: float = 0.0) -> None:
        """Call in the reactor's thread, once all that has arrived by now, or in so long, was looked at."""

    def run(self, work: Work, done: Done) -> None:
        """Do ``work`` elsewhere, then call ``done`` in the reactor's thread with None or what it raised."""

    def stop(self) -> None:
        """Let go of the thread, after what it was given."""


class ThreadWorker:
    """A ``Worker`` with one thread, which begins with the first work. ``reactor`` is Twisted's."""

    def __init__(self, reactor: Any = None) -> None:
        self._given = reactor
        self._works: SimpleQueue[tuple[Work, Done] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def soon(self, call: Callable[[], None], seconds: float = 0.0) -> None:
        """See ``Worker.soon``."""
        self._reactor().callLater(seconds, call)

    def run(self, work: Work, done: Done) -> None:
        """See ``Worker.run``."""
        if self._thread is None:
            # A daemon: what must be written is waited for by ``SQLiteStore.close``, not at the exit.
            self._thread = Thread(target=self._work, name="cometd-lite-store", daemon=True)
            self._thread.start()
        self._works.put((work, done))

    def stop(self) -> None:
        """See ``Worker.stop``."""
        self._works.put(None)

    def _work(self) -> None:
        reactor = self._reactor()
        while (given := self._works.get()) is not None:
            work, done = given
            failure = None
            try:
                work()
            except BaseException:  # noqa: BLE001  every failure is reported to the caller
                failure = Failure()
            reactor.callFromThread(done, failure)

    def _reactor(self) -> Any:
        if self._given is None:
            from twisted.internet import reactor  # noqa: PLC0415  importing it at the top would install one

            self._given = reactor
        return self._given


class _Coming:
    """A push that has its numbers and its room, and waits for its commit.

    ``size`` is the bytes that each of its recipients gets, ``memory`` what all of it is counted with.
    ``offset`` makes its times seconds since 1970. ``crowded``: there may be room only where something goes.
    """

    __slots__ = ("crowded", "deferred", "memory", "messages", "offset", "push", "receipt", "size")

    def __init__(
        self,
        push: Push,
        messages: list[Message],
        size: int,
        memory: int,
        offset: float,
        *,
        crowded: bool,
    ) -> None:
        self.push = push
        self.messages = messages
        self.size = size
        self.memory = memory
        self.offset = offset
        self.crowded = crowded
        self.receipt: KeptRecord | None = None
        self.deferred: Deferred[Sequence[Message]] = Deferred()


class _Watched(MemoryStore):
    """The mailboxes in memory: notes the names of what changed, and counts what is still to come.

    ``numbered`` is the last number given, ``sequence`` the last one that readers may see.
    """

    def __init__(self, limits: Limits, *, overflow: str) -> None:
        super().__init__(limits, overflow=overflow)
        self.numbered = 0
        self.changed: dict[str, None] = {}
        """Recipients and patterns whose place in the file is out of date, longest ago first."""
        self.gone: deque[int] = deque()
        """Numbers of messages that are to leave the file; after the places that say so."""
        self._coming: dict[str, list[int]] = {}
        """By recipient, the messages and bytes that are still to come."""
        self._made_soon: set[str] = set()
        """Those of them that have no mailbox yet."""
        self._lost.on_forget = self._note

    # -- what comes

    def accept(self, push: Push, now: float, created_at: float) -> _Coming:
        """Give a push its numbers and hold room for it. Raises ``MailboxFull`` or ``ServerFull``."""
        self._expire_soon(now)
        limits = self.limits
        recipients = push.recipients
        size = sum([len(content.body) for content in push.contents])
        makes_room = None
        crowded = push.queue and self._is_crowded(push, size)
        if crowded:
            self._check_coming(push, size)
            # What goes for this push is not to be counted for another one, too.
            if self._check_capacity(push) and self._coming.keys().isdisjoint(recipients):
                makes_room = push
        messages = self._numbered(push, now, created_at, self.numbered)
        memory = sum([cost(message) for message in messages])
        mailboxes, soon = self._mailboxes, self._made_soon
        made = [name for name in recipients if name not in mailboxes and name not in soon]
        if (
            self.memory + memory + len(made) * MAILBOX_OVERHEAD > limits.max_memory
            or len(mailboxes) + len(soon) + len(made) > limits.max_recipients
        ):
            self._check_server(messages, soon, makes_room=makes_room)
        self.numbered += len(messages)
        self.memory += memory
        if made:
            soon.update(made)
        count = len(push.contents)
        for recipient in recipients:
            held = self._coming.get(recipient)
            if held is None:
                self._coming[recipient] = [count, size]
            else:
                held[0] += count
                held[1] += size
        return _Coming(push, messages, size, memory, created_at - now, crowded=crowded)

    def drop(self, coming: _Coming) -> None:
        """Give up the room of a push that does not come after all."""
        push = coming.push
        self.memory -= coming.memory
        for recipient in push.recipients:
            held = self._coming[recipient]
            held[0] -= len(push.contents)
            held[1] -= coming.size
            if not held[0]:
                del self._coming[recipient]
                self._made_soon.discard(recipient)

    def show(self, coming: _Coming) -> None:
        """Put a push into its mailboxes, where readers see it."""
        self.drop(coming)
        push = coming.push
        if coming.crowded:
            # There was something that may go when it was accepted. A take may have given that back since;
            # then the mailbox holds a little more, until the next push.
            with suppress(MailboxFull):
                self._make_room(push)
        for message in coming.messages:
            self.keep(message)
        if self._made_soon:
            self._made_soon.difference_update(push.recipients)
        self.sequence = coming.messages[-1].sequence

    def _is_crowded(self, push: Push, size: int) -> bool:
        """Whether a mailbox does not hold a push besides all that it has, and that comes already."""
        capacity, capacity_bytes = self.limits.capacity, self.limits.capacity_bytes
        for recipient in push.recipients:
            count, total = len(push.contents), size
            mailbox = self._mailboxes.get(recipient)
            if mailbox is not None:
                count += len(mailbox.messages)
                total += mailbox.size
            held = self._coming.get(recipient)
            if held is not None:
                count += held[0]
                total += held[1]
            if count > capacity or total > capacity_bytes:
                return True
        return False

    def _check_coming(self, push: Push, size: int) -> None:
        """Raise ``MailboxFull`` where there would be room, were it not for what comes already."""
        if (push.overflow or self.overflow) != "reject":
            return
        capacity, capacity_bytes = self.limits.capacity, self.limits.capacity_bytes
        for recipient in push.recipients:
            held = self._coming.get(recipient)
            if held is None:
                continue
            count, total = held[0] + len(push.contents), held[1] + size
            if count > capacity or total > capacity_bytes:
                raise MailboxFull(f"The mailbox of {recipient!r} is full. Push again later.")
            mailbox = self._mailboxes.get(recipient) or Mailbox(recipient)
            mailbox.in_the_way(count, total, capacity, capacity_bytes, reject=True)

    def _recounted(self) -> int:
        coming = sum([count * MESSAGE_OVERHEAD + size for count, size in self._coming.values()])
        return super()._recounted() + coming

    def check_invariants(self) -> None:
        """See ``MemoryStore.check_invariants``; ``memory`` counts what is still to come, too.

        - No number that readers see is above the last one given.
        - A mailbox that is to be made is not there yet, and something is to come for it.
        """
        super().check_invariants()
        assert self.sequence <= self.numbered, "no number that readers see is above the last one given"
        assert all(count > 0 for count, _ in self._coming.values()), "no room is held for nothing"
        assert self._made_soon <= self._coming.keys(), "something is to come for a mailbox that is to be made"
        assert self._made_soon.isdisjoint(self._mailboxes), "a mailbox that is to be made is not there yet"

    def check_room(self, pushes: Iterable[Push], *, exactly: bool) -> None:
        """Raise ``AssertionError`` where less room is held than for ``pushes``, or not ``exactly`` that."""
        coming: Counter[str] = Counter()
        for push in pushes:
            for name in push.recipients:
                coming[name] += len(push.contents)
        held = {name: count for name, (count, _) in self._coming.items()}
        assert all(held.get(name, 0) >= count for name, count in coming.items()), "room is held for each push"
        assert held == coming or not exactly, "room is held only for pushes that wait"

    # -- what changed

    def changes(self, most: int | None) -> Changes:
        """Return what changed, and forget that it did; with ``most``, about so many rows of it."""
        changes = Changes(self.sequence, self._lost.floor)
        for name in list(islice(self.changed, most)):
            del self.changed[name]
            place = self._place(name)
            if place is None:
                changes.forgotten.append(name)
            else:
                changes.places.append(place)
        # A message that is gone from the file, while its place does not say so, would be lost unseen.
        if not self.changed:
            going = len(self.gone) if most is None else min(most, len(self.gone))
            changes.gone = [self.gone.popleft() for _ in range(going)]
        return changes

    def unchange(self, changes: Changes) -> None:
        """Note again what could not be written."""
        names = [*[place.name for place in changes.places], *changes.forgotten]
        self.changed.update(dict.fromkeys(names))
        self.gone.extendleft(reversed(changes.gone))

    def _place(self, name: str) -> Place | None:
        """Return what the file has to know of a name; None where that is nothing."""
        mailbox = self._mailboxes.get(name)
        if mailbox is not None:
            back = " ".join(map(str, sorted(mailbox.given_back)))
            place = Place(name, mailbox.lost, mailbox.missed, mailbox.acknowledged, mailbox.taken, back)
        else:
            place = Place(name, *self._lost.entry(name), self._acknowledged.get(name, 0), 0, "")
        return place if any(place[1:]) else None

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
            self.gone.extend([message.sequence for message in messages])
            self.changed.update(dict.fromkeys(covering(mailbox.recipient)))

    def _note_reader(self, name: str, after: Cursor) -> None:
        """Note a recipient or pattern whose reader came back with more than any before."""
        if after.epoch == self.epoch and after.sequence <= self.sequence:
            mailbox = self._mailboxes.get(name)
            before = self._acknowledged.get(name, 0) if mailbox is None else mailbox.acknowledged
            if before < after.sequence and (mailbox is not None or is_pattern(name)):
                self._note(name)

    def read(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool = True
    ) -> Batch:
        """See ``Store.read``."""
        acknowledged = self._acknowledged
        first = next(iter(acknowledged), None)
        if acks:
            for name in recipients:
                self._note_reader(name, after)
        batch = super().read(recipients, after, limit, now, acks)
        if first is not None and first not in acknowledged:
            self._note(first)  # it had to go
        return batch

    def take(self, recipients: tuple[str, ...], limit: int, now: float) -> Batch:
        """See ``Store.take``."""
        batch = super().take(recipients, limit, now)
        self.changed.update(dict.fromkeys([message.recipient for message in batch.messages]))
        if batch.gap:
            self.changed.update(dict.fromkeys(recipients))
        return batch

    def give_back(self, messages: Sequence[Message]) -> None:
        """See ``Store.give_back``."""
        super().give_back(messages)
        self.changed.update(dict.fromkeys([message.recipient for message in messages]))

    # -- what was kept

    def restore(self, kept: Kept, offset: float, now: float) -> None:
        """Take in what a file holds. ``offset`` is what makes this process's times seconds since 1970."""
        self.epoch = kept.epoch
        self.sequence = self.numbered = kept.sequence
        latest = now + self.limits.ttl  # were the wall clock set back, a message would live for too long
        for row in kept.messages:
            cursor = Cursor(kept.epoch, row.sequence)
            if row.form == "text":
                row.body.decode()  # a file that is damaged is to be refused now, and not when it is read
            content = Content(row.body, intern(row.type), row.form)
            expires_at = min(row.expires_at - offset, latest)
            self.keep(Message(cursor, intern(row.recipient), content, row.created_at, expires_at, row.event))
        for mailbox in self._mailboxes.values():
            # Of a mailbox whose losses had been forgotten when it was made this may not be in the file yet.
            mailbox.lost = max(kept.torn, min(kept.floor, mailbox.messages[0].sequence - 1))
        for place in kept.places:
            self._restore_place(place, kept.torn)
        self._lost.floor = max(kept.floor, kept.torn)
        self._expire_soon(now)

    def _restore_place(self, place: Place, torn: int) -> None:
        mailbox = self._mailboxes.get(place.name)
        if mailbox is not None:
            mailbox.lost, mailbox.missed = max(place.lost, torn), bool(place.missed)
            mailbox.acknowledged, mailbox.taken = place.acknowledged, place.taken
            mailbox.given_back = frozenset(map(int, place.given_back.split()))
            self._reclaimable[place.name] = None
            return
        if place.lost or place.missed:
            self._lost.note(place.name, max(place.lost, torn), missed=bool(place.missed))
        if place.acknowledged:
            self._acknowledged[place.name] = place.acknowledged


class SQLiteStore:
    """A ``Store`` in a file of SQLite. ``overflow`` is what a full mailbox does unless a push says otherwise.

    ``sync`` is what a commit waits for: ``full`` for the disk, so that a loss of power loses nothing,
    ``normal`` for the operating system, so that the death of the process does not. ``open`` reads the whole
    file, and blocks while it does. ``wall`` tells the time that outlives the process.
    """

    log = Logger()

    def __init__(
        self,
        path: str | Path,
        limits: Limits | None = None,
        *,
        overflow: str = "reject",
        sync: Sync = "full",
        worker: Worker | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = Path(path).absolute()
        self._sync = sync
        self._worker = worker or ThreadWorker()
        self._wall = wall
        self._kept = _Watched(limits or Limits(), overflow=overflow)
        self._offset = 0.0
        """What is added to a time of the process's clock to make it seconds since 1970."""
        self._journal: Journal | None = None
        self._coming: deque[_Coming] = deque()
        self._records: dict[tuple[str, str], tuple[Callable[[], bytes], float] | None] = {}
        """Records to be written, or, where there is None, forgotten."""
        self._recalled: dict[str, list[Record]] = {}
        self._waiters: list[Deferred[None]] = []
        self._called = False
        """Whether a commit is called for."""
        self._together = 0
        """How many pushes were under way when the last commit ended."""
        self._gathering = False
        """Whether the commit that is called for waits until as many are there, for a moment."""
        self._writing = False
        self._began = 0.0
        """When the commit under way began."""
        self._waits_since: float | None = None
        """When the first push came that waits for the commit under way and was not in it."""
        self._down = False
        """Whether the last commit failed."""
        self._clear_at = 0.0
        """When, in seconds since 1970, records whose time is over are cleared away."""
        self._closing: Deferred[None] | None = None

    @property
    def epoch(self) -> str:
        """The name of the log's life."""
        return self._kept.epoch

    @property
    def sequence(self) -> int:
        """The last number that readers may see."""
        return self._kept.sequence

    # -- the start and the end

    def open(self, now: float) -> None:
        """See ``Store.open``."""
        journal = Journal(self._path, self._sync, new_epoch())
        kept = journal.open()
        self._offset = self._wall() - now
        collects = gc.isenabled()
        gc.disable()  # hundreds of thousands of messages are made, none of them garbage
        try:
            self._kept.restore(kept, self._offset, now)
        except (sqlite3.Error, ValueError) as error:
            journal.disconnect()
            raise journal.unusable(error) from error
        finally:
            if collects:
                gc.enable()
        for record in kept.records:
            expires_at = inf if record.expires_at is None else record.expires_at - self._offset
            if expires_at > now:
                known = self._recalled.setdefault(record.kind, [])
                known.append(Record(record.id, record.value, expires_at))
        self._journal = journal

    def close(self) -> MaybeDeferred[None]:
        """See ``Store.close``. Fires in any case: what the disk does not take is logged."""
        if self._journal is None or self._closing is not None:
            return self._closing
        self._closing = Deferred()
        closed = self._closing
        self._write_soon()
        return closed

    def flush(self) -> MaybeDeferred[None]:
        """See ``Store.flush``."""
        if self._journal is None:
            raise StoreDown("The store is closed.")
        if not self._writing and not self._has_work():
            return None
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        self._write_soon()
        return waiter

    # -- what is pushed

    def append(self, push: Push, now: float, created_at: float) -> Deferred[Sequence[Message]]:
        """See ``Store.append``."""
        self._check_up(now)
        coming = self._kept.accept(push, now, created_at)
        self._offset = coming.offset
        if push.key is not None:
            ids = tuple([message.id for message in coming.messages])
            coming.receipt = KeptRecord(
                RECEIPTS,
                receipt_id(push),
                receipt_value(fingerprint(push), Receipt(ids, created_at, 0, push.recipients)),
                created_at + IDEMPOTENCY_SECONDS,
            )
        self._coming.append(coming)
        if self._gathering and len(self._coming) >= self._together:
            self._called = self._gathering = False
        self._write_soon()
        return coming.deferred

    def _check_up(self, now: float) -> None:
        if self._journal is None or self._closing is not None:
            raise StoreDown("The store is closed.")
        if self._writing:
            if self._waits_since is None:
                self._waits_since = now
            elif now - self._waits_since > STORE_STALLED_SECONDS:
                raise StoreDown("The disk does not answer; push again later.")

    def retract(self, messages: Sequence[Message]) -> None:
        """See ``Store.retract``."""
        self._kept.retract(messages)  # it never was in the file

    # -- what is read

    def read(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool = True
    ) -> Batch:
        """See ``Store.read``."""
        return self._kept.read(recipients, after, limit, now, acks)

    def take(self, recipients: tuple[str, ...], limit: int, now: float) -> Batch:
        """See ``Store.take``."""
        return self._kept.take(recipients, limit, now)

    def give_back(self, messages: Sequence[Message]) -> None:
        """See ``Store.give_back``."""
        self._kept.give_back(messages)

    # -- what is let go

    def delete(self, recipient: str, now: float) -> MaybeDeferred[None]:
        """See ``Store.delete``. Readers are told at once, the Deferred fires when it is kept."""
        self._kept.delete(recipient, now)
        return self.flush()

    def expire(self, now: float) -> None:
        """See ``Store.expire``; brings everything else that changed to the file, too."""
        self._offset = self._wall() - now
        self._kept.expire(now)
        if self._has_work():
            self._write_soon()

    # -- what is said of it

    def describe(self, recipient: str, now: float) -> Contents:
        """See ``Store.describe``."""
        return self._kept.describe(recipient, now)

    def usage(self) -> Usage:
        """See ``Store.usage``; memory counts what waits for its commit, too."""
        return self._kept.usage()

    def state(self) -> State:
        """See ``Store.state``; it is down where it is closed, and where its file could not be written."""
        return "down" if self._journal is None or self._closing is not None or self._down else "ok"

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests.

        - The invariants of the mailboxes hold (``MemoryStore.check_invariants``).
        - Room is held for each push that waits for its commit. Between commits, it is held for nothing else.
        - While a push or a flush waits, a commit is called for or under way, unless the last one failed.
        """
        self._kept.check_invariants()
        self._kept.check_room([coming.push for coming in self._coming], exactly=not self._writing)
        idle = self._journal is None or self._down or not (self._coming or self._waiters)
        assert idle or self._called or self._writing, "while something waits, a commit is called for"

    # -- what is remembered for others

    def remember(self, kind: str, id: str, value: Callable[[], bytes], expires_at: float) -> None:  # noqa: A002
        """See ``Store.remember``."""
        self._records[kind, id] = (value, expires_at)

    def forget(self, kind: str, id: str) -> None:  # noqa: A002
        """See ``Store.forget``."""
        self._records[kind, id] = None

    def recall(self, kind: str) -> Sequence[Record]:
        """See ``Store.recall``."""
        return self._recalled.pop(kind, ())

    # -- how it is written

    def _has_work(self) -> bool:
        kept = self._kept
        return bool(self._coming or self._waiters or self._records or kept.changed or kept.gone)

    def _write_soon(self, seconds: float = 0.0) -> None:
        """Call for a commit of all that comes in this turn, unless one is under way and will see to it."""
        if not self._called and not self._writing and self._journal is not None:
            self._called = True
            self._worker.soon(self._write, seconds)

    def _write(self) -> None:
        """Begin a commit, or, where nothing is left to be written, what was waiting for that."""
        self._called = self._gathering = False
        journal = self._journal
        if journal is None or self._writing:
            return
        if self._closing is not None and (self._down or not self._has_work()):
            self._finish(journal)
            return
        # Where the last commit failed, the next one is without pushes: what goes makes room, and what
        # comes need not wait to learn that there is none.
        coming = [] if self._down else self._next()
        waiters, self._waiters = self._waiters, []
        changes = self._kept.changes(None if waiters else STORE_ROWS_PER_COMMIT)
        records, self._records = self._records, {}
        self._add(changes, coming, records)
        self._writing = True
        self._began = time.perf_counter()
        written = partial(self._written, coming, waiters, changes, records)
        self._worker.run(partial(journal.write, changes), written)

    def _next(self) -> list[_Coming]:
        """Return the pushes of the next commit."""
        coming: list[_Coming] = []
        size = 0
        while self._coming and size < STORE_COMMIT_BYTES:
            coming.append(self._coming.popleft())
            size += coming[-1].memory
        return coming

    def _add(self, changes: Changes, coming: Iterable[_Coming], records: dict[Any, Any]) -> None:
        for (kind, id_), record in records.items():
            if record is None:
                changes.records_gone.append((kind, id_))
            else:
                value, expires_at = record
                until = None if expires_at == inf else expires_at + self._offset
                changes.records.append(KeptRecord(kind, id_, value(), until))
        wall = self._wall()
        if wall >= self._clear_at:
            changes.expired = wall
            self._clear_at = wall + IDEMPOTENCY_SECONDS
        for push in coming:
            if push.push.queue:
                changes.messages += [(message, push.offset) for message in push.messages]
            if push.receipt is not None:
                changes.records.append(push.receipt)
            changes.sequence = push.messages[-1].sequence

    def _written(
        self,
        coming: list[_Coming],
        waiters: list[Deferred[None]],
        changes: Changes,
        records: dict[Any, Any],
        failure: Failure | None,
    ) -> None:
        """Go on after a commit: show what was written and tell who waits, or tell them that it failed."""
        took = time.perf_counter() - self._began
        self._waits_since = None
        self._together = len(coming) + len(self._coming)
        if failure is None:
            if self._down:
                self._down = False
                self.log.info("The store {path} can be written again.", path=self._path)
            for push in coming:
                self._kept.show(push)
                push.deferred.callback(push.messages)
            for waiter in waiters:
                waiter.callback(None)
        else:
            self._note_failure(failure)
            self._kept.unchange(changes)
            self._records = {**records, **self._records}
            # The disk may have kept what it said that it did not.
            self._kept.gone.extend([message.sequence for push in coming for message in push.messages])
            self._refuse(coming, waiters)
            self._refuse_all()
        # Not before all were told: what one of them pushes in turn comes after what the others did.
        self._writing = False
        kept = self._kept
        if self._closing is not None or self._waiters:
            self._write_soon()
        elif self._down:
            return  # until somebody pushes, or time passes
        elif self._coming or len(kept.changed) + len(kept.gone) > STORE_ROWS_PER_COMMIT:
            # A client that was answered just now is about to push again: two halves of the clients that take
            # turns would each wait for two commits. What else changed goes along with the next push.
            self._gathering = len(self._coming) < self._together
            gather = min(took * STORE_GATHER_SHARE, STORE_GATHER_SECONDS)
            self._write_soon(gather if self._gathering else 0.0)

    def _refuse_all(self) -> None:
        """Tell everyone who waits that nothing can be written."""
        coming, self._coming = self._coming, deque()
        waiters, self._waiters = self._waiters, []
        self._refuse(coming, waiters)

    def _refuse(self, coming: Iterable[_Coming], waiters: Iterable[Deferred[None]]) -> None:
        refused: list[Deferred[Any]] = []
        for push in coming:
            self._kept.drop(push)
            refused.append(push.deferred)
        for deferred in [*refused, *waiters]:
            deferred.errback(StoreDown("The store cannot be written now; push again later."))

    def _note_failure(self, failure: Failure) -> None:
        if not failure.check(sqlite3.Error):
            self.log.failure("Writing the store {path} failed", failure, path=self._path)
        elif not self._down:
            self.log.error(
                "The store {path} cannot be written ({error}); pushes are refused until it can.",
                path=self._path,
                error=failure.getErrorMessage(),
            )
        self._down = True

    def _finish(self, journal: Journal) -> None:
        """Close the file, as the last thing that is done."""
        self._journal = None
        self._refuse_all()
        # After a failure there are changes left, as many as there may be; they are tried once more.
        changes = self._kept.changes(None)
        self._add(changes, (), self._records)
        self._worker.run(partial(journal.close, changes), self._closed)

    def _closed(self, failure: Failure | None) -> None:
        if failure is not None:
            self._note_failure(failure)
        self._worker.stop()
        closing = self._closing
        assert closing is not None, "only close leads here"
        closing.callback(None)
