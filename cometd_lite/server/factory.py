"""Connections come in from a listening port, and each is given the same routes, bounds and timer."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Any, Protocol
from wsgiref.handlers import format_date_time

from twisted.internet.interfaces import IProtocolFactory, IProtocolNegotiationFactory
from twisted.logger import Logger
from twisted.web.http import RESPONSES
from zope.interface import implementer

from .bounds import TICK, Bounds
from .connection import HTTPConnection
from .epoll import Poller, adoptable
from .head import Head, Refused, parse_block
from .router import Table, Target
from .wire import Owner, TwistedWire, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from klein import Klein
    from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime

    from .proxies import Proxies
    from .request import Request


class Admitted(Protocol):
    """What was counted for a connection."""

    def release(self) -> None:
        """Count it out: the connection has ended."""


@implementer(IProtocolFactory, IProtocolNegotiationFactory)
class HTTPFactory:
    """Serves a Klein app over HTTP/1.1.

    ``app`` may be bound to an instance. ``malformed(status, sentence)`` renders an answer where there is no
    request to speak of (400, 408, 414, 431, 500, 505): a block of ``Name: value`` lines, each with its CRLF,
    and a body. ``prefix`` is the path under which the app is mounted; what lies outside is not found.
    ``on_answer`` is called with each request that is over, for metrics and an access log: answered, handed
    on to another protocol, refused as malformed (then it may have neither method nor target), or left by
    its client before the answer (then its code is 499, as nginx has it).
    ``clock`` is for deadlines, ``wall`` for the Date. ``proxies`` are those that are believed.

    ``most`` connections are served at once; ``admit`` is asked about the address of each: it returns what is
    released when the connection has ended, None for nothing, or why it is refused. Those that are refused
    are told so, a few at a time, and dropped beyond that.

    ``connections`` are all that are open. Set ``stopping`` and every answer is its connection's last;
    ``shutdown`` closes those that are idle.
    """

    log = Logger()

    def __init__(
        self,
        app: Klein,
        *,
        clock: IReactorTime,
        malformed: Callable[[int, str], tuple[bytes, bytes]],
        bounds: Bounds | None = None,
        prefix: bytes = b"",
        on_answer: Callable[[Request], None] | None = None,
        proxies: Proxies | None = None,
        most: float = inf,
        admit: Callable[[str], Admitted | Refused | None] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.app = app
        self.clock = clock
        self.seconds = clock.seconds
        self.wall = wall
        self.malformed = malformed
        self.bounds = bounds or Bounds()
        self.on_answer = on_answer
        self.proxies = proxies
        self.most = most
        self._admit = admit
        self._admitted: dict[HTTPConnection, Admitted] = {}
        self._refused: set[HTTPConnection] = set()
        self.routes = Table(app, prefix)
        self.connections: set[HTTPConnection] = set()
        self.stopping = False
        self.tick = 1
        self.idle_until = 1 + self.bounds.idle_seconds
        """The deadline of a connection that begins to wait for its next request now."""
        self.status_lines: dict[int, bytes] = {}
        self.last_answer: tuple[bytes, bytes, bytes, bytes] = (b"", b"", b"", b"")
        """Status line, head and body of an answer, and what was sent for it: a fan-out sends it often."""
        self.last_line: tuple[bytes, Target, bytes, bytes] | None = None
        """The last request line that was recognised, its target, URI and query: those woken by one push come
        back with the same."""
        self.targets: dict[bytes, Target] = {}
        """What request lines mean, by all up to their query, or by the whole line where there is none."""
        self._lines_once: set[bytes] = set()
        """Of lines that came once of late, what would be their key in ``targets``."""
        self._heads: dict[bytes, Head] = {}
        self._timer: IDelayedCall | None = None
        self._poller: Poller | None = None

    # -- IProtocolFactory

    def buildProtocol(self, addr: IAddress | None) -> HTTPConnection:  # noqa: N802  Twisted's name
        """Return the server's end of a new connection."""
        return HTTPConnection(self, getattr(addr, "host", ""))

    def doStart(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: there is nothing to begin."""

    def doStop(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: connections live on until they end, or ``shutdown``."""

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802  Twisted's name
        """Return what is spoken over TLS (RFC 7301): a browser that offers h2 first is told so."""
        return [b"http/1.1"]

    # -- what its connections need

    def wire(self, transport: Any, owner: Owner) -> Wire:
        """Return the fastest wire there is over ``transport``."""
        if not adoptable(transport):
            return TwistedWire(transport, owner)
        if self._poller is None:
            self._poller = Poller(transport.reactor)
        return self._poller.adopt(transport, owner)

    def refusal(self, connection: HTTPConnection) -> Refused | None:
        """Return why a new connection is not served, None where it is; then it is counted."""
        if len(self.connections) - len(self._refused) >= self.most:
            return Refused(503, f"{self.most:g} connections are open, which is the server's bound.")
        return self.admission(connection)

    def admission(self, connection: HTTPConnection) -> Refused | None:
        """Return why one more connection of a peer is not served; None where it is, or nobody counts."""
        if self._admit is not None and connection.peer:
            admitted = self._admit(connection.peer)
            if isinstance(admitted, Refused):
                return admitted
            if admitted is not None:
                self._admitted[connection] = admitted
        return None

    def may_hear(self, connection: HTTPConnection) -> bool:
        """Whether one that is refused may read why; those before it do so still."""
        if len(self._refused) >= self.bounds.refused:
            return False
        self._refused.add(connection)
        return True

    def opened(self, connection: HTTPConnection) -> None:
        """Count a connection in; the first one starts the timer."""
        self.connections.add(connection)
        if self._timer is None:
            self._timer = self.clock.callLater(TICK, self._pass_time)

    def closed(self, connection: HTTPConnection) -> None:
        """Count a connection out; the last one stops the timer."""
        self.connections.discard(connection)
        self._refused.discard(connection)
        if self._admit is not None:
            admitted = self._admitted.pop(connection, None)
            if admitted is not None:
                admitted.release()
        if not self.connections and self._timer is not None:
            timer, self._timer = self._timer, None
            timer.cancel()
            self._forget_answers()

    def _pass_time(self) -> None:
        """Move every clock on by one tick, and see whose time is up."""
        self._timer = self.clock.callLater(TICK, self._pass_time)
        self._forget_answers()
        self.tick = tick = self.tick + 1
        self.idle_until = tick + self.bounds.idle_seconds
        for connection in [one for one in self.connections if 0 < one.deadline <= tick]:
            connection.overdue()

    def _forget_answers(self) -> None:
        """Drop what was kept of the answers of one second."""
        self.status_lines.clear()
        self.last_answer = (b"", b"", b"", b"")

    def status_line(self, status: int) -> bytes:
        """Return the status line and the Date (RFC 9110 §6.6.1) of all such answers in this second."""
        reason = RESPONSES.get(status, b"")
        date = format_date_time(self.wall()).encode()
        line = self.status_lines[status] = b"HTTP/1.1 %d %b\r\nDate: %b\r\n" % (status, reason, date)
        return line

    def known_head(self, block: bytes) -> Head | None:
        """Return the head of a block that was checked before; None where it was not, or not of late."""
        head = self._heads.get(block)
        if head is not None:
            head.shared = True
        return head

    def head(self, block: bytes) -> Head:
        """Return the checked head of a block; known ones are recognised. Raises ``Refused``."""
        head = self.known_head(block)
        if head is None:
            head = parse_block(block, self.bounds)
            if len(block) <= self.bounds.head_known:
                if len(self._heads) >= self.bounds.heads_known:
                    self._heads.clear()
                self._heads[block] = head
        return head

    def remember(self, start: bytes, target: Target) -> None:
        """Remember what a request line that begins in this way means, where it has come before.

        Where each comes once, to remember them costs more than to recognise them.
        """
        bounds, once = self.bounds, self._lines_once
        if len(start) > bounds.line_known:
            return
        if start not in once:
            if len(once) >= bounds.lines_known:
                once.clear()
            once.add(start)
            return
        once.discard(start)
        if len(self.targets) >= bounds.lines_known:
            self.targets.clear()
        self.targets[start] = target

    # -- the end

    def shutdown(self) -> None:
        """Close the connections that wait for a request; set ``stopping`` before, for all others."""
        for connection in list(self.connections):
            connection.rest()
