"""Mailboxes that outlive the process: they live in memory, and SQLite is the journal of what changed in them.

A push gets its number when it arrives. A thread of the store's own writes it to the file, in one commit with
all that came while the last commit was under way. Then it is put into its mailbox, in the one order, and is
answered. So no reader sees what a crash could take back, and a read, which is answered from memory, never
waits.

A deletion goes the same way: the file loses the messages first. So where it cannot, nothing has changed.

All other changes (what was taken, acknowledged, let go) are noted by name as they happen, and what stands
there goes along with the next commit, at the latest when ``expire`` is called. After a crash some of them
may not have happened: then a message is there again. The file is always what memory was at one moment.

Where a commit fails, its pushes are refused, and everything else is tried once more without them. Where the
disk is nearly full the pushes are refused and everything else is written.
"""

from __future__ import annotations

import gc
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate, takewhile
from math import inf
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..core.idempotency import RECEIPTS, fingerprint, receipt_id, receipt_value
from ..core.leases import Ended, LeaseId, Settlement
from ..core.message import Batch, Message, Push, Receipt
from ..core.store import Record, State
from ..deferreds import MaybeDeferred, chain, is_pending
from ..errors import StoreDown
from ..limits import (
    IDEMPOTENCY_SECONDS,
    STORE_COMMIT_BYTES,
    STORE_GATHER_SECONDS,
    STORE_GATHER_SHARE,
    STORE_RESERVE_BYTES,
    STORE_ROWS_PER_COMMIT,
    STORE_STALLED_SECONDS,
    Limits,
)
from .journal import Changes, Journal, KeptRecord, Pushes, Sync, Unwritable
from .mailboxes import new_epoch
from .tracked import Commit, PendingPush, TrackedMailboxes, Waiter
from .worker import ThreadWorker

_DOWN = "The store cannot be written now; push again later."
_NO_ROOM = "The disk is nearly full; push again later, or once messages were deleted."


class SQLiteStore:
    """A ``Store`` in a file of SQLite. ``overflow`` is what a full mailbox does unless a push says otherwise.

    ``sync`` is what a commit waits for: ``full`` for the disk, so that a loss of power loses nothing,
    ``normal`` for the operating system, so that the death of the process does not. ``open`` reads the whole
    file, and blocks while it does. ``wall`` is the clock that outlives the process.
    """

    log = Logger()

    def __init__(
        self,
        path: str | Path,
        limits: Limits | None = None,
        *,
        overflow: str = "reject",
        sync: Sync = "full",
        worker: ThreadWorker | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = Path(path).absolute()
        self._sync = sync
        self._worker = worker or ThreadWorker()
        self._wall = wall
        self._kept = kept = TrackedMailboxes(limits or Limits(), overflow=overflow, soon=self._worker.soon)
        # These touch the mailboxes in memory alone; what they change is written with the next commit.
        self.use, self.read, self.take, self.give_back = kept.use, kept.read, kept.take, kept.give_back
        self.retract, self.describe, self.names, self.usage = (
            kept.retract,
            kept.describe,
            kept.names,
            kept.usage,
        )
        self._offset = 0.0
        """What is added to a time of the process's clock to make it seconds since 1970."""
        self._journal: Journal | None = None
        self._pending: list[PendingPush] = []
        self._records: dict[tuple[str, str], tuple[Callable[[], bytes], float] | None] = {}
        """Records to be written, or, where there is None, forgotten."""
        self._recalled: dict[str, list[Record]] = {}
        self._deletions: dict[str, None] = {}
        """Recipients whose mailboxes the next commit empties; for each a caller waits among ``_waiters``."""
        self._waiters: list[Waiter] = []
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
        self._wanted = 0
        """The bytes of the pushes for which there was no room on the disk; 0 where there was."""
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
        self._offset = self._wall() - now  # before the file is opened, which takes its time
        journal = Journal(self._path, self._sync, new_epoch())
        kept = journal.open()
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
        if self._journal is None:
            raise StoreDown("The store is closed.")
        if not self._writing and not self._has_work():
            return None
        waiter: Deferred[None] = Deferred()
        self._waiters.append((waiter, self._kept.outstanding()))
        self._write_soon()
        return waiter

    # -- what is pushed

    def append(self, push: Push, now: float, created_at: float) -> Deferred[Sequence[Message]]:
        self._check_up(now)
        pending = self._kept.accept(push, now, created_at)
        self._offset = created_at - now
        if push.key is not None:
            ids = tuple([message.id for message in pending.messages])
            pending.receipt = KeptRecord(
                RECEIPTS,
                receipt_id(push),
                receipt_value(fingerprint(push), Receipt(ids, created_at, 0, push.recipients)),
                created_at + IDEMPOTENCY_SECONDS,
            )
        self._pending.append(pending)
        if self._gathering and len(self._pending) >= self._together:
            self._called = self._gathering = False
        if not self._called:
            self._write_soon()
        return pending

    def _check_up(self, now: float) -> None:
        if self._journal is None or self._closing is not None:
            raise StoreDown("The store is closed.")
        if self._writing:
            if self._waits_since is None:
                self._waits_since = now
            elif now - self._waits_since > STORE_STALLED_SECONDS:
                raise StoreDown("The disk does not answer; push again later.")

    # -- what is leased

    def lease(
        self, recipients: tuple[str, ...], limit: int, seconds: float, now: float
    ) -> MaybeDeferred[Batch]:
        """See ``Store.lease``. A worker is given what a crash would not make another worker's."""
        self._check_up(now)
        batch = self._kept.lease(recipients, limit, seconds, now)
        if not batch.messages:
            return batch

        def undo(failure: Failure) -> Failure:
            self._kept.give_back(batch.messages)
            return failure

        kept = self.flush()
        assert is_pending(kept), "a lease is to be written"
        return kept.addCallbacks(lambda _: batch, undo)

    def settle_leases(
        self, recipient: str, leases: Sequence[LeaseId], settlement: Settlement, seconds: float, now: float
    ) -> MaybeDeferred[Sequence[bool]]:
        """See ``Store.settle_leases``. Where the disk takes nothing now, it is written later."""
        settled = self._kept.settle_leases(recipient, leases, settlement, seconds, now)
        kept = self.flush() if any(settled) else None
        if not is_pending(kept):
            return settled

        def later(failure: Failure) -> Sequence[bool]:
            failure.trap(StoreDown)
            return settled

        return kept.addCallbacks(lambda _: settled, later)

    # -- what is let go

    def delete(self, recipient: str, now: float) -> MaybeDeferred[None]:
        """See ``Store.delete``. Readers see the messages until that is kept. Fails with ``StoreDown``."""
        if self._journal is not None and self._kept.holds(recipient, now):
            self._deletions[recipient] = None
        return self.flush()

    def expire(self, now: float) -> Ended | None:
        """See ``Store.expire``; brings everything else that changed to the file, too."""
        self._offset = self._wall() - now
        ended = self._kept.expire(now)
        if self._has_work() or self._wanted:
            self._write_soon()
        return ended

    # -- what is said of it

    def state(self) -> State:
        """See ``Store.state``; it is down where it is closed, and where pushes could not be written."""
        is_open = self._journal is not None and self._closing is None
        return "ok" if is_open and not self._down and not self._wanted else "down"

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests."""
        self._kept.check_invariants()
        self._kept.check_room([pending.push for pending in self._pending], exactly=not self._writing)
        idle = self._journal is None or self._down or not (self._pending or self._waiters)
        assert idle or self._called or self._writing, "while something waits, a commit is called for"
        assert self._waiters or not self._deletions, "a caller waits for each deletion"

    # -- what is remembered for others

    def remember(self, kind: str, id: str, value: Callable[[], bytes], expires_at: float) -> None:  # noqa: A002
        self._records[kind, id] = (value, expires_at)

    def forget(self, kind: str, id: str) -> None:  # noqa: A002
        self._records[kind, id] = None

    def recall(self, kind: str) -> Sequence[Record]:
        return self._recalled.pop(kind, ())

    # -- how it is written

    def _has_work(self) -> bool:
        kept = self._kept
        waits = self._pending or self._waiters or self._deletions
        return bool(waits or self._records or kept.changed or kept.removed or kept.ended_leases)

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
        pending = [] if self._down else self._next()
        deletions, self._deletions = self._deletions, {}
        changes = self._kept.changes(STORE_ROWS_PER_COMMIT, self._offset)
        waiters: list[Waiter] = []
        if self._waiters:
            waiters = [one for one in self._waiters if self._kept.was_handed_out(one[1])]
            self._waiters = [one for one in self._waiters if not self._kept.was_handed_out(one[1])]
        ends = self._kept.add_deletions(changes, deletions) if deletions else {}
        records, self._records = self._records, {}
        self._add(changes, pending, records)
        self._writing = True
        self._began = time.perf_counter()
        written = partial(self._written, Commit(changes, pending, waiters, ends, records))
        self._worker.run(partial(journal.write, changes), written)

    def _next(self) -> list[PendingPush]:
        """Return the pushes of the next commit."""
        most = len(self._pending)
        if self._kept.pending_memory >= STORE_COMMIT_BYTES:
            sizes = accumulate([push.memory for push in self._pending])
            most = 1 + sum(1 for _ in takewhile(lambda size: size < STORE_COMMIT_BYTES, sizes))
        pending, self._pending = self._pending[:most], self._pending[most:]
        return pending

    def _add(self, changes: Changes, pending: Sequence[PendingPush], records: dict[Any, Any]) -> None:
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
        changes.wanted = sum([push.memory for push in pending]) or self._wanted
        if pending:
            receipts = [push.receipt for push in pending if push.receipt is not None]
            values = _values(pending, self._offset)
            changes.pushes = Pushes(pending[-1].messages[-1].sequence, values, receipts)

    def _written(self, commit: Commit, failure: Failure | None) -> None:
        """Go on after a commit: show what was written and answer the pending requests, or fail them."""
        took = time.perf_counter() - self._began
        self._waits_since = None
        self._together = len(commit.pending) + len(self._pending)
        if failure is None:
            self._succeeded(commit)
        else:
            self._failed(commit, failure)
        # Not before all were answered: what one of them pushes in turn comes after what the others did.
        self._writing = False
        kept = self._kept
        if self._closing is not None or self._waiters:
            self._write_soon()
        elif self._down:
            return  # until the next push, or time passes
        elif self._pending or len(kept.changed) + len(kept.removed) > STORE_ROWS_PER_COMMIT:
            # A client that was answered just now is about to push again: two halves of the clients that take
            # turns would each wait for two commits. What else changed goes along with the next push.
            self._gathering = len(self._pending) < self._together
            gather = min(took * STORE_GATHER_SHARE, STORE_GATHER_SECONDS)
            self._write_soon(gather if self._gathering else 0.0)

    def _succeeded(self, commit: Commit) -> None:
        if self._down:
            self._down = False
            self.log.info("The store {path} can be written again.", path=self._path)
        deleted = self._kept.apply_deletions(commit.ends)
        self._note_room(commit.changes)
        if commit.changes.has_room:
            show = self._kept.show
            for push in commit.pending:
                show(push)
                push.callback(push.messages)
        else:
            self._refuse(commit.pending, _NO_ROOM)
        for waiter, _ in commit.waiters:
            chain(deleted, waiter.callback)

    def _failed(self, commit: Commit, failure: Failure) -> None:
        self._note_failure(failure)
        self._kept.unchange(commit.changes)
        self._records = {**commit.records, **self._records}
        # The disk may have kept what it said that it did not.
        for push in commit.pending:
            self._kept.removed.extend([message.sequence for message in push.messages])
            if push.receipt is not None:
                self._records.setdefault((push.receipt.kind, push.receipt.id), None)
        if commit.pending:
            # What else there was may fit without the pushes, and make room for those that come.
            until = self._kept.outstanding()
            self._waiters = [(waiter, until) for waiter, _ in (*commit.waiters, *self._waiters)]
            self._deletions = {**dict.fromkeys(commit.ends), **self._deletions}
            self._refuse(commit.pending, _DOWN)
            self._refuse_pending()
        else:
            self._refuse_pending()
            self._refuse_waiters(commit.waiters)

    def _refuse_pending(self) -> None:
        pending, self._pending = self._pending, []
        self._refuse(pending, _DOWN)

    def _refuse(self, pending: Iterable[PendingPush], sentence: str) -> None:
        refused = list(pending)
        for push in refused:
            self._kept.drop(push)
        for push in refused:
            push.errback(StoreDown(sentence))

    def _refuse_waiters(self, waiters: Iterable[Waiter]) -> None:
        """Fail these requests, and all pending ones besides: nothing can be written."""
        refused, self._waiters = [*waiters, *self._waiters], []
        self._deletions.clear()
        for waiter, _ in refused:
            waiter.errback(StoreDown(_DOWN))

    def _note_room(self, changes: Changes) -> None:
        """Note whether the disk has room for pushes, where that was asked."""
        if not changes.has_room and not self._wanted:
            self.log.error(
                "The disk of the store {path} is nearly full: pushes are refused until it has "
                "{reserve} MB free, or enough was deleted.",
                path=self._path,
                reserve=STORE_RESERVE_BYTES // 1024**2,
            )
        elif changes.has_room and self._wanted:
            self.log.info("The disk of the store {path} has room for pushes again.", path=self._path)
        self._wanted = 0 if changes.has_room else changes.wanted

    def _note_failure(self, failure: Failure) -> None:
        if not failure.check(sqlite3.Error, Unwritable):
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
        self._refuse_pending()
        self._refuse_waiters(())
        # After a failure there are changes left, as many as there may be; they are tried once more.
        changes = self._kept.changes(None, self._offset)
        self._add(changes, (), self._records)
        self._worker.run(partial(journal.close, changes), self._closed)

    def _closed(self, failure: Failure | None) -> None:
        if failure is not None:
            self._note_failure(failure)
        self._worker.stop()
        closing = self._closing
        assert closing is not None, "only close leads here"
        closing.callback(None)


def _values(pending: Iterable[PendingPush], offset: float) -> list[Any]:
    """Return what ``Pushes.values`` has, with the times as seconds since 1970: ``offset`` is added to them.

    The processor of the reactor's thread has the messages at hand, that of the store's does not.
    """
    values: list[Any] = []
    for push in pending:
        for message in push.messages if push.push.queue else ():
            content = message.content
            values += (
                message.sequence,
                message.recipient,
                content.form,
                content.type,
                bytearray(content.body),
                message.event or "",
                message.created_at,
                message.expires_at + offset,
            )
    return values
