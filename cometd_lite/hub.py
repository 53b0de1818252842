"""The hub: pushes arrive, readers are parked, and each is answered with what it has not had.

The mailbox is the only truth. A push appends to it and then wakes whoever waits; a woken reader reads
after its own cursor. So a reader that vanished loses nothing, and none is told anything twice.

A store may wait for its disk or its network; then readers are parked before they look, because what
is pushed between a look and a park would otherwise come only at the end of the wait.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from .errors import KeyReused, NobodyWaits, Stopping
from .limits import IDEMPOTENCY_KEYS, IDEMPOTENCY_SECONDS, POLL_MESSAGES, STREAM_MESSAGES, WAIT_SECONDS
from .message import OLDEST, Batch, Cursor, Message, Push, Receipt
from .metrics import Metrics
from .registry import Parked, Registry
from .stores import Contents, Maybe, Store

T = TypeVar("T")
R = TypeVar("R")


def then(result: Maybe[T], use: Callable[[T], R]) -> Maybe[R]:
    """Give ``result`` to ``use`` now, or once it is there; what never waits needs no Deferred."""
    if isinstance(result, Deferred):
        return result.addCallback(use)
    return use(result)


def shielded(result: Deferred[T]) -> Deferred[T]:
    """Return a Deferred that may be cancelled without cancelling the work behind it."""
    outside: Deferred[T] = Deferred()

    def finish(value: T | Failure) -> None:
        if not outside.called:
            outside.callback(value)  # a Failure makes it an errback

    result.addBoth(finish)
    return outside


@dataclass(frozen=True, slots=True)
class Standing:
    """How a recipient stands: what its mailbox holds, and who reads it."""

    recipient: str
    waiting: int
    contents: Contents
    last_seen: float | None
    """Seconds since 1970; None where nobody was here within an hour."""
    online: bool


class Poll(Parked[Batch]):
    """A parked poll: it waits for what comes after its cursor, and takes nothing away."""

    __slots__ = ("after", "hub", "limit")

    def __init__(self, hub: Hub, recipients: tuple[str, ...], after: Cursor, limit: int) -> None:
        super().__init__(recipients)
        self.hub = hub
        self.after = after
        self.limit = limit

    def look(self) -> Batch | None:
        """Read after the cursor."""
        hub = self.hub
        found = hub.store.read(self.keys, self.after, self.limit, hub.clock.seconds())
        if isinstance(found, Deferred):
            found.addCallbacks(self._looked, hub.store_failed)
            return None
        if found:
            return found
        self.after = found.cursor
        return None

    def over(self) -> Batch:
        """Return no messages, and the cursor to go on from."""
        return Batch((), self.after)

    def _looked(self, found: Batch) -> None:
        if found:
            self.answer(found)
        else:
            self.after = found.cursor


class Take(Parked[Batch]):
    """A parked take: it waits for what no take has had. ``gone`` tells whether its client has left."""

    __slots__ = ("gone", "hub", "limit", "place")

    def __init__(self, hub: Hub, recipients: tuple[str, ...], limit: int, gone: Callable[[], bool]) -> None:
        super().__init__(recipients)
        self.hub = hub
        self.limit = limit
        self.gone = gone
        self.place = OLDEST

    def look(self) -> Batch | None:
        """Take what no take has had, unless the client has left."""
        if self.gone():
            return None  # its connection is about to be reported lost, and others wait behind it
        hub = self.hub
        found = hub.store.take(self.keys, self.limit, hub.clock.seconds())
        if isinstance(found, Deferred):
            found.addCallbacks(self._looked, hub.store_failed)
            return None
        self.place = found.cursor
        return found or None

    def over(self) -> Batch:
        """Return no messages, and the cursor to go on from."""
        return Batch((), self.place)

    def _looked(self, found: Batch) -> None:
        if self.deferred is None or self.gone():
            self.hub.give_back(found)
            return
        self.place = found.cursor
        if found:
            self.answer(found)


class Follower(Parked[None]):
    """A stream or socket: parked until it leaves, it is told every batch that comes after its cursor.

    ``tell`` is given each batch and returns whether there may be another one at once; where it said no,
    ``go_on`` is to be called when there may. ``deferred`` fires when the server stops.
    """

    __slots__ = ("after", "hub", "ready", "tell")

    def __init__(
        self, hub: Hub, recipients: tuple[str, ...], after: Cursor, tell: Callable[[Batch], bool]
    ) -> None:
        super().__init__(recipients)
        self.hub = hub
        self.after = after
        self.tell = tell
        self.ready = False

    def wake(self) -> bool:
        """Tell what came after the cursor; return whether there was something."""
        return self.ready and self._go_on()

    def go_on(self) -> None:
        """Tell what came while the reader could not take it."""
        self.ready = True
        self._go_on()

    def over(self) -> None:
        """Return what a stream is told when the server stops: nothing, its end says it."""

    def _go_on(self) -> bool:
        hub = self.hub
        told = False
        while self.ready and self.deferred is not None:
            found = hub.store.read(self.keys, self.after, STREAM_MESSAGES, hub.clock.seconds())
            if isinstance(found, Deferred):
                found.addCallback(self._found).addErrback(hub.store_failed)
                return True
            self.after = found.cursor
            if not found:
                break
            told = True
            self._tell(found)
            if not found.more:
                break
        return told

    def _found(self, found: Batch) -> None:
        # Looks may overlap where the store waits: what another one told already is not told again.
        if self.deferred is None or found.cursor.sequence <= self.after.sequence:
            return
        self.after = found.cursor
        if found:
            self._tell(found)
            if found.more and self.ready:
                self._go_on()

    def _tell(self, found: Batch) -> None:
        self.hub.counted(found)
        self.ready = self.tell(found)


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
        metrics: Metrics | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.registry = registry
        self.clock = clock
        self.metrics = metrics or Metrics()
        self.wall = wall
        self.stopping = False
        self._receipts: dict[tuple[str, tuple[str, ...]], _Remembered] = {}

    # -- push

    def push(self, push: Push) -> Maybe[Receipt]:
        """Give a push to its recipients, wake whoever waits for them, and return the receipt.

        Cancelling the Deferred of a store that waits does not undo the push. Raises ``MailboxFull``,
        ``ServerFull``, ``NobodyWaits``, ``KeyReused``, ``StoreDown`` or ``Stopping``.
        """
        if self.stopping:
            raise Stopping("The server is stopping; push again in a moment.")
        if push.key is None:
            return self._push(push)
        key = (push.key, push.recipients)
        fingerprint = _fingerprint(push)
        now = self.clock.seconds()
        earlier = self._receipts.get(key)
        if earlier is not None and earlier.until > now:
            if earlier.fingerprint != fingerprint:
                raise KeyReused("This Idempotency-Key came with another body; a new push needs a new key.")
            return earlier.again()
        receipt = self._push(push)
        remembered = _Remembered(fingerprint, now + IDEMPOTENCY_SECONDS, receipt)
        self._receipts.pop(key, None)
        self._receipts[key] = remembered
        if len(self._receipts) > IDEMPOTENCY_KEYS:
            del self._receipts[next(iter(self._receipts))]
        if isinstance(receipt, Deferred):
            receipt.addErrback(self._forget_key, key)
            return remembered.again()
        return receipt

    def _forget_key(self, failure: Failure, key: tuple[str, tuple[str, ...]]) -> Failure:
        self._receipts.pop(key, None)  # what was refused may be tried again
        return failure

    def _push(self, push: Push) -> Maybe[Receipt]:
        began = time.perf_counter()
        created_at = self.wall()
        appended = self.store.append(push, self.clock.seconds(), created_at)
        if isinstance(appended, Deferred):
            return shielded(appended.addCallback(self._appended, push, created_at, began))
        return self._appended(appended, push, created_at, began)

    def _appended(self, messages: Sequence[Message], push: Push, created_at: float, began: float) -> Receipt:
        self.metrics.pushes += len(messages)
        delivered = sum([self.registry.wake(recipient) for recipient in push.recipients])
        self.metrics.observe_push(time.perf_counter() - began)
        if not push.queue:
            self.store.retract(messages)
            if not delivered:
                raise NobodyWaits("Nobody waits at this moment, and queue=no keeps the message for nobody.")
        return Receipt(tuple([message.id for message in messages]), created_at, delivered, push.recipients)

    # -- read

    def poll(
        self,
        recipients: tuple[str, ...],
        after: Cursor,
        wait: float = WAIT_SECONDS,
        limit: int = POLL_MESSAGES,
    ) -> Maybe[Batch]:
        """Return what the recipients hold after a cursor, as soon as there is something.

        Held for up to ``wait`` seconds; then, or when the server stops, the batch is empty and its cursor
        is the place to go on from. Cancelling the Deferred forgets the reader. Raises ``ServerFull``.
        """
        self.registry.seen(recipients)
        if wait <= 0 or self.stopping:
            return then(self.store.read(recipients, after, limit, self.clock.seconds()), self.counted)
        return self.park(Poll(self, recipients, after, limit), wait)

    def take(
        self,
        recipients: tuple[str, ...],
        wait: float = WAIT_SECONDS,
        limit: int = POLL_MESSAGES,
        gone: Callable[[], bool] = lambda: False,
    ) -> Maybe[Batch]:
        """Return the oldest messages that no take has had, as soon as there is one; each goes to one take.

        What cannot be handed on afterwards is to be given back by ``give_back``. ``gone`` is asked before
        anything is taken: whether the client has left, though nobody was told yet.
        """
        self.registry.seen(recipients)
        if wait <= 0 or self.stopping:
            return then(self.store.take(recipients, limit, self.clock.seconds()), self.counted)
        return self.park(Take(self, recipients, limit, gone), wait)

    def follow(self, recipients: tuple[str, ...], after: Cursor, tell: Callable[[Batch], bool]) -> Follower:
        """Park a reader that is told everything after a cursor, as it comes, until it leaves.

        It begins when its ``go_on`` is called for the first time. Cancelling its ``deferred`` forgets it;
        that fires when the server stops. Raises ``ServerFull`` or ``Stopping``.
        """
        if self.stopping:
            raise Stopping("The server is stopping; come back in a moment.")
        self.registry.seen(recipients)
        follower = Follower(self, recipients, after, tell)
        self.registry.park(follower, None)
        return follower

    def give_back(self, batch: Batch) -> None:
        """Leave what a take was given where it was: its connection was gone before it was answered."""
        if batch.messages:
            self.store.give_back(batch.messages)
            for recipient in {message.recipient: None for message in batch.messages}:
                self.registry.wake(recipient)

    def park(self, reader: Parked[Batch], wait: float) -> Maybe[Batch]:
        """Hold a reader until there is something for it, for ``wait`` seconds. Raises ``ServerFull``."""
        # Park before you look: see the module's opening.
        parked = self.registry.park(reader, wait)
        found = reader.look()
        if found is None:
            return parked.addCallback(self.counted)
        self.registry.forget(reader)
        return self.counted(found)

    def counted(self, batch: Batch) -> Batch:
        """Count what a reader is given, and return it."""
        self.metrics.deliveries += len(batch.messages)
        self.metrics.gaps += batch.gap
        return batch

    # -- manage

    def delete(self, recipient: str) -> Maybe[None]:
        """Lose what a recipient's mailbox holds; readers before it have a gap."""
        return self.store.delete(recipient, self.clock.seconds())

    def describe(self, recipient: str) -> Maybe[Standing]:
        """Say what a recipient's mailbox holds, and who reads it."""
        contents = self.store.describe(recipient, self.clock.seconds())
        return then(contents, lambda contents: self._standing(recipient, contents))

    def _standing(self, recipient: str, contents: Contents) -> Standing:
        registry = self.registry
        ago = registry.last_seen(recipient)
        last_seen = None if ago is None else self.wall() - ago
        return Standing(
            recipient, registry.waiting(recipient), contents, last_seen, registry.online(recipient)
        )

    def sweep(self) -> None:
        """Let go of what is too old; to be called every second."""
        self.store.expire(self.clock.seconds())
        self.registry.sweep()

    def stop(self) -> None:
        """Answer every parked reader, and refuse pushes from now on."""
        self.stopping = True
        self.registry.end_all()

    def store_failed(self, failure: Failure) -> None:
        """Leave a reader parked whose look failed: the store wakes it when it is back."""
        self.log.failure("A parked reader could not look", failure)


@dataclass(slots=True)
class _Remembered:
    """The answer to a push with an idempotency key, for those who ask again."""

    fingerprint: bytes
    until: float
    receipt: Maybe[Receipt]

    def again(self) -> Maybe[Receipt]:
        """Return the first answer, or a Deferred of one's own where it is still on its way."""
        if isinstance(self.receipt, Receipt):
            return self.receipt
        mine: Deferred[Receipt] = Deferred()
        self.receipt.addBoth(self._arrived, mine)
        return mine

    def _arrived(self, receipt: Receipt | Failure, mine: Deferred[Receipt]) -> Receipt | Failure | None:
        if not mine.called:
            mine.callback(receipt)  # a Failure makes it an errback
        if isinstance(receipt, Failure):
            return None if mine.called else receipt
        self.receipt = receipt
        return receipt


def _fingerprint(push: Push) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for content in push.contents:
        digest.update(b"%d %b %d " % (len(content.type), content.type.encode(), len(content.body)))
        digest.update(content.body)
    return digest.digest()
