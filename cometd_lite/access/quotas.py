"""What one client may hold and push: its address or its token's subject arrives, and a refusal is raised.

Without this the server's own bounds hold, and one client can use up all of them. A client is the subject of
its token where the token names one, else its address: so the people behind one office's address do not stand
in each other's way once they have tokens. An IPv6 address counts by its /64, because one subscriber has all
of those. A connection is counted before its first request, so always by its address.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from math import ceil, inf

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from ..deferreds import T
from ..errors import TooManyRequests
from ..limits import CLIENT_BURST_SECONDS, CLIENT_CONNECTIONS_SHARE, CLIENTS_KNOWN, Limits
from ..memos import memo


class Share:
    """How many of one kind of thing a client holds; at most ``most``. ``what`` is their name in a refusal."""

    __slots__ = ("_client", "held", "most", "what")

    def __init__(self, client: ClientUsage, most: float, what: str) -> None:
        self._client = client
        self.most = most
        self.what = what
        self.held = 0

    @property
    def is_full(self) -> bool:
        """Whether there may not be one more."""
        return self.held >= self.most

    @property
    def refusal(self) -> str:
        """The sentence that refuses a client one more."""
        return f"One client has at most {self.most:g} {self.what} here."

    def check(self) -> None:
        """Raise ``TooManyRequests`` where there may not be one more."""
        if self.is_full:
            raise TooManyRequests(self.refusal)

    def take(self) -> None:
        """Count one more. Raises ``TooManyRequests``."""
        self.check()
        self.held += 1
        self._client.table._hold(self._client)

    def release(self) -> None:
        """Count one less."""
        self.held -= 1
        self._client.table._let_go(self._client)

    def hold_until(self, ended: Deferred[T]) -> None:
        """Count one more until ``ended`` fires. Raises ``TooManyRequests``."""

        def release(result: T) -> T:
            self.release()
            return result

        self.take()
        ended.addBoth(release)


class Bucket:
    """A token bucket: so much a second, and what was not used in the last seconds besides.

    It may be overdrawn once, and is then closed until that is made up for: so a push of any size passes.
    """

    __slots__ = ("_at", "_level", "_rate")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._level = rate * CLIENT_BURST_SECONDS
        self._at = now

    def wait(self, now: float) -> float:
        """Return the seconds until something may be taken; 0 for now."""
        if self._rate == inf:
            return 0.0
        most = self._rate * CLIENT_BURST_SECONDS
        self._level = min(most, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, -self._level / self._rate)

    def take(self, amount: float) -> None:
        """Take so much, whether it is there or not."""
        self._level -= amount


class ClientUsage:
    """What one client holds, and what it may push now."""

    __slots__ = ("bytes", "connections", "key", "parked", "pushes", "registrations", "table")

    def __init__(self, table: Clients, key: str, now: float) -> None:
        limits = table.limits
        self.table = table
        self.key = key
        self.connections = Share(self, table.connections, "connections")
        self.parked = Share(self, _bound(limits.client_parked), "parked polls, streams and sockets")
        self.registrations = Share(self, _bound(limits.client_registrations), "listeners and sessions")
        self.pushes = Bucket(_bound(limits.client_pushes), now)
        self.bytes = Bucket(_bound(limits.client_bytes), now)

    def charge(self, messages: int, size: int) -> None:
        """Count a push of so many messages, whose bodies have ``size`` bytes. Raises ``TooManyRequests``."""
        now = self.table.clock.seconds()
        wait = max(self.pushes.wait(now), self.bytes.wait(now))
        if wait:
            raise TooManyRequests("This client pushes too much; push again later.", ceil(wait))
        self.pushes.take(messages)
        self.bytes.take(size)

    @property
    def holds(self) -> bool:
        """Whether it holds anything."""
        return bool(self.connections.held or self.parked.held or self.registrations.held)


class Clients:
    """All clients of one server. Those that hold nothing are forgotten when they become many.

    ``trusted`` returns whether an address is that of a proxy, whose connections are many clients'.
    """

    def __init__(
        self, limits: Limits, clock: IReactorTime, trusted: Callable[[str | None], bool] = lambda _: False
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.connections = limits.client_connections or max(
            1, round(limits.max_connections * CLIENT_CONNECTIONS_SHARE)
        )
        given = (limits.client_parked, limits.client_pushes, limits.client_bytes, limits.client_registrations)
        self.counts_requests = any(bound is not None for bound in given)
        """Whether there is more to count than connections."""
        self._trusted = trusted
        self._holding: dict[str, ClientUsage] = {}
        self._others: dict[str, ClientUsage] = {}
        """Clients that hold nothing, the least recently used first."""

    def __len__(self) -> int:
        return len(self._holding) + len(self._others)

    def connections_from(self, address: str) -> Share | None:
        """Return what a connection from an address counts against; None where it is not counted.

        Unless a bound was given, only public addresses are counted: what comes from this machine or a
        private network may be a proxy, or a program that serves many.
        """
        if self._trusted(address):
            return None
        if self.limits.client_connections is None and not _is_public(address):
            return None
        return self._known(address_key(address)).connections

    def of(self, address: str | None, subject: str | None) -> ClientUsage | None:
        """Return the client with this token subject, else the one with this address.

        None where there is neither, as over a UNIX socket.
        """
        if subject is not None:
            return self._known(f"subject {subject}")
        return None if address is None else self._known(address_key(address))

    def _known(self, key: str) -> ClientUsage:
        client = self._holding.get(key)
        if client is None:
            client = self._others.pop(key, None) or ClientUsage(self, key, self.clock.seconds())
            self._others[key] = client
            if len(self._others) > CLIENTS_KNOWN:
                del self._others[next(iter(self._others))]
        return client

    def _hold(self, client: ClientUsage) -> None:
        self._others.pop(client.key, None)
        self._holding[client.key] = client

    def _let_go(self, client: ClientUsage) -> None:
        if not client.holds:
            del self._holding[client.key]
            self._others[client.key] = client


def _bound(given: float | None) -> float:
    return inf if given is None else given


@memo(1_024)
def address_key(address: str) -> str:
    """Return what an IP address counts as: itself, or the /64 that it lies in."""
    found = _parsed(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Network((int(found) >> 64 << 64, 64)))
    return address if found is None else str(found)


@memo(1_024)
def _is_public(address: str) -> bool:
    found = _parsed(address)
    return found is not None and found.is_global


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """Return an address, an IPv4 one where it was only written as IPv6; None where it is none."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found
