"""The registry: parked readers, one place for each recipient or pattern.

A parked reader is a Deferred. It waits at its keys until a push wakes it, its wait is over, or its client
disconnects. The registry owns the timers that end the waits. It knows nothing of messages: a wake carries no
mail, it only makes a reader look again. Read ``readers.py`` next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable
from heapq import heapify, heappop, heappush
from itertools import islice, takewhile
from math import ceil, inf
from operator import methodcaller
from random import Random
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..deferreds import MaybeDeferred
from ..errors import ServerFull
from ..limits import (
    ENDED_PER_SECOND,
    ONLINE_SECONDS,
    PLACE_OVERHEAD,
    PLACES_BYTES,
    PRESENCE_SECONDS,
    SEEN_BYTES,
    WAIT_SPREAD,
    WOKEN_AT_ONCE,
)
from ..memos import shrink
from ..sizes import names_size
from .nametable import NameTable
from .parked import ParkedReader, TurnSlice, Wake
from .recipient import covering

T = TypeVar("T")
OnParked: TypeAlias = Callable[[ParkedReader[Any]], object]

_TICK = 0.1
"""Waits of many readers end on common ticks, so that there are few times to remember."""

_SOON = 1e-6
"""A wait that ends within this time ends now: a timer may be early by a rounding error."""

_STALE = 64
"""The number of times at which no wait ends any more that may stay in the heap before it is rebuilt."""


class Registry:
    """The table of parked readers, one place for each recipient or pattern.

    ``most`` bounds how many are parked at once; ``random`` spreads the ends of waits. ``on_park`` and
    ``on_leave`` are called with each reader that is parked, and that leaves, ``on_visit`` with each poll or
    take that is answered without being parked.
    """

    def __init__(self, clock: IReactorTime, most: int, random: Random | None = None) -> None:
        self.clock = clock
        self.most = most
        self.parked = 0
        self.on_park: OnParked | None = None
        self.on_leave: OnParked | None = None
        self.on_visit: OnParked | None = None
        self._random = random or Random()  # noqa: S311  only spreads load; guessing it gains nothing
        self._places: dict[str, dict[ParkedReader[Any], None]] = {}
        self._places_size = 0
        """The bytes of the places of all readers that stand at several."""
        self._patterns = 0
        """Places whose keys end in ``*``, as all patterns do: without them no pattern need be looked for."""
        self._ends: dict[float, set[ParkedReader[Any]]] = {}
        """The readers whose waits end, by the time."""
        self._times: list[float] = []
        """A heap of these times; at some of them no wait ends any more."""
        self._timer: IDelayedCall | None = None
        """The one delayed call, for the first of them: one for each reader would cost 2 µs a poll."""
        self._timer_at = inf
        self._ending: dict[Deferred[None], IDelayedCall] = {}
        """What ends waits that are spread over a time, by what fires when that is done."""
        self._seen: NameTable[float] = NameTable(most, SEEN_BYTES)
        """When each recipient was last asked for, longest ago first."""
        self._wakes: deque[Wake] = deque()
        """Wakes whose readers have not all looked."""
        self._is_waking = False
        self._wakes_call: IDelayedCall | None = None
        self._unfinished: set[Wake] = set()
        """Wakes that have not ended: their readers have not all looked, or a read is pending."""

    # -- parking

    @property
    def is_full(self) -> bool:
        """Whether as many are parked as may be."""
        return self.parked >= self.most

    def refusal(self) -> ServerFull:
        """Return what a reader is refused with where as many are parked as may be."""
        return ServerFull(f"{self.most} readers are waiting already, which is the server's bound.")

    def park(self, reader: ParkedReader[T], wait: float | None, moves: bool = False) -> ParkedReader[T]:
        """Park ``reader`` for up to ``wait`` seconds, None for as long as it likes; return it.

        Cancelling it forgets it. Raises ``ServerFull`` where as many are parked as may be, or all together
        name too much; a reader that ``moves`` may.
        """
        if self.parked >= self.most:
            raise self.refusal()
        keys, places = reader.keys, self._places
        if len(keys) > 1:
            size = self._places_size + _places_size(reader)
            if size > self.most * PLACES_BYTES and not moves:
                raise ServerFull("The names of waiting readers take as much memory as they may.")
            self._places_size = size
        self.parked += 1
        reader.registry = self
        for key in keys:
            place = places.get(key)
            if place is not None:
                place[reader] = None
                continue
            places[key] = {reader: None}
            if key[-1] == "*":
                self._patterns += 1
        if wait is not None:
            self._end_after(reader, wait)
        if self.on_park is not None:
            self.on_park(reader)
        return reader

    def forget(self, reader: ParkedReader[T]) -> None:
        """Take a parked reader out of every table, and end its timer if no other reader shares it."""
        reader.registry = None
        self.parked -= 1
        keys, places = reader.keys, self._places
        if len(keys) > 1:
            self._places_size -= _places_size(reader)
        for key in keys:
            place = places.get(key)
            if place is not None:  # else the key was named twice
                place.pop(reader, None)
                if not place:
                    del places[key]
                    if key[-1] == "*":
                        self._patterns -= 1
                    self._seen.set(key, self.clock.seconds())
        at = reader._ends_at
        if at is not None:
            self._forget_end(reader, at)
        if self.on_leave is not None:
            self.on_leave(reader)

    def move(self, reader: ParkedReader[T], keys: tuple[str, ...]) -> None:
        """Let a parked reader wait at other keys, until its wait would have ended.

        That is never refused: a session subscribes to few names more.
        """
        wait = None if reader._ends_at is None else max(0.0, reader._ends_at - self.clock.seconds())
        self.forget(reader)
        reader.keys = keys
        self.park(reader, wait, moves=True)

    def set_wait(self, reader: ParkedReader[T], wait: float | None) -> None:
        """Let a parked reader wait for another ``wait`` seconds, None for as long as it likes."""
        if reader._ends_at is not None:
            self._forget_end(reader, reader._ends_at)
        if wait is not None:
            self._end_after(reader, wait)

    # -- waking

    def wake(self, recipients: Iterable[str], messages: int = 1) -> int:
        """Make all readers look again that wait for one of the recipients; return how many can receive.

        Those are all readers by cursor, and as many of the readers that take as ``messages`` suffice for. The
        readers look in the order in which they came, ``WOKEN_AT_ONCE`` in one turn of the reactor.
        """
        found: dict[ParkedReader[Any], None] | None = None
        if self._patterns:
            recipients = [key for recipient in recipients for key in covering(recipient)]
        for key in recipients:
            place = self._places.get(key)
            if place is not None:
                found = place if found is None else found | place
        if found is None:
            return 0
        woken = 0
        for reader in found:
            if reader.can_receive():
                if not reader.takes:
                    woken += 1
                elif messages > 0:
                    woken += 1
                    messages -= reader.takes
        self._start(list(found))
        return woken

    def come_back(self, *recipients: str) -> bool:
        """Let up to ``WOKEN_AT_ONCE`` readers acknowledge what they were sent; return whether some did."""
        keys = {key for recipient in recipients for key in covering(recipient)}
        readers = {reader: None for key in keys for reader in self._places.get(key, ())}
        return any([*islice((reader for reader in readers if reader.come_back()), WOKEN_AT_ONCE)])

    def takers(self, *recipients: str) -> int:
        """Count the readers that take, and that a push to one of the recipients would wake."""
        if self._patterns:
            recipients = tuple({key for recipient in recipients for key in covering(recipient)})
        places = [self._places[key] for key in recipients if key in self._places]
        return len({reader for place in places for reader in place if reader.takes})

    def wake_all(self) -> None:
        """Make all readers look again: what was pushed meanwhile is not known."""
        readers = self._all()
        if readers:
            self._start(readers)

    def look_soon(self, reader: ParkedReader[Any]) -> None:
        """Make one reader look again in the next turn of the reactor: there is more for it."""
        wake = Wake([reader])
        self._wakes.append(wake)
        self._track(wake)
        self._schedule_wakes()

    def wakes_ended(self) -> MaybeDeferred[None]:
        """Wait until every reader that was woken before has looked, and read what it looked for."""
        left = len(self._unfinished)
        if not left:
            return None
        ended: Deferred[None] = Deferred()

        def one_ended() -> None:
            nonlocal left
            left -= 1
            if not left:
                ended.callback(None)

        for wake in tuple(self._unfinished):
            wake.when_ended(one_ended)
        return ended

    def _start(self, readers: list[ParkedReader[Any]]) -> None:
        """Let the first readers look now, unless this is called while others look: then right after them."""
        wake = Wake(readers)
        if self._is_waking:
            self._wakes.append(wake)
            self._track(wake)
            return
        # Its first slice goes before the later slices of others, which are left to the next turn.
        self._is_waking = True
        try:
            done = wake.run(WOKEN_AT_ONCE)
        finally:
            self._is_waking = False
        if wake.left or wake.pending:
            self._track(wake)
            if wake.left:
                self._wakes.append(wake)
                done = WOKEN_AT_ONCE  # this turn has had its slice
        if self._wakes and self._wakes_call is None:
            self._run_wakes(WOKEN_AT_ONCE - done)

    def _track(self, wake: Wake) -> None:
        self._unfinished.add(wake)
        wake.when_ended(lambda: self._unfinished.discard(wake))

    def _run_wakes(self, left: int) -> None:
        """Let up to ``left`` readers look, for some time; leave the others to the reactor's next turn."""
        turn = TurnSlice()
        self._is_waking = True
        try:
            while self._wakes and left > 0 and not turn.is_over():
                wake = self._wakes.popleft()
                left -= wake.run(left)
                if wake.left:
                    self._wakes.append(wake)
        finally:
            self._is_waking = False
        self._schedule_wakes()

    def _schedule_wakes(self) -> None:
        if self._wakes and self._wakes_call is None and not self._is_waking:
            self._wakes_call = self.clock.callLater(0, self._wakes_are_due)

    def _wakes_are_due(self) -> None:
        self._wakes_call = None
        self._run_wakes(WOKEN_AT_ONCE)

    def _all(self) -> list[ParkedReader[Any]]:
        return list({reader: None for place in self._places.values() for reader in place})

    def waiting(self, recipient: str) -> int:
        """Count the readers that a push to the recipient would wake."""
        places = [self._places[key] for key in covering(recipient) if key in self._places]
        return len(places[0]) if len(places) == 1 else len({reader for place in places for reader in place})

    def watching(self, recipient: str) -> int:
        """Count those of the waiting readers that acknowledge nothing."""
        places = [self._places[key] for key in covering(recipient) if key in self._places]
        return len({reader for place in places for reader in place if not reader.acks})

    # -- the end of waits

    def end_all(self) -> None:
        """End every wait now, as if its time were over."""
        for reader in self._all():
            reader.end()
        ending, self._ending = self._ending, {}
        for done, call in ending.items():
            call.cancel()
            done.callback(None)

    def end_all_within(self, seconds: float) -> Deferred[None]:
        """End every wait, spread over up to ``seconds``; the Deferred fires once all have ended.

        A server with few readers does not take as long.
        """
        return self._each_within(self._all(), seconds, methodcaller("end"))

    def revoke(self, admissions: Collection[Hashable], seconds: float) -> Deferred[None]:
        """End the readers that one of ``admissions`` has let in, as ``end_all_within`` does all."""
        revoked = [reader for reader in self._all() if reader.admission in admissions]
        return self._each_within(revoked, seconds, methodcaller("revoke"))

    def _each_within(self, readers: list[ParkedReader[Any]], seconds: float, end: OnParked) -> Deferred[None]:
        self._random.shuffle(readers)
        at_once = max(ENDED_PER_SECOND, ceil(len(readers) / seconds) if seconds else len(readers)) * _TICK
        done: Deferred[None] = Deferred()

        def end_some() -> None:
            self._ending.pop(done, None)
            for _ in range(min(len(readers), ceil(at_once))):
                reader = readers.pop()
                if reader.registry is not None:
                    end(reader)
            if readers and self.parked:
                self._ending[done] = self.clock.callLater(_TICK, end_some)
            else:
                done.callback(None)

        end_some()
        return done

    def _end_after(self, reader: ParkedReader[T], wait: float) -> None:
        """Remember when a reader's wait ends: within ``wait`` seconds, at a time of its own."""
        spread = wait * WAIT_SPREAD
        earliest = self.clock.seconds() + wait - spread
        chosen = earliest + spread * self._random.random()
        tick = chosen // _TICK * _TICK
        reader._ends_at = at = tick if tick >= earliest else chosen
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

    def _forget_end(self, reader: ParkedReader[T], at: float) -> None:
        reader._ends_at = None
        ends = self._ends[at]
        ends.discard(reader)
        if not ends:
            del self._ends[at]
            if not self._ends:
                self._times.clear()
                self._set_timer()

    def _set_timer(self) -> None:
        """Set the timer to the first time; where there is none, have no timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, inf
        if self._times:
            self._timer_at = self._times[0]
            delay = max(0.0, self._timer_at - self.clock.seconds())
            self._timer = self.clock.callLater(delay, self._waits_are_over)

    def _waits_are_over(self) -> None:
        """End the waits whose time has come, ``WOKEN_AT_ONCE`` in one turn of the reactor."""
        self._timer, self._timer_at = None, inf
        due = self.clock.seconds() + _SOON
        left = WOKEN_AT_ONCE
        while self._times and self._times[0] <= due and left > 0:
            ends = self._ends.get(self._times[0])
            if not ends:
                heappop(self._times)
                continue
            reader = next(iter(ends))
            self._forget_end(reader, self._times[0])
            reader.end()
            left -= 1
        if self._timer is None:
            self._set_timer()

    # -- presence

    def seen(self, recipients: Iterable[str]) -> None:
        """Note that a reader asked for the recipients just now."""
        now = self.clock.seconds()
        for recipient in recipients:
            self._seen.set(recipient, now)

    def last_seen(self, recipient: str) -> float | None:
        """Return how many seconds ago a reader of the recipient was here; None: not within an hour."""
        if recipient in self._places:
            return 0.0
        at = self._seen.get(recipient, -inf)
        return None if at == -inf else self.clock.seconds() - at

    def online(self, recipient: str) -> bool:
        """Whether a reader waits for the recipient, or was here within the time of a reconnect."""
        ago = self.last_seen(recipient)
        return self.waiting(recipient) > 0 or (ago is not None and ago <= ONLINE_SECONDS)

    def sweep(self) -> None:
        """Forget the recipients that were last seen too long ago, and the room of places that are empty."""
        old = self.clock.seconds() - PRESENCE_SECONDS
        seen = self._seen
        for recipient in tuple(takewhile(lambda name: seen.get(name, inf) < old, seen)):
            seen.pop(recipient, 0.0)
        shrink(self._places, self._ends)

    # -- for tests

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests, between two calls."""
        places, ends, times, now = self._places, self._ends, self._times, self.clock.seconds()
        parked = {reader for place in places.values() for reader in place}
        assert self.parked == len(parked), "parked counts the readers that stand at places"
        assert self.parked <= self.most, "at most as many readers are parked as may be"
        assert self._places_size == sum(
            [_places_size(reader) for reader in parked if len(reader.keys) > 1]
        ), "the bytes of places are counted"
        assert all(places.values()), "no place is empty"
        for key, place in places.items():
            assert all(key in reader.keys for reader in place), f"{key!r}: each reader has the place's key"
        for reader in parked:
            assert reader.registry is self, "a parked reader belongs to this registry"
            assert not reader.called, "a parked reader has not fired"
            assert all(reader in places.get(key, ()) for key in reader.keys), (
                "a parked reader stands at each of its keys"
            )
        assert self._patterns == sum([key[-1] == "*" for key in places]), "places of patterns are counted"
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
            assert self._timer.getTime() <= max(self._timer_at, now) + _TICK, "the timer is due when it says"
        self._seen.check_invariants()
        seen = self._seen.values()
        assert seen == sorted(seen), "the recipients last seen are in order, the longest ago first"
        assert max(seen, default=0.0) <= now, "no recipient was seen in the future"
        assert not any(wake.has_ended for wake in self._unfinished), "a wake that has ended is forgotten"
        assert self._unfinished.issuperset(self._wakes), (
            "a wake whose readers have not all looked is remembered"
        )


def _places_size(reader: ParkedReader[Any]) -> int:
    """Return the bytes of the places at which a reader stands."""
    return names_size(reader.keys, PLACE_OVERHEAD)
