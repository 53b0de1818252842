"""Takes and leases of the mailboxes in memory: what one reader is given, and no other.

``core/leases.py`` has what one mailbox knows of its leases; here is what a store has of all of them. A lease
whose time is over ends when its mailbox is taken or leased from, or at the next ``expire``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from math import inf

from ..core.deadlines import Deadlines
from ..core.leases import Ended, LeaseId, Leases, Reservation, Settlement, new_secret
from ..core.mailbox import Mailbox
from ..core.message import Batch, Cursor, LeasedMessage, Message
from ..limits import EXHAUSTED_AT_ONCE, LEASE_OVERHEAD, LEASES_ENDED_AT_ONCE, Limits
from .mailboxes import Mailboxes
from .patterns import bounded, merged
from .slices import Soon, Steps


class TakenMailboxes(Mailboxes):
    """Mailboxes from which messages are taken and leased; see ``Mailboxes`` for the arguments."""

    def __init__(
        self, limits: Limits, *, overflow: str = "reject", epoch: str | None = None, soon: Soon | None = None
    ) -> None:
        super().__init__(limits, overflow=overflow, epoch=epoch, soon=soon)
        self._leased = 0
        """How many messages workers hold."""
        self._noted_ends: dict[str, float] = {}
        """A time for each mailbox with leases: none ends before it."""
        self._lease_ends: Deadlines[str] = Deadlines(lambda at, name: self._noted_ends.get(name) == at)
        self._is_ending = False
        """Whether leases end in steps that are not all done."""
        self._returned: dict[str, None] = {}
        """Recipients whose messages came back by the end of a lease, since ``expire`` was called last."""
        self._exhausted: dict[str, None] = {}
        """Recipients that have exhausted messages, longest untried first."""

    def take(self, recipients: tuple[str, ...], limit: int, now: float) -> Batch:
        messages, more, gap = self._untaken(recipients, limit, now)
        for message in messages:
            self._mailboxes[message.recipient].take(message)
        return self._given(messages, more, gap)

    def lease(self, recipients: tuple[str, ...], limit: int, seconds: float, now: float) -> Batch:
        messages, more, gap = self._untaken(recipients, limit, now)
        secret = new_secret() if messages else ""
        given: list[Message] = []
        for message in messages:
            mailbox = self._mailboxes[message.recipient]
            if mailbox.leases is None:
                mailbox.leases = self._new_leases(mailbox.recipient)
            given.append(mailbox.lease(message, secret, now + seconds))
            self._note_end(mailbox.recipient, now + seconds)
        self._count_leases({message.recipient for message in messages})
        return self._given(tuple(given), more, gap)

    def _new_leases(self, recipient: str) -> Leases:
        return Leases(recipient, self.limits.max_attempts)

    def give_back(self, messages: Sequence[Message]) -> None:
        for message in messages:
            mailbox = self._mailboxes.get(message.recipient)
            if mailbox is not None:
                mailbox.give_back(message)
            else:
                self._lost.miss(message.recipient, message.sequence)
        self._count_leases({message.recipient for message in messages})

    def settle_leases(
        self, recipient: str, leases: Sequence[LeaseId], settlement: Settlement, seconds: float, now: float
    ) -> Sequence[bool]:
        self._expire_soon(now, (recipient,))
        mailbox = self._mailboxes.get(recipient)
        if mailbox is None:
            return [False] * len(leases)
        self._end_leases(mailbox, now, LEASES_ENDED_AT_ONCE)
        ends_at = now + seconds
        settled = [
            lease.epoch == self.epoch and mailbox.settle(lease, settlement, ends_at) for lease in leases
        ]
        if settlement == "extended" and any(settled):
            self._note_end(mailbox.recipient, ends_at)
        self._note_exhausted(mailbox)
        self._reclaimable[mailbox.recipient] = None
        self._count_leases((recipient,))
        return settled

    def _untaken(
        self, recipients: tuple[str, ...], limit: int, now: float
    ) -> tuple[tuple[Message, ...], bool, bool]:
        """Return what no take has had, whether there is more, and whether something was lost before."""
        self._expire_soon(now, recipients)
        if self._lease_ends.first <= now:
            self._end_leases_of(recipients, now)
        gap = False
        heads: list[Sequence[Message]] = []
        for recipient in recipients:
            mailbox = self._mailboxes.get(recipient)
            if mailbox is None:
                gap |= self._lost.forgive(recipient)
            else:
                gap |= mailbox.missed
                mailbox.missed = False
                heads.append(mailbox.untaken(limit + 1))
        return *bounded(merged(heads), limit), gap

    def _given(self, messages: tuple[Message, ...], more: bool, gap: bool) -> Batch:
        if not messages:
            return Batch((), Cursor(self.epoch, self.sequence), gap)
        for message in messages:
            self._reclaimable[message.recipient] = None
        return Batch(messages, messages[-1].cursor, gap, more)

    # -- the end of leases

    def _leases_over(self, now: float) -> Ended | None:
        """End leases whose time is over, in steps; return what is to be done for those that have ended."""
        self._lease_ends.tidy(len(self._noted_ends))
        if self._lease_ends.first <= now and not self._is_ending:
            self._slices.run(self._end_all_leases(now))
        if not self._returned and not self._exhausted:
            return None
        returned, self._returned = self._returned, {}
        return Ended(tuple(returned), self._next_exhausted())

    def _end_all_leases(self, now: float) -> Steps[None]:
        self._is_ending = True
        try:
            while self._end_some_leases(now):
                yield
        finally:
            self._is_ending = False

    def _end_some_leases(self, now: float) -> bool:
        """End about ``LEASES_ENDED_AT_ONCE`` leases; return whether there are more whose time is over."""
        left = LEASES_ENDED_AT_ONCE
        while self._lease_ends.first <= now:
            if left <= 0:
                return True
            name = self._lease_ends.pop()
            self._noted_ends.pop(name, None)
            mailbox = self._mailboxes.get(name)
            left -= 1 if mailbox is None else 1 + self._end_leases(mailbox, now, left)
            if mailbox is not None and mailbox.leases is not None:
                self._note_end(mailbox.recipient, mailbox.leases.next_end)
        return False

    def _end_leases_of(self, recipients: Collection[str], now: float) -> None:
        """End leases of mailboxes that are to be taken from before their turn comes."""
        for name in recipients:
            mailbox = self._mailboxes.get(name)
            if mailbox is not None:
                self._end_leases(mailbox, now, LEASES_ENDED_AT_ONCE)

    def _end_leases(self, mailbox: Mailbox, now: float, most: int) -> int:
        back, exhausted = mailbox.end_leases(now, most)
        if back:
            self._returned[mailbox.recipient] = None
        if exhausted:
            self._note_exhausted(mailbox)
        self._count_leases((mailbox.recipient,))
        return len(back) + len(exhausted)

    def _note_end(self, name: str, ends_at: float) -> None:
        """Have an entry that is no later than the end of a lease."""
        if ends_at >= self._noted_ends.get(name, inf):
            return
        self._noted_ends[name] = ends_at
        self._lease_ends.add(ends_at, name)

    # -- exhausted messages

    def _note_exhausted(self, mailbox: Mailbox) -> None:
        if mailbox.leases is not None and mailbox.leases.exhausted:
            self._exhausted[mailbox.recipient] = None
        else:
            self._exhausted.pop(mailbox.recipient, None)

    def _next_exhausted(self) -> list[LeasedMessage]:
        """Return some of the exhausted messages: those of other recipients each time, the oldest of each."""
        found: list[LeasedMessage] = []
        for name in list(islice(self._exhausted, EXHAUSTED_AT_ONCE)):
            if len(found) >= EXHAUSTED_AT_ONCE:
                break
            del self._exhausted[name]
            mailbox = self._mailboxes[name]
            self._note_exhausted(mailbox)
            if mailbox.leases is not None:
                for number in islice(mailbox.leases.exhausted, EXHAUSTED_AT_ONCE):
                    found += map(mailbox.leases.last, mailbox.read(number - 1, 1))
        return found

    # -- what is counted, and forgotten with a mailbox

    def _count_leases(self, recipients: Collection[str]) -> None:
        """Count the leases of mailboxes in which some began or ended."""
        for name in recipients:
            mailbox = self._mailboxes.get(name)
            if mailbox is not None and mailbox.leases is not None:
                entries, held = mailbox.leases.uncounted()
                self.memory += entries * LEASE_OVERHEAD
                self._leased += held

    def _discard_if_empty(self, mailbox: Mailbox) -> None:
        if mailbox.leases is not None:
            self._count_leases((mailbox.recipient,))
            self._note_exhausted(mailbox)
        super()._discard_if_empty(mailbox)
        if not mailbox.messages and mailbox.leases is not None:
            self._noted_ends.pop(mailbox.recipient, None)
            self._returned.pop(mailbox.recipient, None)

    def _count_exhausted(self) -> int:
        boxes = [self._mailboxes[name].leases for name in self._exhausted]
        return sum([len(leases.exhausted) for leases in boxes if leases is not None])

    # -- what always holds

    def _reservations(self) -> list[dict[int, Reservation]]:
        boxes = [mailbox.leases for mailbox in self._mailboxes.values()]
        return [leases.reservations for leases in boxes if leases is not None]

    def _check_leases(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold."""
        mailboxes, noted = self._mailboxes, self._noted_ends
        boxes = {name: box.leases for name, box in mailboxes.items() if box.leases is not None}
        assert self._leased == sum([leases.held for leases in boxes.values()]), "held leases are counted"
        for name, leases in boxes.items():
            held = [one.ends_at for one in leases.reservations.values() if one.state == "held"]
            assert noted.get(name, inf) <= min(held, default=inf), f"{name!r}: no lease ends before its entry"
        self._lease_ends.check_invariants({(at, name) for name, at in noted.items()}, len(mailboxes))
        assert noted.keys() | self._returned.keys() <= mailboxes.keys(), "ends are those of mailboxes"
        assert self._exhausted.keys() == {name for name, leases in boxes.items() if leases.exhausted}, (
            "those are listed that have exhausted messages"
        )
