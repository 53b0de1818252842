"""The sender posts events in order, one request at a time, until the application has taken them.

What an attempt carries is posted again with the same ``webhook-id`` until it is taken, refused or too old.
The pauses between two attempts grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from secrets import token_hex

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import limits
from ..deferreds import value_of
from ..errors import StoreDown
from ..outgoing import NoReply, Post
from .outbox import Event, Outbox, WebhookCounts
from .signing import Signer


class EventSender:
    """Posts what is in an outbox. ``may_send`` returns whether this process is the one that posts."""

    log = Logger()

    def __init__(
        self,
        outbox: Outbox,
        post: Post,
        signer: Signer,
        clock: IReactorTime,
        wall: Callable[[], float],
        counts: WebhookCounts,
        may_send: Callable[[], bool] = lambda: True,
        random: Random | None = None,
    ) -> None:
        self.counts = counts
        self._outbox = outbox
        self._post = post
        self._signer = signer
        self._clock = clock
        self._wall = wall
        self._may_send = may_send
        self._random = random or Random()  # noqa: S311  only spreads load; guessing it gains nothing
        self._working: Deferred[None] | None = None
        self._was_woken = False
        self._is_stopped = False
        self._quiet_until: float | None = None

    def wake(self) -> None:
        """Post what waits. It must not raise."""
        self._was_woken = True
        if self._working is None and not self._is_stopped and self._may_send():
            self._working = Deferred.fromCoroutine(self._work())
            self._working.addErrback(self._failed).addCallback(self._ended)

    def stop(self) -> None:
        """Post nothing more. What is under way is given up, and waits in a durable store."""
        self._is_stopped = True
        if self._working is not None:
            self._working.cancel()

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError, StoreDown):
            self.log.failure("Events could not be posted", failure)

    def _ended(self, _: object) -> None:
        self._working = None

    async def _work(self) -> None:
        while self._may_send():
            self._was_woken = False
            await deferLater(self._clock, limits.EVENT_GATHER_SECONDS)
            events = await value_of(self._outbox.first(limits.EVENTS_AT_ONCE))
            if events:
                await self._deliver(events)
            elif not self._was_woken:
                return

    async def _deliver(self, events: Sequence[Event]) -> None:
        """Post events until they are taken or refused, or too old, or another process posts."""
        id, body, failures = f"msg_{token_hex(16)}", b"[%b]" % b",".join([one.body for one in events]), 0  # noqa: A001
        while self._may_send():
            old = [one for one in events if self._clock.seconds() - one.since >= limits.EVENT_SECONDS]
            if old:
                self.counts.expired += len(old)
                self.log.error(
                    "{count} events could not be posted within an hour, and are dropped.", count=len(old)
                )
                self._outbox.done(old)
                return  # the others begin anew
            if await self._is_settled(id, body, len(events)):
                self._outbox.done(events)
                return
            self.counts.failed += 1
            first, most = limits.EVENT_PAUSE_SECONDS
            pause = min(most, first * 2.0 ** min(failures, 16)) * self._random.uniform(0.5, 1.0)
            await deferLater(self._clock, pause)
            failures += 1

    async def _is_settled(self, id: str, body: bytes, count: int) -> bool:  # noqa: A002
        """Post events once; return whether they were taken, or are refused for good."""
        try:
            reply = await self._post(body, self._signer.headers(id, int(self._wall()), body))
        except NoReply as error:
            self._log_failure(str(error))
            return False
        if 200 <= reply.status < 300:
            self.counts.sent += count
            return True
        if 400 <= reply.status < 500:
            self.counts.refused += count
            self.log.error(
                "The application refused {count} events with {status}, which are not posted again.",
                count=count,
                status=reply.status,
            )
            return True
        self._log_failure(f"It answered {reply.status}.")
        return False

    def _log_failure(self, why: str) -> None:
        """Log once a minute why events are not posted."""
        now = self._clock.seconds()
        if self._quiet_until is None or now >= self._quiet_until:
            self._quiet_until = now + limits.FAILURES_LOGGED_SECONDS
            self.log.error("Events wait for the application of --notify-url: {why}", why=why)
