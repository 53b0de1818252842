"""Bayeux conversations are run here: each effect is performed, and what became of it is sent back."""

from __future__ import annotations

from inspect import iscoroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..core.message import NOW
from ..deferreds import MaybeDeferred, chain, is_pending
from ..errors import CometError, InternalError
from .conversation import Bayeux
from .delivery import Delivery
from .effects import Ask, Call, Effect, Effects, Forget, Give, Locate, Look, Replace, Serve, Service
from .sessions import PRIVATE, BayeuxSession

T = TypeVar("T")


class Performer:
    """Performs the effects of conversations over the hub of a ``Delivery``."""

    log = Logger()

    def __init__(self, bayeux: Bayeux, delivery: Delivery) -> None:
        self.bayeux = bayeux
        self.delivery = delivery
        self.hub = delivery.hub

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
        session = self.bayeux.sessions.get(client_id, self.hub.clock.seconds())
        if session is None:
            return False

        def delivered(_: None) -> bool:
            self.delivery.refresh(session)
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
            return self.delivery.news_if_any(effect.session)
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
            return self.deliver(call.client_id, call.event(data))
        return None

    def translated(self, failure: Failure) -> Failure:
        """Return a failure with the ``CometError`` that clients are told; what it was is logged."""
        if isinstance(failure.value, CometError):
            return failure
        self.log.failure("A store failed", failure)
        return Failure(InternalError("The server failed at this message, and has noted why."))
