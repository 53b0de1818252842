"""What the processes at one Redis say to each other: who was pushed to, how many woke, and what changed.

A push publishes the names that it was for. Each process listens to the names and patterns at which readers of
its own stand, wakes them, and reports to the process that pushed how many it woke.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice, takewhile
from math import inf
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from ...core.message import Message
from ...core.recipient import is_pattern
from ...core.store import Readers
from ...deferreds import MaybeDeferred, chain
from ...limits import REDIS_COUNT_SECONDS, REDIS_LEFT_AT_ONCE, REDIS_STAND_SECONDS, REDIS_STANDING
from .link import RedisLink, unheard
from .rpc import Calls

_PATTERNS = "patterns"
"""The channel that a process listens to while readers of it stand at a pattern."""


class Appended(list[Message]):
    """The messages of a push, and how many readers of other processes they wake."""

    __slots__ = ("elsewhere",)

    def __init__(self, messages: Iterable[Message], elsewhere: MaybeDeferred[tuple[int, int]]) -> None:
        super().__init__(messages)
        self.elsewhere = elsewhere


class ReaderCount:
    """Counts the readers that a push wakes in other processes, each of which reports once for each wake.

    Or those who wait there, and how many seconds ago the last one was there: ``ago``.
    """

    def __init__(self) -> None:
        self.expected: int | None = None
        self.woken = 0
        """Those that read by cursor, or all that wait."""
        self.takers = 0
        self.ago = inf
        self._heard = 0
        self._done: Deferred[tuple[int, int]] | None = None
        self._timer: IDelayedCall | None = None

    @property
    def complete(self) -> bool:
        """Whether all have reported."""
        return self.expected is not None and self._heard >= self.expected

    def report(self, woken: int, takers: int = 0, ago: float = inf) -> None:
        """Take in what one process reports."""
        self._heard += 1
        self.woken += woken
        self.takers += takers
        self.ago = min(self.ago, ago)
        if self.complete:
            self._finish()

    def wait(self, clock: IReactorTime, given_up: Callable[[], object]) -> Deferred[tuple[int, int]]:
        """Return what fires with the count when it is complete, or has taken too long."""
        done = self._done = Deferred()

        def give_up() -> None:
            self._timer = None
            given_up()
            self._finish()

        self._timer = clock.callLater(REDIS_COUNT_SECONDS, give_up)
        return done

    def _finish(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        done, self._done = self._done, None
        if done is not None:
            done.callback((self.woken, self.takers))


class Wakes:
    """The channels of one process, whose name among all is ``process``."""

    def __init__(self, link: RedisLink, process: str, clock: IReactorTime) -> None:
        self.process = process
        self.readers: Readers | None = None
        """The readers of this process, which the pushes of other processes wake."""
        self.calls = Calls(process, lambda other, said: link.publish(f"process:{other}", said))
        self._link = link
        self._clock = clock
        self._standing: dict[str, float] = {}
        """The keys whose wakes are listened to, and when each was last asked for, longest ago first."""
        self._patterns = 0
        """How many of these keys are patterns."""
        self._asks = 0
        self._counts: dict[int, ReaderCount] = {}
        self._last_wake = b""
        self._heard: dict[str, Callable[[str], None]] = {}
        self.on_presence: Callable[[bytes, bytes], object] = lambda _about, _said: None
        """Called with what is said of presence: ``replaced`` or ``dismissed``, and the rest."""
        link.channels = self._channels
        link.on_published = self._published
        link.on_lost = self.calls.cut_off

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests.

        - The keys whose wakes are listened to are in order, the longest ago asked for first.
        - The patterns among them are counted.
        - A count of readers that is complete is forgotten.
        """
        assert self._patterns == sum(map(is_pattern, self._standing)), "the patterns are counted"
        standing = list(self._standing.values())
        assert standing == sorted(standing), "the keys that are listened to are in order"
        assert not any(count.complete for count in self._counts.values()), "a complete count is forgotten"

    # -- counting the readers of other processes

    def begin_count(self) -> tuple[int, ReaderCount]:
        """Begin to count what the other processes report; return the number that they report it to."""
        self._asks += 1
        count = self._counts[self._asks] = ReaderCount()
        return self._asks, count

    def counted(self, receivers: int, count: ReaderCount, ask: int) -> MaybeDeferred[tuple[int, int]]:
        """Return what so many processes report: readers by cursor, and readers that take."""
        count.expected = receivers
        if count.complete:
            del self._counts[ask]
            return count.woken, count.takers
        return count.wait(self._clock, lambda: self.end_count(ask))

    def who(self, recipient: str) -> Deferred[tuple[int, float]]:
        """Return how many wait at other processes, and how long ago a reader was there."""
        ask, count = self.begin_count()

        def failed(failure: Failure) -> Failure:
            self.end_count(ask)
            return failure

        asked = self._link.run(self._clock.seconds(), "who", self.process, ask, recipient)
        counted = asked.addCallback(lambda reply: self.counted(reply[0], count, ask))
        return counted.addCallbacks(lambda waiting: (waiting[0], count.ago), failed)

    def end_count(self, ask: int) -> None:
        """Forget a count of which no process was asked, or that has taken too long."""
        self._counts.pop(ask, None)

    # -- where readers of this process stand

    def stand(self, keys: tuple[str, ...], now: float) -> None:
        """Listen to wakes at the keys from now on."""
        standing = self._standing
        new = [key for key in keys if standing.pop(key, None) is None]
        for key in keys:
            standing[key] = now
        if new:
            had_patterns = self._patterns > 0
            self._patterns += sum(map(is_pattern, new))
            self._subscribe("SUBSCRIBE", new, patterns=self._patterns > 0 and not had_patterns)
        if len(standing) > REDIS_STANDING:
            self._leave(list(islice(standing, REDIS_LEFT_AT_ONCE)), now)

    def leave_old(self, now: float) -> None:
        """Unsubscribe from the recipients that have had no reader for some time."""
        old = now - REDIS_STAND_SECONDS
        self._leave(list(takewhile(lambda key: self._standing[key] <= old, self._standing)), now)

    def _leave(self, keys: Iterable[str], now: float) -> None:
        """Unsubscribe from those of the keys that have no reader."""
        standing = self._standing
        gone = []
        for key in keys:
            del standing[key]
            if self.readers is not None and self.readers.waiting(key):
                standing[key] = now
            else:
                gone.append(key)
        had_patterns = self._patterns > 0
        self._patterns -= sum(map(is_pattern, gone))
        self._subscribe("UNSUBSCRIBE", gone, patterns=had_patterns and not self._patterns)

    def _subscribe(self, verb: str, keys: list[str], *, patterns: bool) -> None:
        channels = [f"wake:{key}" for key in keys]
        self._link.subscribe(verb, [*channels, _PATTERNS] if patterns else channels)

    def _channels(self) -> list[str]:
        channels = [f"process:{self.process}", "all", "told", *[f"wake:{key}" for key in self._standing]]
        return [*channels, _PATTERNS] if self._patterns else channels

    # -- what is said

    def tell(self, kind: str, id: str) -> None:  # noqa: A002
        """See ``SharedStore.tell``."""
        self._publish("told", f"{self.process} {kind} {id}")

    def hear(self, kind: str, heard: Callable[[str], None]) -> None:
        """See ``SharedStore.hear``."""
        self._heard[kind] = heard

    def look_for_processes(self) -> None:
        """See whether those who are asked something are still there."""
        asked = sorted(self.calls.asked)
        if asked:
            channels = [f"{self._link.prefix}process:{process}" for process in asked]
            self._link.ask("PUBSUB", "NUMSUB", *channels).addCallbacks(self._missed, unheard)

    def _missed(self, found: list[Any]) -> None:
        for channel, listening in zip(found[::2], found[1::2], strict=True):
            if not listening:
                self.calls.gone(channel.decode().rpartition(":")[2])

    def _publish(self, channel: str, said: str) -> None:
        self._link.publish(channel, said).addErrback(unheard)

    # -- what is heard

    def _published(self, channel: bytes, said: bytes) -> None:
        kind = channel[len(self._link.prefix) :].partition(b":")[0]
        if kind == b"wake":
            self._wake(said)
        elif kind == b"process":
            about, _, rest = said.partition(b" ")
            if about == b"woken":
                ask, woken, takers, ago = rest.split()
                self._reported(int(ask), int(woken), int(takers), float(ago))
            elif about in {b"replaced", b"dismissed"}:
                self.on_presence(about, rest)
            else:
                self.calls.heard(about, rest)
        elif self.readers is not None and kind == b"all":
            self.readers.wake_all()
        elif kind == b"told":
            process, kind_, id_ = said.decode().split(" ", 2)
            if process != self.process and kind_ in self._heard:
                self._heard[kind_](id_)

    def _wake(self, said: bytes) -> None:
        """Wake readers of this process, or say who waits, as another process has asked; and report.

        A push that is not kept is taken back once all have reported: its readers must have read by then.
        """
        process, ask, name = said.split(b" ", 2)
        mark = ask[:1]
        asks, waits = mark == b"?", mark == b"!"
        number = int(ask[asks or waits :])
        if process == self.process.encode():
            self._reported(number, 0)  # the hub sees to its own readers
            return
        woken = takers = 0
        ago: float | None = None
        ended: MaybeDeferred[None] = None
        if said != self._last_wake and self.readers is not None:
            # It comes once for each key at which readers stand here, and the first finds all of them.
            self._last_wake = said
            recipient = name.decode()
            if asks:
                woken, ago = self.readers.waiting(recipient), self.readers.last_seen(recipient)
            else:
                takers = self.readers.takers(recipient)
                woken = self.readers.wake(recipient, messages=0)
                if waits:
                    ended = self.readers.wakes_ended()
        if process != b"-":
            report = partial(
                self._report, process.decode(), number, woken, takers, inf if ago is None else ago
            )
            chain(ended, lambda _: report())

    def _reported(self, ask: int, woken: int, takers: int = 0, ago: float = inf) -> None:
        count = self._counts.get(ask)
        if count is not None:
            count.report(woken, takers, ago)
            if count.complete:
                del self._counts[ask]

    def _report(self, process: str, ask: int, woken: int, takers: int, ago: float) -> None:
        self._publish(f"process:{process}", f"woken {ask} {woken} {takers} {ago}")
