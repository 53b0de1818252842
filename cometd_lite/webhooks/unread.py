"""Messages that no reader has fetched: the absence of each reader is reported once.

The first message for a recipient begins a wait of ``unread_after`` seconds. Then the hub is asked how the
recipient stands: where messages are queued and no reader was there since, its absence is reported. It is
reported again only after a reader has come. Nothing is looked up but the recipients whose time has come, a
few in one turn.

After a restart on a durable store, its mailboxes are looked through for messages that wait, in slices. In a
cluster each process waits for the recipients that it was pushed to; what is left of a process that has ended
is taken over, and one process reports each absence (``SharedAbsences``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from math import inf
from sys import getsizeof
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..core.hub import Hub, Standing
from ..core.message import Message
from ..core.parked import ParkedReader
from ..core.recipient import is_hidden, is_pattern
from ..core.store import Contents, SharedStore, Store
from ..deferreds import MaybeDeferred, chain, is_pending
from ..errors import CometError, StoreDown
from ..jsontext import dumps
from ..limits import (
    EVENT_SECONDS,
    UNREAD_AGAIN_SECONDS,
    UNREAD_AT_ONCE,
    UNREAD_BYTES,
    UNREAD_GHOST_SECONDS,
    UNREAD_HERE_SECONDS,
    UNREAD_OVERHEAD,
    UNREAD_REPORTED_SECONDS,
)
from .outbox import WebhookCounts

ABSENCES = "absent"
"""The kind of the records of recipients whose absence was reported."""

WAITS = "unread"
"""The kind of the records of recipients whose readers a process of a cluster waits for."""


class Unread:
    """What waits for one recipient: the first and the last message since its reader was there."""

    __slots__ = ("first", "is_adopted", "last", "last_at", "since")

    def __init__(self, message: str, at: float, *, is_adopted: bool = False) -> None:
        self.is_adopted = is_adopted
        """Whether it was left by a process that has ended, perhaps while it reported this."""
        self.first = self.last = message
        self.since = self.last_at = at
        """When they came, in seconds since 1970."""


class Absences(Protocol):
    """Knows whose absence was reported."""

    def recall(self) -> None:
        """Bring back what the store, which is open now, has remembered."""

    def is_reported(self, recipient: str) -> bool:
        """Return whether it is known here that the absence was reported."""

    def claim(self, recipient: str) -> MaybeDeferred[bool]:
        """Note that an absence is reported; return whether that was not noted before.

        Fails with ``StoreDown``.
        """

    def ended(self, keys: tuple[str, ...]) -> None:
        """Note that a reader of recipients and patterns is there."""

    def begun(self, recipient: str, unread: Unread, due: float) -> None:
        """Note that a recipient is waited for until ``due``, on the clock."""

    def settled(self, recipient: str) -> None:
        """Note that it is waited for no longer."""


class LocalAbsences:
    """The absences that one process reports. A durable store remembers those that were reported.

    What waits is found in the mailboxes after a restart, so it need not be remembered.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reported: dict[str, None] = {}
        self._bytes = 0

    def recall(self) -> None:
        """See ``Absences.recall``."""
        for record in self._store.recall(ABSENCES):
            self._add(record.id)

    def is_reported(self, recipient: str) -> bool:
        """See ``Absences.is_reported``."""
        return recipient in self._reported

    def claim(self, recipient: str) -> bool:
        """See ``Absences.claim``. Of too many, the oldest is forgotten."""
        if recipient in self._reported:
            return False
        self._add(recipient)
        self._store.remember(ABSENCES, recipient, bytes, inf)
        while self._bytes > UNREAD_BYTES:
            self._forget(next(iter(self._reported)))
        return True

    def ended(self, keys: tuple[str, ...]) -> None:
        """See ``Absences.ended``."""
        if self._reported:
            for key in keys:
                if key in self._reported:
                    self._forget(key)

    def begun(self, recipient: str, unread: Unread, due: float) -> None:
        """See ``Absences.begun``."""

    def settled(self, recipient: str) -> None:
        """See ``Absences.settled``."""

    def _add(self, recipient: str) -> None:
        self._reported[recipient] = None
        self._bytes += _size(recipient)

    def _forget(self, recipient: str) -> None:
        del self._reported[recipient]
        self._bytes -= _size(recipient)
        self._store.forget(ABSENCES, recipient)


class SharedAbsences:
    """The absences that the processes at one store report together: the first that claims one reports it."""

    def __init__(self, store: SharedStore, clock: IReactorTime, after: Callable[[str], float | None]) -> None:
        self._store = store
        self._clock = clock
        self._after = after
        self._here: dict[str, float] = {}
        """When readers were last here, by their keys, longest ago first: their absences have ended."""
        self._bytes = 0

    def recall(self) -> None:
        """See ``Absences.recall``: what was reported is looked up; notices of others come from now on."""
        self._store.on_notice(ABSENCES, self._noted)

    def is_reported(self, recipient: str) -> bool:  # noqa: ARG002  as in one process
        """See ``Absences.is_reported``: only the store knows."""
        return False

    def claim(self, recipient: str) -> MaybeDeferred[bool]:
        """See ``Absences.claim``."""
        return self._store.claims.note(ABSENCES, recipient, UNREAD_REPORTED_SECONDS).addCallback(
            self._claimed, recipient
        )

    def _claimed(self, is_new: bool, recipient: str) -> bool:
        if is_new:
            self._noted(recipient)
            self._store.notify(ABSENCES, recipient)
        return is_new

    def _noted(self, recipient: str) -> None:
        """Note that the next reader that comes, at whichever process, ends an absence."""
        if self._here.pop(recipient, None) is not None:
            self._bytes -= _size(recipient)

    def ended(self, keys: tuple[str, ...]) -> None:
        """See ``Absences.ended``. The store is asked once while a reader comes again and again."""
        now = self._clock.seconds()
        for key in keys:
            if is_hidden(key) or is_pattern(key) or self._after(key) is None:
                continue
            before = self._here.pop(key, None)
            self._here[key] = now
            if before is None:
                self._bytes += _size(key)
            if before is None or now - before > UNREAD_HERE_SECONDS:
                self._store.forget(ABSENCES, key)
        while self._bytes > UNREAD_BYTES:
            oldest = next(iter(self._here))
            del self._here[oldest]
            self._bytes -= _size(oldest)

    def begun(self, recipient: str, unread: Unread, due: float) -> None:
        """See ``Absences.begun``: another process takes over what this one leaves."""
        self._store.remember(
            WAITS, recipient, lambda: dumps([unread.first, unread.since]), due + EVENT_SECONDS
        )

    def settled(self, recipient: str) -> None:
        """See ``Absences.settled``."""
        self._store.forget(WAITS, recipient)


class UnreadWatch:
    """Waits for the recipients of pushes, and reports whose reader is away.

    ``after`` returns the seconds that a message waits for a reader, None where that is not reported.
    ``on_unread`` is called with a recipient and the id of its message. At its bound the table takes no new
    recipients, which are counted.
    """

    log = Logger()

    def __init__(
        self,
        hub: Hub,
        after: Callable[[str], float | None],
        absences: Absences,
        on_unread: Callable[[str, str], object],
        counts: WebhookCounts,
    ) -> None:
        self._hub = hub
        self._counts = counts
        self._after = after
        self._absences = absences
        self._on_unread = on_unread
        self._waiting: dict[str, Unread] = {}
        self.bytes = 0
        self._due: list[tuple[float, int, str]] = []
        """A heap: when each recipient is looked at, on the clock, and a number that keeps them in order."""
        self._looks = 0
        self._timer: IDelayedCall | None = None
        self._going_on: IDelayedCall | None = None
        """What looks through further mailboxes after a restart."""
        self._asked = 0
        """Recipients about which a store that waits has not answered."""
        self._is_stopped = False

    # -- what the hub reports

    def pushed(self, message: Message) -> None:
        """Wait for the reader of a message."""
        recipient = message.recipient
        unread = self._waiting.get(recipient)
        if unread is not None:
            unread.last, unread.last_at = message.id, message.created_at
        elif not (is_hidden(recipient) or self._absences.is_reported(recipient)):
            self._begin(recipient, Unread(message.id, message.created_at))

    def arrived(self, reader: ParkedReader[Any]) -> None:
        """Note that a reader is there."""
        self._absences.ended(reader.keys)

    def adopt(self, recipient: str, message: str, since: float) -> None:
        """Look now at a recipient that a process has left."""
        if recipient not in self._waiting and self._has_room(recipient):
            unread = Unread(message, since, is_adopted=True)
            self._enter(recipient, unread, self._hub.clock.seconds())

    # -- after a restart

    def begin(self) -> None:
        """Begin, once the store is open.

        Where no other process has waited meanwhile, wait for the readers of all mailboxes that hold messages,
        which are looked through in slices.
        """
        self._absences.recall()
        if self._hub.shared is None:
            self._look_through("")

    def _look_through(self, after: str) -> None:
        self._going_on = None
        names = self._hub.store.names("", after, UNREAD_AT_ONCE, lambda name: not is_hidden(name))
        self._watched(chain(names, self._found))

    def _found(self, names: Sequence[str]) -> None:
        if self._is_stopped:
            return
        now = self._hub.clock.seconds()
        for name in names:
            if name not in self._waiting and not self._absences.is_reported(name):
                self._watched(chain(self._hub.store.describe(name, now), self._wait_for, name))
        if len(names) == UNREAD_AT_ONCE:
            self._going_on = self._hub.clock.callLater(0, self._look_through, names[-1])

    def _wait_for(self, contents: Contents, recipient: str) -> None:
        if contents.queued and recipient not in self._waiting:
            self._begin(recipient, Unread(str(contents.newest), self._hub.wall()))

    def stop(self) -> None:
        """Wait for nothing more."""
        self._is_stopped = True
        for timer in (self._timer, self._going_on):
            if timer is not None:
                timer.cancel()
        self._timer = self._going_on = None

    # -- waiting

    def _begin(self, recipient: str, unread: Unread) -> None:
        after = self._after(recipient)
        if after is not None and self._has_room(recipient):
            due = self._hub.clock.seconds() + after
            self._enter(recipient, unread, due)
            self._absences.begun(recipient, unread, due)

    def _has_room(self, recipient: str) -> bool:
        if self.bytes + _size(recipient) <= UNREAD_BYTES:
            return True
        self._counts.untracked += 1
        return False

    def _enter(self, recipient: str, unread: Unread, due: float) -> None:
        self._waiting[recipient] = unread
        self.bytes += _size(recipient)
        self._look_at(recipient, due)

    def _look_at(self, recipient: str, due: float) -> None:
        self._looks += 1
        heappush(self._due, (due, self._looks, recipient))
        if self._due[0][1] == self._looks:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due and not self._is_stopped and self._asked < UNREAD_AT_ONCE:
            clock = self._hub.clock
            self._timer = clock.callLater(max(0.0, self._due[0][0] - clock.seconds()), self._look)

    def _look(self) -> None:
        """Ask how recipients stand whose time has come, ``UNREAD_AT_ONCE`` in one turn."""
        self._timer = None
        now = self._hub.clock.seconds()
        left = UNREAD_AT_ONCE - self._asked
        while self._due and self._due[0][0] <= now and left > 0:
            _, _, recipient = heappop(self._due)
            left -= 1
            try:
                standing = self._hub.describe(recipient)
            except CometError:
                self._look_at(recipient, now + UNREAD_AGAIN_SECONDS)
                continue
            if is_pending(standing):
                self._asked += 1
                standing.addCallback(self._judge, recipient).addErrback(self._not_known, recipient)
                standing.addBoth(self._answered)
            else:
                self._watched(self._judge(standing, recipient))
        self._set_timer()

    def _answered(self, _: object) -> None:
        self._asked -= 1
        self._set_timer()

    def _not_known(self, failure: Failure, recipient: str) -> None:
        self._failed(failure)
        if recipient in self._waiting and not self._is_stopped:
            self._look_at(recipient, self._hub.clock.seconds() + UNREAD_AGAIN_SECONDS)

    def _judge(self, standing: Standing, recipient: str) -> MaybeDeferred[None]:
        """Report the absence of a reader, wait for it longer, or wait no more."""
        unread = self._waiting[recipient]
        seen = -inf if standing.last_seen is None else standing.last_seen
        # A console that watches everything is no reader who might fetch it.
        if standing.queued and standing.waiting <= self._hub.registry.watching(recipient):
            # A reader that left in the moment of the push may have been answered without noticing.
            if seen <= unread.since + UNREAD_GHOST_SECONDS:
                return chain(self._absences.claim(recipient), self._report, recipient, unread.first)
            after = self._after(recipient)
            if unread.last_at > seen and after is not None:
                unread.first, unread.since = unread.last, unread.last_at
                late = self._hub.wall() - unread.last_at
                due = self._hub.clock.seconds() + max(0.0, after - late)
                self._look_at(recipient, due)
                self._absences.begun(recipient, unread, due)
                return None
        self._settle(recipient)
        return None

    def _report(self, is_new: bool, recipient: str, message: str) -> None:
        if is_new or self._waiting[recipient].is_adopted:
            self._on_unread(recipient, message)
        self._settle(recipient)

    def _settle(self, recipient: str) -> None:
        del self._waiting[recipient]
        self.bytes -= _size(recipient)
        self._absences.settled(recipient)

    def _watched(self, result: MaybeDeferred[None]) -> None:
        if is_pending(result):
            result.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(StoreDown):
            self.log.failure("It is not known whether messages were read", failure)


def _size(recipient: str) -> int:
    return UNREAD_OVERHEAD + getsizeof(recipient)
