"""Calls of coroutines that answer with a ``Reply``, and that it can cancel."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import CORO_RUNNING, getcoroutinestate
from typing import Any, Generic, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ..deferreds import Reply

P = ParamSpec("P")
T = TypeVar("T")


class CancellableCall(Generic[T]):
    """A call of a coroutine function, and its ``reply``, which may be cancelled at any time.

    ``begin`` makes the coroutine. The coroutine calls ``check_cancelled`` after a failed request, which may
    have failed for that reason, and after a function of its user's, which may have cancelled the reply.
    """

    def __init__(self, begin: Callable[[CancellableCall[T]], Coroutine[Deferred[Any], Any, T]]) -> None:
        self.reply: Reply[T] = Reply(lambda _: self.cancel(CancelledError()))
        self._cancelled = False
        self._coroutine = begin(self)
        self._result = Deferred.fromCoroutine(self._coroutine)
        self._result.addBoth(self._finished)

    def cancel(self, reason: Exception) -> None:
        """Cancel the coroutine, and fail the reply with ``reason``, whatever the coroutine fails with."""
        if self.reply.called or self._cancelled:
            return
        self._cancelled = True
        if getcoroutinestate(self._coroutine) != CORO_RUNNING:  # else it calls check_cancelled
            self._result.cancel()
        self.reply.errback(reason)

    def check_cancelled(self) -> None:
        """Raise ``CancelledError`` where the reply was cancelled."""
        if self._cancelled:
            raise CancelledError

    def _finished(self, result: T | Failure) -> None:
        if not self._cancelled:
            self.reply.callback(result)


def reply(coroutine: Coroutine[Deferred[Any], Any, T]) -> Reply[T]:
    """Return what a coroutine returns, as a Reply; cancelling that cancels the coroutine."""
    return CancellableCall(lambda _: coroutine).reply


def replying(function: Callable[P, Coroutine[Deferred[Any], Any, T]]) -> Callable[P, Reply[T]]:
    """Make a function that returns a Reply of a coroutine function; it begins when it is called."""

    @wraps(function)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Reply[T]:
        return reply(function(*args, **kwargs))

    return begin
