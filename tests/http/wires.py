"""Connections in memory that stay open: bytes to either server, through a socket that fills up.

What both servers write for a stream or a WebSocket is read here as a strict client reads it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from socket import socket, socketpair
from typing import Any

import msgspec
from exchanges import HOST, Headers, Server, TreqDriver, merged
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.python.failure import Failure
from twisted.web.server import Site
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionType
from wsproto.events import CloseConnection, Event, Ping, TextMessage
from zope.interface import implementer

HIGH = 64 * 1024
"""Twisted, and the server's own sockets, pause a producer when more than this is unsent."""

CLIENT = IPv4Address("TCP", "127.0.0.1", 31337)
SERVER = IPv4Address("TCP", "127.0.0.1", 8080)


@implementer(ITransport, IConsumer, IPushProducer)
class Socket:
    """A TCP socket as its owner sees it. ``room`` is what the peer still takes; None: everything."""

    def __init__(self) -> None:
        self.owner: Any = None
        self.socket: socket | None = None
        """The system's socket, where a test has one: servers look there whether the peer has closed."""
        self.room: int | None = None
        self.taken = bytearray()
        self.unsent = bytearray()
        self.producer: Any = None
        self.paused = False
        self.reading = True
        self.closing = False
        self.reason: Failure | None = None
        """Why the connection is over; its owner is told in the next turn."""
        self.told = False

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self.closing or self.reason:
            return
        self.unsent += data
        self.send()
        if self.producer is not None and not self.paused and len(self.unsent) > HIGH:
            self.paused = True
            self.producer.pauseProducing()

    @property
    def disconnecting(self) -> bool:
        return self.closing

    def writeSequence(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def take(self, count: int | None) -> None:
        """Let the peer take so many bytes more."""
        self.room = None if count is None else (self.room or 0) + count
        self.send()
        while not self.unsent and self.paused:
            self.paused = False
            self.producer.resumeProducing()
        self.close()

    def send(self) -> None:
        count = len(self.unsent) if self.room is None else min(self.room, len(self.unsent))
        self.taken += self.unsent[:count]
        del self.unsent[:count]
        if self.room is not None:
            self.room -= count

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None, "there is a producer already"
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None
        self.paused = False
        self.close()

    def loseConnection(self) -> None:
        self.closing = True
        self.close()

    def close(self) -> None:
        if self.closing and not self.unsent and self.producer is None and self.reason is None:
            self.reason = Failure(ConnectionDone())

    def abortConnection(self) -> None:
        self.unsent.clear()
        self.reason = self.reason or Failure(ConnectionAborted())

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def stopProducing(self) -> None:
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        return CLIENT

    def getHost(self) -> IPv4Address:
        return SERVER

    def tell(self) -> None:
        """Tell the owner that the connection is over, if it is."""
        if self.reason is not None and not self.told:
            self.told = True
            producer, self.producer = self.producer, None
            if producer is not None:
                producer.stopProducing()
            self.owner.connectionLost(self.reason)


OPENED: list[Connection] = []
"""The connections of the test that runs."""


def leave() -> None:
    """Hang up all connections that are still open."""
    while OPENED:
        connection = OPENED.pop()
        if not connection.closed:
            connection.hang_up()


class Connection:
    """One connection to a server, and what came over it."""

    idle: float | None = None
    """Seconds after which a site of twisted.web ends a connection on which nothing is asked."""

    def __init__(self, server: Server) -> None:
        driver: Any = server.driver
        self.server = server
        self.clock = server.clock
        if isinstance(driver, TreqDriver):
            factory: Any = Site(server.comet.resource(), timeout=self.idle, reactor=server.clock)
        else:
            factory = driver.factory
            self.clock = factory.clock
        OPENED.append(self)
        self.socket = Socket()
        self.socket.owner = factory.buildProtocol(CLIENT)
        self.socket.owner.makeConnection(self.socket)

    def send(self, data: bytes) -> None:
        self.socket.owner.dataReceived(data)
        self.turn()

    def turn(self) -> None:
        """Let the reactor have its turn."""
        self.clock.advance(0)
        self.server.clock.advance(0)
        self.socket.tell()

    def request(self, method: str, target: str, headers: Headers | None = None, after: bytes = b"") -> None:
        """Send a request without a body, and ``after`` in the same packet."""
        fields = list(headers.items()) if isinstance(headers, dict) else headers or []
        if "host" not in {name.lower() for name, _ in fields}:
            fields = [("Host", HOST), *fields]
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        self.send("\r\n".join(lines).encode("latin-1") + after)

    def take(self, count: int | None = None) -> None:
        """Take so many bytes more of what the server wrote; None: all, from now on."""
        self.socket.take(count)
        self.turn()
        while self.socket.paused and not self.socket.unsent:
            self.socket.take(0)
            self.turn()

    @contextmanager
    def close_unnoticed(self) -> Iterator[None]:
        """Close from the client's side; the reactor comes to it only after what is done meanwhile."""
        ours, theirs = socketpair()
        theirs.close()
        with ours:
            self.socket.socket = ours
            yield
            self.socket.socket = None

    def hang_up(self) -> None:
        """Reset the connection."""
        self.socket.reason = Failure(ConnectionLost())
        self.socket.tell()

    @property
    def closed(self) -> bool:
        self.turn()
        return self.socket.reason is not None

    @property
    def aborted(self) -> bool:
        return self.closed and self.socket.reason.check(ConnectionAborted) is not None

    @property
    def bytes(self) -> bytes:
        return bytes(self.socket.taken)

    def head(self) -> tuple[int, dict[str, str]]:
        """Return the status and the header fields of the answer."""
        head, end, _ = self.bytes.partition(b"\r\n\r\n")
        assert end, "there is no answer yet"
        line, *lines = head.decode("latin-1").split("\r\n")
        assert line.startswith("HTTP/1.1 ")
        fields = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        return int(line.split(" ")[1]), merged(fields)

    @property
    def status(self) -> int:
        return self.head()[0]

    @property
    def headers(self) -> dict[str, str]:
        return self.head()[1]

    @property
    def problem(self) -> Any:
        return msgspec.json.decode(self.bytes.partition(b"\r\n\r\n")[2])


@dataclass(frozen=True)
class Told:
    """One event as a browser dispatches it."""

    type: str
    data: str
    id: str


class Stream(Connection):
    """A reader of a stream. ``of`` is ``GET`` and the target; the rest are header fields."""

    def __init__(
        self, server: Server, target: str, headers: Headers | None = None, room: int | None = None
    ) -> None:
        super().__init__(server)
        self.socket.room = room
        self.request("GET", target, headers)
        self.turn()

    def content(self) -> tuple[bytes, bool]:
        """Return what came of the body, and whether it has ended as its framing says."""
        rest = self.bytes.partition(b"\r\n\r\n")[2]
        assert self.headers["transfer-encoding"] == "chunked"
        body = b""
        while rest:
            line, end, rest = rest.partition(b"\r\n")
            size = int(line, 16) if end else 0
            if not end or len(rest) < size + 2:
                break
            body += rest[:size]
            assert rest[size : size + 2] == b"\r\n"
            rest = rest[size + 2 :]
            if size == 0:
                assert rest == b""
                return body, True
        return body, False

    @property
    def body(self) -> bytes:
        return self.content()[0]

    @property
    def ended(self) -> bool:
        return self.content()[1]

    def parse(self) -> EventSource:
        return EventSource(self.body)

    @property
    def told(self) -> list[Told]:
        return self.parse().events

    @property
    def data(self) -> list[str]:
        """The data of the messages."""
        return [event.data for event in self.told if event.type != "gap"]

    @property
    def place(self) -> str:
        """What this reader says in Last-Event-ID when it comes back."""
        return self.parse().last_event_id

    @property
    def lines(self) -> list[Any]:
        """The objects of an NDJSON stream."""
        *whole, rest = self.body.split(b"\n")
        assert rest == b"" or not self.ended
        return [msgspec.json.decode(line) for line in whole]


class EventSource:
    """WHATWG HTML §9.2.6, word for word."""

    def __init__(self, body: bytes) -> None:
        self.events: list[Told] = []
        self.comments: list[str] = []
        self.retry: list[int] = []
        self.last_event_id = ""
        self.data = self.type = ""
        self.id = ""
        text = body.decode().replace("\r\n", "\n").replace("\r", "\n")
        *lines, _ = text.split("\n")
        for line in lines:
            self.line(line)

    def line(self, line: str) -> None:
        if not line:
            self.dispatch()
            return
        name, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name and colon:
            self.comments.append(value)
        elif name == "event":
            self.type = value
        elif name == "data":
            self.data += value + "\n"
        elif name == "id":
            assert "\0" not in value
            self.id = value
        elif name == "retry":
            assert value.isdigit()
            self.retry.append(int(value))
        else:
            raise AssertionError(f"a field that nobody knows: {line!r}")

    def dispatch(self) -> None:
        self.last_event_id = self.id
        if self.data:
            self.events.append(Told(self.type or "message", self.data.removesuffix("\n"), self.id))
        self.data = self.type = ""


KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = base64.b64encode(
    hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
).decode()
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


class WebSocket(Connection):
    """A client of a WebSocket, by wsproto."""

    def __init__(
        self,
        server: Server,
        target: str,
        headers: dict[str, str] | None = None,
        after: bytes = b"",
        room: int | None = None,
    ) -> None:
        super().__init__(server)
        self.socket.room = room
        self.frames = Frames(ConnectionType.CLIENT)
        self.events: list[Event] = []
        self.seen = 0
        self.request("GET", target, UPGRADE | (headers or {}), after)

    def read(self) -> list[Event]:
        """Return everything that came in frames."""
        head, _, _ = self.bytes.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), self.bytes
        start = max(self.seen, len(head) + 4)
        new, self.seen = self.bytes[start:], len(self.bytes)
        if new:
            self.frames.receive_data(new)
            self.events += self.frames.events()
        return self.events

    def say(self, event: Event) -> None:
        self.send(self.frames.send(event))

    def text(self, text: str | bytes) -> None:
        self.say(TextMessage(text if isinstance(text, str) else text.decode()))

    def push(self, **asked: Any) -> Any:
        """Push, and return what is answered at once."""
        before = len(self.texts)
        self.text(msgspec.json.encode(asked))
        answers = self.texts[before:]
        return answers[-1] if answers else None

    @property
    def texts(self) -> list[Any]:
        """The objects that came."""
        texts, whole = [], ""
        for event in self.read():
            if isinstance(event, TextMessage):
                whole += event.data
                if event.message_finished:
                    texts.append(msgspec.json.decode(whole))
                    whole = ""
        return texts

    @property
    def data(self) -> list[Any]:
        """The data of the messages."""
        return [text["data"] for text in self.texts if "recipient" in text]

    @property
    def pings(self) -> list[Ping]:
        return [event for event in self.read() if isinstance(event, Ping)]

    def pong(self) -> None:
        """Answer the last ping."""
        self.say(self.pings[-1].response())

    @property
    def goodbye(self) -> tuple[int, str | None] | None:
        """The code and the reason with which the server closed; None where it did not."""
        for event in self.read():
            if isinstance(event, CloseConnection):
                return event.code, event.reason
        return None
