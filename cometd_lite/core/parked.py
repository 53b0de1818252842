"""A parked reader is a Deferred, and a wake makes parked readers look for what there is.

``registry.py`` has the places at which readers are parked, and starts the wakes. ``readers.py`` has the
readers of a store.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import perf_counter, thread_time
from typing import Any, Protocol, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..deferreds import ParkedDeferred, is_pending
from ..limits import SLICE_SECONDS

T = TypeVar("T")

_UNTIMED = 8
"""So many readers look without a look at the clock: most take 10 µs, those that render much some ms."""


class Parking(Protocol):
    """What a parked reader needs of the registry."""

    def forget(self, reader: ParkedReader[Any]) -> None:
        """Take the reader out of every place."""

    def move(self, reader: ParkedReader[Any], keys: tuple[str, ...]) -> None:
        """Let the reader wait at other keys."""

    def set_wait(self, reader: ParkedReader[Any], wait: float | None) -> None:
        """Let the reader wait for another ``wait`` seconds, None for as long as it likes."""

    def look_soon(self, reader: ParkedReader[Any]) -> None:
        """Make the reader look again in the next turn of the reactor."""


class ParkedReader(ParkedDeferred[T]):
    """A Deferred that is parked: a push finds it at its ``keys``.

    Subclasses say what it is answered with. It ends once, by ``answer``, ``refuse`` or ``cancel``, and has
    left the registry before it fires. ``registry`` is None while it is not parked.
    """

    takes = 0
    """How many messages it takes away at most, which then go to no other reader that takes; 0 for none."""
    acks: bool = True
    """Whether what it reads counts as read: else it only watches."""
    admission: Hashable = None
    """What let it in, for ``Registry.revoke``; None where nothing can take that back."""
    name: str | None = None
    """The name under which it is present; None where it has none, or where presence is off."""
    uncounted: tuple[str, ...] = ()
    """The keys at which it is not counted as present, because the table of those was full."""
    on_revoked: Callable[[], object] | None = None
    """What ends it then; None for what ends its wait."""
    registry: Parking | None = None
    _ends_at: float | None = None

    def __init__(self, keys: tuple[str, ...]) -> None:
        ParkedDeferred.__init__(self, _leave)  # super() takes 0.05 µs more, and there is one of these a poll
        self.keys = keys

    def come_back(self) -> bool:
        """Acknowledge what was sent, where the reader stays parked meanwhile; return whether it did."""
        return False

    def can_receive(self) -> bool:
        """Return whether a wake now would make it look."""
        return True

    def look(self, wake: Wake) -> None:
        """Look for what there is now, and answer with it if there is something. Must not raise."""
        raise NotImplementedError

    def end(self) -> None:
        """Answer with nothing: the wait is over, or the server stops."""
        raise NotImplementedError

    def revoke(self) -> None:
        """End: what let it in does so no more."""
        (self.on_revoked or self.end)()

    def leave(self) -> None:
        """Leave the registry. This is also the canceller; it must not raise."""
        if self.registry is not None:
            self.registry.forget(self)

    def abandon(self) -> None:
        """End what is done for the client, which has disconnected. It must not raise."""

    def answer(self, result: T) -> None:
        """Leave the registry, and fire with ``result``, unless it has fired."""
        self.leave()
        if not self.called:
            self.callback(result)

    def refuse(self, error: Exception | Failure) -> None:
        """Leave the registry, and fail with ``error``, unless it has fired."""
        self.leave()
        if not self.called:
            self.errback(error)


def _leave(reader: Deferred[Any]) -> None:
    assert isinstance(reader, ParkedReader)
    reader.leave()
    reader.abandon()


class TurnSlice:
    """The time that a turn of the reactor has for long work: ``SLICE_SECONDS`` of this thread's CPU time."""

    __slots__ = ("_cpu_until", "_until")

    def __init__(self) -> None:
        self._until = perf_counter() + SLICE_SECONDS
        self._cpu_until = thread_time() + SLICE_SECONDS

    def is_over(self) -> bool:
        """Return whether the time is over.

        The thread's own time takes a system call, which was a fifth of a delivery to a stream. It is asked
        only once the time of the wall is over.
        """
        return perf_counter() > self._until and thread_time() > self._cpu_until


class Wake(Struct, eq=False):
    """One wake that is under way: the readers that have still to look, and their reads that are pending."""

    left: list[ParkedReader[Any]]
    """The readers that have still to look."""
    pending: int = 0
    """The reads that are pending."""
    shared: dict[Hashable, Any] | None = None
    """What the readers of the present slice have read, by their question: those that ask the same share one
    read and its rendering. None where one reader alone is woken."""
    _on_end: list[Callable[[], object]] | None = None

    def run(self, most: int) -> int:
        """Let up to ``most`` further readers look, fewer where they take long; return how many did."""
        if self.shared is not None or len(self.left) > 1:
            return self._run_slice(most)
        reader = self.left.pop()
        if reader.registry is not None:  # else it was answered, or its client disconnected
            reader.look(self)
        if self._on_end is not None:
            self._end_if_done()
        return 1

    def _run_slice(self, most: int) -> int:
        turn = TurnSlice() if len(self.left) > _UNTIMED else None
        shared = self.shared = {}
        done = 0
        for done, reader in enumerate(self.left[:most], 1):
            if reader.registry is not None:  # as above
                reader.look(self)
            if turn is not None and not done % _UNTIMED and turn.is_over():
                break
        del self.left[:done]
        for found in shared.values():
            if is_pending(found):
                found.addErrback(_handled)
        shared.clear()
        if self._on_end is not None:
            self._end_if_done()
        return done

    @property
    def has_ended(self) -> bool:
        """Whether all readers have looked, and read what they looked for."""
        return not self.left and not self.pending

    def when_ended(self, call: Callable[[], object]) -> None:
        """Call something once the wake has ended."""
        if self.has_ended:
            call()
        elif self._on_end is None:
            self._on_end = [call]
        else:
            self._on_end.append(call)

    def arrived(self) -> None:
        """Note that a read that was pending has been delivered."""
        self.pending -= 1
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self.has_ended:
            calls, self._on_end = self._on_end, None
            for call in calls or ():
                call()


def _handled(_: Failure) -> None:
    """Drop a failure that each reader which shared the read has got."""
