"""The hub: pushes arrive, readers are parked, and each is answered with what it has not had.

The mailbox is the only truth. A push appends to it and then wakes the readers that wait; a woken reader reads
after its own cursor.

A store may wait for its disk or its network. A reader is parked before such a store has looked, because a
message that is pushed between a look and a park would otherwise come only at the end of the wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from operator import attrgetter
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..deferreds import MaybeDeferred, chain, is_pending, shielded, shielded_chain
from ..errors import BodyTooLarge, MailboxFull, NobodyWaits, NotFound, Stopping, StoreDown
from ..limits import ONLINE_SECONDS, POLL_MESSAGES, PUSH_MESSAGES, WAIT_SECONDS
from .counts import Counts
from .deadletters import DeadLetters
from .idempotency import Receipts
from .leases import Ended, LeaseId, LeaseState, Settlement
from .message import ACCEPTED, NOW, SINCE, Batch, Cursor, Message, Push, Receipt
from .namespaces import Namespaces
from .readers import Follower, Lease, Poll, Reader, Take, as_read
from .recipient import PRESENCE, plain
from .registry import Registry
from .store import Contents, SharedStore, Store

T = TypeVar("T")

_id = attrgetter("id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing(Contents):
    """How a recipient stands: what its mailbox holds, and who reads it."""

    recipient: str
    waiting: int
    """How many readers wait at this moment."""
    last_seen: float | None
    """When a reader was last connected, in seconds since 1970; None: not within an hour."""
    online: bool
    """Whether a reader waits, or was connected a moment ago."""


class Hub:
    """Push, poll, take and describe: everything that routes and embedding programs do with mailboxes.

    ``clock`` is where waits and ages are measured; ``wall`` is the clock for times that people see.
    ``on_push`` is called with each message that was accepted, once it has woken the readers that wait.
    ``max_body`` is how many bytes a push may have that goes to a recipient of no namespace, where there are
    ``namespaces``.
    """

    log = Logger()

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: IReactorTime,
        *,
        counts: Counts | None = None,
        wall: Callable[[], float] = time.time,
        namespaces: Namespaces | None = None,
        max_body: int = 0,
    ) -> None:
        self.store = store
        self.namespaces = namespaces
        """What holds for patterns of recipients; None where nothing was set."""
        self._max_body = max_body
        if namespaces is not None:
            store.use(namespaces)
        self.shared = store if isinstance(store, SharedStore) else None
        """The store again, where other processes use it too; None where all readers are here."""
        self.registry = registry
        self.clock = clock
        self.counts = counts or Counts()
        self.wall = wall
        self.stopping = False
        self.began_at = clock.seconds()
        self.on_push: Callable[[Message], object] | None = None
        self.keeps_presence: Callable[[str], bool] = lambda _: False
        """Returns whether presence is kept of a recipient; a ``PresenceTracker`` sets it."""
        self.dead_letters = DeadLetters(store, clock, self.counts, self._push, self.store_failed)
        self.receipts = Receipts(store, clock, is_shared=self.shared is not None)
        if self.shared is not None:
            self.shared.share(registry)

    def check_presence(self, names: Iterable[str]) -> None:
        """Raise ``NotFound`` where a reader asks for joins and leaves that are not announced."""
        for name in names:
            if name.startswith(PRESENCE) and not self.keeps_presence(plain(name)):
                raise NotFound(
                    f"Presence is not kept for {plain(name)!r}: start the server with --presence, or set "
                    "presence=yes in its namespace."
                )

    # -- push

    def push(self, push: Push) -> MaybeDeferred[Receipt]:
        """Give a push to its recipients, wake the readers that wait for them, and return the receipt.

        Cancelling the Deferred of a store that waits does not undo the push. Raises ``MailboxFull``,
        ``ServerFull``, ``NobodyWaits``, ``KeyReused``, ``BodyTooLarge``, ``StoreDown`` or ``Stopping``.
        """
        if self.stopping:
            raise Stopping("The server is stopping; push again in a moment.")
        if len(push.contents) * len(push.recipients) > PUSH_MESSAGES:
            raise BodyTooLarge(
                f"A push makes at most {PUSH_MESSAGES} messages: its lines, for each recipient."
            )
        if self.namespaces is not None:
            self.namespaces.check_body(push, self._max_body)
        return self._push(push) if push.key is None else self.receipts.push(push, self._push)

    def body_bound(self, recipients: Iterable[str]) -> int:
        """Return the bytes of a body that each of the recipients takes, where there are namespaces."""
        assert self.namespaces is not None
        return self.namespaces.body_bound(recipients, self._max_body)

    def discard(self, push: Push) -> MaybeDeferred[Receipt]:
        """Return the receipt of a push that no reader can ever read, and keep nothing of it.

        Its id is the cursor of this moment. Raises ``Stopping`` or ``StoreDown``.
        """
        if self.stopping:
            raise Stopping("The server is stopping; push again in a moment.")
        created_at = self.wall()

        def receipt(head: Batch) -> Receipt:
            return Receipt((str(head.cursor),) * len(push.contents), created_at, 0, push.recipients)

        return chain(self.store.read(push.recipients, NOW, 1, self.clock.seconds()), receipt)

    def _push(self, push: Push) -> MaybeDeferred[Receipt]:
        began = time.perf_counter()
        created_at = self.wall()
        try:
            appended = self.store.append(push, self.clock.seconds(), created_at)
        except MailboxFull:
            # Streams acknowledge what they were sent when they look again.
            if not self.registry.come_back(*push.recipients):
                raise
            appended = self.store.append(push, self.clock.seconds(), created_at)
        if is_pending(appended):
            return shielded_chain(appended, self._appended, push, created_at, began)
        return self._appended(appended, push, created_at, began)

    def _appended(
        self, messages: Sequence[Message], push: Push, created_at: float, began: float
    ) -> MaybeDeferred[Receipt]:
        count, counts = len(messages), self.counts
        counts.pushes += count
        elsewhere, left = None, 0
        if self.shared is not None and (elsewhere := self.shared.elsewhere(messages)) is not None:
            left = count - self.registry.takers(*push.recipients)
        woken = self.registry.wake(push.recipients, count)
        counts.push_to_wake.observe(time.perf_counter() - began)
        if elsewhere is None:
            return self._woken(woken, messages, push, created_at)
        return elsewhere.addCallback(self._woken_elsewhere, woken, left, messages, push, created_at)

    def _woken_elsewhere(
        self,
        elsewhere: tuple[int, int],
        woken: int,
        left: int,
        messages: Sequence[Message],
        push: Push,
        created_at: float,
    ) -> MaybeDeferred[Receipt]:
        """Count the readers of other processes: of those that take, as many as there are messages left."""
        readers, takers = elsewhere
        return self._woken(woken + readers + max(0, min(takers, left)), messages, push, created_at)

    def _woken(
        self, delivered: int, messages: Sequence[Message], push: Push, created_at: float
    ) -> MaybeDeferred[Receipt]:
        ids = tuple(map(_id, messages))
        receipt = Receipt(ids, created_at, delivered, push.recipients)
        if not push.queue:
            return chain(self.registry.wakes_ended(), lambda _: self._retract(messages, receipt))
        if self.on_push is not None:
            self._observe(messages)
        return receipt

    def _retract(self, messages: Sequence[Message], receipt: Receipt) -> MaybeDeferred[Receipt]:
        """Take back messages that were only for the readers that waited, which have read them."""

        def retracted(_: None) -> Receipt:
            if not receipt.delivered:
                raise NobodyWaits("No reader waits at this moment, and queue=no does not keep the message.")
            self._observe(messages)
            return receipt

        return chain(self.store.retract(messages), retracted)

    def _observe(self, messages: Sequence[Message]) -> None:
        if self.on_push is not None:
            for message in messages:
                self.on_push(message)

    # -- read

    def poll(
        self,
        recipients: tuple[str, ...],
        after: Cursor,
        wait: float = WAIT_SECONDS,
        limit: int = POLL_MESSAGES,
        acks: bool = True,
        name: str | None = None,
    ) -> MaybeDeferred[Batch]:
        """Return what the recipients hold after a cursor, as soon as there is something.

        Held for up to ``wait`` seconds; then, or when the server stops, the batch is empty and its cursor
        is the place to go on from. With ``acks`` false the cursor acknowledges nothing. ``name`` is that
        under which the reader is present. Cancelling the Deferred forgets the reader. Raises ``ServerFull``.
        """
        if after.epoch == SINCE:
            after = self.dated(after)
        poll = Poll(self, recipients, after, limit, acks, as_read)
        if name is not None:
            poll.name = name
        return self.park(poll, wait)

    def take(
        self,
        recipients: tuple[str, ...],
        wait: float = WAIT_SECONDS,
        limit: int = POLL_MESSAGES,
        is_disconnected: Callable[[], bool] = lambda: False,
        name: str | None = None,
    ) -> MaybeDeferred[Batch]:
        """Return the oldest messages that no take has had, as soon as there is one; each goes to one take.

        A batch that cannot be delivered afterwards is to be returned by ``give_back``. ``is_disconnected`` is
        asked before anything is taken.
        """
        take = Take(self, recipients, limit, is_disconnected)
        if name is not None:
            take.name = name
        return self.park(take, wait)

    def lease(
        self,
        recipients: tuple[str, ...],
        seconds: float,
        wait: float = WAIT_SECONDS,
        limit: int = 1,
        is_disconnected: Callable[[], bool] = lambda: False,
        name: str | None = None,
    ) -> MaybeDeferred[Batch]:
        """Return the oldest messages that no take has had, each reserved for so many seconds.

        They are ``LeasedMessage``, and come again unless ``settle`` is asked in time. All else is as for
        ``take``.
        """
        lease = Lease(self, recipients, limit, seconds, is_disconnected)
        lease.name = name
        return self.park(lease, wait)

    def settle(
        self, recipient: str, leases: Sequence[LeaseId], settlement: Settlement, seconds: float = 0.0
    ) -> MaybeDeferred[Sequence[LeaseState]]:
        """Let leases be done or released, or go on for so many ``seconds``; return what became of each."""

        def settled(found: Sequence[bool]) -> Sequence[LeaseState]:
            if settlement == "released" and any(found):
                self.registry.wake((recipient,))
            return [settlement if was_last else "gone" for was_last in found]

        asked = self.store.settle_leases(recipient, leases, settlement, seconds, self.clock.seconds())
        return shielded(chain(asked, settled))

    def follow(
        self,
        recipients: tuple[str, ...],
        after: Cursor,
        send: Callable[[Batch], bool],
        on_place: Callable[[Cursor], object] | None = None,
        *,
        acks: bool = True,
        name: str | None = None,
    ) -> Follower:
        """Park a reader that is given everything after a cursor, as it comes, until it is cancelled.

        It begins when its ``go_on`` is called for the first time, and fires when the server stops. See
        ``Follower``. Raises ``ServerFull`` or ``Stopping``.
        """
        if self.stopping:
            raise Stopping("The server is stopping; come back in a moment.")
        self.registry.seen(recipients)
        follower = Follower(self, recipients, self.dated(after), send, on_place, acks)
        follower.name = name
        self.registry.park(follower, None)
        return follower

    def dated(self, after: Cursor) -> Cursor:
        """Return a cursor ``SINCE`` with its time counted back from this moment; any other as it is."""
        if after.epoch != SINCE:
            return after
        return Cursor(ACCEPTED, round(self.wall() * 1000) - after.sequence)

    def park(self, reader: Reader[T], wait: float) -> MaybeDeferred[T]:
        """Return what there is for a reader, or park it for up to ``wait`` seconds and return it.

        Raises ``ServerFull`` where it would have to be parked and as many are as may be.
        """
        may_wait = wait > 0 and not self.stopping
        found = reader.read() if may_wait else reader.read_stored()
        if not isinstance(found, Batch):
            # The store answers later, when the reader is parked already: see the module's opening.
            if may_wait and not self.registry.is_full:
                self.registry.park(reader, wait)
                reader.expect(found)
                return reader
            self._visited(reader)
            if reader.takes:
                found = shielded(found, reader.undeliverable)
            return chain(found, self._not_parked, reader, may_wait)
        if may_wait and not (found.messages or found.gap):
            reader.deliver(found)
            return self.registry.park(reader, wait)
        self._visited(reader)
        return reader.present(self.counted(found))

    def _visited(self, reader: Reader[Any]) -> None:
        """Note a reader that is not parked."""
        registry = self.registry
        registry.seen(reader.keys)
        if registry.on_visit is not None:
            registry.on_visit(reader)

    def _not_parked(self, found: Batch, reader: Reader[T], may_wait: bool) -> T:
        if not found and may_wait:
            raise self.registry.refusal()
        return reader.present(self.counted(found))

    def place(self, recipients: tuple[str, ...]) -> MaybeDeferred[Cursor]:
        """Return the cursor of this moment, for readers of these recipients."""
        here = self.store.read(recipients, NOW, 1, self.clock.seconds())
        return chain(here, lambda batch: batch.cursor)

    # -- what readers need

    def has_hints(self) -> bool:
        """Return whether readers may lack what the store holds: that of many processes, while it serves."""
        return self.shared is not None and not self.stopping

    def take_now(self, recipients: tuple[str, ...], limit: int) -> MaybeDeferred[Batch]:
        """Return the oldest messages that no take has had, at once; see ``Store.take``."""

        def taken(found: Batch) -> Batch:
            self.counts.takes += len(found.messages)
            return found

        return chain(self.store.take(recipients, limit, self.clock.seconds()), taken)

    def lease_now(self, recipients: tuple[str, ...], limit: int, seconds: float) -> MaybeDeferred[Batch]:
        """Return the oldest messages that no take has had, at once, and reserve them; see ``Store.lease``."""

        def leased(found: Batch) -> Batch:
            self.counts.leases += len(found.messages)
            return found

        return chain(self.store.lease(recipients, limit, seconds, self.clock.seconds()), leased)

    def give_back(self, batch: Batch) -> None:
        """Leave what a take or lease was given where it was: its client disconnected before the answer."""
        if batch.messages:
            leased = len(batch.leased)
            self.counts.leases -= leased
            self.counts.takes -= len(batch.messages) - leased
            recipients = {message.recipient: None for message in batch.messages}
            given = self.store.give_back(batch.messages)
            self._note_failure(chain(given, lambda _: self.registry.wake(recipients)))

    def counted(self, batch: Batch) -> Batch:
        """Count what a reader is given, and return it."""
        counts = self.counts
        counts.deliveries += len(batch.messages)
        if batch.gap:
            counts.gaps += 1
        return batch

    def store_failed(self, failure: Failure) -> None:
        """Log a failure of the store that no client gets as an answer."""
        if not failure.check(StoreDown):  # the store says itself that it is away
            self.log.failure("The store failed", failure)

    def _note_failure(self, result: MaybeDeferred[object]) -> None:
        if is_pending(result):
            result.addErrback(self.store_failed)

    # -- manage

    def delete(self, recipient: str) -> MaybeDeferred[None]:
        """Lose what a recipient's mailbox holds; readers before it have a gap."""
        return shielded(self.store.delete(recipient, self.clock.seconds()))

    def describe(self, recipient: str) -> MaybeDeferred[Standing]:
        """Say what a recipient's mailbox holds, and who reads it."""
        contents = self.store.describe(recipient, self.clock.seconds())
        shared = self.shared
        if shared is None:
            return chain(contents, lambda contents: self._standing(recipient, contents))

        def ask_others(contents: Contents) -> MaybeDeferred[Standing]:
            return chain(
                shared.presence(recipient), lambda there: self._standing(recipient, contents, *there)
            )

        return chain(contents, ask_others)

    def _standing(
        self, recipient: str, contents: Contents, waiting_elsewhere: int = 0, ago_elsewhere: float = inf
    ) -> Standing:
        registry = self.registry
        here = registry.last_seen(recipient)
        ago = ago_elsewhere if here is None else min(here, ago_elsewhere)
        last_seen = None if ago == inf else self.wall() - ago
        online = registry.online(recipient) or waiting_elsewhere > 0 or ago_elsewhere <= ONLINE_SECONDS
        waiting = registry.waiting(recipient) + waiting_elsewhere
        return Standing(
            contents.queued,
            contents.bytes,
            contents.oldest,
            contents.newest,
            contents.leased,
            contents.unread,
            recipient=recipient,
            waiting=waiting,
            last_seen=last_seen,
            online=online,
        )

    def sweep(self) -> None:
        """Let go of what is too old; to be called every second."""
        self.registry.sweep()
        self.receipts.sweep()
        self._note_failure(chain(self.store.expire(self.clock.seconds()), self._leases_ended))

    def _leases_ended(self, ended: Ended | None) -> None:
        if ended is not None and not self.stopping:
            self.dead_letters.move(ended.exhausted)
            self.registry.wake(ended.recipients)

    def drain(self, seconds: float) -> Deferred[None]:
        """Refuse pushes from now on, and answer parked readers, spread over up to ``seconds``.

        Fires when all are answered. Until then readers are given what was accepted before.
        """
        self.stopping = True
        return self.registry.end_all_within(seconds)

    def stop(self) -> None:
        """Refuse pushes from now on, and answer every parked reader at once."""
        self.stopping = True
        self.registry.end_all()

    # -- for tests

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` where the registry or the receipts contradict themselves."""
        self.registry.check_invariants()
        self.receipts.check_invariants()
