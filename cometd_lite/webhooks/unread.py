"""Messages that no reader has fetched: the absence of each reader is reported once.

A recipient is in one of four states:

| state | where it stands | what comes next |
|---|---|---|
| quiet | nowhere | a push lets it wait, unless its absence was reported |
| waiting | ``_waiting``, and ``_due`` with a time | at that time, the hub is asked how it stands |
| asked | ``_waiting`` alone | the answer: it waits longer, is reported, or is quiet; no answer: it waits |
| reported | ``Absences`` (``absences.py``) | a reader that comes lets it be quiet |

An answer is judged by one message: the oldest one that no reader has acknowledged. Where a reader was there
after that message, it was sent the message. Then the newest message is the one, if it came after the reader
left, else there is none.

| how the recipient stands | what follows |
|---|---|
| a reader waits, or there is no such message | it is quiet |
| the message is younger than ``unread_after`` | the recipient waits for the rest of that time |
| it is older, and another process has reported the absence | it is quiet |
| it is older | the absence is reported |

Nothing is looked up but the recipients whose time has come, a few in one turn. After a restart on a durable
store, its mailboxes are looked through for messages that wait, in slices. In a cluster each process waits for
the recipients that it was pushed to; what is left of a process that has ended is taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from math import inf
from sys import getsizeof
from typing import Any

from msgspec import Struct
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..core.hub import Hub, Standing
from ..core.message import Message
from ..core.parked import ParkedReader
from ..core.recipient import is_hidden
from ..core.store import Contents, Record
from ..deferreds import MaybeDeferred, chain, is_pending
from ..errors import CometError
from ..jsontext import parse
from ..limits import UNREAD_AGAIN_SECONDS, UNREAD_AT_ONCE, UNREAD_BYTES, UNREAD_GHOST_SECONDS, UNREAD_OVERHEAD
from .absences import Absences
from .outbox import WebhookCounts

_SOON = 0.001
"""What is left of a time that is over: a timer and the date may differ by so much."""


class Unread(Struct):
    """A recipient that waits: its newest message, and when that came, in seconds since 1970."""

    message: str
    at: float
    is_unsure: bool = False
    """Whether a claim to report it may be one whose holder has not done so."""


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
        self._timer_at = inf
        self._going_on: IDelayedCall | None = None
        """What looks through further mailboxes after a restart."""
        self._asked = 0
        """Recipients that are asked about."""
        self._is_stopped = False

    # -- what the hub reports

    def pushed(self, message: Message) -> None:
        """Wait for the reader of a message."""
        recipient = message.recipient
        unread = self._waiting.get(recipient)
        if unread is not None:
            unread.message, unread.at = message.id, message.created_at
        elif not (is_hidden(recipient) or self._absences.is_reported(recipient)):
            self._begin(recipient, Unread(message.id, message.created_at))

    def arrived(self, reader: ParkedReader[Any]) -> None:
        """Note that a reader is there."""
        self._absences.ended(reader.keys)

    def adopt(self, records: Iterable[Record]) -> None:
        """Look now at recipients that a process has left, perhaps while it reported their absence."""
        for record in records:
            if record.id not in self._waiting and self._has_room(record.id):
                message, at = parse(record.value)
                self._enter(record.id, Unread(message, at, is_unsure=True), self._hub.clock.seconds())

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
        maybeDeferred(chain, names, self._found).addErrback(self._failed)

    def _found(self, names: Sequence[str]) -> None:
        if self._is_stopped:
            return
        now = self._hub.clock.seconds()
        for name in names:
            if name not in self._waiting and not self._absences.is_reported(name):
                contents = self._hub.store.describe(name, now)
                maybeDeferred(chain, contents, self._wait_for, name).addErrback(self._failed)
        if len(names) == UNREAD_AT_ONCE:
            self._going_on = self._hub.clock.callLater(0, self._look_through, names[-1])

    def _wait_for(self, contents: Contents, recipient: str) -> None:
        if contents.queued and recipient not in self._waiting:
            self._begin(recipient, Unread(str(contents.newest), self._hub.wall()))

    def stop(self) -> None:
        """Wait for nothing more."""
        self._is_stopped = True
        self._set_timer()
        if self._going_on is not None:
            self._going_on.cancel()
            self._going_on = None

    # -- waiting

    def _begin(self, recipient: str, unread: Unread) -> None:
        after = self._after(recipient)
        if after is not None and self._has_room(recipient):
            due = self._hub.clock.seconds() + after
            self._enter(recipient, unread, due)
            self._absences.begun(recipient, unread.message, unread.at, due)

    def _has_room(self, recipient: str) -> bool:
        if self.bytes + _size(recipient) <= UNREAD_BYTES:
            return True
        self._counts.untracked += 1
        return False

    def _enter(self, recipient: str, unread: Unread, due: float) -> None:
        self._waiting[recipient] = unread
        self.bytes += _size(recipient)
        self._look_at(recipient, due)

    def _settle(self, recipient: str) -> None:
        del self._waiting[recipient]
        self.bytes -= _size(recipient)
        self._absences.settled(recipient)

    def _look_at(self, recipient: str, due: float) -> None:
        self._looks += 1
        heappush(self._due, (due, self._looks, recipient))
        self._set_timer()

    def _set_timer(self) -> None:
        """Have a timer for the first recipient, unless as many are asked about as may be."""
        waits = self._due and not self._is_stopped and self._asked < UNREAD_AT_ONCE
        at = self._due[0][0] if waits else inf
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at != inf:
            clock = self._hub.clock
            self._timer = clock.callLater(max(0.0, at - clock.seconds()), self._look)

    # -- judging

    def _look(self) -> None:
        """Ask how recipients stand whose time has come, ``UNREAD_AT_ONCE`` in one turn."""
        self._timer, self._timer_at = None, inf
        now = self._hub.clock.seconds()
        found = []
        while self._due and self._due[0][0] <= now and self._asked < UNREAD_AT_ONCE:
            found.append(heappop(self._due)[2])
            self._asked += 1
        for recipient in found:
            asked = maybeDeferred(self._ask, recipient, now)
            asked.addErrback(self._not_known, recipient).addBoth(self._answered)
        self._set_timer()  # where the timer was early, by a rounding, nothing was asked

    def _ask(self, recipient: str, now: float) -> MaybeDeferred[None]:
        return chain(self._hub.describe(recipient), self._judge, recipient, now)

    def _answered(self, _: object) -> None:
        self._asked -= 1
        self._set_timer()

    def _not_known(self, failure: Failure, recipient: str) -> None:
        self._failed(failure)
        if recipient in self._waiting:
            self._look_at(recipient, self._hub.clock.seconds() + UNREAD_AGAIN_SECONDS)

    def _judge(self, standing: Standing, recipient: str, asked_at: float) -> MaybeDeferred[None]:
        """Report the absence of a reader, wait for it longer, or wait no more."""
        after = self._after(recipient)
        found = self._unread_message(standing, self._waiting[recipient])
        if found is None or after is None:
            self._settle(recipient)
            return None
        message, at = found
        left = min(after, at + after - self._hub.wall())  # the date may have been set back
        if left < _SOON:
            seen = standing.last_seen
            seen_at = -inf if seen is None else self._hub.clock.seconds() - (self._hub.wall() - seen)
            claimed = self._absences.claim(recipient, asked_at, seen_at)
            if is_pending(claimed):
                claimed.addErrback(self._claim_failed, recipient)
            return chain(claimed, self._report, recipient, message)
        due = self._hub.clock.seconds() + left
        self._look_at(recipient, due)
        self._absences.begun(recipient, message, at, due)
        return None

    def _unread_message(self, standing: Standing, unread: Unread) -> tuple[str, float] | None:
        """Return the id and the date of the message that a reader is away from; None where none is."""
        oldest = standing.unread
        # A console that watches everything is no reader who might fetch it.
        if oldest is None or standing.waiting > self._hub.registry.watching(standing.recipient):
            return None
        message, at = str(oldest[0]), oldest[1]
        seen = -inf if standing.last_seen is None else standing.last_seen
        # A reader that left in the moment of the push may have been answered without noticing.
        if seen <= at + UNREAD_GHOST_SECONDS:
            return message, at
        return (unread.message, unread.at) if unread.at > seen else None

    def _claim_failed(self, failure: Failure, recipient: str) -> Failure:
        """Note that the claim may have arrived, and only its answer been lost."""
        self._waiting[recipient].is_unsure = True
        return failure

    def _report(self, is_new: bool, recipient: str, message: str) -> None:
        if is_new or self._waiting[recipient].is_unsure:
            self._on_unread(recipient, message)
        self._settle(recipient)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CometError):
            self.log.failure("It is not known whether messages were read", failure)


def _size(recipient: str) -> int:
    return UNREAD_OVERHEAD + getsizeof(recipient)
