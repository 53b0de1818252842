"""Bayeux clients that shook hands: what each reads, its place in the one order, and the browser it is in.

A session is what it reads and one place in the one order; nothing is queued for it. Everything up to its
place was delivered; under the acknowledgement extension, was confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..core.message import NOW, Cursor, Message
from ..core.recipient import covering
from ..core.sessions import Quota, Session, Sessions, new_id
from ..errors import ServerFull
from .options import BayeuxOptions

PRIVATE = "$bayeux/"
"""The recipients of what is for one session only; its id follows. Their bodies are whole Bayeux messages."""

MULTIPLE_CLIENTS_INTERVAL = 2_000
"""Milliseconds between the polls of a browser's further clients, which are not held (CometD's default)."""


class BrowserFull(ServerFull):
    """A browser has as many sessions as it may."""


@dataclass(slots=True, eq=False)
class Browser:
    """What is known of a browser: how many sessions it has, and how many of their connects are held."""

    name: str
    sessions: int = 0
    held: int = 0


class BayeuxSession(Session):
    """A client that shook hands. ``recipients`` are what it subscribed to, as names and patterns.

    ``place`` is ``NOW`` until it reads anything. A subscription counts from when it was made, though the
    session's place may lie before: ``since`` has the sequence number for each of which that is so.
    """

    __slots__ = (
        "ack", "ack_batch", "ack_place", "alive", "answering", "browser", "connected", "gap", "keys",
        "patterned", "private", "reader", "reads", "since", "throttled",
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
        self.gap = False
        """Whether the notice that it missed something is still to be delivered."""
        self.private = False
        """Whether there may be something for it alone."""
        self.answering = 0
        """How many answers to its requests are being made, which may carry its events."""
        self.throttled = False
        """Whether it was advised that its browser has several clients."""
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

    def go_back(self, place: Cursor, since: dict[str, int]) -> None:
        """Note that what came after a place was not delivered; ``since`` is what it was at that place."""
        self.place = place
        self.since = since | self.since

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


class BayeuxSessions(Sessions[BayeuxSession]):
    """The sessions of one server, their browsers, and what their clients are advised."""

    def __init__(self, most: int, options: BayeuxOptions) -> None:
        super().__init__(most)
        self.options = options
        self.prefix = ""
        """What the ids of new sessions begin with."""
        self._browsers: dict[str, Browser] = {}
        self._ttl = options.max_interval + options.interval / 1000

    def greet(self, name: str, now: float, share: Quota | None, *, ack: bool) -> BayeuxSession:
        """Begin a session of the browser with this name, that counts against ``share``.

        Raises ``BrowserFull``, ``ServerFull`` or ``TooManyRequests``.
        """
        browser = self._browsers.get(name) or Browser(name)
        most = self.options.browser_sessions
        if browser.sessions >= most:
            raise BrowserFull(f"This browser has {most} sessions, which is the bound.")
        session = BayeuxSession(self.prefix + new_id(), self._ttl, browser, ack=ack)
        session.share = share
        self.add(session, now)
        self._browsers[name] = browser
        browser.sessions += 1
        return session

    def remove(self, session: BayeuxSession) -> None:
        """Forget a session, and its browser where that has no other."""
        super().remove(session)
        if not session.alive:
            return  # two requests may have said goodbye
        session.alive = False
        browser = session.browser
        browser.sessions -= 1
        if not browser.sessions:
            del self._browsers[browser.name]

    def subscribe(self, session: BayeuxSession, recipients: tuple[str, ...]) -> None:
        """Set what a session subscribes to. Raises ``ServerFull``."""
        self.change(session, recipients)
        session.subscribed(recipients)

    def throttle(self, session: BayeuxSession) -> dict[str, Any]:
        """Give a session whose connect is not held more time between two; return what advises that."""
        session.throttled = True
        session.ttl = self.options.max_interval + MULTIPLE_CLIENTS_INTERVAL / 1000
        return {**self.advice(MULTIPLE_CLIENTS_INTERVAL), "multiple-clients": True}

    def unthrottle(self, session: BayeuxSession) -> dict[str, Any]:
        """Undo that; return what advises so."""
        session.throttled = False
        session.ttl = self._ttl
        return self.advice()

    def advice(self, interval: int | None = None) -> dict[str, Any]:
        """Return what clients are advised ("The advice field"); CometD's know maxInterval too."""
        options = self.options
        return {
            "reconnect": "retry",
            "interval": options.interval if interval is None else interval,
            "timeout": int(options.timeout * 1000),
            "maxInterval": int(options.max_interval * 1000),
        }
