"""Claims and lists of records in Redis, for what one process of several does for all."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from ...core.store import Record
from ...deferreds import gathered
from .link import RedisLink

CLAIMED = ("absent", "event", "posting", "unread")
"""The kinds of records that webhooks make. They are looked up by the time at which they end. It is therefore
kept as it was given, and what has ended is cleared away."""


class RedisClaims:
    """See ``core.store.Claims``."""

    def __init__(self, link: RedisLink, clock: IReactorTime, process: str, most: int) -> None:
        self._link = link
        self._most = most
        """How many records there are of a kind."""
        self._clock = clock
        self._process = process

    def note(self, kind: str, id: str, seconds: float, at: float, since: float) -> Deferred[bool]:  # noqa: A002
        left = at + seconds - self._clock.seconds()
        return self._claim(kind, id, left, 0, max(0.0, since + seconds + self._link.offset))

    def hold(self, kind: str, id: str, seconds: float) -> Deferred[bool]:  # noqa: A002
        return self._claim(kind, id, seconds, 1, 0.0)

    def _claim(self, kind: str, id: str, seconds: float, *words: float) -> Deferred[bool]:  # noqa: A002
        """Claim a record; ``words`` are the last ones of the script's ``claim``."""
        given = (kind, id, self._process, seconds, self._most, *words)
        answer = self._link.run(self._clock.seconds(), "claim", (), *given)
        return answer.addCallback(lambda said: said[0] == 1)

    def count(self, kind: str) -> Deferred[int]:
        counted: Deferred[int] = self._link.ask("ZCOUNT", self._all(kind), self._now(), "+inf")
        return counted

    def records(self, kind: str, until: float, most: int) -> Deferred[Sequence[Record]]:
        return Deferred.fromCoroutine(self._records(kind, until, most))

    async def _records(self, kind: str, until: float, most: int) -> Sequence[Record]:
        offset = self._link.offset
        latest = "+inf" if until == inf else repr(until + offset)
        found: list[tuple[bytes, float]] = await self._link.ask(
            "ZRANGEBYSCORE", self._all(kind), self._now(), latest, "WITHSCORES", "LIMIT", 0, most
        )
        ids = [id.decode() for id, _ in found]  # noqa: A001
        asked = [self._link.ask("GET", f"{self._link.prefix}record:{kind}:{id}") for id in ids]  # noqa: A001
        values: list[Any] = await gathered(asked)
        return [
            Record(id, value, score - offset)
            for id, value, (_, score) in zip(ids, values, found, strict=True)  # noqa: A001
            if value is not None
        ]

    def _now(self) -> str:
        return repr(self._clock.seconds() + self._link.offset)

    def _all(self, kind: str) -> str:
        return f"{self._link.prefix}records:{kind}"
