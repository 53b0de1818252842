"""Bayeux over HTTP and WebSocket: requests and texts arrive, arrays of messages leave (HTTP.md, "Bayeux").

What is said is ``bayeux.py``'s; here it is done. A connect is a poll of its session: a parked reader that
stands at the session's keys and reads after the session's place. The place moves on when an answer is written
to a client that is there, and under the acknowledgement extension when the client says that it has it. So
whatever a client that vanished was not given is there when it comes back.

What the protocol leaves open is done so:

- An event's ``data`` is the JSON that was pushed, a text as a string, and for other types
  ``{"data_base64": "…", "type": "image/png"}``. It has neither an ``id`` nor, but for CometD's binary
  extension, an ``ext``: what a publisher says to the server, a password perhaps, is not told to others.
- A client that missed something, because it was dropped, expired or deleted before it could be told, finds
  ``ext.gap: true`` in the reply to its next connect, which is then not held.
- Events of a client's own request come with its answer, in preference to waking its connect.
- A connect that a later one of the same client replaced ends with 409 over HTTP and
  ``409::connect_replaced`` over a socket, without advice. One that cannot be held, because as many are as may
  be or the server stops, is refused with 503, and clients back off of their own accord.
- Recipients ``meta/…`` and ``service/…``, which anyone may push to over HTTP, reach no Bayeux client.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from functools import partial
from inspect import iscoroutine
from typing import Any, Protocol, TypeAlias, TypeVar
from urllib.parse import parse_qsl

import orjson
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..bayeux import (
    CONNECT,
    PRIVATE,
    Ask,
    Bayeux,
    BayeuxSession,
    Call,
    Connect,
    Effect,
    Exchange,
    Forget,
    Give,
    Locate,
    Options,
    Peer,
    Replace,
    Rights,
    Serve,
    Service,
    batch_of,
    events_of,
    refuse,
)
from ..errors import BadBody, BadParameter, CometError, InternalError, ServerFull, Stopping
from ..hub import Hub, Reader
from ..later import Maybe, shielded, then, waits
from ..limits import (
    BAYEUX_BATCH_MESSAGES,
    BAYEUX_CALLBACK_BYTES,
    BAYEUX_SOCKET_BACKLOG,
    POLL_MESSAGES_MOST,
    Limits,
)
from ..message import NOW, Batch, Push
from ..recipient import readable
from ..registry import Woken
from . import Answer
from .websocket import POLICY_VIOLATION, SERVICE_RESTART, Socket, text_frame

T = TypeVar("T")
News: TypeAlias = tuple[Batch, bytes]
"""What there is for a session, and how Bayeux says it: events, each with a comma behind it."""
Form: TypeAlias = Callable[[bytes], Answer]
"""Makes an HTTP response of an array of messages."""

COOKIE = "BAYEUX_BROWSER"


class Asking(Protocol):
    """What is used of a request, be it twisted.web's or that of ``serving/``."""

    def getHeader(self, name: bytes) -> bytes | None:  # noqa: N802  twisted.web's name
        """Return a header's last value; names are lower case."""

    def isSecure(self) -> bool:  # noqa: N802  twisted.web's name
        """Whether it came over TLS."""


_INTERNAL_ERROR = 1011
_TRY_AGAIN_LATER = 1013
_COMMON = b"Cache-Control: no-store\r\nVary: Origin\r\n"
_JSON = b"Content-Type: application/json\r\n" + _COMMON
_SCRIPT = b"Content-Type: text/javascript; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n" + _COMMON
# Not 408, at which Chrome sends the request again (cometd#883), and no JSON, which Faye takes for messages.
_REPLACED = Answer(
    409, b"Content-Type: text/plain\r\n" + _COMMON, b"A later connect of the same client took its place.\n"
)
_REPLACED_ERROR = "409::connect_replaced"
_BROWSER = re.compile(rf'(?:^|;)\s*{COOKIE}="?([A-Za-z0-9_-]{{8,64}})"?\s*(?:;|$)')
_CALLBACK = re.compile(r"[A-Za-z_$][\w$]*(?:\.[A-Za-z_$][\w$]*)*", re.ASCII)


class BayeuxTransport:
    """The Bayeux side of a hub: its sessions, services, held connects and sockets."""

    log = Logger()

    def __init__(self, hub: Hub, limits: Limits, options: Options | None = None) -> None:
        self.hub = hub
        self.options = options or Options()
        self.bayeux = Bayeux(self.options, limits.max_sessions, limits.max_wait)
        self._sockets: set[BayeuxSocket] = set()

    # -- for embedding programs

    def service(self, channel: str, handler: Service) -> None:
        """Let ``handler`` answer what is published to a ``/service`` channel, or a pattern of such.

        Its answer goes to the sender alone. Raises ``ValueError`` where it is no such channel.
        """
        if not channel.startswith("/service/"):
            raise ValueError("A service's channel begins with /service/.")
        self.bayeux.services[readable(channel[1:])] = handler

    def deliver(self, client_id: str, channel: str, data: Any) -> Maybe[bool]:
        """Give one session alone an event; return whether there is such a session.

        Raises ``BadBody`` where JSON cannot say ``data``, else as a push does.
        """
        return self._deliver(client_id, {"channel": channel, "data": data})

    def _deliver(self, client_id: str, event: dict[str, Any]) -> Maybe[bool]:
        session = self.bayeux.sessions.get(client_id, self.hub.clock.seconds())
        if session is None:
            return False

        def delivered(_: None) -> bool:
            self.refresh(session)
            return True

        return then(self._run(self.bayeux.tell(session, event)), delivered)

    # -- what the routes call

    def post(
        self,
        body: bytes,
        media_type: bytes | None,
        request: Asking,
        gone: Callable[[], bool],
        rights: Rights | None = None,
    ) -> Maybe[Answer]:
        """Answer a request of the long-polling transport ("The long-polling request messages").

        ``gone`` tells whether the client has left. Raises ``BadBody`` or ``BodyTooLarge``, and ``ServerFull``
        or ``Stopping`` where a connect cannot be held.
        """
        try:
            value = orjson.loads(body) if media_type == b"application/json" else _posted(body, media_type)
        except orjson.JSONDecodeError as error:
            raise _no_json(error) from None
        message = value[0] if value.__class__ is list and len(value) == 1 else value
        if rights is None and message.__class__ is dict:
            plain = self._plainly(message, gone)
            if plain is not None:
                return plain
        return self._respond(batch_of(value), request, gone, json_answer, rights)

    def get(
        self,
        query: dict[str, list[str]],
        request: Asking,
        gone: Callable[[], bool],
        rights: Rights | None = None,
    ) -> Maybe[Answer]:
        """Answer a request of the callback-polling transport ("The callback-polling request messages").

        Raises ``BadParameter``, else as ``post`` does.
        """
        callback = query.get("jsonp", ["jsonpcallback"])
        if len(callback) != 1 or not is_callback(callback[0]):
            raise BadParameter("jsonp is the name of a JavaScript function.")
        if "message" not in query:
            raise BadParameter("A GET here polls by callback and needs message; other clients POST.")
        batch = batch_of(_parsed(query["message"]))
        form = partial(script_answer, callback[0])
        return self._respond(batch, request, gone, form, rights)

    def socket(self, request: Asking, rights: Rights | None = None) -> BayeuxSocket:
        """Return the conversation of a WebSocket."""
        return BayeuxSocket(self, Peer(browser_of(request.getHeader(b"cookie")), rights))

    def sweep(self) -> None:
        """Let go of the sessions that did not connect again in time; to be called every second."""
        for session in self.bayeux.expire(self.hub.clock.seconds()):
            self._drop(session)

    def stop(self) -> None:
        """Close the sockets that speak for no session; the others are readers, and ended by the hub."""
        for socket in tuple(self._sockets):
            if socket.reader is None:
                socket.close(SERVICE_RESTART, "the server is stopping")

    def __len__(self) -> int:
        return len(self.bayeux.sessions)

    # -- a request

    def _plainly(self, message: dict[str, Any], gone: Callable[[], bool]) -> Maybe[Answer] | None:
        """Answer a single message that is as nearly all are; None for any other."""
        now = self.hub.clock.seconds()
        channel = message.get("channel")
        if channel == CONNECT:
            connect = self.bayeux.plain_connect(message, now)
            return None if connect is None else self._hold(connect, self.options.timeout, gone, json_answer)
        publication = None
        if channel.__class__ is str:
            publication = self.bayeux.plain_publication(message, channel, now)
        return None if publication is None else self._publish(*publication, gone)

    def _publish(
        self, session: BayeuxSession, push: Push, reply: dict[str, Any], gone: Callable[[], bool]
    ) -> Maybe[Answer]:
        """Push what a session published, and answer with the reply and the events that there are for it."""
        session.talking += 1
        try:
            pushed = self.hub.push(push)
        except CometError as error:
            refuse(reply, error)
            return self._answer(Exchange([reply], session=session), gone, json_answer)
        except BaseException:
            session.talking -= 1
            raise
        if not waits(pushed):
            if session.reads:
                return self._answer(Exchange([reply], session=session), gone, json_answer)
            session.talking -= 1
            return json_answer(orjson.dumps([reply]))  # with nothing to read, nothing comes with the answer

        def refused(failure: Failure) -> None:
            error = self._translated(failure).value
            assert isinstance(error, CometError), "what is translated to"
            refuse(reply, error)

        def answer(_: object) -> Maybe[Answer]:
            return self._answer(Exchange([reply], session=session), gone, json_answer)

        return shielded(pushed.addErrback(refused).addCallback(answer))

    def _respond(
        self,
        batch: list[Any],
        request: Asking,
        gone: Callable[[], bool],
        form: Form,
        rights: Rights | None,
    ) -> Maybe[Answer]:
        exchanged = self.exchange(batch, Peer(browser_of(request.getHeader(b"cookie")), rights))

        def answer(exchange: Exchange) -> Maybe[Answer]:
            if exchange.cookie is not None:
                return form(exchange.json()).with_head(_set_cookie(exchange.cookie, request.isSecure()))
            if exchange.wait > 0:
                self.bayeux.done(exchange)
                hold = partial(self._hold, exchange.connects[0], exchange.wait, gone, form)
                return hold() if rights is None else rights.hold(hold)
            return self._answer(exchange, gone, form)

        if not waits(exchanged):
            return answer(exchanged)
        # Whoever waits may leave, and Klein cancels; what was said is done nevertheless.
        return shielded(exchanged.addCallback(answer))

    def exchange(self, batch: list[Any], peer: Peer) -> Maybe[Exchange]:
        """Have the conversation about a batch; ``done`` is to be called when its answer is complete."""
        hub = self.hub
        return self._run(self.bayeux.converse(batch, peer, hub.clock.seconds(), hub.wall()))

    def _hold(self, connect: Connect, wait: float, gone: Callable[[], bool], form: Form) -> Maybe[Answer]:
        """Hold a connect until there is something for its session, for ``wait`` seconds at the most."""
        session = connect.session
        if session.browser.held >= self.options.held_for_a_browser:
            self.bayeux.crowd(session, connect.reply)
            session.talking += 1
            return self._answer(Exchange([connect.reply], [connect], session), gone, form)
        if session.crowded:
            self.bayeux.relieve(session, connect.reply)
        # Who cannot be held is refused as a poll is. An answer would need an interval, which aiocometd takes
        # for seconds; but every client waits of its own accord after a failure.
        if self.hub.stopping:
            raise Stopping("The server is stopping; come back in a moment.")
        return _Held(self, connect, gone, form).begin(wait)

    def _answer(self, exchange: Exchange, gone: Callable[[], bool], form: Form) -> Maybe[Answer]:
        """Answer an exchange now, with the events that there are for its session."""
        session = exchange.session
        if session is None or not session.reads or (session.ack and not exchange.connects):
            return self._finish(exchange, gone, form, None)
        news = self.news_if_any(session)
        if waits(news):
            return news.addCallback(partial(self._finish, exchange, gone, form))
        return self._finish(exchange, gone, form, news)

    def _finish(self, exchange: Exchange, gone: Callable[[], bool], form: Form, news: News | None) -> Answer:
        if news is not None and gone():
            news = None
        events = self.complete(exchange, news)
        session = exchange.session
        if session is not None:
            session.talking -= 1
            if session.reader is not None:
                self.refresh(session)
        return form(exchange.json(events))

    def complete(self, exchange: Exchange, news: News | None) -> bytes:
        """Complete the replies to the connects of an exchange; return the events that go with them."""
        session = exchange.session
        events = b""
        for connect in exchange.connects:
            if connect.session is session:
                events += self.complete_connect(connect, news)
                news = None
            else:
                self.complete_connect(connect, None)
            self.bayeux.sessions.touch(connect.session, self.hub.clock.seconds())
        if news is not None and session is not None:
            found, events = news
            session.gap |= found.gap
            session.advance(found.cursor)
            self.hub.counted(found)
        return events

    def complete_connect(self, connect: Connect, news: News | None) -> bytes:
        """Complete the reply to a connect; return the events that go with it."""
        session = connect.session
        place, gap, events = session.place, session.gap, b""
        if news is not None:
            found, events = news
            place = found.cursor
            gap |= found.gap
            if not session.ack:
                session.advance(place)
            self.hub.counted(found)
        session.gap = False
        connect.complete(place, self.hub.clock.seconds(), gap=gap)
        return events

    def refresh(self, session: BayeuxSession) -> None:
        """Let whoever reads for a session look again, at what the session reads now."""
        reader = session.reader
        if reader is not None:
            if reader.keys is not session.keys:
                reader.rekey()
            reader.wake()

    # -- what a session reads

    def read(self, session: BayeuxSession) -> Maybe[Batch]:
        """Return what the session's subscriptions hold after its place."""
        now = self.hub.clock.seconds()
        store = self.hub.store
        if not session.patterned and not session.since:
            return store.read(session.reads, session.place, POLL_MESSAGES_MOST, now)
        # Where there is nothing up to the end, the session goes there, and need not look through that again.
        end = store.read(session.reads, NOW, 1, now)

        def read(end: Batch) -> Maybe[Batch]:
            def settle(found: Batch) -> Batch:
                if not found:
                    session.advance(end.cursor)
                return found

            return then(store.read(session.reads, session.place, POLL_MESSAGES_MOST, now), settle)

        return read(end) if not waits(end) else end.addCallback(read)

    def news_if_any(self, session: BayeuxSession) -> Maybe[News | None]:
        """Return what there is for a session; None also where the store fails, which keeps it for later."""
        try:
            news = self.news(session)
        except CometError:
            self.hub.store_failed(Failure())
            return None
        return news.addErrback(self.hub.store_failed) if waits(news) else news

    def news(self, session: BayeuxSession) -> Maybe[News | None]:
        """Return what there is for a session after its place; None where there is nothing."""
        if not session.reads:
            return None
        place = session.place

        def look(found: Batch) -> Maybe[News | None]:
            if session.place.epoch == place.epoch and session.place.sequence > found.cursor.sequence:
                return self.news(session)  # another answer has told it that in the meantime
            if not found:
                return None
            events = events_of(found, session)
            if events or found.gap:
                return found, events
            session.advance(found.cursor)  # all of it was what it does not want
            return self.news(session) if found.more else None

        return then(self.read(session), look)

    # -- effects

    def _run(self, talk: Any, value: Any = None) -> Maybe[Any]:
        """Go on with a conversation, doing what it asks for; return what it returns."""
        while True:
            try:
                effect = talk.throw(value.value) if isinstance(value, Failure) else talk.send(value)
            except StopIteration as stop:
                return stop.value
            try:
                value = self._perform(effect)
            except CometError:
                value = Failure()
            if waits(value):
                return value.addErrback(self._translated).addBoth(partial(self._run, talk))

    def _perform(self, effect: Effect) -> Maybe[Any]:
        if isinstance(effect, Give):
            return self.hub.push(effect.push)
        if isinstance(effect, Ask):
            return effect.rights.check(effect.action, effect.names)
        if isinstance(effect, Locate):
            end = self.hub.store.read((PRIVATE,), NOW, 1, self.hub.clock.seconds())
            return then(end, lambda batch: batch.cursor)
        if isinstance(effect, Serve):
            return self._serve(effect.handler, effect.call)
        if isinstance(effect, Replace):
            if effect.session.reader is not None:
                effect.session.reader.replaced(effect.peer)
        elif isinstance(effect, Forget):
            if effect.session.reader is not None:
                effect.session.reader.disconnected()
            self._drop(effect.session)
        return None

    def _serve(self, handler: Service, call: Call) -> Any:
        try:
            answer = handler(call)
        except CometError:
            raise
        except Exception:  # noqa: BLE001  whatever a program's handler raises, its caller is answered
            self.log.failure("The service {channel} failed", channel=call.channel)
            raise InternalError("The service failed, and the server has noted why.") from None
        if iscoroutine(answer):
            answer = Deferred.fromCoroutine(answer)
        if not waits(answer):
            return answer
        answer.addCallback(self._served, call)
        answer.addErrback(
            lambda failure: self.log.failure("The service {channel} failed", failure, channel=call.channel)
        )
        return None  # the call was accepted; the answer comes as an event, whenever it comes

    def _served(self, data: Any, call: Call) -> Any:
        if data is not None and call.client_id is not None:
            return self._deliver(call.client_id, call.event(data))
        return None

    def _translated(self, failure: Failure) -> Failure:
        if isinstance(failure.value, CometError):
            return failure
        self.log.failure("A store failed", failure)
        return Failure(InternalError("The server failed at this message, and has noted why."))

    def _drop(self, session: BayeuxSession) -> None:
        """Let go of what a session had, which is no more."""
        if session.reader is not None:
            session.reader.leave()
        if session.private:
            deleted = self.hub.delete(PRIVATE + session.id)
            if waits(deleted):
                deleted.addErrback(self.hub.store_failed)


class _SessionReader(Reader[T]):
    """A parked reader of what there is for a session."""

    __slots__ = ("place", "session", "transport")

    def __init__(self, transport: BayeuxTransport, session: BayeuxSession) -> None:
        super().__init__(transport.hub, session.keys)
        self.transport = transport
        self.session = session
        self.place = session.place

    def ask(self) -> Maybe[Batch]:
        """Read after the session's place."""
        session = self.session
        self.place = session.place
        return self.transport.read(session) if session.reads else Batch((), session.place)

    def see(self, found: Batch) -> bool:
        """Tell the session what is news to it; return whether there was something."""
        session = self.session
        if session.talking:
            return False  # the answer that is being made will carry it
        if session.place is not self.place and found:
            self._again = True  # another answer has told some of it in the meantime
            return False
        events = events_of(found, session) if found else b""
        if events or found.gap or session.gap:
            return self.tell((found, events) if found else None)
        if found:
            session.advance(found.cursor)  # all of it was what the session does not want
            self._again |= found.more
        return False

    def tell(self, news: News | None) -> bool:
        """Tell it; return whether that was possible."""
        raise NotImplementedError


class _Held(_SessionReader[Answer]):
    """A connect that is held over HTTP: a poll of its session."""

    __slots__ = ("connect", "form", "held", "left", "until")

    def __init__(
        self, transport: BayeuxTransport, connect: Connect, left: Callable[[], bool], form: Form
    ) -> None:
        super().__init__(transport, connect.session)
        self.connect = connect
        self.left = left
        self.form = form
        self.until = 0.0
        self.held = False

    def begin(self, wait: float) -> Deferred[Answer]:
        """Hold the session and wait, unless there is something already. Raises ``ServerFull``."""
        session, hub = self.session, self.hub
        self.until = hub.clock.seconds() + wait
        parked = hub.registry.park(self, wait)
        self.held = True
        session.reader = self
        session.browser.held += 1
        self.transport.bayeux.sessions.hold(session)
        found = self.ask()
        if waits(found):
            self.expect(found)
        elif found or session.gap:
            self.wake()  # which looks again, behind what it does not want too
        return parked

    def wake(self) -> Woken:
        """Look for what is news to the session, behind what is not."""
        seen = super().wake()
        while self._again and self._asking is None and self.deferred is not None:
            self._again = False
            seen = super().wake() or seen
        return seen

    def rekey(self) -> None:
        """Stand at what the session reads now."""
        deferred = self.deferred
        self.hub.registry.forget(self)
        self.keys = self.session.keys
        self.hub.registry.park(self, max(0.0, self.until - self.hub.clock.seconds()))
        self.deferred = deferred  # of whoever waits already

    def see(self, found: Batch) -> bool:
        """Answer with what is news to the session; return whether there was something."""
        session = self.session
        if not found.messages or found.gap or session.place is not self.place or session.is_peculiar:
            return super().see(found)
        events = events_of(found, session)
        if not events:
            return super().see(found)
        # The beaten path: what ``tell`` would come to.
        if self.left():
            return False
        session.place = found.cursor
        self.hub.counted(found)
        reply = self.connect.reply
        if "ext" in reply:
            self.connect.complete(found.cursor, self.hub.clock.seconds(), gap=False)
        self.answer(self.form(b"[%b%b]" % (events, orjson.dumps(reply))))
        return True

    def tell(self, news: News | None) -> bool:
        """Answer, if the client is there; else its place stays where it was, for when it comes back."""
        if self.left():
            return False
        self.answer(self._made(news))
        return True

    def over(self) -> Answer:
        """Return the answer without events."""
        return self._made(None)

    def answer(self, answer: Answer) -> None:
        """Let the session's time run from now on, then answer (BAYEUX.md, rule 5)."""
        self.leave()
        super().answer(answer)

    def replaced(self, peer: Peer) -> None:  # noqa: ARG002  as at a socket
        """End, because there is a later connect (BAYEUX.md, rule 9)."""
        self.answer(_REPLACED)

    def disconnected(self) -> None:
        """Answer in a way that ends the client without an error (BAYEUX.md, rule 10)."""
        self.connect.reply["advice"] = {"reconnect": "none"}
        self.answer(self._made(None))

    def leave(self) -> None:
        """Leave the session, whose time runs from now on."""
        if self.held:
            self.held = False
            session, transport = self.session, self.transport
            if session.reader is self:
                session.reader = None
            session.browser.held -= 1
            transport.bayeux.sessions.release(session, self.hub.clock.seconds())

    def cancel(self, _: object = None) -> None:
        """Leave the session, and forget the connect: its client is gone."""
        self.leave()
        super().cancel()

    def _made(self, news: News | None) -> Answer:
        events = self.transport.complete_connect(self.connect, news)
        return self.form(b"[%b%b]" % (events, orjson.dumps(self.connect.reply)))


class BayeuxSocket:
    """What is said over a WebSocket: the same arrays, and events as soon as they come.

    It speaks for one session at a time. A lost socket leaves the session to whoever comes next with its id.
    """

    def __init__(self, transport: BayeuxTransport, peer: Peer) -> None:
        self.transport = transport
        self.peer = peer
        peer.socket = self
        self.socket: Socket | None = None
        self.reader: _AtSocket | None = None
        self.ended: Deferred[None] = Deferred()
        """Fires when the socket is gone."""
        self._texts: deque[str] = deque()
        self._busy = False

    def opened(self, socket: Socket) -> None:
        """Begin: texts may be sent from now on."""
        self.socket = socket
        self.transport._sockets.add(self)
        self.transport.hub.metrics.sockets += 1

    def drained(self) -> None:
        """Go on with a backlog."""
        if self.reader is not None:
            self.reader.wake()

    def lost(self) -> None:
        """Leave the session, which lives until its time is over."""
        self.socket = None
        self.peer.socket = None  # a cycle would live until old garbage is collected
        self._texts.clear()
        self.transport._sockets.discard(self)
        self.transport.hub.metrics.sockets -= 1
        if self.reader is not None:
            self.reader.leave()
        self.ended.callback(None)

    def end(self) -> None:
        """End the conversation, because its token has expired."""
        self.close(POLICY_VIOLATION, "the token has expired")

    def text_received(self, text: str) -> None:
        """Answer one array of messages, when those before it are answered."""
        self._texts.append(text)
        if len(self._texts) > BAYEUX_SOCKET_BACKLOG:
            self._texts.clear()
            self.close(POLICY_VIOLATION, "too many messages wait for their answers")
        elif not self._busy:
            self._go_on()

    def send(self, text: bytes) -> None:
        """Send an array of messages, if the socket is still there."""
        if self.socket is not None:
            self.socket.send_text(text)

    def close(self, code: int, reason: str) -> None:
        """Close the socket."""
        if self.socket is not None:
            self.socket.close(code, reason)

    def _go_on(self) -> None:
        while self._texts and not self._busy:
            text = self._texts.popleft()
            try:
                exchanged = self.transport.exchange(batch_of(_parsed([text])), self.peer)
            except CometError as error:
                self._refuse(error)
                continue
            if waits(exchanged):
                self._busy = True
                exchanged.addCallback(self._say).addErrback(self._failed).addCallback(self._free)
            else:
                said = self._say(exchanged)
                if waits(said):
                    self._busy = True
                    said.addErrback(self._failed).addCallback(self._free)

    def _free(self, _: object) -> None:
        self._busy = False
        self._go_on()

    def _failed(self, failure: Failure) -> None:
        self.transport.log.failure("A Bayeux socket failed", failure)
        self.close(_INTERNAL_ERROR, "the server failed")

    def _refuse(self, error: CometError) -> None:
        self.transport.hub.metrics.refusals[error.kind] += 1
        reply = {"channel": "", "successful": False, "error": f"{error.status}::{error.kind}"}
        self.send(orjson.dumps([reply]))

    def _say(self, exchange: Exchange) -> Maybe[None]:
        """Answer an exchange now, or hold its connect."""
        transport = self.transport
        session = exchange.session or exchange.greeted
        try:
            if session is not None and self.socket is not None:
                self._bind(session, exchange)
            reader = self.reader if session is not None and session.reader is self.reader else None
            if exchange.wait > 0 and reader is not None and not transport.hub.stopping:
                reader.hold(exchange.connects[0], exchange.wait)
                transport.bayeux.done(exchange)
                reader.wake()
                return None
        except ServerFull:
            self.close(_TRY_AGAIN_LATER, "the server is full")
        news: Maybe[News | None] = None
        if exchange.session is not None and exchange.session.ack and exchange.connects and self.socket:
            news = transport.news_if_any(exchange.session)
        return then(news, partial(self._finish, exchange))

    def _finish(self, exchange: Exchange, news: News | None) -> None:
        self.send(exchange.json(self.transport.complete(exchange, news)))
        self.transport.bayeux.done(exchange)
        if exchange.session is not None:
            self.transport.refresh(exchange.session)
        if exchange.connects and self.transport.hub.stopping:
            self.close(SERVICE_RESTART, "the server is stopping")  # nobody is held any more

    def _bind(self, session: BayeuxSession, exchange: Exchange) -> None:
        """Become the session's socket, if it was begun or connects here, or nobody else reads for it."""
        if session.reader is not None and (session.reader is self.reader or not exchange.connects):
            return
        if self.reader is not None:
            self.reader.leave()
        self.reader = _AtSocket(self, session)


class _AtSocket(_SessionReader[None]):
    """A session at its socket: parked as long as the socket is there, and told whatever comes.

    Under the acknowledgement extension it is told only in answers to its connects. The connect that is held
    is ``connect``; the end of its wait is the reader's.
    """

    __slots__ = ("connect", "home", "until")

    def __init__(self, home: BayeuxSocket, session: BayeuxSession) -> None:
        super().__init__(home.transport, session)
        self.home = home
        self.connect: Connect | None = None
        self.until: float | None = None
        self.hub.registry.park(self, None)
        session.reader = self

    def hold(self, connect: Connect, wait: float) -> None:
        """Hold a connect for ``wait`` seconds."""
        self.connect = connect
        self.until = self.hub.clock.seconds() + wait
        self.transport.bayeux.sessions.hold(self.session)
        self.rekey()

    def rekey(self) -> None:
        """Stand at what the session reads now."""
        registry = self.hub.registry
        registry.forget(self)
        self.keys = self.session.keys
        registry.park(self, None if self.until is None else max(0.0, self.until - self.hub.clock.seconds()))

    def wake(self) -> Woken:
        """Tell what there is for the session, and look again until there is no more."""
        seen: Woken = False
        while self._ready():
            seen = super().wake() or seen
            if self._asking is not None or not self._again:
                break
            self._again = False
        return seen

    def tell(self, news: News | None) -> bool:
        """Send it, or answer the connect with it."""
        session = self.session
        if not self._ready():
            return False
        if session.ack or news is None:
            if self.connect is not None:
                self._answer(news)
            return news is not None
        found, events = news
        if events and self.home.socket is not None:
            self.home.socket.send_frame(_frame(found, events, shared=not session.since))
        session.gap |= found.gap
        session.advance(found.cursor)
        self.hub.counted(found)
        self._again = True  # there may be more; and coming back says that this was read
        return True

    def over(self) -> None:
        """Return nothing: the answer is sent by ``answer``."""

    def end(self) -> None:
        """Answer the connect whose wait is over; where the server stops, say so and end."""
        if not self.hub.stopping:
            self._answer(None)
            return
        self._answer(None)
        self.hub.registry.forget(self)
        self.home.close(SERVICE_RESTART, "the server is stopping")

    def replaced(self, peer: Peer) -> None:
        """End the connect that is held; where the later one came elsewhere, the session moves there."""
        if self.connect is not None:
            self.connect.fail(_REPLACED_ERROR)
            self._answer(None)
        if peer.socket is not self.home:
            self.leave()

    def disconnected(self) -> None:
        """Answer the connect that is held in a way that ends the client without an error."""
        if self.connect is not None:
            self.connect.reply["advice"] = {"reconnect": "none"}
            self._answer(None)

    def leave(self) -> None:
        """Leave the session, whose time runs from now on if it had a connect."""
        self.hub.registry.forget(self)
        self.deferred = None
        if self.session.reader is self:
            self.session.reader = None
        if self.home.reader is self:
            self.home.reader = None
        if self.connect is not None:
            self.connect = None
            self.transport.bayeux.sessions.release(self.session, self.hub.clock.seconds())

    def _ready(self) -> bool:
        """Whether something may be told now."""
        socket = self.home.socket
        return (
            self.deferred is not None
            and socket is not None
            and not socket.congested
            and not self.session.talking
            and (self.connect is not None or not self.session.ack)
        )

    def _answer(self, news: News | None) -> None:
        """Answer the connect that is held, if there is one, and stay."""
        connect, self.connect = self.connect, None
        self.until = None
        if connect is not None:
            events = self.transport.complete_connect(connect, news)
            self.transport.bayeux.sessions.release(self.session, self.hub.clock.seconds())
            self.home.send(b"[%b%b]" % (events, orjson.dumps(connect.reply)))
        self.rekey()


# -- what requests and answers are made of


def json_answer(body: bytes) -> Answer:
    """Return the response of the long-polling transport."""
    return Answer(200, _JSON, body)


def script_answer(callback: str, body: bytes) -> Answer:
    """Return the response of the callback-polling transport: a script that calls back.

    It begins with a comment, so that no plug-in takes a callback's name for the beginning of its own format.
    """
    # These two end a line in JavaScript before ES2019, but not in JSON.
    body = body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return Answer(200, _SCRIPT, b"/**/%b(%b);" % (callback.encode(), body))


def is_callback(name: str) -> bool:
    """Whether a string is a JavaScript name, or such names with dots between, and nothing else."""
    return len(name) <= BAYEUX_CALLBACK_BYTES and _CALLBACK.fullmatch(name) is not None


def browser_of(cookie: bytes | None) -> str | None:
    """Return the browser's name in the value of a Cookie header."""
    if cookie is None:
        return None
    match = _BROWSER.search(cookie.decode("latin-1"))
    return None if match is None else match[1]


def _set_cookie(browser: str, secure: bool) -> bytes:
    attributes = "; Secure" if secure else ""
    return f"Set-Cookie: {COOKIE}={browser}; Path=/; HttpOnly; SameSite=Lax{attributes}\r\n".encode()


def _posted(body: bytes, media_type: bytes | None) -> Any:
    """Return what is in a body: JSON, or a form with one or several ``message``."""
    is_form = media_type is not None and media_type.lower().startswith(b"application/x-www-form-urlencoded")
    if not is_form or body[:1] in {b"[", b"{"}:  # curl says that it is a form, whatever it sends
        return _json(body)
    try:
        fields = parse_qsl(body.decode(), errors="strict", max_num_fields=BAYEUX_BATCH_MESSAGES)
    except ValueError as error:
        raise BadBody(f"The body is not the form that its type says: {error}.") from None
    return _parsed([value for name, value in fields if name == "message"])


def _parsed(texts: list[Any]) -> Any:
    """Return what is in one JSON text, or the messages in several, each a message or an array of them."""
    if len(texts) == 1:
        return _json(texts[0])
    return [message for text in texts for message in batch_of(_json(text))]


def _json(text: bytes | str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _no_json(error) from None


def _no_json(error: orjson.JSONDecodeError) -> BadBody:
    return BadBody(f"A Bayeux request is JSON: {error}.")


def _frame(found: Batch, events: bytes, *, shared: bool) -> bytes:
    """Return the frame that carries a batch's events; what all get who read the same is made once."""
    if not shared:
        return text_frame(b"[%b]" % events[:-1])
    made: bytes | None = found.rendered.get("bayeux-frame")
    if made is None:
        made = found.rendered["bayeux-frame"] = text_frame(b"[%b]" % events[:-1])
    return made
