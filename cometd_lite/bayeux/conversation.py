"""The Bayeux conversation, without I/O: a batch of messages and a time arrive, replies and effects leave.

The paragraphs named here are those of the Bayeux 1.0 specification, in CometD's reference. Four rules hold
the module together:

1. A conversation is a generator. It yields effects in the order of the batch, is sent what became of each,
   has the error thrown in where one was refused, and returns a ``BatchAnswer``. The caller does the I/O.
2. Every message is answered for itself: what is wrong with one costs its neighbours nothing. Only a handshake
   silences them, because the protocol says so ("Handshake Request").
3. A session is what it reads and one place in the one order; nothing is queued for it. Everything up to its
   place was delivered; under the acknowledgement extension, was confirmed.
4. A channel is a recipient with a slash before it, and a channel pattern a pattern. ``/meta/`` and
   ``/service/`` are the protocol's own: what lies in mailboxes of such names never becomes an event.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from msgspec import Raw
from twisted.internet.defer import Deferred

from ..access.quotas import Share
from ..core.message import JSON_TYPE, NOW, Cursor, Push, timestamp
from ..core.recipient import covering, readable, recipient
from ..core.sessions import Sessions, new_id
from ..errors import BadBody, BodyTooLarge, CometError, ServerFull, Unauthorized
from ..jsontext import dumps, parse
from ..limits import (
    BAYEUX_BATCH_MESSAGES,
    BAYEUX_BROWSER_SESSIONS,
    BAYEUX_SUBSCRIPTIONS,
    BAYEUX_SUBSCRIPTIONS_IN_ALL,
    RECIPIENT_BYTES,
    Limits,
)
from .events import BINARY_TYPE
from .fields import (
    CHANNEL,
    CONNECTION_TYPES,
    PATTERN,
    VERSION,
    argument,
    content_of,
    is_service,
    is_texts,
    milliseconds,
    plain_name,
    published,
    refused,
    time_of,
    types_error,
    unknown,
    version_error,
)
from .sessions import PRIVATE, BayeuxSession, Browser

MULTIPLE_CLIENTS_INTERVAL = 2_000
"""Milliseconds between the polls of a browser's further clients, which are not held (CometD's default)."""

HANDSHAKE = "/meta/handshake"
CONNECT = "/meta/connect"
SUBSCRIBE = "/meta/subscribe"
UNSUBSCRIBE = "/meta/unsubscribe"
DISCONNECT = "/meta/disconnect"

REPLACED = "409::connect_replaced"
REHANDSHAKE = {"reconnect": "handshake", "interval": 0}
"""What a client is advised that has no session, or no token for it."""
_BROWSER_BOUND = "bayeux-browser-sessions"
"""What the refusal of a browser's next session is about: the option that raises the bound."""

Action: TypeAlias = Literal["push", "poll"]
_Reply: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BayeuxOptions:
    """What an operator may set: ``timeout`` and ``max_interval`` in seconds, ``interval`` in milliseconds."""

    timeout: float = 30.0
    """A connect is held this long."""
    interval: int = 0
    """Clients wait this long between two connects. aiocometd takes it for seconds, so 0 is best."""
    max_interval: float = 10.0
    """A session that does not connect again for this long after an answer is gone."""
    anonymous_publish: bool = False
    """Whether a client may publish without a handshake ("Unconnected operation")."""
    bind_browser: bool = False
    """Whether a session is served only to the browser that began it, known by a cookie; not all have one."""
    held_for_a_browser: int = 1
    """Connects held at once for one browser over HTTP ("Server-side Multiple clients detection")."""
    browser_sessions: int = BAYEUX_BROWSER_SESSIONS
    """Sessions of one browser. CometD's client for node.js has one cookie jar for a whole process."""


class ConnectHolder(Protocol):
    """The parked connect of a session, or its socket."""

    def replaced(self, peer: Peer) -> None:
        """End the connect that is held, because ``peer`` sent another one."""

    def disconnected(self) -> None:
        """Answer the connect that is held, because the session ended at its client's wish."""


class PeerRights(Protocol):
    """What a peer may do."""

    def check(self, action: Action, names: tuple[str, ...]) -> Any:
        """Return the seconds for which the action on the names is allowed, or a Deferred of them.

        Without names it is about being here at all. Raises, or fails with, a ``CometError`` where it is not.
        """

    def charge(self, messages: int, size: int) -> None:
        """Count what is published, in messages and bytes. Raises ``TooManyRequests``."""

    def check_room(self) -> None:
        """Raise ``TooManyRequests`` where the client may not have one more connect held."""

    def count(self, parked: Deferred[Any]) -> None:
        """Count what is held, until it has come to its end."""

    @property
    def registrations(self) -> Share | None:
        """What a session counts against; None where there are no quotas."""


@dataclass(slots=True, eq=False)
class Peer:
    """Where a batch came from: its browser, known by the cookie, and what it may do.

    ``rights`` is None where everyone may do everything, ``socket`` over HTTP.
    """

    browser: str | None = None
    rights: PeerRights | None = None
    socket: object | None = None


# -- effects


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask whether the peer may do something; the conversation is sent for how many seconds it may."""

    rights: PeerRights
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
Talk: TypeAlias = Generator[Effect, Any, "BatchAnswer"]
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
class BatchAnswer:
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
    may_read: bool = True
    """Whether the peer may be told the session's events."""

    def json(self, events: bytes = b"") -> bytes:
        """Return the answer's array, the events first."""
        return b"[%b%b" % (events, dumps(self.replies)[1:])


def batch_of(value: Any) -> list[Any]:
    """Return the messages in what was parsed from JSON: an array of them, or one ("Messages").

    Raises ``BadBody`` where it is neither, ``BodyTooLarge`` where they are too many.
    """
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise BadBody("A Bayeux request is a JSON array of messages, or one message.")
    if len(value) > BAYEUX_BATCH_MESSAGES:
        raise BodyTooLarge(f"A Bayeux request has at most {BAYEUX_BATCH_MESSAGES} messages.")
    return value


class BrowserFull(ServerFull):
    """A browser has as many sessions as it may."""


class Bayeux:
    """The protocol's rules and the sessions of one server."""

    def __init__(self, options: BayeuxOptions, limits: Limits) -> None:
        self.options = options
        self.limits = limits
        self.sessions: Sessions[BayeuxSession] = Sessions(limits.max_sessions)
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
            session.confirm(ext["ack"])
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
        if len(bytes(message["data"])) > self.limits.max_body:
            return None
        name = plain_name(channel)
        if name is None:
            return None
        try:
            content = published(message["data"])
        except BadBody:
            return None
        push = Push((name,), (content,), overflow="drop-oldest")
        return session, push, {"channel": channel, "successful": True, "id": message["id"]}

    def _plain_session(self, message: _Reply, now: float) -> BayeuxSession | None:
        client_id, id = message.get("clientId"), message.get("id")  # noqa: A001
        if client_id.__class__ is not str or id.__class__ is not str or self.options.bind_browser:
            return None
        return self.sessions.get(client_id, now)

    # -- the conversation

    def converse(self, batch: Sequence[Any], peer: Peer, now: float, wall: float) -> Talk:
        """Answer a batch. ``now`` is in monotonic seconds, ``wall`` in seconds since 1970."""
        exchange = BatchAnswer()
        for message in batch:
            if isinstance(message, dict) and message.get("channel") == HANDSHAKE:
                yield from self._handshake(message, peer, exchange, now, wall)
                return exchange
        try:
            refusal = yield from _refusal(peer)
            for message in batch:
                reply = yield from self._answer(message, peer, exchange, now, wall, refusal)
                exchange.replies.append(reply)
            exchange.may_read = yield from self._may_read(peer, exchange)
        except BaseException:
            self.done(exchange)
            raise
        if len(batch) > 1:
            exchange.wait = 0.0  # the others' answers must not wait (aiocometd subscribes with its connect)
        return exchange

    def done(self, exchange: BatchAnswer) -> None:
        """Note that an exchange has been answered; to be called once for each that has a session."""
        if exchange.session is not None:
            exchange.session.talking -= 1

    def _may_read(self, peer: Peer, exchange: BatchAnswer) -> Generator[Effect, Any, bool]:
        """Return whether the peer may be told what its session subscribes to."""
        session = exchange.session
        if session is None or any(connect.session is session for connect in exchange.connects):
            return True  # a connect was asked about
        return (yield from _refusal(peer, session.recipients)) is None

    def _answer(
        self,
        message: Any,
        peer: Peer,
        exchange: BatchAnswer,
        now: float,
        wall: float,
        refusal: CometError | None,
    ) -> _Answering:
        """Answer one message of a batch, whose peer may be refused altogether; return the reply."""
        turn = _Turn(message, peer, exchange, now)
        reply = turn.reply
        error = turn.begin(wall)
        if error is not None:
            turn.fail(error)
            return reply
        if refusal is not None:
            turn.refuse(refusal)
            return reply
        channel: str = reply["channel"]
        session = self._session(turn)
        if not channel.startswith("/meta/"):
            if session is None and not (self.options.anonymous_publish and "clientId" not in message):
                turn.fail(unknown(message))
            else:
                yield from self._publish(turn, session)
        elif session is None:
            if channel == CONNECT:
                reply["advice"] = REHANDSHAKE
            turn.fail(unknown(message))
        elif channel in self._meta:
            yield from self._meta[channel](turn, session)
        else:
            turn.fail(f"404:{argument(channel)}:channel_unknown")
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
        self, message: _Reply, peer: Peer, exchange: BatchAnswer, now: float, wall: float
    ) -> _Effects:
        turn = _Turn(message, peer, exchange, now)
        reply = turn.reply
        exchange.replies.append(reply)
        error = turn.begin(wall) or version_error(message) or types_error(message)
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
            elif peer.socket is not None and isinstance(refusal, Unauthorized):
                reply["advice"] = REHANDSHAKE  # its token was good when the socket was opened, or before
            turn.fail(refused(refusal, _BROWSER_BOUND if isinstance(refusal, BrowserFull) else None))
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
        most = self.options.browser_sessions
        if browser.sessions >= most:
            raise BrowserFull(f"This browser has {most} sessions, which is the bound.")
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
            turn.fail(f"400:{argument(message.get('connectionType'))}:connection_type_invalid")
            return
        try:
            left = yield from _ask(turn.peer, "poll", session.recipients)
        except CometError as error:
            turn.refuse(error)
            return
        if session.reader is not None:
            yield Replace(session, turn.peer)
        if session.ack:
            session.confirm(turn.ext.get("ack"))
        wait = min(self.options.timeout, left)
        advice = message.get("advice")
        if isinstance(advice, dict):
            asked = milliseconds(advice.get("timeout"))
            if asked is not None:
                wait = min(asked / 1000, self.limits.max_wait, left)
            # A client that gives advice may have lost ours, as after a reload.
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
            names = [readable(channel[1:]) for channel in channels if not is_service(channel)]
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
            turn.fail(refused(error, turn.message["subscription"]))
            return
        new = session.without(new)  # a store that waits may have served another request meanwhile
        # They count from now on, though the session may still have to be told what came before.
        if session.place == NOW:
            session.place = here
        elif session.place != here:
            session.since.update(dict.fromkeys(new, here.sequence))
        self._subscribed(session, (*session.recipients, *new))

    def _unsubscribe(self, turn: _Turn, session: BayeuxSession) -> _Effects:
        names = [channel[1:] for channel in turn.subscriptions() if not is_service(channel)]
        unknown = [name for name in names if name not in session.recipients]
        if unknown:
            turn.fail(f"404:{argument('/' + unknown[0])}:subscription_unknown")
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
        if not CHANNEL.fullmatch(channel):
            turn.fail(f"405:{argument(channel)}:channel_invalid")
            return
        if "data" not in turn.message:
            turn.fail(f"400:{argument(channel)}:data_missing")
            return
        try:
            name = recipient(channel[1:])
            yield from _ask(turn.peer, "push", (name,))
            self._check_size(turn.message["data"])
            rights = turn.peer.rights
            if is_service(channel):
                if rights is not None:
                    rights.charge(1, 0)
                yield from self._serve(turn, channel, session)
            else:
                is_binary = isinstance(turn.ext.get("binary"), dict)
                content = published(turn.message["data"], BINARY_TYPE if is_binary else JSON_TYPE)
                if rights is not None:
                    rights.charge(1, len(content.body))
                yield Give(Push((name,), (content,), overflow="drop-oldest"))
        except CometError as error:
            turn.fail(refused(error, channel))

    def _check_size(self, data: Raw) -> None:
        """Raise ``BodyTooLarge`` where the data of one message is."""
        most = self.limits.max_body
        if len(bytes(data)) > most:
            raise BodyTooLarge(f"The data of a message has at most {most} bytes here.")

    def _serve(self, turn: _Turn, channel: str, session: BayeuxSession | None) -> _Effects:
        services = self.services
        handler = next((services[key] for key in covering(channel[1:]) if key in services), None)
        if handler is None:
            return  # as with any channel, there need not be a subscriber
        client_id = None if session is None else session.id
        call = Call(channel, parse(bytes(turn.message["data"])), client_id, turn.reply.get("id"), turn.ext)
        answer = yield Serve(handler, call)
        if answer is None:
            return
        if session is not None:
            yield from self.tell(session, call.event(answer))
        else:
            turn.exchange.replies.append(parse(content_of(call.event(answer)).body))

    def tell(self, session: BayeuxSession, event: _Reply) -> _Effects:
        """Give one session alone an event. Raises ``BadBody`` where JSON cannot say it."""
        content = content_of(event)
        if session.place == NOW:
            session.place = yield Locate()
        if not session.private:
            session.open_private()
        yield Give(Push((PRIVATE + session.id,), (content,), overflow="drop-oldest"))


class _Turn:
    """One message of a batch while it is answered. None of its fields is trusted to be what it should."""

    __slots__ = ("exchange", "ext", "message", "now", "peer", "reply")

    def __init__(self, message: Any, peer: Peer, exchange: BatchAnswer, now: float) -> None:
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
            reply["subscription"] = subscription if is_texts(subscription) else ""
        return None

    def fail(self, error: str) -> None:
        """Make the reply say that the message failed ("The error field")."""
        self.reply["successful"] = False
        self.reply["error"] = error

    def refuse(self, error: CometError) -> None:
        """Make the reply say that the peer may not do this, and might after another handshake."""
        self.reply["advice"] = REHANDSHAKE
        self.fail(refused(error))

    def subscriptions(self) -> list[str]:
        """Return the channels and patterns of a subscription; none, having failed, where one is wrong."""
        subscription = self.message.get("subscription")
        channels = [subscription] if isinstance(subscription, str) else subscription
        error = None
        if subscription is None:
            error = "403::subscription_missing"
        elif not channels or not is_texts(channels):
            error = "403::subscription_invalid"
        else:
            for channel in channels:
                if not (CHANNEL.fullmatch(channel) or PATTERN.fullmatch(channel)):
                    error = f"405:{argument(channel)}:subscription_invalid"
                elif channel.startswith("/meta/"):
                    error = f"403:{argument(channel)}:subscribe_denied"
        if error is None:
            return list(channels or ())
        self.fail(error)
        return []

    def _synchronise(self, asked: Any, server_time: int) -> None:
        """Answer the time synchronisation extension (CometD's reference, "Timesync Extension")."""
        if not isinstance(asked, dict):
            return
        client_time, lag, offset = [time_of(asked.get(name)) for name in ("tc", "l", "o")]
        if client_time is None:
            return
        answer: _Reply = {"tc": asked["tc"], "ts": server_time, "p": 0}
        if lag is not None and offset is not None:
            answer["a"] = int(client_time + offset + lag - server_time)
        self.reply["ext"] = {"timesync": answer}


def _ask(peer: Peer, action: Action, names: tuple[str, ...] = ()) -> _Asking:
    """Return for how many seconds the peer may do something. Raises the ``CometError`` that refuses it."""
    if peer.rights is None:
        return float("inf")
    seconds: float = yield Ask(peer.rights, action, names)
    return seconds


def _refusal(peer: Peer, names: tuple[str, ...] = ()) -> Generator[Effect, Any, CometError | None]:
    """Return why the peer may not read the names, or be here at all; None where it may."""
    try:
        yield from _ask(peer, "poll", names)
    except CometError as error:
        return error
    return None


def refuse(reply: _Reply, error: CometError) -> None:
    """Make the reply to a publication say that it was refused."""
    reply["successful"] = False
    reply["error"] = refused(error, reply["channel"])
