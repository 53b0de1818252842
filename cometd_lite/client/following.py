"""Following: a cursor arrives, and messages leave for as long as it takes, each once and in order.

A ``Following`` asks a reader for what comes after its place, again and again, and judges what goes wrong. The
readers differ in how they ask: ``Polls``, ``Listening`` (polls by an id), and ``streams.Streams``.

There are two places. One is up to where messages have arrived, and what is asked for next lies after it. The
other, the following's ``cursor``, is up to where they were handled, and moves when the next one is asked for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ..core.message import NOW, Batch, Cursor, Message
from ..errors import CometError, ListenerGone
from ..limits import WAIT_SECONDS
from . import words
from .remote import (
    NotComet,
    Query,
    Remote,
    is_passing,
)
from .replies import Reply, Work, done, reply, reply_of

OnGap = Callable[[Cursor], object]
"""Called with the cursor after which messages are lost to this reader; what is still kept follows."""

OnRetry = Callable[[CometError, float], object]
"""Called with what went wrong, and the seconds until the next try."""

# Bounds, each with its reason; seconds.

LATE_SECONDS = 10.0
"""An answer that is this late after its wait was lost on the way."""

EARLY_SECONDS = 1.0
"""A held poll that is answered with nothing is not asked again sooner than this: it would spin."""

GOODBYE_SECONDS = 2.0
"""A reader that ends waits this long for the server to note up to where it has read."""


async def poll(remote: Remote, query: Query, after: Cursor | None, wait: float | None, limit: int) -> Batch:
    """Return the answer to one poll; without ``after`` it is a take.

    Where ``wait`` is None the server decides how long it holds it.
    """
    asked = [*query, ("limit", str(limit))]
    asked += [] if after is None else [("after", str(after))]
    asked += [] if wait is None else [("wait", words.seconds(wait))]
    patience = (WAIT_SECONDS if wait is None else wait) + LATE_SECONDS
    answer = await remote.ask("GET", "poll", asked, patience=patience)
    if answer.status in {204, 304}:
        # Something on the way made this of an empty answer; the place may have come through.
        told = answer.header("comet-cursor")
        return Batch((), words.place(told) if told else after or NOW)
    return words.batch(answer)


class BatchSource(Protocol):
    """Where a following gets its messages from."""

    async def read(self, after: Cursor) -> Batch:
        """Return what comes after a cursor; possibly nothing, with the cursor to go on from."""

    async def tell(self, cursor: Cursor) -> None:
        """Tell the server, if it is there, up to where messages were handled: nothing more is read."""

    def failed(self) -> None:
        """Note that the last read failed: the next one is to show whether the server is there."""

    def lose(self) -> None:
        """Let go of whatever is open."""


class Polls:
    """Reads by long-polls. The first is not held: its answer shows that the server is there.

    So does the first after a failure; a network that cuts off every held poll is not taken for a server that
    is gone.
    """

    def __init__(self, remote: Remote, query: Query, wait: float | None, limit: int) -> None:
        self.remote = remote
        self.query = query
        self.met = False
        """Whether the server was there a moment ago."""
        self._wait = wait
        self._limit = limit
        self._not_before = 0.0

    async def read(self, after: Cursor) -> Batch:
        """Return what a poll is answered with."""
        if not self.met or after == NOW:
            batch = await poll(self.remote, self.query, after, 0.0, self._limit)
            self.met = True
            return batch
        clock = self.remote.clock
        early = self._not_before - clock.seconds()
        if early > 0:
            await self.remote.pause(early)
        asked_at = clock.seconds()
        batch = await poll(self.remote, self.query, after, self._wait, self._limit)
        if not batch:
            # Where this is early the server is stopping, or something on the way lets no request be held.
            self._not_before = asked_at + EARLY_SECONDS * self.remote.random.uniform(0.5, 1.0)
        return batch

    async def tell(self, cursor: Cursor) -> None:
        """Poll with the cursor, which acknowledges it; what comes of that is for others."""
        with suppress(CometError):
            query = [*self.query, ("after", str(cursor)), ("wait", "0"), ("limit", "1")]
            await self.remote.ask("GET", "poll", query, patience=GOODBYE_SECONDS)

    def failed(self) -> None:
        """Look first, the next time, whether the server is there."""
        self.met = False

    def lose(self) -> None:
        """Nothing is open between two polls."""


class Registration(Protocol):
    """A listener as its reader needs it."""

    @property
    def query(self) -> Query:
        """The parameters of its polls."""

    async def register_again(self) -> None:
        """Register anew what the server has forgotten, and call ``on_registered``."""


class Listening(Polls):
    """Reads as a registered listener, which is registered again where the server has forgotten it."""

    def __init__(self, remote: Remote, listener: Registration, wait: float | None, limit: int) -> None:
        super().__init__(remote, (), wait, limit)
        self._listener = listener

    async def read(self, after: Cursor) -> Batch:
        """Return what a poll is answered with; a gap where it had to be registered again."""
        self.query = self._listener.query
        try:
            return await super().read(after)
        except ListenerGone:
            await self._listener.register_again()
            # Its recipients are read from the same place on; what was pushed to the old id is lost.
            return Batch((), after, gap=True)

    async def tell(self, cursor: Cursor) -> None:
        """Tell nothing: what a poll brought along would count as read."""


class Following(AsyncIterator[Message]):
    """A reader at work, made by ``Client.follow`` and ``Listener.follow``; ``async for`` gives its messages.

    A wait for the next message may be cancelled and begun again: nothing is lost by it. ``aclose``
    ends it. Left by ``async with`` and without an error, the last message counts as handled too, and the
    server is told.
    """

    def __init__(
        self,
        remote: Remote,
        reader: BatchSource,
        after: str | Cursor,
        *,
        cursor_file: str | os.PathLike[str] | None = None,
        on_gap: OnGap | None = None,
        on_retry: OnRetry | None = None,
        patience: float | None = None,
    ) -> None:
        self._reader = reader
        self._remote = remote
        self._file = None if cursor_file is None else CursorFile(cursor_file)
        remembered = None if self._file is None else self._file.load()
        self._cursor = self._place = self._told = remembered or words.place(after)
        self._on_gap = on_gap
        self._on_retry = on_retry
        self._patience = patience
        self._deadline: float | None = None
        self._messages: deque[Message] = deque()
        self._given: Message | None = None
        self._work: Work[Message] | None = None
        self._failures = 0
        self._met = False
        self._ended = False

    @property
    def cursor(self) -> Cursor:
        """Everything up to here has been handled: where another reader would go on."""
        return self._cursor

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    def __anext__(self) -> Reply[Message]:
        """Return the next message once it is there; the one before counts as handled.

        Fails with ``StopAsyncIteration`` once it was ended, and with a ``CometError`` that no retry can
        change, which ends it. Raises ``RuntimeError`` where someone waits already.
        """
        if self._work is not None and not self._work.reply.called:
            raise RuntimeError("Someone waits already for the next message of this following.")
        return reply_of(self._next)

    def acknowledge(self) -> None:
        """Count the last message as handled, without asking for the next one."""
        given, self._given = self._given, None
        if given is not None:
            self._move(given.cursor)

    def end(self) -> None:
        """End it now: a wait for the next message ends without one."""
        self._ended = True
        self._messages.clear()
        if self._work is not None:
            self._work.end(StopAsyncIteration())
        self._reader.lose()

    def aclose(self) -> Reply[None]:
        """End it, as ``end`` does, in the way of asynchronous generators."""
        self.end()
        return done(None)

    def __del__(self) -> None:
        """End a stream that is read no more: a loop was left by ``break``."""
        self._reader.lose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.acknowledge()
        self.end()
        if kind is None and self._cursor != self._told:
            # What was handled must not fill the mailbox, also where no reader goes on from here.
            await reply(self._reader.tell(self._cursor))

    async def _next(self, work: Work[Message]) -> Message:
        self._work = work
        self.acknowledge()
        while not self._messages:
            if self._ended:
                raise StopAsyncIteration
            await self._read(work)
        self._given = self._messages.popleft()
        return self._given

    async def _read(self, work: Work[Message]) -> None:
        self._told = self._place
        try:
            batch = await self._reader.read(self._place)
        except CometError as error:
            self._reader.failed()
            await self._judge(error, work)
            return
        self._failures = 0
        self._met = True
        if batch.gap and self._on_gap is not None:
            self._on_gap(self._place)
            work.go_on()
        self._messages.extend(batch.messages)
        self._place = batch.cursor
        if not batch.messages:
            # As soon as the place is known: who starts again must not begin at a later "now".
            self._move(batch.cursor)

    def _move(self, cursor: Cursor) -> None:
        if cursor == self._cursor:
            return
        self._cursor = cursor
        if self._file is not None:
            # The next poll tells the server that these may go; before it, the place must be on the disk.
            self._file.save(cursor, sync=not self._messages)

    async def _judge(self, error: CometError, work: Work[Message]) -> None:
        """Raise an error that stays, and pause after one that passes."""
        now = self._remote.clock.seconds()
        if self._deadline is None and self._patience is not None:
            self._deadline = now + self._patience
        self._failures += 1
        delay = self._remote.delay(error, self._failures)
        # Where a comet was a moment ago, whatever else answers there now will pass.
        passing = is_passing(error) or (self._met and isinstance(error, NotComet))
        impatient = not self._met and self._deadline is not None and now + delay > self._deadline
        if not passing or impatient:
            self._ended = True
            self._reader.lose()
            raise error
        if self._on_retry is not None:
            self._on_retry(error, delay)
            work.go_on()
        await self._remote.pause(delay)


class CursorFile:
    """A cursor in a file: always a whole one, whatever ends this program while it is being written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> Cursor | None:
        """Return the cursor; None where there is no file. Raises ``ValueError`` for what is no cursor.

        A machine that lost its power may leave an empty file: then it is everything that is still kept.
        """
        try:
            text = self._path.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return None
        try:
            return Cursor.parse(text or "oldest")
        except ValueError:
            raise ValueError(f"{self._path} holds no cursor; remove it to begin anew.") from None

    def save(self, cursor: Cursor, *, sync: bool = True) -> None:
        """Write the cursor beside the file and put it into its place; with ``sync``, onto the disk."""
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            with beside.open("w", encoding="ascii") as file:
                file.write(f"{cursor}\n")
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            beside.replace(self._path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
