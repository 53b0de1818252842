"""Readers of Bayeux sessions: a connect that is held over HTTP is one; a session's socket is another.

A connect is a poll of its session: a parked reader that stands at the session's keys and reads after the
session's place.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

from ..core.message import Batch
from ..core.parked import Wake
from ..core.readers import Reader
from ..deferreds import MaybeDeferred
from ..http.responses import Response
from ..jsontext import dumps
from ..limits import POLL_MESSAGES_MOST
from .answers import Connect
from .delivery import Delivery, Form, News
from .effects import Peer
from .events import events_of
from .http import REPLACED_ANSWER, Asking
from .sessions import BayeuxSession

T = TypeVar("T")


class SessionReader(Reader[T]):
    """A parked reader of what there is for a session."""

    _must_look_again = False

    def __init__(self, delivery: Delivery, session: BayeuxSession) -> None:
        Reader.__init__(self, delivery.hub, session.keys)
        self.delivery = delivery
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
        return not self.session.answering and self.can_look()

    def read(self) -> MaybeDeferred[Batch]:
        session = self.session
        return self.delivery.read(session) if session.reads else Batch((), session.place)

    def question(self) -> Hashable:
        """Return what is asked for: where the session reads with others, what these ask too.

        The place is always a part of it: a reader that looks once more in the same wake must not be given
        what it was given before.
        """
        session = self.session
        if session.patterned or session.since or not session.reads:
            return (self, session.place)
        return (session.reads, session.place, POLL_MESSAGES_MOST)

    def rekey(self) -> None:
        """Wait at what the session reads now."""
        if self.registry is not None and self.keys is not self.session.keys:
            self.registry.move(self, self.session.keys)

    def deliver(self, found: Batch) -> None:
        """Deliver what is news to the session."""
        session = self.session
        if session.answering:
            return  # the answer that is being made will carry it
        if session.place is not self.place and found:
            self._must_look_again = True  # another answer has carried some of it in the meantime
            return
        events = events_of(found, session) if found else b""
        if events or found.gap or session.gap:
            self.send((found, events) if found else None)
        elif found:
            session.advance(found.cursor)  # all of it was what the session does not want
            self._must_look_again = found.more

    def send(self, news: News | None) -> None:
        """Send the news, if that is possible."""
        raise NotImplementedError

    def _go_on(self, wake: Wake | None) -> None:
        Reader._go_on(self, wake)
        if self._must_look_again and not self.is_reading:
            Wake([self]).run(1)


class HeldConnect(SessionReader[Response]):
    """A connect that is held over HTTP: a poll of its session."""

    def __init__(self, delivery: Delivery, connect: Connect, asking: Asking, form: Form) -> None:
        SessionReader.__init__(self, delivery, connect.session)
        self.connect = connect
        self.asking = asking
        self.form = form

    def begin(self, wait: float) -> None:
        """Hold the session and wait, unless there is something already. Raises ``ServerFull``."""
        session = self.session
        self.delivery.hub.registry.park(self, wait)
        session.reader = self
        session.browser.held += 1
        self.delivery.sessions.hold(session)
        Wake([self]).run(1)

    def send(self, news: News | None) -> None:
        """Answer, if the client is there; else its place stays where it was, for when it comes back."""
        if not self.asking.was_disconnected():
            self.answer(self._made(news))

    def answer(self, result: Response) -> None:
        """Leave, and fire with the response; the session does not expire while that is on its way."""
        super().answer(result)
        self.delivery.answered(self.session, len(result.body), self.asking)

    def over(self) -> Response:
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
        if self.registry is not None:
            session, delivery = self.session, self.delivery
            if session.reader is self:
                session.reader = None
            session.browser.held -= 1
            delivery.sessions.release(session, delivery.hub.clock.seconds())
        SessionReader.leave(self)

    def _made(self, news: News | None) -> Response:
        def made() -> bytes:
            events = self.delivery.complete_connect(self.connect, news)
            return b"[%b%b]" % (events, dumps(self.connect.reply))

        return self.delivery.respond(self.session, self.form, made)
