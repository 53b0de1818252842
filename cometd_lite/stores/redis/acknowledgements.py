"""What readers acknowledge without asking Redis: it is sent in batches, a few times a second."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from ...core.message import Cursor
from ...errors import StoreDown
from ...limits import REDIS_ACKNOWLEDGE_SECONDS, REDIS_FULL_SECONDS, REDIS_WRITTEN_AT_ONCE
from .link import RedisLink


class Acknowledgements:
    """Gathers the places that readers of one process have come back with, and sends them.

    ``later`` is given what Redis did not take, as names and a cursor.
    """

    def __init__(
        self, link: RedisLink, clock: IReactorTime, later: Callable[[tuple[str, ...], Cursor], object]
    ) -> None:
        self._link = link
        self._clock = clock
        self._later = later
        self._epoch = ""
        self._places: dict[str, int] = {}
        self._call: IDelayedCall | None = None
        self._arriving: dict[Deferred[None], IDelayedCall] = {}
        """What waits for the acknowledgements of all processes, each with its timer."""

    def add(self, name: str, after: Cursor) -> None:
        """Acknowledge what a mailbox holds up to a cursor of the present log, soon."""
        places = self._places
        if self._epoch != after.epoch:
            places.clear()
            self._epoch = after.epoch
        places[name] = max(places.get(name, 0), after.sequence)
        if self._call is None:
            self._call = self._clock.callLater(REDIS_ACKNOWLEDGE_SECONDS, self._send_soon)

    def send(self) -> None:
        """Send what is gathered now."""
        if self._call is not None:
            self._call.cancel()
            self._send_soon()

    def arrived(self) -> Deferred[None]:
        """Return what fires once Redis has what readers of any process have acknowledged so far."""
        self.send()
        arrived: Deferred[None] = Deferred()
        self._arriving[arrived] = self._clock.callLater(REDIS_FULL_SECONDS, self._arrive, arrived)
        return arrived

    def _arrive(self, arrived: Deferred[None]) -> None:
        del self._arriving[arrived]
        arrived.callback(None)

    def end(self) -> None:
        """Send what is gathered now, and wait for no other process; leave no timer behind."""
        self.send()
        for arrived, timer in tuple(self._arriving.items()):
            timer.cancel()
            self._arrive(arrived)

    def _send_soon(self) -> None:
        self._call = None
        places, self._places = list(self._places.items()), {}
        if self._epoch != self._link.epoch:
            return  # Redis was emptied, and the mailboxes with it
        for first in range(0, len(places), REDIS_WRITTEN_AT_ONCE):
            some = places[first : first + REDIS_WRITTEN_AT_ONCE]
            names, numbers = zip(*some, strict=True)
            acknowledged = self._link.run(0.0, "acknowledge", names, *numbers)
            acknowledged.addErrback(self._refused, some, self._epoch)

    def _refused(self, failure: Failure, places: list[tuple[str, int]], epoch: str) -> None:
        failure.trap(StoreDown)
        for name, number in places:
            self._later((name,), Cursor(epoch, number))
