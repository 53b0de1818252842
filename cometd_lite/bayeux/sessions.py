"""Bayeux clients that shook hands: what each reads, its place in the one order, and the browser it is in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core.message import NOW, Cursor, Message
from ..core.recipient import covering
from ..core.sessions import Session

PRIVATE = "$bayeux/"
"""The recipients of what is for one session only; its id follows. Their bodies are whole Bayeux messages."""


class Browser:
    """What is known of a browser: how many sessions it has, and how many of their connects are held."""

    __slots__ = ("held", "name", "sessions")

    def __init__(self, name: str) -> None:
        self.name = name
        self.sessions = 0
        self.held = 0


class BayeuxSession(Session):
    """A client that shook hands. ``recipients`` are what it subscribed to, as names and patterns.

    ``place`` is ``NOW`` until it reads anything. A subscription counts from when it was made, though the
    session's place may lie before: ``since`` has the sequence number for each of which that is so.
    """

    __slots__ = (
        "ack", "ack_batch", "ack_place", "alive", "browser", "connected", "crowded", "gap", "keys",
        "patterned", "private", "reader", "reads", "since", "talking",
    )  # fmt: skip

    def __init__(self, id: str, ttl: float, browser: Browser, *, ack: bool) -> None:  # noqa: A002
        super().__init__(id, (), NOW, ttl)
        self.browser = browser
        self.ack = ack
        self.ack_batch = 0
        """The number of the last batch that was sent; the client confirms it with its next connect."""
        self.ack_place: Cursor | None = None
        """Where that batch ended."""
        self.alive = True
        """Whether the server still knows it."""
        self.connected = False
        """Whether a first connect was answered."""
        self.crowded = False
        """Whether it was told that its browser has several clients."""
        self.gap = False
        """Whether it is still to be told that it missed something."""
        self.private = False
        """Whether there may be something for it alone."""
        self.talking = 0
        """How many of its requests are being processed, whose answers may carry its events."""
        self.since: dict[str, int] = {}
        self.reader: Any = None
        """Its parked connect, or its socket."""
        self.subscribed(())

    def subscribed(self, recipients: tuple[str, ...]) -> None:
        """Set what it subscribes to."""
        self.recipients = recipients
        self.patterned = any(name.endswith("*") for name in recipients)
        self.reads = (*recipients, PRIVATE + self.id) if self.private else recipients
        # Every reader stands at some key, so that the end of the server finds it.
        self.keys = self.reads or (PRIVATE + self.id,)

    def without(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the names to which it has not subscribed yet, each once."""
        return tuple(dict.fromkeys([name for name in names if name not in self.recipients]))

    def open_private(self) -> None:
        """Read also what is for it alone, from now on."""
        self.private = True
        self.subscribed(self.recipients)

    def advance(self, cursor: Cursor) -> None:
        """Note that it has everything up to a cursor; never goes back."""
        number = cursor.sequence
        if cursor.epoch != self.place.epoch:
            self.since.clear()
        elif number < self.place.sequence:
            return
        elif self.since:
            self.since = {name: since for name, since in self.since.items() if since > number}
        self.place = cursor

    def confirm(self, number: Any) -> None:
        """Let go of what the client says it has ("Acknowledge Extension"); the rest will be sent again."""
        if (
            isinstance(number, int)
            and not isinstance(number, bool)
            and self.ack_place is not None
            and number >= self.ack_batch
        ):
            self.advance(self.ack_place)
            self.ack_place = None

    def wants(self, message: Message) -> bool:
        """Whether one of its subscriptions to the message is older than the message."""
        since = self.since
        number = message.sequence
        return any(since.get(name, 0) < number for name in covering(message.recipient) if name in self.reads)
