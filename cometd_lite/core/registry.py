"""Who is parked: readers arrive and are held here until a push wakes them, their wait is over, or they leave.

The registry owns the Deferreds of parked readers and the timers that end their waits. It knows nothing of
messages: a wake carries no mail, it only makes a reader look again.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import ceil, inf
from random import Random
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from ..deferreds import MaybeDeferred, total
from ..errors import ServerFull
from ..limits import ENDED_PER_SECOND, ONLINE_SECONDS, PRESENCE_SECONDS, WAIT_SPREAD, WOKEN_AT_ONCE
from .recipient import covering

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
Woken: TypeAlias = MaybeDeferred[int]
"""How many readers a wake answered; known only later where they look into a store that waits."""

_TICK = 0.1
"""Waits of many readers end on common ticks, so that there are few times to remember."""

_SOON = 0.001
"""What is due within that is due now: a timer may be early by a rounding error."""

_STALE = 64
"""So many times at which nobody's wait ends any more are kept before they are cleared away."""


class Waiting(Protocol[T_contra]):
    """What a reader's answer is told to: a Deferred, or whatever can do without one."""

    def callback(self, result: T_contra, /) -> object:
        """Take the answer."""

    def errback(self, fail: Any, /) -> object:
        """Take the exception or ``Failure`` that there is instead."""


class Parked(Generic[T]):
    """A reader that is held: the keys at which a push finds it, and the Deferred that will answer it.

    Subclasses say what it is answered with. It ends once, by ``answer``, ``refuse`` or ``cancel``;
    ``deferred`` is None from then on, and it is nowhere any more.
    """

    __slots__ = ("_ends_at", "_registry", "deferred", "keys")

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self.deferred: Waiting[T] | None = None
        self._registry: Registry | None = None
        self._ends_at: float | None = None

    def wake(self) -> Woken:
        """Look for what there is now, and answer with it; return whether there was something."""
        raise NotImplementedError

    def end(self) -> None:
        """Answer with nothing: the wait is over, or the server stops."""
        raise NotImplementedError

    def answer(self, answer: T) -> None:
        """Fire the Deferred with ``answer``, having left the registry first."""
        if self._registry is not None:
            self._registry.forget(self)
        deferred, self.deferred = self.deferred, None
        if deferred is not None:
            deferred.callback(answer)

    def refuse(self, error: Exception | Failure) -> None:
        """Fail the Deferred with ``error``, having left the registry first."""
        if self._registry is not None:
            self._registry.forget(self)
        deferred, self.deferred = self.deferred, None
        if deferred is not None:
            deferred.errback(error)

    def cancel(self, _: object = None) -> None:
        """Forget the reader: nobody waits for it any more.

        This is also the canceller of its Deferred, which itself fires ``CancelledError`` then.
        """
        if self._registry is not None:
            self._registry.forget(self)
        self.deferred = None


class Registry:
    """The table of parked readers, one place for each recipient or pattern.

    ``most`` bounds how many are parked at once; ``random`` spreads the ends of waits.
    """

    def __init__(self, clock: IReactorTime, most: int, random: Random | None = None) -> None:
        self.clock = clock
        self.most = most
        self.parked = 0
        self._random = random or Random()  # noqa: S311  only spreads load; guessing it gains nothing
        self._places: dict[str, dict[Parked[Any], None]] = {}
        self._stars = 0
        """Places whose keys end in ``*``, as all patterns do: without them none need be looked for."""
        self._ends: dict[float, set[Parked[Any]]] = {}
        """Whose waits end at each time."""
        self._times: list[float] = []
        """A heap of these times; at some of them nobody's wait ends any more."""
        self._timer: IDelayedCall | None = None
        """The one delayed call, for the first of them: to have one for each reader costs 2 µs a poll."""
        self._timer_at = inf
        self._seen: dict[str, float] = {}
        """When each recipient was last asked for, longest ago first."""

    def park(self, reader: Parked[T], wait: float | None) -> Deferred[T]:
        """Hold ``reader`` for up to ``wait`` seconds (None: until it is answered or leaves).

        The Deferred fires with what the reader is answered with; cancelling it forgets the reader. Raises
        ``ServerFull`` where as many are parked as may be.
        """
        deferred = reader.deferred = Deferred(reader.cancel)
        self.hold(reader, wait)
        return deferred

    def hold(self, reader: Parked[T], wait: float | None) -> None:
        """Hold a reader that has its ``deferred`` already; see ``park``."""
        if self.parked >= self.most:
            reader.deferred = None  # which nobody will tell, and which may be the reader itself
            raise self.refusal()
        self.parked += 1
        reader._registry = self
        for key in reader.keys:
            place = self._places.get(key)
            if place is not None:
                place[reader] = None
                continue
            self._places[key] = {reader: None}
            if key[-1] == "*":
                self._stars += 1
        if wait is not None:
            self._end_after(reader, wait)

    @property
    def full(self) -> bool:
        """Whether as many are parked as may be."""
        return self.parked >= self.most

    def refusal(self) -> ServerFull:
        """Return what a reader is refused with where as many are parked as may be."""
        return ServerFull(f"{self.most} readers are waiting already, which is the server's bound.")

    def forget(self, reader: Parked[T]) -> None:
        """Take ``reader`` out of every table, and end its timer if nobody shares it."""
        if reader._registry is None:
            return
        reader._registry = None
        self.parked -= 1
        places = self._places
        for key in reader.keys:
            place = places.get(key)
            if place is not None:  # a key that was named twice is gone already
                place.pop(reader, None)
                if not place:
                    del places[key]
                    if key[-1] == "*":
                        self._stars -= 1
                    self._see(key, self.clock.seconds())
        at = reader._ends_at
        if at is not None:
            reader._ends_at = None
            ends = self._ends[at]
            ends.discard(reader)
            if not ends:
                del self._ends[at]
                if not self._ends:
                    self._times.clear()
                    self._set_timer()

    def move(self, reader: Parked[T], keys: tuple[str, ...]) -> None:
        """Let a reader that is held stand at other keys; its wait ends about when it would have."""
        at = reader._ends_at
        self.forget(reader)
        reader.keys = keys
        self.hold(reader, None if at is None else max(0.0, at - self.clock.seconds()))

    def wake(self, recipient: str) -> Woken:
        """Make everyone look again who waits for the recipient; return how many were answered.

        Those who wait are taken out first and called then, in the order in which they came.
        """
        answered = 0
        later: list[Woken] = []
        places = self._places
        for key in covering(recipient) if self._stars else (recipient,):
            place = places.get(key)
            if place is not None:
                for reader in tuple(place):
                    woken = reader.wake()
                    if woken.__class__ is bool:
                        answered += woken
                    else:
                        later.append(woken)
        return total([answered, *later]) if later else answered

    def wake_all(self) -> None:
        """Make everyone look again, some at a time: what was pushed meanwhile, nobody has told."""
        readers = list({reader: None for place in self._places.values() for reader in place})

        def wake_some() -> None:
            some = readers[-WOKEN_AT_ONCE:]
            del readers[-WOKEN_AT_ONCE:]
            for reader in some:
                if reader.deferred is not None:
                    reader.wake()
            if readers:
                self.clock.callLater(0, wake_some)

        wake_some()

    def waiting(self, recipient: str) -> int:
        """Count the readers that a push to the recipient would wake."""
        places = [self._places[key] for key in covering(recipient) if key in self._places]
        return len(places[0]) if len(places) == 1 else len({reader for place in places for reader in place})

    def end_all(self) -> None:
        """End every wait now, as if its time were over."""
        for reader in {reader: None for place in self._places.values() for reader in place}:
            reader.end()

    def end_all_within(self, seconds: float) -> Deferred[None]:
        """End every wait, spread over up to so many seconds; fires once all have ended.

        A server with few readers is not kept from stopping by that.
        """
        readers = list({reader: None for place in self._places.values() for reader in place})
        self._random.shuffle(readers)
        at_once = max(ENDED_PER_SECOND, ceil(len(readers) / seconds) if seconds else len(readers)) * _TICK
        done: Deferred[None] = Deferred()

        def end_some() -> None:
            for _ in range(min(len(readers), ceil(at_once))):
                reader = readers.pop()
                if reader.deferred is not None:
                    reader.end()
            if readers and self.parked:
                self.clock.callLater(_TICK, end_some)
            else:
                done.callback(None)

        end_some()
        return done

    def seen(self, recipients: tuple[str, ...]) -> None:
        """Note that someone asked for the recipients just now."""
        now = self.clock.seconds()
        for recipient in recipients:
            self._see(recipient, now)

    def last_seen(self, recipient: str) -> float | None:
        """Return how many seconds ago a reader of the recipient was here; None: not within an hour."""
        if recipient in self._places:
            return 0.0
        at = self._seen.get(recipient)
        return None if at is None else self.clock.seconds() - at

    def online(self, recipient: str) -> bool:
        """Whether someone waits for the recipient, or was here within the time of a reconnect."""
        ago = self.last_seen(recipient)
        return self.waiting(recipient) > 0 or (ago is not None and ago <= ONLINE_SECONDS)

    def sweep(self) -> None:
        """Forget who was last seen too long ago."""
        old = self.clock.seconds() - PRESENCE_SECONDS
        for recipient in list(self._seen_before(old)):
            del self._seen[recipient]

    def _seen_before(self, old: float) -> Iterator[str]:
        for recipient, at in self._seen.items():
            if at >= old:
                return
            yield recipient

    def _see(self, recipient: str, now: float) -> None:
        seen = self._seen
        seen.pop(recipient, None)
        seen[recipient] = now
        if len(seen) > self.most:
            del seen[next(iter(seen))]

    def _end_after(self, reader: Parked[T], wait: float) -> None:
        """Remember when a reader's wait ends: within ``wait`` seconds, at a moment of its own."""
        latest = self.clock.seconds() + wait
        spread = wait * WAIT_SPREAD
        at = latest - spread * (1 - self._random.random())
        tick = at // _TICK * _TICK
        if tick >= latest - spread:
            at = tick
        reader._ends_at = at
        ends = self._ends.get(at)
        if ends is not None:
            ends.add(reader)
            return
        self._ends[at] = {reader}
        heappush(self._times, at)
        if len(self._times) > 2 * len(self._ends) + _STALE:
            self._times = list(self._ends)
            heapify(self._times)
        if at < self._timer_at:
            self._set_timer()

    def _set_timer(self) -> None:
        """Have the timer fire at the first time; where there is none, have no timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, inf
        if self._times:
            self._timer_at = self._times[0]
            delay = max(0.0, self._timer_at - self.clock.seconds())
            self._timer = self.clock.callLater(delay, self._waits_are_over)

    def _waits_are_over(self) -> None:
        self._timer, self._timer_at = None, inf
        due = self.clock.seconds() + _SOON
        over: list[Parked[Any]] = []
        while self._times and self._times[0] <= due:
            over += self._ends.get(heappop(self._times), ())
        for reader in over:
            if reader._registry is self:
                reader.end()
        if self._timer is None:
            self._set_timer()

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests, between two calls.

        - ``parked`` counts the readers that stand at places, and is at most ``most``.
        - No place is empty, and each reader at a place has the place's key.
        - Each parked reader belongs to this registry, has a Deferred, and stands at each of its keys.
        - Places whose keys end in ``*`` are counted.
        - The ends of waits belong to parked readers, one end to each reader. No end is without a reader.
        - The heap of times begins with its first time, and has each time to come at which a wait ends.
        - There is one timer if the heap has a time, else none. It is due no later than the first time.
        - The recipients last seen are at most ``most``, the longest ago first. None was seen in the future.
        """
        places, ends, times, now = self._places, self._ends, self._times, self.clock.seconds()
        parked = {reader for place in places.values() for reader in place}
        assert self.parked == len(parked), "parked counts the readers that stand at places"
        assert self.parked <= self.most, "at most as many readers are parked as may be"
        assert all(places.values()), "no place is empty"
        for key, place in places.items():
            assert all(key in reader.keys for reader in place), f"{key!r}: each reader has the place's key"
        for reader in parked:
            assert reader._registry is self, "a parked reader belongs to this registry"
            assert reader.deferred is not None, "a parked reader has a Deferred"
            assert all(reader in places.get(key, ()) for key in reader.keys), (
                "a parked reader stands at each of its keys"
            )
        assert self._stars == sum([key[-1] == "*" for key in places]), "places of patterns are counted"
        assert all(ends.values()), "no end of a wait is without a reader"
        for at, ending in ends.items():
            assert all(reader._ends_at == at for reader in ending), "a reader has one end"
        assert {reader for ending in ends.values() for reader in ending} == {
            reader for reader in parked if reader._ends_at is not None
        }, "the ends of waits belong to parked readers"
        assert times[:1] == sorted(times)[:1], "the heap of times begins with its first time"
        assert {at for at in ends if at > now + _SOON} <= set(times), (
            "the heap has each time to come at which a wait ends"
        )
        assert len(times) <= 2 * self.most + _STALE, "the heap has few times at which no wait ends"
        assert (self._timer is not None) == bool(times), (
            "there is one timer if the heap has a time, else none"
        )
        if self._timer is not None:
            assert self._timer.active(), "the timer is still to fire"
            assert self._timer_at <= times[0], "the timer is due no later than the first time"
            assert self._timer.getTime() <= max(self._timer_at, now) + _SOON, "the timer is due when it says"
        seen = list(self._seen.values())
        assert len(seen) <= self.most, "the recipients last seen are bounded"
        assert seen == sorted(seen), "the recipients last seen are in order, the longest ago first"
        assert max(seen, default=0.0) <= now, "no recipient was seen in the future"
