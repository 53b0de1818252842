"""The hub: pushes arrive, readers are parked, and each is answered with what it has not had.

The mailbox is the only truth. A push appends to it and then wakes whoever waits; a woken reader reads
after its own cursor. So a reader that vanished loses nothing, and none is told anything twice.

A store may wait for its disk or its network. A reader is parked before such a store has looked, because
what is pushed between a look and a park would otherwise come only at the end of the wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..deferreds import MaybeDeferred, chain, is_pending, shielded, total
from ..errors import BodyTooLarge, KeyReused, NobodyWaits, Stopping, StoreDown
from ..limits import (
    IDEMPOTENCY_IDS,
    IDEMPOTENCY_KEYS,
    IDEMPOTENCY_SECONDS,
    ONLINE_SECONDS,
    POLL_MESSAGES,
    PUSH_MESSAGES,
    STREAM_MESSAGES,
    WAIT_SECONDS,
)
from .counts import Counts
from .idempotency import RECEIPTS, fingerprint, receipt_id, receipt_of, receipt_value
from .message import NOW, OLDEST, Batch, Cursor, Message, Push, Receipt
from .registry import Parked, Registry, Waiting, Woken
from .store import Contents, Record, Repeated, SharedStore, Store

T = TypeVar("T")
_Key: TypeAlias = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a recipient stands: what its mailbox holds, and who reads it."""

    recipient: str
    waiting: int
    contents: Contents
    last_seen: float | None
    """Seconds since 1970; None where nobody was here within an hour."""
    online: bool


class Reader(Parked[T]):
    """A parked reader: it asks the hub's store, and sees what it is given.

    Where the store waits, it asks once at a time, and once more if it was woken meanwhile: of two answers
    that overtake each other, the older would take it past what the newer one brings.
    """

    __slots__ = ("_again", "_asking", "_ended", "hub")

    def __init__(self, hub: Hub, recipients: tuple[str, ...]) -> None:
        # All at once, and not by one constructor after the other: there is one of these for each poll.
        self.keys = recipients
        self.deferred = None
        self._registry = None
        self._ends_at = None
        self.hub = hub
        self._asking: list[Deferred[int]] | None = None
        """Those who want to know what the question on its way comes to; None where none is."""
        self._again = False
        self._ended = False

    def ask(self) -> MaybeDeferred[Batch]:
        """Ask the store for what comes next."""
        raise NotImplementedError

    def see(self, found: Batch) -> bool:
        """Take in what the store gave; return whether there was something."""
        raise NotImplementedError

    def over(self) -> T:
        """Return what the reader is told when its wait ends with nothing."""
        raise NotImplementedError

    def settled(self) -> bool:
        """Whether the reader has a place, from which nothing is missed however long the store is away."""
        return True

    def gone(self) -> bool:
        """Whether nobody is there any more for whom to take something."""
        return self.deferred is None

    def unseen(self, found: Batch) -> None:
        """Do what must be done with what came when the reader was gone."""

    def counted(self, found: Batch) -> Batch:
        """Count what the reader is given, and return it."""
        return self.hub.counted(found)

    def wake(self) -> Woken:
        """Look for what there is now; return whether there was something."""
        if self.deferred is None:
            return False
        if self._asking is not None:
            self._again = True
            told: Deferred[int] = Deferred()
            self._asking.append(told)
            return told
        try:
            found = self.ask()
        except Exception:  # noqa: BLE001  one reader's failure must not keep the others from being woken
            self._failed(Failure())
            return False
        if found.__class__ is not Batch and is_pending(found):  # the former is cheap, and mostly says it
            return self.expect(found)
        return self.see(found)

    def expect(self, found: Deferred[Batch]) -> Deferred[int]:
        """Look at what was asked for once it is there; return whether there was something."""
        told: Deferred[int] = Deferred()
        self._asking = [told]
        found.addCallbacks(self._given, self._failed)
        return told

    def end(self) -> None:
        """Answer with nothing, after a question that is on its way."""
        self._ended = True
        if self._asking is None:
            self.answer(self.over())

    def _given(self, found: Batch) -> None:
        asking, self._asking = self._asking, None
        seen = False
        if self.gone():
            self.unseen(found)
        else:
            seen = self.see(found)
        self._go_on(asking, seen)

    def _failed(self, failure: Failure) -> None:
        asking, self._asking = self._asking, None
        if self.deferred is not None and not self.settled():
            self.refuse(failure)
        else:
            # It stays parked at its place: the store wakes it when it is back.
            self.hub.store_failed(failure)
        self._go_on(asking, seen=False)

    def _go_on(self, asking: list[Deferred[int]] | None, seen: Woken) -> None:
        if self._again:
            self._again = False
            again = self.wake()
            seen = seen or again
        if self._ended and self._asking is None and self.deferred is not None:
            self.answer(self.over())
        if asking is not None:
            chain(seen, partial(_tell, asking))


class Poll(Reader[Batch]):
    """A parked poll: it waits for what comes after its cursor, and takes nothing away."""

    __slots__ = ("after", "limit")

    def __init__(self, hub: Hub, recipients: tuple[str, ...], after: Cursor, limit: int) -> None:
        Reader.__init__(self, hub, recipients)  # with super() it takes 0.05 µs more
        self.after = after
        self.limit = limit

    def ask(self) -> MaybeDeferred[Batch]:
        """Read after the cursor."""
        hub = self.hub
        return hub.store.read(self.keys, self.after, self.limit, hub.clock.seconds())

    def see(self, found: Batch) -> bool:
        """Answer with messages or a gap."""
        if found.messages or found.gap:
            self.answer(self.hub.counted(found))
            return True
        self.after = found.cursor
        return False

    def settled(self) -> bool:
        """Whether it is known where ``now`` was."""
        return self.after != NOW

    def over(self) -> Batch:
        """Return no messages, and the cursor to go on from."""
        return Batch((), self.after)


class Take(Reader[Batch]):
    """A parked take: it waits for what no take has had. ``left`` tells whether its client has left."""

    __slots__ = ("left", "limit", "place")

    def __init__(self, hub: Hub, recipients: tuple[str, ...], limit: int, left: Callable[[], bool]) -> None:
        super().__init__(hub, recipients)
        self.limit = limit
        self.left = left
        self.place = OLDEST

    def ask(self) -> MaybeDeferred[Batch]:
        """Take what no take has had, unless the client has left."""
        if self.left():
            return Batch((), self.place)  # that is about to be reported, and others wait behind it
        hub = self.hub
        return hub.store.take(self.keys, self.limit, hub.clock.seconds())

    def see(self, found: Batch) -> bool:
        """Answer with messages or a gap."""
        self.place = found.cursor
        if found:
            self.answer(self.counted(found))
        return bool(found)

    def counted(self, found: Batch) -> Batch:
        """Count what was taken, and return it."""
        self.hub.counts.takes += len(found.messages)
        return super().counted(found)

    def gone(self) -> bool:
        """Whether its connection is lost, be it that this was not reported yet."""
        return self.deferred is None or self.left()

    def unseen(self, found: Batch) -> None:
        """Give back what was taken for nobody."""
        self.hub.give_back(found)

    def over(self) -> Batch:
        """Return no messages, and the cursor to go on from."""
        return Batch((), self.place)


class Follower(Reader[None]):
    """A stream or socket: parked until it leaves, it is told every batch that comes after its cursor.

    ``tell`` is given each batch and returns whether there may be another one at once; where it said no,
    ``go_on`` is to be called when there may. ``waiting`` is told when the server stops.
    """

    __slots__ = ("after", "ready", "tell")

    def __init__(
        self,
        hub: Hub,
        recipients: tuple[str, ...],
        after: Cursor,
        tell: Callable[[Batch], bool],
        waiting: Waiting[None],
    ) -> None:
        super().__init__(hub, recipients)
        self.after = after
        self.tell = tell
        self.ready = False
        self.deferred = waiting

    def wake(self) -> Woken:
        """Tell what came after the cursor; return whether there was something."""
        seen: Woken = False
        while self.ready:
            seen = super().wake() or seen
            if self._asking is not None or not self._again:
                break
            self._again = False
        return seen

    def go_on(self) -> Woken:
        """Tell what came while the reader could not take it; return whether there was something."""
        self.ready = True
        return self.wake()

    def ask(self) -> MaybeDeferred[Batch]:
        """Read after the cursor."""
        hub = self.hub
        return hub.store.read(self.keys, self.after, STREAM_MESSAGES, hub.clock.seconds())

    def see(self, found: Batch) -> bool:
        """Tell the batch, a part at a time while the client keeps up, and look again where it was not all."""
        if not found:
            self.after = found.cursor
            return False
        for part in found.parts:
            self.after = part.cursor
            self.ready = self.tell(self.counted(part))
            if not self.ready:
                break
        self._again |= part.more
        return True

    def settled(self) -> bool:
        """Whether it is known where ``now`` was."""
        return self.after != NOW

    def over(self) -> None:
        """Return what a stream is told when the server stops: nothing, its end says it."""


class Hub:
    """Push, poll, take and describe: everything that transports and embedding programs do with mailboxes.

    ``clock`` is where waits and ages are measured; ``wall`` tells people when a message was accepted.
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
    ) -> None:
        self.store = store
        self.shared = store if isinstance(store, SharedStore) else None
        """The store again, where other processes use it too; None where all readers are here."""
        self.registry = registry
        self.clock = clock
        self.counts = counts or Counts()
        self.wall = wall
        self.stopping = False
        self._receipts: dict[_Key, _Remembered] = {}
        self._ids = 0
        """The ids in all receipts that are remembered."""
        if self.shared is not None:
            self.shared.share(registry)

    # -- push

    def push(self, push: Push) -> MaybeDeferred[Receipt]:
        """Give a push to its recipients, wake whoever waits for them, and return the receipt.

        Cancelling the Deferred of a store that waits does not undo the push. Raises ``MailboxFull``,
        ``ServerFull``, ``NobodyWaits``, ``KeyReused``, ``BodyTooLarge``, ``StoreDown`` or ``Stopping``.
        """
        if self.stopping:
            raise Stopping("The server is stopping; push again in a moment.")
        if len(push.contents) * len(push.recipients) > PUSH_MESSAGES:
            raise BodyTooLarge(
                f"A push makes at most {PUSH_MESSAGES} messages: its lines, for each recipient."
            )
        if push.key is None:
            return self._push(push)
        key = (push.key, push.recipients)
        digest = fingerprint(push)
        now = self.clock.seconds()
        earlier = self._receipts.get(key)
        if earlier is not None and earlier.until > now:
            if earlier.fingerprint != digest:
                raise _reused()
            return earlier.again()
        receipt = self._push(push)
        remembered = _Remembered(digest, now + IDEMPOTENCY_SECONDS, len(push.contents))
        self._remember(key, remembered)
        if not is_pending(receipt):
            remembered.receipt = receipt
            return receipt
        mine = remembered.again()
        if self.shared is not None:
            receipt.addErrback(self._repeated, key, digest)
        receipt.addCallback(self._keep_receipt, key, remembered)
        receipt.addErrback(self._forget_key, key, remembered)
        receipt.addBoth(remembered.arrived)
        return mine

    def _remember(self, key: _Key, remembered: _Remembered) -> None:
        self._forget(key)
        self._receipts[key] = remembered
        self._ids += remembered.ids * len(key[1])
        while len(self._receipts) > IDEMPOTENCY_KEYS or self._ids > IDEMPOTENCY_IDS:
            self._forget(next(iter(self._receipts)))

    def _forget(self, key: _Key) -> None:
        remembered = self._receipts.pop(key, None)
        if remembered is not None:
            self._ids -= remembered.ids * len(key[1])
            if self.shared is None:  # else it is the others', too, and goes when its time is over
                self.store.forget(RECEIPTS, receipt_id(*key))

    def _keep_receipt(self, receipt: Receipt, key: _Key, remembered: _Remembered) -> Receipt:
        if receipt.delivered:  # else the store has kept the same with the messages
            value = partial(receipt_value, remembered.fingerprint, receipt)
            self.store.remember(RECEIPTS, receipt_id(*key), value, remembered.until)
        return receipt

    @staticmethod
    def _repeated(failure: Failure, key: _Key, digest: bytes) -> Receipt:
        """Return the receipt of a push that another process, or one before this, has taken already."""
        repeated = failure.value
        if not isinstance(repeated, Repeated):
            failure.raiseException()
        _, earlier, receipt = receipt_of(Record(receipt_id(*key), repeated.value, inf))
        if earlier != digest:
            raise _reused()
        return receipt

    def recall(self) -> None:
        """Bring back the receipts that the store, which is open now, has remembered."""
        for record in self.store.recall(RECEIPTS):
            key, digest, receipt = receipt_of(record)
            remembered = _Remembered(
                digest, record.expires_at, len(receipt.ids) // len(receipt.recipients), receipt
            )
            self._remember((key, receipt.recipients), remembered)

    def _forget_key(self, failure: Failure, key: _Key, remembered: _Remembered) -> Failure:
        if self._receipts.get(key) is remembered:
            self._forget(key)  # what was refused may be tried again
        return failure

    def _push(self, push: Push) -> MaybeDeferred[Receipt]:
        began = time.perf_counter()
        created_at = self.wall()
        appended = self.store.append(push, self.clock.seconds(), created_at)
        if appended.__class__ is not tuple and is_pending(
            appended
        ):  # the former is cheap, and mostly says it
            return shielded(appended.addCallback(self._appended, push, created_at, began))
        return self._appended(appended, push, created_at, began)

    def _appended(
        self, messages: Sequence[Message], push: Push, created_at: float, began: float
    ) -> MaybeDeferred[Receipt]:
        self.counts.pushes += len(messages)
        recipients = push.recipients
        wake = self.registry.wake
        woken = wake(recipients[0]) if len(recipients) == 1 else total(list(map(wake, recipients)))
        if self.shared is not None:
            woken = total([woken, self.shared.elsewhere(messages)])
        if woken.__class__ is not int and is_pending(woken):
            return woken.addCallback(self._woken, messages, push, created_at, began)
        return self._woken(woken, messages, push, created_at, began)

    def _woken(
        self, delivered: int, messages: Sequence[Message], push: Push, created_at: float, began: float
    ) -> MaybeDeferred[Receipt]:
        self.counts.push_to_wake.observe(time.perf_counter() - began)
        ids = (messages[0].id,) if len(messages) == 1 else tuple([message.id for message in messages])
        receipt = Receipt(ids, created_at, delivered, push.recipients)
        return receipt if push.queue else chain(self.store.retract(messages), lambda _: _unqueued(receipt))

    # -- read

    def poll(
        self,
        recipients: tuple[str, ...],
        after: Cursor,
        wait: float = WAIT_SECONDS,
        limit: int = POLL_MESSAGES,
    ) -> MaybeDeferred[Batch]:
        """Return what the recipients hold after a cursor, as soon as there is something.

        Held for up to ``wait`` seconds; then, or when the server stops, the batch is empty and its cursor
        is the place to go on from. Cancelling the Deferred forgets the reader. Raises ``ServerFull``.
        """
        return self.park(Poll(self, recipients, after, limit), wait)

    def take(
        self,
        recipients: tuple[str, ...],
        wait: float = WAIT_SECONDS,
        limit: int = POLL_MESSAGES,
        gone: Callable[[], bool] = lambda: False,
    ) -> MaybeDeferred[Batch]:
        """Return the oldest messages that no take has had, as soon as there is one; each goes to one take.

        What cannot be handed on afterwards is to be given back by ``give_back``. ``gone`` is asked before
        anything is taken: whether the client has left, though nobody was told yet.
        """
        return self.park(Take(self, recipients, limit, gone), wait)

    def follow(
        self,
        recipients: tuple[str, ...],
        after: Cursor,
        tell: Callable[[Batch], bool],
        waiting: Waiting[None],
    ) -> Follower:
        """Park a reader that is told everything after a cursor, as it comes, until it leaves.

        It begins when its ``go_on`` is called for the first time. ``waiting``, a Deferred or the like, is
        told when the server stops; ``cancel`` forgets the reader. Raises ``ServerFull`` or ``Stopping``.
        """
        if self.stopping:
            raise Stopping("The server is stopping; come back in a moment.")
        self.registry.seen(recipients)
        follower = Follower(self, recipients, after, tell, waiting)
        self.registry.hold(follower, None)
        return follower

    def give_back(self, batch: Batch) -> None:
        """Leave what a take was given where it was: its connection was gone before it was answered."""
        if batch.messages:
            recipients = {message.recipient: None for message in batch.messages}
            given = self.store.give_back(batch.messages)
            self._note_failure(chain(given, lambda _: [self.registry.wake(name) for name in recipients]))

    def park(self, reader: Reader[Batch], wait: float) -> MaybeDeferred[Batch]:
        """Return what there is for a reader, or hold it for up to ``wait`` seconds until there is something.

        Raises ``ServerFull`` where it would have to be held and as many are as may be.
        """
        deferred: Deferred[Batch] = Deferred(reader.cancel)
        reader.deferred = deferred
        found = self.hold(reader, wait)
        return deferred if found is None else found

    def hold(self, reader: Reader[Batch], wait: float) -> MaybeDeferred[Batch] | None:
        """Return what there is for a reader, or hold it; then None, and its ``deferred`` is told.

        That is set already, and need not be a Deferred; otherwise as ``park``.
        """
        found = reader.ask()
        if found.__class__ is Batch or not is_pending(found):
            if not (found.messages or found.gap):
                reader.see(found)
                if wait > 0 and not self.stopping:
                    self.registry.hold(reader, wait)
                    return None
            reader.deferred = None
            self.registry.seen(reader.keys)
            return reader.counted(found)
        # The store answers later, when the reader is parked already: see the module's opening.
        if wait > 0 and not self.stopping and not self.registry.full:
            self.registry.hold(reader, wait)
            reader.expect(found)
            return None
        reader.deferred = None
        self.registry.seen(reader.keys)
        return chain(shielded(found, reader.unseen), partial(self._unparked, reader, wait))

    def _unparked(self, reader: Reader[Batch], wait: float, found: Batch) -> Batch:
        if not found and wait > 0 and not self.stopping:
            raise self.registry.refusal()
        return reader.counted(found)

    def counted(self, batch: Batch) -> Batch:
        """Count what a reader is given, and return it."""
        counts = self.counts
        counts.deliveries += len(batch.messages)
        if batch.gap:
            counts.gaps += 1
        return batch

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
        return Standing(recipient, waiting, contents, last_seen, online)

    def sweep(self) -> None:
        """Let go of what is too old; to be called every second."""
        self.registry.sweep()
        self._note_failure(self.store.expire(self.clock.seconds()))

    def drain(self, seconds: float) -> Deferred[None]:
        """Refuse pushes from now on, and answer parked readers, spread over up to so many seconds.

        Fires when all are answered. Until then a reader is still told what was accepted before.
        """
        self.stopping = True
        return self.registry.end_all_within(seconds)

    def stop(self) -> None:
        """Refuse pushes from now on, and answer every parked reader at once."""
        self.stopping = True
        self.registry.end_all()

    def store_failed(self, failure: Failure) -> None:
        """Note that the store failed at what nobody waits to be told of."""
        if not failure.check(StoreDown):  # that it is away, it says itself
            self.log.failure("The store failed", failure)

    def _note_failure(self, result: MaybeDeferred[object]) -> None:
        if is_pending(result):
            result.addErrback(self.store_failed)


@dataclass(slots=True)
class _Remembered:
    """The answer to a push with an idempotency key, for those who ask again; ``ids`` for each recipient."""

    fingerprint: bytes
    until: float
    ids: int
    receipt: Receipt | None = None
    _waiting: list[Deferred[Receipt]] = field(default_factory=list)

    def again(self) -> MaybeDeferred[Receipt]:
        """Return the first answer, or a Deferred of one's own where it is still on its way."""
        if self.receipt is not None:
            return self.receipt
        mine: Deferred[Receipt] = Deferred()
        self._waiting.append(mine)
        return mine

    def arrived(self, receipt: Receipt | Failure) -> None:
        """Answer all who wait with the receipt, or with what the push failed with."""
        if isinstance(receipt, Receipt):
            self.receipt = receipt
        waiting, self._waiting = self._waiting, []
        for mine in waiting:
            if not mine.called:  # else its client has left
                mine.callback(receipt)  # a Failure makes it an errback


def _tell(asking: list[Deferred[int]], seen: int) -> None:
    for told in asking:
        told.callback(seen)


def _reused() -> KeyReused:
    return KeyReused("This Idempotency-Key came with another body; a new push needs a new key.")


def _unqueued(receipt: Receipt) -> Receipt:
    if not receipt.delivered:
        raise NobodyWaits("Nobody waits at this moment, and queue=no keeps the message for nobody.")
    return receipt
