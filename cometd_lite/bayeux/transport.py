"""Bayeux over a hub: requests arrive, arrays of messages leave (HTTP.md, "Bayeux").

What the protocol leaves open is done so:

- An event's ``data`` is the JSON that was pushed, a text as a string, and for other types
  ``{"data_base64": "…", "type": "image/png"}``. It has no ``id``. Its ``ext`` has the name of the pushed
  event and the mark of CometD's binary extension, and nothing else: what a publisher says to the server, a
  password perhaps, is not delivered to others.
- A client that missed something, because it was dropped, expired or deleted before it could be notified,
  finds ``ext.gap: true`` in the reply to its next connect, which is then not held.
- Events of a client's own request come with its answer, in preference to waking its connect.
- A connect that a later one of the same client replaced ends with 409 over HTTP and
  ``409::connect_replaced`` over a socket, without advice. One that cannot be held, because as many are as may
  be or the server stops, is refused with 503, and clients back off of their own accord.
- Recipients ``meta/…`` and ``service/…``, which anyone may push to over HTTP, reach no Bayeux client.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from ..access.policy import Rights
from ..core.hub import Hub
from ..core.recipient import readable
from ..deferreds import MaybeDeferred, chain, shielded
from ..errors import BadParameter, Stopping
from ..http.responses import Response
from ..limits import BAYEUX_SOCKET_BACKLOG_BYTES, Limits
from .answers import BatchAnswer, Connect
from .connects import HeldConnect
from .conversation import Bayeux
from .delivery import Delivery, Form, News
from .effects import Effects, Look, Peer, Service
from .fields import batch_of
from .http import Asking, browser_of, is_callback, json_answer, parsed, posted, script_answer, set_cookie
from .options import BayeuxOptions
from .plain import PlainRoad

Held: TypeAlias = tuple[Connect, float]
"""A connect that is to be held, and for how many seconds at the most."""


class BayeuxTransport:
    """The Bayeux side of a hub: its sessions, services, held connects and sockets."""

    def __init__(self, hub: Hub, limits: Limits, options: BayeuxOptions | None = None) -> None:
        self.hub = hub
        self.options = options or BayeuxOptions()
        self.bayeux = Bayeux(self.options, limits)
        self.bayeux.check_names = hub.check_presence
        self.sessions = self.bayeux.sessions
        self.delivery = Delivery(hub, self.bayeux)
        self._plain = PlainRoad(self.delivery, self.options, limits)
        self.backlog_bytes = max(BAYEUX_SOCKET_BACKLOG_BYTES, limits.max_batch)
        """Bytes of texts that wait at one socket."""
        self.sockets: set[Callable[[], None]] = set()
        """What ends each socket when the server stops."""

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
        return self.delivery.deliver(client_id, {"channel": channel, "data": data})

    # -- what the routes call

    def post(
        self, body: bytes, media_type: bytes | None, asking: Asking, rights: Rights | None = None
    ) -> MaybeDeferred[Response]:
        """Answer a request of the long-polling transport ("The long-polling request messages").

        Raises ``BadBody`` or ``BodyTooLarge``, and ``ServerFull`` or ``Stopping`` where a connect cannot be
        held.
        """
        value = posted(body, media_type)
        answered = self._plain.answer(value, asking) if rights is None else None
        if answered is None:
            return self._respond(batch_of(value), asking, json_answer, rights)
        return answered

    def get(
        self, query: dict[str, list[str]], asking: Asking, rights: Rights | None = None
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

    def converse(self, batch: list[Any], peer: Peer, answer: BatchAnswer) -> Effects[None]:
        """Return the conversation about a batch, which fills in the answer; ``delivery`` runs it."""
        return self.bayeux.converse(batch, peer, answer, self.hub.clock.seconds(), self.hub.wall())

    def sweep(self) -> None:
        """Let go of the sessions that did not connect again in time; to be called every second."""
        now = self.hub.clock.seconds()
        for session in self.sessions.expire(now):
            self.delivery.drop(session)
        if self.sessions.is_due(now):
            self.hub.clock.callLater(0, self.sweep)

    def stop(self) -> None:
        """Close the sockets that speak for no session; the others are readers, and ended by the hub."""
        for stop in tuple(self.sockets):
            stop()

    def __len__(self) -> int:
        return len(self.sessions)

    # -- a request

    def _respond(
        self, batch: list[Any], asking: Asking, form: Form, rights: Rights | None
    ) -> MaybeDeferred[Response]:
        peer = Peer(browser_of(asking.head.get(b"cookie")), rights)
        conversation = self._answer(batch, peer, asking, form)
        # The client may disconnect, and what is returned is cancelled. What the batch asked for is done
        # nevertheless; only a connect is not held then, or no longer.
        answered: MaybeDeferred[Any] = shielded(self.delivery.run(conversation))
        return chain(answered, self._respond_or_hold, asking, form, rights)

    def _answer(self, batch: list[Any], peer: Peer, asking: Asking, form: Form) -> Effects[Response | Held]:
        """Return the answer to a batch, or the connect that is to be held."""
        with BatchAnswer() as answer:
            yield from self.converse(batch, peer, answer)
            if answer.cookie is not None:
                return form(answer.json()).with_head(set_cookie(answer.cookie, asking.is_secure))
            if answer.wait > 0:
                if peer.rights is not None:
                    peer.rights.grant.check_room()
                if self._may_hold(answer.connects[0]):
                    return answer.connects[0], answer.wait
            session = answer.session
            news = None
            if session is not None and answer.may_carry:
                news = yield Look(session)
                if news is not None and asking.was_disconnected():
                    news = None
            response = self._made(answer, news, form)
        if session is not None:
            self.delivery.answered(session, len(response.body), asking)
            if session.reader is not None:
                self.delivery.refresh(session)
        return response

    def _made(self, answer: BatchAnswer, news: News | None, form: Form) -> Response:
        def made() -> bytes:
            return answer.json(self.delivery.complete(answer, news))

        session = answer.session
        return form(made()) if session is None else self.delivery.respond(session, form, made)

    def _may_hold(self, connect: Connect) -> bool:
        """Return whether a connect may be held: one of each browser may.

        Raises ``Stopping``.
        """
        session = connect.session
        if session.browser.held >= self.options.held_for_a_browser:
            connect.reply["advice"] = self.sessions.throttle(session)
            return False
        if session.throttled:
            connect.reply["advice"] = self.sessions.unthrottle(session)
        # A client whose connect cannot be held is refused as a poll is. An answer would need an interval,
        # which aiocometd takes for seconds; but every client waits of its own accord after a failure.
        if self.hub.stopping:
            raise Stopping("The server is stopping; come back in a moment.")
        return True

    def _respond_or_hold(
        self, answer: Response | Held, asking: Asking, form: Form, rights: Rights | None
    ) -> MaybeDeferred[Response]:
        """Return a response, or hold a connect until there is something for its session."""
        if isinstance(answer, Response):
            return answer
        connect, wait = answer
        held = HeldConnect(self.delivery, connect, asking, form)
        if rights is not None:
            held.name = rights.grant.name
        held.begin(wait)
        if rights is not None:
            rights.grant.hold(held)
            held.admission = rights.grant.key
        return held
