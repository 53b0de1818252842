"""Following: the messages after a cursor as they come, each once and in order.

A ``Following`` reads the next batch after its place again and again, and retries what fails for a while. Its
sources differ in how they ask: ``Polls``, ``listener.ListenerPolls``, and ``streams.Streams``.

There are two places. ``_place`` is up to where messages have arrived: the next read begins after it. The
``cursor`` is up to where they were handled, and moves when the next message is asked for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self, TypeVar

from ..core.message import NOW, Batch, Cursor, Message
from ..deferreds import Reply
from ..errors import CometError
from ..limits import WAIT_SECONDS
from . import codec
from .remote import NotComet, OnRetry, Query, Remote, is_passing
from .replies import CancellableCall, reply, replying

M = TypeVar("M", bound=Message)

OnGap = Callable[[Cursor], object]
"""Called with the cursor after which messages are lost to this reader; what is still kept follows."""

# Bounds, each with its reason; seconds.

LATE_SECONDS = 10.0
"""An answer that is this late after its wait was lost on the way."""

EARLY_SECONDS = 1.0
"""A held poll that is answered with nothing is not asked again sooner than this: it would spin."""

GOODBYE_SECONDS = 2.0
"""A reader that ends waits this long for the server to take its acknowledgement."""


async def poll(remote: Remote, query: Query, after: Cursor | None, wait: float | None, limit: int) -> Batch:
    """Return the answer to one poll; without ``after`` it is a take.

    Where ``wait`` is None the server decides how long the poll is held.
    """
    asked = [*query, *codec.given(limit=limit, after=None if after is None else str(after), wait=wait)]
    patience = (WAIT_SECONDS if wait is None else wait) + LATE_SECONDS
    answer = await remote.ask("GET", "poll", asked, patience=patience)
    if answer.status in {204, 304}:
        # A proxy made this of an empty answer; the header with the cursor may have come through.
        cursor = answer.header("comet-cursor")
        return Batch((), codec.place(cursor) if cursor else after or NOW)
    return codec.batch(answer)


class BatchSource(Protocol):
    """Where a following gets its messages from."""

    async def read(self, after: Cursor) -> Batch:
        """Return what comes after a cursor; possibly nothing, with the cursor to go on from."""

    async def acknowledge(self, cursor: Cursor) -> None:
        """Acknowledge, if the server is there, what lies up to a cursor, as nothing more is read."""

    def failed(self) -> None:
        """Note that the last read failed: the next one has to show whether the server is there."""

    def close(self) -> None:
        """Close what is open."""


class Polls:
    """Reads by long-polls. The first one, and the first after a failure, is not held.

    Its answer shows that the server is there, though a proxy may cut off every poll that is held.
    """

    def __init__(self, remote: Remote, query: Query, wait: float | None, limit: int) -> None:
        self.remote = remote
        self.query = query
        self.met = False
        """Whether the last poll was answered."""
        self._wait = wait
        self._limit = limit
        self._not_before = 0.0

    async def read(self, after: Cursor) -> Batch:
        if not self.met or after.is_relative:
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
            # Where this is early the server is stopping, or a proxy lets no request be held.
            self._not_before = asked_at + EARLY_SECONDS * self.remote.random.uniform(0.5, 1.0)
        return batch

    async def acknowledge(self, cursor: Cursor) -> None:
        """Poll with the cursor, which acknowledges it, and drop the answer."""
        with suppress(CometError):
            query = [*self.query, *codec.given(after=str(cursor), wait=0, limit=1)]
            await self.remote.ask("GET", "poll", query, patience=GOODBYE_SECONDS)

    def failed(self) -> None:
        self.met = False

    def close(self) -> None:
        """Do nothing: nothing is open between two polls."""


class MessageLoop(AsyncIterator[M]):
    """Messages that a program handles one after the other, by ``async for``; a subclass reads them."""

    def __init__(self, remote: Remote, on_retry: OnRetry | None) -> None:
        self._remote = remote
        self._on_retry = on_retry
        self._messages: deque[M] = deque()
        self._call: CancellableCall[M] | None = None
        self._failures = 0
        self._ended = False

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    def __anext__(self) -> Reply[M]:
        """Return the next message once it is there; the one before counts as handled.

        Fails with ``StopAsyncIteration`` once it was ended, and with a ``CometError`` that no retry can
        change. Raises ``RuntimeError`` while an earlier call has not returned.
        """
        if self._call is not None and not self._call.reply.called:
            raise RuntimeError("The next message is awaited already.")
        return CancellableCall(self._begin).reply

    def end(self) -> None:
        """End it now: a pending call for the next message fails with ``StopAsyncIteration``."""
        self._ended = True
        self._messages.clear()
        if self._call is not None:
            self._call.cancel(StopAsyncIteration())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        raise NotImplementedError

    async def _begin(self, call: CancellableCall[M]) -> M:
        self._call = call
        return await self._next(call)

    async def _next(self, call: CancellableCall[M]) -> M:
        raise NotImplementedError

    async def _retry(self, call: CancellableCall[M], error: CometError) -> None:
        """Pause after an error that may pass; raise any other."""
        call.check_cancelled()
        self._failures += 1
        delay = self._remote.delay(error, self._failures)
        if not self._may_pass(error, delay):
            raise error
        if self._on_retry is not None:
            self._on_retry(error, delay)
            call.check_cancelled()
        await self._remote.pause(delay)

    def _may_pass(self, error: CometError, delay: float) -> bool:
        """Return whether it is tried again after ``delay`` seconds."""
        del delay
        return is_passing(error)


class Following(MessageLoop[Message]):
    """The messages of a reader, made by ``Client.follow`` and ``Listener.follow``, for ``async for``.

    Waiting for the next message may be cancelled and begun again: nothing is lost. ``aclose`` ends it. Where
    an ``async with`` ends without an error, the last message counts as handled too, and is acknowledged.
    """

    def __init__(
        self,
        remote: Remote,
        source: BatchSource,
        after: str | Cursor,
        *,
        cursor_file: str | os.PathLike[str] | None = None,
        on_gap: OnGap | None = None,
        on_retry: OnRetry | None = None,
        patience: float | None = None,
    ) -> None:
        super().__init__(remote, on_retry)
        self._source = source
        self._file = None if cursor_file is None else CursorFile(cursor_file)
        remembered = None if self._file is None else self._file.load()
        self._cursor = self._place = self._acknowledged = remembered or codec.place(after)
        self._on_gap = on_gap
        self._patience = patience
        self._deadline: float | None = None
        self._given: Message | None = None
        self._met = False

    @property
    def cursor(self) -> Cursor:
        """The cursor up to which messages were handled: where another reader would go on."""
        return self._cursor

    def acknowledge(self) -> None:
        """Count the last message as handled, without asking for the next one."""
        given, self._given = self._given, None
        if given is not None:
            self._move(given.cursor)

    def end(self) -> None:
        super().end()
        self._source.close()

    @replying
    async def aclose(self) -> None:
        """End it, as ``end`` does, in the way of asynchronous generators."""
        self.end()

    def __del__(self) -> None:
        """Close a stream that is read no more, as after a ``break``."""
        self._source.close()

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.acknowledge()
        self.end()
        if kind is None and self._cursor != self._acknowledged:
            # What was handled must not fill the mailbox, also where no reader goes on from here.
            await reply(self._source.acknowledge(self._cursor))

    async def _next(self, call: CancellableCall[Message]) -> Message:
        self.acknowledge()
        while not self._messages:
            if self._ended:
                raise StopAsyncIteration
            await self._read(call)
        self._given = self._messages.popleft()
        return self._given

    async def _read(self, call: CancellableCall[Message]) -> None:
        self._acknowledged = self._place
        try:
            batch = await self._source.read(self._place)
        except CometError as error:
            call.check_cancelled()
            self._source.failed()
            await self._retry(call, error)
            return
        self._failures = 0
        self._met = True
        if batch.gap and self._on_gap is not None:
            self._on_gap(self._place)
            call.check_cancelled()
        self._messages.extend(batch.messages)
        self._place = batch.cursor
        if not batch.messages:
            # As soon as the place is known: a program that restarts must not begin at a later "now".
            self._move(batch.cursor)

    def _move(self, cursor: Cursor) -> None:
        if cursor == self._cursor:
            return
        self._cursor = cursor
        if self._file is not None:
            # The next poll acknowledges these; before it, the place must be on the disk.
            self._file.save(cursor, sync=not self._messages)

    def _may_pass(self, error: CometError, delay: float) -> bool:
        now = self._remote.clock.seconds()
        if self._deadline is None and self._patience is not None:
            self._deadline = now + self._patience
        # Where the server was a moment ago, any other program that answers now is there for a while only.
        passing = is_passing(error) or (self._met and isinstance(error, NotComet))
        impatient = not self._met and self._deadline is not None and now + delay > self._deadline
        if passing and not impatient:
            return True
        self._ended = True
        self._source.close()
        return False


class CursorFile:
    """A cursor in a file. It is replaced in one step, so that the file always holds a whole one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> Cursor | None:
        """Return the cursor; None where there is no file. Raises ``ValueError`` where it holds no cursor.

        A machine that lost its power may leave an empty file: that is ``OLDEST``.
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
