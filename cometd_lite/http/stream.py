"""Streams: responses that do not end, on which each batch of messages is written as it comes.

``sse`` and ``ndjson`` define the bytes of a stream. ``BackpressuredWriter`` paces streams and WebSockets, and
buffers nothing. While the transport has unsent bytes, the reader gets no further batch: it waits at its
cursor, where it costs nothing, and reads on when the transport has sent everything. A client that takes
nothing for ``STALLED_SECONDS`` is disconnected, and may come back with its cursor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from ..core.hub import Hub
from ..core.message import Batch, Cursor
from ..core.readers import Follower
from ..limits import RETRY_MILLISECONDS, STALLED_SECONDS
from .exchange import Exchange


@dataclass(frozen=True, slots=True)
class Format:
    """How a stream is written.

    ``head`` is a block of header lines. ``opening`` and ``closing`` take the milliseconds after which the
    client is to reconnect. ``place`` takes the cursor of a reader that has no message yet.
    """

    name: str
    head: bytes
    opening: Callable[[int], bytes]
    place: Callable[[Cursor], bytes]
    render: Callable[[Batch], bytes]
    heartbeat: bytes
    closing: Callable[[int], bytes]


class HasHeartbeat(Protocol):
    """A member of ``Heartbeats``. It is hashed by identity."""

    def beat(self) -> None:
        """Do what is due once in each interval."""


class Heartbeats:
    """Calls ``beat`` of every member once in ``interval`` seconds, by one timer for all of them.

    Members are spread over the interval by the second in which they joined. A member costs one entry of a
    set, so that there may be ten thousand.
    """

    def __init__(self, clock: IReactorTime, interval: float) -> None:
        self._clock = clock
        self._slots: list[set[HasHeartbeat]] = [set() for _ in range(max(1, int(interval)))]
        self._pause = interval / len(self._slots)
        self._now = 0
        self._ticked_at = 0.0
        self._members = 0
        self._call: IDelayedCall | None = None

    def add(self, member: HasHeartbeat) -> int:
        """Add a member; return the number that ``remove`` needs. Its first beat comes after one interval."""
        # The slot that was called last is called again after one whole interval.
        number = (self._now - 1) % len(self._slots)
        self._slots[number].add(member)
        self._members += 1
        if self._call is None:
            self._ticked_at = self._clock.seconds()
            self._call = self._clock.callLater(self._pause, self._tick)
        return number

    def remove(self, member: HasHeartbeat, number: int) -> None:
        """Remove a member; do nothing where it was removed before."""
        slot = self._slots[number]
        if member in slot:
            slot.discard(member)
            self._members -= 1
            if not self._members and self._call is not None:
                self._call.cancel()
                self._call = None
                self._ticked_at = 0.0

    def seconds(self) -> float:
        """Return the time on the clock of the heartbeats."""
        return self._clock.seconds()

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call something in the next turn of the reactor."""
        self._clock.callLater(0, call)

    def _tick(self) -> None:
        now = self._clock.seconds()
        self._call = self._clock.callLater(self._pause, self._tick)
        # After a standstill of the process all overdue beats are made up for, but no member beats twice.
        due = min(len(self._slots), max(1, int((now - self._ticked_at) / self._pause + 0.001)))
        self._ticked_at = now
        for _ in range(due):
            slot = self._slots[self._now]
            self._now = (self._now + 1) % len(self._slots)
            for member in tuple(slot):
                if member in slot:
                    member.beat()


@implementer(IPushProducer)
class BackpressuredWriter:
    """Writes at the pace at which the client reads, and buffers nothing.

    The transport pauses it while bytes are unsent, and resumes it once there are none. A subclass writes no
    batch while it is ``congested``, and goes on in ``_resume``. ``unsent`` returns how many bytes are unsent,
    as far as the transport knows.
    """

    __slots__ = ("_heartbeats", "_number", "_open", "_paused_at", "_unsent", "_unsent_before")

    def __init__(self, heartbeats: Heartbeats, unsent: Callable[[], int]) -> None:
        self._heartbeats = heartbeats
        self._number = 0
        self._unsent = unsent
        self._open = False
        """Whether anything may still be written."""
        self._paused_at: float | None = None
        """When the transport paused it, or when the client last took something since; None if not paused."""
        self._unsent_before = 0
        """How many bytes were unsent when that was last looked at."""

    @property
    def congested(self) -> bool:
        """Whether the transport has unsent bytes, so that the next batch has to wait."""
        return self._paused_at is not None

    def _resume(self) -> None:
        """Go on: everything is sent."""
        raise NotImplementedError

    def _is_stalled(self) -> bool:
        """Return whether the client has taken nothing for too long; to be asked at each heartbeat."""
        if self._paused_at is None:
            return False
        now, before = self._heartbeats.seconds(), self._unsent_before
        self._unsent_before = self._unsent()
        if self._unsent_before < before:
            self._paused_at = now
        return now - self._paused_at > STALLED_SECONDS

    # -- IPushProducer, for the transport

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """Wait: bytes are unsent."""
        if self._paused_at is None:
            self._paused_at, self._unsent_before = self._heartbeats.seconds(), self._unsent()

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """Go on: everything is sent."""
        self._paused_at = None
        if self._open:
            self._resume()

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """Write no more: the connection is lost."""
        self._open = False


class Stream(BackpressuredWriter):
    """One response that stays open: a follower of the hub whose batches are written as they come.

    A heartbeat is written where nothing else is.
    """

    __slots__ = ("_exchange", "_follower", "_format", "_hub", "_random")

    def __init__(
        self,
        exchange: Exchange,
        hub: Hub,
        form: Format,
        heartbeats: Heartbeats,
        random: Random,
    ) -> None:
        super().__init__(heartbeats, exchange.unsent)
        self._exchange = exchange
        self._hub = hub
        self._format = form
        self._random = random
        self._follower: Follower | None = None

    def begin(
        self,
        recipients: tuple[str, ...],
        after: Cursor,
        head: bytes,
        acks: bool = True,
        name: str | None = None,
    ) -> Follower:
        """Follow the recipients from a cursor on; return the parked reader.

        It fires when the server has ended the stream. Cancelling it forgets the reader. ``head`` are header
        lines. With ``acks`` false its cursor acknowledges nothing. ``name`` is that under which the reader
        is present. Raises ``ServerFull`` or ``Stopping``.
        """
        follower = self._follower = self._hub.follow(
            recipients, after, self._deliver, self._write_place, acks=acks, name=name
        )
        self._hub.counts.streams += 1
        self._open = True
        self._exchange.start(200, head)
        self._write(self._format.opening(self._retry()))
        self._exchange.register_producer(self)
        self._number = self._heartbeats.add(self)
        follower.addCallbacks(self._finish, self._failed)
        follower.go_on()
        return follower

    def _finish(self, _: None) -> None:
        """End the response: the server stops, or the time of the stream is over."""
        self._forget()
        self._exchange.write(self._format.closing(self._retry()))
        self._exchange.unregister_producer()
        self._exchange.finish()

    def _failed(self, failure: Failure) -> None:
        """Forget a stream whose client has disconnected; end one whose place the store could not find."""
        if failure.check(CancelledError):
            self._forget()
        else:
            self._hub.store_failed(failure)
            self._finish(None)

    def beat(self) -> None:
        """Write a heartbeat, and acknowledge what was sent; disconnect a client that has stalled."""
        if not self.congested:
            self._write(self._format.heartbeat)
            if self._follower is not None:
                self._follower.come_back()
        elif self._is_stalled():
            self._open = False
            self._exchange.abort()

    def end(self) -> None:
        """End the stream; its reader may come back."""
        if self._follower is not None:
            self._follower.end()

    def _deliver(self, batch: Batch) -> bool:
        """Write a batch; return whether the next one may be written at once."""
        form = self._format
        self._write(batch.once(form.name, form.render))
        return self._open and self._paused_at is None

    def _write(self, data: bytes) -> None:
        if self._open:
            self._exchange.write(data)

    def _write_place(self, cursor: Cursor) -> None:
        """Give the reader its place, where it has no message yet whose id would be one."""
        self._write(self._format.place(cursor))

    def _forget(self) -> None:
        """Leave every table."""
        self._open = False
        self._follower = None  # it refers to the stream: a cycle would live until old garbage is collected
        self._hub.counts.streams -= 1
        self._heartbeats.remove(self, self._number)

    def _retry(self) -> int:
        return self._random.randint(*RETRY_MILLISECONDS)

    def _resume(self) -> None:
        if self._follower is not None:
            self._follower.go_on()
