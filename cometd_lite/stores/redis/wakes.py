"""What the processes at one Redis say to each other: who was pushed to, how many woke, and what changed.

A push publishes the names that it was for, and what was pushed. Each process listens to the names and
patterns at which readers of its own stand, takes in what was pushed (``windows.py``), wakes them, and reports
to the process that pushed how many it woke.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice, takewhile
from math import inf
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from ...core.message import Message
from ...core.recipient import covering, is_pattern
from ...core.registry import Registry
from ...deferreds import MaybeDeferred, chain
from ...limits import (
    REDIS_CHECK_SECONDS,
    REDIS_CHECKED_AT_ONCE,
    REDIS_COUNT_SECONDS,
    REDIS_LEFT_AT_ONCE,
    REDIS_STAND_SECONDS,
    REDIS_STANDING,
)
from .entries import unpack_all
from .link import RedisLink, unheard
from .rpc import Calls
from .windows import Window, Windows

_PATTERNS = "patterns"
"""The channel that a process listens to while readers of it stand at a pattern."""

_PUSHED, _NOT_KEPT, _DROPPED, _WHO = b"pushed", b"shown", b"dropped", b"who"
"""What is published to a key: a push that is kept, one that is only for readers that wait, a loss, and the
question who waits. See ``wake`` in ``lua/wakes.lua``."""
_STAND_AGAIN_SECONDS = REDIS_STAND_SECONDS / 4
"""A key need not be noted as asked for more often than this."""
_NONE = b"-"
"""In the place of a process: none wants a report."""


class Appended(list[Message]):
    """The messages of a push, and how many readers of other processes they wake."""

    __slots__ = ("elsewhere",)

    def __init__(self, elsewhere: Deferred[tuple[int, int]] | None) -> None:
        self.elsewhere = elsewhere


class ReaderCount:
    """Counts the readers that other processes report: how many they woke, or how many wait there.

    ``done`` fires with the count when each process has reported, or too much time has passed.
    """

    __slots__ = ("_left", "_timer", "ago", "done", "takers", "woken")

    def __init__(self, reports: int, clock: IReactorTime, given_up: Callable[[], object]) -> None:
        self.woken = 0
        """Those that read by cursor, or all that wait."""
        self.takers = 0
        self.ago = inf
        """How many seconds ago the last one was there."""
        self.done: Deferred[ReaderCount] = Deferred()
        self._left = reports

        def give_up() -> None:
            given_up()
            self.done.callback(self)

        self._timer = clock.callLater(REDIS_COUNT_SECONDS, give_up)

    def report(self, woken: int, takers: int, ago: float) -> bool:
        """Take in what one process reports; return whether it was the last one."""
        self.woken += woken
        self.takers += takers
        self.ago = min(self.ago, ago)
        self._left -= 1
        if self._left:
            return False
        self._timer.cancel()
        self.done.callback(self)
        return True


class Wakes:
    """The channels of one process, whose name among all is ``process``."""

    def __init__(self, link: RedisLink, process: str, clock: IReactorTime) -> None:
        self.process = process
        self.readers: Registry | None = None
        """The readers of this process, which the pushes of other processes wake."""
        self.rpc = Calls(process, lambda other, said: link.publish(f"process:{other}", said))
        self._process = process.encode()
        self._link = link
        self._clock = clock
        self.windows = Windows()
        self._standing: dict[str, Window] = {}
        """The keys whose wakes are listened to, longest ago asked for first, with what is known of each."""
        self._patterns = 0
        """How many of these keys are patterns."""
        self._unchecked: list[str] = []
        """The keys that are still to be compared with Redis in this round."""
        self._checks_at = 0.0
        """When the next round begins."""
        self._asks = 0
        self._counts: dict[int, ReaderCount] = {}
        self._last_wake: tuple[bytes, ...] = ()
        self._on_notice: dict[str, Callable[[str], None]] = {}
        self.on_presence: Callable[[bytes, bytes], object] = lambda _about, _said: None
        """Called with what is said of presence: ``replaced`` or ``dismissed``, and the rest."""
        link.channels = self._channels
        link.on_published = self._published
        link.on_lost = self._lost

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests."""
        assert self._patterns == sum(map(is_pattern, self._standing)), "the patterns are counted"
        asked = [window.asked_at for window in self._standing.values()]
        assert asked == sorted(asked), "the keys that are listened to are in order"
        self.windows.check_invariants(self._standing.values())

    # -- counting the readers of other processes

    def begin(self, recipients: tuple[str, ...]) -> tuple[int, str, int]:
        """Return what a push needs to know of this process.

        That is the number to which others report, for each recipient ``1`` where this process listens to it,
        else ``0``, and how many of the wakes that are published come to this process.
        """
        self._asks += 1
        standing = self._standing
        stands = "".join(["1" if name in standing else "0" for name in recipients])
        if not self._patterns:
            return self._asks, stands, stands.count("1")
        keys = [key for name in recipients for key in covering(name)]
        return self._asks, stands, sum(key in standing for key in keys)

    def counted(self, reports: int, ask: int) -> Deferred[tuple[int, int]] | None:
        """Return what so many other processes report: readers by cursor, and readers that take.

        A process that was woken reports after Redis has answered the push, so none has reported yet.
        """
        if reports <= 0:
            return None
        return self._count(reports, ask).addCallback(lambda count: (count.woken, count.takers))

    def _count(self, reports: int, ask: int) -> Deferred[ReaderCount]:
        count = self._counts[ask] = ReaderCount(reports, self._clock, lambda: self._counts.pop(ask))
        return count.done

    def who(self, recipient: str) -> Deferred[tuple[int, float]]:
        """Return how many wait at other processes, and how long ago a reader was there."""
        ask, stands, own = self.begin((recipient,))

        def asked(reply: list[Any]) -> MaybeDeferred[tuple[int, float]]:
            if reply[0] <= own:
                return 0, inf
            return self._count(reply[0] - own, ask).addCallback(lambda count: (count.woken, count.ago))

        words = (f"{self.process} {ask}", stands)
        return self._link.run(self._clock.seconds(), "who", (recipient,), *words).addCallback(asked)

    # -- where readers of this process stand

    def stand(self, keys: tuple[str, ...], now: float) -> None:
        """Listen to wakes at the keys from now on."""
        standing = self._standing
        new = []
        for key in keys:
            window = standing.pop(key, None)
            if window is None:
                window = Window(now)
                new.append(key)
            window.asked_at = now
            standing[key] = window
        if new:
            had_patterns = self._patterns > 0
            self._patterns += sum(map(is_pattern, new))
            self._subscribe("SUBSCRIBE", new, patterns=self._patterns > 0 and not had_patterns)
        if len(standing) > REDIS_STANDING:
            self._leave(list(islice(standing, REDIS_LEFT_AT_ONCE)), now)

    def leave_old(self, now: float) -> None:
        """Unsubscribe from the recipients that have had no reader for some time."""
        old = now - REDIS_STAND_SECONDS
        self._leave(list(takewhile(lambda key: self._standing[key].asked_at <= old, self._standing)), now)

    def _leave(self, keys: Iterable[str], now: float) -> None:
        """Unsubscribe from those of the keys that have no reader."""
        standing = self._standing
        unused = []
        for key in keys:
            window = standing.pop(key)
            if self.readers is not None and self.readers.waiting(key):
                window.asked_at = now
                standing[key] = window
            else:
                self.windows.close(window)
                unused.append(key)
        had_patterns = self._patterns > 0
        self._patterns -= sum(map(is_pattern, unused))
        self._subscribe("UNSUBSCRIBE", unused, patterns=had_patterns and not self._patterns)

    # -- what is known of the keys

    def window(self, key: str) -> Window | None:
        """Return what is known of a key that is listened to."""
        return self._standing.get(key)

    def recent(
        self, recipients: tuple[str, ...], number: int, newest: int, now: float
    ) -> Sequence[Message] | None:
        """Return what the recipients hold after a number, where that is known; else None.

        ``newest`` is the last number that is known: a number beyond it may be of what Redis has lost.
        """
        found: Sequence[Message] | None = ()
        asked_at = now
        for name in recipients:
            window = self._standing.get(name)
            if window is None or not window.is_open or number < window.floor:
                return None
            last = window.last
            if last > number:
                found = window.after(number, now)
                if found is None or len(recipients) > 1:
                    return None
            newest = max(newest, last)
            asked_at = min(asked_at, window.asked_at)
        if number > newest:
            return None
        if asked_at < now - _STAND_AGAIN_SECONDS:
            self.stand(recipients, now)
        return found

    def acknowledge(self, name: str, number: int) -> bool:
        """Note what a reader has acknowledged; return whether that is news."""
        window = self._standing[name]
        if window.acknowledged >= number:
            return False
        window.acknowledged = number
        return True

    def confirm(self, found: Iterable[tuple[str, Window | None, int, int]]) -> None:
        """Take in what a read has found: keys, their windows as it was sent, newest and last lost numbers.

        A key that was let go of in the meantime has missed something since, and another window.
        """
        for key, window, newest, lost in found:
            if window is not None and self._standing.get(key) is window:
                self.windows.confirm(window, newest, lost)

    def pushed(self, messages: Sequence[Message], ends: Sequence[int]) -> None:
        """Take in what this process has pushed, and kept.

        ``ends`` are, for each recipient, the newest number before and the last one that is lost.
        """
        count = len(ends) // 2
        for place in range(count):
            window = self._standing.get(messages[place].recipient)
            if window is not None:
                mine = messages if count == 1 else messages[place::count]
                self.windows.extend(window, ends[2 * place], ends[2 * place + 1], mine)

    def not_kept(self, messages: Sequence[Message]) -> None:
        """Close the windows of what is taken back again."""
        for message in messages:
            window = self._standing.get(message.recipient)
            if window is not None:
                self.windows.close(window)

    def _close_windows(self) -> None:
        for window in self._standing.values():
            self.windows.close(window)
            window.notified = 0

    def _subscribe(self, verb: str, keys: list[str], *, patterns: bool) -> None:
        channels = [f"wake:{key}" for key in keys]
        self._link.subscribe(verb, [*channels, _PATTERNS] if patterns else channels)

    def _channels(self) -> list[str]:
        channels = [f"process:{self.process}", "all", "told", *[f"wake:{key}" for key in self._standing]]
        return [*channels, _PATTERNS] if self._patterns else channels

    def _lost(self) -> None:
        """Know nothing of what is published from now on; the connection is lost."""
        self._close_windows()
        self.rpc.cut_off()

    # -- what was published and lost

    def look_for_lost(self, now: float) -> None:
        """Look again where Redis holds more than this process was notified of: a publication may be lost.

        To be called every second. A round asks for the keys of this moment, some at a time.
        """
        if not self._unchecked and now >= self._checks_at:
            self._checks_at = now + REDIS_CHECK_SECONDS
            self._unchecked = list(self._standing)
        asked, self._unchecked = (
            self._unchecked[:REDIS_CHECKED_AT_ONCE],
            self._unchecked[REDIS_CHECKED_AT_ONCE:],
        )
        readers = self.readers
        keys = [] if readers is None else [key for key in asked if readers.waiting(key)]
        if keys:
            windows = [self._standing.get(key) for key in keys]
            self._link.run(now, "newest", keys).addCallbacks(self._checked, unheard, (keys, windows))

    def _checked(self, reply: list[Any], keys: list[str], windows: list[Window | None]) -> None:
        """Wake the readers of keys at which a message is newer than any that it was notified of.

        Of a pattern that may be any message.
        """
        last, ends = reply
        for key, window, newest in zip(keys, windows, ends[::2], strict=True):
            number = last if is_pattern(key) else newest
            if window is None or self._standing.get(key) is not window or number <= window.notified:
                continue
            window.notified = number
            if window.last < number:
                self.windows.close(window)
            if self.readers is not None:
                self.readers.wake((key,), messages=0)

    # -- what is said

    def notify(self, kind: str, id: str) -> None:  # noqa: A002
        self._publish("told", f"{self.process} {kind} {id}")

    def on_notice(self, kind: str, call: Callable[[str], None]) -> None:
        self._on_notice[kind] = call

    def look_for_processes(self) -> None:
        """See whether those who are asked something are still there."""
        asked = sorted(self.rpc.asked)
        if asked:
            channels = [f"{self._link.prefix}process:{process}" for process in asked]
            self._link.ask("PUBSUB", "NUMSUB", *channels).addCallbacks(self._missed, unheard)

    def _missed(self, found: list[Any]) -> None:
        for channel, listening in zip(found[::2], found[1::2], strict=True):
            if not listening:
                self.rpc.process_ended(channel.decode().rpartition(":")[2])

    def _publish(self, channel: str, said: str) -> None:
        self._link.publish(channel, said).addErrback(unheard)

    # -- what is published

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
                self.rpc.received(about, rest)
        elif kind == b"all":
            self._close_windows()
            if self.readers is not None:
                self.readers.wake_all()
        elif kind == b"told":
            process, kind_, id_ = said.decode().split(" ", 2)
            if process != self.process and kind_ in self._on_notice:
                self._on_notice[kind_](id_)

    def _wake(self, said: bytes) -> None:
        """Take in what was pushed, wake readers of this process, or say who waits; and report.

        A push that is not kept is taken back once all have reported: its readers must have read by then.
        """
        kind, process, ask, rest = said.split(b" ", 3)
        number = int(ask)
        if process == self._process:
            return  # the hub wakes its own readers, and what was pushed comes with the answer
        about, _, entries = rest.partition(b"\n")
        head = (kind, process, ask, about)
        woken = takers = 0
        ago: float | None = None
        ended: MaybeDeferred[None] = None
        if head != self._last_wake or process == _NONE:
            # It comes once for each key at which readers stand here, and the first finds all of them. What
            # comes back to takes has no number that distinguishes one time from the next.
            self._last_wake = head
            epoch, before, lost, name = about.split(b" ", 3)
            recipient = name.decode()
            self._take_in(kind, epoch.decode(), int(before), int(lost), recipient, entries)
            readers = self.readers
            if readers is None or kind == _DROPPED:
                pass
            elif kind == _WHO:
                woken, ago = readers.waiting(recipient), readers.last_seen(recipient)
            else:
                takers = readers.takers(recipient)
                woken = readers.wake((recipient,), messages=0)
                if kind == _NOT_KEPT:
                    ended = readers.wakes_ended()
        if process != _NONE:
            chain(ended, self._report, process.decode(), number, woken, takers, inf if ago is None else ago)

    def _take_in(
        self, kind: bytes, epoch: str, before: int, lost: int, recipient: str, entries: bytes
    ) -> None:
        """Let the window of a recipient follow what was published."""
        window = self._standing.get(recipient)
        if window is None or not window.is_open:
            return
        if epoch != self._link.epoch:
            self._close_windows()  # Redis was emptied, and another process has found that out
        elif kind == _PUSHED:
            messages = unpack_all(entries, recipient, epoch, self._link.offset)
            self.windows.extend(window, before, lost, messages)
        elif kind == _NOT_KEPT:
            self.windows.close(window)
        elif kind == _DROPPED:
            self.windows.drop(window, lost)

    def _reported(self, ask: int, woken: int, takers: int, ago: float) -> None:
        count = self._counts.get(ask)
        if count is not None and count.report(woken, takers, ago):
            del self._counts[ask]

    def _report(self, _: None, process: str, ask: int, woken: int, takers: int, ago: float) -> None:
        self._publish(f"process:{process}", f"woken {ask} {woken} {takers} {ago}")
