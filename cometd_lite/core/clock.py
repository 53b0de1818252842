"""The clock by which waits and ages are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer


@implementer(IReactorTime)
class Monotonic:
    """A reactor's timers beside the monotonic clock: setting the machine's clock makes no message older."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor

    seconds = staticmethod(time.monotonic)

    def callLater(  # noqa: N802  Twisted's name
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002  Twisted's name
        *given: object,
        **words: object,
    ) -> IDelayedCall:
        """Call something after ``delay`` seconds."""
        return self._reactor.callLater(delay, callable, *given, **words)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:  # noqa: N802  Twisted's name
        """Return what is still to be called."""
        return self._reactor.getDelayedCalls()
