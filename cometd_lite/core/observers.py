"""Observers: an embedding program's functions are called with what happens in a hub.

An observer is called in a later turn of the reactor, in the order in which things happened. So it may push,
poll and delete as it likes, and never meets a half-done push. One that raises, or whose Deferred or coroutine
fails, is logged, and nothing else comes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .hub import Hub
from .message import Message

T = TypeVar("T")

OnPush: TypeAlias = Callable[[Message], object]
"""Called with each message that this process has accepted, once it has woken the readers that wait.

A push that is repeated under its idempotency key, or that ``queue=no`` did not keep, is none.
"""

OnReader: TypeAlias = Callable[[tuple[str, ...]], object]
"""Called with the recipients and patterns that a reader names: a poll, a stream, a socket, a session."""


def observe(
    hub: Hub,
    *,
    on_push: OnPush | None = None,
    on_park: OnReader | None = None,
    on_leave: OnReader | None = None,
) -> None:
    """Have a program's functions called with what happens in the hub."""
    calls = _LaterCalls(hub.clock)
    if on_push is not None:
        hub.on_push = partial(calls.add, on_push)
    if on_park is not None:
        hub.registry.on_park = partial(_named, calls, on_park)
    if on_leave is not None:
        hub.registry.on_leave = partial(_named, calls, on_leave)


def _named(calls: _LaterCalls, observer: OnReader, keys: tuple[str, ...]) -> None:
    """Call an observer of readers, if they name a recipient that is not the server's own."""
    names = tuple([key for key in keys if not key.startswith("$")])
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
