"""How the peers are spoken to: dialects of the load generator that only the comparison needs.

What a reader sends and parses is as little as each server's own clients need, because the generator's time
is no server's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cometd_lite.bench import (
    DIALECTS,
    Answer,
    EventStream,
    Poll,
    Push,
    Pushing,
    Reading,
    Refused,
    Site,
    excerpt,
    field,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class Nchan:
    """nchan's HTTP publisher and long-poll subscriber: one message a poll, its place in two headers."""

    name = "nchan"
    shares = True
    keeps = True

    def __init__(self, site: Site) -> None:
        self.site = site

    def poller(self, recipient: str) -> Reading:
        return _NchanPoll(self.site, recipient)

    def follower(self, recipient: str) -> Reading:
        head = self.site.head("GET", f"/events?id={recipient}")
        return EventStream(head + b"Accept: text/event-stream\r\n\r\n")

    def pusher(self) -> Pushing:
        return _NchanPush(self.site)


class _NchanPoll(Poll):
    def __init__(self, site: Site, recipient: str) -> None:
        super().__init__()
        # Asking about the channel is answered at once; nchan cannot be asked not to wait.
        self._about = site.get(f"/push?id={recipient}")
        self._head = site.head("GET", f"/poll?id={recipient}")

    def opening(self) -> bytes:
        return self._about

    def answered(self, answer: Answer) -> tuple[bytes | None, list[Any]]:
        if not self.waits:
            self.waits = True
            return self._head + b"\r\n", []
        if answer.status == 408:  # The wait is over.
            return None, []
        if answer.status != 200:
            raise Refused(f"A poll was answered {answer.status}: {excerpt(answer.body)}")
        place = (field(answer.head, b"last-modified"), field(answer.head, b"etag"))
        again = b"%sIf-Modified-Since: %s\r\nIf-None-Match: %s\r\n\r\n" % (self._head, *place)
        return again, [json.loads(answer.body)]


class _NchanPush(Push):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site

    def push(self, recipient: str, bodies: Sequence[bytes]) -> list[bytes]:
        target = f"/push?id={recipient}"
        return [self._site.post(target, "application/json", body) for body in bodies]


class Toy:
    """The small servers in ``peers/``: our polls by cursor, without what else HTTP.md has."""

    name = "toy"
    shares = True
    keeps = True

    def __init__(self, site: Site) -> None:
        self.site = site

    def poller(self, recipient: str) -> Reading:
        return _ToyPoll(self.site, recipient)

    def follower(self, recipient: str) -> Reading:
        return EventStream(self.site.get(f"/stream/{recipient}"))

    def pusher(self) -> Pushing:
        return _ToyPush(self.site)


class _ToyPoll(Poll):
    def __init__(self, site: Site, recipient: str) -> None:
        super().__init__()
        self._now = site.get(f"/poll/{recipient}?wait=0&after=0")
        self._before, self._after = site.get(f"/poll/{recipient}?wait={site.wait}&after=|").split(b"|")

    def opening(self) -> bytes:
        return self._now

    def answered(self, answer: Answer) -> tuple[bytes | None, list[Any]]:
        if answer.status != 200:
            raise Refused(f"A poll was answered {answer.status}: {excerpt(answer.body)}")
        self.waits = True
        batch = json.loads(answer.body)
        again = b"%s%s%s" % (self._before, batch["cursor"].encode(), self._after)
        return again, [message["data"] for message in batch["messages"]]


class _ToyPush(Push):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site

    def push(self, recipient: str, bodies: Sequence[bytes]) -> list[bytes]:
        target = f"/push/{recipient}"
        if len(bodies) == 1:
            return [self._site.post(target, "application/json", bodies[0])]
        return [self._site.post(target, "application/x-ndjson", b"\n".join(bodies))]


PEERS = {**DIALECTS, "nchan": Nchan, "toy": Toy}
