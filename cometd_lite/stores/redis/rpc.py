"""Questions that processes ask each other: bytes arrive for another process, its answer comes back.

What is sent goes through a channel that each process listens to, by ``publish``: it is given a process' name
and bytes, and returns a Deferred of how many processes received it. A question is answered, or fails with
``ProcessGone`` or ``StoreDown``; cancelling it notifies the other process that the answer is not needed.

The caller confirms an answer for whose loss something is to be done, or says that it has no use for it. What
is neither, because a process or a connection has ended in between, counts as lost.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...core.store import Answerer, ProcessGone, RPCAnswer
from ...deferreds import is_pending
from ...errors import InternalError, StoreDown

Publish = Callable[[str, bytes], Deferred[int]]


class Calls:
    """The ``RPC`` of one process; ``process`` is its name among all."""

    log = Logger()

    def __init__(self, process: str, publish: Publish) -> None:
        self.answerer: Answerer | None = None
        self._process = process
        self._publish = publish
        self._asked: dict[int, tuple[str, Deferred[bytes], Callable[[], bool]]] = {}
        self._answering: dict[bytes, Deferred[RPCAnswer]] = {}
        self._unconfirmed: dict[bytes, Callable[[], object]] = {}
        """What is to be done where an answer that was sent is lost, by the caller and its number."""
        self._number = 0

    @property
    def asked(self) -> set[str]:
        """The processes of which an answer is awaited, or that have not confirmed one."""
        callers = {key.partition(b" ")[0].decode() for key in self._unconfirmed}
        return callers | {process for process, *_ in self._asked.values()}

    def ask(
        self, process: str, question: bytes, is_disconnected: Callable[[], bool] = lambda: False
    ) -> Deferred[bytes]:
        """Return the answer of another process; see ``RPC.ask``."""
        self._number += 1
        number = self._number
        answer: Deferred[bytes] = Deferred(lambda _: self._leave(number))
        self._asked[number] = (process, answer, is_disconnected)
        sent = self._publish(process, b"ask %b %d %b" % (self._process.encode(), number, question))
        sent.addCallbacks(self._sent, self._not_sent, callbackArgs=(number,), errbackArgs=(number,))
        return answer

    def received(self, kind: bytes, said: bytes) -> None:
        """Take in what came through this process' channel."""
        if kind == b"ask":
            caller, number, question = said.split(b" ", 2)
            self._answer(caller, number, question)
        elif kind == b"left":
            answering = self._answering.pop(said, None)
            if answering is not None:
                answering.cancel()
        elif kind in {b"answer", b"confirm"}:
            number, _, answer = said.partition(b" ")
            self._take_answer(int(number), answer, confirms=kind == b"confirm")
        elif kind == b"got":
            self._unconfirmed.pop(said, None)
        elif kind == b"lost":
            self._lose(said)
        elif kind == b"failed":
            self._fail(int(said), InternalError("The server failed at this request; its log says why."))

    def process_ended(self, process: str) -> None:
        """Let go of what a process was asked that is no more, and of what it has not confirmed."""
        for number in [number for number, (asked, *_) in self._asked.items() if asked == process]:
            self._fail(number, ProcessGone())
        caller = b"%b " % process.encode()
        for key in [key for key in self._unconfirmed if key.startswith(caller)]:
            self._lose(key)

    def cut_off(self) -> None:
        """Fail all pending questions, because the connection is lost."""
        for number in tuple(self._asked):
            self._fail(number, StoreDown())
        answering, self._answering = self._answering, {}
        for one in answering.values():
            one.cancel()
        for key in tuple(self._unconfirmed):
            self._lose(key)

    def _sent(self, receivers: int, number: int) -> None:
        if not receivers:
            self._fail(number, ProcessGone())

    def _not_sent(self, failure: Failure, number: int) -> None:
        self._fail(number, failure)

    def _fail(self, number: int, error: Exception | Failure) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            asked[1].errback(error)

    def _leave(self, number: int) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            self._send(asked[0], b"left %b %d" % (self._process.encode(), number))

    def _take_answer(self, number: int, said: bytes, *, confirms: bool) -> None:
        """Hand on an answer, and confirm it before: what the client asks next comes after that."""
        caller, _, answer = said.partition(b" ") if confirms else (b"", b"", said)
        process, asked, is_disconnected = self._asked.pop(number, (caller.decode(), None, bool))
        if confirms:
            kind = b"lost" if asked is None or is_disconnected() else b"got"
            self._send(process, b"%b %b %d" % (kind, self._process.encode(), number))
        if asked is not None:
            asked.callback(answer)

    def _lose(self, key: bytes) -> None:
        lost = self._unconfirmed.pop(key, None)
        if lost is not None:
            lost()

    def _answer(self, caller: bytes, number: bytes, question: bytes) -> None:
        if self.answerer is None:
            return
        try:
            answer = self.answerer(question)
        except Exception:  # noqa: BLE001  every failure is reported to the caller
            self._say_failed(caller, number, Failure())
            return
        if not is_pending(answer):
            self._say(caller, number, answer)
            return
        key = b"%b %b" % (caller, number)
        self._answering[key] = answer

        def answered(answer: RPCAnswer) -> None:
            self._answering.pop(key, None)
            self._say(caller, number, answer)

        def failed(failure: Failure) -> None:
            self._answering.pop(key, None)
            if not failure.check(CancelledError):
                self._say_failed(caller, number, failure)

        answer.addCallbacks(answered, failed)

    def _say(self, caller: bytes, number: bytes, answer: RPCAnswer) -> None:
        if answer.lost is None:
            self._send(caller.decode(), b"answer %b %b" % (number, answer.said))
            return
        key = b"%b %b" % (caller, number)
        self._unconfirmed[key] = answer.lost
        said = b"confirm %b %b %b" % (number, self._process.encode(), answer.said)
        sent = self._publish(caller.decode(), said)
        sent.addCallbacks(self._said, self._not_said, (key,), errbackArgs=(key,))

    def _said(self, receivers: int, key: bytes) -> None:
        if not receivers:
            self._lose(key)

    def _not_said(self, failure: Failure, key: bytes) -> None:
        failure.trap(StoreDown)
        self._lose(key)

    def _say_failed(self, caller: bytes, number: bytes, failure: Failure) -> None:
        self.log.failure("What another process asked could not be answered", failure)
        self._send(caller.decode(), b"failed %b" % number)

    def _send(self, process: str, said: bytes) -> None:
        self._publish(process, said).addErrback(_unheard)


def _unheard(failure: Failure) -> None:
    failure.trap(StoreDown)
