"""Registered listeners: readers whose recipients and place are remembered between their polls.

A registration arrives and an id leaves, which is a secret and a recipient of its own. A poll with it goes
on from where the listener stood; what an answer carried counts as read once the next poll comes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..deferreds import MaybeDeferred, chain, is_pending, shielded
from ..errors import ListenerGone
from ..jsontext import dumps, parse
from ..limits import LISTENER_SECONDS
from .hub import Hub
from .message import NOW, Batch, Cursor
from .readers import Poll, as_read
from .recipient import ALL_LISTENERS
from .sessions import Quota, Session, Sessions, new_id
from .store import Record

LISTENERS = "listener"
"""The kind of their records in a store."""


@dataclass(slots=True, eq=False)
class ListenerSession(Session):
    """A registered reader. ``answered`` is the cursor of its last answer, None once that was confirmed."""

    answered: Cursor | None = None
    parked: Poll[Batch] | None = None

    @classmethod
    def recalled(cls, record: Record) -> ListenerSession:
        """Return the listener that a store has remembered."""
        known = parse(record.value)
        place, answered = [known[one] and Cursor.parse(known[one]) for one in ("place", "answered")]
        return cls(record.id, tuple(known["recipients"]), place, known["ttl"], answered=answered)

    def record(self) -> bytes:
        """Return what a store is to remember of the listener."""
        return dumps(
            {
                "recipients": self.recipients,
                "place": str(self.place),
                "answered": None if self.answered is None else str(self.answered),
                "ttl": self.ttl,
            }
        )

    def keys(self, broadcasts: bool = True) -> tuple[str, ...]:
        """Return what the listener reads: what it named, its own mailbox, and that of all listeners.

        ``broadcasts`` is false where its token does not cover the last one.
        """
        common = (ALL_LISTENERS,) if broadcasts else ()
        return tuple(dict.fromkeys((*self.recipients, self.id, *common)))


class Listeners:
    """The listeners of one hub; at most ``most`` of them."""

    def __init__(self, hub: Hub, most: int) -> None:
        self._hub = hub
        self._sessions: Sessions[ListenerSession] = Sessions(most)
        self._ending: set[str] = set()
        """The ids of those whose end the store has still to keep."""
        if hub.shared is not None:
            hub.shared.on_notice(LISTENERS, self._on_notice)

    def __len__(self) -> int:
        return len(self._sessions)

    def are_none(self) -> MaybeDeferred[bool]:
        """Return whether no listener is registered, at any process. Fails with ``StoreDown``."""
        shared = self._hub.shared
        if shared is None:
            return not self._sessions
        return chain(shared.has_records(LISTENERS), operator.not_)

    def register(
        self, recipients: tuple[str, ...], ttl: float = LISTENER_SECONDS, share: Quota | None = None
    ) -> MaybeDeferred[ListenerSession]:
        """Register a listener of the recipients, from now on, that lives ``ttl`` seconds between polls.

        It counts against ``share``, where one is given. Raises ``ServerFull`` or ``TooManyRequests``. Fails
        with ``StoreDown``; then there is no listener.
        """
        now = self._hub.clock.seconds()

        def add(head: Batch) -> MaybeDeferred[ListenerSession]:
            listener = ListenerSession("~" + new_id(), recipients, head.cursor, ttl)
            listener.share = share
            self._sessions.add(listener, now)
            store = self._hub.store
            store.remember(LISTENERS, listener.id, listener.record, self._expires_at(listener))

            def undo() -> None:
                self._sessions.remove(listener)
                store.forget(LISTENERS, listener.id)

            return chain(self._kept(undo), lambda _: listener)

        return chain(self._hub.store.read(recipients, NOW, 1, now), add)

    def get(self, id: str) -> MaybeDeferred[ListenerSession]:  # noqa: A002
        """Return the listener with this id. Raises ``ListenerGone``, also where it comes later."""
        shared = self._hub.shared
        if shared is not None:
            return chain(shared.look_up(LISTENERS, id), partial(self._looked_up, id))
        listener = self._sessions.get(id, self._hub.clock.seconds())
        if listener is None or id in self._ending:
            raise _gone()
        return listener

    def _looked_up(self, id: str, value: bytes | None) -> ListenerSession:  # noqa: A002
        """Return the listener as the store knows it, because another process may have served it since."""
        now = self._hub.clock.seconds()
        here = self._sessions.get(id, now)
        if value is None:
            if here is not None:
                self._sessions.remove(here)
            raise _gone()
        known = ListenerSession.recalled(Record(id, value, inf))
        if here is None:
            self._sessions.add(known, now)
            return known
        self._sessions.change(here, known.recipients, is_undone=True)  # the other process has checked it
        if here.parked is None:
            here.place, here.answered = known.place, known.answered
        return here

    def poll(
        self,
        listener: ListenerSession,
        after: Cursor | None,
        wait: float,
        limit: int,
        written: Callable[[], bool] = lambda: True,
        is_sending: Callable[[], bool] | None = None,
        broadcasts: bool = True,
        name: str | None = None,
    ) -> MaybeDeferred[Batch]:
        """Return what there is for the listener from where it stood, or after an earlier cursor.

        Of two polls at once the newer wins; the older ends with no messages. ``written`` returns whether the
        answer can be written; where it cannot, the same is sent again. ``is_sending`` returns whether it is
        on its way still. ``name`` is that under which the reader is present. Raises ``ServerFull``.
        """
        self._end_poll(listener)
        listener.place = self._hub.dated(after or listener.answered or listener.place)
        listener.answered = None
        self._notify(listener, wait)
        poll = Poll(self._hub, listener.keys(broadcasts), listener.place, limit, True, as_read)
        poll.name = name
        self._sessions.hold(listener)
        listener.parked = poll

        def left(batch: Batch) -> MaybeDeferred[Batch]:
            if not release():
                return batch
            return self._answered(listener, batch, is_sending, is_written=written())

        def release() -> bool:
            """Let go of the listener; return whether it was not taken away by a poll at another process."""
            self._sessions.release(listener, self._hub.clock.seconds())
            if listener.place.is_relative:
                listener.place = poll.after  # what that was, so that nothing is missed until the next poll
            mine = listener.parked is poll
            if mine:
                listener.parked = None
            return mine

        def failed(failure: object) -> object:
            release()
            return failure

        try:
            found = self._hub.park(poll, wait)
        except BaseException:
            release()
            raise
        if isinstance(found, Batch):
            return left(found)
        return found.addCallbacks(left, failed)  # type: ignore[arg-type]  # a failure stays one

    def _answered(
        self,
        listener: ListenerSession,
        batch: Batch,
        is_sending: Callable[[], bool] | None,
        *,
        is_written: bool,
    ) -> MaybeDeferred[Batch]:
        """Return the batch, once it is noted that the listener was answered with it."""
        if is_written:
            listener.answered = batch.cursor
            size = sum([len(message.content.body) for message in batch.messages])
            self._sessions.answered(listener, self._hub.clock.seconds(), size, is_sending)
        elif listener.place.is_history and batch.messages:
            first = batch.messages[0].cursor  # what is sent again begins there
            listener.place = Cursor(first.epoch, first.sequence - 1)
        self._renew(listener)
        if self._hub.shared is None:
            return batch
        # The next poll may come at another process, which must know of this answer by then.
        noted = self._hub.store.flush()
        if is_pending(noted):
            noted.addErrback(self._hub.store_failed)
        return chain(noted, lambda _: batch)

    def change(self, listener: ListenerSession, recipients: tuple[str, ...]) -> MaybeDeferred[None]:
        """Set what the listener reads; a parked poll ends, and the next one reads the new recipients.

        What is returned says when that would outlive the process. It fails with ``StoreDown``; then the
        listener reads what it has read before. Raises ``ServerFull``.
        """
        before = listener.recipients
        self._sessions.change(listener, recipients)
        self._renew(listener)
        self._notify(listener, 0.0)
        self._end_poll(listener)

        def undo() -> None:
            if listener.recipients is recipients:
                self._sessions.change(listener, before, is_undone=True)
                self._renew(listener)

        return self._kept(undo)

    def end(self, listener: ListenerSession) -> MaybeDeferred[None]:
        """Forget the listener. Its parked poll fails with ``ListenerGone``.

        What is returned fires once no process finds the listener any more, not even after a restart. It fails
        with ``StoreDown``; then the listener is there as before.
        """
        if self._hub.shared is not None:
            self._remove(listener)
            self._drop_record(listener)
            self._hub.shared.notify(LISTENERS, listener.id)
            return self._hub.store.flush()
        self._ending.add(listener.id)
        self._drop_record(listener)

        def undo() -> None:
            self._ending.discard(listener.id)
            self._renew(listener)

        return chain(self._kept(undo), lambda _: self._remove(listener))

    def _remove(self, listener: ListenerSession) -> None:
        self._ending.discard(listener.id)
        self._sessions.remove(listener)
        if listener.parked is not None:
            listener.parked.refuse(ListenerGone("The listener was ended."))

    def _kept(self, undo: Callable[[], object]) -> MaybeDeferred[None]:
        """Wait until what was asked of the store is kept; call ``undo`` where it is not."""
        kept = self._hub.store.flush()

        def failed(failure: Failure) -> Failure:
            undo()
            return failure

        return shielded(kept.addErrback(failed) if is_pending(kept) else kept)

    def sweep(self) -> None:
        """Forget the listeners that were not polled for their time."""
        now = self._hub.clock.seconds()
        for listener in self._sessions.expire(now):
            if self._hub.shared is None:  # else another process may still be polled, and the store lets it go
                self._drop_record(listener)
        if self._sessions.is_due(now):
            self._hub.clock.callLater(0, self.sweep)

    def recall(self) -> None:
        """Bring back the listeners that the store, which is open now, has remembered.

        Each lives for its ttl from now on: no client could poll while the server was away.
        """
        now = self._hub.clock.seconds()
        for record in self._hub.store.recall(LISTENERS):
            if len(self._sessions) < self._sessions.most:
                self._sessions.add(ListenerSession.recalled(record), now)
            else:
                self._hub.store.forget(LISTENERS, record.id)

    def _renew(self, listener: ListenerSession, wait: float = 0.0) -> None:
        """Let the store remember what has changed of the listener, unless it was ended meanwhile."""
        hub, id = self._hub, listener.id  # noqa: A001
        until = self._expires_at(listener, wait)
        if hub.shared is not None:
            hub.shared.renew(LISTENERS, id, listener.record, until)
        elif id not in self._ending and self._sessions.get(id, hub.clock.seconds()) is listener:
            hub.store.remember(LISTENERS, id, listener.record, until)

    def _expires_at(self, listener: ListenerSession, wait: float = 0.0) -> float:
        """Return when a shared store forgets the listener, if it is not polled after ``wait`` seconds."""
        if self._hub.shared is None:
            return inf
        until = self._hub.clock.seconds() + wait + listener.ttl
        return until if listener.used else max(until, listener.expires_at)  # a large answer takes its time

    def _drop_record(self, listener: ListenerSession) -> None:
        self._hub.store.forget(LISTENERS, listener.id)
        deleted = self._hub.delete(listener.id)
        if isinstance(deleted, Deferred):
            deleted.addErrback(self._hub.store_failed)

    def _notify(self, listener: ListenerSession, wait: float) -> None:
        """Let the other processes know that the listener is polled here from now on."""
        if self._hub.shared is not None:
            self._renew(listener, wait)
            self._hub.shared.notify(LISTENERS, listener.id)

    def _on_notice(self, id: str) -> None:  # noqa: A002
        """End a poll, because the listener polls elsewhere now, or has changed; its place is theirs."""
        listener = self._sessions.get(id, self._hub.clock.seconds())
        if listener is not None and listener.parked is not None:
            poll, listener.parked = listener.parked, None
            poll.answer(poll.over())

    @staticmethod
    def _end_poll(listener: ListenerSession) -> None:
        if listener.parked is not None:
            listener.parked.answer(listener.parked.over())


def _gone() -> ListenerGone:
    return ListenerGone("This listener is not known, or has ended; register again by POST /register.")
