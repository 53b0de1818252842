"""A hub in memory with its Bayeux side, and clients of it: by requests, over sockets, and in stories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from helpers import Outcome, check_invariants
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cometd_lite.bayeux import BayeuxOptions
from cometd_lite.bayeux.socket import BayeuxSocket
from cometd_lite.bayeux.transport import BayeuxTransport
from cometd_lite.core.hub import Hub
from cometd_lite.core.message import Content, Push
from cometd_lite.core.registry import Registry
from cometd_lite.errors import CometError, StoreDown
from cometd_lite.http.responses import Response
from cometd_lite.limits import Limits
from cometd_lite.stores.memory import MemoryStore

WALL = 1_795_169_758.123


class Server:
    """A hub in memory and its Bayeux side, on a clock that only tests move."""

    def __init__(
        self,
        clock: Clock,
        options: BayeuxOptions | None = None,
        limits: Limits | None = None,
        store: Callable[[Limits], Any] = MemoryStore,
    ) -> None:
        self.clock = clock
        self.limits = limits = limits or Limits()
        self.store = store(limits)
        self.hub = Hub(self.store, Registry(clock, limits.max_parked), clock, wall=lambda: WALL)
        self.bayeux = BayeuxTransport(self.hub, limits, options)

    def push(self, recipient: str, data: Any = "hi", **words: Any) -> Any:
        """Push as an HTTP client does."""
        return self.hub.push(Push((recipient,), (Content.of(data),), **words))

    def client(self, *subscriptions: str, **handshake: Any) -> Client:
        """Return a client that shook hands, was connected, and then subscribed."""
        client = Client(self)
        client.shake_hands(**handshake)
        client.connect()
        if subscriptions:
            client.subscribe(*subscriptions)
        return client

    def sweep(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        self.bayeux.sweep()

    def check_invariants(self) -> None:
        """Check everything that always holds of the hub and the sessions."""
        check_invariants(self.hub)
        self.bayeux.sessions.check_invariants()

    @property
    def quiet(self) -> bool:
        """Whether nothing is left of what has been."""
        return self.hub.registry.parked == 0 and self.clock.getDelayedCalls() == []


class Asked:
    """What the transport asks of an exchange; it is its own head. ``gone`` tells whether its client is."""

    request = None
    client = None
    query = b""

    def __init__(
        self,
        media_type: bytes | None = b"application/json",
        cookie: bytes | None = None,
        *,
        secure: bool = False,
        gone: Callable[[], bool] = lambda: False,
    ) -> None:
        self.media_type = media_type
        self.is_secure = secure
        self.was_disconnected = gone
        self.sending = False
        self.fields = {b"cookie": cookie}

    @property
    def head(self) -> Asked:
        return self

    def is_sending(self) -> bool:
        return self.sending

    def get(self, name: bytes) -> bytes | None:
        return self.fields[name]


def post(
    server: Server, body: bytes, asked: Asked, gone: Callable[[], bool] = lambda: False, rights: Any = None
) -> Any:
    asked.was_disconnected = gone
    return server.bayeux.post(body, asked.media_type, asked, rights)


class Request:
    """A request on its way: its answer, if there is one, and how its client leaves."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    @property
    def held(self) -> bool:
        return self.outcome.parked

    @property
    def answer(self) -> Response:
        answer: Response = self.outcome.value
        return answer

    @property
    def messages(self) -> list[Any]:
        answer = self.answer
        assert answer.status == 200, answer
        messages: list[Any] = msgspec.json.decode(answer.body)
        return messages

    @property
    def reply(self) -> Any:
        """The reply to its connect."""
        (reply,) = [message for message in self.messages if message["channel"] == "/meta/connect"]
        return reply

    @property
    def events(self) -> list[tuple[str, Any]]:
        """The events in the answer."""
        return events(self.messages)

    def lose(self) -> None:
        """Lose the connection, as the reactor reports it."""
        self.outcome.cancel()


def events(messages: list[Any]) -> list[tuple[str, Any]]:
    return [(message["channel"], message["data"]) for message in messages if "data" in message]


class Client:
    """A Bayeux client over HTTP, with its cookie."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.id = ""
        self.cookie: bytes | None = None
        self.sending = False
        """Whether an answer is still on its way to it."""
        self.gone = False
        """Whether it has left, though the reactor has not noticed yet."""
        self.number = 0
        self.ack: int | None = None

    def send(self, *messages: Any) -> Request:
        body = msgspec.json.encode(list(messages))
        asked = Asked(cookie=self.cookie)
        asked.is_sending = lambda: self.sending  # type: ignore[method-assign]
        answer = post(self.server, body, asked, lambda: self.gone)
        return Request(Outcome(answer))

    def message(self, channel: str, **fields: Any) -> dict[str, Any]:
        self.number += 1
        return {"channel": channel, "clientId": self.id, "id": str(self.number), **fields}

    def shake_hands(self, **fields: Any) -> Any:
        request = self.send(
            {
                "channel": "/meta/handshake",
                "version": "1.0",
                "supportedConnectionTypes": ["long-polling"],
                **fields,
            }
        )
        (reply,) = request.messages
        self.id = reply["clientId"]
        for line in request.answer.head.split(b"\r\n"):
            if line.startswith(b"Set-Cookie: "):
                self.cookie = line.removeprefix(b"Set-Cookie: ").partition(b";")[0]
        if reply.get("ext", {}).get("ack"):
            self.ack = 0
        return reply

    def connection(self, **fields: Any) -> dict[str, Any]:
        """Return a connect."""
        if self.ack is not None:
            fields.setdefault("ext", {"ack": self.ack})
        return self.message("/meta/connect", connectionType="long-polling", **fields)

    def connect(self, **fields: Any) -> Request:
        return self.send(self.connection(**fields))

    def hold(self, **fields: Any) -> Request:
        """Connect, and be held."""
        request = self.connect(**fields)
        assert request.held, request.messages
        return request

    def took(self, request: Request) -> list[tuple[str, Any]]:
        """Take in an answer to a connect, as the acknowledgement extension of a client does."""
        if self.ack is not None:
            self.ack = request.reply["ext"]["ack"]
        return request.events

    def subscribe(self, *channels: str) -> list[Any]:
        return self.send(self.message("/meta/subscribe", subscription=list(channels))).messages

    def unsubscribe(self, *channels: str) -> list[Any]:
        return self.send(self.message("/meta/unsubscribe", subscription=list(channels))).messages

    def publish(self, channel: str, data: Any = "hi") -> list[Any]:
        return self.send(self.message(channel, data=data)).messages

    def disconnect(self) -> list[Any]:
        return self.send(self.message("/meta/disconnect")).messages


def session_of(client: Client) -> Any:
    session = client.server.bayeux.sessions.get(client.id, client.server.clock.seconds())
    assert session is not None
    return session


class Wire:
    """The other end of a WebSocket: what was sent, and whether the client keeps up."""

    def __init__(self, server: Server, cookie: bytes | None = None, rights: Any = None) -> None:
        self.server = server
        self.congested = False
        self.sending = False
        self.closed: int | None = None
        self.frames: list[Any] = []
        self.talk: BayeuxSocket = BayeuxSocket(server.bayeux, Asked(cookie=cookie), rights)
        self.talk.opened(self)  # type: ignore[arg-type]  # it has what a conversation uses

    def send_text(self, text: bytes) -> None:
        self.frames.append(msgspec.json.decode(text))

    def send_frame(self, frame: bytes) -> None:
        self.frames.append(msgspec.json.decode(frame[frame.index(b"[") :]))

    def is_sending(self) -> bool:
        return self.sending

    def hold_backlog(self, size: int) -> None:
        self.backlog = size

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed = code

    def lose(self) -> None:
        self.talk.disconnected()

    def say(self, *messages: Any) -> list[Any]:
        """Send one text; return the messages that came since."""
        self.talk.text_received(msgspec.json.encode(list(messages)).decode())
        return self.received()

    def received(self) -> list[Any]:
        frames, self.frames = self.frames, []
        return [message for frame in frames for message in frame]


def speak(server: Server, *subscriptions: str, **handshake: Any) -> tuple[Client, Wire]:
    """Return a client that speaks over a socket, and was connected."""
    client, wire = Client(server), Wire(server)
    fields = {"version": "1.0", "supportedConnectionTypes": ["websocket"], **handshake}
    (reply,) = wire.say({"channel": "/meta/handshake", **fields})
    client.id = reply["clientId"]
    client.ack = 0 if reply.get("ext", {}).get("ack") else None
    wire.say(client.connection())
    if subscriptions:
        wire.say(client.message("/meta/subscribe", subscription=list(subscriptions)))
    return client, wire


class Late(MemoryStore):
    """A store whose answers come only when it is told to give them."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []
        self.down = False

    def later(self, call: Callable[[], Any]) -> Any:
        waiting: Deferred[Any] = Deferred()
        self.waiting.append((waiting, call))
        return waiting

    def append(self, *args: Any) -> Any:
        return self.later(lambda: super(Late, self).append(*args))

    def read(self, *args: Any) -> Any:
        return self.later(lambda: super(Late, self).read(*args))

    def give(self) -> None:
        """Response everything, and what is asked thereupon."""
        while self.waiting:
            self.give_one(0)

    def give_one(self, place: int) -> None:
        """Give one answer out of its turn: -1 gives what was asked last."""
        waiting, call = self.waiting.pop(place)
        try:
            if self.down:
                raise StoreDown("the store is away")
            result = call()
        except CometError as error:
            waiting.errback(error)
        else:
            waiting.callback(result)


def arrived(server: Server, request: Request) -> Request:
    server.store.give()
    return request


def late_client(server: Server, *subscriptions: str, **handshake: Any) -> Client:
    client = Client(server)
    client.shake_hands(**handshake)
    arrived(server, client.connect())
    subscription = client.send(client.message("/meta/subscribe", subscription=list(subscriptions)))
    arrived(server, subscription)
    assert subscription.messages[0]["successful"] is True
    return client


class Story:
    """A client under acknowledgement, to which things happen; it must take what was sent, once, in order."""

    ACTS = ("push", "publish", "connect", "drop", "take", "subscribe", "tick")

    def __init__(self) -> None:
        clock = Clock()
        clock.advance(1_000)
        self.server = Server(clock)
        self.client = self.server.client("/a", ext={"ack": True})
        self.sent = 0
        self.got: list[Any] = []
        self.request: Request | None = None

    def push(self) -> None:
        self.server.push("a", self.sent)
        self.sent += 1

    def publish(self) -> None:
        self.client.publish("/a", self.sent)
        self.sent += 1

    def subscribe(self) -> None:
        self.client.subscribe("/a", "/*", "/**")

    def connect(self) -> None:
        self.request = self.client.connect()

    def drop(self) -> None:
        """Lose the connection, be it before or after the answer."""
        if self.request is not None and self.request.held:
            self.request.lose()
        self.request = None

    def take(self) -> None:
        if self.request is not None and not self.request.held:
            self.got += [data for _, data in self.client.took(self.request)]
            self.request = None

    def tick(self) -> None:
        self.server.sweep(1.0)
        if self.request is None:
            self.connect()

    def end(self) -> None:
        self.connect()
        while self.request is not None and not self.request.held:
            self.take()
            self.connect()
        assert self.got == list(range(self.sent))
        self.drop()
        assert self.server.quiet
