"""The webhooks of one hub, composed: what happens becomes events, and the events are posted.

In a cluster one process posts: the one that holds a claim, which it renews, and which another process takes
over once it has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path

from msgspec.structs import asdict
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import limits
from ..core.hub import Hub
from ..core.message import timestamp
from ..core.namespaces import Namespaces
from ..core.present import PresenceChange
from ..core.store import SharedStore
from ..errors import StoreDown
from ..outgoing import Posting, post_to
from .absences import WAITS, Absences, LocalAbsences, SharedAbsences
from .outbox import EVENTS, LocalOutbox, Outbox, SharedOutbox, WebhookCounts
from .sender import EventSender
from .signing import Signer
from .unread import UnreadWatch

_POSTING = ("posting", "webhooks")
"""The record of the process that posts, by its kind and id."""


def webhooks_of(
    hub: Hub,
    url: str | None,
    key: Path | str | None,
    unread_after: float | None,
    namespaces: Namespaces | None,
) -> Webhooks | None:
    """Return what the arguments of a ``Comet`` ask for; None for no webhooks.

    Raises ``ValueError`` for a wrong URL or key, and where one of them is missing.
    """
    if url is None or key is None:
        if url is not None:
            raise ValueError("notify_url needs notify_key, which signs what is posted")
        if key is not None or unread_after is not None:
            raise ValueError("notify_key and unread_after need notify_url, to which events are posted")
        return None
    if unread_after is not None and not 0 < unread_after < inf:
        raise ValueError("unread_after is a number of seconds above 0")
    signer = Signer(key)

    def after(recipient: str) -> float | None:
        return (namespaces.of(recipient).unread_after if namespaces else None) or unread_after

    is_reported = unread_after is not None or bool(namespaces and namespaces.sets("unread_after"))
    return Webhooks(hub, post_to(url, limits.EVENT_POST_SECONDS), signer, after if is_reported else None)


class Webhooks:
    """The webhooks of one hub. ``start`` is called once its store is open.

    ``unread_after`` returns the seconds that a message waits for a reader; None for a recipient of which that
    is not reported. It is None where it is reported of no recipient.
    """

    log = Logger()

    def __init__(
        self,
        hub: Hub,
        post: Posting,
        signer: Signer,
        unread_after: Callable[[str], float | None] | None = None,
    ) -> None:
        self._hub = hub
        self.counts = WebhookCounts()
        self.signer = signer
        self.post = post
        shared = self._shared = hub.shared
        clock = hub.clock
        self._posts_until = inf if shared is None else 0.0
        self.outbox: Outbox = (
            LocalOutbox(hub.store, clock, self.counts)
            if shared is None
            else SharedOutbox(shared, clock, self.counts)
        )
        self._sender = EventSender(self.outbox, post, signer, clock, hub.wall, self.counts, self._may_post)
        self.unread: UnreadWatch | None = None
        """What finds messages that no reader has fetched; None where that is not reported."""
        if unread_after is not None:
            absences: Absences = (
                LocalAbsences(hub.store) if shared is None else SharedAbsences(shared, clock, unread_after)
            )
            self.unread = UnreadWatch(hub, unread_after, absences, self._on_unread, self.counts)
        self._is_stopped = False
        self._renewing = LoopingCall(self._renew)
        self._renewing.clock = clock

    def start(self) -> None:
        """Bring back what the store has remembered, and begin to post."""
        self.outbox.recall()
        if self.unread is not None:
            self.unread.begin()
        if self._shared is not None:
            self._shared.on_notice(EVENTS, lambda _: self._sender.wake())
        self._renewing.start(limits.POSTING_RENEWED_SECONDS)

    def stop(self) -> None:
        """Post nothing more; in a cluster, another process does."""
        self._is_stopped = True
        if self._renewing.running:
            self._renewing.stop()
        self._sender.stop()
        if self.unread is not None:
            self.unread.stop()
        if self._shared is not None and self._may_post():
            self._shared.forget(*_POSTING)

    # -- what happens

    def on_change(self, change: PresenceChange) -> None:
        """Post a join or a leave; a shared store has kept it."""
        if self._shared is not None:
            self._shared.notify(EVENTS, change.event)
            self._sender.wake()
            return
        self._add({**asdict(change), "at": timestamp(change.at)})

    def _on_unread(self, recipient: str, message: str) -> None:
        now = self._hub.wall()
        self._add({"event": "unread", "recipient": recipient, "id": message, "at": timestamp(now)})

    def _add(self, event: dict[str, object]) -> None:
        self.outbox.add(event)
        self._sender.wake()

    # -- whose turn it is

    def _may_post(self) -> bool:
        return self._hub.clock.seconds() < self._posts_until

    def _renew(self) -> None:
        """Claim that this process posts, or post what was left when the store was away."""
        shared = self._shared
        if shared is None:
            self._sender.wake()
            return
        self.outbox.write()
        began = self._hub.clock.seconds()
        claimed = shared.claims.hold(*_POSTING, limits.POSTING_CLAIM_SECONDS)
        claimed.addCallback(self._claimed, began, shared).addErrback(self._failed)

    def _claimed(self, is_mine: bool, began: float, shared: SharedStore) -> None:
        if is_mine and self._is_stopped and not self._may_post():  # else ``stop`` has given it back
            shared.forget(*_POSTING)
        if not is_mine or self._is_stopped:
            self._posts_until = 0.0
            return
        self._posts_until = began + limits.POSTING_CLAIM_SECONDS
        self._sender.wake()
        if self.unread is not None:
            # A record ends so long after its recipient is due; those that are overdue were left.
            until = began + limits.EVENT_SECONDS - limits.UNREAD_TAKEN_OVER_SECONDS
            left = shared.claims.records(WAITS, until, limits.UNREAD_AT_ONCE)
            left.addCallback(self.unread.adopt).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(StoreDown):
            self.log.failure("The turn to post events could not be taken", failure)
