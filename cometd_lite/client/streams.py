"""Reading a stream of NDJSON: lines arrive, and a following gets them in batches, as it does of polls."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from ..core.message import NOW, OLDEST, Batch, Cursor, Message
from ..errors import CometError
from . import words
from .following import Polls
from .remote import ANSWER_BYTES, ANSWER_SECONDS, NoAnswer, NotComet, no_answer, refusal

SILENCE_SECONDS = 40.0
"""A heartbeat comes every 15 s; a stream that was silent for longer than two is dead."""

STREAM_AHEAD = 1_000
"""Messages that a stream reads ahead of the program; then TCP makes the server wait."""


class Streams:
    """Reads a stream of NDJSON, which tells each message's recipient, type and time, as a poll does."""

    def __init__(self, polls: Polls) -> None:
        self._polls = polls
        self._remote = polls.remote
        self._lines: _Lines | None = None

    async def read(self, after: Cursor) -> Batch:
        """Return what has come since, having opened the stream where none is open."""
        if self._lines is None:
            if not self._polls.met or after == NOW:
                # A stream tells no place before its first message, and none shows that the server is there.
                return await self._polls.read(after)
            self._lines = await self._remote.within(ANSWER_SECONDS, lambda: self._open(after))
        lines = self._lines
        await lines.something()
        batch = lines.batch(after)
        if batch is None:
            self._lines = None
            raise lines.error
        return batch

    async def tell(self, cursor: Cursor) -> None:
        """Tell it by a poll; nothing can be said on a stream."""
        await self._polls.tell(cursor)

    def failed(self) -> None:
        """Look first, the next time, whether the server is there."""
        self._polls.failed()

    def lose(self) -> None:
        """End the stream."""
        if self._lines is not None:
            self._lines.lose()
            self._lines = None

    async def _open(self, after: Cursor) -> _Lines:
        query = [*self._polls.query, ("after", str(after))]
        remote = self._remote
        response = await remote.respond("GET", "stream", query, {"Accept": "application/x-ndjson"})
        if response.code >= 400:
            raise refusal(await remote.whole(response))
        lines = _Lines(remote.url, remote.clock)
        response.deliverBody(lines)
        return lines


class _Lines(TwistedProtocol):
    """Takes in a stream: lines arrive, batches leave when they are asked for. It is bounded by pausing."""

    def __init__(self, url: str, clock: IReactorTime) -> None:
        self._url = url
        self._clock = clock
        self._rest = b""
        self._told: deque[Message | Cursor | None] = deque()
        """What has come, in order: messages, the place where there is none yet, and None for a gap."""
        self._waiting: Deferred[None] | None = None
        self._paused = False
        self._silence = clock.callLater(SILENCE_SECONDS, self._silent)
        self._error: CometError | None = None

    @property
    def error(self) -> CometError:
        """Why the stream has ended."""
        assert self._error is not None, "it has ended"
        return self._error

    def something(self) -> Deferred[None]:
        """Return a Deferred that fires when there is something to tell, or the stream has ended."""
        if self._told or self._error is not None:
            return succeed(None)
        self._waiting = Deferred(self._left)
        return self._waiting

    def batch(self, after: Cursor) -> Batch | None:
        """Return what has come, up to the next gap; None where the stream has ended and all was told."""
        told = self._told
        if not told:
            return None
        gap = told[0] is None
        if gap:
            told.popleft()
            after = OLDEST  # from here on it is everything that is still kept
        messages = []
        while told and (one := told[0]) is not None:
            told.popleft()
            after = one.cursor if isinstance(one, Message) else one
            if isinstance(one, Message):
                messages.append(one)
        self._resume()
        return Batch(tuple(messages), after, gap)

    def lose(self) -> None:
        """End the connection."""
        self._end(NoAnswer(f"The stream from {self._url} was left."))

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Take in lines, and parts of them."""
        if self._error is not None:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for line in lines:
                if line.strip():
                    self._told.extend(words.streamed(line))
        except ValueError:
            self._end(NotComet(f"What {self._url} streams is not what a cometd-lite does."))
        if len(self._rest) > ANSWER_BYTES:
            self._end(NotComet(f"{self._url} streamed a line of more than {ANSWER_BYTES} bytes."))
        if self._error is None:
            self._pace()
        if self._told:
            self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802  Twisted's name
        """Note the end; a line that was cut off will come again."""
        if reason.check(ResponseDone, PotentialDataLoss):
            self._end(NoAnswer(f"The stream from {self._url} ended."))
        else:
            self._end(no_answer(self._url, reason.value))

    def _pace(self) -> None:
        """Pause where too much has come; else wait for the next sign of life."""
        if self._paused:
            return
        if len(self._told) > STREAM_AHEAD:
            self._paused = True
            self._silence.cancel()
            self._connection.pauseProducing()
        else:
            self._silence.reset(SILENCE_SECONDS)

    def _resume(self) -> None:
        if self._paused and self._error is None:
            self._paused = False
            self._silence = self._clock.callLater(SILENCE_SECONDS, self._silent)
            self._connection.resumeProducing()

    def _silent(self) -> None:
        self._end(NoAnswer(f"The stream from {self._url} fell silent."))

    def _end(self, error: CometError) -> None:
        if self._error is not None:
            return
        self._error = error
        if self._silence.active():
            self._silence.cancel()
        self._connection.loseConnection()
        self._tell()

    @property
    def _connection(self) -> Any:
        return self.transport  # a producer too, which ITransport leaves out

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def _left(self, _: Deferred[None]) -> None:
        self._waiting = None
