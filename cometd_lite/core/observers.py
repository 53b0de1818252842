"""Observers: an embedding program's functions are called with what happens in a hub.

An observer is called in a later turn of the reactor, in the order in which things happened. So it may push,
poll and delete as it likes, and never meets a half-done push. One that raises, or whose Deferred or coroutine
fails, is logged, and nothing else comes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .hub import Hub
from .message import Message
from .parked import ParkedReader
from .presence import PresenceTracker
from .recipient import PRESENCE

T = TypeVar("T")

OnPush: TypeAlias = Callable[[Message], object]
"""Called with each message that this process has accepted, once it has woken the readers that wait.

A push that is repeated under its idempotency key, or that ``queue=no`` did not keep, is none.
"""

OnReader: TypeAlias = Callable[[tuple[str, ...]], object]
"""Called with the recipients and patterns that a reader names: a poll, a stream, a socket, a session."""


class UnreadObserver(Protocol):
    """What finds messages that no reader has fetched. Its functions must not raise."""

    def pushed(self, message: Message) -> None:
        """Note a message that was accepted."""

    def arrived(self, reader: ParkedReader[Any]) -> None:
        """Note a reader that is there."""


def observe(
    hub: Hub,
    *,
    on_push: OnPush | None = None,
    on_park: OnReader | None = None,
    on_leave: OnReader | None = None,
    presence: PresenceTracker | None = None,
    unread: UnreadObserver | None = None,
) -> None:
    """Have a program's functions, presence and webhooks called with what happens in the hub."""
    calls = _LaterCalls(hub.clock)
    registry = hub.registry
    if on_push is not None:
        hub.on_push = partial(_pushed, calls, on_push)
    if on_park is not None:
        registry.on_park = partial(_named, calls, on_park)
    if on_leave is not None:
        registry.on_leave = partial(_named, calls, on_leave)
    if presence is not None:
        registry.on_park = _both(presence.arrived, registry.on_park)
        registry.on_leave = _both(presence.departed, registry.on_leave)
        registry.on_visit = presence.visited
    if unread is not None:
        hub.on_push = _both(unread.pushed, hub.on_push)
        registry.on_park = _both(unread.arrived, registry.on_park)
        registry.on_visit = _both(unread.arrived, registry.on_visit)


def _both(first: Callable[[T], object], second: Callable[[T], object] | None) -> Callable[[T], object]:
    """Return a function that calls both observers."""
    if second is None:
        return first

    def call(happened: T) -> None:
        first(happened)
        second(happened)

    return call


def _pushed(calls: _LaterCalls, observer: OnPush, message: Message) -> None:
    """Call an observer of pushes, unless the message is one of the server's own, about presence."""
    if not message.recipient.startswith(PRESENCE):
        calls.add(observer, message)


def _named(calls: _LaterCalls, observer: OnReader, reader: ParkedReader[Any]) -> None:
    """Call an observer of readers, if they name a recipient that is not the server's own."""
    names = tuple([key for key in reader.keys if not key.startswith("$")])
    if names:
        calls.add(observer, names)


class _LaterCalls:
    """Calls functions in the next turn of the reactor, in order."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: list[tuple[Callable[[Any], object], Any]] = []

    def add(self, function: Callable[[T], object], argument: T) -> None:
        """Call ``function`` with ``argument`` in the next turn."""
        if not self._waiting:
            self._clock.callLater(0, self._call)
        self._waiting.append((function, argument))

    def _call(self) -> None:
        calls, self._waiting = self._waiting, []
        for function, argument in calls:
            maybeDeferred(function, argument).addErrback(partial(self.log.failure, "A hook failed"))
