"""``SyncClient``: pushes and reads in plain blocking calls, for views, task queues and scripts.

Each call runs a ``Client`` on a ``BlockingLoop`` in the thread that calls. So retries, idempotency, time-outs
and values are the same, and no reactor or event loop is needed. ``work`` alone has a thread besides, which
extends leases.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from inspect import signature
from threading import Thread, current_thread
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar

from twisted.internet.defer import Deferred

from ..core.message import Cursor, LeasedMessage, Message
from ..deferreds import Reply
from ..limits import OUTGOING_CONNECTIONS_KEPT
from .blocking import BlockingLoop, LoopStopped
from .client import PATIENCE_SECONDS, Client
from .following import Following, MessageLoop
from .remote import Token, server_url
from .working import Working

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=Message)
S = TypeVar("S")
Method = TypeVar("Method", bound=Callable[..., object])


class _SyncMessages(Iterator[M], Generic[M]):
    """The messages of an asynchronous iterator, in a ``for`` loop that waits for each."""

    def __init__(self, source: MessageLoop[M], loop: BlockingLoop, ended: Callable[[], None]) -> None:
        self._source = source
        self._loop = loop
        self._on_ended: Callable[[], None] | None = ended

    def close(self) -> None:
        """End it, and close its connection where it has one of its own."""
        self._source.end()
        self._end()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> M:
        """Return the next message once it is there. Raises a ``CometError`` that no retry can change."""
        if self._on_ended is None:
            raise StopIteration
        try:
            return self._run(lambda: anext(self._source))
        except (StopAsyncIteration, LoopStopped):
            self._end()
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._on_ended is None:
            return
        try:
            self._run(lambda: Deferred.fromCoroutine(self._source.__aexit__(kind, *error)))
        except LoopStopped:
            pass  # the next reader's cursor acknowledges what was handled, and a lease ends by itself
        finally:
            self._end()

    def __del__(self) -> None:
        """Give the connection back, as after a ``break``."""
        self.close()

    def _run(self, begin: Callable[[], Deferred[T]]) -> T:
        return self._loop.run(begin)

    def _end(self) -> None:
        ended, self._on_ended = self._on_ended, None
        if ended is not None:
            ended()


class SyncFollowing(_SyncMessages[Message]):
    """The messages after a cursor as they come, in a ``for`` loop; ``SyncClient.follow`` makes it.

    A message counts as handled when the next one is asked for. Leaving it by ``with`` counts the last one.
    """

    _source: Following

    @property
    def cursor(self) -> Cursor:
        """The cursor up to which messages were handled: where another reader would go on."""
        return self._source.cursor

    def acknowledge(self) -> None:
        """Count the last message as handled, without asking for the next one."""
        self._source.acknowledge()


class SyncWorking(_SyncMessages[LeasedMessage]):
    """The messages that a worker leases, in a ``for`` loop; ``SyncClient.work`` makes it.

    A message is acknowledged when the next one is asked for, or released by ``release``. A thread extends its
    lease until then. Where a ``with`` ends without an error, the last message is acknowledged, and where it
    ends with one, it is released.
    """

    _source: Working
    _extending: tuple[Thread, Deferred[None]] | None = None
    """The thread that runs the loop while the program works, and what ends that when it fires."""

    def release(self) -> None:
        """Give the present message back: others may have it at once. The next one is leased after a pause."""
        if self._on_ended is None:
            return
        try:
            self._run(self._source.release)
        except LoopStopped:
            self._end()

    def close(self) -> None:
        """End it, and let the lease of the present message end by itself."""
        self._stop_extending()
        super().close()

    def __next__(self) -> LeasedMessage:
        """Return the next message once it is there. Raises a ``CometError`` that no retry can change."""
        message = super().__next__()
        ended: Deferred[None] = Deferred()
        thread = Thread(target=_turn, args=(self._loop, ended), name="cometd-lite lease", daemon=True)
        self._extending = thread, ended
        thread.start()
        return message

    def _run(self, begin: Callable[[], Deferred[T]]) -> T:
        self._stop_extending()
        return super()._run(begin)

    def _stop_extending(self) -> None:
        """Have the loop for this thread alone."""
        if self._extending is None:
            return
        thread, ended = self._extending
        if not ended.called:
            ended.callback(None)
        self._loop.wake()
        if thread is not current_thread():  # else it collects garbage, this among it
            thread.join()
        self._extending = None


def _turn(loop: BlockingLoop, ended: Deferred[None]) -> None:
    """Run a loop until ``ended`` fires, or the loop is stopped."""
    with suppress(LoopStopped):
        loop.run(lambda: ended)


def _blocking(asking: Callable[Concatenate[Client, P], Reply[T]]) -> Callable[Concatenate[SyncClient, P], T]:
    """Make a method that waits for what a method of ``Client`` replies, and returns or raises it."""

    @wraps(asking)
    def blocking(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._ask(lambda client: asking(client, *args, **kwargs))

    return _shown_as(blocking, asking, signature(asking).return_annotation)


def _iterating(
    begin: Callable[Concatenate[Client, P], S],
    kind: Callable[[S, BlockingLoop, Callable[[], None]], T],
    about: str,
) -> Callable[Concatenate[SyncClient, P], T]:
    """Make a method that iterates, by an object of ``kind``, over what a method of ``Client`` yields."""

    @wraps(begin)
    def iterating(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return kind(*self._begin(lambda client: begin(client, *args, **kwargs)))

    iterating.__doc__ = about
    return _shown_as(iterating, begin, kind)


def _shown_as(made: Method, method: Callable[..., object], returned: object) -> Method:
    """Let help show the parameters of a method of ``Client`` with what this one returns."""
    name = str(getattr(returned, "__name__", returned)).removeprefix("Reply[").removesuffix("]")
    vars(made)["__signature__"] = signature(method).replace(return_annotation=name)
    return made


class SyncClient:
    """A client of a cometd-lite server whose calls return when they are answered.

    Any number of threads may call it at the same time; each call has a connection of its own, and idle ones
    are kept. It may be made while a module is imported, and before a process forks. It also works in a thread
    in which an event loop runs, which stands still during a call.

    ``url``, ``token`` and ``patience`` are those of ``Client``, and so are the words and errors of each
    method. A function given as ``token`` returns a string. Raises ``ValueError`` for a malformed URL.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        token: str | Callable[[], str] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.url = server_url(url)
        """The URL of the server, without a slash at the end."""
        self._token = token
        self._patience = patience
        # Sets and deques do each of these operations at once. A lock might be held while a process forks.
        self._idle: deque[_BlockingClient] = deque()
        self._used: set[_BlockingClient] = set()
        self._closed = False

    push = _blocking(Client.push)
    poll = _blocking(Client.poll)
    take = _blocking(Client.take)
    lease = _blocking(Client.lease)
    ack = _blocking(Client.ack)
    describe = _blocking(Client.describe)
    presence = _blocking(Client.presence)
    leave = _blocking(Client.leave)
    recipients = _blocking(Client.recipients)
    delete = _blocking(Client.delete)
    request = _blocking(Client.request)

    follow = _iterating(
        Client.follow,
        SyncFollowing,
        """Yield the recipients' messages as they come, from a cursor on, as ``Client.follow`` does.

        Iterate over it in one thread at a time, and end it by ``with`` or ``close``. ``close`` of the client
        ends it from any thread.
        """,
    )
    work = _iterating(
        Client.work,
        SyncWorking,
        """Yield messages to be worked on, one at a time, each leased, as ``Client.work`` does.

        A thread extends the lease while the program works. Iterate over it in one thread at a time, and end
        it by ``with`` or ``close``. ``close`` of the client ends it from any thread.
        """,
    )

    def close(self) -> None:
        """End the calls, followings and workers of all threads, and close the connections.

        A following or worker ends as if there were no more messages; any other call raises ``RuntimeError``.
        """
        self._closed = True
        for used in list(self._used):
            used.loop.stop()
        self._close_idle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, ask: Callable[[Client], Deferred[T]]) -> T:
        """Return what a request of a ``Client`` is answered with, or raise its error."""
        blocking = self._take_client()
        try:
            return blocking.loop.run(lambda: ask(blocking.client))
        except LoopStopped:
            raise RuntimeError("This SyncClient was closed by another thread during the call.") from None
        finally:
            self._give_back(blocking)

    def _begin(self, begin: Callable[[Client], T]) -> tuple[T, BlockingLoop, Callable[[], None]]:
        """Return what a method of a ``Client`` makes, the loop that it runs on, and what gives that back."""
        blocking = self._take_client()
        try:
            return begin(blocking.client), blocking.loop, lambda: self._give_back(blocking)
        except BaseException:
            self._give_back(blocking)
            raise

    def _take_client(self) -> _BlockingClient:
        blocking = self._idle_client() or _BlockingClient(self.url, self._token, self._patience)
        self._used.add(blocking)
        if self._closed:
            self._give_back(blocking)
            raise RuntimeError("This SyncClient is closed; make another one.")
        return blocking

    def _idle_client(self) -> _BlockingClient | None:
        """Return an idle client of this process; close the sockets that are the parent's since a fork."""
        while self._idle:
            try:
                blocking = self._idle.pop()
            except IndexError:  # another thread took it
                break
            if blocking.process == os.getpid():
                return blocking
            blocking.loop.close()
        return None

    def _give_back(self, blocking: _BlockingClient) -> None:
        self._used.discard(blocking)
        if blocking.process != os.getpid() or len(self._idle) >= OUTGOING_CONNECTIONS_KEPT:
            blocking.loop.close()
        else:
            self._idle.append(blocking)
        if self._closed:
            self._close_idle()

    def _close_idle(self) -> None:
        while (blocking := self._idle_client()) is not None:
            blocking.loop.close()


class _BlockingClient:
    """A loop, and a client on it: what one call, or one following, has for itself."""

    def __init__(self, url: str, token: Token | None, patience: float) -> None:
        self.process = os.getpid()
        self.loop = BlockingLoop()
        self.client = Client(
            url, token=token, patience=patience, treq=self.loop.network, clock=self.loop.clock
        )
