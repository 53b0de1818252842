"""Registered listeners: readers whose recipients and place are remembered between their polls.

A registration arrives and an id leaves, which is a secret and a recipient of its own. A poll with it goes
on from where the listener stood; what an answer carried counts as read once the next poll comes.
"""

from __future__ import annotations

from collections.abc import Callable

from .errors import ListenerGone
from .hub import Hub, Poll, then
from .limits import LISTENER_SECONDS
from .message import NOW, Batch, Cursor
from .sessions import Session, Sessions, new_id
from .stores import Maybe

ALL_LISTENERS = "$listeners"
"""The mailbox that every listener reads besides its own: ``POST /push?to=listeners``."""


class Listener(Session):
    """A registered reader. ``answered`` is the cursor of its last answer, None once that was confirmed."""

    __slots__ = ("answered", "parked")

    def __init__(self, id: str, recipients: tuple[str, ...], place: Cursor, ttl: float) -> None:  # noqa: A002
        super().__init__(id, recipients, place, ttl)
        self.answered: Cursor | None = None
        self.parked: Poll | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Everything that the listener reads: what it named, its own mailbox, and that of all listeners."""
        return (*self.recipients, self.id, ALL_LISTENERS)


class Listeners:
    """The listeners of one hub; at most ``most`` of them."""

    def __init__(self, hub: Hub, most: int) -> None:
        self._hub = hub
        self._sessions: Sessions[Listener] = Sessions(most)

    def __len__(self) -> int:
        return len(self._sessions)

    def register(self, recipients: tuple[str, ...], ttl: float = LISTENER_SECONDS) -> Maybe[Listener]:
        """Register a listener of the recipients, from now on, that lives ``ttl`` seconds between polls.

        Raises ``ServerFull``.
        """
        now = self._hub.clock.seconds()

        def add(head: Batch) -> Listener:
            listener = Listener("~" + new_id(), recipients, head.cursor, ttl)
            self._sessions.add(listener, now)
            return listener

        return then(self._hub.store.read(recipients, NOW, 1, now), add)

    def get(self, id: str) -> Listener:  # noqa: A002
        """Return the listener with this id. Raises ``ListenerGone``."""
        listener = self._sessions.get(id, self._hub.clock.seconds())
        if listener is None:
            raise ListenerGone("There is no such listener (any more); register again by POST /register.")
        return listener

    def poll(
        self,
        listener: Listener,
        after: Cursor | None,
        wait: float,
        limit: int,
        written: Callable[[], bool] = lambda: True,
    ) -> Maybe[Batch]:
        """Return what there is for the listener from where it stood, or after an earlier cursor.

        Of two polls at once the newer wins; the older ends with no messages. ``written`` tells whether the
        answer can be written; where it cannot, the same is sent again. Raises ``ServerFull``.
        """
        self._end_poll(listener)
        listener.place = after or listener.answered or listener.place
        listener.answered = None
        poll = Poll(self._hub, listener.keys, listener.place, limit)
        self._sessions.hold(listener)
        listener.parked = poll

        def left(batch: Batch) -> Batch:
            release()
            if written():
                listener.answered = batch.cursor
            return batch

        def release() -> None:
            self._sessions.release(listener, self._hub.clock.seconds())
            if listener.parked is poll:
                listener.parked = None

        def failed(failure: object) -> object:
            release()
            return failure

        try:
            if wait > 0 and not self._hub.stopping:
                found = self._hub.park(poll, wait)
            else:
                found = self._hub.poll(listener.keys, listener.place, 0.0, limit)
        except BaseException:
            release()
            raise
        if isinstance(found, Batch):
            return left(found)
        return found.addCallbacks(left, failed)  # type: ignore[arg-type]  # a failure stays one

    def change(self, listener: Listener, recipients: tuple[str, ...]) -> None:
        """Set what the listener reads; a parked poll ends, and the next one reads the new recipients."""
        listener.recipients = recipients
        self._end_poll(listener)

    def end(self, listener: Listener) -> None:
        """Forget the listener; its parked poll is told that it is gone."""
        self._sessions.remove(listener)
        if listener.parked is not None:
            listener.parked.refuse(ListenerGone("The listener was ended."))
        self._hub.delete(listener.id)

    def sweep(self) -> None:
        """Forget the listeners that were not polled for their time."""
        for listener in self._sessions.expire(self._hub.clock.seconds()):
            self._hub.delete(listener.id)

    @staticmethod
    def _end_poll(listener: Listener) -> None:
        if listener.parked is not None:
            listener.parked.answer(listener.parked.over())
