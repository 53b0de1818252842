"""The Bayeux conversation, without I/O: a batch of messages and a time arrive, replies and effects leave.

The paragraphs named here are those of the Bayeux 1.0 specification, in CometD's reference. Three rules hold
the module together:

1. A conversation is a generator. It yields effects in the order of the batch, is sent what became of each,
   has the error thrown in where one was refused, and fills in a ``BatchAnswer``. The caller does the I/O.
2. Every message is answered for itself: what is wrong with one costs its neighbours nothing. Only a handshake
   silences them, because the protocol says so ("Handshake Request").
3. A channel is a recipient with a slash before it, and a channel pattern a pattern. ``/meta/`` and
   ``/service/`` are the protocol's own: what lies in mailboxes of such names never becomes an event.

``effects`` says what a conversation asks for, ``answers`` reads one message, and ``transport`` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf

from msgspec import Raw

from ..core.message import JSON_TYPE, NOW, Push
from ..core.recipient import covering, readable, recipient
from ..core.sessions import new_id
from ..errors import BodyTooLarge, CometError, Unauthorized
from ..jsontext import parse
from ..limits import BAYEUX_SUBSCRIPTIONS, Limits
from .answers import (
    CONNECT,
    DISCONNECT,
    HANDSHAKE,
    REHANDSHAKE,
    SUBSCRIBE,
    UNSUBSCRIBE,
    BatchAnswer,
    Connect,
    Reply,
    Turn,
    fail,
)
from .effects import Action, Ask, Call, Effects, Forget, Give, Locate, Peer, Replace, Serve, Service
from .events import BINARY_TYPE
from .fields import (
    CHANNEL,
    CONNECTION_TYPES,
    VERSION,
    MessageFailed,
    argument,
    content_of,
    is_service,
    milliseconds,
    published,
    refused,
    types_error,
    unknown,
    version_error,
)
from .options import BayeuxOptions
from .sessions import PRIVATE, BayeuxSession, BayeuxSessions, BrowserFull

_BROWSER_BOUND = "bayeux-browser-sessions"
"""What the refusal of a browser's next session is about: the option that raises the bound."""


class Bayeux:
    """The protocol's rules and the sessions of one server."""

    def __init__(self, options: BayeuxOptions, limits: Limits) -> None:
        self.options = options
        self.limits = limits
        self.sessions = BayeuxSessions(limits.max_sessions, options)
        self.services: dict[str, Service] = {}
        self.check_names: Callable[[Iterable[str]], object] = tuple
        """Called with the recipients of a subscription; raises a ``CometError`` where one cannot be read."""
        self._meta: dict[str, Callable[[Turn, BayeuxSession], Effects[None]]] = {
            CONNECT: self._connect,
            SUBSCRIBE: self._subscribe,
            UNSUBSCRIBE: self._unsubscribe,
            DISCONNECT: self._disconnect,
        }

    def converse(
        self, batch: Sequence[object], peer: Peer, answer: BatchAnswer, now: float, wall: float
    ) -> Effects[None]:
        """Answer a batch. ``now`` is in monotonic seconds, ``wall`` in seconds since 1970."""
        for message in batch:
            if isinstance(message, dict) and message.get("channel") == HANDSHAKE:
                yield from self._handshake(Turn(message, peer, answer, now), wall)
                return
        refusal = None
        if peer.rights is not None:
            refusal = yield from _refusal(peer)
        for message in batch:
            turn = Turn(message, peer, answer, now)
            answer.replies.append(turn.reply)
            try:
                turn.begin(wall)
                if refusal is not None:
                    turn.refuse(refusal)
                else:
                    yield from self._answer(turn)
            except MessageFailed as failed:
                fail(turn.reply, str(failed))
            except CometError as error:
                fail(turn.reply, refused(error, turn.reply.get("subscription", turn.reply["channel"])))
        if peer.rights is not None:
            answer.unreadable = yield from _unreadable(peer, answer)
        if len(batch) > 1:
            answer.wait = 0.0  # the others' answers must not wait (aiocometd subscribes with its connect)

    def _answer(self, turn: Turn) -> Effects[None]:
        """Answer one message of a batch. Raises ``MessageFailed`` or a ``CometError``."""
        message = turn.message
        channel: str = turn.reply["channel"]
        session = self._session(turn)
        if not channel.startswith("/meta/"):
            if session is None and not (self.options.anonymous_publish and "clientId" not in message):
                raise MessageFailed(unknown(message))
            yield from self._publish(turn, session)
        elif session is None:
            if channel == CONNECT:
                turn.reply["advice"] = REHANDSHAKE
            raise MessageFailed(unknown(message))
        elif channel in self._meta:
            yield from self._meta[channel](turn, session)
        else:
            raise MessageFailed(f"404:{argument(channel)}:channel_unknown")

    def _session(self, turn: Turn) -> BayeuxSession | None:
        """Return the session that a message names, which is answered now; None where there is none."""
        client_id = turn.message.get("clientId")
        session = self.sessions.get(client_id, turn.now) if isinstance(client_id, str) else None
        if session is None or (self.options.bind_browser and session.browser.name != turn.peer.browser):
            return None
        turn.answer.serve(session)
        return session

    # -- handshake ("Handshake")

    def _handshake(self, turn: Turn, wall: float) -> Effects[None]:
        message, reply = turn.message, turn.reply
        turn.answer.replies.append(reply)
        try:
            turn.begin(wall)
            error = version_error(message) or types_error(message)
        except MessageFailed as failed:
            error = str(failed)
        reply["version"] = reply["minimumVersion"] = VERSION
        reply["supportedConnectionTypes"] = CONNECTION_TYPES
        if error is not None:
            reply["advice"] = {"reconnect": "none"}
            fail(turn.reply, error)
            return
        try:
            yield from _ask(turn.peer, "poll")
            session = self._greet(turn)
        except CometError as refusal:
            reply["advice"] = {"reconnect": "none"}
            if refusal.retry_after is not None:
                reply["advice"] = {"reconnect": "handshake", "interval": refusal.retry_after * 1000}
            elif turn.peer.socket is not None and isinstance(refusal, Unauthorized):
                reply["advice"] = REHANDSHAKE  # its token was good when the socket was opened, or before
            fail(turn.reply, refused(refusal, _BROWSER_BOUND if isinstance(refusal, BrowserFull) else None))
            return
        if session.ack:
            reply.setdefault("ext", {})["ack"] = True
        reply["clientId"] = session.id
        reply["advice"] = self.sessions.advice()
        turn.answer.greeted = session

    def _greet(self, turn: Turn) -> BayeuxSession:
        name = turn.peer.browser
        if name is None:
            # Whether this browser has others is not known yet, but its next handshake will show it.
            name = turn.answer.cookie = new_id()
        ack = turn.ext.get("ack")
        acks = ack is True or (isinstance(ack, dict) and ack.get("enabled") is True)
        share = None if turn.peer.rights is None else turn.peer.rights.grant.registrations
        return self.sessions.greet(name, turn.now, share, ack=acks)

    # -- connect ("Connect") and disconnect ("Disconnect")

    def _connect(self, turn: Turn, session: BayeuxSession) -> Effects[None]:
        message, reply = turn.message, turn.reply
        if message.get("connectionType") not in CONNECTION_TYPES:
            reply["advice"] = {"reconnect": "none"}
            raise MessageFailed(f"400:{argument(message.get('connectionType'))}:connection_type_invalid")
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
            reply["advice"] = self.sessions.advice()
        if not session.connected:
            # Answered at once. CometD's clients ask for that; aiocometd does not, and waits for it.
            session.connected = True
            wait = 0.0
        turn.answer.connects.append(Connect(session, reply, turn.now))
        turn.answer.wait = wait

    def _disconnect(self, turn: Turn, session: BayeuxSession) -> Effects[None]:  # noqa: ARG002  as the others
        self.sessions.remove(session)
        yield Forget(session)

    # -- subscribe and unsubscribe ("Subscribe", "Unsubscribe")

    def _subscribe(self, turn: Turn, session: BayeuxSession) -> Effects[None]:
        names = [readable(channel[1:]) for channel in turn.subscriptions() if not is_service(channel)]
        new = session.without(names)
        if not new:
            return
        yield from _ask(turn.peer, "poll", new)
        self.check_names(new)
        if len(session.recipients) + len(new) > BAYEUX_SUBSCRIPTIONS:
            raise MessageFailed(f"403:{BAYEUX_SUBSCRIPTIONS}:too_many_subscriptions")
        here = yield Locate()
        new = session.without(new)  # a store that waits may have served another request meanwhile
        self.sessions.subscribe(session, (*session.recipients, *new))
        # They count from now on, though the session may still have to get what came before.
        if session.place == NOW:
            session.place = here
        elif session.place != here:
            session.since.update(dict.fromkeys(new, here.sequence))

    def _unsubscribe(self, turn: Turn, session: BayeuxSession) -> Effects[None]:
        names = [channel[1:] for channel in turn.subscriptions() if not is_service(channel)]
        unknown = [name for name in names if name not in session.recipients]
        if unknown:
            raise MessageFailed(f"404:{argument('/' + unknown[0])}:subscription_unknown")
        for name in names:
            session.since.pop(name, None)
        self.sessions.subscribe(session, tuple([name for name in session.recipients if name not in names]))
        yield from ()

    # -- publish ("Publish", "Request / Response operation with service channels")

    def _publish(self, turn: Turn, session: BayeuxSession | None) -> Effects[None]:
        channel: str = turn.reply["channel"]
        if not CHANNEL.fullmatch(channel):
            raise MessageFailed(f"405:{argument(channel)}:channel_invalid")
        if "data" not in turn.message:
            raise MessageFailed(f"400:{argument(channel)}:data_missing")
        name = recipient(channel[1:])
        yield from _ask(turn.peer, "push", (name,))
        self._check_size(turn.message["data"])
        rights = turn.peer.rights
        if is_service(channel):
            if rights is not None:
                rights.grant.charge(1, 0)
            yield from self._serve(turn, channel, session)
            return
        is_binary = isinstance(turn.ext.get("binary"), dict)
        content = published(turn.message["data"], BINARY_TYPE if is_binary else JSON_TYPE)
        if rights is not None:
            rights.grant.charge(1, len(content.body))
        yield Give(Push((name,), (content,), overflow="drop-oldest"))

    def _check_size(self, data: Raw) -> None:
        most = self.limits.max_body
        if len(bytes(data)) > most:
            raise BodyTooLarge(f"The data of a message has at most {most} bytes here.")

    def _serve(self, turn: Turn, channel: str, session: BayeuxSession | None) -> Effects[None]:
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
            yield from self.deliver(session, call.event(answer))
        else:
            turn.answer.replies.append(parse(content_of(call.event(answer)).body))

    def deliver(self, session: BayeuxSession, event: Reply) -> Effects[None]:
        """Give one session alone an event. Raises ``BadBody`` where JSON cannot say it."""
        content = content_of(event)
        if session.place == NOW:
            session.place = yield Locate()
        if not session.private:
            session.open_private()
        yield Give(Push((PRIVATE + session.id,), (content,), overflow="drop-oldest"))


def _ask(peer: Peer, action: Action, names: tuple[str, ...] = ()) -> Effects[float]:
    """Return for how many seconds the peer may do something. Raises the ``CometError`` that refuses it."""
    if peer.rights is None:
        return inf
    seconds: float = yield Ask(peer.rights, action, names)
    return seconds


def _refusal(peer: Peer, names: tuple[str, ...] = ()) -> Effects[CometError | None]:
    """Return why the peer may not read the names, or be here at all; None where it may."""
    try:
        yield from _ask(peer, "poll", names)
    except CometError as error:
        return error
    return None


def _unreadable(peer: Peer, answer: BatchAnswer) -> Effects[CometError | None]:
    """Return why the peer may not get what its session subscribes to; None where it may."""
    session = answer.session
    if session is None or any(connect.session is session for connect in answer.connects):
        return None  # a connect was asked about
    return (yield from _refusal(peer, session.recipients))
