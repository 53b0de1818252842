"""Reads streams of NDJSON, and gives a following their messages in batches, as polls do."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from ..core.message import OLDEST, Batch, Cursor, Message
from ..errors import CometError
from . import codec
from .following import Polls
from .remote import ANSWER_BYTES, ANSWER_SECONDS, NoAnswer, NotComet, no_answer, refusal

SILENCE_SECONDS = 40.0
"""A heartbeat comes every 15 s; a stream that was silent for longer than two is dead."""

STREAM_AHEAD = 1_000
"""Messages that a stream reads ahead of the program; then TCP throttles the server."""


class Streams:
    """Reads a stream of NDJSON, whose lines have each message's recipient, type and time, as polls do."""

    def __init__(self, polls: Polls) -> None:
        self._polls = polls
        self._remote = polls.remote
        self._lines: _Lines | None = None

    async def read(self, after: Cursor) -> Batch:
        """Return what has come since, having opened the stream where none is open."""
        if self._lines is None:
            if not self._polls.met or after.is_relative:
                # A stream that has no message yet does not show that the server is there.
                return await self._polls.read(after)
            self._lines = await self._remote.within(ANSWER_SECONDS, lambda: self._open(after))
        lines = self._lines
        await lines.arrival()
        batch = lines.batch(after)
        if batch is None:
            self._lines = None
            raise lines.error
        return batch

    async def acknowledge(self, cursor: Cursor) -> None:
        """Acknowledge a cursor by a poll; nothing can be sent on a stream."""
        await self._polls.acknowledge(cursor)

    def failed(self) -> None:
        self._polls.failed()

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
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
    """Decodes the lines of a stream as they arrive, and keeps them until a batch is asked for.

    It pauses the connection where too many are kept.
    """

    def __init__(self, url: str, clock: IReactorTime) -> None:
        self._url = url
        self._clock = clock
        self._rest = b""
        self._arrived: deque[Message | Cursor | Literal["gap"]] = deque()
        """What has arrived, in order: messages, the place where there is none yet, and gaps."""
        self._waiting: Deferred[None] | None = None
        self._paused = False
        self._silence = clock.callLater(SILENCE_SECONDS, self._silent)
        self._error: CometError | None = None

    @property
    def error(self) -> CometError:
        """Why the stream has ended."""
        assert self._error is not None, "it has ended"
        return self._error

    def arrival(self) -> Deferred[None]:
        """Return a Deferred that fires when a batch can be asked for, or the stream has ended."""
        if self._arrived or self._error is not None:
            return succeed(None)
        self._waiting = Deferred(self._cancelled)
        return self._waiting

    def batch(self, after: Cursor) -> Batch | None:
        """Return what has arrived, up to the next gap; None where nothing has, as the stream has ended."""
        arrived = self._arrived
        if not arrived:
            return None
        gap = arrived[0] == "gap"
        if gap:
            arrived.popleft()
            after = OLDEST  # from here on it is everything that is still kept
        messages = []
        while arrived and (one := arrived[0]) != "gap":
            arrived.popleft()
            after = one.cursor if isinstance(one, Message) else one
            if isinstance(one, Message):
                messages.append(one)
        self._resume()
        return Batch(tuple(messages), after, gap)

    def close(self) -> None:
        self._end(NoAnswer(f"The stream from {self._url} was closed."))

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        if self._error is not None:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for line in lines:
                if line.strip() and (decoded := codec.stream_line(line)) is not None:
                    self._arrived.append(decoded)
        except ValueError:
            self._end(NotComet(f"The stream from {self._url} is not one of a cometd-lite."))
        if len(self._rest) > ANSWER_BYTES:
            self._end(NotComet(f"{self._url} streamed a line of more than {ANSWER_BYTES} bytes."))
        if self._error is None:
            self._pace()
        if self._arrived:
            self._fire()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802  Twisted's name
        """End the stream; a line that was cut off comes again with the next one."""
        if reason.check(ResponseDone, PotentialDataLoss):
            self._end(NoAnswer(f"The stream from {self._url} ended."))
        else:
            self._end(no_answer(self._url, reason.value))

    def _pace(self) -> None:
        """Pause where too much has arrived; else wait for the next heartbeat."""
        if self._paused:
            return
        if len(self._arrived) > STREAM_AHEAD:
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
        self._fire()

    @property
    def _connection(self) -> Any:
        return self.transport  # a producer too, which ITransport leaves out

    def _fire(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def _cancelled(self, _: Deferred[None]) -> None:
        self._waiting = None
