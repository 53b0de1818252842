"""What all connections of a factory share: routes, bounds, what was recognised, the clock, and the counts.

This is the part of the factory that connections and requests use; it imports neither.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.logger import Logger

from .bounds import ABORTED_QUIET, OVERDUE_AT_ONCE, TICK, Bounds
from .epoll import Poller, adoptable
from .head import Head, Heads, Refused
from .received import ReceivedTotal
from .render import Renderer
from .router import Router, Target, Unrouted
from .unsent import UnsentTotal
from .wire import TwistedWire

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from .application import Application
    from .proxies import Origin, Proxies
    from .wire import Owner, Wire


NO_HEAD: Final = Head(b"\r\n")
NO_TARGET: Final = Target(b"", b"", Unrouted(lambda _: None))
"""The head and the target of what is no request."""


_MOST_UNSENT: Final = (
    "Aborted {aborted} connections with the most unsent bytes: {bound} bytes were unsent in all."
)
_MOST_RECEIVED: Final = (
    "Aborted {aborted} connections of whose requests the most was kept: {bound} bytes of all had arrived "
    "that could not be served yet."
)


class Admitted(Protocol):
    """What was counted for a connection."""

    def release(self) -> None:
        """Stop counting: the connection has ended."""


class ServedConnection(Protocol):
    """What the factory and a request use of a connection."""

    factory: Shared
    peer: str
    """The address of the client, or of the proxy; empty where it has none."""
    wire: Wire
    closing: bool
    """The response that is being sent is the last one of the connection."""
    request_size: int
    """The bytes of the request that is served."""
    deadline: int
    """The tick at which ``overdue`` is called; 0 for never."""

    def overdue(self) -> None:
        """Do what is due at the deadline."""

    def close_if_idle(self) -> None:
        """Close where no request has begun."""

    def origin(self, head: Head) -> Origin:
        """Return where a request with this head came from."""

    def hold(self, size: int) -> None:
        """Count bytes that are kept for the connection elsewhere; see ``ReceivedTotal``."""

    def answered(self, request: Any) -> None:
        """Go on: the response to the current request is written."""

    def upgraded(self, protocol: Any) -> None:
        """Give the connection to another protocol: the current request is answered."""


class Shared:
    """The state of one factory; see ``HTTPFactory`` for the arguments."""

    log = Logger()

    def __init__(
        self,
        application: Application[Any],
        *,
        clock: IReactorTime,
        bounds: Bounds | None = None,
        prefix: bytes = b"",
        on_answer: Callable[[Any], object] = lambda _: None,
        proxies: Proxies | None = None,
        max_connections: float = float("inf"),
        admit: Callable[[str], Admitted | Refused | None] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.application = application
        self.clock = clock
        self.seconds = clock.seconds
        self.bounds = bounds or Bounds()
        self.router = Router(application, prefix, self.bounds)
        self.heads = Heads(self.bounds)
        self.renderer = Renderer(wall)
        self.on_answer = on_answer
        self.proxies = proxies
        self.max_connections = max_connections
        self.connections: set[ServedConnection] = set()
        self.last_data = b""
        """The last head that was recognised: the readers that a push has woken come back with the same one.
        This is 3 % of a fan-out."""
        self.last_begun = (NO_HEAD, NO_TARGET, b"")
        """What it was recognised as: the head, the target and the query."""
        self.stopping = False
        """Every response is the last one of its connection."""
        self.tick = 1
        """The time in ticks, for deadlines."""
        self.received = ReceivedTotal(self.bounds.received)
        self._unsent = UnsentTotal(self.bounds.unsent)
        self._admit = admit
        self._admitted: dict[ServedConnection, Admitted] = {}
        self._refused: set[ServedConnection] = set()
        self._quiet_until = {_MOST_UNSENT: 0, _MOST_RECEIVED: 0}
        """The ticks at which connections are logged again that were aborted for a bound's sake."""
        self._timer: IDelayedCall | None = None
        self._overdue: list[ServedConnection] = []
        """The connections of this tick that are still to do what is due."""
        self._poller: Poller | None = None

    @property
    def unsent(self) -> int:
        """The bytes that were written and that clients have not taken; see ``Bounds.unsent``."""
        return self._unsent.size

    def wire(self, transport: Any, owner: Owner) -> Wire:
        """Return the fastest wire that there is over ``transport``."""
        if not adoptable(transport):
            return TwistedWire(transport, owner, self._unsent)
        if self._poller is None:
            self._poller = Poller(transport.reactor, self._unsent)
        return self._poller.adopt(transport, owner)

    def forget(self) -> None:
        """Forget what is remembered of requests, apart from those of clients that are connected."""
        self.router.forget()
        self.heads.forget()
        self.last_data, self.last_begun = b"", (NO_HEAD, NO_TARGET, b"")
        # These are made anew: Python keeps a megabyte for a number that was made in the midst of a flood.
        self.tick += 0
        self.received.aborted += 0
        self._unsent.aborted += 0
        for sentence in self._quiet_until:
            self._quiet_until[sentence] += 0

    # -- connections

    def refusal(self, connection: ServedConnection) -> Refused | None:
        """Return why a new connection is not served; None where it is, and was counted."""
        if len(self.connections) - len(self._refused) >= self.max_connections:
            return Refused(
                503, f"{self.max_connections:g} connections are open, which is the server's bound."
            )
        return self.admission(connection)

    def admission(self, connection: ServedConnection) -> Refused | None:
        """Return why one more connection of a client is not served; None where it is, and was counted."""
        if self._admit is not None and connection.peer:
            admitted = self._admit(connection.peer)
            if isinstance(admitted, Refused):
                return admitted
            if admitted is not None:
                self._admitted[connection] = admitted
        return None

    def may_answer_refusal(self, connection: ServedConnection) -> bool:
        """Return whether a connection that is refused may be answered; not too many are at one time."""
        if len(self._refused) >= self.bounds.refused:
            return False
        self._refused.add(connection)
        return True

    def opened(self, connection: ServedConnection) -> None:
        """Count a connection; the first one starts the timer."""
        self.connections.add(connection)
        if self._timer is None:
            self._timer = self.clock.callLater(TICK, self._pass_time)

    def closed(self, connection: ServedConnection) -> None:
        """Stop counting a connection; the last one stops the timer."""
        self.connections.discard(connection)
        self._refused.discard(connection)
        admitted = self._admitted.pop(connection, None)
        if admitted is not None:
            admitted.release()
        if not self.connections and self._timer is not None:
            self.connections.clear()  # else the table stays as large as it was
            timer, self._timer = self._timer, None
            timer.cancel()
            self.renderer.new_second()

    def _end_overdue(self) -> None:
        """Let connections do what is due, some in each turn of the reactor: thousands may be due at once."""
        some = self._overdue[:OVERDUE_AT_ONCE]  # The list stays the same one: see ``memos``.
        del self._overdue[:OVERDUE_AT_ONCE]
        if self._overdue:
            self.clock.callLater(0, self._end_overdue)  # before one of these fails, which is due again then
        for connection in some:
            if connection in self.connections and 0 < connection.deadline <= self.tick:
                connection.overdue()

    def _pass_time(self) -> None:
        """Advance the time by one tick, and look for overdue connections."""
        self._timer = self.clock.callLater(TICK, self._pass_time)
        self.renderer.new_second()
        self.tick = tick = self.tick + 1
        is_ending = bool(self._overdue)
        self._overdue[:] = [one for one in self.connections if 0 < one.deadline <= tick]
        if not is_ending:
            self._end_overdue()
        self._log_aborted(self._unsent, _MOST_UNSENT)
        self._log_aborted(self.received, _MOST_RECEIVED)

    def _log_aborted(self, total: UnsentTotal | ReceivedTotal, sentence: str) -> None:
        """Log how many connections were aborted for a bound's sake: at once, and then once a minute."""
        if total.aborted and self.tick >= self._quiet_until[sentence]:
            self._quiet_until[sentence] = self.tick + ABORTED_QUIET
            self.log.warn(sentence, aborted=total.aborted, bound=total.bound)
            total.aborted = 0
