"""The hooks of an embedding program: what happens in a hub arrives, and the program's functions are called.

A hook is called a moment later, in a turn of the reactor of its own, in the order in which things happened:
so it may push, poll and delete as it likes, and meets nothing that is half done. One that raises, or whose
Deferred or coroutine fails, is logged and harms nobody. A hub without hooks knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..deferreds import MaybeDeferred, chain
from .hub import Hub
from .message import Message, Push, Receipt
from .registry import Parked, Registry

T = TypeVar("T")

OnPush: TypeAlias = Callable[[Message], object]
"""Called with each message that this process has accepted, over whatever road, once it has woken who waited.

A push that is repeated under its idempotency key, or that ``queue=no`` kept for nobody, is none.
"""

OnReader: TypeAlias = Callable[[tuple[str, ...]], object]
"""Called with the recipients and patterns that a reader names: a poll, a stream, a socket, a session."""


class Calls:
    """Calls hooks, each a moment after it was asked for, in order."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: list[tuple[Callable[[Any], object], Any]] = []

    def add(self, hook: Callable[[T], object], what: T) -> None:
        """Call ``hook`` with ``what`` in the reactor's next turn."""
        if not self._waiting:
            self._clock.callLater(0, self._call)
        self._waiting.append((hook, what))

    def _call(self) -> None:
        calls, self._waiting = self._waiting, []
        for hook, what in calls:
            maybeDeferred(hook, what).addErrback(partial(self.log.failure, "A hook failed"))


class HookedHub(Hub):
    """A hub that tells of each message it has accepted."""

    def __init__(self, calls: Calls, on_push: OnPush, *given: Any, **words: Any) -> None:
        super().__init__(*given, **words)
        self._calls = calls
        self._on_push = on_push

    def _woken(
        self, delivered: int, messages: Sequence[Message], push: Push, created_at: float, began: float
    ) -> MaybeDeferred[Receipt]:
        receipt = super()._woken(delivered, messages, push, created_at, began)
        return chain(receipt, partial(self._accepted, messages))

    def _accepted(self, messages: Sequence[Message], receipt: Receipt) -> Receipt:
        for message in messages:
            self._calls.add(self._on_push, message)
        return receipt


class HookedRegistry(Registry):
    """A registry that tells of each reader that it holds, and that it holds no longer."""

    def __init__(
        self, calls: Calls, on_park: OnReader | None, on_leave: OnReader | None, *given: Any, **words: Any
    ) -> None:
        super().__init__(*given, **words)
        self._calls = calls
        self._on_park = on_park
        self._on_leave = on_leave

    def hold(self, reader: Parked[T], wait: float | None) -> None:
        """Hold ``reader``, and tell of it."""
        super().hold(reader, wait)
        self._tell(self._on_park, reader)

    def forget(self, reader: Parked[T]) -> None:
        """Take ``reader`` out of every table, and tell of it where it was in one."""
        before = self.parked
        super().forget(reader)
        if self.parked < before:
            self._tell(self._on_leave, reader)

    def _tell(self, hook: OnReader | None, reader: Parked[T]) -> None:
        # What begins with $ is the server's own, as the mailbox of all listeners.
        names = tuple([key for key in reader.keys if not key.startswith("$")])
        if hook is not None and names:
            self._calls.add(hook, names)
