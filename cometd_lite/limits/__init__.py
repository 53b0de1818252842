"""Every bound of the server, with its reason. Nothing in the server is unbounded.

What an operator may set is a field of ``Limits``; what no operator has a reason to set is a constant of
``constants`` or ``durable``, and has its name here too. Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from .constants import *  # noqa: F403  each bound has one name, wherever it stands
from .constants import BAYEUX_BATCH_BYTES
from .durable import *  # noqa: F403  as above


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds that an operator may set; the command's options have the same names.

    The defaults hold a server within half a gigabyte.
    """

    capacity: int = 1_000
    """Messages in one mailbox (HTTP.md)."""

    capacity_bytes: int = 1024 * 1024
    """Bytes of bodies in one mailbox (HTTP.md)."""

    ttl: float = 86_400.0
    """A message is kept at most this long: a person who is away for the night still gets it."""

    max_attempts: int = 10
    """Leases that a message has before it goes to the dead letters: work that failed so often fails again."""

    max_body: int = 64 * 1024
    """Bytes of one push's body (HTTP.md), and of the ``data`` of one Bayeux message."""

    max_wait: float = 120.0
    """The longest that a poll may ask to be held: RFC 6202 §5.5 saw success up to 120 s."""

    max_parked: int = 15_000
    """Parked polls, streams and sockets: fewer than a process' 20,000 files. Their names take 60 MB."""

    max_connections: int = 20_000
    """Open connections: all parked readers, and thousands that push. Fewer where files do not suffice."""

    max_recipients: int = 100_000
    """Mailboxes that exist at once: 50 MB of overhead."""

    max_sessions: int = 50_000
    """Listeners and Bayeux clients remembered at once: of each kind so many, and 100 MB."""

    max_memory: int = 256 * 1024 * 1024
    """Bytes of all messages and mailboxes, overhead included."""

    client_connections: int | None = None
    """Connections of one address, where the server is our own and not a site of twisted.web. None: of one
    public address, a quarter of all; any other may be a proxy."""

    client_parked: int | None = None
    """Parked polls, streams and sockets of one client. None for any number: a benchmark is one client."""

    client_pushes: int | None = None
    """Messages that one client pushes a second, each counted for each recipient. None: a web application is
    one client, and pushes for all its users."""

    client_bytes: int | None = None
    """Bytes of bodies that one client pushes a second. None for any number, as above."""

    client_registrations: int | None = None
    """Listeners and Bayeux sessions of one client. None for any number, as above."""

    @property
    def max_batch(self) -> int:
        """Bytes of one Bayeux request: however large one message may be, it may have a neighbour."""
        return max(BAYEUX_BATCH_BYTES, 2 * self.max_body)
