"""What is fuzzed: bytes arrive, and ``Found`` leaves where the server does not hold to its promises.

Each target is one of HTTP.md's doors. Whatever arrives there, in whatever pieces, no exception is logged and
no answer is a 500; what is accepted is understood the same however it was cut; every connection comes to its
end without the client's help; and then nothing is left: no reader, no session, no timer.

A world is a whole server in memory, on a clock that only the target moves. Its ids are counted instead of
drawn, so that what was found is found again, and an input can name a session that the one before has begun.
"""

from __future__ import annotations

import base64
import hmac
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

from msgspec.structs import replace
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

sys.path.insert(0, str(Path(__file__).parents[2]))

from cometd_lite.access.tokens import Tokens
from cometd_lite.bayeux import BayeuxOptions, conversation, sessions
from cometd_lite.comet import Comet
from cometd_lite.core import listeners
from cometd_lite.core.message import Cursor
from cometd_lite.errors import CometError, Unauthorized
from cometd_lite.http.params import Fields, poll_asked
from cometd_lite.http.websocket import text_frame
from cometd_lite.limits import Limits
from cometd_lite.server import Bounds, HTTPFactory
from cometd_lite.stores.memory import MemoryStore

EPOCH = "fuzzepoch0"
STARTED = 1_795_169_758.0
LIMITS = Limits(capacity=20, max_body=400, max_wait=2, max_parked=50, max_sessions=20, max_recipients=50)
BOUNDS = Bounds(
    body=400, head_seconds=2, body_seconds=2, idle_seconds=3, write_seconds=2, linger_seconds=1, pipelined=512
)
TICKS = 300
"""Seconds within which a connection is over that asks for nothing but waits."""
UPGRADE = (
    b" HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
NO_FIELDS = Fields(*[None] * len(Fields.__struct_fields__))


class Found(AssertionError):
    """A promise that was broken."""


def hold(holds: object, otherwise: object) -> None:
    """Raise ``Found`` where something does not hold; unlike an assert it costs no rewriting."""
    if not holds:
        raise Found(otherwise)


@contextmanager
def quiet() -> Iterator[None]:
    """Raise ``Found`` for what is logged as a failure meanwhile."""
    failures: list[Failure] = []

    def observe(event: Any) -> None:
        if "log_failure" in event:
            failures.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)
    if failures:
        raise Found(failures[0].getTraceback()) from failures[0].value


class Transport(StringTransport):
    """A peer that reads everything and does not leave by itself."""

    def abortConnection(self) -> None:
        self.disconnecting = True

    def unregisterProducer(self) -> None:
        self.producer = None


class Served(NamedTuple):
    """A request that is over; one that was no HTTP has no method."""

    method: bytes
    uri: bytes
    fields: dict[bytes, bytes]
    body: bytes
    code: int


class World:
    """A server, the requests that it has served, and the connections to it."""

    def __init__(self) -> None:
        numbers = count(1)
        for module in (listeners, conversation, sessions):
            module.new_id = lambda: f"{next(numbers):040x}"  # type: ignore[attr-defined]
        self.clock = Clock()
        self.clock.advance(1_000)
        self.comet = Comet(
            limits=LIMITS,
            store=MemoryStore(LIMITS, epoch=EPOCH),
            clock=self.clock,
            wall=self.wall,
            bayeux=BayeuxOptions(timeout=2, max_interval=2),
            metrics=False,
        )
        self.comet.start()
        routes = self.comet.routes
        routes.random = self.comet.hub.registry._random = Random(1)
        self.served: list[Served] = []
        self.factory = HTTPFactory(
            routes,
            clock=self.clock,
            bounds=BOUNDS,
            on_answer=self.over,
            wall=self.wall,
        )
        self.open: list[tuple[Any, Transport]] = []

    def wall(self) -> float:
        return STARTED + self.clock.seconds()

    def over(self, request: Any, *_: float) -> None:
        asked = dict(request.head.fields()) if request.method else {}
        self.served.append(Served(request.method, request.uri, asked, request.body, request.code))
        hold(request.code < 500 or request.code in {503, 505}, self.served[-1])

    def connect(self, *pieces: bytes) -> Transport:
        """Open a connection and send something."""
        transport = Transport()
        connection = self.factory.buildProtocol(None)
        connection.makeConnection(transport)
        self.open.append((connection, transport))
        for piece in pieces:
            if transport.disconnecting:
                break
            connection.dataReceived(piece)
            self.clock.advance(0)
        return transport

    def pass_time(self, ticks: int) -> None:
        """Let seconds pass, until all connections are closed."""
        for _ in range(ticks):
            for one in [one for one in self.open if one[1].disconnecting]:
                self.open.remove(one)
                one[0].connectionLost(Failure(ConnectionDone()))
            if not self.open:
                break
            self.clock.advance(1)

    def end(self) -> None:
        """Stop, and see that nothing is left."""
        comet, clock = self.comet, self.clock
        self.factory.stopping = True
        comet.drain(1)
        self.factory.shutdown()
        self.pass_time(TICKS)
        hold(not self.open, "a connection is left that does not end")
        hold(not self.factory.connections, "the factory knows a connection that is gone")
        clock.advance(90_000)
        clock.advance(2)
        registry, routes = comet.hub.registry, comet.routes
        hold(not registry.parked, "a reader is left")
        comet.hub.check_invariants()
        comet.hub.store.check_invariants()
        hold(not len(routes.listeners), "a listener is left")
        hold(routes.bayeux is not None and not len(routes.bayeux), "a Bayeux session is left")
        usage = comet.hub.store.usage()
        hold(not usage.messages and not usage.mailboxes, f"messages are left: {usage}")
        comet.stop()
        hold(not clock.getDelayedCalls(), f"timers are left: {[*map(str, clock.getDelayedCalls())]}")


def cuts(data: bytes) -> tuple[bytes, ...]:
    """Return the data byte by byte, or, where it is long, in pieces whose sizes it chooses itself."""
    if len(data) <= 400:
        return tuple(data[at : at + 1] for at in range(len(data)))
    random = Random(zlib.crc32(data))
    places = sorted(random.sample(range(1, len(data)), 40))
    return tuple(data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True))


def http(data: bytes) -> None:
    """Serve whatever comes over a connection, and then the same again in pieces."""
    with quiet():
        world = World()
        world.connect(data)
        world.pass_time(20)
        whole, world.served = world.served, []
        world.connect(*cuts(data))
        world.pass_time(20)
        world.end()
    for one, other in zip(whole, world.served, strict=False):
        # The second finds what the first has left, so the answers may differ; what was asked may not.
        hold(one[:3] == other[:3], f"whole {one}, in pieces {other}")
        if not one.method or (b"expect" in one.fields and max(one.code, other.code) >= 400):
            break  # it is closed; or only for a client that wanted to be told before it sends its body
        hold(one.body == other.body, f"whole {one}, in pieces {other}")


def websocket(data: bytes) -> None:
    """Read frames, whole and in pieces: at ``/ws`` or at ``/cometd``, and where 0x80 is set only texts."""
    kind, data = data[:1] or b"\0", data[1:]
    if kind[0] & 0x80:
        data = b"".join(map(masked, data.split(b"\0")))
    target = (b"/ws/bob", b"/ws?rcpt=bob&rcpt=*&after=oldest", b"/cometd")[kind[0] % 3]
    sent = []
    with quiet():
        for pieces in ((data,), cuts(data)):
            world = World()
            world.connect(b"POST /push/bob HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi")
            transport = world.connect(b"GET " + target + UPGRADE, *pieces)
            world.pass_time(1)
            sent.append([*told(transport.value())])
            world.end()
    hold(sent[0] == sent[1], f"whole {sent[0]}, in pieces {sent[1]}")


def told(sent: bytes) -> Iterator[bytes]:
    """Return the server's frames; of a close only the code, for its reason may name a place in a piece."""
    _, _, rest = sent.partition(b"\r\n\r\n")
    while rest:
        size = {126: 2, 127: 8}.get(rest[1], 0)
        end = 2 + size + (int.from_bytes(rest[2 : 2 + size]) if size else rest[1])
        hold(len(rest) >= end, f"a frame is not whole: {rest!r}")
        yield rest[0:1] + rest[2:4] if rest[0] == 0x88 else rest[:end]
        rest = rest[end:]


def masked(text: bytes) -> bytes:
    """Return a client's text frame, masked with zeros (RFC 6455 §5.3)."""
    frame = text_frame(text)
    head = len(frame) - len(text)
    return frame[:1] + bytes([frame[1] | 0x80]) + frame[2:head] + bytes(4) + text


def bayeux_batches(data: bytes) -> None:
    """Answer Bayeux batches, a line each, one after the other or while the one before is held."""
    with quiet():
        world = World()
        for line in data.split(b"\n")[:12]:
            if line.startswith(b"?"):
                world.connect(
                    b"GET /cometd" + quote_from_bytes(line, "?=&%").encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n"
                )
                continue
            kind = b"application/json"
            if line.startswith(b"message="):
                kind = b"application/x-www-form-urlencoded"
            world.connect(
                b"POST /cometd HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
                % (kind, len(line), line)
            )
            if line.endswith(b" "):
                world.pass_time(1)
        world.pass_time(20)
        hold(not world.open, "a request is held for longer than it may be")
        world.end()


def cursors(data: bytes) -> None:
    """Read a place: it is written as it was read, and the short way of reading agrees with the long one."""
    text, _, more = data.partition(b"\n")
    try:
        place = Cursor.parse(text.decode())
    except ValueError:
        pass
    else:
        hold(str(place).encode() == text, f"{text!r} is read as {place}")
    query = b"after=" + text + more
    # The same in another spelling: every byte encoded, which no short way knows.
    spelled = b"&".join(
        b"=".join(b"".join(b"%%%02X" % byte for byte in part) for part in pair.split(b"=", 1))
        for pair in query.split(b"&")
    )
    if b"%" not in query and b"+" not in query:
        short, long = asked(query), asked(spelled)
        hold(short == long, f"{query!r} is {short}, but {spelled!r} is {long}")
    asked(query)
    asked(b"", replace(NO_FIELDS, if_none_match=text or None, prefer=more or None))
    asked(b"", replace(NO_FIELDS, last_event_id=text or None, accept=more or None))


def asked(query: bytes, fields: Fields = NO_FIELDS) -> Any:
    """Return what is asked for, None where it is refused; of several reasons any may be told."""
    try:
        return poll_asked("bob", query, fields, 120.0, look=False)
    except CometError:
        return None


SECRET = b"a secret of no less than 32 bytes!"
_DIRECTORY = tempfile.TemporaryDirectory(prefix="fuzz-")
_KEY = Path(_DIRECTORY.name, "key")
_KEY.write_bytes(SECRET)


def tokens(data: bytes) -> None:
    """Judge tokens: as they come, and signed well so that their claims are looked at."""
    judge = Tokens([_KEY], wall=lambda: STARTED)
    header, newline, claims = data.partition(b"\n")
    granted(judge, data.decode("latin-1"))
    for one in (header, b'{"alg":"HS256","typ":"JWT"}') if newline else ():
        signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (one, claims))
        signature = base64.urlsafe_b64encode(hmac.digest(SECRET, signed, "sha256")).rstrip(b"=")
        granted(judge, (signed + b"." + signature).decode())
        if granted(judge, (signed + b"." + signature[:-2] + b"AA").decode()) is not None:
            hold(signature.endswith(b"AA"), "a signature counts that is none")
        hold(granted(judge, (signed + b".").decode()) is None, "a token counts without its signature")


def granted(judge: Tokens, token: str) -> Any:
    """Return what a token allows, None where it is refused; it must hold to what its claims say."""
    try:
        grant = judge.grant(token)
    except Unauthorized:
        return None
    said = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    hold(said.get("exp", STARTED + 1) > STARTED, f"expired, and counts: {said}")
    hold(said.get("nbf", 0) <= STARTED, f"not valid yet, and counts: {said}")
    for action in ("push", "poll", "manage"):
        for name in ("bob", "chat/a/b", "*", "**", "chat/**", ""):
            covered = grant.covers(action, name)
            hold(not covered or said.get(action), f"{action} of {name} is covered by nothing")
    return grant


TARGETS: dict[str, Callable[[bytes], None]] = {
    "http": http,
    "websocket": websocket,
    "bayeux": bayeux_batches,
    "cursors": cursors,
    "tokens": tokens,
}
