"""One recipient's log: messages are appended at one end and leave at the other, in the server's order.

A mailbox computes only: time comes in as ``now`` (seconds of a monotonic clock), nothing waits, and no
reader is known here. It does not bound itself: before you append, ask ``in_the_way``, then ``drop``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import islice
from operator import attrgetter

from ..errors import MailboxFull
from .leases import LeaseId, Leases, Settlement
from .message import LeasedMessage, Message

_sequence = attrgetter("sequence")
_expires_at = attrgetter("expires_at")


@dataclass(slots=True, eq=False)
class Mailbox:
    """The messages kept for ``recipient``, oldest first, and what became of those before them.

    ``lost`` is the sequence number of the last message that is no longer kept: a reader whose cursor
    lies before it has a gap. ``missed`` says that such a message was lost before any take had it.
    """

    recipient: str
    lost: int = 0
    missed: bool = False
    messages: list[Message] = field(default_factory=list)
    size: int = 0
    """Bytes of the bodies of ``messages``."""
    acknowledged: int = 0
    """Readers came back with a cursor at or past every message up to this one."""
    taken: int = 0
    """Takes have had every message up to this one, apart from those given back."""
    given_back: frozenset[int] | set[int] = frozenset()
    """Numbers of messages that a take or lease gave back: a set, but nearly always empty, and then shared."""
    next_expiry: float = float("inf")
    """No message expires before this time."""
    in_order: bool = True
    """Whether the messages expire in the order of the log, as they do where none asked for a shorter time."""
    leases: Leases | None = None
    """None until the first lease. From then on only takes and acknowledged leases make room."""

    def append(self, message: Message) -> bool:
        """Add the newest message of all, whose sequence number is above every other one here.

        Return whether it expires before all others.
        """
        messages, expires_at = self.messages, message.expires_at
        if messages and expires_at < messages[-1].expires_at:
            self.in_order = False
        messages.append(message)
        self.size += len(message.content.body)
        if expires_at >= self.next_expiry:
            return False
        self.next_expiry = expires_at
        return True

    def read(self, after: int, limit: int) -> Sequence[Message]:
        """Return up to ``limit`` messages whose sequence number is above ``after``; take nothing away."""
        messages = self.messages
        if not messages or messages[-1].sequence <= after:
            return ()
        if len(messages) == 1 or messages[-2].sequence <= after:
            return messages[-1:]
        start = bisect_right(messages, after, key=_sequence)
        return messages[start : start + limit]

    def gap(self, after: int) -> bool:
        """Whether a message above ``after`` is no longer kept."""
        return after < self.lost

    def acknowledge(self, sequence: int) -> None:
        """Note that a reader has everything up to ``sequence``, so that those may make room."""
        self.acknowledged = max(self.acknowledged, sequence)

    def untaken(self, limit: int) -> Sequence[Message]:
        """Return up to ``limit`` messages that no take has had, oldest first."""
        new = self.read(self.taken, limit)
        if not self.given_back:
            return new
        back = [self._at(number) for number in nsmallest(limit, self.given_back)]
        return [*back, *new][:limit]

    def take(self, message: Message) -> None:
        """Give ``message``, the first of ``untaken``, to one take only."""
        if message.sequence in self.given_back:
            self._leave_back((message.sequence,))
        else:
            self.taken = message.sequence

    def give_back(self, message: Message) -> None:
        """Leave a message where it was, because its reader had disconnected before it was answered."""
        if not self.holds(message.sequence):
            if message.sequence <= self.lost:  # else it was not to be queued
                self.missed = True
        elif not isinstance(message, LeasedMessage):
            if self.leases is None or not self.leases.reserves(message.sequence):
                self._put_back((message.sequence,))
        elif self.leases is not None:
            lease = LeaseId.parse(message.lease)
            reservation = self.leases.find(lease)
            if reservation is not None and reservation.state == "held":
                self.leases.undo(lease.sequence)
                self._put_back((lease.sequence,))

    def is_read(self, message: Message) -> bool:
        """Whether some reader has had the message, as far as that makes room: see ``leases``."""
        number = message.sequence
        if self.leases is None:
            return number <= self.acknowledged or (number <= self.taken and number not in self.given_back)
        return number <= self.taken and number not in self.given_back and not self.leases.reserves(number)

    # -- leases

    def lease(self, message: Message, secret: str, ends_at: float) -> LeasedMessage:
        """Reserve ``message``, the first of ``untaken``, for one worker; ``leases`` is not None."""
        assert self.leases is not None, "there are leases where one begins"
        self.take(message)
        return self.leases.begin(message, secret, ends_at)

    def end_leases(self, now: float, most: int) -> tuple[Sequence[int], Sequence[int]]:
        """End up to ``most`` leases whose time is over; return the numbers of messages.

        Those that are in the mailbox as any other now, and those that are exhausted.
        """
        leases = self.leases
        if leases is None or leases.next_end > now:
            return (), ()
        back: list[int] = []
        exhausted: list[int] = []
        for number in leases.over(now, most):
            (back if leases.free(number) else exhausted).append(number)
        self._put_back(back)
        return back, exhausted

    def settle(self, lease: LeaseId, settlement: Settlement, ends_at: float) -> bool:
        """Let a lease end, or go on until ``ends_at``; return whether it was still the message's last one.

        A lease whose time was over is settled all the same, as long as no other worker has the message. One
        that was given back is not extended any more. Of an exhausted message it can only be done.
        """
        leases, number = self.leases, lease.sequence
        reservation = None if leases is None else leases.find(lease)
        if leases is None or reservation is None:
            return False
        if not leases.reserves(number) and number not in self.given_back:
            return False  # a take has had it since
        if settlement == "done":
            self._leave_back((number,))
            leases.forget((number,))
        elif reservation.state == "exhausted":
            return False
        elif settlement == "extended":
            if reservation.state == "released":
                return False
            self._leave_back((number,))
            leases.hold(number, ends_at)
        elif leases.release(number):
            self._put_back((number,))
        return True

    # -- what takes gave back

    def _put_back(self, numbers: Iterable[int]) -> None:
        if isinstance(self.given_back, set):
            self.given_back.update(numbers)
        else:
            self.given_back = set(numbers) or frozenset()

    def _leave_back(self, numbers: Iterable[int]) -> None:
        if isinstance(self.given_back, set):
            self.given_back.difference_update(numbers)
            if not self.given_back:
                self.given_back = frozenset()

    def holds(self, number: int) -> bool:
        """Return whether the message of a number is kept."""
        messages = self.messages
        at = bisect_right(messages, number, key=_sequence) - 1
        return at >= 0 and messages[at].sequence == number

    def _at(self, number: int) -> Message:
        """Return a message that is kept."""
        return self.messages[bisect_right(self.messages, number, key=_sequence) - 1]

    # -- what makes room

    @property
    def unread(self) -> list[Message]:
        """The messages that no reader has fetched, oldest first: they fill the mailbox."""
        return [message for message in self.messages if not self.is_read(message)]

    def read_already(self, most: int) -> list[Message]:
        """Return up to ``most`` messages that some reader has had, oldest first: what may make room."""
        if self.leases is None and self.messages and self.messages[-1].sequence <= self.acknowledged:
            return self.messages[:most]
        return list(islice(filter(self.is_read, self.messages), most))

    def in_the_way(
        self, count: int, size: int, capacity: int, capacity_bytes: int, *, reject: bool
    ) -> Sequence[Message]:
        """Return the oldest messages that must go before ``count`` more of ``size`` bytes fit.

        With ``reject`` only messages that a reader has fetched may go. Raises ``MailboxFull`` where these
        are too few, or where the push would not even fit into an empty mailbox.
        """
        over = len(self.messages) + count - capacity
        bytes_over = self.size + size - capacity_bytes
        if over <= 0 and bytes_over <= 0:
            return ()
        if count > capacity or size > capacity_bytes:
            raise MailboxFull(
                f"The push does not fit: a mailbox holds {capacity} messages and {capacity_bytes} bytes."
            )
        going = []
        for message in self.messages:
            if reject and not self.is_read(message):
                if message.sequence > self.taken:
                    break  # no take has had this one, nor any later one
                continue
            going.append(message)
            over -= 1
            bytes_over -= len(message.content.body)
            if over <= 0 and bytes_over <= 0:
                return going
        raise MailboxFull(
            f"The mailbox of {self.recipient!r} is full of messages that no reader has fetched. "
            "Push again later, or with overflow=drop-oldest."
        )

    def drop(self, messages: Sequence[Message]) -> None:
        """Take messages out, which are given oldest first; readers before them have a gap."""
        count = len(messages)
        if self.messages[count - 1] is messages[-1]:
            del self.messages[:count]
        else:
            dropped = {message.sequence for message in messages}
            self.messages = [message for message in self.messages if message.sequence not in dropped]
        self._lose(messages)

    def expire(self, now: float, most: int) -> Sequence[Message]:
        """Take out and return messages whose time is over: up to ``most`` of them, the oldest first.

        Where they do not expire in the order of the log, all of them are taken out at once.
        """
        if now < self.next_expiry:
            return ()
        messages = self.messages
        if self.in_order:
            expired = messages[: min(most, bisect_right(messages, now, key=_expires_at))]
            del messages[: len(expired)]
            self.next_expiry = messages[0].expires_at if messages else float("inf")
        else:
            expired = [message for message in messages if message.expires_at <= now]
            self.messages = [message for message in messages if message.expires_at > now]
            self.next_expiry = min(map(_expires_at, self.messages), default=float("inf"))
        self._lose(expired)
        return expired

    def retract(self, message: Message) -> None:
        """Take out a message that was not to be queued: no reader misses it."""
        del self.messages[bisect_right(self.messages, message.sequence, key=_sequence) - 1]
        self.size -= len(message.content.body)
        self._leave_back((message.sequence,))
        if self.leases is not None:
            self.leases.forget((message.sequence,))

    def _lose(self, messages: Sequence[Message]) -> None:
        """Note that messages, oldest first, are no longer kept."""
        if not messages:
            return
        last = messages[-1].sequence
        self.size -= sum([len(message.content.body) for message in messages])
        self.lost = max(self.lost, last)
        if last > self.taken:
            self.missed = True
        if self.given_back:
            back = self.given_back.intersection([message.sequence for message in messages])
            if back:
                self.missed = True
                self._leave_back(back)
        if self.leases is not None:
            self.missed |= any(self.leases.reserves(message.sequence) for message in messages)
            self.leases.forget([message.sequence for message in messages])

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests."""
        messages, of = self.messages, f"the mailbox of {self.recipient!r}:"
        sequences = [message.sequence for message in messages]
        expiries = [message.expires_at for message in messages]
        assert all(message.recipient == self.recipient for message in messages), f"{of} messages are its own"
        assert sequences == sorted(set(sequences)), f"{of} the numbers ascend"
        assert self.size == sum([len(message.content.body) for message in messages]), f"{of} size is the sum"
        assert all(at >= self.next_expiry for at in expiries), f"{of} nothing expires before next_expiry"
        assert not self.in_order or expiries == sorted(expiries), f"{of} messages expire in_order"
        assert self.given_back <= set(sequences), f"{of} what was given back is kept"
        assert all(number <= self.taken for number in self.given_back), f"{of} what was given back was taken"
        assert self.lost or not self.missed, f"{of} what takes have missed was lost"
        if self.leases is not None:
            self.leases.check_invariants(
                self.holds, lambda number: number > self.taken or number in self.given_back
            )
