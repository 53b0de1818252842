"""Bayeux over a WebSocket: arrays of messages arrive as texts and leave so, events as soon as they come.

The session may be another process'. Its texts are forwarded then, as requests of the long-polling transport
are, and events come with the answers to its connects.

A socket is a reader of the session for which it speaks, parked for as long as it is there. A connect that it
holds meanwhile is answered when its wait is over, or, under the acknowledgement extension, with what comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from sys import getsizeof
from typing import Any, TypeAlias

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from ..access.application import Watch
from ..access.policy import Rights
from ..core.message import Batch
from ..core.parked import Wake
from ..core.store import ProcessGone
from ..deferreds import is_pending, value_of
from ..errors import CometError, ServerFull, TokenExpired
from ..http.responses import Response
from ..http.websocket import POLICY_VIOLATION, SERVICE_RESTART, Socket, text_frame
from ..jsontext import dumps
from ..limits import BAYEUX_SOCKET_BACKLOG, BAYEUX_SOCKET_SILENT_SECONDS
from .answers import REHANDSHAKE, BatchAnswer, Connect, fail
from .connects import SessionReader
from .delivery import News
from .effects import Effects, Look, Peer
from .fields import batch_of, refused
from .http import REPLACED_ANSWER, Asking, browser_of, parsed
from .sessions import BayeuxSession
from .transport import BayeuxTransport

_INTERNAL_ERROR = 1011
_TRY_AGAIN_LATER = 1013
_REPLACED = "409::connect_replaced"


Forward: TypeAlias = Callable[[str, Callable[[], bool]], Deferred[Response] | None]
"""Forwards a text, given a check for its disconnect; None where it is answered here."""


class BayeuxSocket:
    """What is said over a WebSocket: the same arrays, and events as soon as they come.

    It speaks for one session at a time. A lost socket leaves the session to the next request with its id.
    """

    def __init__(
        self,
        transport: BayeuxTransport,
        asking: Asking,
        rights: Rights | None = None,
        forward: Forward | None = None,
    ) -> None:
        self.transport = transport
        self._forward = forward
        self._forwarded: set[Deferred[Any]] = set()
        """The texts that other processes are answering."""
        self.peer = Peer(browser_of(asking.head.get(b"cookie")), rights, self)
        self.socket: Socket | None = None
        self.reader: _AtSocket | None = None
        self.ended: Deferred[None] = Deferred()
        """Fires when the socket is disconnected."""
        self._texts: deque[str] = deque()
        self._busy = False
        self._has_expired = False
        """Whether the token is over, so that nothing is delivered any more."""
        self._silence: IDelayedCall | None = None
        """The end of the time in which it must have spoken for a session."""

    def opened(self, socket: Socket) -> None:
        self.socket = socket
        self.transport.sockets.add(self.stop)
        self.transport.hub.counts.sockets += 1
        self._silence = self.transport.hub.clock.callLater(
            BAYEUX_SOCKET_SILENT_SECONDS, self.close, POLICY_VIOLATION, "no handshake came in time"
        )

    def drained(self) -> None:
        if self.reader is not None:
            Wake([self.reader]).run(1)

    def beat(self) -> None:
        """Do nothing: a client acknowledges by its connects."""

    def disconnected(self) -> None:
        """Leave the session, which lives until its time is over."""
        self.socket = None
        self.peer.socket = None  # a cycle would live until old garbage is collected
        self._texts.clear()
        for forwarded in tuple(self._forwarded):
            forwarded.cancel()
        self._end_silence()
        self.transport.sockets.discard(self.stop)
        self.transport.hub.counts.sockets -= 1
        if self.reader is not None:
            self.reader.leave()
        self.ended.callback(None)

    def token_expired(self) -> None:
        """Leave the session, and advise the client to shake hands again."""
        self._has_expired = True
        self.refused(TokenExpired("The token has expired; get a new one."))

    def refused(self, error: CometError) -> None:
        """Leave the session, which the client may not read now; it may shake hands again."""
        if self.reader is not None:
            self.reader.refused(error)

    def text_received(self, text: str) -> None:
        """Answer one array of messages, when those before it are answered."""
        self._texts.append(text)
        if not self._busy:
            self._go_on()
            return
        size = sum(map(getsizeof, self._texts))
        if len(self._texts) > BAYEUX_SOCKET_BACKLOG or size > self.transport.backlog_bytes:
            self._texts.clear()
            self.close(POLICY_VIOLATION, "too many messages wait for their answers")
        elif self.socket is not None:
            self.socket.hold_backlog(size)

    def send(self, text: bytes) -> None:
        """Send an array of messages, if the socket is still there."""
        if self.socket is not None:
            self.socket.send_text(text)

    def note_sending(self, session: BayeuxSession) -> None:
        """Let a session live, which no connect holds now, while something is on its way to its client."""
        if self.socket is not None:
            self.transport.sessions.sending(session, self.socket.is_sending)

    def close(self, code: int, reason: str) -> None:
        """Close the socket."""
        if self.socket is not None:
            self.socket.close(code, reason)

    def stop(self) -> None:
        """Close a socket that speaks for no session, because the server stops."""
        if self.reader is None:
            self.close(SERVICE_RESTART, "the server is stopping")

    def _go_on(self) -> None:
        while self._texts and not self._busy:
            text = self._texts.popleft()
            forwarded = None if self._forward is None else self._forward(text, lambda: self.socket is None)
            if forwarded is not None:
                self._expect(forwarded, text)
                continue
            answered = self.transport.delivery.run(self._answer(text))
            if is_pending(answered):
                self._busy = True
                answered.addErrback(self._failed).addCallback(self._free)

    def _expect(self, forwarded: Deferred[Response], text: str) -> None:
        """Send the answer of another process; texts behind it wait, unless it may hold a connect."""
        if len(self._forwarded) >= BAYEUX_SOCKET_BACKLOG:
            forwarded.addErrback(_cancelled).cancel()
            self.close(POLICY_VIOLATION, "too many messages wait for their answers")
            return
        self._forwarded.add(forwarded)
        self._busy = waits = "/meta/connect" not in text
        answered = Deferred.fromCoroutine(self._answer_forwarded(forwarded, text))
        answered.addErrback(self._failed).addCallback(self._arrived, forwarded, waits)

    def _arrived(self, _: object, forwarded: Deferred[Any], waits: bool) -> None:
        self._forwarded.discard(forwarded)
        if waits:
            self._free(None)

    async def _answer_forwarded(self, forwarded: Deferred[Response], text: str) -> None:
        try:
            answer = await forwarded
        except CancelledError:
            return
        except ProcessGone:  # the session is not known here either, and the answer says so
            await value_of(self.transport.delivery.run(self._answer(text)))
            return
        except CometError as error:
            self._refuse(error)
            return
        if answer.status == 200:
            self._end_silence()
            self.send(answer.body)
        elif answer.status == REPLACED_ANSWER.status:
            self._send_error(_REPLACED, "/meta/connect")
        else:
            self._send_error(f"{answer.status}::refused")

    def _send_error(self, error: str, channel: str = "") -> None:
        self.send(dumps([{"channel": channel, "successful": False, "error": error}]))

    def _end_silence(self) -> None:
        if self._silence is not None and self._silence.active():
            self._silence.cancel()
        self._silence = None

    def _free(self, _: object) -> None:
        self._busy = False
        had = bool(self._texts)
        self._go_on()
        if had and self.socket is not None:
            self.socket.hold_backlog(sum(map(getsizeof, self._texts)))

    def _failed(self, failure: Failure) -> None:
        self.transport.delivery.log.failure("A Bayeux socket failed", failure)
        self.close(_INTERNAL_ERROR, "the server failed")

    def _refuse(self, error: CometError) -> None:
        self.transport.hub.counts.refusals[error.kind] += 1
        self._send_error(refused(error))

    def _answer(self, text: str) -> Effects[None]:
        """Answer a text now, or hold its connect."""
        transport = self.transport
        hub = transport.hub
        with BatchAnswer() as answer:
            try:
                yield from transport.converse(batch_of(parsed([text])), self.peer, answer)
            except CometError as error:
                self._refuse(error)
                return
            if self.reader is not None and self.reader.session is answer.session and answer.unreadable:
                self.reader.refused(answer.unreadable)
            reader = self._bound(answer)
            if reader is not None and answer.wait > 0 and not hub.stopping:
                reader.hold(answer.connects[0], answer.wait)
            else:
                reader = None
                news: News | None = None
                session = answer.session
                if session is not None and session.ack and answer.may_carry and self.socket is not None:
                    news = yield Look(session)
                self.send(answer.json(transport.delivery.complete(answer, news)))
                for connect in answer.connects:
                    self.note_sending(connect.session)
        if reader is not None:
            Wake([reader]).run(1)
            return
        if answer.session is not None:
            transport.delivery.refresh(answer.session)
        if answer.connects and hub.stopping:
            self.close(SERVICE_RESTART, "the server is stopping")  # no connect is parked any more

    def _bound(self, answer: BatchAnswer) -> _AtSocket | None:
        """Become the socket of the session that is answered, if that may be; return the session's reader.

        None where the session has another reader, or none.
        """
        session = answer.session or answer.greeted
        if session is None:
            return None
        if self.socket is not None:
            self._end_silence()
            if answer.may_read and not self._has_expired:
                try:
                    self._bind(session, answer)
                except ServerFull:
                    self.close(_TRY_AGAIN_LATER, "the server is full")
        return self.reader if session.reader is self.reader else None

    def _bind(self, session: BayeuxSession, answer: BatchAnswer) -> None:
        """Become the session's socket, if it was begun or connects here, or has no other reader."""
        if session.reader is not None and (session.reader is self.reader or not answer.connects):
            return
        if self.reader is not None:
            self.reader.leave()
        self.reader = _AtSocket(self, session)


class _AtSocket(SessionReader[None]):
    """A session at its socket: parked as long as the socket is connected, and sent whatever comes.

    Under the acknowledgement extension it gets events only in answers to its connects. The connect that is
    held is ``connect``; the end of its wait is the reader's.
    """

    __slots__ = ("connect", "home", "watch")

    def __init__(self, home: BayeuxSocket, session: BayeuxSession) -> None:
        super().__init__(home.transport.delivery, session)
        self.home = home
        self.connect: Connect | None = None
        self.watch: Watch | None = None
        """Asks again whether the client may read, while the answer to its last connect is good."""
        if home.peer.rights is not None:
            self.name = home.peer.rights.grant.name
            self.admission = home.peer.rights.grant.key
            self.on_revoked = home.token_expired
        self.delivery.hub.registry.park(self, None)
        session.reader = self

    def hold(self, connect: Connect, wait: float) -> None:
        """Hold a connect for ``wait`` seconds."""
        self.connect = connect
        self._end_watch()
        if self.home.peer.rights is not None:
            self.watch = self.home.peer.rights.grant.watch(self, self.home.refused)
        self.delivery.sessions.hold(self.session)
        self._stay(wait)

    def can_look(self) -> bool:
        socket = self.home.socket
        return (
            socket is not None
            and not socket.congested
            and not self.session.answering
            and (self.connect is not None or not self.session.ack)
        )

    def send(self, news: News | None) -> None:
        session = self.session
        if not self.can_look():
            return
        if session.ack or news is None:
            if self.connect is not None:
                self._answer(news)
            return
        found, events = news
        if events and self.home.socket is not None:
            self.home.socket.send_frame(_frame(found, events, shared=not session.since))
            if self.connect is None:
                self.home.note_sending(session)
        session.gap |= found.gap
        session.advance(found.cursor)
        self.delivery.hub.counted(found)
        self._must_look_again = True  # there may be more; and coming back says that this was read

    def over(self) -> None:
        """Return nothing: the answer is sent by ``answer``."""

    def end(self) -> None:
        """Answer the connect whose wait is over; where the server stops, say so and end."""
        hub = self.delivery.hub
        self._answer(None)
        if not hub.stopping:
            return
        super().leave()
        self.home.close(SERVICE_RESTART, "the server is stopping")

    def replaced(self, peer: Peer) -> None:
        """End the connect that is held; where the later one came elsewhere, the session moves there."""
        if self.connect is not None:
            fail(self.connect.reply, _REPLACED)
            self._answer(None)
        if peer.socket is not self.home:
            self.leave()

    def disconnected(self) -> None:
        """Answer the connect that is held in a way that ends the client without an error."""
        if self.connect is not None:
            self.connect.reply["advice"] = {"reconnect": "none"}
            self._answer(None)

    def refused(self, error: CometError) -> None:
        """Refuse the connect that is held, if there is one, and leave the session."""
        if self.connect is not None:
            self.connect.reply["advice"] = REHANDSHAKE
            fail(self.connect.reply, refused(error))
            self._answer(None)
        self.leave()

    def leave(self) -> None:
        """Leave the registry and the session, whose time runs from now on if it had a connect."""
        super().leave()
        self._end_watch()
        if self.session.reader is self:
            self.session.reader = None
        if self.home.reader is self:
            self.home.reader = None
        if self.connect is not None:
            self.connect = None
            self.delivery.sessions.release(self.session, self.delivery.hub.clock.seconds())

    def _end_watch(self) -> None:
        watch, self.watch = self.watch, None
        if watch is not None:
            watch.stop()

    def _answer(self, news: News | None) -> None:
        """Answer the connect that is held, if there is one, and stay."""
        connect, self.connect = self.connect, None
        if connect is not None:
            events = self.delivery.complete_connect(connect, news)
            self.delivery.sessions.release(self.session, self.delivery.hub.clock.seconds())
            self.home.send(b"[%b%b]" % (events, dumps(connect.reply)))
            self.home.note_sending(self.session)
        self._stay(None)

    def _stay(self, wait: float | None) -> None:
        """Wait at what the session reads now, for another ``wait`` seconds; None: until it leaves."""
        self.rekey()
        if self.registry is not None:
            self.registry.set_wait(self, wait)


def _frame(found: Batch, events: bytes, *, shared: bool) -> bytes:
    """Return the frame that carries a batch's events; what all get who read the same is made once."""
    if not shared:
        return text_frame(b"[%b]" % events[:-1])
    return found.once("bayeux-frame", lambda _: text_frame(b"[%b]" % events[:-1]))


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)
