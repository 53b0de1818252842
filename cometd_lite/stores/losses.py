"""What a store remembers of messages that it no longer keeps, so that their readers get a gap."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..core.nametable import NameTable
from ..limits import LOSSES_BYTES

_NOTHING = (0, False)


class Losses:
    """Remembers up to where messages were lost, for patterns and for mailboxes that are no more.

    Bounded: beyond ``most`` entries, and ``LOSSES_BYTES``, the oldest is forgotten. A name without an entry
    then has a gap below the highest number that was forgotten: sometimes one gap too many, never one too few.
    Only takes, which have no cursor to compare, get no gap for what was forgotten.
    """

    def __init__(self, most: int) -> None:
        self.floor = 0
        self.on_forget: Callable[[str], object] | None = None
        """Called with the name of an entry that had to go."""
        self._entries: NameTable[tuple[int, bool]] = NameTable(most, LOSSES_BYTES)

    def note(self, name: str, sequence: int, *, missed: bool = False) -> None:
        """Note that a message was lost, and whether a take ``missed`` it."""
        known = self._entries.get(name, _NOTHING)
        if known is _NOTHING and sequence <= self.floor and not missed:
            return  # every name without an entry gets a gap
        for forgotten, (lost, _) in self._entries.set(name, (max(known[0], sequence), missed)):
            self.floor = max(self.floor, lost)
            if self.on_forget is not None:
                self.on_forget(forgotten)

    def recall(self, name: str) -> tuple[int, bool]:
        """Return, and forget, what a mailbox that comes to life again must know."""
        return self._entries.pop(name, (self.floor, False))

    def miss(self, name: str, sequence: int) -> None:
        """Note that a take gave back a message; where it was lost meanwhile, no take has had it."""
        lost, missed = self.entry(name)
        if sequence <= lost and not missed:
            self._entries.change(name, (lost, True))

    def entry(self, name: str) -> tuple[int, bool]:
        """Return what is remembered of a name."""
        return self._entries.get(name, _NOTHING)

    def since(self, name: str, after: int) -> bool:
        """Return whether a message after a number was lost."""
        return after < self._entries.get(name, (self.floor, False))[0]

    def forgive(self, name: str) -> bool:
        """Return whether a take missed something, and forget it: the next one gets no gap."""
        sequence, missed = self.entry(name)
        if missed:
            self._entries.change(name, (sequence, False))
        return missed

    def check_invariants(self, mailboxes: Collection[str], last: int) -> None:
        """See ``MemoryStore.check_invariants``; ``last`` is the last number given."""
        self._entries.check_invariants()
        assert set(self._entries).isdisjoint(mailboxes), "a mailbox knows itself what was lost"
        lost = [self.floor, *[sequence for sequence, _ in self._entries.values()]]
        assert max(lost) <= last, "no loss is of what comes"
