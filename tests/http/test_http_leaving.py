"""Readers that leave are gone at once: what waits for the collector of cycles waits for a very long time.

It is told to look at old objects seldom (``garbage.settle_collector``), because thousands of parked readers
are no garbage. So whoever left must be none either.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jwt
import msgspec
import pytest
from exchanges import STARTED, Server, by_serving
from twisted.internet.task import Clock
from wires import OPENED, UPGRADE, Connection, WebSocket

from cometd_lite.access.tokens import Tokens
from cometd_lite.comet import Comet

SECRET = b"a secret of no less than 32 bytes!"
TOKEN = jwt.encode({"push": ["**"], "poll": ["**"], "exp": STARTED + 1_000}, SECRET)
BEARER = {"Authorization": f"Bearer {TOKEN}"}
LONG_POLLING = {"supportedConnectionTypes": ["long-polling"], "version": "1.0"}


def asks(target: str, **fields: str) -> Callable[[Server], Connection]:
    """Return what sends a GET."""

    def ask(server: Server) -> Connection:
        connection = Connection(server)
        connection.request("GET", target, fields | BEARER)
        return connection

    return ask


def bayeux(server: Server, *messages: object) -> Connection:
    """Send messages by long-polling."""
    connection = Connection(server)
    body = msgspec.json.encode(messages)
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body))} | BEARER
    connection.request("POST", "/cometd", fields, body)
    return connection


def connect(server: Server) -> Connection:
    """Begin a Bayeux session, and have a connect of it held."""
    greeted = bayeux(server, {"channel": "/meta/handshake"} | LONG_POLLING)
    client = greeted.problem[0]["clientId"]
    greeted.hang_up()
    for message in ({"channel": "/meta/subscribe", "subscription": "/bob"}, {"channel": "/meta/connect"}):
        asked = {"clientId": client, "connectionType": "long-polling", "advice": {"timeout": 9_000}}
        connection = bayeux(server, message | asked)
    return connection


def talk(server: Server) -> Connection:
    """Push over a WebSocket."""
    socket = WebSocket(server, "/ws/bob", BEARER)
    socket.push(push="bob", data="hi", ref=1)
    return socket


def speak(server: Server) -> Connection:
    """Begin a Bayeux session over a WebSocket, and have a connect of it held."""
    socket = WebSocket(server, "/cometd", BEARER)
    socket.text(msgspec.json.encode([{"channel": "/meta/handshake"} | LONG_POLLING]))
    client = socket.texts[0][0]["clientId"]
    asked = {"clientId": client, "connectionType": "websocket"}
    socket.text(msgspec.json.encode([{"channel": "/meta/subscribe", "subscription": "/bob"} | asked]))
    socket.text(msgspec.json.encode([{"channel": "/meta/connect"} | asked]))
    return socket


def is_refused(server: Server) -> Connection:
    """Poll where as many wait as may."""
    server.comet.hub.registry.most = 0
    return asks("/poll/bob?after=now")(server)


READERS: dict[str, Callable[[Server], Connection]] = {
    "poll": asks("/poll/bob?after=now"),
    "poll that is refused": is_refused,
    "take": asks("/poll/bob"),
    "pattern": asks("/poll/bob/**?after=now"),
    "SSE": asks("/stream/bob"),
    "NDJSON": asks("/stream/bob", Accept="application/x-ndjson"),
    "WebSocket": talk,
    "WebSocket that is not opened": asks("/ws/bob?after=x", **UPGRADE),
    "Bayeux by long-polling": connect,
    "Bayeux by WebSocket": speak,
}


def leaves(server: Server, connection: Connection) -> None:
    """The connection is lost."""
    connection.hang_up()


def is_told(server: Server, connection: Connection) -> None:
    """A message comes, and then the connection is lost."""
    server.push("/bob", "hello", BEARER)
    connection.turn()
    leaves(server, connection)


def is_let_go(server: Server, connection: Connection) -> None:
    """The wait is over, or the session's time; then the connection is lost."""
    for _ in range(60):
        server.clock.advance(1)
    connection.turn()
    leaves(server, connection)


@pytest.mark.parametrize("goes", [leaves, is_told, is_let_go])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("guarded", [False, True], ids=["open", "by token"])
def test_who_has_left_is_no_garbage(
    reader: str, goes: Callable[[Server, Connection], None], guarded: bool, tmp_path: Path
) -> None:
    clock = Clock()
    clock.advance(1_000)
    (tmp_path / "key").write_bytes(SECRET)
    wall = lambda: STARTED + clock.seconds() - 1_000  # noqa: E731  it is said in one line
    tokens = Tokens([tmp_path / "key"], wall=wall) if guarded else None
    comet = Comet(clock=clock, wall=wall, tokens=tokens)
    comet.start()
    server = Server(comet, clock, by_serving(comet))

    def come_and_go() -> None:
        goes(server, READERS[reader](server))
        OPENED.clear()
        server.driver.flush()

    come_and_go()  # what is made once is made now
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        come_and_go()
        gc.collect()
        found = Counter(type(one).__qualname__ for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    comet.stop()
    assert found == {}
