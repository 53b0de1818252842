"""What is said of presence, and the seam between the table of one process and what announces its changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct
from twisted.internet.interfaces import IReactorTime

from ..deferreds import MaybeDeferred
from .counts import Counts


class PresentMember(Struct, frozen=True, gc=False):
    """A name that reads a recipient: since when, in seconds since 1970, and by how many readers."""

    name: str
    since: float
    readers: int


class Present(Struct, frozen=True):
    """Who reads a recipient, those who came first in front.

    ``readers`` counts the readers without a name too, and those of patterns. ``more``: there are further
    members.
    """

    recipient: str
    readers: int
    members: tuple[PresentMember, ...]
    more: bool = False


class PresenceChange(Struct, frozen=True, gc=False):
    """A name that joined or left a recipient, and how many readers there are now. ``at`` is a date."""

    event: Literal["join", "leave"]
    recipient: str
    name: str
    readers: int
    at: float


OnChange: TypeAlias = Callable[[PresenceChange], object]
"""Called with each join and leave that this process announces. It must not raise.

A shared store has then kept the event for webhooks, in the step that found it.
"""


class Announcer(Protocol):
    """Announces changes, and knows the readers of a recipient at all processes."""

    on_change: OnChange | None

    def changed(self, recipient: str, name: str | None, before: int) -> None:
        """Note that a name has not ``before`` readers any more; ``PresentReaders.count`` returns how many."""

    def left(self, recipient: str, name: str) -> None:
        """Note that a name has said that it leaves, whichever process its last readers were at."""

    def describe(self, recipient: str) -> MaybeDeferred[Present]:
        """Say who reads a recipient."""

    def stop(self) -> None:
        """Announce nothing any more, and leave no timer behind."""


class PresentReaders(Protocol):
    """The readers of this process, as an announcer sees them."""

    clock: IReactorTime
    counts: Counts
    wall: Callable[[], float]

    def names(self) -> Iterable[tuple[str, str | None]]:
        """Return each recipient or pattern with each name, or None, that reads it."""

    def count(self, recipient: str, name: str | None) -> int:
        """Count the readers of a name."""

    def replaced(self, recipient: str, name: str | None, most: int) -> bool:
        """Let up to ``most`` of the readers that have left be present no more: they are elsewhere.

        Return whether the place of one that has left a moment ago was taken here by another: that one has
        left its own place elsewhere.
        """

    def dismiss(self, recipient: str, name: str) -> None:
        """Let a name leave, as one that has said so elsewhere."""
