"""Replies: Deferreds that the coroutines of Twisted and of asyncio await alike.

A Deferred cannot be awaited by asyncio's coroutines, nor a Future by Twisted's. A ``Reply`` is a Deferred,
and awaits a Future of its own where asyncio drives the coroutine. ``CancellableCall`` runs a coroutine that
a ``Reply`` can cancel.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from inspect import CORO_RUNNING, getcoroutinestate
from typing import Any, Generic, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

P = ParamSpec("P")
T = TypeVar("T")


class Reply(Deferred[T]):
    """A Deferred that coroutines of asyncio can await as well as those of Twisted.

    Cancelling an asyncio task that awaits it cancels it.
    """

    def __init__(self, canceller: Callable[[Deferred[Any]], None] | None = None) -> None:
        super().__init__(canceller)
        self._begun_on = running_loop()

    def __await__(self) -> Generator[Any, None, T]:
        """Return the result. Raises ``RuntimeError`` on an asyncio loop on which it can never arrive."""
        loop = None if self.called else running_loop()
        if loop is None:
            return (yield from iter(self))
        if self._begun_on is not loop and not _serves_the_reactor(loop):
            raise RuntimeError(
                "This request was begun outside of the asyncio loop that awaits it. "
                "Begin it in a coroutine of that loop, as in: await client.push('bob', 'hi')."
            )
        return (yield from self._await_on(loop))

    def _await_on(self, loop: asyncio.AbstractEventLoop) -> Generator[Any, None, T]:
        future: asyncio.Future[T] = loop.create_future()
        asyncio_drives = True

        def arrived(result: T | Failure) -> T | Failure | None:
            if future.done():
                return result
            if isinstance(result, Failure):
                future.set_exception(_exception(result))
            else:
                future.set_result(result)
            return None

        def over(_: object) -> None:
            if asyncio_drives and future.cancelled():
                self.addErrback(lambda failure: failure.trap(CancelledError) and None)
                self.cancel()

        self.addBoth(arrived)
        future.add_done_callback(over)
        waiting = iter(future)
        yield next(waiting)
        if future.done():
            return future.result()
        # Twisted drives this coroutine, although asyncio's loop runs below it. It does not know what a
        # future is, and hands back at once what it does not know.
        asyncio_drives = False
        waiting.close()
        future.cancel()
        return (yield from iter(self))


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


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the asyncio loop that runs in this thread, None where none does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _serves_the_reactor(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether Twisted's reactor was installed on an asyncio loop."""
    reactor = sys.modules.get("twisted.internet.reactor")
    return getattr(reactor, "_asyncioEventloop", None) is loop


def _exception(failure: Failure) -> BaseException:
    assert failure.value is not None, "a failure that was not cleaned has one"
    return failure.value
