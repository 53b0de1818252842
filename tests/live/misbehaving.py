"""An application that is asked over real sockets, and misbehaves as its clients' cookies say."""

from __future__ import annotations

import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

Behaviour = Callable[[socket.socket, dict[str, Any]], bool]
"""Answers a question on its connection; returns whether another one may come on it."""


def answer(status: str, body: bytes = b"", *fields: str, length: int | None = None) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(body) if length is None else length}",
        *fields,
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


def sends(*parts: bytes, then: bool = True) -> Behaviour:
    def send(connection: socket.socket, _: dict[str, Any]) -> bool:
        for part in parts:
            connection.sendall(part)
        return then

    return send


def _endless(head: bytes, piece: bytes) -> Behaviour:
    def send(connection: socket.socket, _: dict[str, Any]) -> bool:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return send


def _silent(connection: socket.socket, _: dict[str, Any]) -> bool:
    connection.recv(1)  # until the server gives up
    return False


def _short_and_open(connection: socket.socket, question: dict[str, Any]) -> bool:
    connection.sendall(answer("200 OK", b'{"subject": "x"}', length=100))
    return _silent(connection, question)


JSON = "Content-Type: application/json"
GZIPPED = zlib.compressobj(wbits=31)
BOMB = GZIPPED.compress(b"{" + b" " * 50_000_000) + GZIPPED.flush()
BEHAVIOURS: dict[str, Behaviour] = {
    "ok": sends(
        answer("200 OK", b'{"subject": "alice", "expires_in": 60}', JSON, "Set-Cookie: session=other")
    ),
    "no": sends(answer("403 Forbidden", b"no")),
    "once": sends(answer("204 No Content")[:-2] + b"\r\n", then=False),
    "redirecting": sends(answer("302 Found", b"", "Location: /ok")),
    "failing": sends(answer("500 Oops", b"oops")),
    "closing": sends(then=False),
    "cut": sends(answer("200 OK", b"{}", length=100), then=False),
    "no http": sends(b"SSH-2.0-OpenSSH_9.2\r\n", then=False),
    "huge": sends(answer("200 OK", b" " * 70_000)),
    "endless": _endless(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 10_000),
    "endless chunks": _endless(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3e8\r\n%b\r\n" % (b" " * 1_000)
    ),
    "compressed": sends(answer("200 OK", BOMB, "Content-Encoding: gzip")),
    "not json": sends(answer("200 OK", b'{"subject": ', JSON)),
    "silent": _silent,
    "short and open": _short_and_open,
}


class Application:
    """Listens on a port of its own, and notes what it is asked, with its header fields."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.heads: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/may?key=1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError), connection.makefile("rb") as received:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = received.readline()
                    if not line:
                        return
                    head += line
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"
                )
                question = msgspec.json.decode(received.read(length))
                self.heads.append(head)
                self.asked.append(question)
                if not BEHAVIOURS[question["cookie"]](connection, question):
                    return


@contextmanager
def application() -> Iterator[Application]:
    """Run an application."""
    made = Application()
    with made.listening:
        yield made
