"""Announcements of presence: the joins and leaves of names are messages of ``$presence/NAME``.

``LocalAnnouncer`` serves one process, whose tracker knows of all readers. A change is announced in a later
turn of the reactor, in order: the registry parks a reader in the middle of other work, and a push would wake
readers there.
"""

from __future__ import annotations

import time
from typing import Literal

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from ..deferreds import is_pending
from ..errors import CometError
from ..jsontext import dumps
from ..limits import (
    PRESENCE_CHANGES,
    PRESENCE_COUNT_SECONDS,
    PRESENCE_MEMBERS,
    PRESENCE_MESSAGE_SECONDS,
    PRESENCE_PUSHES,
    SLICE_SECONDS,
)
from .hub import Hub
from .message import JSON_TYPE, Content, Push
from .namespaces import Namespaces
from .presence import PresenceTracker
from .present import OnChange, PresenceChange
from .recipient import PRESENCE, is_pattern


class LocalAnnouncer:
    """Announces the joins and leaves of a process that is the only one.

    A recipient of more than ``PRESENCE_MEMBERS`` names gets its count of readers only, once a second at
    most. A change that the store refuses is counted and not announced again.
    """

    def __init__(self, tracker: PresenceTracker) -> None:
        self.on_change: OnChange | None = None
        self._tracker = tracker
        self.describe = tracker.describe
        self._hub = tracker.hub
        self._changed: dict[tuple[str, str], int] = {}
        """Names that have changed, each with its readers at its last announcement, longest ago first."""
        self._pushes = 0
        """Pushes for which a store that waits has no answer yet."""
        self._call: IDelayedCall | None = None
        self._counting: dict[str, None] = {}
        """Recipients whose count is to be announced, longest ago first."""
        self._count_call: IDelayedCall | None = None
        self._is_stopped = False

    # -- what the tracker reports

    def changed(self, recipient: str, name: str | None, before: int) -> None:
        if name is None or self._is_stopped or is_pattern(recipient):
            return
        changed = (recipient, name)
        if changed in self._changed or (before and self._tracker.count(recipient, name)):
            return
        if len(self._changed) >= PRESENCE_CHANGES:
            self._hub.counts.presence_untold += 1
            return
        self._changed[changed] = before
        self._announce_later()

    def left(self, recipient: str, name: str) -> None:
        """See ``Announcer.left``: there is no other process."""

    def stop(self) -> None:
        self._is_stopped = True
        self._changed.clear()
        self._counting.clear()
        for call in (self._call, self._count_call):
            if call is not None:
                call.cancel()
        self._call = self._count_call = None

    # -- announcing

    def _announce_later(self) -> None:
        if self._call is None and self._changed and self._pushes < PRESENCE_PUSHES:
            self._call = self._hub.clock.callLater(0, self._announce_some)

    def _announce_some(self) -> None:
        """Announce what has changed, in the order in which it did, for ``SLICE_SECONDS`` in one turn."""
        self._call = None
        until = time.perf_counter() + SLICE_SECONDS
        while self._changed and self._pushes < PRESENCE_PUSHES and time.perf_counter() < until:
            changed = next(iter(self._changed))
            before, after = self._changed.pop(changed), self._tracker.count(*changed)
            if bool(before) != bool(after):
                self._announce(*changed, joins=not before)
        self._announce_later()

    def _announce(self, recipient: str, name: str, *, joins: bool) -> None:
        tracker, counts = self._tracker, self._hub.counts
        if joins:
            counts.presence_joins += 1
        else:
            counts.presence_leaves += 1
        event: Literal["join", "leave"] = "join" if joins else "leave"
        readers = tracker.readers(recipient)
        if self.on_change is not None:
            self.on_change(PresenceChange(event, recipient, name, readers, self._hub.wall()))
        if tracker.members(recipient) + (not joins) <= PRESENCE_MEMBERS:
            self._push(recipient, event, {"name": name, "readers": readers})
            return
        self._counting[recipient] = None
        self._count_later()

    def _announce_counts(self) -> None:
        """Announce counts for ``SLICE_SECONDS``, and those that are left a second later."""
        self._count_call = None
        until = time.perf_counter() + SLICE_SECONDS
        while self._counting and self._pushes < PRESENCE_PUSHES and time.perf_counter() < until:
            recipient = next(iter(self._counting))
            del self._counting[recipient]
            self._push(recipient, "count", {"readers": self._tracker.readers(recipient)})
        self._count_later()

    def _count_later(self) -> None:
        if self._counting and self._count_call is None:
            self._count_call = self._hub.clock.callLater(PRESENCE_COUNT_SECONDS, self._announce_counts)

    def _push(self, recipient: str, event: str, said: dict[str, object]) -> None:
        push = Push(
            (PRESENCE + recipient,),
            (Content(dumps(said), JSON_TYPE, "json"),),
            event,
            ttl=PRESENCE_MESSAGE_SECONDS,
            overflow="drop-oldest",
        )
        try:
            pushed = self._hub.push(push)
        except CometError:
            self._hub.counts.presence_untold += 1
            return
        if is_pending(pushed):
            self._pushes += 1
            pushed.addCallbacks(self._pushed, self._not_pushed)

    def _pushed(self, _: object) -> None:
        self._pushes -= 1
        self._announce_later()

    def _not_pushed(self, failure: Failure) -> None:
        self._hub.counts.presence_untold += 1
        self._hub.store_failed(failure)
        self._pushed(None)


def tracker_of(hub: Hub, namespaces: Namespaces | None, default: bool) -> PresenceTracker | None:
    """Return what tracks the readers of recipients, and announces changes at all processes of the store.

    ``default`` says whether it does so for recipients of which no namespace says so. None where it is known
    of no recipient.
    """
    announcer = LocalAnnouncer if hub.shared is None else hub.shared.announcer
    if namespaces is None or not namespaces.sets("presence"):
        return PresenceTracker(hub, announcer) if default else None
    return PresenceTracker(hub, announcer, lambda name: namespaces.has_presence(name, default))
