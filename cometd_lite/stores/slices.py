"""Work that is too long for one turn of the reactor, done in steps.

Work is a generator that yields after each step. Steps are short, a millisecond or two. Everything that is
under way gets a step in turn, for ``SLICE_SECONDS`` in one turn of the reactor.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..deferreds import MaybeDeferred
from ..limits import SLICE_SECONDS

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
Soon: TypeAlias = Callable[[Callable[[], None]], object]
"""Calls something in the next turn of the reactor."""


class Slices:
    """The work that is under way. ``soon`` is Twisted's reactor's unless another one is given."""

    def __init__(self, soon: Soon | None = None) -> None:
        self._soon = soon or _in_reactor
        self._work: deque[tuple[Steps[Any], Deferred[Any]]] = deque()
        self._is_called = False

    def run(self, steps: Steps[T]) -> MaybeDeferred[T]:
        """Do the first step now and the others in later turns; return the result, or what fires with it.

        Cancelling the Deferred ends the work after its last step. What a step raises is raised, or is the
        failure of the Deferred.
        """
        try:
            next(steps)
        except StopIteration as ended:
            result: T = ended.value
            return result
        done: Deferred[T] = Deferred(lambda _: steps.close())
        self._work.append((steps, done))
        self._call()
        return done

    def _call(self) -> None:
        if self._work and not self._is_called:
            self._is_called = True
            self._soon(self._turn)

    def _turn(self) -> None:
        until = time.perf_counter() + SLICE_SECONDS
        try:
            while self._work:
                self._step(*self._work.popleft())
                if time.perf_counter() >= until:
                    break
        finally:
            self._is_called = False
            self._call()

    def _step(self, steps: Steps[Any], done: Deferred[Any]) -> None:
        if done.called:
            return  # it was cancelled
        try:
            next(steps)
        except StopIteration as ended:
            done.callback(ended.value)
        except Exception:  # noqa: BLE001  every failure is reported to the caller
            done.errback(Failure())
        else:
            self._work.append((steps, done))


def _in_reactor(call: Callable[[], None]) -> None:
    from twisted.internet import reactor  # noqa: PLC0415  importing it at the top would install one

    reactor.callLater(0, call)
