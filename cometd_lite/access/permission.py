"""What the application has allowed a reader: it is asked again when the time of its answer is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from ..deferreds import is_pending
from ..errors import CometError, ServerFull
from ..limits import APPLICATION_ASKED_AGAIN_SECONDS, APPLICATION_SECONDS, WAIT_SPREAD
from .application import Allowance, Authorizer
from .asker import Asker
from .questions import question_of

_RETRY_SECONDS = 1.0
"""The pause until a reader is asked about again where as many questions are under way as may be."""


@dataclass(frozen=True, slots=True)
class Permission:
    """What the application has answered to one question, for the readers that it has let in.

    The question itself is not kept, because a parked request has what it is made of.
    """

    application: Authorizer
    asker: Asker
    action: str
    names: tuple[str, ...]
    allowance: Allowance

    def watch(self, parked: Deferred[Any], end: Callable[[CometError], object]) -> Watch | None:
        """Ask again whenever the answer's time is over, until ``parked`` fires; None where it holds for good.

        Where the application refuses then, or does not decide, ``end`` is called with the error.
        """
        if self.allowance.expires_at is None:
            return None
        watch = Watch(self, end)

        def stop(result: Any) -> Any:
            watch.stop()
            return result

        parked.addBoth(stop)
        return watch


class Watch:
    """Asks the application again and again, whenever the time of its answer is over, until it is stopped."""

    def __init__(self, permission: Permission, end: Callable[[CometError], object]) -> None:
        self._permission = permission
        self._application = permission.application
        self._end: Callable[[CometError], object] | None = end
        self._expires_at = 0.0
        self._waits_for: IDelayedCall | Deferred[Allowance] | None = None
        """The time to ask, or the answer."""
        self._allowed(permission.allowance)

    def stop(self) -> None:
        """Ask no more."""
        self._end = None
        waits_for, self._waits_for = self._waits_for, None
        if waits_for is not None:
            waits_for.cancel()

    def _allowed(self, allowance: Allowance) -> None:
        """Wait until the time is over; readers that came together are not asked about in one moment."""
        self._waits_for = None
        if self._end is not None and allowance.expires_at is not None:
            self._expires_at = allowance.expires_at
            left = self._expires_at - self._application.clock.seconds()
            left *= 1 - WAIT_SPREAD * self._application.random.random()
            self._ask_in(max(APPLICATION_ASKED_AGAIN_SECONDS, left))

    def _ask_in(self, seconds: float) -> None:
        self._waits_for = self._application.clock.callLater(seconds, self._ask)

    def _ask(self) -> None:
        self._waits_for = None
        asked = self._permission
        try:
            question = question_of(asked.asker, asked.action, asked.names)
            answer = self._application.ask(question, self._expires_at)
        except CometError as error:
            is_late = self._application.clock.seconds() >= self._expires_at + APPLICATION_SECONDS
            if isinstance(error, ServerFull) and not is_late:
                self._ask_in(_RETRY_SECONDS * (1 + self._application.random.random()))
            else:
                self._refused(Failure(error))
            return
        if is_pending(answer):
            self._waits_for = answer
            answer.addCallbacks(self._allowed, self._refused)
        else:
            self._allowed(answer)

    def _refused(self, failure: Failure) -> None:
        self._waits_for = None
        end, self._end = self._end, None
        if end is not None:
            error = failure.value
            assert isinstance(error, CometError), "an application fails with nothing else"
            end(error)
