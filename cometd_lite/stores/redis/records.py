"""What a store in Redis remembers for others: listeners, receipts of pushes, and the state of webhooks.

A record is a string that Redis forgets by itself. What Redis does not take is written later, and until then
known to this process alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from ...core.idempotency import RECEIPTS
from ...core.store import Record
from ...errors import StoreDown
from ...limits import IDEMPOTENCY_KEYS, Limits
from .backlog import Backlog
from .claims import CLAIMED
from .link import RedisLink, WritesRefused
from .script import claimed_most


class RedisRecords:
    """The part of a ``SharedStore`` that remembers records, for ``RedisStore``."""

    def __init__(self, link: RedisLink, backlog: Backlog, clock: IReactorTime, limits: Limits) -> None:
        self.limits = limits
        self._link = link
        self._backlog = backlog
        self._clock = clock

    def remember(self, kind: str, id: str, value: Callable[[], bytes], expires_at: float) -> None:  # noqa: A002
        """See ``Store.remember``. While Redis is away nothing is, but for what webhooks remember."""
        self._set_record("remember", kind, id, value, expires_at)

    def renew(self, kind: str, id: str, value: Callable[[], bytes], expires_at: float) -> None:  # noqa: A002
        """See ``SharedStore.renew``. While Redis is away nothing is."""
        self._set_record("renew", kind, id, value, expires_at)

    def _set_record(
        self,
        verb: str,
        kind: str,
        id: str,  # noqa: A002
        value: Callable[[], bytes],
        expires_at: float,
    ) -> None:
        left = expires_at - self._clock.seconds()
        seconds = max(0.001, left if kind in CLAIMED else min(left, self.limits.ttl))
        most = self._most(kind)

        def write() -> None:
            self._write_record(kind, id, write, value, verb, value(), seconds, most)

        write()

    def _most(self, kind: str) -> int:
        """Return how many records there may be of a kind; beyond that, Redis drops the oldest uncounted."""
        if kind == RECEIPTS:
            return IDEMPOTENCY_KEYS
        if kind in CLAIMED:
            return claimed_most(self.limits)
        return self.limits.max_sessions

    def forget(self, kind: str, id: str) -> None:  # noqa: A002
        """See ``Store.forget``."""

        def write() -> None:
            self._write_record(kind, id, write, None, "forget")

        write()

    def _write_record(
        self,
        kind: str,
        id: str,  # noqa: A002
        write: Callable[[], None],
        value: Callable[[], bytes] | None,
        verb: str,
        *words: Any,
    ) -> None:
        """Write a record, or leave that for when Redis takes writes."""
        self._backlog.forget_record(kind, id)

        def refused(failure: Failure) -> None:
            failure.trap(StoreDown)
            # What was asked of a connection that is lost may be done or not: to do it again does no harm.
            if failure.check(WritesRefused) or kind in CLAIMED:
                self._backlog.put_record(kind, id, value, write)

        self._link.run(self._clock.seconds(), verb, (), kind, id, *words).addErrback(refused)

    def recall(self, kind: str) -> Sequence[Record]:  # noqa: ARG002
        """See ``Store.recall``: nothing is brought back, all of it is looked up."""
        return ()

    def look_up(self, kind: str, id: str) -> Deferred[bytes | None]:  # noqa: A002
        """See ``SharedStore.look_up``. What this process could not write yet is known to it alone."""

        def newest(found: bytes | None) -> bytes | None:
            unwritten = self._backlog.record(kind, id)
            if unwritten is None:
                return found
            (value,) = unwritten
            return None if value is None else value()

        return self._link.ask("GET", f"{self._link.prefix}record:{kind}:{id}").addCallback(newest)

    def has_records(self, kind: str) -> Deferred[bool]:
        now = repr(self._clock.seconds() + self._link.offset)
        return self._link.ask("ZCOUNT", f"{self._link.prefix}records:{kind}", now, "+inf").addCallback(bool)
