"""Readers: poll, take, lease and follower, each a Deferred that is parked until there is something for it.

A reader reads after its own cursor when it is woken. So a reader that disconnects loses nothing, and no
reader is given a message twice.

A store may wait for a disk or a network. A reader reads such a store once at a time, and once more where it
was woken meanwhile: of two reads that overtake each other, the older one would take it past what the newer
one brings. Read ``hub.py`` next.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from ..deferreds import MaybeDeferred, is_pending
from ..limits import STREAM_MESSAGES
from .message import OLDEST, Batch, Cursor
from .parked import ParkedReader, Wake
from .store import SharedStore, Store

T = TypeVar("T")


def as_read(found: Batch) -> Batch:
    """Return a batch as it is: what a poll is answered with where nothing else is made of it."""
    return found


class Source(Protocol):
    """What a reader needs of the hub."""

    clock: IReactorTime
    store: Store
    shared: SharedStore | None
    """The store again, where other processes use it too."""

    def has_hints(self) -> bool:
        """Return whether a reader may lack what the store holds: see ``SharedStore.recent``."""

    def take_now(self, recipients: tuple[str, ...], limit: int) -> MaybeDeferred[Batch]:
        """Return the oldest messages that no take has had, and count them as taken."""

    def lease_now(self, recipients: tuple[str, ...], limit: int, seconds: float) -> MaybeDeferred[Batch]:
        """Return the oldest messages that no take has had, each reserved for so many seconds."""

    def give_back(self, batch: Batch) -> None:
        """Leave what a take or lease was given where it was."""

    def counted(self, batch: Batch) -> Batch:
        """Count what a reader is given, and return it."""

    def store_failed(self, failure: Failure) -> None:
        """Log a failure of the store that no client gets as an answer."""


class Reader(ParkedReader[T]):
    """A parked reader that reads a store through ``source``."""

    _pending: Deferred[Batch] | None = None
    """The read that is pending, where it is this reader's alone."""
    _woken: list[Wake] | None = None
    """The wakes that came while a read was pending."""
    _is_over = False
    """Whether the wait ended while a read was pending."""

    def __init__(self, source: Source, keys: tuple[str, ...]) -> None:
        ParkedReader.__init__(self, keys)
        self.source = source
        self.is_reading = False  # of the instance, where CPython finds it faster
        """Whether a read is pending."""

    # -- what subclasses say

    def read(self) -> MaybeDeferred[Batch]:
        """Read what comes next."""
        raise NotImplementedError

    def read_stored(self) -> MaybeDeferred[Batch]:
        """Read what comes next, and lack nothing that the store holds."""
        return self.read()

    def question(self) -> Hashable:
        """Return what readers with the same answer have in common: the reader itself where it shares none."""
        return self

    def deliver(self, found: Batch) -> None:
        """Answer with what was read, if there is something; else remember its cursor."""
        raise NotImplementedError

    def present(self, found: Batch) -> T:
        """Return what the reader is answered with where this was read."""
        raise NotImplementedError

    def over(self) -> T:
        """Return what the reader is answered with when its wait ends with nothing."""
        raise NotImplementedError

    def has_place(self) -> bool:
        """Return whether the reader has a place from which nothing is missed while the store is away."""
        return True

    def is_gone(self) -> bool:
        """Return whether there is no client any more to deliver to."""
        return self.registry is None

    def undeliverable(self, found: Batch) -> None:
        """Do what must be done with what was read for a client that has disconnected."""

    # -- looking

    def look(self, wake: Wake) -> None:
        """Read what there is now, and deliver it."""
        if self.is_reading:
            wake.pending += 1
            self._woken = [*(self._woken or ()), wake]
            return
        try:
            shared = wake.shared
            if shared is None:
                found = self.read()
            elif (known := shared.get(question := self.question())) is not None:
                found = known  # another reader of the same wake has asked the same
            else:
                found = shared[question] = self.read()
            if isinstance(found, Batch):
                self.deliver(found)
            else:
                wake.pending += 1
                self.expect(found, wake)
        except Exception:  # noqa: BLE001  the failure of one reader must not keep the others from looking
            self._failed(Failure())

    def expect(self, found: Deferred[Batch], wake: Wake | None = None) -> None:
        """Deliver what is being read, once it is there."""
        self.is_reading = True
        self._pending = found if wake is None or wake.shared is None else None
        found.addCallbacks(self._arrived, self._missed, (wake,), errbackArgs=(wake,))

    def abandon(self) -> None:
        """Cancel a read that is pending. What a take reads must arrive, and is given back then."""
        if self._pending is not None and not self.takes:
            self._pending.cancel()

    def end(self) -> None:
        """Answer with nothing, after a read that is pending."""
        if self.is_reading:
            self._is_over = True
        else:
            self.answer(self.over())

    def _end_after(self, found: MaybeDeferred[Batch]) -> None:
        """Deliver what is being read, or answer with nothing."""
        self._is_over = True
        if is_pending(found):
            self.expect(found)
        else:
            self.deliver(found)
            self._go_on(None)

    def _arrived(self, found: Batch, wake: Wake | None) -> Batch:
        self.is_reading = False
        self._pending = None
        try:
            if self.is_gone():
                self.undeliverable(found)
            else:
                self.deliver(found)
        except Exception:  # noqa: BLE001  as in ``look``
            self._failed(Failure())
        self._go_on(wake)
        return found

    def _missed(self, failure: Failure, wake: Wake | None) -> Failure | None:
        self.is_reading = False
        self._pending = None
        if not failure.check(CancelledError):
            self._failed(failure)
        self._go_on(wake)
        return None if wake is None or wake.shared is None else failure

    def _failed(self, failure: Failure) -> None:
        if self.registry is not None and not self.has_place():
            self.refuse(failure)
        else:
            # It stays parked at its place: the store wakes it when it is back.
            self.source.store_failed(failure)

    def _go_on(self, wake: Wake | None) -> None:
        """Look again where a wake came meanwhile; end where the wait is over."""
        woken, self._woken = self._woken, None
        if woken is not None:
            again = Wake([self])
            again.run(1)
            for late in woken:
                again.when_ended(late.arrived)
        if self._is_over and not self.is_reading and self.registry is not None:
            self.answer(self.over())
        if wake is not None:
            wake.arrived()


class CursorReader(Reader[T]):
    """A parked reader by cursor: it reads up to ``limit`` messages ``after`` it, and takes nothing away."""

    after: Cursor
    limit: int

    def read(self) -> MaybeDeferred[Batch]:
        """Read what this process knows of, where that is enough, else what the store holds."""
        source = self.source
        now = source.clock.seconds()
        if source.shared is not None:
            recent = source.shared.recent(self.keys, self.after, self.limit, now, self.acks)
            if recent is not None:
                return recent
        return source.store.read(self.keys, self.after, self.limit, now, self.acks)

    def read_stored(self) -> MaybeDeferred[Batch]:
        source = self.source
        return source.store.read(self.keys, self.after, self.limit, source.clock.seconds(), self.acks)

    def question(self) -> Hashable:
        return (self.keys, self.after, self.limit, self.acks)

    def has_place(self) -> bool:
        """Return whether the cursor names the same place at every read: ``now`` and ``last`` do not."""
        return not self.after.is_relative


class Poll(CursorReader[T]):
    """A parked poll: it waits for what comes after its cursor, and takes nothing away.

    ``present`` makes of a batch what the poll is answered with. It is no callback of the poll, which is a
    Deferred: each callback takes 0.8 µs of the 12 that a delivery takes in a fan-out.
    """

    def __init__(
        self,
        source: Source,
        keys: tuple[str, ...],
        after: Cursor,
        limit: int,
        acks: bool,
        present: Callable[[Batch], T],
    ) -> None:
        ParkedReader.__init__(self, keys)
        self.source = source
        self.is_reading = False
        self.after = after
        self.limit = limit
        self.acks = acks
        self.present = present  # type: ignore[method-assign,assignment]  # a method would be one more call

    def end(self) -> None:
        """Answer with nothing, unless the store holds what the reads before have lacked."""
        if self.is_reading or not self.source.has_hints():
            Reader.end(self)
        else:
            self._end_after(self.read_stored())

    def deliver(self, found: Batch) -> None:
        if found.messages or found.gap:
            self.answer(self.present(self.source.counted(found)))
        else:
            self.after = found.cursor

    def over(self) -> T:
        return self.present(Batch((), self.after))


class Take(Reader[Batch]):
    """A parked take: it waits for what no take has had.

    ``is_disconnected`` returns whether its client has closed, even if the reactor has not reported it.
    """

    def __init__(
        self, source: Source, keys: tuple[str, ...], limit: int, is_disconnected: Callable[[], bool]
    ) -> None:
        Reader.__init__(self, source, keys)
        self.takes = limit
        self.is_disconnected = is_disconnected
        self.place = OLDEST

    def can_receive(self) -> bool:
        """Return whether the client is there: it counts as woken only then."""
        return not self.is_disconnected()

    def read(self) -> MaybeDeferred[Batch]:
        """Take what no take has had, unless the client has disconnected: others wait behind it."""
        return Batch((), self.place) if self.is_disconnected() else self.receive()

    def receive(self) -> MaybeDeferred[Batch]:
        return self.source.take_now(self.keys, self.takes)

    def deliver(self, found: Batch) -> None:
        self.place = found.cursor
        if found:
            self.answer(self.source.counted(found))

    def present(self, found: Batch) -> Batch:
        return found

    def is_gone(self) -> bool:
        """Return whether the connection is lost, even if the reactor has not reported it."""
        return self.registry is None or self.is_disconnected()

    def undeliverable(self, found: Batch) -> None:
        self.source.give_back(found)

    def over(self) -> Batch:
        return Batch((), self.place)


class Lease(Take):
    """A parked lease: a take whose messages come again unless they are acknowledged within ``seconds``."""

    def __init__(
        self,
        source: Source,
        keys: tuple[str, ...],
        limit: int,
        seconds: float,
        is_disconnected: Callable[[], bool],
    ) -> None:
        Take.__init__(self, source, keys, limit, is_disconnected)
        self.seconds = seconds

    def receive(self) -> MaybeDeferred[Batch]:
        return self.source.lease_now(self.keys, self.takes, self.seconds)


class Follower(CursorReader[None]):
    """A stream or socket: parked until it disconnects, it is given every batch that comes after its cursor.

    ``send`` is given each batch, and returns whether it takes another one at once; where it does not,
    ``go_on`` is to be called when it does. ``on_place`` is called once, with the cursor at which the follower
    stands where its first read finds nothing. The follower fires when the server stops.
    """

    is_ready = False

    def __init__(
        self,
        source: Source,
        keys: tuple[str, ...],
        after: Cursor,
        send: Callable[[Batch], bool],
        on_place: Callable[[Cursor], object] | None = None,
        acks: bool = True,
    ) -> None:
        Reader.__init__(self, source, keys)
        self.limit = STREAM_MESSAGES
        """No more than the client has taken in one step."""
        self._owes = False
        """Whether messages were sent since it last came back only to acknowledge."""
        self.after = after
        self.acks = acks
        self.send = send
        self.on_place = on_place

    def go_on(self) -> None:
        """Send what came while the client could not take it."""
        self.is_ready = True
        if self.registry is not None:
            self._look_now()

    def come_back(self) -> bool:
        """Acknowledge what was sent, as a poll does that comes back; return whether there was something."""
        if not (self._owes and self.acks and self.is_ready):
            return False
        self._owes = False
        self.go_on()
        return True

    def can_receive(self) -> bool:
        """Return whether the client takes what comes."""
        return self.is_ready

    def look(self, wake: Wake) -> None:
        """Send what came after the cursor, if the client takes it."""
        if self.is_ready:
            Reader.look(self, wake)

    def deliver(self, found: Batch) -> None:
        """Send the batch, a part at a time while the client keeps up; look again where it was not all."""
        on_place, self.on_place = self.on_place, None
        if not found.messages and not found.gap:
            self.after = found.cursor
            if on_place is not None:
                on_place(found.cursor)
            return
        parts = found.parts
        for part in parts:
            self.after = part.cursor
            self.is_ready = self.send(self.source.counted(part))
            self._owes = True
            if not self.is_ready or self.registry is None:
                if part is not parts[-1]:
                    self.limit = len(part.messages)  # the rest was read for nothing
                return
        if self.limit < STREAM_MESSAGES:
            self.limit = min(STREAM_MESSAGES, 2 * self.limit)
        if found.more and self.registry is not None:
            self.registry.look_soon(self)

    def over(self) -> None:
        """Return nothing: the end of a stream says that the server stops."""

    def _look_now(self) -> None:
        Wake([self]).run(1)
