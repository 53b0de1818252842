"""One recipient's log: messages are appended at one end and leave at the other, in the server's order.

A mailbox computes only: time comes in as ``now`` (seconds of a monotonic clock), nothing waits, and no
reader is known here. It is bounded by whoever appends: ask ``excess`` first, then ``drop``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from operator import attrgetter

from .errors import MailboxFull
from .message import Message

_sequence = attrgetter("sequence")


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
    given_back: frozenset[int] = frozenset()
    """Sequence numbers that a take gave back; frozen because nearly always empty and then shared."""
    next_expiry: float = float("inf")
    """No message expires before this time."""

    def append(self, message: Message) -> None:
        """Add the newest message of all; its sequence number is above every other one here."""
        self.messages.append(message)
        self.size += len(message.content.body)
        self.next_expiry = min(self.next_expiry, message.expires_at)

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

    def untaken(self, limit: int) -> list[Message]:
        """Return up to ``limit`` messages that no take has had, oldest first."""
        back = [message for message in self.messages if message.sequence in self.given_back]
        return [*back, *self.read(self.taken, limit)][:limit]

    def take(self, message: Message) -> None:
        """Give ``message``, the first of ``untaken``, to one take only."""
        if message.sequence in self.given_back:
            self.given_back -= {message.sequence}
        else:
            self.taken = message.sequence

    def give_back(self, message: Message) -> None:
        """Leave a taken message where it was, because its take was gone before it was answered."""
        if message in self.read(message.sequence - 1, 1):
            self.given_back |= {message.sequence}
        else:
            self.missed = True

    def is_read(self, message: Message) -> bool:
        """Whether some reader has had the message: it was acknowledged, or taken."""
        number = message.sequence
        return number <= self.acknowledged or (number <= self.taken and number not in self.given_back)

    @property
    def unread(self) -> list[Message]:
        """The messages that nobody has fetched, oldest first: what fills the mailbox."""
        return [message for message in self.messages if not self.is_read(message)]

    def read_prefix(self) -> int:
        """Count the oldest messages that were read, and so may make room."""
        return sum(1 for _ in takewhile(self.is_read, self.messages))

    def excess(self, count: int, size: int, capacity: int, capacity_bytes: int, *, reject: bool) -> int:
        """Count the oldest messages that must go before ``count`` more of ``size`` bytes fit.

        Raises ``MailboxFull`` where they never fit, or, with ``reject``, where one that nobody has
        fetched would have to go.
        """
        messages = self.messages
        over = len(messages) + count - capacity
        bytes_over = self.size + size - capacity_bytes
        if over <= 0 and bytes_over <= 0:
            return 0
        if count > capacity or size > capacity_bytes:
            raise MailboxFull(
                f"The push does not fit: a mailbox holds {capacity} messages and {capacity_bytes} bytes."
            )
        going = 0
        while over > 0 or bytes_over > 0:
            message = messages[going]
            if reject and not self.is_read(message):
                raise MailboxFull(
                    f"The mailbox of {self.recipient!r} is full, and nobody has fetched its oldest message. "
                    "Push again later, or with overflow=drop-oldest."
                )
            going += 1
            over -= 1
            bytes_over -= len(message.content.body)
        return going

    def drop(self, count: int) -> list[Message]:
        """Take the ``count`` oldest messages out and return them; readers before them have a gap."""
        dropped = self.messages[:count]
        del self.messages[:count]
        self._lose(dropped)
        return dropped

    def expire(self, now: float) -> list[Message]:
        """Take out and return the messages whose time is over."""
        if now < self.next_expiry:
            return []
        kept: list[Message] = []
        expired: list[Message] = []
        for message in self.messages:
            (kept if message.expires_at > now else expired).append(message)
        self.messages = kept
        self.next_expiry = min((message.expires_at for message in kept), default=float("inf"))
        self._lose(expired)
        return expired

    def retract(self, message: Message) -> None:
        """Take out a message that was kept for nobody: no reader misses it."""
        del self.messages[bisect_right(self.messages, message.sequence, key=_sequence) - 1]
        self.size -= len(message.content.body)

    def _lose(self, messages: Sequence[Message]) -> None:
        for message in messages:
            number = message.sequence
            self.size -= len(message.content.body)
            self.lost = max(self.lost, number)
            if number > self.taken or number in self.given_back:
                self.missed = True
                self.given_back -= {number}
