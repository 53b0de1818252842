"""Namespaces: what holds for the mailboxes of a pattern, in the place of the server's own bounds.

``Namespaces.of`` returns what was set for a recipient. A store makes ``bounds`` of them once, and asks those
for each push. Where there are no namespaces nothing is looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from msgspec import Struct

from ..errors import BadRecipient, BodyTooLarge
from ..limits import Limits
from .arguments import check_overflow
from .message import Push
from .recipient import covering, readable

T = TypeVar("T")

Overflow: TypeAlias = Literal["reject", "drop-oldest"]


_NUMBERS: tuple[tuple[str, Any, int], ...] = (
    ("capacity", int, 50),
    ("capacity_bytes", int, 65_536),
    ("ttl", (int, float), 3_600),
    ("max_body", int, 1_024),
    ("unread_after", (int, float), 600),
)
"""The numbers of a namespace, what they are, and an example of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """What is set for the mailboxes of a pattern; None where the server's own holds.

    ``ttl`` and ``unread_after`` are in seconds, ``capacity_bytes`` and ``max_body`` in bytes. Raises
    ``TypeError`` or ``ValueError`` for what none of them can be.
    """

    capacity: int | None = None
    """Messages in one mailbox."""
    capacity_bytes: int | None = None
    """Bytes of bodies in one mailbox."""
    ttl: float | None = None
    """How long a message is kept at most."""
    overflow: Overflow | None = None
    """What a full mailbox does with a push that does not say."""
    max_body: int | None = None
    """Bytes of one push's body."""
    presence: bool | None = None
    """Whether it is known who reads."""
    unread_after: float | None = None
    """After how long a message that no reader has fetched is reported."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, kind, example in _NUMBERS:
            value: Any = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, kind):
                raise TypeError(f"{name} of a namespace is a number, as in {name}={example}, not {value!r}.")
            if not 0 < value < inf:
                raise ValueError(f"{name} of a namespace is a number above 0, not {value!r}.")
        if self.overflow is not None:
            check_overflow(self.overflow)
        if self.presence not in {None, True, False}:
            raise TypeError(f"presence of a namespace is True or False, not {self.presence!r}.")


_NOTHING_SET = Namespace()
_EXAMPLE = "{'chat/**': Namespace(ttl=60)}"


class MailboxBounds(Struct, frozen=True, gc=False):
    """The bounds of one mailbox, all of them known; ``ttl`` is in seconds."""

    capacity: int
    capacity_bytes: int
    ttl: float
    overflow: Overflow

    def kept_for(self, push: Push) -> float:
        """Return for how many seconds a push is kept."""
        return self.ttl if push.ttl is None else min(push.ttl, self.ttl)

    def rejects(self, push: Push) -> bool:
        """Return whether a full mailbox refuses the push."""
        return (push.overflow or self.overflow) == "reject"


class MostSpecific(Generic[T]):
    """A table by patterns: for a recipient, the entry of the most specific pattern that covers it.

    A name is more specific than a pattern, more segments than fewer, and ``chat/*`` than ``chat/**``.
    ``otherwise`` is the entry of a recipient that none of the patterns covers.
    """

    def __init__(self, entries: Mapping[str, T], otherwise: T) -> None:
        self._entries = dict(entries)
        self._otherwise = otherwise

    def of(self, recipient: str) -> T:
        """Return the entry for a recipient."""
        entries = self._entries
        for key in covering(recipient):  # the most specific first
            if key in entries:
                return entries[key]
        return self._otherwise


class Namespaces:
    """The namespaces of a server, by their patterns. Names that begin with ``$`` are in none.

    Of several that cover a recipient the most specific counts, and nothing of the others. Raises
    ``ValueError`` for what is no pattern, and ``TypeError`` for what is no namespace.
    """

    def __init__(self, namespaces: Mapping[str, Namespace]) -> None:
        if not isinstance(namespaces, Mapping):
            raise TypeError(f"namespaces is a dict, as in {_EXAMPLE}, not {namespaces!r}.")
        for pattern, namespace in namespaces.items():
            check_pattern(pattern)
            if not isinstance(namespace, Namespace):
                raise TypeError(f"A namespace is a Namespace, as in {_EXAMPLE}, not {namespace!r}.")
        self._given = dict(namespaces)
        self.of = MostSpecific(self._given, _NOTHING_SET).of
        """Returns what is set for a recipient."""

    def sets(self, name: str) -> bool:
        """Return whether one of them sets the field of this name."""
        return any(getattr(one, name) is not None for one in self._given.values())

    def has_presence(self, recipient: str, own: bool) -> bool:
        """Return whether it is known who reads a recipient; ``own`` is so of those in no namespace."""
        set_to = self.of(recipient).presence
        return own if set_to is None else set_to

    def bounds(self, own: MailboxBounds) -> MostSpecific[MailboxBounds]:
        """Return the bounds of mailboxes, where ``own`` are those of a mailbox in no namespace."""
        given = {
            pattern: MailboxBounds(
                one.capacity or own.capacity,
                one.capacity_bytes or own.capacity_bytes,
                one.ttl or own.ttl,
                one.overflow or own.overflow,
            )
            for pattern, one in self._given.items()
        }
        return MostSpecific(given, own)

    def largest_body(self, own: int) -> int:
        """Return the bytes of the largest body that any recipient takes; ``own`` is that of most."""
        return max([own, *[one.max_body for one in self._given.values() if one.max_body is not None]])

    def body_bound(self, recipients: Iterable[str], own: int) -> int:
        """Return the bytes of a body that each of the recipients takes."""
        return min([self.of(recipient).max_body or own for recipient in recipients], default=own)

    def check_body(self, push: Push, own: int) -> None:
        """Raise ``BodyTooLarge`` where a push has more than one of its recipients takes."""
        size = sum([len(content.body) for content in push.contents])
        for recipient in push.recipients:
            most = self.of(recipient).max_body or own
            if size > most:
                raise BodyTooLarge(f"A body for {recipient!r} has at most {most} bytes here.")


def own_bounds(limits: Limits, overflow: str) -> MailboxBounds:
    """Return the bounds of a mailbox that is in no namespace."""
    return MailboxBounds(
        limits.capacity,
        limits.capacity_bytes,
        limits.ttl,
        "drop-oldest" if overflow == "drop-oldest" else "reject",
    )


def check_pattern(pattern: str) -> None:
    """Raise ``ValueError`` where a namespace cannot have this pattern, or name."""
    if not isinstance(pattern, str):
        raise TypeError(f"The pattern of a namespace is a str, as in 'chat/**', not {pattern!r}.")
    try:
        readable(pattern)
    except BadRecipient as error:
        raise ValueError(f"{pattern!r} is no recipient or pattern: {error.detail}") from None
