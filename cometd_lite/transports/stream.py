"""What streams have in common: batches arrive from the hub, bytes leave on a response that does not end.

A stream is the loop of which a long-poll is one turn. It is bounded: what its reader lets pile up unread
ends it, and the reader comes back with its cursor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from ..hub import Follower, Hub
from ..limits import RETRY_MILLISECONDS, STALLED_SECONDS, STREAM_BUFFER
from ..message import Batch, Cursor


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


class Heartbeats:
    """Beats for every member once in ``interval`` seconds, all of them by one timer.

    Members are spread over the interval by when they joined, a second at a time.
    """

    def __init__(self, clock: IReactorTime, interval: float) -> None:
        self._clock = clock
        self._slots: list[set[Callable[[], None]]] = [set() for _ in range(max(1, int(interval)))]
        self._pause = interval / len(self._slots)
        self._now = 0
        self._members = 0
        self._call: IDelayedCall | None = None

    def add(self, beat: Callable[[], None]) -> Callable[[], None]:
        """Call ``beat`` every interval from now on, until the function that this returns is called."""
        # The slot that has just passed comes round again after one whole interval.
        slot = self._slots[self._now - 1]
        slot.add(beat)
        self._members += 1
        if self._call is None:
            self._call = self._clock.callLater(self._pause, self._tick)

        def leave() -> None:
            if beat in slot:
                slot.discard(beat)
                self._members -= 1
                if not self._members and self._call is not None:
                    self._call.cancel()
                    self._call = None

        return leave

    def seconds(self) -> float:
        """Return the time on the clock that the beats go by."""
        return self._clock.seconds()

    def _tick(self) -> None:
        self._call = self._clock.callLater(self._pause, self._tick)
        slot = self._slots[self._now]
        self._now = (self._now + 1) % len(self._slots)
        for beat in tuple(slot):
            if beat in slot:
                beat()


@implementer(IPushProducer)
class Stream:
    """One response that stays open: it tells its reader what the hub tells it, and when nothing comes, beats.

    ``request`` is written to at once. The transport says when the reader does not keep up: then no
    backlog is read for it, and what is new piles up, until it takes it or is disconnected.
    """

    def __init__(self, request: Any, hub: Hub, form: Format, heartbeats: Heartbeats, random: Random) -> None:
        self._request = request
        self._hub = hub
        self._metrics = hub.metrics
        self._form = form
        self._heartbeats = heartbeats
        self._random = random
        self._clock = hub.clock
        self._follower: Follower | None = None
        self._told = False
        self._paused_at: float | None = None
        self._piled = 0
        self._open = True

    def begin(self, recipients: tuple[str, ...], after: Cursor, start: Callable[[], None]) -> Deferred[None]:
        """Follow the recipients from a cursor on; the Deferred fires when the server ends the stream.

        Cancelling it, as a lost connection does, forgets the reader. Raises ``ServerFull`` or ``Stopping``;
        once the reader is admitted, ``start`` is called to write the head of the response.
        """
        follower = self._follower = self._hub.follow(recipients, after, self._tell)
        ended = follower.deferred
        assert ended is not None, "who was parked just now has a Deferred"
        self._metrics.streams += 1
        start()
        self._write(self._form.opening(self._retry()))
        self._request.registerProducer(self, True)
        leave = self._heartbeats.add(self._beat)

        def left(result: Any) -> Any:
            self._open = False
            self._metrics.streams -= 1
            leave()
            return result

        ended.addBoth(left)
        ended.addCallback(self._say_goodbye)
        follower.go_on()
        if not self._told:
            # Whoever is cut off before the first message must know its place all the same.
            self._write(self._form.place(follower.after))
        return ended

    def _tell(self, batch: Batch) -> bool:
        self._told = True
        data: bytes | None = batch.rendered.get(self._form.name)
        if data is None:
            data = batch.rendered[self._form.name] = self._form.render(batch)
        self._write(data)
        # A backlog goes on when it was taken; what is new is written, and piles up.
        return self._paused_at is None or not batch.more

    def _write(self, data: bytes) -> None:
        if not self._open:
            return
        self._request.write(data)
        if self._paused_at is not None:
            self._piled += len(data)
            if self._piled > STREAM_BUFFER:
                self._disconnect()

    def _beat(self) -> None:
        if self._paused_at is not None and self._clock.seconds() - self._paused_at > STALLED_SECONDS:
            self._disconnect()
        else:
            self._write(self._form.heartbeat)

    def _say_goodbye(self, _: None) -> None:
        self._request.write(self._form.closing(self._retry()))
        self._request.unregisterProducer()

    def _disconnect(self) -> None:
        self._open = False
        self._request.transport.abortConnection()

    def _retry(self) -> int:
        return self._random.randint(*RETRY_MILLISECONDS)

    def end(self) -> None:
        """End the stream; its reader may come back."""
        if self._follower is not None:
            self._follower.end()

    # -- what the transport calls

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """Note that the reader does not keep up."""
        if self._paused_at is None:
            self._paused_at = self._clock.seconds()

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """Go on: the reader has taken what was written."""
        self._paused_at = None
        self._piled = 0
        if self._follower is not None and self._open:
            self._follower.go_on()

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """Write no more: the connection is lost."""
        self._open = False
