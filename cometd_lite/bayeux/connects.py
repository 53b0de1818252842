"""Bayeux over a hub: requests arrive, arrays of messages leave (HTTP.md, "Bayeux").

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

from collections.abc import Callable, Hashable
from functools import partial
from inspect import iscoroutine
from typing import Any, Protocol, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..core.hub import Hub
from ..core.message import NOW, Batch, Push, Receipt
from ..core.readers import Reader
from ..core.recipient import readable
from ..core.registry import Wake
from ..deferreds import MaybeDeferred, chain, is_pending, shielded
from ..errors import BadParameter, CometError, InternalError, Stopping
from ..http.responses import Response
from ..http.websocket import SERVICE_RESTART
from ..jsontext import dumps
from ..limits import BAYEUX_SOCKET_BACKLOG_BYTES, POLL_MESSAGES_MOST, Limits
from .conversation import (
    CONNECT,
    Ask,
    BatchAnswer,
    Bayeux,
    BayeuxOptions,
    Call,
    Connect,
    Effect,
    Forget,
    Give,
    Locate,
    Peer,
    PeerRights,
    Replace,
    Serve,
    Service,
    batch_of,
    refuse,
)
from .events import events_of
from .http import (
    REPLACED_ANSWER,
    Asking,
    browser_of,
    is_callback,
    json_answer,
    parsed,
    posted,
    script_answer,
    set_cookie,
)
from .sessions import PRIVATE, BayeuxSession

T = TypeVar("T")
News: TypeAlias = tuple[Batch, bytes]
"""What there is for a session, and how Bayeux says it: events, each with a comma behind it."""
Form: TypeAlias = Callable[[bytes], Response]
"""Makes an HTTP response of an array of messages."""


class SocketOfClient(Protocol):
    """A WebSocket over which a client speaks Bayeux."""

    @property
    def reader(self) -> object | None:
        """Return the reader of the session that the socket speaks for; None while it speaks for none."""

    def close(self, code: int, reason: str) -> None:
        """Close the socket."""


class BayeuxTransport:
    """The Bayeux side of a hub: its sessions, services, held connects and sockets."""

    log = Logger()

    def __init__(self, hub: Hub, limits: Limits, options: BayeuxOptions | None = None) -> None:
        self.hub = hub
        self.options = options or BayeuxOptions()
        self.bayeux = Bayeux(self.options, limits)
        self.backlog_bytes = max(BAYEUX_SOCKET_BACKLOG_BYTES, limits.max_batch)
        """Bytes of texts that wait at one socket."""
        self.sockets: set[SocketOfClient] = set()

    # -- for embedding programs

    def service(self, channel: str, handler: Service) -> None:
        """Let ``handler`` answer what is published to a ``/service`` channel, or a pattern of such.

        Its answer goes to the sender alone. Raises ``ValueError`` where it is no such channel.
        """
        if not channel.startswith("/service/"):
            raise ValueError("A service's channel begins with /service/.")
        self.bayeux.services[readable(channel[1:])] = handler

    def deliver(self, client_id: str, channel: str, data: Any) -> MaybeDeferred[bool]:
        """Give one session alone an event; return whether there is such a session.

        Raises ``BadBody`` where JSON cannot say ``data``, else as a push does.
        """
        return self._deliver(client_id, {"channel": channel, "data": data})

    def _deliver(self, client_id: str, event: dict[str, Any]) -> MaybeDeferred[bool]:
        session = self.bayeux.sessions.get(client_id, self.hub.clock.seconds())
        if session is None:
            return False

        def delivered(_: None) -> bool:
            self.refresh(session)
            return True

        return chain(self._run(self.bayeux.tell(session, event)), delivered)

    # -- what the routes call

    def post(
        self,
        body: bytes,
        media_type: bytes | None,
        asking: Asking,
        rights: PeerRights | None = None,
    ) -> MaybeDeferred[Response]:
        """Answer a request of the long-polling transport ("The long-polling request messages").

        Raises ``BadBody`` or ``BodyTooLarge``, and ``ServerFull`` or ``Stopping`` where a connect cannot be
        held.
        """
        gone = asking.was_disconnected
        value = posted(body, media_type)
        message = value[0] if value.__class__ is list and len(value) == 1 else value
        if rights is None and message.__class__ is dict:
            now = self.hub.clock.seconds()
            channel = message.get("channel")
            if channel == CONNECT:
                connect = self.bayeux.plain_connect(message, now)
                if connect is not None:
                    return self._hold(connect, self.options.timeout, gone, json_answer)
            elif channel.__class__ is str:
                publication = self.bayeux.plain_publication(message, channel, now)
                if publication is not None:
                    return self._publish(*publication, gone)
        return self._respond(batch_of(value), asking, json_answer, rights)

    def get(
        self,
        query: dict[str, list[str]],
        asking: Asking,
        rights: PeerRights | None = None,
    ) -> MaybeDeferred[Response]:
        """Answer a request of the callback-polling transport ("The callback-polling request messages").

        Raises ``BadParameter``, else as ``post`` does.
        """
        callback = query.get("jsonp", ["jsonpcallback"])
        if len(callback) != 1 or not is_callback(callback[0]):
            raise BadParameter("jsonp is the name of a JavaScript function.")
        if "message" not in query:
            raise BadParameter("A GET here polls by callback and needs message; other clients POST.")
        batch = batch_of(parsed(query["message"]))
        form = partial(script_answer, callback[0])
        return self._respond(batch, asking, form, rights)

    def sweep(self) -> None:
        """Let go of the sessions that did not connect again in time; to be called every second."""
        for session in self.bayeux.expire(self.hub.clock.seconds()):
            self._drop(session)

    def stop(self) -> None:
        """Close the sockets that speak for no session; the others are readers, and ended by the hub."""
        for socket in tuple(self.sockets):
            if socket.reader is None:
                socket.close(SERVICE_RESTART, "the server is stopping")

    def __len__(self) -> int:
        return len(self.bayeux.sessions)

    # -- a request

    def _publish(
        self, session: BayeuxSession, push: Push, reply: dict[str, Any], gone: Callable[[], bool]
    ) -> MaybeDeferred[Response]:
        """Push what a session published, and answer with the reply and the events that there are for it."""
        session.talking += 1
        try:
            pushed = self.hub.push(push)
        except CometError as error:
            refuse(reply, error)
            return self._answer(BatchAnswer([reply], session=session), gone, json_answer)
        except BaseException:
            session.talking -= 1
            raise
        if is_pending(pushed):
            return self._pushed(pushed, session, reply, gone)
        if session.reads:
            return self._answer(BatchAnswer([reply], session=session), gone, json_answer)
        session.talking -= 1
        return json_answer(dumps([reply]))  # with nothing to read, nothing comes with the answer

    def _pushed(
        self,
        pushed: Deferred[Receipt],
        session: BayeuxSession,
        reply: dict[str, Any],
        gone: Callable[[], bool],
    ) -> MaybeDeferred[Response]:
        """Answer once a store that waits has what was published."""

        def refused(failure: Failure) -> None:
            error = self._translated(failure).value
            assert isinstance(error, CometError), "what is translated to"
            refuse(reply, error)

        def answer(_: object) -> MaybeDeferred[Response]:
            return self._answer(BatchAnswer([reply], session=session), gone, json_answer)

        return shielded(pushed.addErrback(refused).addCallback(answer))

    def _respond(
        self,
        batch: list[Any],
        asking: Asking,
        form: Form,
        rights: PeerRights | None,
    ) -> MaybeDeferred[Response]:
        gone = asking.was_disconnected
        exchanged = self.exchange(batch, Peer(browser_of(asking.head.get(b"cookie")), rights))

        def answer(exchange: BatchAnswer) -> MaybeDeferred[Response]:
            if exchange.cookie is not None:
                return form(exchange.json()).with_head(set_cookie(exchange.cookie, asking.is_secure))
            if exchange.wait > 0:
                self.bayeux.done(exchange)
                if rights is not None:
                    rights.check_room()
                held = self._hold(exchange.connects[0], exchange.wait, gone, form)
                if rights is not None and is_pending(held):
                    rights.count(held)
                return held
            return self._answer(exchange, gone, form)

        if not is_pending(exchanged):
            return answer(exchanged)
        # The client may disconnect, and Klein cancels; what the batch asked for is done nevertheless.
        return shielded(exchanged.addCallback(answer))

    def exchange(self, batch: list[Any], peer: Peer) -> MaybeDeferred[BatchAnswer]:
        """Have the conversation about a batch; ``done`` is to be called when its answer is complete."""
        hub = self.hub
        return self._run(self.bayeux.converse(batch, peer, hub.clock.seconds(), hub.wall()))

    def _hold(
        self, connect: Connect, wait: float, gone: Callable[[], bool], form: Form
    ) -> MaybeDeferred[Response]:
        """Hold a connect until there is something for its session, for ``wait`` seconds at the most."""
        answer = self._unheld(connect, gone, form)
        if answer is not None:
            return answer
        held = HeldConnect(self, connect, gone, form)
        held.begin(wait)
        return held

    def _unheld(
        self, connect: Connect, gone: Callable[[], bool], form: Form
    ) -> MaybeDeferred[Response] | None:
        """Answer the connect of a browser that has another one held; None for any other.

        Raises ``Stopping``.
        """
        session = connect.session
        if session.browser.held >= self.options.held_for_a_browser:
            self.bayeux.crowd(session, connect.reply)
            session.talking += 1
            return self._answer(BatchAnswer([connect.reply], [connect], session), gone, form)
        if session.crowded:
            self.bayeux.relieve(session, connect.reply)
        # Who cannot be held is refused as a poll is. An answer would need an interval, which aiocometd takes
        # for seconds; but every client waits of its own accord after a failure.
        if self.hub.stopping:
            raise Stopping("The server is stopping; come back in a moment.")
        return None

    def _answer(self, exchange: BatchAnswer, gone: Callable[[], bool], form: Form) -> MaybeDeferred[Response]:
        """Answer an exchange now, with the events that there are for its session."""
        session = exchange.session
        may_read = exchange.may_read and not (session is not None and session.ack and not exchange.connects)
        if session is None or not session.reads or not may_read:
            return self._finish(exchange, gone, form, None)
        news = self.news_if_any(session)
        if is_pending(news):
            return news.addCallback(partial(self._finish, exchange, gone, form))
        return self._finish(exchange, gone, form, news)

    def _finish(
        self, exchange: BatchAnswer, gone: Callable[[], bool], form: Form, news: News | None
    ) -> Response:
        if news is not None and gone():
            news = None
        events = self.complete(exchange, news)
        session = exchange.session
        if session is not None:
            session.talking -= 1
            if session.reader is not None:
                self.refresh(session)
        return form(exchange.json(events))

    def complete(self, exchange: BatchAnswer, news: News | None) -> bytes:
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
        """Make the session's reader look again, at what the session reads now."""
        reader = session.reader
        if reader is not None:
            if reader.keys is not session.keys:
                reader.rekey()
            Wake([reader]).run(1)

    # -- what a session reads

    def read(self, session: BayeuxSession) -> MaybeDeferred[Batch]:
        """Return what the session's subscriptions hold after its place."""
        now = self.hub.clock.seconds()
        store = self.hub.store
        if not session.patterned and not session.since:
            return store.read(session.reads, session.place, POLL_MESSAGES_MOST, now)
        return chain(store.read(session.reads, NOW, 1, now), partial(self._read_to, session))

    def _read_to(self, session: BayeuxSession, end: Batch) -> MaybeDeferred[Batch]:
        """Do so; where there is nothing, the session goes to the end, and looks through that only once."""

        def settle(found: Batch) -> Batch:
            if not found:
                session.advance(end.cursor)
            return found

        hub = self.hub
        found = hub.store.read(session.reads, session.place, POLL_MESSAGES_MOST, hub.clock.seconds())
        return chain(found, settle)

    def news_if_any(self, session: BayeuxSession) -> MaybeDeferred[News | None]:
        """Return what there is for a session; None also where the store fails, which keeps it for later."""
        try:
            news = self.news(session)
        except CometError:
            self.hub.store_failed(Failure())
            return None
        return news.addErrback(self.hub.store_failed) if is_pending(news) else news

    def news(self, session: BayeuxSession) -> MaybeDeferred[News | None]:
        """Return what there is for a session after its place; None where there is nothing."""
        if not session.reads:
            return None
        place = session.place

        def look(found: Batch) -> MaybeDeferred[News | None]:
            if session.place.epoch == place.epoch and session.place.sequence > found.cursor.sequence:
                return self.news(session)  # another answer has told it that in the meantime
            if not found:
                return None
            events = events_of(found, session)
            if events or found.gap:
                return found, events
            session.advance(found.cursor)  # all of it was what it does not want
            return self.news(session) if found.more else None

        return chain(self.read(session), look)

    # -- effects

    def _run(self, talk: Any, value: Any = None) -> MaybeDeferred[Any]:
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
            if is_pending(value):
                return value.addErrback(self._translated).addBoth(partial(self._run, talk))

    def _perform(self, effect: Effect) -> MaybeDeferred[Any]:
        if isinstance(effect, Give):
            return self.hub.push(effect.push)
        if isinstance(effect, Ask):
            return effect.rights.check(effect.action, effect.names)
        if isinstance(effect, Locate):
            end = self.hub.store.read((PRIVATE,), NOW, 1, self.hub.clock.seconds())
            return chain(end, lambda batch: batch.cursor)
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
        if not is_pending(answer):
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
            if is_pending(deleted):
                deleted.addErrback(self.hub.store_failed)


class SessionReader(Reader[T]):
    """A parked reader of what there is for a session."""

    _must_look_again = False

    def __init__(self, transport: BayeuxTransport, session: BayeuxSession) -> None:
        Reader.__init__(self, transport.hub, session.keys)
        self.transport = transport
        self.session = session
        self.place = session.place

    def look(self, wake: Wake) -> None:
        """Read after the session's place, behind what the session does not want."""
        self._must_look_again = True
        while self._must_look_again and self.registry is not None and self.can_look():
            self._must_look_again = False
            if not self.is_reading:
                self.place = self.session.place
            Reader.look(self, wake)

    def can_look(self) -> bool:
        """Return whether something may be delivered now."""
        return True

    def can_receive(self) -> bool:
        """Return whether a wake now would make it look: an answer that is being made carries all there is."""
        return not self.session.talking and self.can_look()

    def read(self) -> MaybeDeferred[Batch]:
        """Read after the session's place."""
        session = self.session
        return self.transport.read(session) if session.reads else Batch((), session.place)

    def question(self) -> Hashable:
        """Return what is asked for, where the session reads with others; else the reader itself."""
        session = self.session
        if session.patterned or session.since or not session.reads:
            return self
        return (session.reads, session.place, POLL_MESSAGES_MOST)

    def rekey(self) -> None:
        """Wait at what the session reads now."""
        if self.registry is not None:
            self.registry.move(self, self.session.keys)

    def deliver(self, found: Batch) -> None:
        """Deliver what is news to the session."""
        session = self.session
        if session.talking:
            return  # the answer that is being made will carry it
        if session.place is not self.place and found:
            self._must_look_again = True  # another answer has carried some of it in the meantime
            return
        events = events_of(found, session) if found else b""
        if events or found.gap or session.gap:
            self.tell((found, events) if found else None)
        elif found:
            session.advance(found.cursor)  # all of it was what the session does not want
            self._must_look_again = found.more

    def tell(self, news: News | None) -> None:
        """Send the news, if that is possible."""
        raise NotImplementedError

    def _go_on(self, wake: Wake | None) -> None:
        Reader._go_on(self, wake)
        if self._must_look_again and not self.is_reading:
            Wake([self]).run(1)


class HeldConnect(SessionReader[Response]):
    """A connect that is held over HTTP: a poll of its session.

    ``is_disconnected`` tells whether its client has disconnected.
    """

    is_held = False

    def __init__(
        self, transport: BayeuxTransport, connect: Connect, is_disconnected: Callable[[], bool], form: Form
    ) -> None:
        SessionReader.__init__(self, transport, connect.session)
        self.connect = connect
        self.is_disconnected = is_disconnected
        self.form = form

    def begin(self, wait: float) -> None:
        """Hold the session and wait, unless there is something already. Raises ``ServerFull``."""
        session = self.session
        self.transport.hub.registry.park(self, wait)
        self.is_held = True
        session.reader = self
        session.browser.held += 1
        self.transport.bayeux.sessions.hold(session)
        Wake([self]).run(1)

    def tell(self, news: News | None) -> None:
        """Answer, if the client is there; else its place stays where it was, for when it comes back."""
        if not self.is_disconnected():
            self.answer(self._made(news))

    def over(self) -> Response:
        """Return the answer without events."""
        return self._made(None)

    def replaced(self, peer: Peer) -> None:  # noqa: ARG002  as at a socket
        """End, because there is a later connect (BAYEUX.md, rule 9)."""
        self.answer(REPLACED_ANSWER)

    def disconnected(self) -> None:
        """Answer in a way that ends the client without an error (BAYEUX.md, rule 10)."""
        self.connect.reply["advice"] = {"reconnect": "none"}
        self.answer(self._made(None))

    def leave(self) -> None:
        """Leave the registry and the session, whose time runs from now on (BAYEUX.md, rule 5)."""
        if self.is_held:
            self.is_held = False
            session, transport = self.session, self.transport
            if session.reader is self:
                session.reader = None
            session.browser.held -= 1
            transport.bayeux.sessions.release(session, transport.hub.clock.seconds())
        SessionReader.leave(self)

    def _made(self, news: News | None) -> Response:
        events = self.transport.complete_connect(self.connect, news)
        return self.form(b"[%b%b]" % (events, dumps(self.connect.reply)))
