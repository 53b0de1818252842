"""Who knows whose absence was reported: one process for itself, or the processes at one store together.

``unread`` finds the absences, and reports each once.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from .. import limits
from ..core.nametable import NameTable
from ..core.recipient import is_hidden, is_pattern
from ..core.store import SharedStore, Store
from ..deferreds import MaybeDeferred
from ..jsontext import dumps

ABSENCES = "absent"
"""The kind of the records of recipients whose absence was reported."""

WAITS = "unread"
"""The kind of the records of recipients whose readers a process of a cluster waits for."""


class Absences(Protocol):
    """Knows whose absence was reported."""

    def recall(self) -> None:
        """Bring back what the store, which is open now, has remembered."""

    def is_reported(self, recipient: str) -> bool:
        """Return whether it is known here that the absence was reported."""

    def claim(self, recipient: str, at: float, seen: float) -> MaybeDeferred[bool]:
        """Note that an absence that was found at ``at`` is reported; return whether it is a new one.

        It is not new where one is noted that was found after a reader was last ``seen``. Both are times on
        the clock. Fails with ``StoreDown``.
        """

    def ended(self, keys: tuple[str, ...]) -> None:
        """Note that a reader of recipients and patterns is there."""

    def begun(self, recipient: str, message: str, at: float, due: float) -> None:
        """Note that a recipient is waited for until ``due``, on the clock, because of a message of ``at``."""

    def settled(self, recipient: str) -> None:
        """Note that it is waited for no longer."""


class LocalAbsences:
    """The absences that one process reports. A durable store remembers those that were reported.

    Of too many, the oldest is forgotten. What waits is found in the mailboxes after a restart, so it need not
    be remembered.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reported: NameTable[bool] = NameTable(limits.UNREAD_BYTES, limits.UNREAD_BYTES)

    def recall(self) -> None:
        for record in self._store.recall(ABSENCES):
            self._add(record.id)

    def is_reported(self, recipient: str) -> bool:
        return recipient in self._reported

    def claim(self, recipient: str, at: float, seen: float) -> bool:  # noqa: ARG002  for a cluster
        if recipient in self._reported:
            return False
        self._store.remember(ABSENCES, recipient, bytes, inf)
        self._add(recipient)
        return True

    def _add(self, recipient: str) -> None:
        for forgotten, _ in self._reported.set(recipient, True):
            self._store.forget(ABSENCES, forgotten)

    def ended(self, keys: tuple[str, ...]) -> None:
        if self._reported:
            for key in keys:
                if self._reported.pop(key, False):
                    self._store.forget(ABSENCES, key)

    def begun(self, recipient: str, message: str, at: float, due: float) -> None:
        """Do nothing."""

    def settled(self, recipient: str) -> None:
        """Do nothing."""


class SharedAbsences:
    """The absences that the processes at one store report together: the first that claims one reports it."""

    def __init__(self, store: SharedStore, clock: IReactorTime, after: Callable[[str], float | None]) -> None:
        self._store = store
        self._clock = clock
        self._after = after
        self._here: NameTable[float] = NameTable(limits.UNREAD_BYTES, limits.UNREAD_BYTES)
        """When readers were last here, by their keys: their absences have ended."""

    def recall(self) -> None:
        """Take notices of others from now on. What was reported is looked up."""
        self._store.on_notice(ABSENCES, self._noted)

    def is_reported(self, recipient: str) -> bool:  # noqa: ARG002  as in one process
        """Return False: only the store knows."""
        return False

    def claim(self, recipient: str, at: float, seen: float) -> MaybeDeferred[bool]:
        # A reader may come while its absence is claimed, or before its process is notified of the claim.
        seconds = limits.UNREAD_REPORTED_SECONDS
        claimed = self._store.claims.note(ABSENCES, recipient, seconds, at, seen)
        return claimed.addCallback(self._claimed, recipient)

    def _claimed(self, is_new: bool, recipient: str) -> bool:
        if is_new:
            self._noted(recipient)
            self._store.notify(ABSENCES, recipient)
        return is_new

    def _noted(self, recipient: str) -> None:
        """Note that the next reader that comes, at whichever process, ends an absence."""
        self._here.pop(recipient, 0.0)

    def ended(self, keys: tuple[str, ...]) -> None:
        """Ask the store once while a reader comes again and again."""
        now = self._clock.seconds()
        for key in keys:
            if is_hidden(key) or is_pattern(key) or self._after(key) is None:
                continue
            if now - self._here.get(key, -inf) > limits.UNREAD_HERE_SECONDS:
                self._store.forget(ABSENCES, key)
            self._here.set(key, now)

    def begun(self, recipient: str, message: str, at: float, due: float) -> None:
        """Let another process take over what this one leaves."""
        self._store.remember(WAITS, recipient, lambda: dumps([message, at]), due + limits.EVENT_SECONDS)

    def settled(self, recipient: str) -> None:
        self._store.forget(WAITS, recipient)
