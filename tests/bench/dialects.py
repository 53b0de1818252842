"""How the peers are spoken to: dialects of the load generator that only the comparison needs.

What a reader sends and parses is as little as each server's own clients need, because the generator's time
is no server's.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from msgspec import json

from cometd_lite.bench import BenchError, CometLite, Site, UnexpectedAnswer
from cometd_lite.bench.answers import RawAnswer, excerpt, field
from cometd_lite.bench.dialect import EventStream, PollingClient, PushingClient, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Bayeux:
    """Bayeux 1.0 over long-polling, as this server, CometD and Faye speak it. Each reader is a session."""

    name = "bayeux"
    shares = False
    keeps = False

    def __init__(self, site: Site) -> None:
        self.site = site

    def poller(self, recipient: str) -> Reading:
        """Return a reader that shakes hands, subscribes, and connects again and again."""
        return _BayeuxConnect(self.site, recipient)

    def follower(self, recipient: str) -> Reading:
        """Raise ``BenchError``: Bayeux has no stream over HTTP."""
        raise BenchError(f"Bayeux has no Server-Sent Events for {recipient}: choose another scenario.")

    def pusher(self) -> PushingClient:
        """Return a pusher with a session of its own."""
        return _BayeuxPublish(self.site)


_HANDSHAKE = {
    "channel": "/meta/handshake",
    "version": "1.0",
    "supportedConnectionTypes": ["long-polling"],
    "id": "1",
}
"""Identical requests keep an identical ``id``: one is answered before the next is sent."""


class _BayeuxSession:
    """What a session must know: its client id, and the cookies that some servers bind it to."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cookies = ""
        self.client_id: str | None = None

    def post(self, *messages: Mapping[str, Any]) -> bytes:
        """Return the request that carries ``messages``, with the session's id in each."""
        known = {"clientId": self.client_id} if self.client_id else {}
        body = json.encode([{**message, **known} for message in messages])
        head = self.site.head("POST", "") + self.cookies.encode()
        return b"%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body)

    def replies(self, answer: RawAnswer) -> list[dict[str, Any]]:
        """Return the messages of an answer. Raises ``UnexpectedAnswer`` where a request failed."""
        if answer.status != 200:
            raise UnexpectedAnswer(f"A Bayeux request was answered {answer.status}: {excerpt(answer.body)}")
        replies: list[dict[str, Any]] = json.decode(answer.body)
        for reply in replies:
            if reply.get("successful") is False:
                raise UnexpectedAnswer(f"A Bayeux request failed: {excerpt(json.encode(reply))}")
            if reply["channel"] == "/meta/handshake":
                self.client_id = reply["clientId"]
                cookie = field(answer.head, b"set-cookie")
                if cookie is not None:
                    self.cookies = f"Cookie: {cookie.partition(b';')[0].decode('latin-1')}\r\n"
        return replies


class _BayeuxConnect(PollingClient):
    def __init__(self, site: Site, recipient: str) -> None:
        self.session = _BayeuxSession(site)
        self.channel = f"/{recipient}"
        self.connect = b""

    def opening(self) -> bytes:
        return self.session.post(_HANDSHAKE)

    def answered(self, answer: RawAnswer) -> tuple[bytes | None, list[Any]]:
        replies = self.session.replies(answer)
        messages = [reply["data"] for reply in replies if reply["channel"] == self.channel]
        if self.connect:
            self.is_parked = True
            return self.connect, messages
        connect = {"channel": "/meta/connect", "connectionType": "long-polling", "id": "3"}
        if replies[0]["channel"] == "/meta/handshake":
            subscribe = {"channel": "/meta/subscribe", "subscription": self.channel, "id": "2"}
            return self.session.post(subscribe), messages
        # A server may hold the first connect or not; asked not to wait, each answers at once.
        self.connect = self.session.post(connect)
        return self.session.post({**connect, "advice": {"timeout": 0}}), messages


class _BayeuxPublish(PushingClient):
    ALIVE_SECONDS = 4.0
    """A session that does not connect is gone after 10 s (CometD's maxInterval)."""

    def __init__(self, site: Site, clock: Callable[[], float] = time.monotonic) -> None:
        self.session = _BayeuxSession(site)
        self.clock = clock
        self.alive_at = -math.inf

    def opening(self) -> bytes:
        return self.session.post(_HANDSHAKE)

    def push(self, recipient: str, bodies: Sequence[bytes]) -> list[bytes]:
        events = [{"channel": f"/{recipient}", "data": json.decode(body), "id": "4"} for body in bodies]
        requests = [self.session.post(*events)]
        now = self.clock()
        if now - self.alive_at >= self.ALIVE_SECONDS:
            self.alive_at = now
            connect = {"channel": "/meta/connect", "connectionType": "long-polling", "id": "5"}
            requests.insert(0, self.session.post({**connect, "advice": {"timeout": 0}}))
        return requests

    def answered(self, answer: RawAnswer) -> None:
        self.session.replies(answer)


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

    def pusher(self) -> PushingClient:
        return _NchanPush(self.site)


class _NchanPoll(PollingClient):
    def __init__(self, site: Site, recipient: str) -> None:
        # Asking about the channel is answered at once; nchan cannot be asked not to wait.
        self.about = site.get(f"/push?id={recipient}")
        self.head = site.head("GET", f"/poll?id={recipient}")

    def opening(self) -> bytes:
        return self.about

    def answered(self, answer: RawAnswer) -> tuple[bytes | None, list[Any]]:
        if not self.is_parked:
            self.is_parked = True
            return self.head + b"\r\n", []
        if answer.status == 408:  # The wait is over.
            return None, []
        if answer.status != 200:
            raise UnexpectedAnswer(f"A poll was answered {answer.status}: {excerpt(answer.body)}")
        place = (field(answer.head, b"last-modified"), field(answer.head, b"etag"))
        again = b"%sIf-Modified-Since: %s\r\nIf-None-Match: %s\r\n\r\n" % (self.head, *place)
        return again, [json.decode(answer.body)]


class _NchanPush(PushingClient):
    def __init__(self, site: Site) -> None:
        self.site = site

    def push(self, recipient: str, bodies: Sequence[bytes]) -> list[bytes]:
        target = f"/push?id={recipient}"
        return [self.site.post(target, "application/json", body) for body in bodies]


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

    def pusher(self) -> PushingClient:
        return _ToyPush(self.site)


class _ToyPoll(PollingClient):
    def __init__(self, site: Site, recipient: str) -> None:
        self.now = site.get(f"/poll/{recipient}?wait=0&after=0")
        self.before, self.after = site.get(f"/poll/{recipient}?wait={site.wait}&after=|").split(b"|")

    def opening(self) -> bytes:
        return self.now

    def answered(self, answer: RawAnswer) -> tuple[bytes | None, list[Any]]:
        if answer.status != 200:
            raise UnexpectedAnswer(f"A poll was answered {answer.status}: {excerpt(answer.body)}")
        self.is_parked = True
        batch = json.decode(answer.body)
        again = b"%s%s%s" % (self.before, batch["cursor"].encode(), self.after)
        return again, [message["data"] for message in batch["messages"]]


class _ToyPush(PushingClient):
    def __init__(self, site: Site) -> None:
        self.site = site

    def push(self, recipient: str, bodies: Sequence[bytes]) -> list[bytes]:
        target = f"/push/{recipient}"
        if len(bodies) == 1:
            return [self.site.post(target, "application/json", bodies[0])]
        return [self.site.post(target, "application/x-ndjson", b"\n".join(bodies))]


DIALECTS = {"cometd-lite": CometLite, "bayeux": Bayeux, "nchan": Nchan, "toy": Toy}
