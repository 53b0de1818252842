"""The Bayeux conversation, without I/O: a batch of messages and a time arrive, replies and effects leave.

The paragraphs named here are those of the Bayeux 1.0 specification, in CometD's reference. Four rules hold
the module together:

1. A conversation is a generator. It yields effects in the order of the batch, is sent what became of each,
   has the error thrown in where one was refused, and returns an ``Exchange``. Whoever runs it does the I/O.
2. Every message is answered for itself: what is wrong with one costs its neighbours nothing. Only a handshake
   silences them, because the protocol says so ("Handshake Request").
3. A session is what it reads and one place in the one order; nothing is queued for it. Everything up to its
   place was delivered; under the acknowledgement extension, was confirmed.
4. A channel is a recipient with a slash before it, and a channel pattern a pattern. ``/meta/`` and
   ``/service/`` are the protocol's own: what lies in mailboxes of such names never becomes an event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeAlias

import orjson

from .clients import Share
from .errors import BadBody, BadRecipient, BodyTooLarge, CometError, ServerFull
from .limits import (
    BAYEUX_BATCH_MESSAGES,
    BAYEUX_BROWSER_SESSIONS,
    BAYEUX_EVENTS_RENDERED,
    BAYEUX_SUBSCRIPTIONS,
    BAYEUX_SUBSCRIPTIONS_IN_ALL,
    RECIPIENT_BYTES,
)
from .message import JSON_TYPE, NOW, Batch, Content, Cursor, Message, Push, dumps, timestamp
from .recipient import covering, readable, recipient
from .sessions import Session, Sessions, new_id

CONNECTION_TYPES = ("websocket", "long-polling", "callback-polling")
"""What this server offers, the best first ("The supportedConnectionTypes field")."""

VERSION = "1.0"
MULTIPLE_CLIENTS_INTERVAL = 2_000
"""Milliseconds between the polls of a browser's further clients, which are not held (CometD's default)."""

HANDSHAKE = "/meta/handshake"
CONNECT = "/meta/connect"
SUBSCRIBE = "/meta/subscribe"
UNSUBSCRIBE = "/meta/unsubscribe"
DISCONNECT = "/meta/disconnect"

BINARY_TYPE = "application/vnd.cometd.binary+json"
"""The type of what a client's binary extension has made JSON of; readers that have it must know.

Nothing else of a publication's ``ext`` is told to others: that is between the client and the server, and may
well be a password.
"""

PRIVATE = "$bayeux/"
"""The recipients of what is for one session only; its id follows. Their bodies are whole Bayeux messages."""

REPLACED = "409::connect_replaced"

Action: TypeAlias = Literal["push", "poll"]
_Reply: TypeAlias = dict[str, Any]

# CometD's clients let more through than the specification's "token": . # + { and } are in channels out there.
_CHANNEL = re.compile(r"(?:/[A-Za-z0-9\-_!~()$@.#+{}]+)+")
_PATTERN = re.compile(r"(?:/[A-Za-z0-9\-_!~()$@.#+{}]+)*/\*\*?")
_VERSION = re.compile(r"[0-9]{1,9}(?:\.[A-Za-z0-9][A-Za-z0-9_-]{0,31}){0,7}")
_NOT_IN_ERRORS = re.compile(r"[^A-Za-z0-9\-_!~()$@ /*.]")


@dataclass(frozen=True, slots=True)
class Options:
    """What an operator may set: ``timeout`` and ``max_interval`` in seconds, ``interval`` in milliseconds."""

    timeout: float = 30.0
    """A connect is held this long."""
    interval: int = 0
    """Clients wait this long between two connects. aiocometd takes it for seconds, so 0 is best."""
    max_interval: float = 10.0
    """A session that does not connect again for this long after an answer is gone."""
    anonymous_publish: bool = False
    """Whether whoever has not shaken hands may publish ("Unconnected operation")."""
    bind_browser: bool = False
    """Whether a session is served only to the browser that began it, known by a cookie; not all have one."""
    held_for_a_browser: int = 1
    """Connects held at once for one browser over HTTP ("Server-side Multiple clients detection")."""


class Reader(Protocol):
    """Whoever holds a session's connect, or is its socket."""

    def replaced(self, peer: Peer) -> None:
        """End the connect that is held, because ``peer`` sent another one."""

    def disconnected(self) -> None:
        """Answer the connect that is held, because the session ended at its client's wish."""


class Browser:
    """What is known of a browser: how many sessions it has, and how many of their connects are held."""

    __slots__ = ("held", "name", "sessions")

    def __init__(self, name: str) -> None:
        self.name = name
        self.sessions = 0
        self.held = 0


class BayeuxSession(Session):
    """A client that shook hands. ``recipients`` are what it subscribed to, as names and patterns.

    ``place`` is ``NOW`` until it reads anything. A subscription counts from when it was made, though the
    session's place may lie before: ``since`` has the sequence number for each of which that is so.
    """

    __slots__ = (
        "ack", "ack_batch", "ack_place", "alive", "browser", "connected", "crowded", "gap", "keys",
        "patterned", "private", "reader", "reads", "since", "talking",
    )  # fmt: skip

    def __init__(self, id: str, ttl: float, browser: Browser, *, ack: bool) -> None:  # noqa: A002
        super().__init__(id, (), NOW, ttl)
        self.browser = browser
        self.ack = ack
        self.ack_batch = 0
        """The number of the last batch that was sent; the client confirms it with its next connect."""
        self.ack_place: Cursor | None = None
        """Where that batch ended."""
        self.alive = True
        """Whether the server still knows it."""
        self.connected = False
        """Whether a first connect was answered."""
        self.crowded = False
        """Whether it was told that its browser has several clients."""
        self.gap = False
        """Whether it is still to be told that it missed something."""
        self.private = False
        """Whether there may be something for it alone."""
        self.talking = 0
        """How many of its requests are being processed, whose answers may carry its events."""
        self.since: dict[str, int] = {}
        self.reader: Any = None
        """Whoever holds its connect, or is its socket."""
        self.subscribed(())

    def subscribed(self, recipients: tuple[str, ...]) -> None:
        """Set what it subscribes to."""
        self.recipients = recipients
        self.patterned = any(name.endswith("*") for name in recipients)
        self.reads = (*recipients, PRIVATE + self.id) if self.private else recipients
        # Every reader stands at some key, so that the end of the server finds it.
        self.keys = self.reads or (PRIVATE + self.id,)

    def without(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the names to which it has not subscribed yet, each once."""
        return tuple(dict.fromkeys([name for name in names if name not in self.recipients]))

    def open_private(self) -> None:
        """Read also what is for it alone, from now on."""
        self.private = True
        self.subscribed(self.recipients)

    def advance(self, cursor: Cursor) -> None:
        """Note that it has everything up to a cursor; never goes back."""
        number = cursor.sequence
        if cursor.epoch != self.place.epoch:
            self.since.clear()
        elif number < self.place.sequence:
            return
        elif self.since:
            self.since = {name: since for name, since in self.since.items() if since > number}
        self.place = cursor

    @property
    def is_peculiar(self) -> bool:
        """Whether there is more to telling it something than to send it and go on from there."""
        return bool(self.talking or self.since or self.ack or self.gap)

    def wants(self, message: Message) -> bool:
        """Whether one of its subscriptions to the message is older than the message."""
        since = self.since
        number = message.sequence
        return any(since.get(name, 0) < number for name in covering(message.recipient) if name in self.reads)


class Rights(Protocol):
    """What a peer may do."""

    def check(self, action: Action, names: tuple[str, ...]) -> Any:
        """Return the seconds for which the action on the names is allowed, or a Deferred of them.

        Without names it is about being here at all. Raises, or fails with, a ``CometError`` where it is not.
        """

    def charge(self, messages: int, size: int) -> None:
        """Count what is published, in messages and bytes. Raises ``TooManyRequests``."""

    def hold(self, act: Callable[[], Any]) -> Any:
        """Do what may be held, and count it until it has come to its end. Raises ``TooManyRequests``."""

    @property
    def registrations(self) -> Share | None:
        """What a session counts against; None where nobody counts."""


@dataclass(slots=True, eq=False)
class Peer:
    """Where a batch came from: its browser, known by the cookie, and what it may do.

    ``rights`` is None where everyone may do everything, ``socket`` over HTTP.
    """

    browser: str | None = None
    rights: Rights | None = None
    socket: object | None = None


# -- effects


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask whether the peer may do something; the conversation is sent for how many seconds it may."""

    rights: Rights
    action: Action
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Locate:
    """Find the end of the one order; the conversation is sent its ``Cursor``."""


@dataclass(frozen=True, slots=True)
class Give:
    """Push what was published; the conversation is sent the ``Receipt``, or has the error thrown in."""

    push: Push


@dataclass(frozen=True, slots=True)
class Serve:
    """Call a service; the conversation is sent its answer, or None where that is to come later, or none."""

    handler: Service
    call: Call


@dataclass(frozen=True, slots=True)
class Replace:
    """End the connect that the session has outstanding: there is a newer one."""

    session: BayeuxSession
    peer: Peer


@dataclass(frozen=True, slots=True)
class Forget:
    """Answer the connect that the session has outstanding, and let go of the session: it has disconnected."""

    session: BayeuxSession


Effect: TypeAlias = Ask | Locate | Give | Serve | Replace | Forget
Talk: TypeAlias = Generator[Effect, Any, "Exchange"]
_Effects: TypeAlias = Generator[Effect, Any, None]
_Asking: TypeAlias = Generator[Effect, Any, float]
_Answering: TypeAlias = Generator[Effect, Any, _Reply]


@dataclass(frozen=True, slots=True)
class Call:
    """A message to a ``/service`` channel. ``client_id`` is None where the sender has no session."""

    channel: str
    data: Any
    client_id: str | None
    id: str | float | None
    ext: dict[str, Any]

    def event(self, data: Any) -> dict[str, Any]:
        """Return an answer as an event, with the call's id: CometD's remote calls find it by that."""
        event = {"channel": self.channel, "data": data}
        return event if self.id is None else {**event, "id": self.id}


Service: TypeAlias = Callable[[Call], Any]
"""Takes a call and returns the data of the answer, None for none, or a Deferred or coroutine of either."""


# -- what comes of a conversation


class Connect:
    """A connect that is still to be answered: its reply, and what must be known to complete it."""

    __slots__ = ("received_at", "reply", "session")

    def __init__(self, session: BayeuxSession, reply: _Reply, received_at: float) -> None:
        self.session = session
        self.reply = reply
        self.received_at = received_at

    def complete(self, place: Cursor, now: float, *, gap: bool) -> None:
        """Complete the reply, which carries, or follows, the session's events up to ``place``.

        ``gap``: some that came before them are no longer kept.
        """
        session = self.session
        ext: _Reply = self.reply.get("ext", {})
        if session.ack:
            session.ack_batch += 1
            session.ack_place = None if place == NOW else place
            ext["ack"] = session.ack_batch
        if gap:
            ext["gap"] = True
        if "timesync" in ext:
            ext["timesync"]["p"] = int((now - self.received_at) * 1000)
        if ext:
            self.reply["ext"] = ext

    def fail(self, error: str) -> None:
        """Make the reply say that the connect failed; clients then try again, after a pause of their own."""
        self.reply["successful"] = False
        self.reply["error"] = error


@dataclass(slots=True, eq=False)
class Exchange:
    """The answer to a batch, apart from events and from what completes the replies to connects.

    ``wait`` is the seconds that its only connect is to be held, 0 where the answer is due now. ``session`` is
    the one whose events may travel with it, None after a handshake. ``cookie`` is the browser's new name.
    """

    replies: list[_Reply] = field(default_factory=list)
    connects: list[Connect] = field(default_factory=list)
    session: BayeuxSession | None = None
    greeted: BayeuxSession | None = None
    """The session that shook hands in it."""
    wait: float = 0.0
    cookie: str | None = None

    def json(self, events: bytes = b"") -> bytes:
        """Return the answer's array, the events first."""
        return b"[%b%b" % (events, orjson.dumps(self.replies)[1:])


def batch_of(value: Any) -> list[Any]:
    """Return the messages in what was parsed from JSON: an array of them, or one ("Messages").

    Raises ``BadBody`` where it is neither or empty, ``BodyTooLarge`` where they are too many.
    """
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list) or not value:
        raise BadBody("A Bayeux request is a JSON array of messages, or one message.")
    if len(value) > BAYEUX_BATCH_MESSAGES:
        raise BodyTooLarge(f"A Bayeux request has at most {BAYEUX_BATCH_MESSAGES} messages.")
    return value


class Bayeux:
    """The protocol's rules and the sessions of one server; at most ``most`` of them."""

    def __init__(self, options: Options, most: int, longest_wait: float) -> None:
        self.options = options
        self.longest_wait = longest_wait
        self.sessions: Sessions[BayeuxSession] = Sessions(most)
        self.services: dict[str, Service] = {}
        self.subscriptions = 0
        """The subscriptions of all sessions together."""
        self.prefix = ""
        """What the ids of its sessions begin with."""
        self._browsers: dict[str, Browser] = {}
        self._ttl = options.max_interval + options.interval / 1000
        self._meta: dict[str, Callable[[_Turn, BayeuxSession], _Effects]] = {
            CONNECT: self._connect,
            SUBSCRIBE: self._subscribe,
            UNSUBSCRIBE: self._unsubscribe,
            DISCONNECT: self._disconnect,
        }

    # -- sessions

    def remove(self, session: BayeuxSession) -> None:
        """Forget a session."""
        self.sessions.remove(session)
        self._forget(session)

    def expire(self, now: float) -> list[BayeuxSession]:
        """Forget, and return, the sessions that did not connect for too long."""
        expired = self.sessions.expire(now)
        for session in expired:
            self._forget(session)
        return expired

    def _forget(self, session: BayeuxSession) -> None:
        if not session.alive:
            return  # two requests may have said goodbye
        session.alive = False
        self.subscriptions -= len(session.recipients)
        browser = session.browser
        browser.sessions -= 1
        if not browser.sessions:
            del self._browsers[browser.name]

    def crowd(self, session: BayeuxSession, reply: _Reply) -> None:
        """Tell a session, in the reply to a connect that is not held, that others of its browser are."""
        session.crowded = True
        session.ttl = self.options.max_interval + MULTIPLE_CLIENTS_INTERVAL / 1000
        reply["advice"] = {**self.advice(MULTIPLE_CLIENTS_INTERVAL), "multiple-clients": True}

    def relieve(self, session: BayeuxSession, reply: _Reply) -> None:
        """Tell a session that it is alone again."""
        session.crowded = False
        session.ttl = self._ttl
        reply["advice"] = self.advice()

    def advice(self, interval: int | None = None) -> _Reply:
        """Return what clients are advised ("The advice field"); CometD's know maxInterval too."""
        options = self.options
        return {
            "reconnect": "retry",
            "interval": options.interval if interval is None else interval,
            "timeout": int(options.timeout * 1000),
            "maxInterval": int(options.max_interval * 1000),
        }

    # -- the beaten path

    def plain_connect(self, message: _Reply, now: float) -> Connect | None:
        """Return a connect that is to be held, where the message is one as nearly all are and nothing is new.

        Where it returns None, ``converse`` is to be asked. What that would do takes several times as long.
        """
        session = self._plain_session(message, now)
        if (
            session is None
            or not session.connected
            or session.reader is not None
            or message.get("connectionType") not in CONNECTION_TYPES
        ):
            return None
        if session.ack:
            ext = message.get("ext")
            if ext.__class__ is not dict or len(ext) != 1 or "ack" not in ext or len(message) != 5:
                return None
            _confirm(session, ext["ack"])
        elif len(message) != 4:
            return None  # there is more in it than was looked at
        return Connect(session, {"channel": CONNECT, "successful": True, "id": message["id"]}, now)

    def plain_publication(
        self, message: _Reply, channel: str, now: float
    ) -> tuple[BayeuxSession, Push, _Reply] | None:
        """Return the sender, the push and the reply of a message like nearly all that are published.

        Where it returns None, ``converse`` is to be asked.
        """
        session = self._plain_session(message, now)
        if session is None or len(message) != 4 or "data" not in message or len(channel) > RECIPIENT_BYTES:
            return None
        name = _plain_name(channel)
        if name is None:
            return None
        try:
            body = dumps(message["data"])
        except TypeError:
            return None
        push = Push((name,), (Content(body, JSON_TYPE, "json"),), overflow="drop-oldest")
        return session, push, {"channel": channel, "successful": True, "id": message["id"]}

    def _plain_session(self, message: _Reply, now: float) -> BayeuxSession | None:
        client_id, id = message.get("clientId"), message.get("id")  # noqa: A001
        if client_id.__class__ is not str or id.__class__ is not str or self.options.bind_browser:
            return None
        return self.sessions.get(client_id, now)

    # -- the conversation

    def converse(self, batch: Sequence[Any], peer: Peer, now: float, wall: float) -> Talk:
        """Answer a batch. ``now`` is in monotonic seconds, ``wall`` in seconds since 1970."""
        exchange = Exchange()
        for message in batch:
            if isinstance(message, dict) and message.get("channel") == HANDSHAKE:
                yield from self._handshake(message, peer, exchange, now, wall)
                return exchange
        try:
            for message in batch:
                reply = yield from self._answer(message, peer, exchange, now, wall)
                exchange.replies.append(reply)
        except BaseException:
            self.done(exchange)
            raise
        if len(batch) > 1:
            exchange.wait = 0.0  # the others' answers must not wait (aiocometd subscribes with its connect)
        return exchange

    def done(self, exchange: Exchange) -> None:
        """Note that an exchange has been answered; to be called once for each that has a session."""
        if exchange.session is not None:
            exchange.session.talking -= 1

    def _answer(self, message: Any, peer: Peer, exchange: Exchange, now: float, wall: float) -> _Answering:
        """Answer one message of a batch; the reply is added to the exchange by whoever runs this."""
        turn = _Turn(message, peer, exchange, now)
        reply = turn.reply
        error = turn.begin(wall)
        if error is not None:
            turn.fail(error)
            return reply
        channel: str = reply["channel"]
        session = self._session(turn)
        if not channel.startswith("/meta/"):
            if session is None and not (self.options.anonymous_publish and "clientId" not in message):
                turn.fail(_unknown(message))
            else:
                yield from self._publish(turn, session)
        elif session is None:
            if channel == CONNECT:
                reply["advice"] = {"reconnect": "handshake", "interval": 0}
            turn.fail(_unknown(message))
        elif channel in self._meta:
            yield from self._meta[channel](turn, session)
        else:
            turn.fail(f"404:{_argument(channel)}:channel_unknown")
        return reply

    def _session(self, turn: _Turn) -> BayeuxSession | None:
        """Return the session that a message names, which from now on is talking; None where there is none."""
        client_id = turn.message.get("clientId")
        session = self.sessions.get(client_id, turn.now) if isinstance(client_id, str) else None
        if session is None or (self.options.bind_browser and session.browser.name != turn.peer.browser):
            return None
        if turn.exchange.session is None:
            turn.exchange.session = session
            session.talking += 1
        return session

    # -- handshake ("Handshake")

    def _handshake(
        self, message: _Reply, peer: Peer, exchange: Exchange, now: float, wall: float
    ) -> _Effects:
        turn = _Turn(message, peer, exchange, now)
        reply = turn.reply
        exchange.replies.append(reply)
        error = turn.begin(wall) or _version_error(message) or _types_error(message)
        reply["version"] = reply["minimumVersion"] = VERSION
        reply["supportedConnectionTypes"] = CONNECTION_TYPES
        if error is not None:
            reply["advice"] = {"reconnect": "none"}
            turn.fail(error)
            return
        try:
            yield from _ask(peer, "poll")
            session = self._greet(turn)
        except CometError as refusal:
            reply["advice"] = {"reconnect": "none"}
            if refusal.retry_after is not None:
                reply["advice"] = {"reconnect": "handshake", "interval": refusal.retry_after * 1000}
            turn.fail(_refused(refusal))
            return
        if session.ack:
            reply.setdefault("ext", {})["ack"] = True
        reply["clientId"] = session.id
        reply["advice"] = self.advice()
        exchange.greeted = session

    def _greet(self, turn: _Turn) -> BayeuxSession:
        name = turn.peer.browser
        if name is None:
            # Whether this browser has others is not known yet, but its next handshake will tell.
            name = turn.exchange.cookie = new_id()
        browser = self._browsers.get(name) or Browser(name)
        if browser.sessions >= BAYEUX_BROWSER_SESSIONS:
            raise ServerFull(f"This browser has {BAYEUX_BROWSER_SESSIONS} sessions, which is the bound.")
        ack = turn.ext.get("ack")
        acks = ack is True or (isinstance(ack, dict) and ack.get("enabled") is True)
        session = BayeuxSession(self.prefix + new_id(), self._ttl, browser, ack=acks)
        session.share = None if turn.peer.rights is None else turn.peer.rights.registrations
        self.sessions.add(session, turn.now)
        self._browsers[name] = browser
        browser.sessions += 1
        return session

    # -- connect ("Connect") and disconnect ("Disconnect")

    def _connect(self, turn: _Turn, session: BayeuxSession) -> _Effects:
        message, reply = turn.message, turn.reply
        if message.get("connectionType") not in CONNECTION_TYPES:
            reply["advice"] = {"reconnect": "none"}
            turn.fail(f"400:{_argument(message.get('connectionType'))}:connection_type_invalid")
            return
        try:
            left = yield from _ask(turn.peer, "poll", session.recipients)
        except CometError as error:
            reply["advice"] = {"reconnect": "handshake", "interval": 0}
            turn.fail(_refused(error))
            return
        if session.reader is not None:
            yield Replace(session, turn.peer)
        if session.ack:
            _confirm(session, turn.ext.get("ack"))
        wait = min(self.options.timeout, left)
        advice = message.get("advice")
        if isinstance(advice, dict):
            asked = _milliseconds(advice.get("timeout"))
            if asked is not None:
                wait = min(asked / 1000, self.longest_wait, left)
            # Whoever gives advice may have forgotten ours, as after a reload.
            reply["advice"] = self.advice()
        if not session.connected:
            # Answered at once. CometD's clients ask for that; aiocometd does not, and waits for it.
            session.connected = True
            wait = 0.0
        turn.exchange.connects.append(Connect(session, reply, turn.now))
        turn.exchange.wait = wait

    def _disconnect(self, turn: _Turn, session: BayeuxSession) -> _Effects:  # noqa: ARG002  as the others
        self.remove(session)
        yield Forget(session)

    # -- subscribe and unsubscribe ("Subscribe", "Unsubscribe")

    def _subscribe(self, turn: _Turn, session: BayeuxSession) -> _Effects:
        channels = turn.subscriptions()
        try:
            names = [readable(channel[1:]) for channel in channels if not _is_service(channel)]
            new = session.without(names)
            if not new:
                return
            yield from _ask(turn.peer, "poll", new)
            if len(session.recipients) + len(new) > BAYEUX_SUBSCRIPTIONS:
                turn.fail(f"403:{BAYEUX_SUBSCRIPTIONS}:too_many_subscriptions")
                return
            if self.subscriptions + len(new) > BAYEUX_SUBSCRIPTIONS_IN_ALL:
                raise ServerFull(
                    f"There are {BAYEUX_SUBSCRIPTIONS_IN_ALL} subscriptions, which is the bound."
                )
            here = yield Locate()
        except CometError as error:
            turn.fail(_refused(error, turn.message["subscription"]))
            return
        new = session.without(new)  # a store that waits may have served another request meanwhile
        # They count from now on, though the session may still have to be told what came before.
        if session.place == NOW:
            session.place = here
        elif session.place != here:
            session.since.update(dict.fromkeys(new, here.sequence))
        self._subscribed(session, (*session.recipients, *new))

    def _unsubscribe(self, turn: _Turn, session: BayeuxSession) -> _Effects:
        names = [channel[1:] for channel in turn.subscriptions() if not _is_service(channel)]
        unknown = [name for name in names if name not in session.recipients]
        if unknown:
            turn.fail(f"404:{_argument('/' + unknown[0])}:subscription_unknown")
            return
        for name in names:
            session.since.pop(name, None)
        self._subscribed(session, tuple([name for name in session.recipients if name not in names]))
        yield from ()

    def _subscribed(self, session: BayeuxSession, recipients: tuple[str, ...]) -> None:
        if session.alive:
            self.subscriptions += len(recipients) - len(session.recipients)
        session.subscribed(recipients)

    # -- publish ("Publish", "Request / Response operation with service channels")

    def _publish(self, turn: _Turn, session: BayeuxSession | None) -> _Effects:
        channel: str = turn.reply["channel"]
        if not _CHANNEL.fullmatch(channel):
            turn.fail(f"405:{_argument(channel)}:channel_invalid")
            return
        if "data" not in turn.message:
            turn.fail(f"400:{_argument(channel)}:data_missing")
            return
        try:
            name = recipient(channel[1:])
            yield from _ask(turn.peer, "push", (name,))
            rights = turn.peer.rights
            if _is_service(channel):
                if rights is not None:
                    rights.charge(1, 0)
                yield from self._serve(turn, channel, session)
            else:
                is_binary = isinstance(turn.ext.get("binary"), dict)
                content = _content(turn.message["data"], BINARY_TYPE if is_binary else JSON_TYPE)
                if rights is not None:
                    rights.charge(1, len(content.body))
                yield Give(Push((name,), (content,), overflow="drop-oldest"))
        except CometError as error:
            turn.fail(_refused(error, channel))

    def _serve(self, turn: _Turn, channel: str, session: BayeuxSession | None) -> _Effects:
        services = self.services
        handler = next((services[key] for key in covering(channel[1:]) if key in services), None)
        if handler is None:
            return  # as with any channel, nobody need be listening
        client_id = None if session is None else session.id
        call = Call(channel, turn.message["data"], client_id, turn.reply.get("id"), turn.ext)
        answer = yield Serve(handler, call)
        if answer is None:
            return
        if session is not None:
            yield from self.tell(session, call.event(answer))
        else:
            turn.exchange.replies.append(orjson.loads(_content(call.event(answer)).body))

    def tell(self, session: BayeuxSession, event: _Reply) -> _Effects:
        """Give one session alone an event. Raises ``BadBody`` where JSON cannot say it."""
        content = _content(event)
        if session.place == NOW:
            session.place = yield Locate()
        if not session.private:
            session.open_private()
        yield Give(Push((PRIVATE + session.id,), (content,), overflow="drop-oldest"))


class _Turn:
    """One message of a batch while it is answered. None of its fields is trusted to be what it should."""

    __slots__ = ("exchange", "ext", "message", "now", "peer", "reply")

    def __init__(self, message: Any, peer: Peer, exchange: Exchange, now: float) -> None:
        self.message = message
        self.peer = peer
        self.exchange = exchange
        self.now = now
        self.ext: dict[str, Any] = {}
        self.reply: _Reply = {"channel": "", "successful": True}

    def begin(self, wall: float) -> str | None:
        """Put into the reply what every reply has; return what is wrong with what every message has."""
        message, reply = self.message, self.reply
        if not isinstance(message, dict):
            return "400::message_invalid"
        channel = message.get("channel")
        if isinstance(channel, str):
            reply["channel"] = channel
        id = message.get("id")  # noqa: A001
        if id is not None:
            if isinstance(id, bool) or not isinstance(id, (str, int, float)):
                return "405::message_id_invalid"
            reply["id"] = id
        if not isinstance(channel, str):
            return "400::channel_missing"
        if "timestamp" in message:
            reply["timestamp"] = timestamp(wall)
        ext = message.get("ext")
        if isinstance(ext, dict):
            self.ext = ext
            if channel.startswith("/meta/") and "timesync" in ext:
                self._synchronise(ext["timesync"], int(wall * 1000))
        if "subscription" in message and channel in {SUBSCRIBE, UNSUBSCRIBE}:
            subscription = message["subscription"]
            reply["subscription"] = subscription if _is_texts(subscription) else ""
        return None

    def fail(self, error: str) -> None:
        """Make the reply say that the message failed ("The error field")."""
        self.reply["successful"] = False
        self.reply["error"] = error

    def subscriptions(self) -> list[str]:
        """Return the channels and patterns of a subscription; none, having failed, where one is wrong."""
        subscription = self.message.get("subscription")
        channels = [subscription] if isinstance(subscription, str) else subscription
        error = None
        if subscription is None:
            error = "403::subscription_missing"
        elif not channels or not _is_texts(channels):
            error = "403::subscription_invalid"
        else:
            for channel in channels:
                if not (_CHANNEL.fullmatch(channel) or _PATTERN.fullmatch(channel)):
                    error = f"405:{_argument(channel)}:subscription_invalid"
                elif channel.startswith("/meta/"):
                    error = f"403:{_argument(channel)}:subscribe_denied"
        if error is None:
            return list(channels or ())
        self.fail(error)
        return []

    def _synchronise(self, asked: Any, server_time: int) -> None:
        """Answer the time synchronisation extension (CometD's reference, "Timesync Extension")."""
        if not isinstance(asked, dict):
            return
        client_time, lag, offset = [_time(asked.get(name)) for name in ("tc", "l", "o")]
        if client_time is None:
            return
        answer: _Reply = {"tc": asked["tc"], "ts": server_time, "p": 0}
        if lag is not None and offset is not None:
            answer["a"] = int(client_time + offset + lag - server_time)
        self.reply["ext"] = {"timesync": answer}


# -- events ("Delivery")


def events_of(batch: Batch, session: BayeuxSession) -> bytes:
    """Return what a batch tells a session: Bayeux messages, each with a comma behind it.

    What all get who read the same is rendered once.
    """
    if session.since:
        return _events([message for message in batch.messages if session.wants(message)])
    messages = batch.messages
    if len(messages) == 1:
        return event(messages[0])
    made: bytes | None = batch.rendered.get("bayeux")
    if made is None:
        made = batch.rendered["bayeux"] = _events(messages)
    return made


def _events(messages: Iterable[Message]) -> bytes:
    return b"".join([event(message) for message in messages])


_rendered: dict[int, tuple[Message, bytes]] = {}
"""Events by the messages' numbers: a fan-out to readers of different patterns is busy with the same few."""


def event(message: Message) -> bytes:
    """Return a message as a Bayeux event and a comma; nothing for one that must not become an event.

    JSON comes as it is, text as a string, and other types as an object with ``data_base64`` and ``type``. It
    has no id, because clients would take it for a reply (BAYEUX.md, rule 4).
    """
    known = _rendered.get(message.sequence)
    if known is not None and known[0] is message:
        return known[1]
    if len(_rendered) >= BAYEUX_EVENTS_RENDERED:
        _rendered.clear()
    made = _event(message)
    _rendered[message.sequence] = (message, made)
    return made


def _event(message: Message) -> bytes:
    name = message.recipient
    content = message.content
    if name.startswith("$"):
        return content.body + b"," if name.startswith(PRIVATE) else b""
    channel = _quoted_channel(name)
    data = content.data()
    if content.form == "octets":
        data = b'{"data_base64":%b,"type":%b}' % (data, orjson.dumps(content.type))
    elif content.type == BINARY_TYPE:
        data += b',"ext":{"binary":{}}'
    return channel and b'{"channel":%b,"data":%b},' % (channel, data)


@lru_cache(maxsize=4_096)
def _quoted_channel(name: str) -> bytes:
    # Whoever may push over HTTP must not forge the protocol's own messages.
    if name.startswith(("meta/", "service/")):
        return b""
    return dumps("/" + name)


def _ask(peer: Peer, action: Action, names: tuple[str, ...] = ()) -> _Asking:
    """Return for how many seconds the peer may do something. Raises the ``CometError`` that refuses it."""
    if peer.rights is None:
        return float("inf")
    seconds: float = yield Ask(peer.rights, action, names)
    return seconds


# -- the fields of messages


def _confirm(session: BayeuxSession, number: Any) -> None:
    """Let go of what the client says it has ("Acknowledge Extension"); the rest will be sent again."""
    if (
        isinstance(number, int)
        and not isinstance(number, bool)
        and session.ack_place is not None
        and number >= session.ack_batch
    ):
        session.advance(session.ack_place)
        session.ack_place = None


def _unknown(message: _Reply) -> str:
    return "402::session_unknown" if "clientId" in message else "401::client_id_missing"


def refuse(reply: _Reply, error: CometError) -> None:
    """Make the reply to a publication say that it was refused."""
    reply["successful"] = False
    reply["error"] = _refused(error, reply["channel"])


def _refused(error: CometError, argument: Any = None) -> str:
    """Return an error as the protocol writes it ("The error field")."""
    return f"{error.status}:{_argument(argument)}:{error.kind}"


def _argument(value: Any) -> str:
    return _NOT_IN_ERRORS.sub("_", value[:64]) if isinstance(value, str) else ""


def _is_texts(value: Any) -> bool:
    """Whether a value is a string, or an array of strings."""
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(text, str) for text in value)
    )


@lru_cache(maxsize=4_096)
def _plain_name(channel: str) -> str | None:
    """Return the recipient that a channel stands for; None where it is none, or not an ordinary one."""
    if not _CHANNEL.fullmatch(channel) or channel.startswith(("/meta/", "/service/")):
        return None
    try:
        return recipient(channel[1:])
    except BadRecipient:
        return None


def _is_service(channel: str) -> bool:
    return channel.startswith("/service/")


def _milliseconds(value: Any) -> float | None:
    """Return a time that a client advises; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        return None
    return value


def _time(value: Any) -> float | None:
    """Return a point or a span of time in milliseconds; None where it is none, or beyond all history."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e15:
        return None
    return value


def _version_error(message: _Reply) -> str | None:
    """Return what is wrong with the versions of a handshake ("Version"); None where we have one in common."""
    versions = [message.get("version"), message.get("minimumVersion", VERSION)]
    if not all(isinstance(version, str) and _VERSION.fullmatch(version) for version in versions):
        return "400::version_invalid"
    newest, oldest = map(_comparable, versions)
    ours = _comparable(VERSION)
    if not oldest <= ours <= newest or ("minimumVersion" not in message and newest[0] != ours[0]):
        return f"300:{_argument(message['version'])}:version_mismatch"
    return None


def _comparable(version: str) -> list[tuple[int, bool, str]]:
    """Return a version so that versions compare element by element, with ``1.0beta`` below ``1.0``."""
    elements = [re.match(r"([0-9]*)(.*)", element) for element in version.split(".")]
    return [(int(match[1] or 0), not match[2], match[2]) for match in elements if match]


def _types_error(message: _Reply) -> str | None:
    types = message.get("supportedConnectionTypes")
    if not isinstance(types, list) or not _is_texts(types):
        return "400::supported_connection_types_invalid"
    if not any(name in CONNECTION_TYPES for name in types):
        return "301::no_common_connection_type"
    return None


def _content(data: Any, media_type: str = JSON_TYPE) -> Content:
    """Return what is published as content. Raises ``BadBody`` where it is nested too deeply."""
    try:
        return Content(dumps(data), media_type, "json")
    except TypeError as error:
        raise BadBody(f"Not data that JSON can say: {error}.") from None
