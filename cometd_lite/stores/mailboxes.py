"""The mailboxes that a store holds in memory, and what makes them come and go.

The memory of everything kept is counted, overhead included, and bounded; so is the number of mailboxes, and
the memory of what was lost. ``memory.py`` makes a ``Store`` of them.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import islice

from ..core.deadlines import Deadlines
from ..core.mailbox import Mailbox
from ..core.message import COMMON_TYPES, OLDEST, Batch, Cursor, Message, Push
from ..core.namespaces import MailboxBounds, MostSpecific, Namespaces, own_bounds
from ..core.recipient import covering, is_pattern
from ..errors import ServerFull
from ..limits import GOING_AT_ONCE, MAILBOX_OVERHEAD, MESSAGE_OVERHEAD, Limits
from ..sizes import text_size
from .log import Log
from .losses import Losses
from .numbers import PackedNumbers
from .patterns import PatternReads
from .slices import Slices, Soon, Steps

_LOOK = 1_000  # so many of the oldest messages are looked at for readers of patterns when memory runs out
_EPOCH_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_epoch() -> str:
    """Return a name for a new log's life, which no other log has had: 51 random bits."""
    return "".join(secrets.choice(_EPOCH_LETTERS) for _ in range(10))


class Mailboxes:
    """Mailboxes by their recipients, and all that goes with them: the log, the expiries, what was lost.

    ``overflow`` is what a full mailbox does unless a push says otherwise. What takes more than one step goes
    on by ``soon``, which calls in the next turn of the reactor; Twisted's reactor where none is given.
    """

    def __init__(
        self, limits: Limits, *, overflow: str = "reject", epoch: str | None = None, soon: Soon | None = None
    ) -> None:
        self.limits = limits
        self.overflow = overflow
        self._own_bounds = own_bounds(limits, overflow)
        self._bounds: MostSpecific[MailboxBounds] | None = None
        """The bounds of mailboxes where there are namespaces; None where all have ``_own_bounds``."""
        self.epoch = epoch or new_epoch()
        self.sequence = 0
        self.memory = 0
        self._mailboxes: dict[str, Mailbox] = {}
        self._log = Log()
        self._slices = Slices(soon)
        self._patterns = PatternReads(self._mailboxes, self._log, self._slices, self._has_lost)
        self._expiries: Deadlines[str] = Deadlines(self._expires_at)
        """The next expiry of each mailbox."""
        self._expiring: float | None = None
        """The time up to which messages go that have expired, while these are more than go in one step."""
        self._reclaimable: OrderedDict[str, None] = OrderedDict()
        """Mailboxes with messages that were read, and may go when memory runs out."""
        self._nothing = Batch((), OLDEST)
        """What the last reader was given that had everything: the next one often stands where it does."""
        self._nothing_for: tuple[str, ...] | None = None
        """The recipients of that reader, if it acknowledged, and no message came since: another reader that
        asks the same has everything too. This is 4 % of a fan-out."""
        self._lost = Losses(limits.max_recipients)
        self._acknowledged = PackedNumbers(limits.max_recipients)
        """How far the readers of each pattern came back; of one that was forgotten, until one does again."""

    def use(self, namespaces: Namespaces) -> None:
        self._bounds = namespaces.bounds(self._own_bounds)

    def _bounds_of(self, recipient: str) -> MailboxBounds:
        return self._own_bounds if self._bounds is None else self._bounds.of(recipient)

    # -- how mailboxes come and go

    def _create(self, recipient: str) -> Mailbox:
        lost, missed = self._lost.recall(recipient)
        # Its place for takes is where the lost messages ended; a newer number would hide what comes.
        mailbox = Mailbox(recipient, lost=lost, missed=missed)
        self._mailboxes[recipient] = mailbox
        self._patterns.names.add(recipient)
        self.memory += mailbox_cost(recipient)
        return mailbox

    def _discard_if_empty(self, mailbox: Mailbox) -> None:
        if not mailbox.messages:
            del self._mailboxes[mailbox.recipient]
            self._patterns.names.remove(mailbox.recipient)
            self._reclaimable.pop(mailbox.recipient, None)
            self._lost.note(mailbox.recipient, mailbox.lost, missed=mailbox.missed)
            self.memory -= mailbox_cost(mailbox.recipient)

    def _lose(self, mailbox: Mailbox, messages: Sequence[Message]) -> None:
        if not messages:
            return
        for message in messages:
            self._log.remove(message)
            self.memory -= cost(message)
        for pattern in covering(mailbox.recipient)[1:]:
            self._lost.note(pattern, messages[-1].sequence)
        self._discard_if_empty(mailbox)

    def _expire_soon(self, now: float, recipients: Collection[str] = ()) -> None:
        """Let go of what has expired: some of it at once, and what is left in later turns of the reactor.

        While that is under way, a request adds no step to it: thousands may come in one turn.
        The mailboxes of ``recipients`` come first: they are to be read, or must not refuse a push.
        """
        if self._expiries.first <= now:
            if self._expiring is None:
                self._expiring = now
                self._slices.run(self._expire_all(now))
            self._expire_first(recipients)

    def _expire_all(self, now: float) -> Steps[None]:
        try:
            while self._expire_some(now):
                yield
        finally:
            self._expiring = None

    def _expire_first(self, recipients: Collection[str]) -> None:
        """Let messages of some mailboxes go before their turn comes."""
        if self._expiring is not None:
            for mailbox in [self._mailboxes[name] for name in recipients if name in self._mailboxes]:
                expired = mailbox.expire(self._expiring, GOING_AT_ONCE)
                if expired and mailbox.messages:
                    self._expiries.add(mailbox.next_expiry, mailbox.recipient)
                self._lose(mailbox, expired)

    def _expire_some(self, now: float) -> bool:
        """Let go of ``GOING_AT_ONCE`` messages that have expired; return whether there are more.

        Of a deep name as many patterns note the loss as it has segments: that counts as messages do.
        """
        expiries = self._expiries
        left = GOING_AT_ONCE
        while expiries.first <= now:
            if left <= 0:
                return True
            mailbox = self._mailboxes.get(expiries.pop())
            expired = () if mailbox is None else mailbox.expire(now, left)
            left -= max(1, len(expired))  # an entry that is out of date is a look, too
            if mailbox is not None:
                left -= mailbox.recipient.count("/")
                self._lose(mailbox, expired)
                if mailbox.messages:
                    expiries.add(mailbox.next_expiry, mailbox.recipient)
        return False

    def _expires_at(self, at: float, recipient: str) -> bool:
        mailbox = self._mailboxes.get(recipient)
        return mailbox is not None and mailbox.next_expiry == at

    def _numbered(self, push: Push, now: float, created_at: float, last: int) -> list[Message]:
        """Return the push's messages with the numbers after ``last``, line by line; nothing is kept yet."""
        recipients = [
            (self._shared_name(recipient), now + self._bounds_of(recipient).kept_for(push))
            for recipient in push.recipients
        ]
        addressed = [(content, *recipient) for content in push.contents for recipient in recipients]
        return [
            Message(Cursor(self.epoch, number), recipient, content, created_at, expires_at, push.event)
            for number, (content, recipient, expires_at) in enumerate(addressed, last + 1)
        ]

    def _shared_name(self, recipient: str) -> str:
        """Return the name as its mailbox has it, which counts it: all of its messages share that."""
        mailbox = self._mailboxes.get(recipient)
        return recipient if mailbox is None else mailbox.recipient

    def _excesses(self, push: Push) -> list[tuple[Mailbox, Sequence[Message]]]:
        """Return the messages of each mailbox that must go for a push. Raises ``MailboxFull``."""
        excesses = []
        count = len(push.contents)
        size = sum([len(content.body) for content in push.contents])
        for recipient in push.recipients:
            bounds = self._bounds_of(recipient)
            mailbox = self._mailboxes.get(recipient)
            if mailbox is None:
                mailbox = Mailbox(recipient)
            else:
                self._hear_of_patterns(mailbox)
            excess = mailbox.in_the_way(
                count, size, bounds.capacity, bounds.capacity_bytes, reject=bounds.rejects(push)
            )
            excesses.append((mailbox, excess))
        return excesses

    def _check_capacity(self, push: Push) -> bool:
        """Return whether old messages must make room. Raises ``MailboxFull``, having changed nothing."""
        return any(excess for _, excess in self._excesses(push))

    def _make_room(self, push: Push) -> None:
        for mailbox, excess in self._excesses(push):
            self._drop(mailbox, excess)

    def _drop(self, mailbox: Mailbox, messages: Sequence[Message]) -> None:
        if messages:
            mailbox.drop(messages)
            self._lose(mailbox, messages)

    def _check_server(
        self, messages: Sequence[Message], coming: Collection[str] = (), makes_room: Push | None = None
    ) -> None:
        """Raise ``ServerFull`` where there is no room, even after what was read was removed.

        ``coming`` are mailboxes about to be made; ``makes_room`` is a push before which old messages go.
        """
        limits = self.limits
        while True:
            created: set[str] = set()
            if any(message.recipient not in self._mailboxes for message in messages):
                created = {message.recipient for message in messages}.difference(self._mailboxes, coming)
            memory = self.memory + sum(map(cost, messages)) + sum(map(mailbox_cost, created))
            memory -= limits.max_memory
            mailboxes = 0
            if created:
                mailboxes = len(self._mailboxes) + len(coming) + len(created) - limits.max_recipients
            if memory > 0 and makes_room is not None:
                memory -= sum([cost(old) for _, going in self._excesses(makes_room) for old in going])
            if memory <= 0 and mailboxes <= 0:
                return
            if self._expiring is not None and self._expiries.first <= self._expiring:
                self._expire_some(self._expiring)
                continue
            if not self._reclaim(memory, mailboxes):
                if mailboxes > 0:
                    raise ServerFull(
                        f"The server holds {limits.max_recipients} mailboxes, which is its bound."
                    )
                raise ServerFull(f"The messages kept reach the server's bound of {limits.max_memory} bytes.")

    def _reclaim(self, memory: int, mailboxes: int) -> bool:
        """Drop messages that were read until so many bytes and mailboxes are free; return if any could go."""
        most_memory, most_mailboxes = self.memory - memory, len(self._mailboxes) - mailboxes
        before = len(self._log)
        for _ in range(2):
            while self._reclaimable and (self.memory > most_memory or len(self._mailboxes) > most_mailboxes):
                mailbox = self._mailboxes[next(iter(self._reclaimable))]
                going = mailbox.read_already(GOING_AT_ONCE)
                if len(going) < GOING_AT_ONCE:
                    del self._reclaimable[mailbox.recipient]
                self._drop(mailbox, going)
            if len(self._log) < before:
                return True
            self._look_for_patterns()
        return False

    def _look_for_patterns(self) -> None:
        """Note which of the oldest messages were read by readers of patterns."""
        if self._acknowledged:
            for message in islice(self._log, _LOOK):
                self._hear_of_patterns(self._mailboxes[message.recipient])

    def _acknowledge(self, recipients: tuple[str, ...], sequence: int) -> None:
        for recipient in recipients:
            mailbox = self._mailboxes.get(recipient)
            if mailbox is not None:
                if mailbox.acknowledged < sequence:
                    mailbox.acknowledged = sequence
                    self._reclaimable[mailbox.recipient] = None
            elif is_pattern(recipient) and self._acknowledged.get(recipient) < sequence:
                self._acknowledged.set(recipient, sequence)

    def _hear_of_patterns(self, mailbox: Mailbox) -> None:
        """Acknowledge what the readers of patterns that cover the recipient had."""
        if self._acknowledged:
            came_back = max(map(self._acknowledged.get, covering(mailbox.recipient)))
            if mailbox.acknowledged < came_back:
                mailbox.acknowledged = came_back
                self._reclaimable[mailbox.recipient] = None

    def _has_lost(self, recipients: tuple[str, ...], after: int) -> bool:
        for recipient in recipients:
            mailbox = self._mailboxes.get(recipient)
            if mailbox.gap(after) if mailbox is not None else self._lost.since(recipient, after):
                return True
        return False


def cost(message: Message) -> int:
    """Return the bytes of memory that a message is counted with; its name is counted with its mailbox."""
    content = message.content
    size = MESSAGE_OVERHEAD + len(content.body)
    if content.type not in COMMON_TYPES:
        size += text_size(content.type)
    if message.event is not None:
        size += text_size(message.event)
    return size


def mailbox_cost(recipient: str) -> int:
    """Return the bytes of memory that a mailbox is counted with, besides its messages."""
    return MAILBOX_OVERHEAD + text_size(recipient)
