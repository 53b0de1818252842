"""Dead letters: messages that were leased as often as they may go to another recipient, for people to see.

An exhausted message of ``jobs`` is pushed to ``$dead/jobs`` as an event ``dead``. Only once it is there its
lease is done: a crash in between leaves it in both. Where it does not fit it stays where it is, is given to
no take, and is tried again at the next sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from ..deferreds import MaybeDeferred, chain, is_pending
from ..errors import CometError
from .counts import Counts
from .leases import LeaseId
from .message import LeasedMessage, Push, Receipt
from .recipient import DEAD
from .store import Store

_EVENT = "dead"


@dataclass(slots=True, eq=False)
class DeadLetters:
    """Moves exhausted messages. ``push`` is the hub's; ``failed`` is called with what is no refusal."""

    store: Store
    clock: IReactorTime
    counts: Counts
    push: Callable[[Push], MaybeDeferred[Receipt]]
    failed: Callable[[Failure], object]
    _moving: set[str] = field(default_factory=set)
    """The leases of messages that are being moved, on a store that waits."""

    def move(self, messages: Sequence[LeasedMessage]) -> None:
        """Move exhausted messages, as far as there is room for them."""
        for message in messages:
            if message.lease not in self._moving:
                self._move(message)

    def _move(self, message: LeasedMessage) -> None:
        push = Push((f"{DEAD}{message.recipient}",), (message.content,), _EVENT, overflow="reject")
        try:
            done = chain(self.push(push), partial(self._moved, message))
        except CometError:
            return
        if is_pending(done):
            self._moving.add(message.lease)
            done.addErrback(self._refused).addBoth(lambda _: self._moving.discard(message.lease))

    def _moved(self, message: LeasedMessage, _: Receipt) -> MaybeDeferred[Sequence[bool]]:
        self.counts.dead_letters += 1
        lease = LeaseId.parse(message.lease)
        return self.store.settle_leases(message.recipient, [lease], "done", 0.0, self.clock.seconds())

    def _refused(self, failure: Failure) -> None:
        if not failure.check(CometError):
            self.failed(failure)
