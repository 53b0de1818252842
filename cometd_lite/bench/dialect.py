"""The protocols of servers: how requests are written and answers parsed, without I/O.

A ``Dialect`` makes a ``Reading`` and a ``PushingClient``. That of this server is ``CometLite``;
``tests/bench`` adds Bayeux and those of other servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from ..jsontext import parse
from .answers import ANSWER_BYTES, RawAnswer, chunks, cut, excerpt, field
from .results import Lost, UnexpectedAnswer


@dataclass(frozen=True, slots=True)
class Site:
    """The server's address, and what every request to it has in common."""

    host: str = "localhost"
    """The ``Host`` header."""
    prefix: str = ""
    """The URL's path, without a slash at its end."""
    token: str | None = None
    wait: float = 120.0
    """How long polls ask to be held."""

    def head(self, method: str, target: str) -> bytes:
        """Return a request's line and the headers that all have, without the empty line."""
        bearer = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        return f"{method} {self.prefix}{target} HTTP/1.1\r\nHost: {self.host}\r\n{bearer}".encode()

    def get(self, target: str) -> bytes:
        return self.head("GET", target) + b"\r\n"

    def post(self, target: str, media_type: str, body: bytes) -> bytes:
        head = self.head("POST", target)
        return b"%sContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (
            head,
            media_type.encode(),
            len(body),
            body,
        )


class Reading(Protocol):
    """One reader's side of one connection, without I/O."""

    is_parked: bool
    """Whether the last request is held until there is a message."""
    whole: bool
    """Whether no answer is received in part."""

    def opening(self) -> bytes:
        """Return the first request: one that is answered at once, which paces opening."""

    def received(self, data: bytes) -> tuple[bytes | None, list[Any]]:
        """Return what to send next and the messages in ``data``, parsed.

        Empty bytes: nothing is to be sent yet. None: the request before is to be sent again.
        """


class Answered:
    """What every poll and push has in common: one request, one answer."""

    is_parked = False
    whole = True
    _rest = b""

    def answer(self, data: bytes) -> RawAnswer | None:
        """Return the answer that ``data`` completes, else None."""
        if self._rest:
            data = self._rest + data
        answer = cut(data)
        if answer is None:
            self._rest = data
            self.whole = False
            return None
        if answer.end != len(data):
            raise UnexpectedAnswer(f"The server sent more than was asked for: {excerpt(data[answer.end :])}")
        self._rest = b""
        self.whole = True
        return answer


class PollingClient(Answered):
    """A reader that polls; a dialect parses the answers."""

    def received(self, data: bytes) -> tuple[bytes | None, list[Any]]:
        answer = self.answer(data)
        return (b"", []) if answer is None else self.answered(answer)

    def answered(self, answer: RawAnswer) -> tuple[bytes | None, list[Any]]:
        """Return the next request and the messages."""
        raise NotImplementedError


class PushingClient(Answered):
    """One pusher's side of one connection, without I/O; a dialect makes its requests."""

    def opening(self) -> bytes:
        """Return the bytes that must be sent before the first push; empty where there are none."""
        return b""

    def push(self, recipient: str, bodies: Sequence[bytes]) -> list[bytes]:
        """Return the requests that push ``bodies`` in order, each to be sent after the answer to the last."""
        raise NotImplementedError

    def received(self, data: bytes) -> bool:
        """Return whether the answer is complete now.

        Raises ``UnexpectedAnswer`` where it does not accept the push.
        """
        answer = self.answer(data)
        if answer is not None:
            self.answered(answer)
        return answer is not None

    def answered(self, answer: RawAnswer) -> None:
        """Raise ``UnexpectedAnswer`` where the answer does not accept the push."""
        if answer.status not in {200, 201, 202}:
            raise UnexpectedAnswer(f"A push was answered {answer.status}: {excerpt(answer.body)}")


class Dialect(Protocol):
    """The protocol of one kind of server."""

    name: str
    shares: bool
    """Whether readers that ask the same get the same bytes, so that parsing them once is enough."""
    keeps: bool
    """Whether a message is kept for readers that come later."""

    def poller(self, recipient: str) -> Reading:
        """Return a reader that polls, from the oldest message on."""

    def follower(self, recipient: str) -> Reading:
        """Return a reader of a stream. Raises ``BenchError`` where the server has no streams."""

    def pusher(self) -> PushingClient:
        """Return a pusher."""


class EventStream:
    """A reader of Server-Sent Events whose data is JSON (WHATWG HTML §9.2)."""

    is_parked = False
    whole = True
    _rest = _text = b""
    _chunked = False

    def __init__(self, request: bytes) -> None:
        self._request = request

    def opening(self) -> bytes:
        """Return the only request; that its head was answered shows that the stream is open."""
        return self._request

    def received(self, data: bytes) -> tuple[bytes | None, list[Any]]:
        data = self._rest + data
        if not self.is_parked:
            data = self._opened(data)
        if self.is_parked:
            data = self._body(data)
        self._rest = data
        *events, self._text = self._text.replace(b"\r\n", b"\n").split(b"\n\n")
        self.whole = not self._rest and not self._text
        if len(self._rest) + len(self._text) > ANSWER_BYTES:
            raise UnexpectedAnswer("The server sent an event that does not end.")
        return b"", [message for event in events for message in self._messages(event)]

    def _opened(self, data: bytes) -> bytes:
        """Return what follows the head, once it is there."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return data
        head = data[: end + 2]
        if data[9:12] != b"200":
            raise UnexpectedAnswer(f"A stream was answered {excerpt(data)}")
        self._chunked = field(head, b"transfer-encoding") == b"chunked"
        self.is_parked = True
        return data[end + 4 :]

    def _body(self, data: bytes) -> bytes:
        """Move what is complete of ``data`` into the text, and return the rest."""
        if not self._chunked:
            self._text += data
            return b""
        text, end, is_last = chunks(data, 0)
        if is_last:
            raise Lost("The server ended a stream.")
        self._text += text
        return data[end:]

    @staticmethod
    def _messages(event: bytes) -> list[Any]:
        """Return the event's data, if it has any."""
        lines = event.split(b"\n")
        if b"event: gap" in lines or b"event:gap" in lines:
            raise Lost("The server reported a gap to a stream's reader.")
        data = [line[5:] for line in lines if line.startswith(b"data:")]
        return [parse(b"\n".join(data))] if data else []


class CometLite:
    """The interface of HTTP.md: polls by cursor, answered with JSON."""

    name = "cometd-lite"
    shares = True
    keeps = True

    def __init__(self, site: Site) -> None:
        self._site = site

    def poller(self, recipient: str) -> Reading:
        return _CometLitePoll(self._site, recipient)

    def follower(self, recipient: str) -> Reading:
        return EventStream(self._site.get(f"/stream/{quote(recipient)}?after=oldest"))

    def pusher(self) -> PushingClient:
        """Return a pusher: one message as JSON, several as NDJSON."""
        return _CometLitePush(self._site)


class _CometLitePoll(PollingClient):
    def __init__(self, site: Site, recipient: str) -> None:
        target = f"/poll/{quote(recipient)}?"
        self._opening = site.get(f"{target}after=oldest&wait=0")
        self._before, self._after = site.get(f"{target}after=|&wait={site.wait:g}").split(b"|")

    def opening(self) -> bytes:
        return self._opening

    def answered(self, answer: RawAnswer) -> tuple[bytes | None, list[Any]]:
        if answer.status != 200:
            raise UnexpectedAnswer(f"A poll was answered {answer.status}: {excerpt(answer.body)}")
        batch = parse(answer.body)
        if batch["gap"]:
            raise Lost("The server reported a gap: it no longer has a message that was not read.")
        self.is_parked = True
        cursor = quote(batch["cursor"], safe="").encode()
        return self._before + cursor + self._after, [message["data"] for message in batch["messages"]]


class _CometLitePush(PushingClient):
    def __init__(self, site: Site) -> None:
        self._site = site

    def push(self, recipient: str, bodies: Sequence[bytes]) -> list[bytes]:
        target = f"/push/{quote(recipient)}"
        if len(bodies) == 1:
            return [self._site.post(target, "application/json", bodies[0])]
        return [self._site.post(target, "application/x-ndjson", b"\n".join(bodies) + b"\n")]
