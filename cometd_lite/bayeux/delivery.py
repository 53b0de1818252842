"""What there is for Bayeux sessions, and how it leaves: read after a session's place, and put into an answer.

The place of a session moves on when an answer is written to a client that is there, and under the
acknowledgement extension when the client says that it has it. So whatever a client that vanished was not
given is there when it comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import iscoroutine
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..core.hub import Hub
from ..core.message import NOW, Batch
from ..core.parked import Wake
from ..deferreds import MaybeDeferred, chain, is_pending
from ..errors import CometError, InternalError
from ..http.responses import Response
from ..limits import LARGE_ANSWER_BYTES, POLL_MESSAGES_MOST
from .answers import BatchAnswer, Connect
from .conversation import Bayeux
from .effects import Ask, Call, Effect, Effects, Forget, Give, Locate, Look, Replace, Serve, Service
from .events import events_of
from .http import Asking
from .sessions import PRIVATE, BayeuxSession

T = TypeVar("T")

Form: TypeAlias = Callable[[bytes], Response]
"""Makes an HTTP response of an array of messages."""

News: TypeAlias = tuple[Batch, bytes]
"""What there is for a session, and how Bayeux says it: events, each with a comma behind it."""


class EventsResponse(Response, frozen=True, gc=False, kw_only=True):
    """A response that carries events; ``undo`` is for where it could not be delivered."""

    undo: Callable[[], object]


class Delivery:
    """The way from a hub's mailboxes to the answers that carry them to its Bayeux sessions.

    It runs the conversations: each effect is performed, and what became of it is sent back.
    """

    log = Logger()

    def __init__(self, hub: Hub, bayeux: Bayeux) -> None:
        self.hub = hub
        self.bayeux = bayeux
        self.sessions = bayeux.sessions

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
                return self.news(session)  # another answer has delivered it in the meantime
            if not found:
                return None
            events = events_of(found, session)
            if events or found.gap:
                return found, events
            session.advance(found.cursor)  # all of it was what it does not want
            return self.news(session) if found.more else None

        return chain(self.read(session), look)

    def refresh(self, session: BayeuxSession) -> None:
        """Make the session's reader look again, at what the session reads now."""
        reader = session.reader
        if reader is not None:
            reader.rekey()
            Wake([reader]).run(1)

    # -- answers

    def answered(self, session: BayeuxSession, size: int, asking: Asking) -> None:
        """Let a session live while an answer of ``size`` bytes is on its way."""
        if size > LARGE_ANSWER_BYTES:  # of most answers, the clock need not be asked
            self.sessions.answered(session, self.hub.clock.seconds(), size, asking.is_sending)

    def respond(self, session: BayeuxSession, form: Form, make: Callable[[], bytes]) -> Response:
        """Return the response that ``form`` makes of an answer, which may carry events of a session.

        ``make`` returns the answer's array, and moves the session's place on.
        """
        place, since, gap = session.place, session.since, session.gap
        response = form(make())
        there = session.place
        if there is place:
            return response

        def undo() -> None:
            if session.place is there:  # else a later answer has carried more
                session.go_back(place, since)
                session.gap |= gap
                self.refresh(session)

        return EventsResponse(response.status, response.head, response.body, undo=undo)

    def complete(self, answer: BatchAnswer, news: News | None) -> bytes:
        """Complete the replies to the connects of an answer; return the events that go with them."""
        session = answer.session
        events = b""
        for connect in answer.connects:
            if connect.session is session:
                events += self.complete_connect(connect, news)
                news = None
            else:
                self.complete_connect(connect, None)
            self.sessions.touch(connect.session, self.hub.clock.seconds())
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

    # -- conversations

    def run(self, conversation: Effects[T]) -> MaybeDeferred[T]:
        """Run a conversation, and return what it returns, or a Deferred of it where an effect takes time.

        Raises, or fails with, what the conversation raises.
        """
        return self._resume(None, conversation)

    def _resume(self, value: Any, conversation: Effects[T]) -> MaybeDeferred[T]:
        """Go on with a conversation that waits for ``value``; a ``Failure`` is thrown in."""
        while True:
            try:
                is_error = isinstance(value, Failure)
                effect = conversation.throw(value.value) if is_error else conversation.send(value)
            except StopIteration as stop:
                returned: T = stop.value
                return returned
            try:
                value = self._perform(effect)
            except CometError:
                value = Failure()
            if is_pending(value):
                return value.addErrback(self.translated).addBoth(self._resume, conversation)

    def deliver(self, client_id: str, event: dict[str, Any]) -> MaybeDeferred[bool]:
        """Give one session alone an event; return whether there is such a session.

        Raises ``BadBody`` where JSON cannot say it, else as a push does.
        """
        session = self.sessions.get(client_id, self.hub.clock.seconds())
        if session is None:
            return False

        def delivered(_: None) -> bool:
            self.refresh(session)
            return True

        return chain(self.run(self.bayeux.deliver(session, event)), delivered)

    def drop(self, session: BayeuxSession) -> None:
        """Let go of what a session had, which is no more."""
        if session.reader is not None:
            session.reader.leave()
        if session.private:
            deleted = self.hub.delete(PRIVATE + session.id)
            if is_pending(deleted):
                deleted.addErrback(self.hub.store_failed)

    def _perform(self, effect: Effect) -> MaybeDeferred[Any]:
        if isinstance(effect, Look):
            return self.news_if_any(effect.session)
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
            self.drop(effect.session)
        return None

    def _serve(self, handler: Service, call: Call) -> Any:
        try:
            answer = handler(call)
        except CometError:
            raise
        except Exception:  # noqa: BLE001  whatever a program's handler raises, its caller is answered
            self.log.failure("The service {channel} failed", channel=call.channel)
            raise InternalError("The service failed; the server's log says why.") from None
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
            return self.deliver(call.client_id, call.event(data))
        return None

    def translated(self, failure: Failure) -> Failure:
        """Return a failure with the ``CometError`` that clients get; what it was is logged."""
        if isinstance(failure.value, CometError):
            return failure
        self.log.failure("A store failed", failure)
        return Failure(InternalError("The server failed to handle this message; its log says why."))
