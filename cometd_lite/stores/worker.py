"""The thread in which a store waits for its disk, so that the reactor never does."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

from twisted.python.failure import Failure

Work = Callable[[], None]
Done = Callable[[Failure | None], None]


class ThreadWorker:
    """Does what waits for the disk, one thing after the other, in a thread that begins with the first work.

    ``reactor`` is Twisted's.
    """

    def __init__(self, reactor: Any = None) -> None:
        self._given = reactor
        self._works: SimpleQueue[tuple[Work, Done] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def soon(self, call: Callable[[], None], seconds: float = 0.0) -> None:
        """Call in the reactor's thread, once all that has arrived by now, or in so long, was looked at."""
        self._reactor().callLater(seconds, call)

    def run(self, work: Work, done: Done) -> None:
        """Do ``work`` in the thread, then call ``done`` in the reactor's with None or what it raised."""
        if self._thread is None:
            # A daemon: what must be written is waited for by ``SQLiteStore.close``, not at the exit.
            self._thread = Thread(target=self._work, name="cometd-lite-store", daemon=True)
            self._thread.start()
        self._works.put((work, done))

    def stop(self) -> None:
        """Let go of the thread, after what it was given."""
        self._works.put(None)

    def _work(self) -> None:
        reactor = self._reactor()
        while (given := self._works.get()) is not None:
            work, done = given
            failure = None
            try:
                work()
            except BaseException:  # noqa: BLE001  every failure is reported to the caller
                failure = Failure()
            reactor.callFromThread(done, failure)
            del given, work, done  # else this thread frees all of it, before it begins with the next work

    def _reactor(self) -> Any:
        if self._given is None:
            from twisted.internet import reactor  # noqa: PLC0415  importing it at the top would install one

            self._given = reactor
        return self._given
