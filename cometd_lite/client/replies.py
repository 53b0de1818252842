"""What waits: a coroutine of Twisted's arrives, a ``Reply`` leaves, which any coroutine can await.

A Deferred cannot be awaited by asyncio's coroutines, nor a Future by Twisted's. A ``Reply`` is the first and
pretends to be the second where asyncio asks. ``reactor_here`` finds the reactor that makes it come true.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from inspect import CORO_RUNNING, getcoroutinestate
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class Reply(Deferred[T]):
    """A Deferred that coroutines of asyncio can await as well as those of Twisted.

    To cancel a task that waits for it is to cancel it.
    """

    def __await__(self) -> Generator[Any, None, T]:
        """Return the result once it is there."""
        try:
            loop = None if self.called else asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        return (yield from (iter(self) if loop is None else self._await_upon(loop)))

    def _await_upon(self, loop: asyncio.AbstractEventLoop) -> Generator[Any, None, T]:
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


class Work(Generic[T]):
    """A coroutine of Twisted's under way, and its ``reply``, which may be left at any time.

    ``begin`` makes the coroutine; one that calls what its caller gave it calls ``go_on`` afterwards.
    ``reply`` is a ``Reply`` unless another Deferred is given.
    """

    def __init__(
        self,
        begin: Callable[[Work[T]], Coroutine[Deferred[Any], Any, T]],
        reply: type[Deferred[T]] | None = None,
    ) -> None:
        self.reply: Deferred[T] = (reply or Reply)(lambda _: self.end(CancelledError()))
        self._left = False
        self._coroutine = begin(self)
        self._inner = Deferred.fromCoroutine(self._coroutine)
        self._inner.addBoth(self._arrived)

    def end(self, reason: Exception) -> None:
        """Cancel the work, and fail the reply with ``reason``, whatever the work fails with at that."""
        if self.reply.called or self._left:
            return
        self._left = True
        if getcoroutinestate(self._coroutine) != CORO_RUNNING:  # else it has called us, and will call go_on
            self._inner.cancel()
        self.reply.errback(reason)

    def go_on(self) -> None:
        """Raise ``CancelledError`` where the reply was left meanwhile."""
        if self._left:
            raise CancelledError

    def _arrived(self, result: T | Failure) -> None:
        if not self._left:
            self.reply.callback(result)


def reply(work: Coroutine[Deferred[Any], Any, T]) -> Reply[T]:
    """Return what a coroutine will return, as a Reply; to cancel that ends it."""
    return reply_of(lambda _: work)


def reply_of(begin: Callable[[Work[T]], Coroutine[Deferred[Any], Any, T]]) -> Reply[T]:
    """Return what the coroutine that ``begin`` makes will return, as a Reply; to cancel that ends it."""
    made = Work(begin).reply
    assert isinstance(made, Reply)
    return made


def done(value: T) -> Reply[T]:
    """Return a Reply that is there already."""
    made: Reply[T] = Reply()
    made.callback(value)
    return made


def reactor_here() -> Any:
    """Return the reactor that serves the caller; in an asyncio program, one upon its running loop.

    There it is installed where none was yet, and started. Raises ``RuntimeError`` where another one, upon
    which nothing would ever happen here, was installed before.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        from twisted.internet import reactor  # noqa: PLC0415  importing it installs one

        return reactor
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor, install  # noqa: PLC0415  only here

    if "twisted.internet.reactor" not in sys.modules:
        install(loop)
    here = sys.modules["twisted.internet.reactor"]
    if not isinstance(here, AsyncioSelectorReactor):
        raise RuntimeError(  # noqa: TRY004  nobody gave an argument of a wrong type
            "Twisted's reactor is not upon this asyncio loop. Make the first request before anything imports "
            "twisted.internet.reactor, or call twisted.internet.asyncioreactor.install() first."
        )
    if not here.running:
        here.startRunning(installSignalHandlers=False)
        # Host names are looked up in threads. Nothing stops this reactor, so they must not keep the
        # program from ending.
        here.getThreadPool().threadFactory = _daemon  # type: ignore[assignment]  # a function that makes one
        _loops.add(loop)
    elif _loops and loop not in _loops:
        raise RuntimeError("Twisted's reactor is upon another asyncio loop; a process has one of each.")
    return here


_loops: set[asyncio.AbstractEventLoop] = set()
"""The loop that ``reactor_here`` has started a reactor upon, once it has."""


def _daemon(*how: Any, **more: Any) -> threading.Thread:
    return threading.Thread(*how, daemon=True, **more)


def _exception(failure: Failure) -> BaseException:
    assert failure.value is not None, "a failure that was not cleaned has one"
    return failure.value
