"""What a store remembers of messages that it no longer keeps, so that their readers get a gap."""

from __future__ import annotations

from collections.abc import Iterable

from ..memos import renew
from .numbers import PackedNumbers


class Losses:
    """Remembers up to where messages were lost, for patterns and for mailboxes that are no more.

    Bounded: beyond some ``most`` names, losses up to a number, the ``floor``, are forgotten. A name without
    an entry then has a gap below it: sometimes one gap too many, never one too few. Only takes, which have no
    cursor to compare, get no gap for what was forgotten.
    """

    def __init__(self, most: int) -> None:
        self.floor = 0
        self._entries = PackedNumbers(most)
        """Twice the number up to which messages were lost, and one more where a take missed one."""

    @property
    def forgotten(self) -> int:
        """How many entries have had to go."""
        return self._entries.forgotten

    def renew(self) -> None:
        """Make all numbers anew; see ``memos``."""
        renew(self, "floor")
        self._entries.renew()

    def note(self, name: str, sequence: int, *, missed: bool = False) -> None:
        """Note that a message was lost, and whether a take ``missed`` it."""
        lost = max(self.entry(name)[0], sequence)
        if lost > self.floor:  # else every name without an entry gets a gap
            self._set(name, lost, missed)

    def _set(self, name: str, sequence: int, missed: bool) -> None:
        self._entries.set(name, sequence << 1 | missed)
        self.floor = max(self.floor, self._entries.floor >> 1)

    def recall(self, name: str) -> tuple[int, bool]:
        """Return, and forget, what a mailbox that comes to life again must know."""
        lost, missed = self.entry(name)
        self._entries.set(name, 0)
        return max(lost, self.floor), missed

    def miss(self, name: str, sequence: int) -> None:
        """Note that a take gave back a message; where it was lost meanwhile, no take has had it."""
        lost, missed = self.entry(name)
        if sequence <= lost and not missed:
            self._set(name, lost, True)

    def entry(self, name: str) -> tuple[int, bool]:
        """Return what is remembered of a name."""
        known = self._entries.get(name)
        return (0, False) if known >> 1 <= self.floor else (known >> 1, bool(known & 1))

    def since(self, name: str, after: int) -> bool:
        """Return whether a message after a number was lost."""
        return after < max(self._entries.get(name) >> 1, self.floor)

    def forgive(self, name: str) -> bool:
        """Return whether a take missed something, and forget it: the next one gets no gap."""
        sequence, missed = self.entry(name)
        if missed:
            self._set(name, sequence, False)
        return missed

    def check_invariants(self, mailboxes: Iterable[str], last: int) -> None:
        """See ``MemoryStore.check_invariants``; ``last`` is the last number given."""
        self._entries.check_invariants()
        assert not any(name in self._entries for name in mailboxes), "a mailbox knows itself what was lost"
        lost = [self.floor, *[known >> 1 for known in self._entries.numbers()]]
        assert max(lost) <= last, "no loss is of what comes"
