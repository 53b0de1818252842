"""The outbox: the events that wait to be posted, in order.

``LocalOutbox`` is that of one process, which a durable store remembers. ``SharedOutbox`` is in a store that
several processes use: each adds to it, and one of them posts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from math import inf
from secrets import token_hex
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..core.store import SharedStore, Store
from ..deferreds import MaybeDeferred
from ..jsontext import dumps
from ..limits import EVENT_SECONDS, EVENTS_BYTES, EVENTS_WAITING

EVENTS = "event"
"""The kind of the records of events."""


class Event(NamedTuple):
    """An event that waits. ``since`` is when it came, on the clock; ``body`` is its JSON."""

    id: str
    since: float
    body: bytes


@dataclass(slots=True)
class WebhookCounts:
    """The events of webhooks, by what became of them, and the attempts that failed."""

    sent: int = 0
    refused: int = 0
    """The application has refused them with 4xx."""
    expired: int = 0
    """They could not be posted within an hour."""
    dropped: int = 0
    """They were too many to wait."""
    failed: int = 0
    """Attempts that were made again."""
    untracked: int = 0
    """Recipients whose unread messages are not reported, because the table of those that wait is full."""


class Outbox(Protocol):
    """Keeps events until they are done."""

    @property
    def waiting(self) -> int:
        """How many events wait, as far as this process knows."""

    def add(self, event: dict[str, Any]) -> None:
        """Let an event wait."""

    def recall(self) -> None:
        """Bring back the events that the store, which is open now, has remembered."""

    def write(self) -> None:
        """Give a store that was away what it was not given; to be called every few seconds."""

    def first(self, most: int) -> MaybeDeferred[Sequence[Event]]:
        """Return up to so many events, oldest first. Fails with ``StoreDown``."""

    def done(self, events: Sequence[Event]) -> None:
        """Forget events."""


def _ids() -> Iterator[str]:
    """Yield ids of one process, which sort in the order in which they are made."""
    run = token_hex(8)
    for number in count(1):
        yield f"{number:012d}.{run}"


class LocalOutbox:
    """The outbox of one process. At its bound the oldest event goes, which is counted and logged."""

    log = Logger()

    def __init__(self, store: Store, clock: IReactorTime, counts: WebhookCounts) -> None:
        self._store = store
        self._clock = clock
        self._counts = counts
        self._ids = _ids()
        self._events: dict[str, Event] = {}
        self._bytes = 0
        self._is_full = False

    @property
    def waiting(self) -> int:
        return len(self._events)

    def add(self, event: dict[str, Any]) -> None:
        now = self._clock.seconds()
        made = Event(next(self._ids), now, dumps(event))
        self._keep(made)
        self._store.remember(EVENTS, made.id, lambda: made.body, now + EVENT_SECONDS)

    def recall(self) -> None:
        before, self._events, self._bytes = self._events, {}, 0
        for record in sorted(self._store.recall(EVENTS), key=lambda one: (one.expires_at, one.id)):
            self._keep(Event(record.id, record.expires_at - EVENT_SECONDS, record.value))
        for event in before.values():
            self._keep(event)

    def write(self) -> None:
        """Do nothing: the store is here."""

    def first(self, most: int) -> Sequence[Event]:
        return list(islice(self._events.values(), most))

    def done(self, events: Sequence[Event]) -> None:
        for event in events:
            if self._events.pop(event.id, None) is not None:
                self._bytes -= len(event.body)
                self._store.forget(EVENTS, event.id)
        if len(self._events) < EVENTS_WAITING / 2 and self._bytes < EVENTS_BYTES / 2:
            self._is_full = False

    def _keep(self, event: Event) -> None:
        self._events[event.id] = event
        self._bytes += len(event.body)
        while len(self._events) > EVENTS_WAITING or self._bytes > EVENTS_BYTES:
            oldest = next(iter(self._events.values()))
            self.done([oldest])
            self._counts.dropped += 1
            if not self._is_full:
                self._is_full = True
                self.log.error("Too many events wait for the application of --notify-url: the oldest go.")


class SharedOutbox:
    """An outbox that several processes share. The one that posts lets go of the oldest at the bound."""

    log = Logger()

    def __init__(self, store: SharedStore, clock: IReactorTime, counts: WebhookCounts) -> None:
        self._store = store
        self._clock = clock
        self._counts = counts
        self._ids = _ids()
        self._late: deque[Event] = deque()
        """Events that the store, which is away, has not been given."""
        self._late_bytes = 0
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Those that were there when this process looked last."""
        return self._waiting + len(self._late)

    def add(self, event: dict[str, Any]) -> None:
        # Events of one moment are kept in the order of their ids.
        late = Event(next(self._ids), self._clock.seconds(), dumps(event))
        self._late.append(late)
        self._late_bytes += len(late.body)
        while len(self._late) > EVENTS_WAITING or self._late_bytes > EVENTS_BYTES:
            self._next_late()
            self._counts.dropped += 1
        self.write()

    def write(self) -> None:
        """Give the store what it could not be given while it was away."""
        while self._late and self._store.state() == "ok":
            event = self._next_late()
            self._store.remember(EVENTS, event.id, partial(bytes, event.body), event.since + EVENT_SECONDS)
            self._store.notify(EVENTS, event.id)

    def _next_late(self) -> Event:
        event = self._late.popleft()
        self._late_bytes -= len(event.body)
        return event

    def recall(self) -> None:
        """Do nothing: all of them are looked up."""

    def first(self, most: int) -> Deferred[Sequence[Event]]:
        return Deferred.fromCoroutine(self._first(most))

    async def _first(self, most: int) -> Sequence[Event]:
        claims = self._store.claims
        self._waiting = await claims.count(EVENTS)
        surplus = self._waiting - EVENTS_WAITING
        if surplus > 0:
            await self._drop(surplus)
        records = await claims.records(EVENTS, inf, most)
        return [Event(record.id, record.expires_at - EVENT_SECONDS, record.value) for record in records]

    async def _drop(self, surplus: int) -> None:
        records = await self._store.claims.records(EVENTS, inf, min(surplus, 1_000))
        self._counts.dropped += len(records)
        self.log.error(
            "Too many events wait for the application of --notify-url: the {count} oldest go.",
            count=len(records),
        )
        for record in records:
            self._store.forget(EVENTS, record.id)

    def done(self, events: Sequence[Event]) -> None:
        for event in events:
            self._store.forget(EVENTS, event.id)
        self._waiting = max(0, self._waiting - len(events))
