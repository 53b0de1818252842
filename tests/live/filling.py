"""Requests that fill what clients can fill, with the worst shapes: long names of the widest characters, many
segments, long events and media types, many names in one request.

Each function takes a program and fills one table or buffer until it is full, or its oldest entries are
forgotten.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from program import PATIENCE, Program

FACE = "\N{GRINNING FACE}"
"""A character of four bytes, in UTF-8 and in memory."""
_AT_ONCE = 28_000
"""Bytes of requests that are sent before their answers are read."""


def request(method: str, target: str, body: str | bytes = b"", *fields: str) -> bytes:
    """Return a whole request."""
    payload = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *fields]
    if payload or method != "GET":
        lines.append(f"Content-Length: {len(payload)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload


class Pipeline:
    """One connection on which many requests are sent before their answers are read."""

    def __init__(self, program: Program) -> None:
        self.connection = program.connect()

    def ask(self, requests: Iterable[bytes], until: int | None = None) -> list[int]:
        """Send requests, up to the first answer with the status ``until``; return all statuses."""
        statuses: list[int] = []
        waiting = 0
        batch: list[bytes] = []
        for one in requests:
            batch.append(one)
            waiting += len(one)
            if waiting > _AT_ONCE or len(batch) == 40:
                statuses += self._flush(batch)
                batch, waiting = [], 0
                if until in statuses:
                    return statuses
        return statuses + self._flush(batch)

    def tell(self, one: bytes) -> Any:
        """Send a request; return the JSON of its answer."""
        self.connection.send(one)
        return self.connection.answer().json

    def _flush(self, batch: list[bytes]) -> list[int]:
        self.connection.send(b"".join(batch))
        return [self.connection.answer().status for _ in batch]


class Clients:
    """Clients that stay, and read nothing."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.sockets: list[socket.socket] = []

    def send(self, data: bytes) -> None:
        """Let one more client connect and send something, as far as the server takes it."""
        one = socket.socket()
        self.sockets.append(one)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        one.settimeout(PATIENCE)
        one.connect(("127.0.0.1", self.program.port))
        try:
            one.sendall(data)
        except ConnectionError:
            return  # it was one of those of whom the most is kept

    def leave(self) -> None:
        for one in self.sockets:
            one.close()
        self.sockets.clear()


_TYPES = ["long-polling"]


def _tell(pipeline: Pipeline, **message: Any) -> Any:
    """Send a Bayeux message; return the reply."""
    body = json.dumps([message])
    (reply,) = pipeline.tell(request("POST", "/cometd", body, "Content-Type: application/json"))
    return reply


def deep(number: int, letters: str) -> str:
    """Return a name of 16 segments that has no pattern in common with another one but ``**``."""
    return quote("/".join([f"{number:07}", *[letters] * 15]))


def one_of_each(program: Program, clients: Clients) -> None:
    """Ask once for all that is asked for often below, so that what Python makes only once is made."""
    pipeline = Pipeline(program)
    registered = json.dumps({"recipients": ["a", "b"], "ttl": 5})
    asked = (
        request("POST", "/push/a/b", "x", "Idempotency-Key: a"),
        request("POST", "/push/a/b?ttl=0.01", "x"),
        request("GET", "/poll/a/b?after=oldest&wait=0"),
        request("GET", "/poll/a/*?after=now&wait=0.01"),
        request("POST", "/register", registered),
        request("DELETE", "/recipients/a/b"),
        request("GET", "/recipients/a/b"),
        request("GET", "/poll?wait=0&rcpt=a&rcpt=b"),
        request("GET", "/poll"),
        request("GET", "/metrics"),
    )
    assert pipeline.ask(asked) == [202, 202, 200, 200, 201, 204, 200, 200, 400, 200]
    greeted = _tell(pipeline, channel="/meta/handshake", version="1.0", supportedConnectionTypes=_TYPES)
    _tell(pipeline, channel="/meta/subscribe", clientId=greeted["clientId"], subscription=["/a", "/b"])
    clients.send(request("GET", "/stream/a?after=now"))
    clients.send(request("GET", "/poll?after=now&rcpt=a&rcpt=b"))
    clients.send(_half_push("a"))
    clients.send(_half_text("a"))
    program.get("/healthz")


def lost_messages(program: Program) -> None:
    """Lose a message in each of many mailboxes; each notes its name, and all patterns that cover it."""
    names = (deep(number, f"{number % 10_000:04}" + FACE * 2) for number in range(6_000))
    statuses = Pipeline(program).ask(request("POST", f"/push/{name}?ttl=0.01", "x") for name in names)
    assert set(statuses) == {202}


def acknowledged_patterns(program: Program) -> None:
    """Come back to patterns, and to names, with a cursor."""
    cursor = program.get("/poll/x?after=now&wait=0").json["cursor"]

    def polls() -> Iterable[bytes]:
        for number in range(1_200):
            names = [quote(f"{number:05}{other:02}/{FACE * 12}/*") for other in range(30)]
            yield request("GET", f"/poll?wait=0&after={cursor}&rcpt=" + "&rcpt=".join(names))

    assert set(Pipeline(program).ask(polls())) == {200}


def receipts(program: Program) -> None:
    """Push under more keys than are remembered."""
    keys = (f"Idempotency-Key: {number:07}" + "\u00e9" * 200 for number in range(200_500))
    pushes = (request("POST", "/push/keyed?overflow=drop-oldest", "x", key) for key in keys)
    assert set(Pipeline(program).ask(pushes)) == {202}


def mailboxes(program: Program) -> None:
    """Push messages with long events and types to mailboxes with long names."""
    pushes = (
        request(
            "POST",
            f"/push/{deep(number, FACE * 3)}?event={quote(FACE * 16)}",
            "x",
            f"Content-Type: text/x; y={number:07}" + "\u00e9" * 230,
        )
        for number in range(100_000)
    )
    assert 503 in Pipeline(program).ask(pushes, until=503)


def emptied_mailboxes(program: Program) -> None:
    """Delete these again."""
    deletes = (request("DELETE", f"/recipients/{deep(number, FACE * 3)}") for number in range(40_000))
    assert set(Pipeline(program).ask(deletes)) == {204}


def listeners(program: Program) -> None:
    """Register listeners of 100 long names."""

    def asked(number: int) -> str:
        names = [f"{number:05}{other:03}" + FACE * 60 for other in range(100)]
        return json.dumps({"recipients": names, "ttl": 5}, ensure_ascii=False)

    registrations = (request("POST", "/register", asked(number)) for number in range(50_000))
    assert 503 in Pipeline(program).ask(registrations, until=503)


def sessions(program: Program) -> None:
    """Let Bayeux clients subscribe to 200 long channels."""
    pipeline = Pipeline(program)
    for number in range(50_000):
        greeted = _tell(pipeline, channel="/meta/handshake", version="1.0", supportedConnectionTypes=_TYPES)
        reply = _tell(
            pipeline,
            channel="/meta/subscribe",
            clientId=greeted["clientId"],
            subscription=[f"/{number:05}{other:03}" + "x" * 200 for other in range(200)],
        )
        if not reply["successful"]:
            assert reply["error"] == "503::server-full"
            return
    raise AssertionError("the sessions were never full")


def places(program: Program, clients: Clients) -> None:
    """Park polls of 95 names."""
    for number in range(1_400):
        names = [quote(f"{number:05}{other:02}" + FACE * 5) for other in range(95)]
        clients.send(request("GET", "/poll?wait=120&after=now&rcpt=" + "&rcpt=".join(names)))


def large_requests(program: Program, clients: Clients) -> None:
    """Park polls with long heads."""
    for number in range(2_500):
        clients.send(request("GET", f"/poll/head{number}?wait=120&after=now", b"", "X: " + "y" * 15_000))


def half_bodies(program: Program, clients: Clients) -> None:
    """Begin pushes, and do not end them."""
    for number in range(1_500):
        clients.send(_half_push(f"body{number}"))


def _half_push(name: str) -> bytes:
    return request("POST", f"/push/{name}", "y" * 60_000)[:-1_000]


def half_texts(program: Program, clients: Clients) -> None:
    """Begin texts over WebSockets, and do not end them."""
    for number in range(1_000):
        clients.send(_half_text(f"text{number}"))


def _half_text(name: str) -> bytes:
    """Return the beginning of a text over a WebSocket; one character makes all of it four bytes wide."""
    fields = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    text = b"y" * 50_000 + FACE.encode()
    frame = b"\x01\xff" + struct.pack("!Q", len(text)) + b"\0\0\0\0" + text
    return request("GET", f"/ws/{name}", b"", *fields) + frame


def large_messages(program: Program) -> None:
    """Push messages that take six times as much in JSON."""
    for _ in range(15):
        program.push("/big", "\x01" * 30_000, Content_Type="text/plain")


def unread_answers(program: Program, clients: Clients) -> None:
    """Read large messages in different ways, and do not read the answers."""
    for number in range(150):
        clients.send(request("GET", f"/poll/big?after=oldest&wait=0&limit={1 + number % 15}&_={number}"))
    for _ in range(200):
        clients.send(request("GET", "/stream/big?after=oldest"))


Fill = Callable[[Program], None]
FillByClients = Callable[[Program, Clients], None]
