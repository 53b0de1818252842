"""What an operator may set of Bayeux."""

from __future__ import annotations

from dataclasses import dataclass

from ..limits import BAYEUX_BROWSER_SESSIONS


@dataclass(frozen=True, slots=True)
class BayeuxOptions:
    """What an operator may set: ``timeout`` and ``max_interval`` in seconds, ``interval`` in milliseconds."""

    timeout: float = 30.0
    """A connect is held this long."""
    interval: int = 0
    """Clients wait this long between two connects. aiocometd takes it for seconds, so 0 is best."""
    max_interval: float = 10.0
    """A session ends where it does not connect again for this long after an answer."""
    anonymous_publish: bool = False
    """Whether a client may publish without a handshake ("Unconnected operation")."""
    bind_browser: bool = False
    """Whether a session is served only to the browser that began it, known by a cookie; not all have one."""
    held_for_a_browser: int = 1
    """Connects held at once for one browser over HTTP ("Server-side Multiple clients detection")."""
    browser_sessions: int = BAYEUX_BROWSER_SESSIONS
    """Sessions of one browser. CometD's client for node.js has one cookie jar for a whole process."""
