"""What streams have in common: batches arrive from the hub, bytes leave on a response that does not end.

A stream is the loop of which a long-poll is one turn. It is bounded: what its reader lets pile up unread
ends it, and the reader comes back with its cursor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from ..core.hub import Hub
from ..core.message import Batch, Cursor
from ..core.readers import Follower
from ..limits import RETRY_MILLISECONDS, STALLED_SECONDS, STREAM_BUFFER, STREAM_PIECE


@dataclass(frozen=True, slots=True)
class Format:
    """How a stream is written. ``head`` is its block of header lines; the rest makes its bytes.

    ``opening`` and ``closing`` are given the milliseconds after which the reader is to come back, ``place``
    the cursor that it has while there is no message yet.
    """

    name: str
    head: bytes
    opening: Callable[[int], bytes]
    place: Callable[[Cursor], bytes]
    render: Callable[[Batch], bytes]
    heartbeat: bytes
    closing: Callable[[int], bytes]


class Beating(Protocol):
    """Who is in ``Heartbeats``; it is hashed by what it is."""

    def beat(self) -> None:
        """Do what is due once in an interval."""


class Heartbeats:
    """Beats for every member once in ``interval`` seconds, all of them by one timer.

    Members are spread over the interval by when they joined, a second at a time. There may be ten thousand:
    each costs its place in a set.
    """

    def __init__(self, clock: IReactorTime, interval: float) -> None:
        self._clock = clock
        self._slots: list[set[Beating]] = [set() for _ in range(max(1, int(interval)))]
        self._pause = interval / len(self._slots)
        self._now = 0
        self._ticked_at = 0.0
        self._members = 0
        self._call: IDelayedCall | None = None

    def add(self, member: Beating) -> int:
        """Have it beat every interval from now on; return the number with which it is to be removed."""
        # The slot that has just passed comes round again after one whole interval.
        number = (self._now - 1) % len(self._slots)
        self._slots[number].add(member)
        self._members += 1
        if self._call is None:
            self._ticked_at = self._clock.seconds()
            self._call = self._clock.callLater(self._pause, self._tick)
        return number

    def remove(self, member: Beating, number: int) -> None:
        """Have it beat no more."""
        slot = self._slots[number]
        if member in slot:
            slot.discard(member)
            self._members -= 1
            if not self._members and self._call is not None:
                self._call.cancel()
                self._call = None

    def seconds(self) -> float:
        """Return the time on the clock that the beats go by."""
        return self._clock.seconds()

    def _tick(self) -> None:
        now = self._clock.seconds()
        self._call = self._clock.callLater(self._pause, self._tick)
        # After a standstill all beats that are due come at once, but nobody's comes twice.
        due = min(len(self._slots), max(1, int((now - self._ticked_at) / self._pause + 0.001)))
        self._ticked_at = now
        for _ in range(due):
            slot = self._slots[self._now]
            self._now = (self._now + 1) % len(self._slots)
            for member in tuple(slot):
                if member in slot:
                    member.beat()


@implementer(IPushProducer)
class Paced:
    """Writes at the pace of its reader. A transport is told of this, and says when the reader falls behind.

    What is written at once goes out in pieces, the next one when the last was taken: a backlog is not the
    reader's fault. What comes while it is behind piles up, and ends it at ``STREAM_BUFFER``.
    """

    __slots__ = ("_open", "_paused_at", "_piled", "_rest")

    def __init__(self) -> None:
        self._open = False
        """Whether anything may still be written."""
        self._paused_at: float | None = None
        """Since when the reader is behind; None while it keeps up."""
        self._piled = 0
        """Bytes written since then."""
        self._rest: tuple[Any, ...] = ()
        """Bytes that wait until it has taken the pieces before them, in order."""

    @property
    def congested(self) -> bool:
        """Whether the reader is behind, so that a backlog had better wait."""
        return self._paused_at is not None

    def may_go_on(self, *, more: bool) -> bool:
        """Whether what comes next may be written at once; ``more``: it is there already, a backlog.

        A backlog goes on when the pieces before it were taken. What is new is written, and piles up.
        """
        return self._paused_at is None or not (more or self._rest)

    def _seconds(self) -> float:
        """Return the time."""
        raise NotImplementedError

    def _put(self, data: bytes) -> None:
        """Give bytes to the transport."""
        raise NotImplementedError

    def _abort(self) -> None:
        """Disconnect the reader, which comes back with its cursor."""
        raise NotImplementedError

    def _caught_up(self) -> None:
        """Go on with a backlog."""
        raise NotImplementedError

    def _write(self, data: bytes) -> None:
        if not self._open:
            return
        if self._paused_at is None:
            self._pour(data)
            return
        self._piled += len(data)
        if self._piled > STREAM_BUFFER:
            self._rest = ()
            self._abort()
        elif self._rest:
            self._rest += (data,)  # in its turn, not into the middle of something
        else:
            self._put(data)

    def _pour(self, data: Any) -> None:
        """Write in pieces for as long as the reader takes them; what it does not take is the rest."""
        if len(data) <= STREAM_PIECE:
            self._put(bytes(data))
            return
        view = memoryview(data)
        while view and self._paused_at is None and self._open:
            self._put(bytes(view[:STREAM_PIECE]))
            view = view[STREAM_PIECE:]
        if view:
            self._rest = (view, *self._rest)

    def _flush(self) -> None:
        """Write the rest at whatever pace: something whole must precede an end."""
        rest, self._rest = self._rest, ()
        for data in rest:
            self._put(bytes(data))

    def _has_stalled(self) -> bool:
        """Whether the reader has taken nothing for too long."""
        return self._paused_at is not None and self._seconds() - self._paused_at > STALLED_SECONDS

    # -- what the transport calls

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """Note that the reader does not keep up."""
        if self._paused_at is None:
            self._paused_at = self._seconds()

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """Go on: the reader has taken what was written."""
        self._paused_at = None
        self._piled = 0
        while self._rest and self._open and self._paused_at is None:
            data, self._rest = self._rest[0], self._rest[1:]
            self._pour(data)
        if self._open and self._paused_at is None:
            self._caught_up()

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """Write no more: the connection is lost."""
        self._open = False
        self._rest = ()


class Stream(Paced):
    """One response that stays open: it tells its reader what the hub tells it, and when nothing comes, beats.

    ``request`` is written to at once. While the reader does not keep up no backlog is read for it, and what
    is new piles up, until it takes it or is disconnected.
    """

    __slots__ = (
        "_done",
        "_follower",
        "_form",
        "_heartbeats",
        "_hub",
        "_number",
        "_random",
        "_request",
    )

    def __init__(self, request: Any, hub: Hub, form: Format, heartbeats: Heartbeats, random: Random) -> None:
        super().__init__()
        self._request = request
        self._hub = hub
        self._form = form
        self._heartbeats = heartbeats
        self._random = random
        self._follower: Follower | None = None
        self._done: Callable[[], object] = _nothing
        self._number = 0

    def begin(
        self,
        recipients: tuple[str, ...],
        after: Cursor,
        start: Callable[[], None],
        done: Callable[[], object],
    ) -> None:
        """Follow the recipients from a cursor on, until the server ends the stream or it is cancelled.

        Raises ``ServerFull`` or ``Stopping``; once the reader is admitted, ``start`` is called to write the
        head of the response. ``done`` is called when the server has ended it.
        """
        follower = self._follower = self._hub.follow(recipients, after, self._tell, self._say_place)
        self._done = done
        self._hub.counts.streams += 1
        self._open = True
        start()
        self._write(self._form.opening(self._retry()))
        self._request.registerProducer(self, True)
        self._number = self._heartbeats.add(self)
        follower.addCallbacks(self._ended, self._failed)
        follower.go_on()

    def _ended(self, _: None) -> None:
        """Say good-bye: the server stops, or the stream's time is over."""
        if not self._open:
            return
        done = self._leave()
        self._flush()
        self._put(self._form.closing(self._retry()))
        self._request.unregisterProducer()
        done()

    def _failed(self, failure: Failure) -> None:
        """Let a reader come back for whom it could not be found out where it begins."""
        if not failure.check(CancelledError):
            self._hub.store_failed(failure)
            self._ended(None)

    def cancel(self, _: object = None) -> None:
        """Forget the reader: its connection is lost. This is also the canceller of a Deferred."""
        follower = self._follower
        self._leave()
        if follower is not None:
            follower.cancel()

    def _tell(self, batch: Batch) -> bool:
        self._write(batch.once(self._form.name, self._form.render))
        return self.may_go_on(more=batch.more)

    def _say_place(self, cursor: Cursor) -> None:
        """Send its place to a reader that may be cut off before the first message."""
        self._write(self._form.place(cursor))

    def beat(self) -> None:
        """Show that the stream is alive, and that somebody reads it."""
        if self._has_stalled():
            self._abort()
        else:
            self._write(self._form.heartbeat)

    def _leave(self) -> Callable[[], object]:
        """Be a stream no more; return what is to be called at the end of one that the server ends."""
        done, self._done = self._done, _nothing
        self._open = False
        self._follower = None  # which knows this one too: a cycle would live until old garbage is collected
        self._hub.counts.streams -= 1
        self._heartbeats.remove(self, self._number)
        return done

    def _retry(self) -> int:
        return self._random.randint(*RETRY_MILLISECONDS)

    def end(self) -> None:
        """End the stream; its reader may come back."""
        if self._follower is not None:
            self._follower.end()

    # -- what pacing asks for

    def _seconds(self) -> float:
        return self._hub.clock.seconds()

    def _put(self, data: bytes) -> None:
        self._request.write(data)

    def _abort(self) -> None:
        self._open = False
        self._request.transport.abortConnection()

    def _caught_up(self) -> None:
        if self._follower is not None:
            self._follower.go_on()


def _nothing() -> None:
    """Do nothing: the stream has not begun, or is over."""
